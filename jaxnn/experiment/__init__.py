"""What an experiment needs around its training: a program, a run folder, pictures.

An experiment is a frozen configuration beside two pure functions, joined in a `Recipe`:

    problem()               what is to be learned: the data set, the task, how both are scaled
    build(config, problem)  a configuration as a pure training `Program`

A `train.Program` of any kind is trained by an `Experiment`: a configuration, `data(config)`, and
`program(config, data)`.

A run trains (`program`), shows how far it is (`progress`), judges the result (`scores`), draws it
(`pictures`) and writes a folder (`folder`, `configuration`) from which `prediction` predicts;
`jaxnn.command` is its command line. Nothing of it is imported by `import jaxnn`, and rich and
matplotlib are imported where they are used.
"""

from .experiment import Experiment
from .optimizers import SGD, AdamW
from .problem import Problem
from .program import Command, Program, Recipe, run_length

__all__ = ["SGD", "AdamW", "Command", "Experiment", "Problem", "Program", "Recipe", "run_length"]
