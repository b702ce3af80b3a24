"""Searches, which choose the next trials of a sweep.

    grid                    all points of the space's grid, in order
    none                    no trials besides those that are given
    random, sobol           samples, independent or evenly spread
    tpe, gp                 tree Parzen estimators and a Gaussian process: Optuna's samplers
    cmaes                   covariance matrix adaptation, by the library `cmaes`

A search is pure: its next trials depend only on its seed, the round, and the history. `new_trials`
asks it, and omits trials that were tried before. `external` converts any Optuna sampler, and any
object with `ask` and `tell`, to a search.

Optuna's samplers here get a new study in memory each round. CMA-ES is replayed from the whole
history, because Optuna's sampler of that name keeps the state of the search in the study and learns
only from the first trials of a batch. TPE and the Gaussian process ignore failed trials; CMA-ES
ranks them last.

References: Bergstra et al., Algorithms for hyper-parameter optimization, 2011. Hansen, The CMA
evolution strategy: a tutorial, 2016. Sobol, On the distribution of points in a cube, 1967.
"""

import abc
import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .dimensions import Choice, Dimension, Grid
from .ranges import Int
from .score import constrained
from .space import Space, Values

STARTUP = 10
"""Minimum number of scores to learn from; before that, a Sobol sequence is used."""


PROPOSALS = 50
"""Number of proposals of a search that learns before a random allowed trial is used instead."""


class Observation(NamedTuple):
    """An earlier trial, as a search learns from it.

    Args:
        values: Values of the trial.
        score: Score of the trial, smaller is better. It is None or not finite if the trial failed,
            diverged, or has not ended.
        round: The round that it belongs to. Default: 0. None for a trial of an earlier sweep.
        own: Whether this search chose it. Default: True.
        scores: The scores of all objectives, the first of which is `score`. Default: (), for one.
        violation: How far it violates the constraints, in total. Default: 0, it satisfies them.
    """

    values: Values
    score: float | None
    round: int | None = 0
    own: bool = True
    scores: tuple[float, ...] = ()
    violation: float = 0.0

    @property
    def told(self) -> Any:
        """The score, or a tuple of the scores of several objectives."""
        return self.scores or self.score

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
            count: Number of trials; there are fewer only if a search ends, such as a grid.
            round: Number of the round.
            history: The trials of earlier sweeps and earlier rounds, and those of this round that
                the search does not choose.
        """

    def _instead(self, round: int) -> Callable[[], Values]:
        """Return a function that draws a random trial, used if all proposals are forbidden."""
        rng = np.random.default_rng([self.seed, round, 1])
        return lambda: self.space.sample(rng)

    def _random_seed(self, round: int) -> int:
        """Return a seed of 32 bits for a round."""
        return int(np.random.SeedSequence([self.seed, round]).generate_state(1)[0])


class NoSearch(Search):
    """No trials besides the configurations that are given."""

    name = "none"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return an empty list."""
        return []


class GridSearch(Search):
    """All points of the space's grid that were not tried, in order, and none after the last."""

    name = "grid"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        known = tried(history)
        points = (point for point in self.space.grid(self.points) if trial_key(point) not in known)
        return list(itertools.islice(points, count))


class RandomSearch(Search):
    """Independent samples of the space; sample n does not depend on the sizes of the rounds."""

    name = "random"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        first = asked_before(history)
        trials = range(first, first + count)
        return [self.space.sample(np.random.default_rng([self.seed, n])) for n in trials]


class SobolSearch(Search):
    """A scrambled Sobol sequence, which fills the unit cube more evenly than chance.

    Point n does not depend on the sizes of the rounds. The points are most even if their number is
    a power of two.
    """

    name = "sobol"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        from scipy.stats import qmc

        space, asked = self.space, asked_before(history)
        sequence = qmc.Sobol(len(space.dimensions), rng=np.random.default_rng(self.seed))
        if asked and not space.where:
            sequence.fast_forward(asked)
            asked = 0

        def points() -> Iterator[Any]:
            size = max(count, 1)
            while True:  # a second batch is needed only if `where` forbids trials
                with warnings.catch_warnings():  # of a first batch that is not a power of two
                    warnings.simplefilter("ignore", UserWarning)
                    yield from sequence.random(size)

        allowed = space.allowed(map(space.from_unit, points()))
        return list(itertools.islice(allowed, asked, asked + count))


