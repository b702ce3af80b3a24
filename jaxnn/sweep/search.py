"""Searches, which choose the next trials of a sweep.

    grid                    all points of the space's grid, in order
    none                    no trials besides those that are given
    random, sobol           samples, independent or evenly spread
    tpe, gp, cmaes          those that learn from scores, in `samplers`

A search is pure: its next trials depend only on its seed, the round, and the history. `new_trials`
asks it, and omits trials that were tried before. `Known` holds what it knows before it asks. The
members of a population get `perturbed` values instead. `external` converts any Optuna sampler, and
any object with `ask` and `tell`, to a search.

Reference: Sobol, On the distribution of points in a cube, 1967.
"""

import abc
import dataclasses
import functools
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from .dimensions import Choice, Dimension, Grid
from .ranges import Int
from .space import Space, Values
from .swept import SweptField
from .tables import Trial, frozen

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


@dataclasses.dataclass(frozen=True)
class Known:
    """What the ledger records about known configurations and earlier sweeps.

    Args:
        tries: Configurations to try first, in order.
        earlier: The trials of earlier sweeps.
        begin: The number of the first trial that the current search may choose; another search
            chose the earlier ones.
    """

    tries: Sequence[Values] = ()
    earlier: Sequence[Observation] = ()
    begin: int = 0

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Self:
        """Return what the meta data of a ledger record.

        Args:
            meta: The meta data.
        """
        earlier = meta.get("warm_start", {}).get("trials", [])
        searches = meta.get("searches", [["", 0]])
        observations = [
            Observation(_frozen(values), score, None, False, *map(frozen, more))
            for values, score, *more in earlier
        ]
        return cls([*map(_frozen, meta.get("tries", []))], observations, searches[-1][1])

    def waiting(self, trials: Sequence[Trial]) -> list[Values]:
        """Return the configurations that are not among these trials, in order.

        Args:
            trials: The trials of the sweep.
        """
        if not self.tries:
            return []
        match = matching(self.tries)
        done = Counter(match(trial.values) for trial in trials)
        found = []
        for values in self.tries:
            if done[trial_key(values)] > 0:
                done[trial_key(values)] -= 1
            else:
                found.append(values)
        return found

    @functools.cached_property
    def given(self) -> set[Any]:
        """The keys (`trial_key`) of the configurations to try first."""
        return {trial_key(values) for values in self.tries}

    def observations(
        self,
        trials: Sequence[Trial],
        scores: Sequence[tuple[float, ...]],
        violations: Sequence[float],
    ) -> list[Observation]:
        """Return what the search learns from these trials.

        Args:
            trials: The trials.
            scores: The scores of each by all objectives, smaller is better; () for none.
            violations: How far each violates the constraints.
        """
        found, match = [], matching(self.tries)
        for trial, each, far in zip(trials, scores, violations, strict=True):
            own = trial.number >= self.begin and match(trial.values) is None
            score, several = each[0] if each else None, each if len(each) > 1 else ()
            found.append(Observation(trial.values, score, trial.round, own, several, far))
        return found


def _frozen(values: Mapping[str, Any]) -> Values:
    """Return values that JSON held."""
    return {name: frozen(value) for name, value in values.items()}


FACTORS = (0.8, 1.2)
"""`perturbed` multiplies a number by one of these."""


def perturbed(
    space: Space, values: Values, rng: np.random.Generator, resample: float = 0.25
) -> Values:
    """Return values near the given ones, with which a member continues from another's weights.

    A number is multiplied by 0.8 or 1.2 and kept in its range (one with steps moves by at least a
    step), a value of a `Grid` moves to a neighbor, and that of a `Choice` stays. With probability
    `resample` a value is drawn again instead. Always draws the same number of random numbers,
    unless the `where` of the space forbids the result: then it draws again, and returns the given
    values if no draw is allowed.

    Args:
        space: Space of the values.
        values: Values to start from.
        rng: Draws the changes.
        resample: Probability with which a value is drawn again. Default: 0.25.

    Reference: Jaderberg et al., Population based training of neural networks, 2017.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import LogUniform
    >>> space = Space(SGD, {"learning_rate": LogUniform(1e-3, 1.0)})
    >>> perturbed(space, {"learning_rate": 0.5}, np.random.default_rng(0), resample=0.0)
    {'learning_rate': 0.4}
    """
    return space.allowed_or(
        lambda: _moved(space, values, rng.random((len(space.dimensions), 3)), resample),
        100,
        lambda: dict(values),
    )


def _moved(space: Space, values: Values, draws: Any, resample: float) -> Values:
    def choose(swept: SweptField, draw: Any) -> Any:
        chance, direction, at = draw
        if swept.name not in values or chance < resample:  # absent if its branch was drawn again
            return swept.dimension.at(float(at))
        return _neighbor(swept.dimension, values[swept.name], up=bool(direction >= 0.5))

    return space.built(choose, draws)


def _neighbor(dimension: Dimension, value: Any, up: bool) -> Any:
    if isinstance(dimension, Choice):
        return value
    if isinstance(dimension, Grid):
        index = dimension.index(value) + (1 if up else -1)
        return dimension.options[min(max(index, 0), len(dimension.options) - 1)]
    moved = dimension.nearest(value * FACTORS[up])
    if dimension.step is not None and moved == value:
        moved = dimension.nearest(value + (dimension.step if up else -dimension.step))
    return moved
