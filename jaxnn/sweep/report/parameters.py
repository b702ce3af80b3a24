"""How the score hangs on the parameters: slices, pair maps and parallel coordinates."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...page import html
from ...page.drawing import BEST, INK, LEVELS, LINE, SOFT, dots, ring, svg
from ...page.words import escaped, label, number, shorts
from ..dimensions import Choice, Dimension, Grid
from ..reading import Sweep
from ..tables import Trial
from .axes import at_edge, place, scores, set_axis, size, whole_runs, words

MOST = 1000  # trials in a picture: beyond it the best half and an even sample of the others
PERCENT = (10, 20, 35, 50, 65, 80)  # of the ranking, where a color ends
PAIRED = 6  # parameters in the pair maps
MIDDLE: Any = {"ha": "center", "va": "center", "color": SOFT, "fontsize": 6.5}


def parameters(sweep: Sweep, weights: dict[str, float]) -> str:
    """The section of the parameters; `weights` are their importances, where these are known."""
    if sweep.best is None:
        return ""
    names = sorted(sweep.dimensions, key=lambda name: -weights.get(name, 0.0))
    paired = names[:PAIRED]
    trials = shown(sweep)
    some = ""
    if len(trials) < len(sweep.ranking):
        half = f"the best {MOST // 2} and an even sample of the others"
        some = f" Drawn are {len(trials):,} of {len(sweep.ranking):,} trials: {half}."
    rows = -(-len(names) // 3)
    parts = [
        "<h3>One parameter at a time</h3>",
        html.figure(
            svg(
                "slices",
                "Score by parameter",
                lambda f: slices(f, sweep, names, trials),
                2.35 * rows + 0.2,
            ),
            f"Across: the parameter's value. Up: {escaped(label(sweep.metric))}, "
            f"{'more' if sweep.maximize else 'less'} is better. "
            f"{words(sweep, whole_runs(sweep))}{some}{edge_words(sweep, names)}",
        ),
    ]
    if len(paired) > 1:
        side = len(paired) - 1
        which = f"{PAIRED} that matter most" if any(weights.values()) else f"first {PAIRED}"
        left_out = f" The {which}." if len(names) > PAIRED else ""
        parts += [
            "<h3>Two parameters at a time</h3>",
            html.figure(
                svg(
                    "pairs",
                    "Scores by pairs of parameters",
                    lambda f: pairs(f, sweep, paired, trials),
                    1.75 * side + 0.5,
                ),
                "Each dot is a trial at its two values, colored by its place in the ranking: the "
                f"best tenth stands out, the ring is the best.{left_out} Trials that lack one of "
                "the two are not in that map.",
            ),
        ]
    parts += [
        "<h3>All parameters at once</h3>",
        html.figure(
            svg("parallel", "Parallel coordinates", lambda f: parallel(f, sweep, trials), 3.8),
            "Each line is a trial, from its values to its score at the right; colored by its place "
            "in the ranking, the best in orange. Below an axis: the trial does not have it. At the "
            "low end of the last axis: its score is there or worse, or it was stopped before.",
        ),
    ]
    return html.section("parameters", "Parameters", *parts)


def shown(sweep: Sweep, most: int = MOST) -> list[Trial]:
    """The trials to draw, the worst first so that the best are drawn over them."""
    ranking = sweep.ranking
    if len(ranking) > most:
        half = most // 2
        rest = np.linspace(half, len(ranking) - 1, most - half).astype(int)
        ranking = [*ranking[:half], *(ranking[i] for i in rest)]
    return ranking[::-1]


def edge_words(sweep: Sweep, names: Sequence[str]) -> str:
    """Which parameters of the best trial lie at an edge, as a sentence."""
    values = sweep.best.values if sweep.best else {}
    at = [
        f"{escaped(name)} ({at_edge(sweep.dimensions[name], values[name])} edge)"
        for name in names
        if name in values and at_edge(sweep.dimensions[name], values[name])
    ]
    return f" <b>The best lies at the edge of: {', '.join(at)}.</b>" if at else ""


def slices(figure: Any, sweep: Sweep, names: Sequence[str], trials: Sequence[Trial]) -> None:
    """A panel a parameter: the scores by its values."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    panels = np.atleast_2d(figure.subplots(rows, 3, squeeze=False, sharey=True)).ravel()
    scale, short = whole_runs(sweep), shorts(names)
    for index, (panel, name) in enumerate(zip(panels, names, strict=False)):
        dimension = sweep.dimensions[name]
        set_axis(panel, "x", dimension)

        across = functools.partial(_place, name, dimension)
        scores(panel, sweep, trials, across, scale, named=index % 3 == 0)
        title, style = short[name] + (" (log)" if dimension.log else ""), {}
        values = sweep.best.values if sweep.best else {}
        if name in values and (edge := at_edge(dimension, values[name])):
            title = f"{short[name]}: best at the {edge} edge"
            style = {"color": BEST, "fontweight": "bold"}
        panel.set_title(title, loc="left", **style)
        if index % 3 == 0:
            panel.set_ylabel(label(sweep.metric), labelpad=14)
    for panel in panels[len(names) :]:
        panel.set_visible(False)