class CMAESSearch(SobolSearch):
    """Covariance matrix adaptation in the unit cube of all dimensions.

    An option or an integer becomes a random point of its interval, and a dimension that the trial
    does not have becomes a random point of [0, 1), which preserves the spread of the distribution.
    A batch is up to three generations of at least 16 trials; batches of 16 learn the most per
    trial. If the distribution has shrunk to a point, the search restarts elsewhere. Trials of
    earlier sweeps determine the first distribution (Nomura et al., Warm starting CMA-ES, 2021).
    """

    name = "cmaes"
    needs: ClassVar[tuple[str, ...]] = ("cmaes",)

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        earlier = [one for one in history if one.round is None and one.is_scored]
        trials = [one for one in history if one.round is not None]
        if not earlier and not any(one.is_scored for one in trials):
            return super().ask(count, round, history)
        batch = max(1, len(trials) // round if round else count + len(trials))
        strategy = self._replayed(max(4, batch // 3, min(batch, 16)), earlier, trials)
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

    def _replayed(
        self, size: int, earlier: Sequence[Observation], trials: Sequence[Observation]
    ) -> Any:
        """Return the strategy after generations of `size` trials."""
        rng = np.random.default_rng(self.seed)
        strategy = self._first(size, earlier, rng)
        for start in range(0, len(trials) - size + 1, size):
            some = trials[start : start + size]
            scores = constrained([one.score for one in some], [one.violation for one in some])
            generation = [
                (self.space.to_unit(one.values, rng), score if one.is_scored else math.inf)
                for one, score in zip(some, scores, strict=True)
            ]
            if all(score == math.inf for _, score in generation):
                continue  # their order has no meaning
            strategy.tell(generation)
            if strategy.should_stop():
                strategy = self._start(size, rng.random(len(self.space.dimensions)))
        return strategy

    def _first(self, size: int, earlier: Sequence[Observation], rng: np.random.Generator) -> Any:
        """Return the first strategy: in the middle, or fitted to the best of other sweeps."""
        if not earlier:
            return self._start(size, 0.5)
        import cmaes

        ranked = sorted(earlier, key=lambda one: one.score)  # type: ignore[arg-type, return-value]
        best = [
            (self.space.to_unit(one.values, rng), one.score)
            for one in ranked[: max(1, len(ranked) // 10)]
        ]
        mean, sigma, cov = cmaes.get_warm_start_mgd(best, gamma=1.0)  # type: ignore[arg-type]
        return self._start(size, mean, sigma, cov)

    def _start(self, size: int, mean: Any, sigma: float = 0.25, cov: Any = None) -> Any:
        import cmaes

        dimensions = len(self.space.dimensions)
        return cmaes.CMA(
            mean=np.broadcast_to(mean, dimensions).astype(float),
            sigma=sigma,
            cov=cov,
            bounds=np.tile([0.0, 1.0], (dimensions, 1)),
            population_size=size,
            seed=0,  # it is set again before it is asked
        )


# Trials that were tried before

LARGEST = 10_000
"""A space with at most this number of points is searched exhaustively."""

DRAWS = 100
"""Maximum number of draws to find a new sample, if the space has more points."""


def trial_key(values: Values) -> frozenset[Any]:
    """Return a key that is equal for equal trials only: 1 is neither True nor 1.0."""
    return frozenset((name, type(value), value) for name, value in values.items())


def matching(trials: Sequence[Values]) -> Callable[[Values], Any]:
    """Return a function that returns the key of a trial that equals one of these; None for others.

    It is several times faster than `trial_key` for those that do not.

    Args:
        trials: The trials.
    """
    alike = {frozenset(values.values()) for values in trials}
    keys = {trial_key(values) for values in trials}

    def match(values: Values) -> Any:
        key = trial_key(values) if frozenset(values.values()) in alike else None
        return key if key in keys else None

    return match


def tried(history: Sequence[Observation]) -> set[Any]:
    """Return the keys of the trials of this sweep."""
    return {trial_key(one.values) for one in history if one.round is not None}


def asked_before(history: Sequence[Observation]) -> int:
    """Return how many trials the search chose before."""
    return sum(one.own for one in history if one.round is not None)


def distinct(trials: Sequence[Values], known: set[Any]) -> list[Values]:
    """Return the trials that are not known, each once, and add them to what is known."""
    found = []
    for values in trials:
        if (key := trial_key(values)) not in known:
            known.add(key)
            found.append(values)
    return found


def size_of(space: Space) -> float:
    """Return the number of points of a space; infinity if there are more than `LARGEST`.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import Grid, Uniform
    >>> size_of(Space(SGD, {"momentum": Grid(0.5, 0.9)}))
    2
    >>> size_of(Space(SGD, {"momentum": Uniform(0.5, 0.9)}))
    inf
    """
    sizes = [_size(one) for one in space.dimensions.values()]
    if max(sizes, default=1) > LARGEST:
        return math.inf
    size = space.grid_size(LARGEST + 1)
    if space.where and size <= LARGEST:
        size = sum(1 for _ in space.grid(LARGEST + 1))
    return size if size <= LARGEST else math.inf


def _size(dimension: Dimension) -> float:
    """Return the number of values of a dimension."""
    if isinstance(dimension, Choice | Grid):
        return len(dimension.options)
    stepped = isinstance(dimension, Int) or getattr(dimension, "step", None) is not None
    return dimension.size if stepped else math.inf  # type: ignore[union-attr]


def new_trials(
    search: Search,
    count: int,
    round: int,
    history: Sequence[Observation],
    repeat: bool = False,
) -> list[Values]:
    """Return the next trials of a search, without those that were tried before.

    Repeated trials are replaced by random points of the space that were not tried. Fewer than
    `count` are returned if the space has no further point, or if the search ends.

    Args:
        search: The search.
        count: Number of trials.
        round: Number of the round.
        history: As for `Search.ask`.
        repeat: Whether trials may be tried again. Default: False.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import Grid
    >>> from jaxnn.sweep.external import searcher
    >>> search = searcher("random", Space(SGD, {"momentum": Grid(0.5, 0.7, 0.9)}))
    >>> sorted(trial["momentum"] for trial in new_trials(search, 8, round=0, history=[]))
    [0.5, 0.7, 0.9]
    """
    asked = search.ask(count, round, history)
    if repeat:
        return asked
    match = matching(asked)
    found = distinct(asked, {match(one.values) for one in history if one.round is not None})
    missing, space = len(asked) - len(found), search.space
    if missing:
        known = tried(history) | {trial_key(values) for values in found}
        rng = np.random.default_rng([search.seed, round, 2])
        if size_of(space) < math.inf:
            left = distinct(list(space.grid(LARGEST + 1)), known)
            rng.shuffle(left)  # type: ignore[arg-type]
            found += left[:missing]
        else:
            draws = (space.sample(rng) for _ in range(missing * DRAWS))
            found += distinct(list(draws), known)[:missing]
    return found
