"""Searches, which choose the next trials of a sweep.

    grid                    all points of the space's grid, in order
    random, sobol           samples, independent or evenly spread
    tpe, gp                 tree Parzen estimators and a Gaussian process: Optuna's samplers
    cmaes                   covariance matrix adaptation, by the library `cmaes`

A search is pure: its next trials follow from its seed, the round, and the history. Optuna's
samplers get a new study in memory each round. CMA-ES is replayed from the whole history, because
Optuna's sampler of that name keeps the state of the search in the study and learns only from the
first trials of a batch. TPE and the Gaussian process ignore trials that failed; for CMA-ES they are
the worst.

References: Bergstra et al., Algorithms for hyper-parameter optimization, 2011. Hansen, The CMA
evolution strategy: a tutorial, 2016. Sobol, On the distribution of points in a cube, 1967.
"""

import abc
import contextlib
import dataclasses
import importlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..installation import install, required
from ..validation import one_of
from .dimensions import Choice, Dimension, Grid
from .ranges import Int, LogNormal, Normal
from .space import Space, Values

STARTUP = 10
"""The least number of scores to learn from; a Sobol sequence is asked before."""

TPE_HISTORY = 1000
"""Values that TPE gets, over all dimensions: the cost of a trial grows with them.

But never fewer than 200 trials: with 100 it finds several times less.
"""

GP_HISTORY = 100
"""Trials that the Gaussian process gets: the cost of a trial grows with their cube."""

PROPOSALS = 50
"""How often a search that learns proposes a trial before a random one that `where` allows."""


class Observation(NamedTuple):
    """A trial that a search chose before.

    Args:
        values: Values of the trial.
        score: Score of the trial, smaller is better. It is None or not finite if the trial failed,
            diverged, or has not ended.
    """

    values: Values
    score: float | None

    @property
    def is_scored(self) -> bool:
        """Whether the trial has a finite score."""
        return self.score is not None and math.isfinite(self.score)


@dataclasses.dataclass(frozen=True)
class Search(abc.ABC):
    """Base of the searches, which choose the next trials; created by `searcher`.

    Args:
        space: The search space.
        seed: Seed of all random choices. Default: 0.
        points: Points per range in a grid. Default: 5.
    """

    space: Space
    seed: int = 0
    points: int = 5
    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials.

        Args:
            count: Number of trials; there are fewer only if a grid ends.
            round: Number of the round.
            history: All trials of earlier rounds.
        """

    def _instead(self, round: int) -> Callable[[], Values]:
        """Return a function that draws a random trial, for when all proposals are forbidden."""
        rng = np.random.default_rng([self.seed, round, 1])
        return lambda: self.space.sample(rng)

    def _random_seed(self, round: int) -> int:
        """Return a seed of 32 bits for a round."""
        return int(np.random.SeedSequence([self.seed, round]).generate_state(1)[0])


class GridSearch(Search):
    """All points of the space's grid in order, and none after the last."""

    name = "grid"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        points = self.space.grid(self.points)
        return list(itertools.islice(points, len(history), len(history) + count))


class RandomSearch(Search):
    """Independent samples of the space; trial n does not depend on the sizes of the rounds."""

    name = "random"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        trials = range(len(history), len(history) + count)
        return [self.space.sample(np.random.default_rng([self.seed, n])) for n in trials]


class SobolSearch(Search):
    """A scrambled Sobol sequence, which fills the unit cube more evenly than chance.

    Trial n does not depend on the sizes of the rounds. A power of two of trials is most even.
    """

    name = "sobol"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        from scipy.stats import qmc

        space, asked = self.space, len(history)
        sequence = qmc.Sobol(len(space.dimensions), rng=np.random.default_rng(self.seed))
        if asked and not space.where:
            sequence.fast_forward(asked)
            asked = 0

        def points() -> Iterator[Any]:
            size = count
            while True:  # a second batch is needed only if `where` forbids trials
                with warnings.catch_warnings():  # of a first batch that is not a power of two
                    warnings.simplefilter("ignore", UserWarning)
                    yield from sequence.random(size)

        allowed = space.allowed(map(space.from_unit, points()))
        return list(itertools.islice(allowed, asked, asked + count))


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
        optuna = optuna_library()
        kinds = {name: parameter(one) for name, one in self.space.dimensions.items()}
        with quiet():
            study = optuna.create_study(sampler=self.sampler(self._random_seed(round)))
            for one in best_and_newest(scored, self.most()):
                params = {name: kinds[name].there(value) for name, value in one.values.items()}
                used = {name: kinds[name].distribution for name in params}
                trial = optuna.trial.create_trial(
                    value=one.score, params=params, distributions=used
                )
                study.add_trial(trial)
            instead = self._instead(round)
            return [
                self.space.allowed_or(
                    lambda: self._suggested(study.ask(), kinds), PROPOSALS, instead
                )
                for _ in range(count)
            ]

    def _suggested(self, trial: Any, kinds: Mapping[str, "Parameter"]) -> Values:
        values: Values = {}
        for name, (distribution, _, back) in kinds.items():
            if self.space.active(name, values):
                values[name] = back(suggest(trial, name, distribution))
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


