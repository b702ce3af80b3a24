"""Searches by Optuna: tree Parzen estimators, a Gaussian process, and any of its samplers.

TPE and the Gaussian process get a new study in memory each round, with the best and the newest
trials, which bounds the cost of asking. An `OptunaSampler` keeps one study, as Optuna does.
"""

import abc
import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from ..explain.text import suggestion
from ..installation import required
from .dimensions import Choice, Dimension, Grid, Int, Scalar
from .search import STARTUP, Observation, SobolSearch, identity
from .space import Space, Values

TPE_HISTORY = 1000
"""Values that TPE gets, over all dimensions: the cost of a trial grows with them.

But never fewer than 200 trials: with 100 it finds several times less.
"""

GP_HISTORY = 100
"""Trials that the Gaussian process gets: the cost of a trial grows with their cube."""


class _OptunaSearch(SobolSearch):
    """A sampler of Optuna on a new study in memory; a Sobol sequence until there are scores.

    For the sampler, a trial that was asked and has no score yet is running.
    """

    @abc.abstractmethod
    def sampler(self, seed: int) -> Any:
        """Return a new sampler."""

    @abc.abstractmethod
    def most(self) -> int:
        """Return how many observations the sampler gets."""

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        scored = [one for one in history if one.is_scored]
        if len(scored) < STARTUP:
            return super().ask(count, round, history)
        optuna, dimensions = optuna_library(), self.space.dimensions
        kinds = {name: distribution(one, by_index=True) for name, one in dimensions.items()}
        with quiet():
            study = optuna.create_study(sampler=self.sampler(self._random_seed(round)))
            for one in best_and_newest(scored, self.most()):
                indexed = {
                    name: getattr(dimensions[name], "index", lambda value: value)(value)
                    for name, value in one.values.items()
                }
                used = {name: kinds[name] for name in indexed}
                trial = optuna.trial.create_trial(
                    value=one.score, params=indexed, distributions=used
                )
                study.add_trial(trial)
            return [self._suggested(study.ask()) for _ in range(count)]

    def _suggested(self, trial: Any) -> Values:
        values: Values = {}
        for name, dimension in self.space.dimensions.items():
            if self.space.active(name, values):
                values[name] = suggest(trial, name, dimension)
        return values


