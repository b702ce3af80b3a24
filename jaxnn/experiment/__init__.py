"""Experiments: a configuration, the data and the program that it determines, and run folders.

An `Experiment` joins a frozen configuration and two pure functions:

    data(config)             the data: a `data.Dataset`, (training data, validation data), or None
    program(config, data)    the `train.Program` of the configuration

`run` trains one configuration by `train.fit` with hooks, evaluates the result, and writes a run
folder (`run_folder`) with pictures and a report. `load_run` reads a run folder, and `prediction`
computes predictions from it. `jaxnn.command` is the command line, and `jaxnn.sweep` trains many
configurations. `import jaxnn` does not import this package, and matplotlib is imported only for
drawing.
"""

from .configuration import SGD as SGD
from .configuration import AdamW as AdamW
from .experiment import Command as Command
from .experiment import Experiment as Experiment
from .experiment import TrainedRun as TrainedRun
from .run_folder import Checkpointing as Checkpointing
from .run_folder import RunOptions as RunOptions
from .run_folder import load_run as load_run
from .training_run import run as run
