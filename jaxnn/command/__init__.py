"""The command lines: of an experiment (`python -m experiments.NAME`), and `jaxnn`.

An experiment's module ends with `main(EXPERIMENT)`.
"""

from .experiment_commands import main

__all__ = ["main"]
