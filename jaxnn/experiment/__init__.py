"""What an experiment needs around its training: a configuration, a run folder, pictures.

An `Experiment` joins a frozen configuration and two pure functions:

    data(config)             the data: a `data.Dataset`, (training data, validation data), or None
    program(config, data)    the `train.Program` of the configuration

`run` trains one configuration by `train.fit` with hooks, evaluates the result, and writes a run
folder (`folder`, `config_file`) with pictures and a report (`pictures`, `report`), from which
`load_run` and the command line predict (`prediction`). `jaxnn.command` is its command line, and
`jaxnn.sweep` trains many configurations. `import jaxnn` imports none of this, and matplotlib is
imported where it is used.
"""

from .config_file import Checkpointing, RunOptions
from .experiment import Command, Experiment, TrainedRun
from .optimizers import SGD, AdamW
from .prediction import load_run
from .run import run

__all__ = [
    "SGD",
    "AdamW",
    "Checkpointing",
    "Command",
    "Experiment",
    "RunOptions",
    "TrainedRun",
    "load_run",
    "run",
]
