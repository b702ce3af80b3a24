"""The command lines: of an experiment (`python -m experiments.NAME`), and `jaxnn sweep`.

`main(recipe)` is what an experiment's file ends with.
"""

from .experiment import main

__all__ = ["main"]
