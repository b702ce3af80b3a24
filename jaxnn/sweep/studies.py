"""Trials as those of Optuna, for what Optuna does with trials, such as its dashboard."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from ..installation import missing
from .dimensions import Choice, Dimension, Grid, Int, LogUniform


def without_library() -> ImportError:
    """The error if Optuna is not installed, with the command that installs it."""
    return missing("this is done by", "optuna", "sweep")


def library() -> Any:
    """Optuna; raises `without_library()` if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise without_library() from error
    return optuna


def distribution(dimension: Dimension) -> Any:
    """The dimension as a distribution of Optuna: options are categories, whatever they are."""
    distributions = library().distributions
    if isinstance(dimension, Choice | Grid):
        return distributions.CategoricalDistribution(dimension.options)
    if isinstance(dimension, Int):
        return distributions.IntDistribution(dimension.low, dimension.high, dimension.log)
    return distributions.FloatDistribution(
        dimension.low, dimension.high, isinstance(dimension, LogUniform)
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's remarks about what it is given."""
    optuna = library()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
