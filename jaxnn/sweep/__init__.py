"""Sweeps: thousands of trials as a few compiled programs.

A sweep searches a `Space` of configurations of an experiment. Trials with the same structure run
together as lanes of one compiled program. All results are appended to a ledger, which stays valid
if the process is killed at any time, and a single HTML page presents them. `import jaxnn` does not
import this package, and optuna, scipy, pyarrow, and similar libraries are imported only when they
are used.
"""

from .dimensions import Branch, Choice, Grid, Int, LogUniform, Uniform
from .space import Space

__all__ = ["Branch", "Choice", "Grid", "Int", "LogUniform", "Space", "Uniform"]
