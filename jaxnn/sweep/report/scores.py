"""Scores of trials on axes: panels of scores, the best so far, and the learning curves.

Scores of complete trials are on the axis. A trial that halving stopped has a score after fewer
epochs, which is not comparable: it is drawn in a strip beyond the worse end of the axis, and trials
that diverged or failed in a second one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...html import charts, page
from ...html.page import format_number, label
from ...train.metrics import direction_of
from ..dimensions import Choice, Dimension, Grid
from ..ranges import Int, LogNormal, Normal
from ..snapshot import Sweep
from ..tables import BROKEN, Trial

# Two numbers whose multiples fill the unit square evenly (Roberts' R2 sequence).
SPREADS = (0.7548776662, 0.5698402910)
EDGE = 0.05  # within this fraction of the range from its end, a value is at the edge
STOPPED, LOST = 0.13, 0.035  # heights of the strips as fractions of the panel
MOST_LOST, MOST_DOTS = 300, 2000
TIMES = (("seconds", 1), ("minutes", 60), ("hours", 3600))


# Parameters on an axis.


def position(dimension: Dimension, value: Any, trial: int, spread: int = 0) -> float:
    """Return the position of a value on its axis: the number itself, or the index of an option.

    The dots of an option, or of one of a few integers, are spread around it, those of a trial
    always by the same distance. Two axes of a picture use `spread` 0 and 1.
    """
    offset = (SPREADS[spread] * (trial + 1)) % 1 - 0.5
    if isinstance(dimension, Choice | Grid):
        return dimension.index(value) + 0.5 * offset
    if _is_spread(dimension):
        return value + 0.4 * offset
    return _on_axis(dimension, value)


def set_axis(panel: Any, which: str, dimension: Dimension, most: int = 6) -> None:
    """Give the "x" or "y" axis of a panel the range, scale, and ticks of a dimension."""
    if isinstance(dimension, Choice | Grid):
        names = [format_number(option) for option in dimension.options]
        names = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
        every = -(-len(names) // 12)
        getattr(panel, f"{which}axis").set_ticks(range(0, len(names), every), names[::every])
        getattr(panel, f"set_{which}lim")(-0.5, len(names) - 0.5)
        return
    low, high = _on_axis(dimension, dimension.low), _on_axis(dimension, dimension.high)
    if low == high:  # both are too far away to be drawn
        air = 0.01 * abs(low) or 0.01
        low, high = low - air, high + air
    margin = 0.5 / (high - low) if _is_spread(dimension) else 0.04
    charts.set_range(
        panel, which, low, high, log=dimension.log, whole=isinstance(dimension, Int),
        margins=(margin, margin), most=most,
    )  # fmt: skip


def at_edge(dimension: Dimension, value: Any) -> str | None:
    """Return at which edge of its range a value is, "lower" or "upper".

    Options and priors have no edges.

    >>> from jaxnn.sweep import LogUniform
    >>> at_edge(LogUniform(1e-4, 1e-1), 0.09), at_edge(LogUniform(1e-4, 1e-1), 0.01)
    ('upper', None)
    """
    if isinstance(dimension, Choice | Normal | LogNormal):
        return None
    if isinstance(dimension, Grid):
        last = len(dimension.options) - 1
        return {0: "lower", last: "upper"}.get(dimension.index(value)) if last else None
    if isinstance(dimension, Int):
        return {dimension.low: "lower", dimension.last: "upper"}.get(value)
    share = dimension.unit(value)
    return "lower" if share < EDGE else "upper" if share > 1 - EDGE else None


def best_edge(sweep: Sweep, name: str) -> str | None:
    """Return at which edge of a parameter's range the best trial is."""
    values = sweep.best.values if sweep.best else {}
    return at_edge(sweep.dimensions[name], values[name]) if name in values else None


def _on_axis(dimension: Any, value: float) -> float:
    """Return a value as a figure can show it: above 0 on a logarithmic axis."""
    return (
        max(charts.drawable(value), 1 / charts.FARTHEST)
        if dimension.log
        else charts.drawable(value)
    )


