"""Trials as those of Optuna, for what Optuna does with trials, such as its dashboard."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from .dimensions import Choice, Dimension, Grid, Int, Log

MISSING = "this is done by Optuna, which is not installed: write pip install 'jaxnn[sweep]'"


def library() -> Any:
    """Optuna; ImportError, with what to install, where it is not there."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(MISSING) from error
    return optuna


def distribution(dimension: Dimension) -> Any:
    """The dimension as a distribution of Optuna: options are categories, whatever they are."""
    distributions = library().distributions
    if isinstance(dimension, Choice | Grid):
        return distributions.CategoricalDistribution(dimension.options)
    if isinstance(dimension, Int):
        return distributions.IntDistribution(dimension.low, dimension.high, dimension.log)
    return distributions.FloatDistribution(
        dimension.low, dimension.high, isinstance(dimension, Log)
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
