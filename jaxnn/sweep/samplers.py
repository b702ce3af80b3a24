"""Optuna's samplers on our spaces: a study in memory, told some trials and asked for more."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from ..installation import install
from .dimensions import Choice, Dimension, Grid, Int, LogUniform, Scalar
from .observation import Observation
from .space import Space, Values
from .studies import quiet


def needed(search: str, *modules: str) -> None:
    """Raise ImportError, with what to install, unless all these modules are there."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            others = ("torch",) if module == "torch" else ()  # in no extra: it is large
            raise ImportError(
                f"the search {search!r} needs {module}, which is not installed: take another "
                f"search, such as 'sobol', or write {install('sweep', *others)}"
            ) from error


def asked(
    sampler: Callable[[], Any], space: Space, told: Sequence[Observation], count: int
) -> list[Values]:
    """The next trials of a new sampler that is told these scores, smaller ones being better.

    A trial asked and not told yet is running, to the sampler.
    """
    optuna = importlib.import_module("optuna")
    distributions = {name: _distribution(one) for name, one in space.dimensions.items()}
    with quiet():
        study = optuna.create_study(sampler=sampler())
        study.add_trials(
            [
                optuna.trial.create_trial(
                    value=one.score,
                    params={name: _told(space, name, one.values[name]) for name in one.values},
                    distributions={name: distributions[name] for name in one.values},
                )
                for one in told
            ]
        )
        return [_suggested(study.ask(), space) for _ in range(count)]


def _suggested(trial: Any, space: Space) -> Values:
    values: Values = {}
    for name, dimension in space.dimensions.items():
        if space.active(name, values):
            values[name] = _suggest(trial, name, dimension)
    return values


def _suggest(trial: Any, name: str, dimension: Dimension) -> Scalar:
    match dimension:
        case Choice(options=options):
            return options[trial.suggest_categorical(name, range(len(options)))]
        case Grid(options=options):
            return options[trial.suggest_int(name, 0, len(options) - 1)]
        case Int(low=low, high=high, log=log):
            return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(
        name, dimension.low, dimension.high, log=isinstance(dimension, LogUniform)
    )


def _told(space: Space, name: str, value: Any) -> Any:
    """Options by their numbers: Optuna could not tell 1 from True."""
    dimension = space.dimensions[name]
    return dimension.index(value) if isinstance(dimension, Choice | Grid) else value


def _distribution(dimension: Dimension) -> Any:
    distributions = importlib.import_module("optuna").distributions
    match dimension:
        case Choice(options=options):
            return distributions.CategoricalDistribution(range(len(options)))
        case Grid(options=options):
            return distributions.IntDistribution(0, len(options) - 1)
        case Int(low=low, high=high, log=log):
            return distributions.IntDistribution(low, high, log=log)
    return distributions.FloatDistribution(
        dimension.low, dimension.high, log=isinstance(dimension, LogUniform)
    )