def _is_spread(dimension: Dimension) -> bool:
    """Return whether a dimension has so few integers that dots would hide each other."""
    few = isinstance(dimension, Int) and dimension.high - dimension.low <= 16
    return few and not dimension.log


# Scores on an axis.


class ScoreScale(NamedTuple):
    """An axis of scores from `low` to `high`; `beyond` scores are past its worse end."""

    low: float
    high: float
    log: bool
    beyond: int

    def clipped(self, value: float) -> float:
        """Return the value, or the end of the axis that it is beyond."""
        return min(max(charts.drawable(value), self.low), self.high)

    def on(self, panel: Any, below: float = 0.06, above: float = 0.06) -> None:
        """Give the vertical axis of a panel this range, with margins as fractions of it."""
        charts.set_range(panel, "y", self.low, self.high, log=self.log, margins=(below, above))


def score_scale(numbers: Sequence[float], maximize: bool, whole: bool = False) -> ScoreScale:
    """Return an axis on which good scores can be distinguished, whatever the worst ones are.

    If the worst tenth would double the axis, it is beyond its end, unless `whole`. The axis is
    logarithmic if a metric to minimize spans more than a factor of ten.

    >>> score_scale([0.5, 0.6, 0.7], maximize=True)
    ScoreScale(low=0.5, high=0.7, log=False, beyond=0)
    >>> score_scale([0.01] + 9 * [0.02] + [9.0], maximize=False).beyond
    1
    """
    found = np.asarray([*map(charts.drawable, numbers)], float)
    log = bool(not maximize and found.min() > 0 and found.max() > 10 * found.min())
    heights = (np.log10(found) if log else found) * (1 if maximize else -1)  # more is better
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


def score_axis(sweep: Sweep) -> ScoreScale:
    """Return the axis for the scores of the trials that are compared with each other."""
    return score_scale([sweep.scores[t.number].mean for t in sweep.finalists], sweep.maximize)


def drawn_trials(sweep: Sweep, most: int) -> list[Trial]:
    """Return at most `most` trials, the worst first, so that the best are drawn over them.

    Of more trials, they are the best half of `most` and an even sample of the others.
    """
    ranking = sweep.ranking
    if len(ranking) > most:
        half = most // 2
        rest = np.linspace(half, len(ranking) - 1, most - half).astype(int)
        ranking = [*ranking[:half], *(ranking[i] for i in rest)]
    return ranking[::-1]


def dot_size(count: int) -> float:
    """Return the diameter of each of `count` dots, in points."""
    return 2.8 if count > 300 else 3.6 if count > 60 else 5.0


def draw_scores(
    panel: Any,
    sweep: Sweep,
    trials: Sequence[Trial],
    across: Callable[[Trial], float | None],
    scale: ScoreScale,
    named: bool = True,
) -> None:
    """Draw the scores of trials, and strips for those without a comparable score.

    Args:
        panel: of matplotlib.
        sweep: the sweep of the trials.
        trials: trials with a score.
        across: the horizontal position of a trial; None leaves it out.
        scale: of `score_axis`.
        named: whether the strips have names at the left. Default: True.
    """
    lost = [t for t in sweep.trials if t.status in BROKEN]
    short = len(sweep.finalists) < len(sweep.ranking)
    room = 0.3 if short else 0.14 if lost else 0.06
    scale.on(panel, *((room, 0.06) if sweep.maximize else (0.06, room)))
    height = lambda share: share if sweep.maximize else 1 - share  # noqa: E731, from the worse end
    strip = {"transform": panel.get_xaxis_transform()}
    here = [(t, x) for t in trials if (x := across(t)) is not None]
    compared = {trial.number for trial in sweep.finalists}
    complete = [(x, scale.clipped(sweep.scores[t.number].mean))
                for t, x in here if t.number in compared]  # fmt: skip
    cut = [(x, height(STOPPED + 0.05 * ((SPREADS[1] * (t.number + 1)) % 1 - 0.5)))
           for t, x in here if t.number not in compared]  # fmt: skip
    diameter = dot_size(sum(t.number in compared for t in trials))
    charts.dots(
        panel, [x for x, _ in cut], [y for _, y in cut], charts.LEVELS[3], 0.6 * diameter, **strip
    )
    charts.dots(panel, [x for x, _ in complete], [y for _, y in complete], charts.CURVE, diameter)
    crossed = [x for t in lost[:MOST_LOST] if (x := across(t)) is not None]
    charts.crosses(panel, crossed, [height(LOST)] * len(crossed), **strip)
    if sweep.best and (x := across(sweep.best)) is not None:
        charts.ring(panel, x, scale.clipped(sweep.scores[sweep.best.number].mean))
    style: Any = {"transform": panel.transAxes, "ha": "right", "va": "center", "fontsize": 6.5}
    for at, name, any_, color in (
        (STOPPED, "stopped", short, charts.SOFT),
        (LOST, "lost", lost, charts.BAD),
    ):
        if named and any_:
            panel.text(-0.02, height(at), name, color=color, **style)


