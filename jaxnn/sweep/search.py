"""Which configurations to try next: grid, random and Sobol here, those that learn in `guided`.

A search is asked in rounds, for a batch at a time. What it answers is a function of the space, the
seed, the round, how many are wanted and what was observed, and of nothing else: a sweep that was
killed asks again and gets the same trials.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..core.signatures import suggestion
from .space import Space, Values

SEARCHES = ("grid", "random", "sobol", "tpe", "cmaes", "gp")


class Observation(NamedTuple):
    """A trial that was asked: its values, and its score.

    Smaller scores are better; None, as NaN, is a trial that failed, diverged or is not done.
    """

    values: Values
    score: float | None


class Search(Protocol):
    """Says which trials to run next."""

    @property
    def name(self) -> str:
        """Its name, as `searcher` takes it."""
        ...

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next `count` trials after those of `history`, which has all trials asked before.

        Fewer only where a grid ends. Pure: the same arguments give the same trials.
        """
        ...


def searcher(name: str, space: Space, *, seed: int = 0, points: int = 5) -> Search:
    """The search of that name over a space.

    Args:
        name: "grid" in order; "random"; "sobol", which fills the space evenly; "tpe" (tree Parzen
            estimators), "cmaes" (covariance matrix adaptation) and "gp" (Gaussian process), which
            learn from round to round.
        space: where to search.
        seed: of everything random in it.
        points: of each range of a grid.

    Raises ValueError for an unknown name.

    References: Bergstra et al., Algorithms for hyper-parameter optimization, 2011. Hansen, The CMA
    evolution strategy: a tutorial, 2016. Sobol, On the distribution of points in a cube, 1967.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep.space import Grid, Uniform
    >>> space = Space(SGD, {"learning_rate": Grid(0.1, 0.3), "momentum": Uniform(0.5, 0.9)})
    >>> searcher("grid", space, points=3).ask(2, round=0, history=[])
    [{'learning_rate': 0.1, 'momentum': 0.5}, {'learning_rate': 0.1, 'momentum': 0.7}]
    """
    from . import guided  # itself without heavy imports

    match name:
        case "grid":
            return GridSearch(space, points)
        case "random":
            return RandomSearch(space, seed)
        case "sobol":
            return SobolSearch(space, seed)
        case "tpe":
            return guided.TPESearch(space, seed)
        case "cmaes":
            return guided.CMAESSearch(space, seed)
        case "gp":
            return guided.GPSearch(space, seed)
    raise ValueError(f"there is no search {name!r}; {suggestion(name, SEARCHES)}")


@dataclasses.dataclass(frozen=True)
class GridSearch:
    """All points of the space's grid in order, and none after the last."""

    space: Space
    points: int = 5
    name = "grid"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next points of the grid, [] at its end."""
        points = self.space.grid_points(self.points)
        return list(itertools.islice(points, len(history), len(history) + count))


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """Independent samples of the space; trial n is the same however the rounds are cut."""

    space: Space
    seed: int = 0
    name = "random"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next samples."""
        trials = range(len(history), len(history) + count)
        return [self.space.sample(np.random.default_rng([self.seed, n])) for n in trials]


@dataclasses.dataclass(frozen=True)
class SobolSearch:
    """A scrambled Sobol sequence, which fills the unit cube more evenly than chance.

    Trial n is the same however the rounds are cut. Most even after a power of two of trials.
    """

    space: Space
    seed: int = 0
    name = "sobol"

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next points of the sequence."""
        from scipy.stats import qmc

        sequence = qmc.Sobol(len(self.space.dimensions), rng=np.random.default_rng(self.seed))
        if history:
            sequence.fast_forward(len(history))
        with warnings.catch_warnings():  # of a first batch that is no power of two
            warnings.simplefilter("ignore", UserWarning)
            points = sequence.random(count)
        return [self.space.from_unit(point) for point in points]
