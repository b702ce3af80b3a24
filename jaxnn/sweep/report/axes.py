"""How parameters and scores lie on the axes of the report."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...page.drawing import FARTHEST, drawable
from ...page.ticks import linear_ticks, log_ticks, set_ticks
from ...page.words import label, number
from ..dimensions import Choice, Dimension, Grid, Int, Log, Uniform
from ..reading import Sweep

# Two numbers whose multiples fill the unit square evenly (Roberts' R2 sequence).
SPREADS = (0.7548776662, 0.5698402910)
EDGE = 0.05  # a value this share of the range from its end is at the edge


def place(dimension: Dimension, value: Any, trial: int, spread: int = 0) -> float:
    """Where on its axis a value is: itself, or an option's number.

    The dots of an option, or of one of a few whole numbers, are spread around it, each trial's
    always by the same bit. Two axes of a picture spread by `spread` 0 and 1.
    """
    off = (SPREADS[spread] * (trial + 1)) % 1 - 0.5
    if isinstance(dimension, Choice | Grid):
        return dimension.index(value) + 0.5 * off
    if _spread(dimension):
        return value + 0.4 * off
    return _drawn(dimension, value)


def set_axis(panel: Any, which: str, dimension: Dimension, ticks: int = 6) -> None:
    """Give the panel's axis "x" or "y" the range of the dimension, its scale and readable ticks."""
    axis = getattr(panel, f"{which}axis")
    limits, scale = getattr(panel, f"set_{which}lim"), getattr(panel, f"set_{which}scale")
    if isinstance(dimension, Choice | Grid):
        names = [_cut(number(option)) for option in dimension.options]
        every = -(-len(names) // 12)
        axis.set_ticks(range(0, len(names), every), names[::every])
        limits(-0.5, len(names) - 0.5)
        return
    low, high = _drawn(dimension, dimension.low), _drawn(dimension, dimension.high)
    if low == high:  # both are too far away to be drawn
        air = 0.01 * abs(low) or 0.01
        low, high = low - air, high + air
    if dimension.log:
        scale("log")
        share = (high / low) ** 0.04
        limits(low / share, high * share)
        set_ticks(axis, log_ticks(low, high, ticks))
        return
    air = 0.5 if _spread(dimension) else 0.04 * (high - low)
    limits(low - air, high + air)
    set_ticks(axis, linear_ticks(low, high, ticks, whole=isinstance(dimension, Int)))


class ScoreScale(NamedTuple):
    """The axis of a score: from `low` to `high`, `beyond` of the numbers lie past its worse end."""

    low: float
    high: float
    log: bool
    beyond: int

    def clipped(self, value: float) -> float:
        """The value, or the end of the axis that it lies beyond."""
        return min(max(drawable(value), self.low), self.high)

    def on(self, panel: Any, below: float = 0.06, above: float = 0.06) -> None:
        """Give the panel's vertical axis this range, with air of such shares of it."""
        if self.log:
            panel.set_yscale("log")
            size = self.high / self.low
            panel.set_ylim(self.low / size**below, self.high * size**above)
            set_ticks(panel.yaxis, log_ticks(self.low, self.high))
        else:
            size = self.high - self.low
            panel.set_ylim(self.low - below * size, self.high + above * size)
            set_ticks(panel.yaxis, linear_ticks(self.low, self.high))


def score_scale(numbers: Sequence[float], maximize: bool, whole: bool = False) -> ScoreScale:
    """An axis on which the good scores can be told apart, whatever the worst ones are.

    The worst tenth may lie beyond its end where the axis would be twice as long with it; not where
    `whole` says so. Logarithmic where what is to be minimized spans more than a factor of ten.

    >>> score_scale([0.5, 0.6, 0.7], maximize=True)
    ScoreScale(low=0.5, high=0.7, log=False, beyond=0)
    >>> score_scale([0.01] + 9 * [0.02] + [9.0], maximize=False).beyond
    1
    """
    found = np.asarray([*map(drawable, numbers)], float)
    log = bool(not maximize and found.min() > 0 and found.max() > 10 * found.min())
    heights = np.log10(found) if log else found
    heights = heights if maximize else -heights  # more is better
    low, high, usual = (float(np.quantile(heights, q)) for q in (0.0, 1.0, 0.1))
    if not whole and high - low > 2 * (high - usual) > 0:
        low = usual
    beyond = int((heights < low).sum())
    if low == high:
        air = abs(low) * 0.01 or 0.01
        low, high = low - air, high + air
    low, high = (low, high) if maximize else (-high, -low)
    low, high = (10.0**low, 10.0**high) if log else (low, high)
    return ScoreScale(low, high, log, beyond)


def at_edge(dimension: Dimension, value: Any) -> str | None:
    """Which edge of its range a value lies at, "lower" or "upper"; options have no edges.

    >>> at_edge(Log(1e-4, 1e-1), 0.09), at_edge(Log(1e-4, 1e-1), 0.01)
    ('upper', None)
    """
    if isinstance(dimension, Choice):
        return None
    if isinstance(dimension, Grid):
        last = len(dimension.options) - 1
        return {0: "lower", last: "upper"}.get(dimension.index(value)) if last else None
    if isinstance(dimension, Int):
        return {dimension.low: "lower", dimension.high: "upper"}.get(value)
    share = dimension.unit(value)
    return "lower" if share < EDGE else "upper" if share > 1 - EDGE else None


def metric_label(sweep: Sweep) -> str:
    """The axis label of the score, which says which way is better."""
    return f"{label(sweep.metric)} ({'more' if sweep.maximize else 'less'} is better)"


def _drawn(dimension: Uniform | Log | Int, value: float) -> float:
    """A value as a figure can hold it: on a log axis above 0."""
    return max(drawable(value), 1 / FARTHEST) if dimension.log else drawable(value)


def _spread(dimension: Dimension) -> bool:
    """Whether it is of so few whole numbers that dots would hide each other."""
    few = isinstance(dimension, Int) and dimension.high - dimension.low <= 16
    return few and not dimension.log


def _cut(text: str, most: int = 14) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