class CMAESSearch(SobolSearch):
    """Covariance matrix adaptation in the unit cube of all dimensions.

    An option or an integer becomes a random point of its interval, and a dimension that the trial
    does not have becomes a random point of [0, 1), which preserves their spread. A batch is up to
    three generations of at least 16; batches of 16 learn most from a trial. If the distribution has
    shrunk to a point, it starts again elsewhere.
    """

    name = "cmaes"
    needs: ClassVar[tuple[str, ...]] = ("cmaes",)

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        if not history:
            return super().ask(count, round, history)
        batch = max(1, len(history) // round if round else count)
        strategy = self._replayed(max(2, batch // 3, min(batch, 16)), history)
        strategy.reseed_rng(self._random_seed(round))
        below_1 = np.nextafter(1.0, 0.0)
        return [
            self.space.allowed_or(
                lambda: self.space.from_unit(np.minimum(strategy.ask(), below_1)),
                PROPOSALS,
                self._instead(round),
            )
            for _ in range(count)
        ]

    def _replayed(self, size: int, history: Sequence[Observation]) -> Any:
        """Return the strategy after generations of `size` trials of the history."""
        rng = np.random.default_rng(self.seed)
        strategy = self._start(size, 0.5)
        for start in range(0, len(history) - size + 1, size):
            generation = [
                (self.space.to_unit(one.values, rng), one.score if one.is_scored else math.inf)
                for one in history[start : start + size]
            ]
            if all(score == math.inf for _, score in generation):
                continue  # their order has no meaning
            strategy.tell(generation)
            if strategy.should_stop():
                strategy = self._start(size, rng.random(len(self.space.dimensions)))
        return strategy

    def _start(self, size: int, mean: Any) -> Any:
        import cmaes

        dimensions = len(self.space.dimensions)
        return cmaes.CMA(
            mean=np.broadcast_to(mean, dimensions).astype(float),
            sigma=0.25,
            bounds=np.tile([0.0, 1.0], (dimensions, 1)),
            population_size=size,
            seed=0,  # it is set again before it is asked
        )


SEARCHES: dict[str, type[Search]] = {
    kind.name: kind
    for kind in (GridSearch, RandomSearch, SobolSearch, TPESearch, CMAESSearch, GPSearch)
}


def searcher(name: str, space: Space, *, seed: int = 0, points: int = 5) -> Search:
    """Return the search of a name over a space.

    Args:
        name: "grid", "random", "sobol", "tpe", "cmaes", or "gp".
        space: The search space.
        seed: Seed of all random choices. Default: 0.
        points: Points per range in a grid. Default: 5.

    Raises:
        ValueError: The name is unknown.
        ImportError: A library that the search needs is not installed.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import Grid, Uniform
    >>> space = Space(SGD, {"learning_rate": Grid(0.1, 0.3), "momentum": Uniform(0.5, 0.9)})
    >>> searcher("grid", space, points=3).ask(2, round=0, history=[])
    [{'learning_rate': 0.1, 'momentum': 0.5}, {'learning_rate': 0.1, 'momentum': 0.7}]
    """
    one_of(*SEARCHES)(name, "search")
    for module in SEARCHES[name].needs:
        try:
            importlib.import_module(module)
        except ImportError as error:
            others = ("torch",) if module == "torch" else ()  # in no extra, because it is large
            raise ImportError(
                f"the search {name!r} needs {module}, which is not installed: write another "
                f"search, such as 'sobol', or {install('sweep', *others)}"
            ) from error
    return SEARCHES[name](space, seed, points)


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


class Parameter(NamedTuple):
    """A dimension as a parameter of Optuna.

    Optuna does not distinguish 1 from True, so options are their indices. It has no priors and no
    logarithmic steps: their parameter is the place on the unit line, where a prior is uniform.

    Args:
        distribution: A distribution of Optuna.
        there: Returns the value of the parameter for a value of the dimension.
        back: Returns the value of the dimension for a value of the parameter.
    """

    distribution: Any
    there: Callable[[Any], Any]
    back: Callable[[Any], Any]


def parameter(dimension: Dimension) -> Parameter:
    """Return a dimension as a parameter of Optuna.

    Args:
        dimension: The dimension.
    """
    kinds = optuna_library().distributions
    if isinstance(dimension, Choice | Grid):
        numbers = range(len(dimension.options))
        kind = kinds.CategoricalDistribution(numbers)
        if isinstance(dimension, Grid):
            kind = kinds.IntDistribution(0, numbers[-1])
        return Parameter(kind, dimension.index, dimension.options.__getitem__)
    if isinstance(dimension, Normal | LogNormal) or (
        dimension.log and dimension.step not in (None, 1)
    ):
        return Parameter(kinds.FloatDistribution(0.0, 1.0), dimension.unit, dimension.at)
    return Parameter(distribution(dimension), lambda value: value, dimension.nearest)


def suggest(trial: Any, name: str, distribution: Any) -> Any:
    """Return the value that a trial of Optuna suggests for a parameter with a distribution."""
    if hasattr(distribution, "choices"):
        return trial.suggest_categorical(name, distribution.choices)
    whole = isinstance(distribution, optuna_library().distributions.IntDistribution)
    suggested = trial.suggest_int if whole else trial.suggest_float
    ends = distribution.low, distribution.high
    return suggested(name, *ends, step=distribution.step, log=distribution.log)


def distribution(dimension: Dimension) -> Any:
    """Return a dimension as a distribution of Optuna that contains its values.

    Args:
        dimension: The dimension.
    """
    kinds = optuna_library().distributions
    if isinstance(dimension, Choice | Grid):
        options = [str(one) if isinstance(one, tuple) else one for one in dimension.options]
        return kinds.CategoricalDistribution(options)
    if isinstance(dimension, Normal | LogNormal):
        return kinds.FloatDistribution(dimension.at(0.0), dimension.at(1.0), dimension.log)
    if isinstance(dimension, Int):
        step = 1 if dimension.log else dimension.step  # with `log` Optuna has no other steps
        return kinds.IntDistribution(dimension.low, dimension.last, dimension.log, step)
    return kinds.FloatDistribution(dimension.low, dimension.last, dimension.log, dimension.step)