def score_caption(sweep: Sweep, scale: ScoreScale) -> str:
    """Return what the marks of `draw_scores` mean."""
    text = "A dot is a trial; the ring is the best."
    if len(sweep.finalists) < len(sweep.ranking):
        epochs = {sweep.scores[trial.number].epoch for trial in sweep.finalists}
        length = f"all {sweep.longest} epochs" if epochs == {sweep.longest} else "to its end"
        text = (
            f"A dot is a trial that ran {length}; trials that ran less are in the pale strip, "
            "whatever their score. The ring is the best."
        )
    if any(trial.status in BROKEN for trial in sweep.trials):
        text += " Crosses diverged or failed."
    if scale.beyond:
        text += f" The {scale.beyond:,} worst scores are beyond the axis and drawn at its end."
    return text


# Sections.


def progress(sweep: Sweep) -> str:
    """Return the sections of the best score so far, and of the learning curves."""
    if sweep.best is None:
        return ""
    scale = score_axis(sweep)
    names = _curve_names(sweep)
    rungs = " Dotted: rungs, after which only better trials continue, so that the band jumps."
    return page.section(
        "progress",
        "Best so far",
        charts.chart(
            "progress", "Best score so far", lambda f: _draw_best(f, sweep, scale), 2.9,
            f"Left: by trials. {score_caption(sweep, scale)} The line is the best until then. "
            "Right: by time, the best score known, after any epoch, so that it also improves with "
            "epochs. The time of several workers is added; the time between interrupted runs is "
            "not counted.",
        ),
    ) + page.section(
        "curves",
        "Learning curves",
        charts.chart(
            "curves", "Learning curves", lambda f: _draw_curves(f, sweep, names), 3.1,
            "The pale band contains the middle 80 % of all runs of that epoch (a run is a trial "
            "with one seed), the darker one the middle half, the thin line is their median. "
            "Orange: the best trial, a line per seed."
            + (rungs if len(sweep.rungs) > 1 else ""),
        ),
    )  # fmt: skip


def _draw_best(figure: Any, sweep: Sweep, scale: ScoreScale) -> None:
    """Draw the best score by trials, and by seconds of computing."""
    left, right = figure.subplots(1, 2)
    finalists = sorted(trial.number for trial in sweep.finalists)
    means = [sweep.scores[number].mean for number in finalists]
    best = (np.maximum if sweep.maximize else np.minimum).accumulate(means)
    heights = [scale.clipped(value) for value in best]
    _draw_steps(left, [n + 1 for n in finalists], heights, len(sweep.trials))
    across = lambda trial: trial.number + 1  # noqa: E731
    draw_scores(left, sweep, drawn_trials(sweep, MOST_DOTS), across, scale)
    left.set_xlabel("trials, in the order in which they were asked")
    better = "more" if sweep.maximize else "less"
    left.set_title(f"{label(sweep.metric)} ({better} is better)")
    charts.set_range(
        left, "x", 0, len(sweep.trials), whole=True, margins=(0, 1 / len(sweep.trials))
    )
    seconds, known = best_by_seconds(sweep)
    if seconds:
        unit, size = next(u for u in TIMES if seconds[-1] < 180 * u[1] or u is TIMES[-1])
        known_scale = score_scale(known, sweep.maximize, whole=True)
        known_scale.on(right)
        heights = [known_scale.clipped(value) for value in known]
        _draw_steps(right, [s / size for s in seconds], heights, seconds[-1] / size)
        charts.set_range(right, "x", 0, seconds[-1] / size, margins=(0, 0.02))
        right.set_title(f"best {label(sweep.metric)} known")
        right.set_xlabel(f"{unit} of computing, including compiling")


