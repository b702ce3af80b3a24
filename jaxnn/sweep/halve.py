"""Which trials continue: successive halving, Hyperband and population-based training.

Exact functions of numbers, without files or clocks. Scores are smaller for better; None, NaN, and
infinities of either sign, of trials that failed or diverged, come after all others, and ties go to
the earlier trial.

    rungs       the epochs at which trials are compared, the last included
    keep        the best of some trials, exactly as many as asked for
    hyperband   the brackets of a sweep: how many trials start, and the rungs of each
    population  who takes over whose weights, and `perturbed` what values it tries from there
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .space import Choice, Dimension, Grid, Int, Space, Values

FACTORS = (0.8, 1.2)
"""What `perturbed` multiplies a number by, one or the other."""


def rungs(epochs: int, eta: int, least: int = 1) -> list[int]:
    """The epochs after which trials are compared: floor(epochs / eta^k), the smallest first.

    The last is `epochs` itself; none is below `least`. Raises ValueError for less than one epoch,
    for `eta` below 2, and for `least` above `epochs`.

    >>> rungs(81, eta=3), rungs(10, eta=4, least=2)
    ([1, 3, 9, 27, 81], [2, 10])
    """
    if epochs < 1:
        raise ValueError(f"a trial runs for at least 1 epoch, got epochs={epochs!r}")
    if not isinstance(eta, int) or eta < 2:
        raise ValueError(f"eta is a whole number from 2 on: one in eta continues; got eta={eta!r}")
    if not 1 <= least <= epochs:
        raise ValueError(f"the first rung is within 1 .. {epochs} epochs, got least={least!r}")
    found, rung = [], epochs
    while rung >= least:
        found.append(rung)
        rung //= eta  # the floor of a floor is the floor of the whole
    return found[::-1]


def kept(count: int, eta: int) -> int:
    """How many of `count` trials continue from a rung: floor(count / eta), but at least one.

    >>> kept(64, eta=4), kept(10, eta=4), kept(3, eta=4)
    (16, 2, 1)
    """
    return max(count // eta, min(count, 1))


def keep(scores: Iterable[float | None], count: int) -> np.ndarray[Any, Any]:
    """The indices of the `count` best scores, the best first.

    Exactly `count`, even if that takes in some that are None or not finite. Raises ValueError
    if there are fewer scores.

    >>> keep([0.3, None, 0.1, 0.3], count=2)
    array([2, 0])
    """
    numbers = _numbers(scores)
    if not 0 <= count <= len(numbers):
        raise ValueError(f"{len(numbers)} scores have no {count!r} best; ask for at most all")
    return np.argsort(numbers, kind="stable")[:count]  # a stable sort, which puts NaN last


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Trials that start together and are halved at the same rungs.

    Args:
        count: trials at the start.
        rungs: epochs after which they are compared, the last of them the end.
        eta: one in `eta` continues from a rung to the next.

    >>> Bracket(64, (1, 4, 16), eta=4).counts
    [64, 16, 4]
    """

    count: int
    rungs: tuple[int, ...]
    eta: int

    @property
    def counts(self) -> list[int]:
        """How many trials train up to each rung."""
        counts = [self.count]
        for _ in self.rungs[1:]:
            counts.append(kept(counts[-1], self.eta))
        return counts

    @property
    def epochs(self) -> int:
        """Epochs that all trials train, together."""
        parts = zip(self.counts, (0, *self.rungs), self.rungs, strict=False)
        return sum(count * (after - before) for count, before, after in parts)


