"""How parameters and scores lie on the axes of the report, and the panels of scores.

On a panel of scores those of whole runs are on the axis. A trial that halving stopped has a score,
but after fewer epochs: on the same axis it would show how long the trial ran. It lies in a strip
beyond the worse end of the axis, which shows where in the space trials were stopped; those that
diverged or failed lie in a second one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...page.drawing import BAD, CURVE, FARTHEST, LEVELS, SOFT, crosses, dots, drawable, ring
from ...page.ticks import linear_ticks, log_ticks, set_ticks
from ...page.words import label, number
from ..dimensions import Choice, Dimension, Grid, Int, LogUniform, Uniform
from ..reading import Sweep
from ..tables import BROKEN, Trial

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

    >>> at_edge(LogUniform(1e-4, 1e-1), 0.09), at_edge(LogUniform(1e-4, 1e-1), 0.01)
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


def _drawn(dimension: Uniform | LogUniform | Int, value: float) -> float:
    """A value as a figure can hold it: on a log axis above 0."""
    return max(drawable(value), 1 / FARTHEST) if dimension.log else drawable(value)


def _spread(dimension: Dimension) -> bool:
    """Whether it is of so few whole numbers that dots would hide each other."""
    few = isinstance(dimension, Int) and dimension.high - dimension.low <= 16
    return few and not dimension.log


def _cut(text: str, most: int = 14) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


STOPPED, LOST = 0.13, 0.035  # where the strips are, as a share of the panel's height
MOST_LOST = 300


def whole_runs(sweep: Sweep) -> ScoreScale:
    """The axis for the scores of the trials that are compared with each other."""
    return score_scale([sweep.scores[t.number].mean for t in sweep.finalists], sweep.maximize)


def words(sweep: Sweep, scale: ScoreScale) -> str:
    """What the marks of such a panel mean, as a caption."""
    told = "A dot is a trial; the ring is the best."
    if len(sweep.finalists) < len(sweep.ranking):
        told = (
            f"A dot is a trial that ran {_length(sweep)}; those that ran less lie in the pale "
            "strip, whatever their score. The ring is the best."
        )
    if any(trial.status in BROKEN for trial in sweep.trials):
        told += " Crosses diverged or failed."
    if scale.beyond:
        told += f" The {scale.beyond:,} worst scores lie beyond the axis and are drawn at its end."
    return told


def scores(
    panel: Any,
    sweep: Sweep,
    trials: Sequence[Trial],
    across: Callable[[Trial], float | None],
    scale: ScoreScale,
    named: bool = True,
) -> None:
    """Draw the scores of trials, and strips for those that have none of a whole run.

    Args:
        panel: of matplotlib.
        sweep: whose trials they are.
        trials: those with a score that are drawn.
        across: where on the horizontal axis a trial is; None for one that is not there.
        scale: of `whole_runs`.
        named: whether the strips get their names at the left.
    """
    lost = [t for t in sweep.trials if t.status in BROKEN]
    short = len(sweep.finalists) < len(sweep.ranking)
    room = 0.3 if short else 0.14 if lost else 0.06
    scale.on(panel, *((room, 0.06) if sweep.maximize else (0.06, room)))
    strip = {"transform": panel.get_xaxis_transform()}
    there = [(t, x) for t in trials if (x := across(t)) is not None]
    compared = {trial.number for trial in sweep.finalists}
    whole = [(t, x) for t, x in there if t.number in compared]
    cut = [(t, x) for t, x in there if t.number not in compared]
    diameter = size(sum(t.number in compared for t in trials))
    offs = [(SPREADS[1] * (t.number + 1)) % 1 - 0.5 for t, _ in cut]
    heights = [_up(sweep, STOPPED + 0.05 * off) for off in offs]
    dots(panel, [x for _, x in cut], heights, LEVELS[3], 0.6 * diameter, **strip)
    numbers = [scale.clipped(sweep.scores[t.number].mean) for t, _ in whole]
    dots(panel, [x for _, x in whole], numbers, CURVE, diameter)
    crossed = [x for t in lost[:MOST_LOST] if (x := across(t)) is not None]
    crosses(panel, crossed, [_up(sweep, LOST)] * len(crossed), **strip)
    if sweep.best and (x := across(sweep.best)) is not None:
        ring(panel, x, scale.clipped(sweep.scores[sweep.best.number].mean))
    style: Any = {"transform": panel.transAxes, "ha": "right", "va": "center", "fontsize": 6.5}
    for at, name, here, color in ((STOPPED, "stopped", short, SOFT), (LOST, "lost", lost, BAD)):
        if named and here:
            panel.text(-0.02, _up(sweep, at), name, color=color, **style)


def size(many: int) -> float:
    """The diameter of a dot, in points, where there are so many."""
    return 2.8 if many > 300 else 3.6 if many > 60 else 5.0


def _length(sweep: Sweep) -> str:
    """How long the trials ran that are compared with each other."""
    epochs = {sweep.scores[trial.number].epoch for trial in sweep.finalists}
    return f"all {sweep.longest} epochs" if epochs == {sweep.longest} else "to its end"


def _up(sweep: Sweep, share: float) -> float:
    """A height in the panel, counted from the worse end of the axis."""
    return share if sweep.maximize else 1 - share
