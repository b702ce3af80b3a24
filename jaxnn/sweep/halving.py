"""Which trials continue: successive halving, Hyperband, and population-based training.

These are pure functions of numbers. Smaller scores are better. None, NaN, and infinities of either
sign belong to trials that failed or diverged, and come after all others; of equal scores, the
earlier trial wins.

    rungs       the epochs at which trials are compared, the last included
    keep        the best of some trials, exactly the number asked for
    hyperband   the brackets of a sweep: how many trials start, and the rungs of each
    population  which trial continues from whose weights, and `perturbed` with which values
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..validation import integer, positive
from .dimensions import Choice, Dimension, Grid
from .space import Space, Values
from .swept import SweptField

FACTORS = (0.8, 1.2)
"""`perturbed` multiplies a number by one of these."""


def rungs(epochs: int, eta: int, least: int = 1) -> list[int]:
    """Return the epochs after which trials are compared: floor(epochs / eta^k), the smallest first.

    Args:
        epochs: Epochs of a whole run, at least 1; the last rung.
        eta: One in `eta` trials continues from a rung; at least 2.
        least: The smallest rung, at most `epochs`. Default: 1.

    >>> rungs(81, eta=3), rungs(10, eta=4, least=2)
    ([1, 3, 9, 27, 81], [2, 10])
    """
    positive(epochs, "epochs")
    integer(2)(eta, "eta")
    integer(1, epochs)(least, "least", hint=f"a run has {epochs} epochs")
    found, rung = [], epochs
    while rung >= least:
        found.append(rung)
        rung //= eta  # the floor of a floor is the floor of the whole
    return found[::-1]


def kept(count: int, eta: int) -> int:
    """Return how many of `count` trials continue from a rung: floor(count / eta), at least one.

    >>> kept(64, eta=4), kept(10, eta=4), kept(3, eta=4)
    (16, 2, 1)
    """
    return max(count // eta, min(count, 1))


def keep(scores: Iterable[float | None], count: int) -> np.ndarray[Any, Any]:
    """Return the indices of the `count` best scores, the best first.

    There are exactly `count` of them, even if some of their scores are None or not finite.

    Args:
        scores: One for each trial.
        count: The number of indices, at most the number of scores.

    >>> keep([0.3, None, 0.1, 0.3], count=2)
    array([2, 0])
    """
    numbers = _numbers(scores)
    integer(0, len(numbers))(count, "count")
    return np.argsort(numbers, kind="stable")[:count]  # a stable sort, which puts NaN last


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Trials that start together and are compared at the same rungs.

    Args:
        count: Number of trials at the start.
        rungs: Epochs after which they are compared, the last of them the end.
        eta: One in `eta` trials continues from a rung to the next.

    >>> Bracket(64, (1, 4, 16), eta=4).counts
    [64, 16, 4]
    """

    count: int
    rungs: tuple[int, ...]
    eta: int

    @property
    def counts(self) -> list[int]:
        """The number of trials that train up to each rung."""
        counts = [self.count]
        for _ in self.rungs[1:]:
            counts.append(kept(counts[-1], self.eta))
        return counts

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first and the last epoch of the training to each rung."""
        return list(itertools.pairwise((0, *self.rungs)))

    @property
    def epochs(self) -> int:
        """Epochs that all trials train, in total."""
        parts = zip(self.counts, self.spans, strict=True)
        return sum(count * (end - begin) for count, (begin, end) in parts)


def hyperband(epochs: int, eta: int, least: int = 1) -> list[Bracket]:
    """Return the brackets of Hyperband, from the one that halves most to the one that never does.

    With s + 1 rungs, a bracket starts ceil(n * eta^s / (s + 1)) trials, where n is the number of
    brackets, so that all brackets train for about the same number of epochs.

    Args:
        epochs: Epochs of a whole run.
        eta: One in `eta` trials continues from a rung to the next.
        least: The smallest rung. Default: 1.

    Reference: Li et al., Hyperband: a novel bandit-based approach to hyperparameter optimization,
    JMLR 18, 2018.

    >>> [bracket.counts for bracket in hyperband(27, eta=3)]
    [[27, 9, 3, 1], [12, 4, 1], [6, 2], [4]]
    """
    all_rungs = tuple(rungs(epochs, eta, least))
    n = len(all_rungs)
    return [
        Bracket(-(-n * eta**s // (s + 1)), all_rungs[n - 1 - s :], eta) for s in reversed(range(n))
    ]


def population(scores: Sequence[float | None], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the member whose weights each member continues with, by truncation selection.

    Each of the worst members continues from a random one of the best. The worst are a fifth of the
    members, rounded down, but at least one, and also all that failed or diverged; the best are the
    same number, without any that failed. Always draws n random numbers.

    Args:
        scores: One for each member.
        rng: Draws the sources.

    Reference: Jaderberg et al., Population based training of neural networks, 2017.

    >>> population([0.5, 0.1, None, 0.3], np.random.default_rng(0))
    array([0, 1, 1, 3])
    """
    numbers = _numbers(scores)
    n, worst, draws = len(numbers), np.isnan(numbers), rng.random(len(numbers))
    cut, ranked = min(max(n // 5, 1), n // 2), keep(scores, n)
    best = ranked[: min(max(cut, 1), n - worst.sum())]
    worst[ranked[n - cut :]] = True
    worst[best] = False
    drawn = best[(draws * len(best)).astype(int)] if len(best) else ranked
    return np.where(worst & (len(best) > 0), drawn, np.arange(n))


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


def _numbers(scores: Iterable[float | None]) -> np.ndarray[Any, Any]:
    """Return the scores with NaN for missing and infinite ones: an infinity would win otherwise."""
    numbers = np.array([np.nan if score is None else score for score in scores], np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