class TPESearch(_OptunaSearch):
    """Tree Parzen estimators, one dimension at a time.

    While a batch is drawn, its own trials count as bad ones, which spreads it. With 64 trials per
    batch this is several times better than estimators of all dimensions together.
    """

    name = "tpe"
    needs: ClassVar[tuple[str, ...]] = ("optuna",)

    def most(self) -> int:
        """Return how many observations the sampler gets."""
        return max(200, TPE_HISTORY // len(self.space.dimensions))

    def sampler(self, seed: int) -> Any:
        """Return a new sampler."""
        options = {"multivariate": False, "constant_liar": True, "n_startup_trials": 0}
        return optuna_library().samplers.TPESampler(seed=seed, **options)


class GPSearch(_OptunaSearch):
    """A Gaussian process and its expected improvement, for runs that take longer than asking.

    Dimensions inside of branches are sampled by tree Parzen estimators.
    """

    name = "gp"
    needs: ClassVar[tuple[str, ...]] = ("optuna", "torch", "scipy")

    def most(self) -> int:
        """Return how many observations the sampler gets."""
        return GP_HISTORY

    def sampler(self, seed: int) -> Any:
        """Return a new sampler."""
        samplers = optuna_library().samplers
        inside = samplers.TPESampler(seed=seed, multivariate=False, n_startup_trials=0)
        options = {"warn_independent_sampling": False, "n_startup_trials": 0}
        return samplers.GPSampler(seed=seed, independent_sampler=inside, **options)


class OptunaSampler:
    """A sampler of Optuna as an object with `ask` and `tell`: a study in memory.

    Args:
        space: The search space.
        sampler: The sampler.
    """

    def __init__(self, space: Space, sampler: Any) -> None:
        self.space = space
        kinds = space.dimensions.items()
        self._kinds = {name: distribution(one, by_index=True) for name, one in kinds}
        with quiet():
            self._study = optuna_library().create_study(sampler=sampler)
        self._asked: dict[Any, list[Any]] = {}

    def ask(self, count: int) -> list[Values]:
        """Return the next trials.

        Args:
            count: The number of trials.
        """
        found = []
        for _ in range(count):
            values: Values = {}
            with quiet():
                trial = self._study.ask()
                for name, dimension in self.space.dimensions.items():
                    if self.space.active(name, values):
                        values[name] = suggest(trial, name, dimension)
            self._asked.setdefault(identity(values), []).append(trial)
            found.append(values)
        return found

    def tell(self, values: Values, score: float | None) -> None:
        """Complete a trial with these values, or add one; without a score, as failed.

        Args:
            values: The values.
            score: The score, or None.
        """
        asked = self._asked.get(identity(values))
        state = optuna_library().trial.TrialState
        with quiet():
            if asked:
                failed = None if score is not None else state.FAIL
                self._study.tell(asked.pop(0), score, state=failed)
            else:
                self._study.add_trial(self._finished(values, score))

    def _finished(self, values: Values, score: float | None) -> Any:
        """Return a trial that another search asked."""
        library = optuna_library()
        indexed = {
            name: getattr(self.space.dimensions[name], "index", lambda value: value)(value)
            for name, value in values.items()
        }
        state = library.trial.TrialState
        return library.trial.create_trial(
            value=score,
            state=state.FAIL if score is None else state.COMPLETE,
            params=indexed,
            distributions={name: self._kinds[name] for name in indexed},
        )


def named(name: str, seed: int) -> Any:
    """Return a sampler of Optuna by its name."""
    samplers = optuna_library().samplers
    known = [one for one in dir(samplers) if one.endswith("Sampler") and one != "BaseSampler"]
    if name not in known:
        raise ValueError(f"Optuna has no sampler {name!r}; {suggestion(name, known)}")
    try:
        with quiet():
            return getattr(samplers, name)(seed=seed)
    except TypeError as error:
        raise ValueError(
            f"{name} needs arguments ({error}): pass it to sweep.run(..., search={name}(...))"
        ) from None


def best_and_newest(scored: Sequence[Observation], most: int) -> list[Observation]:
    """Return at most `most` observations in order: the newest half, and the best before them.

    Args:
        scored: Observations with scores.
        most: The most to return.

    >>> history = [Observation({}, score) for score in (3.0, 1.0, 2.0, 9.0, 8.0)]
    >>> [one.score for one in best_and_newest(history, 4)]
    [1.0, 2.0, 9.0, 8.0]
    """
    if len(scored) <= most:
        return list(scored)
    older = range(len(scored) - most // 2)
    best = sorted(older, key=lambda i: scored[i].score)[: most - most // 2]  # type: ignore[arg-type]
    return [scored[i] for i in (*sorted(best), *range(len(older), len(scored)))]


# Optuna


def optuna_library() -> Any:
    """Return Optuna, or raise ImportError with the command that installs it."""
    return required("optuna", "this is done by", "optuna", "sweep")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn off Optuna's warnings about its arguments."""
    optuna = optuna_library()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def distribution(dimension: Dimension, by_index: bool = False) -> Any:
    """Return a dimension as a distribution of Optuna.

    Args:
        dimension: The dimension.
        by_index: Whether options are their indices: Optuna does not distinguish 1 from True.
            Default: False, options are categories.
    """
    distributions = optuna_library().distributions
    if isinstance(dimension, Grid) and by_index:
        return distributions.IntDistribution(0, len(dimension.options) - 1)
    if isinstance(dimension, Choice | Grid):
        options = range(len(dimension.options)) if by_index else dimension.options
        return distributions.CategoricalDistribution(options)
    kind = "IntDistribution" if isinstance(dimension, Int) else "FloatDistribution"
    return getattr(distributions, kind)(dimension.low, dimension.high, dimension.log)


def suggest(trial: Any, name: str, dimension: Dimension) -> Scalar:
    """Return the value that a trial of Optuna has for a dimension, with options by index.

    Args:
        trial: The trial.
        name: Name of the dimension.
        dimension: The dimension.
    """
    match dimension:
        case Choice(options=options):
            return options[trial.suggest_categorical(name, range(len(options)))]
        case Grid(options=options):
            return options[trial.suggest_int(name, 0, len(options) - 1)]
    suggest = trial.suggest_int if isinstance(dimension, Int) else trial.suggest_float
    return suggest(name, dimension.low, dimension.high, log=dimension.log)