def _place(name: str, dimension: Dimension, trial: Trial) -> float | None:
    values = trial.values
    return place(dimension, values[name], trial.number) if name in values else None


def pairs(figure: Any, sweep: Sweep, names: Sequence[str], trials: Sequence[Trial]) -> None:
    """A panel for each two parameters, trials colored by their rank."""
    side, short = len(names) - 1, shorts(names)
    grid, levels = figure.add_gridspec(side, side), ranks(sweep)
    for column, row in itertools.combinations_with_replacement(range(side), 2):
        panel = figure.add_subplot(grid[row, column])
        x, y = names[column], names[row + 1]
        set_axis(panel, "x", sweep.dimensions[x], 3)
        set_axis(panel, "y", sweep.dimensions[y], 4)
        here = [trial for trial in trials if x in trial.values and y in trial.values]
        for level, color in enumerate(LEVELS):
            some = [t for t in here if levels[t.number] == level]
            across, up = _places(sweep, (x, y), some)
            dots(panel, across, up, color, 0.85 * size(len(here)))
        if sweep.best and x in sweep.best.values and y in sweep.best.values:
            ring(panel, *(one[0] for one in _places(sweep, (x, y), [sweep.best])))
        if not here:
            panel.text(0.5, 0.5, "never together", transform=panel.transAxes, **MIDDLE)
        panel.tick_params(labelsize=6.5, labelbottom=row == side - 1, labelleft=column == 0)
        if row == side - 1:
            panel.set_xlabel(_wrapped(short[x]))
        if column == 0:
            panel.set_ylabel(_wrapped(short[y]))
    if side > 2:
        _legend(figure.add_subplot(grid[0, -2]))


def _legend(panel: Any) -> None:
    """What the colors mean, where a matrix of maps is empty."""
    panel.set_axis_off()
    panel.text(0, 1.0, "place in the ranking", transform=panel.transAxes, va="top")
    names = "the worst fifth", *(f"best {share} %" for share in PERCENT[::-1])
    for level, name in enumerate(names):
        height = 0.08 + 0.12 * level
        dots(panel, [0.03], [height], LEVELS[level], 5, transform=panel.transAxes, clip_on=False)
        panel.text(0.1, height, name, transform=panel.transAxes, va="center", color=SOFT)


