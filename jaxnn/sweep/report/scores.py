"""Scores of trials: their axis, the best so far, and the learning curves.

Scores of complete trials are on the axis. The score of a trial that halving stopped is not
comparable, because it is after fewer epochs: such trials are drawn in a strip beyond the worse end
of the axis, and trials that diverged or failed in a second strip.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...html import page
from ..dimensions import Choice, Dimension, Grid
from ..ranges import Int, LogNormal, Normal
from ..snapshot import Sweep
from ..tables import BROKEN

EDGE = 0.05  # within this fraction of the range from its end, a value is at the edge
FARTHEST = 1e100  # larger numbers would overflow on an axis


def at_edge(dimension: Dimension, value: Any) -> str | None:
    """Return the edge of its range that a value is at, "lower" or "upper"; None if at no edge.

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
    """Return the edge of a parameter's range that the best trial is at."""
    values = sweep.best.values if sweep.best else {}
    return at_edge(sweep.dimensions[name], values[name]) if name in values else None


# Scores on an axis.


class ScoreScale(NamedTuple):
    """An axis of scores from `low` to `high`; `beyond` scores are past its worse end."""

    low: float
    high: float
    log: bool
    beyond: int

    def clipped(self, value: float) -> float:
        """Return the value, clipped to the ends of the axis."""
        return min(max(value, self.low), self.high)


def score_scale(numbers: Sequence[float], maximize: bool, whole: bool = False) -> ScoreScale:
    """Return an axis on which good scores can be distinguished, even if some are very bad.

    If the worst tenth of the scores would double the axis, they are beyond its end, unless `whole`.
    The axis is logarithmic if a metric to minimize spans more than a factor of ten.

    >>> score_scale([0.5, 0.6, 0.7], maximize=True)
    ScoreScale(low=0.5, high=0.7, log=False, beyond=0)
    >>> score_scale([0.01] + 9 * [0.02] + [9.0], maximize=False).beyond
    1
    """
    found = np.asarray([min(max(n, -FARTHEST), FARTHEST) for n in numbers], float)
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


def known_best(sweep: Sweep) -> list[tuple[float, float, int]]:
    """Return (seconds of computing, score, trial) whenever a better score became known.

    The last entry repeats the best at the end of the last cohort.
    """
    elapsed, found = 0.0, []
    best: tuple[float, int] | None = None
    probes = {group.name: group.probe_seconds for group in sweep.groups}  # each before its cohorts
    for cohort in sweep.cohorts:
        for seconds in (probes.pop(cohort.group, 0.0), cohort.seconds):
            elapsed += max(seconds, 0.0) if math.isfinite(seconds) else 0.0
        before = best
        for trial in {trial for trial, _ in cohort.lanes} & sweep.scores.keys():
            value = sweep.at(trial, cohort.epoch_to)
            if value is not None and (best is None or sweep.better(value, best[0])):
                best = value, trial
        if best is not None and best != before:
            found.append((elapsed, *best))
    return [*found, (elapsed, *best)] if best and found[-1][0] < elapsed else found


def score_caption(sweep: Sweep, scale: ScoreScale) -> str:
    """Return an explanation of the marks of `draw_scores`."""
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
    rungs = " Dotted: rungs, after which only better trials continue, so that the band jumps."
    return page.section(
        "progress",
        "Best so far",
        page.plot(
            "progress",
            f"Left: by trials. {score_caption(sweep, score_axis(sweep))} The line is the best "
            "until then. Right: by time, the best score known, after any epoch, so that it also "
            "improves with epochs. The time of several workers is added; the time between runs "
            "is not counted.",
        ),
    ) + page.section(
        "curves",
        "Learning curves",
        page.plot(
            "curves",
            "The pale band contains the middle 80 % of all runs of that epoch (a run is a trial "
            "with one seed), the darker one the middle half, the thick line is their median. Thin: "
            "the best trials, a line per seed, the very best in orange."
            + (rungs if len(sweep.rungs) > 1 else ""),
        ),
    )
