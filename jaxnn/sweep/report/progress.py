"""How the sweep and its trials got better: the best so far, and the learning curves."""

from typing import Any

import numpy as np

from ...page import html
from ...page.drawing import BAND, BEST, CURVE, INK, drawable, svg
from ...page.words import label
from ...train.directions import direction_of
from ..reading import Sweep
from .axes import linear_ticks, metric_label, score_scale, scores, set_ticks, whole_runs, words
from .parameters import shown

MOST = 2000  # dots in a picture
UNITS = (("seconds", 1), ("minutes", 60), ("hours", 3600))


def progress(sweep: Sweep) -> str:
    """The section of the best so far and that of the curves."""
    if sweep.best is None:
        return ""
    scale = whole_runs(sweep)
    first = html.section(
        "progress",
        "Best so far",
        html.figure(
            svg("progress", "Best score so far", lambda f: best_so_far(f, sweep, scale), 2.9),
            f"Left: by trials. {words(sweep, scale)} The line is the best until then. Right: by "
            "time: the best known after so much computing, whatever the epoch, so that it rises "
            "with the epochs too; what several workers computed at once is added up, time between "
            "interrupted runs is not counted.",
        ),
    )
    names = curve_names(sweep)
    second = html.section(
        "curves",
        "Learning curves",
        html.figure(
            svg("curves", "Learning curves", lambda f: curves(f, sweep, names), 3.1),
            "The pale band holds the middle 80 % of all runs of that epoch (a run is a trial with "
            "one seed), the darker one the middle half, the thin line their median. Orange: the "
            "best trial, a line a seed."
            + (
                " Dotted: rungs, after which only better trials continue, so that the band jumps."
                if len(sweep.rungs) > 1
                else ""
            ),
        ),
    )
    return first + second


def best_so_far(figure: Any, sweep: Sweep, scale: Any) -> None:
    """The best score against trials, and against seconds of computing."""
    left, right = figure.subplots(1, 2)
    finalists = sorted(trial.number for trial in sweep.finalists)
    means = [sweep.scores[number].mean for number in finalists]
    best = np.maximum.accumulate(means) if sweep.maximize else np.minimum.accumulate(means)
    steps(left, [n + 1 for n in finalists], [scale.clipped(b) for b in best], len(sweep.trials))
    scores(left, sweep, shown(sweep, MOST), lambda trial: trial.number + 1, scale)
    left.set_xlabel("trials, in the order in which they were asked")
    left.set_title(metric_label(sweep))
    left.set_xlim(0, len(sweep.trials) + 1)
    set_ticks(left.xaxis, linear_ticks(0, len(sweep.trials), whole=True))
    seconds, known = against_seconds(sweep)
    if seconds:
        unit, size = next(u for u in UNITS if seconds[-1] < 180 * u[1] or u is UNITS[-1])
        known_scale = score_scale(known, sweep.maximize, whole=True)
        heights = [known_scale.clipped(value) for value in known]
        steps(right, [s / size for s in seconds], heights, seconds[-1] / size)
        known_scale.on(right)
        right.set_xlim(0, 1.02 * seconds[-1] / size)
        set_ticks(right.xaxis, linear_ticks(0, seconds[-1] / size))
        right.set_title(f"best {label(sweep.metric)} known")
        right.set_xlabel(f"{unit} of computing, compiling included")


def steps(panel: Any, x: list[float], y: list[float], end: float) -> None:
    """A line that stays until the next point."""
    if x[-1] == end:
        panel.plot(x[-1], y[-1], marker="o", markersize=4, color=BEST)
    panel.step([*x, end], [*y, y[-1]], where="post", color=BEST, linewidth=1.8)


def against_seconds(sweep: Sweep) -> tuple[list[float], list[float]]:
    """After each cohort: the computing until then, and the best that is known by then."""
    elapsed, best = 0.0, None
    seconds, known = [], []
    probes = {group.name: group.probe_seconds for group in sweep.groups}  # each before its cohorts
    for cohort in sweep.cohorts:
        elapsed += max(drawable(probes.pop(cohort.group, 0.0)), 0.0)
        elapsed += max(drawable(cohort.seconds), 0.0)
        for number in {number for number, _ in cohort.lanes} & set(sweep.scores):
            value = sweep.at(number, cohort.epoch_to)
            if value is not None and (best is None or sweep.better(value, best)):
                best = value
        if best is not None:
            seconds.append(elapsed)
            known.append(best)
    return seconds, known


def curve_names(sweep: Sweep) -> list[str]:
    """The metrics to draw, at most three: the one compared first, then that on training data."""
    plain = sweep.metric.removeprefix("validation_")
    wanted = [sweep.metric, plain, "validation_loss", "loss"]
    return list(dict.fromkeys(name for name in wanted if name in sweep.curves))[:3]


def curves(figure: Any, sweep: Sweep, names: list[str]) -> None:
    """A panel a metric: the quantiles over trials at each epoch, and the best trial's seeds."""
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    for panel, name in zip(panels, names, strict=True):
        by_epoch: dict[int, list[float]] = {}
        for seeds in sweep.curves[name].values():
            for curve in seeds.values():
                for epoch, value in curve:
                    if value is not None:
                        by_epoch.setdefault(epoch, []).append(drawable(value))
        epochs = sorted(by_epoch)
        if not epochs:
            continue
        shares = (0.1, 0.25, 0.5, 0.75, 0.9)
        bands = np.array([np.quantile(by_epoch[epoch], shares) for epoch in epochs]).T
        lone = len(epochs) == 1
        around = [epochs[0] - 0.3, epochs[0] + 0.3] if lone else epochs
        if lone:
            bands = np.repeat(bands, 2, 1)
        panel.fill_between(around, bands[0], bands[4], color=BAND, alpha=0.45, linewidth=0)
        panel.fill_between(around, bands[1], bands[3], color=BAND, linewidth=0)
        panel.plot(around, bands[2], color=CURVE, linewidth=1)
        chosen = [bands]
        for curve in sweep.curves[name].get(sweep.best.number, {}).values() if sweep.best else ():
            x = [e for e, v in curve if v is not None]
            y = [drawable(v) for _, v in curve if v is not None]
            panel.plot(x, y, color=BEST, linewidth=1.3, marker="o" if lone else None, markersize=4)
            chosen.append(np.array(y))
        numbers = np.concatenate([np.ravel(one) for one in chosen])
        minimized = direction_of(name) == "minimize"  # a loss, whatever the task
        if (not sweep.maximize) if name == sweep.metric else minimized:
            score_scale(list(numbers), maximize=False, whole=True).on(panel)
        for rung in sweep.rungs[:-1]:
            panel.axvline(rung, color=INK, linewidth=0.9, linestyle=":")
        panel.set_title(label(name))
        panel.set_xlabel("epoch")
        set_ticks(
            panel.xaxis, linear_ticks(epochs[0], epochs[-1], whole=True) if not lone else epochs
        )
