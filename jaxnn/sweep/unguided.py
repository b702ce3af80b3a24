"""Searches that learn nothing from what they find: a grid, random trials, a Sobol sequence."""

import dataclasses
import itertools
import warnings
from collections.abc import Sequence

import numpy as np

from .observation import Observation
from .space import Space, Values


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