def _draw_steps(panel: Any, x: list[float], y: list[float], end: float) -> None:
    """Draw a line that is constant until the next point."""
    if x[-1] == end:
        panel.plot(x[-1], y[-1], marker="o", markersize=4, color=charts.BEST)
    panel.step([*x, end], [*y, y[-1]], where="post", color=charts.BEST, linewidth=1.8)


def best_by_seconds(sweep: Sweep) -> tuple[list[float], list[float]]:
    """Return the seconds of computing until the end of each cohort, and the best score by then."""
    elapsed, best = 0.0, None
    seconds, known = [], []
    probes = {group.name: group.probe_seconds for group in sweep.groups}  # each before its cohorts
    for cohort in sweep.cohorts:
        elapsed += max(charts.drawable(probes.pop(cohort.group, 0.0)), 0.0)
        elapsed += max(charts.drawable(cohort.seconds), 0.0)
        for trial in {trial for trial, _ in cohort.lanes} & set(sweep.scores):
            value = sweep.at(trial, cohort.epoch_to)
            if value is not None and (best is None or sweep.better(value, best)):
                best = value
        if best is not None:
            seconds.append(elapsed)
            known.append(best)
    return seconds, known


def _curve_names(sweep: Sweep) -> list[str]:
    """Return at most three metrics: the compared one, that on training data, and the losses."""
    training = sweep.metric.removeprefix("validation_")
    wanted = [sweep.metric, training, "validation_loss", "loss"]
    return list(dict.fromkeys(name for name in wanted if name in sweep.curves))[:3]


def _draw_curves(figure: Any, sweep: Sweep, names: list[str]) -> None:
    """Draw a panel per metric: quantiles over runs by epoch, and the seeds of the best trial."""
    for panel, name in zip(charts.panels(figure, len(names), len(names)), names, strict=True):
        curves = {
            trial: [
                [(e, charts.drawable(v)) for e, v in curve if v is not None]
                for curve in all_.values()
            ]
            for trial, all_ in sweep.curves[name].items()
        }
        by_epoch: dict[int, list[float]] = {}
        for epoch, value in (point for all_ in curves.values() for one in all_ for point in one):
            by_epoch.setdefault(epoch, []).append(value)
        epochs = sorted(by_epoch)
        if not epochs:
            continue
        quantiles = [np.quantile(by_epoch[epoch], (0.1, 0.25, 0.5, 0.75, 0.9)) for epoch in epochs]
        single = len(epochs) == 1
        around = [epochs[0] - 0.3, epochs[0] + 0.3] if single else epochs
        bands = np.array(quantiles * 2 if single else quantiles).T
        panel.fill_between(around, bands[0], bands[4], color=charts.BAND, alpha=0.45, linewidth=0)
        panel.fill_between(around, bands[1], bands[3], color=charts.BAND, linewidth=0)
        panel.plot(around, bands[2], color=charts.CURVE, linewidth=1)
        numbers = [*bands.ravel()]
        for curve in curves.get(sweep.best.number, []) if sweep.best else []:
            y = [value for _, value in curve]
            style = {"marker": "o", "markersize": 4} if single else {}
            panel.plot([epoch for epoch, _ in curve], y, color=charts.BEST, linewidth=1.3, **style)
            numbers += y
        minimized = direction_of(name) == "minimize"  # a loss, whatever the task
        if (not sweep.maximize) if name == sweep.metric else minimized:
            score_scale(numbers, maximize=False, whole=True).on(panel)
        for rung in sweep.rungs[:-1]:
            panel.axvline(rung, color=charts.INK, linewidth=0.9, linestyle=":")
        panel.set_title(label(name))
        panel.set_xlabel("epoch")
        charts.set_ticks(
            panel.xaxis,
            epochs if single else charts.linear_ticks(epochs[0], epochs[-1], whole=True),
        )
