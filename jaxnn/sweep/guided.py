"""Searches that learn from round to round: tree Parzen estimators, CMA-ES, a Gaussian process.

TPE and the Gaussian process are Optuna's samplers on a study in memory, a fresh one each round,
seeded by (seed, round) and told the history. CMA-ES is the `cmaes` library, which Optuna's sampler
of that name calls too: that sampler keeps the state of the search in the study and learns from the
first few trials of a batch only, while here the state is replayed from the whole history.

Failed trials teach TPE and the Gaussian process nothing, and are the worst of all to CMA-ES.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..train.directions import badness
from .observation import Observation
from .samplers import asked, needed
from .space import Space, Values
from .studies import library
from .unguided import SobolSearch

STARTUP = 10
"""Scores below which there is nothing to learn from: a Sobol sequence is asked instead."""

TPE_HISTORY = 1000
"""Values that TPE is told, over all dimensions: the cost of a trial grows with them.

But never fewer than 200 trials: with 100 it finds several times less.
"""

GP_HISTORY = 100
"""Trials that the Gaussian process is told: the cost of a trial grows with their cube."""


@dataclasses.dataclass(frozen=True)
class TPESearch:
    """Tree Parzen estimators, a dimension at a time.

    While a batch is drawn, its own trials count as bad ones, which spreads it. With 64 trials a
    batch this is several times better than estimators of all dimensions together.
    """

    space: Space
    seed: int = 0
    name = "tpe"

    def __post_init__(self) -> None:
        """Raise ImportError, with what to install, where a library is not there."""
        needed(self.name, "optuna")

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next trials: a Sobol sequence until there are some scores, then learned ones."""
        scored = _scored(history)
        if len(scored) < STARTUP:
            return SobolSearch(self.space, self.seed).ask(count, round, history)
        told = best_and_newest(scored, max(200, TPE_HISTORY // len(self.space.dimensions)))
        options = {"multivariate": False, "constant_liar": True, "n_startup_trials": 0}
        seed, sampler = seed_of(self.seed, round), library().samplers.TPESampler
        return asked(lambda: sampler(seed=seed, **options), self.space, told, count)


@dataclasses.dataclass(frozen=True)
class GPSearch:
    """A Gaussian process and its expected improvement, for runs that take longer than asking.

    What is inside of branches is left to tree Parzen estimators.
    """

    space: Space
    seed: int = 0
    name = "gp"

    def __post_init__(self) -> None:
        """Raise ImportError, with what to install, where a library is not there."""
        needed(self.name, "optuna", "torch", "scipy")

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next trials: a Sobol sequence until there are some scores, then learned ones."""
        scored = _scored(history)
        if len(scored) < STARTUP:
            return SobolSearch(self.space, self.seed).ask(count, round, history)
        seed, samplers = seed_of(self.seed, round), library().samplers

        def sampler() -> Any:
            inside = samplers.TPESampler(seed=seed, multivariate=False, n_startup_trials=0)
            options = {"warn_independent_sampling": False, "n_startup_trials": 0}
            return samplers.GPSampler(seed=seed, independent_sampler=inside, **options)

        return asked(sampler, self.space, best_and_newest(scored, GP_HISTORY), count)


@dataclasses.dataclass(frozen=True)
class CMAESSearch:
    """Covariance matrix adaptation in the unit cube, of all dimensions.

    An option or a whole number is told as a random point of its share of the unit line, and a
    dimension that the trial does not have as a random point of the whole line, which keeps their
    spread. A batch is told as up to three generations of at least 16, and batches of 16 learn most
    from a trial. Where the distribution has shrunk to a point it starts anew from another place.
    """

    space: Space
    seed: int = 0
    name = "cmaes"

    def __post_init__(self) -> None:
        """Raise ImportError, with what to install, where a library is not there."""
        needed(self.name, "cmaes")

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next trials: the first batch of a Sobol sequence, then of the distribution."""
        if not history:
            return SobolSearch(self.space, self.seed).ask(count, round, history)
        batch = max(1, len(history) // round if round else count)
        size = max(2, batch // 3, min(batch, 16))
        strategy = self._replayed(size, history)
        strategy.reseed_rng(seed_of(self.seed, round))
        below_1 = np.nextafter(1.0, 0.0)
        return [self.space.from_unit(np.minimum(strategy.ask(), below_1)) for _ in range(count)]

    def _replayed(self, size: int, history: Sequence[Observation]) -> Any:
        rng = np.random.default_rng(self.seed)
        strategy = self._start(size, 0.5)
        for start in range(0, len(history) - size + 1, size):
            generation = [
                (self.space.to_unit(one.values, rng), one.score if _is_scored(one) else math.inf)
                for one in history[start : start + size]
            ]
            if all(score == math.inf for _, score in generation):
                continue  # their order would say nothing
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
            seed=0,  # set anew before it is asked
        )


def seed_of(seed: int, round: int) -> int:
    """A seed of 32 bits for the round."""
    return int(np.random.SeedSequence([seed, round]).generate_state(1)[0])


def best_and_newest(scored: Sequence[Observation], most: int) -> list[Observation]:
    """At most so many observations, in order: the newest half, and the best of those before.

    >>> history = [Observation({}, score) for score in (3.0, 1.0, 2.0, 9.0, 8.0)]
    >>> [one.score for one in best_and_newest(history, 4)]
    [1.0, 2.0, 9.0, 8.0]
    """
    if len(scored) <= most:
        return list(scored)
    older = range(len(scored) - most // 2)
    best = sorted(older, key=lambda i: _score(scored[i]))[: most - most // 2]
    return [scored[i] for i in (*sorted(best), *range(len(older), len(scored)))]


def _is_scored(one: Observation) -> bool:
    return one.score is not None and math.isfinite(one.score)


def _score(one: Observation) -> float:
    return badness(one.score, maximize=False)


def _scored(history: Sequence[Observation]) -> list[Observation]:
    return [one for one in history if _is_scored(one)]