def parallel(figure: Any, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """An axis a parameter and one for the score; a line a trial."""
    panel = figure.subplots()
    names = list(sweep.dimensions)
    scale, levels = whole_runs(sweep), ranks(sweep)
    width, alpha = (0.45, 0.4) if len(trials) > 300 else (0.8, 0.75)
    panel.set_axis_off()
    for level, color in enumerate(LEVELS):
        ways = [_way(sweep, t, scale) for t in trials if levels[t.number] == level]
        _lines(panel, ways, color, width, 0.9 if level == len(LEVELS) - 1 else alpha)
    if sweep.best:
        _lines(panel, [_way(sweep, sweep.best, scale)], BEST, 2.2, 1.0)
    short = shorts(names)
    worst, best = (
        number(one, 3) for one in (scale.low, scale.high)[:: 1 if sweep.maximize else -1]
    )
    ends = [*(_ends(sweep, name) for name in names), (worst, best)]
    titles = [short[name] for name in names] + [label(sweep.metric)]
    for at, (title, (low, high)) in enumerate(zip(titles, ends, strict=True)):
        panel.plot([at, at], [0, 1], color=INK, linewidth=0.9)
        above = {"ha": "center", "va": "bottom"}
        panel.text(at, 1.13, _wrapped(title), fontweight="bold", fontsize=7.5, **above)
        panel.text(at, 1.03, high, color=SOFT, fontsize=7, **above)
        panel.text(at, -0.03, low, ha="center", va="top", color=SOFT, fontsize=7)
    for at, name in enumerate(names):
        dimension = sweep.dimensions[name]
        if isinstance(dimension, Choice | Grid) and 2 < len(dimension.options) <= 8:
            for option in dimension.options[1:-1]:
                height = dimension.unit(option)
                panel.text(at + 0.03, height, number(option), **MIDDLE | {"ha": "left"})
    if any(len(t.values) < len(names) for t in trials):
        panel.plot([-0.1, len(names) - 0.9], [-0.2, -0.2], color=LINE, linewidth=0.8, linestyle=":")
        panel.text(-0.12, -0.2, "none", ha="right", va="center", color=SOFT, fontsize=7)
    panel.set_xlim(-0.4, len(names) + 0.4)
    panel.set_ylim(-0.24, 1.3)


def ranks(sweep: Sweep) -> dict[int, int]:
    """The color of each trial by its place in the ranking; the last level is the best tenth.

    The other levels end where `PERCENT` says.
    """
    many = len(sweep.ranking)
    return {
        trial.number: len(LEVELS) - 1 - int(np.searchsorted(PERCENT, 100 * (rank + 0.5) / many))
        for rank, trial in enumerate(sweep.ranking)
    }


def _places(sweep: Sweep, names: Sequence[str], trials: Sequence[Trial]) -> list[list[float]]:
    return [
        [place(sweep.dimensions[name], t.values[name], t.number, i) for t in trials]
        for i, name in enumerate(names)
    ]


def _way(sweep: Sweep, trial: Trial, scale: Any) -> list[float]:
    values: Any = trial.values
    spread = 0.25 + 0.5 * ((0.618034 * trial.number) % 1)
    heights = [
        dimension.unit(values[name], spread) if name in values else -0.2
        for name, dimension in sweep.dimensions.items()
    ]
    score = scale.clipped(sweep.scores[trial.number].mean)
    ends = (math.log(scale.low), math.log(scale.high)) if scale.log else (scale.low, scale.high)
    share = ((math.log(score) if scale.log else score) - ends[0]) / (ends[1] - ends[0])
    return [*heights, share if sweep.maximize else 1 - share]


def _lines(
    panel: Any, ways: Sequence[Sequence[float]], color: str, width: float, alpha: float
) -> None:
    if ways:
        x = np.arange(len(ways[0]) + 1, dtype=float)
        x[-1] = np.nan
        y = np.concatenate([np.asarray(ways, float), np.full((len(ways), 1), np.nan)], 1)
        panel.plot(np.tile(x, len(ways)), y.ravel(), color=color, linewidth=width, alpha=alpha)


def _ends(sweep: Sweep, name: str) -> tuple[str, str]:
    dimension = sweep.dimensions[name]
    if isinstance(dimension, Choice | Grid):
        return number(dimension.options[0]), number(dimension.options[-1])
    log = ", log" if dimension.log else ""
    return number(dimension.low), number(dimension.high) + log


def _wrapped(name: str) -> str:
    return name.replace(".", ".\n") if len(name) > 13 else name
