"""Sweeps: thousands of trials as a few compiled programs.

A sweep searches a `Space` of an experiment's configuration. Trials of equal structure run together
as lanes of one compiled program, all results are written to a ledger that stays valid if the
process is killed, and an HTML report shows what was found:

    result = sweep.run(EXPERIMENT, trials=256, search="tpe", folder="sweeps/a")
    result.best.config, result.table(), result.report()

`import jaxnn` does not import this package, and optuna, scipy, pyarrow, and similar libraries are
imported only when they are used.
"""

from .dimensions import Choice, Grid
from .external import AskTell
from .ranges import Int, LogNormal, LogUniform, Normal, Uniform
from .results import Result, open
from .running import run
from .settings import Budget
from .space import Space
from .swept import Branch, When

__all__ = [
    "AskTell",
    "Branch",
    "Budget",
    "Choice",
    "Grid",
    "Int",
    "LogNormal",
    "LogUniform",
    "Normal",
    "Result",
    "Space",
    "Uniform",
    "When",
    "open",
    "run",
]