def hyperband(epochs: int, eta: int, trials: int | None = None, least: int = 1) -> list[Bracket]:
    """The brackets of Hyperband, from the one that halves most often to the one that never does.

    With s + 1 rungs a bracket starts ceil(n * eta^s / (s + 1)) trials, where n is the number of
    brackets, so that all brackets train for about as many epochs.

    Args:
        epochs: of a trial that runs to the end.
        eta: one in `eta` continues from a rung to the next.
        trials: how many there are in all; the brackets come again and again until they are used
            up, and the last starts what is left. None for each bracket once.
        least: the smallest rung.

    Raises ValueError as `rungs` does, and for less than one trial.

    Reference: Li et al., Hyperband: a novel bandit-based approach to hyperparameter optimization,
    JMLR 18, 2018.

    >>> [bracket.counts for bracket in hyperband(27, eta=3)]
    [[27, 9, 3, 1], [12, 4, 1], [6, 2], [4]]
    >>> hyperband(27, eta=3, trials=30)[-1]
    Bracket(count=3, rungs=(3, 9, 27), eta=3)
    """
    all_rungs = tuple(rungs(epochs, eta, least))
    if trials is not None and trials < 1:
        raise ValueError(f"a sweep has at least 1 trial, got trials={trials!r}")
    n = len(all_rungs)
    once = [
        Bracket(-(-n * eta**s // (s + 1)), all_rungs[n - 1 - s :], eta) for s in reversed(range(n))
    ]
    if trials is None:
        return once
    found = []
    while trials > 0:
        bracket = once[len(found) % n]
        found.append(dataclasses.replace(bracket, count=min(bracket.count, trials)))
        trials -= bracket.count
    return found


class Population(NamedTuple):
    """What becomes of each member of a population.

    Args:
        source: whose weights, and values, it continues with; its own where nothing changes.
        changed: whether they are another's.
    """

    source: np.ndarray[Any, Any]
    changed: np.ndarray[Any, Any]


def population(
    scores: Sequence[float | None], rng: np.random.Generator, fraction: float = 0.2
) -> Population:
    """Truncation selection: each of the worst takes over from a random one of the best.

    The worst are floor(fraction * n) members, but at least one, and beyond them all that failed or
    diverged; the best are as many, and none that failed. Draws n numbers whatever the scores.

    Args:
        scores: of each member.
        rng: draws from which of the best.
        fraction: how many are replaced; above 0, at most a half.

    Raises ValueError for a fraction out of its range.

    Reference: Jaderberg et al., Population based training of neural networks, 2017.

    >>> population([0.5, 0.1, None, 0.3], np.random.default_rng(0))
    Population(source=array([0, 1, 1, 3]), changed=array([False, False,  True, False]))
    """
    if not 0 < fraction <= 0.5:
        raise ValueError(f"the fraction replaced is above 0 and at most 0.5, got {fraction!r}")
    numbers = _numbers(scores)
    n, failed = len(numbers), np.isnan(numbers)
    draws, source = rng.random(n), np.arange(n)
    # 0.3 * 10 is a little more than 3, and 0.29 * 100 a little less than 29.
    cut = min(max(int(fraction * n + 1e-9), 1), n // 2)
    ranked = keep(scores, n)
    best = ranked[: min(cut, n - int(failed.sum()))]
    if len(best) == 0:  # a single member, or none that works
        best = ranked[: n - int(failed.sum())][:1]
    worst = failed.copy()
    worst[ranked[n - cut :]] = True
    worst[best] = False
    if len(best) > 0:
        source = np.where(worst, best[(draws * len(best)).astype(int)], source)
    return Population(source, source != np.arange(n))


def perturbed(
    space: Space,
    values: Values,
    rng: np.random.Generator,
    *,
    names: Collection[str] | None = None,
    resample: float = 0.25,
) -> Values:
    """Values near those given: what a member tries from another's weights on.

    A number of a range is multiplied by 0.8 or 1.2 and kept in its range (a whole one moves by at
    least 1), one of a `Grid` moves to a neighbor, a `Choice` stays; but with probability
    `resample` any is drawn again instead. Draws as many numbers whatever comes out.

    Args:
        space: what the values are of.
        values: the values to start from.
        rng: draws the changes.
        names: the dimensions that may change, for weights do not fit another shape; None for all.
        resample: how often a value is drawn again.

    Raises ValueError for a name that the space does not have.

    Reference: Jaderberg et al., Population based training of neural networks, 2017.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep.space import LogUniform
    >>> space = Space(SGD, {"learning_rate": LogUniform(1e-3, 1.0)})
    >>> perturbed(space, {"learning_rate": 0.5}, np.random.default_rng(0), resample=0.0)
    {'learning_rate': 0.4}
    """
    for name in names or ():
        space.active(name, values)  # raises for one that is not there
    draws = rng.random((len(space.dimensions), 3))
    found: Values = {}
    for (name, dimension), (whether, which, at) in zip(
        space.dimensions.items(), draws, strict=True
    ):
        if not space.active(name, found):
            continue
        if name not in values:  # of a branch that was drawn again
            found[name] = dimension.at(float(at))
        elif names is not None and name not in names:
            found[name] = values[name]
        elif whether < resample:
            found[name] = dimension.at(float(at))
        else:
            found[name] = _neighbor(dimension, values[name], up=bool(which >= 0.5))
    return found


def _neighbor(dimension: Dimension, value: Any, up: bool) -> Any:
    if isinstance(dimension, Choice):
        return value
    if isinstance(dimension, Grid):
        index = dimension.index(value) + (1 if up else -1)
        return dimension.options[min(max(index, 0), len(dimension.options) - 1)]
    moved = value * FACTORS[up]
    if isinstance(dimension, Int):
        moved = round(moved)
        if moved == value:
            moved += 1 if up else -1
    return min(max(moved, dimension.low), dimension.high)


def _numbers(scores: Iterable[float | None]) -> np.ndarray[Any, Any]:
    """The scores, NaN for those that are missing or not finite: an infinity would win otherwise."""
    numbers = np.array([np.nan if score is None else score for score in scores], np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
