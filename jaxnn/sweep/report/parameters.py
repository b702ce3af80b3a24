"""How the score depends on the parameters: importance, slices, pairs, and parallel coordinates.

The importance of a parameter is how well it alone predicts the ranks of held-out trials, the
held-out R^2 of the ranks r of the scores,

    1 - sum_i (r_i - f_i)^2 / sum_i (r_i - m_i)^2,

where f_i is the prediction for trial i from the value of the parameter by all other trials (a
polynomial of its position in the range, or the mean of the trials with the same option), and m_i is
the mean rank of all other trials. At 1, the parameter alone determines the rank; at 0 or below, it
does not help. Only trials that have the parameter count.

Among few trials, some parameter always seems to matter. So the same number is computed for shuffled
ranks, and a parameter counts only if it exceeds what shuffling gives in 95 % of sweeps, over all
parameters together (Bonferroni).

Trials that run longer score better for that reason alone. If halving stopped some, all are compared
after the last epoch that each of them reached; otherwise each after its last epoch.

References: Allen, The relationship between variable selection and data augmentation and a method
for prediction, 1974 (held-out errors of a linear fit); Fisher, The design of experiments, 1935
(permutation tests).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...html import charts, page
from ...html.page import count, escaped, format_number, label, shorts
from ...train.metrics import badness
from ..dimensions import Choice, Dimension, Grid
from ..snapshot import Sweep
from ..tables import Trial
from .scores import (
    ScoreScale,
    best_edge,
    dot_size,
    draw_scores,
    drawn_trials,
    position,
    score_axis,
    score_caption,
    set_axis,
)  # fmt: skip

FEWEST = 25  # comparable trials that are needed
LEAST = 10  # of them, that have the parameter
COMPARED = 2000  # trials that are compared: of more, an even sample
SHUFFLES = 1000
ERROR = 0.05  # of sweeps in which a parameter without effect may count
FLEXIBLE = 100  # trials from which a polynomial has degree 4 instead of 2


class Importance(NamedTuple):
    """The prediction of the score from each parameter alone.

    Args:
        shares: the held-out R^2 by parameter; 0 if it does not exceed `chance`.
        chance: what it must exceed; infinite if too few trials have the parameter.
        trials: the number of trials that have it.
        compared: the number of compared trials.
        epoch: after which they are compared; None if each after its last one.
    """

    shares: dict[str, float]
    chance: dict[str, float]
    trials: dict[str, int]
    compared: int
    epoch: int | None


def importance_of(sweep: Sweep) -> Importance | str:
    """Return the importance of the parameters, or why it is unknown."""
    epoch, scores = sweep.common
    if len(sweep.dimensions) == 1:
        return "Only one parameter is swept, so there is nothing to compare it with."
    if len(scores) < FEWEST:
        return (
            f"Too few trials to find out which parameters matter: {count(len(scores), 'trial')} "
            f"can be compared, and at least {FEWEST} are needed."
        )
    if len(set(scores.values())) == 1:
        return "All trials have the same score, so no parameter matters more than another."
    values = {trial.number: trial.values for trial in sweep.trials}
    numbers = sorted(scores)
    if len(numbers) > COMPARED:
        numbers = [numbers[at] for at in np.linspace(0, len(numbers) - 1, COMPARED).astype(int)]
    shares, chance, trials = {}, {}, {}
    for name, dimension in sweep.dimensions.items():
        here = [number for number in numbers if name in values[number]]
        worth = [badness(scores[number], sweep.maximize) for number in here]
        share, limit = alone(
            dimension, [values[n][name] for n in here], worth, ERROR / len(sweep.dimensions)
        )
        shares[name], chance[name], trials[name] = share if share > limit else 0.0, limit, len(here)
    if not any(shares.values()):
        return (
            f"No parameter has an effect beyond chance in {count(len(numbers), 'trial')}: none "
            "predicts alone which trials are better. More trials, or more seeds per trial, may "
            "show one."
        )
    return Importance(shares, chance, trials, len(numbers), epoch)


def alone(
    dimension: Dimension, values: Sequence[Any], worth: Sequence[float], error: float
) -> tuple[float, float]:
    """Return the held-out R^2 of the ranks of `worth` by one parameter, and what it must exceed.

    It returns (0, inf) for fewer than `LEAST` trials, and if nothing varies.

    Args:
        dimension: of the parameter.
        values: of the parameter, one per trial.
        worth: of each trial, finite; only ranks count.
        error: how often a parameter without effect may exceed it.

    >>> from jaxnn.sweep.dimensions import Uniform
    >>> share, limit = alone(Uniform(0, 1), [n / 20 for n in range(20)], range(20), 0.05)
    >>> round(share, 6), 0 < limit < 0.5
    (1.0, True)
    """
    basis = _basis(dimension, values)
    if len(values) < LEAST or basis.shape[1] < 2 or len(set(worth)) < 2:
        return 0.0, math.inf
    random = np.random.default_rng(0)
    ranks = _ranks(worth)
    columns = np.stack([ranks, *(random.permutation(ranks) for _ in range(SHUFFLES))], 1)
    columns -= columns.mean(0)
    q = np.linalg.qr(basis)[0]
    leverage = np.square(q).sum(1)
    # The held-out residual of trial i is e_i / (1 - leverage_i). A trial that alone has its option
    # has leverage 1; its prediction is the mean of the others.
    lonely = leverage > 1 - 1e-9
    from_mean = columns * len(ranks) / (len(ranks) - 1)
    fitted = (columns - q @ (q.T @ columns)) / np.where(lonely, 1.0, 1 - leverage)[:, None]
    held_out = np.where(lonely[:, None], from_mean, fitted)
    shares = 1 - np.square(held_out).sum(0) / np.square(from_mean).sum(0)
    return float(shares[0]), float(np.quantile(shares[1:], 1 - error))


def _basis(dimension: Dimension, values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return the functions of a parameter that fit its effect, one per column."""
    if isinstance(dimension, Choice):
        options = np.array([dimension.index(value) for value in values], int)
        return (options[:, None] == np.unique(options)).astype(float)
    places = np.array([dimension.unit(value) for value in values], float)
    degree = min(4 if len(values) >= FLEXIBLE else 2, len(set(places)) - 1)
    return np.polynomial.legendre.legvander(2 * places - 1, max(degree, 0))


def _ranks(worth: Sequence[float]) -> np.ndarray[Any, Any]:
    """Return ranks from 1; equal numbers share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(worth), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def importance(found: Importance | str, sweep: Sweep) -> str:
    """Return the section of the importances."""
    title = "Which parameters matter"
    if isinstance(found, str):
        return page.section("importance", title, page.note(escaped(found)))
    when = "each after its last epoch"
    if found.epoch is not None:
        when = f"after epoch {found.epoch}, the last that all of them reached"
    names = sorted(found.shares, key=lambda name: -found.shares[name])
    texts = [_text(found, name) for name in names]
    drawn = charts.chart(
        "importance", "Importance by parameter", lambda f: _draw(f, found, names, texts),
        0.3 * len(names) + 0.6,
        "The share of the variance of the trials' ranks that each parameter predicts alone, for "
        "held-out trials (100 %: the parameter determines the rank). "
        f"{count(found.compared, 'trial')} are compared, {when}; each parameter is estimated from "
        "the trials that have it. The pale part is what chance gives: with shuffled ranks, some "
        f"parameter exceeds it in {100 * ERROR:.0f} % of sweeps. Effects that need two parameters "
        "together are not shown. The result holds for the searched ranges: a narrow range hides "
        "what a parameter can do.",
    )  # fmt: skip
    rows = [[n, f"{found.trials[n]:,}", text] for n, text in zip(names, texts, strict=True)]
    table = page.html_table(["parameter", "trials that have it", "share"], rows, (1, 2))
    return page.section("importance", title, drawn, table)


def _text(found: Importance, name: str) -> str:
    if found.chance[name] == math.inf:
        return "too few trials have it"
    share = found.shares[name]
    return f"{100 * share:.0f} %" if share else "no effect beyond chance"


def _draw(figure: Any, found: Importance, names: list[str], texts: list[str]) -> None:
    """Draw a bar per parameter, the largest first, over what chance gives."""
    panel = figure.subplots()
    chance = [
        max(100 * c, 0.0) if math.isfinite(c) else 0.0
        for c in (found.chance[name] for name in names)
    ]
    layers = [(charts.CURVE, [100 * found.shares[name] for name in names]), (charts.BAND, chance)]
    charts.bars(
        panel, [*shorts(names).values()], layers, texts, "share of the variance of ranks, %", 100
    )
    for at, limit in enumerate(chance):
        panel.plot([limit, limit], [at - 0.31, at + 0.31], color=charts.INK, linewidth=1.1)
    panel.set_xticks(range(0, 101, 20))


SHOWN = 1000  # trials in a picture
PERCENT = (10, 20, 35, 50, 65, 80)  # of the ranking, at which colors end
PAIRED = 6  # parameters of the pair maps
SMALL: Any = {"color": charts.SOFT, "fontsize": 6.5}


def parameters(sweep: Sweep, weights: dict[str, float]) -> str:
    """Return the section of the parameters; `weights` are their importances, if known."""
    if sweep.best is None:
        return ""
    names = sorted(sweep.dimensions, key=lambda name: -weights.get(name, 0.0))
    paired, trials = names[:PAIRED], drawn_trials(sweep, SHOWN)
    some = ""
    if len(trials) < len(sweep.ranking):
        some = (
            f" Shown are {len(trials):,} of {len(sweep.ranking):,} trials: the best {SHOWN // 2} "
            "and an even sample of the others."
        )
    parts = [
        page.heading("One parameter at a time"),
        charts.chart(
            "slices", "Score by parameter", lambda f: draw_slices(f, sweep, names, trials),
            2.35 * charts.rows_of(len(names)) + 0.2,
            f"Across: the value of the parameter. Up: {escaped(label(sweep.metric))}, "
            f"{'more' if sweep.maximize else 'less'} is better. "
            f"{score_caption(sweep, score_axis(sweep))}{some}{edge_sentence(sweep, names)}",
        ),
    ]  # fmt: skip
    if len(paired) > 1:
        which = f"{PAIRED} that matter most" if any(weights.values()) else f"first {PAIRED}"
        left_out = f" Shown are the {which}." if len(names) > PAIRED else ""
        parts += [
            page.heading("Two parameters at a time"),
            charts.chart(
                "pairs", "Scores by pairs of parameters",
                lambda f: _draw_pairs(f, sweep, paired, trials), 1.75 * (len(paired) - 1) + 0.5,
                "Each dot is a trial at its two values, colored by its place in the ranking; the "
                f"ring is the best.{left_out} Trials that lack one of the two are not in that "
                "map.",
            ),
        ]  # fmt: skip
    parts += [
        page.heading("All parameters at once"),
        charts.chart(
            "parallel", "Parallel coordinates", lambda f: _draw_parallel(f, sweep, trials), 3.8,
            "Each line is a trial, from its values to its score at the right, colored by its place "
            "in the ranking, the best in orange. Below an axis: the trial does not have it. At the "
            "low end of the last axis: its score is there or worse, or it was stopped before.",
        ),
    ]  # fmt: skip
    return page.section("parameters", "Parameters", *parts)


def edge_sentence(sweep: Sweep, names: Sequence[str]) -> str:
    """Return which parameters of the best trial are at an edge, as a sentence of HTML."""
    at = [f"{escaped(name)} ({edge} edge)" for name in names if (edge := best_edge(sweep, name))]
    return f" <b>The best is at the edge of: {', '.join(at)}.</b>" if at else ""


def draw_slices(figure: Any, sweep: Sweep, names: Sequence[str], trials: Sequence[Trial]) -> None:
    """Draw a panel per parameter: the scores by its values."""
    scale, short = score_axis(sweep), shorts(names)
    for index, (panel, name) in enumerate(
        zip(charts.panels(figure, len(names), sharey=True), names, strict=True)
    ):
        set_axis(panel, "x", sweep.dimensions[name])
        across = functools.partial(_position, sweep, name, 0)
        draw_scores(panel, sweep, trials, across, scale, named=index % charts.COLUMNS == 0)
        title = short[name] + (" (log)" if sweep.dimensions[name].log else "")
        if edge := best_edge(sweep, name):
            style = {"color": charts.BEST, "fontweight": "bold"}
            panel.set_title(f"{short[name]}: best at the {edge} edge", loc="left", **style)
        else:
            panel.set_title(title, loc="left")
        if index % charts.COLUMNS == 0:
            panel.set_ylabel(label(sweep.metric), labelpad=14)


def _position(sweep: Sweep, name: str, spread: int, trial: Trial) -> float | None:
    """Return the position of a trial on the axis of a parameter; None if it does not have it."""
    if name not in trial.values:
        return None
    return position(sweep.dimensions[name], trial.values[name], trial.number, spread)


def _draw_pairs(figure: Any, sweep: Sweep, names: Sequence[str], trials: Sequence[Trial]) -> None:
    """Draw a panel for each two parameters, with trials colored by rank."""
    side, short = len(names) - 1, shorts(names)
    grid, levels = figure.add_gridspec(side, side), rank_levels(sweep)
    for column, row in itertools.combinations_with_replacement(range(side), 2):
        panel = figure.add_subplot(grid[row, column])
        x, y = names[column], names[row + 1]
        set_axis(panel, "x", sweep.dimensions[x], 3)
        set_axis(panel, "y", sweep.dimensions[y], 4)
        here = [trial for trial in trials if x in trial.values and y in trial.values]
        at = {t.number: (_position(sweep, x, 0, t), _position(sweep, y, 1, t)) for t in here}
        for level, color in enumerate(charts.LEVELS):
            some: Any = [point for n, point in at.items() if levels[n] == level]
            charts.dots(panel, *(zip(*some, strict=True) if some else ((), ())), color=color,
                 size=0.85 * dot_size(len(here)))  # fmt: skip
        if sweep.best and (point := at.get(sweep.best.number)):
            charts.ring(panel, *point)  # type: ignore[arg-type]
        if not here:
            panel.text(0.5, 0.5, "never together", transform=panel.transAxes, ha="center",
                       va="center", **SMALL)  # fmt: skip
        panel.tick_params(labelsize=6.5, labelbottom=row == side - 1, labelleft=column == 0)
        if row == side - 1:
            panel.set_xlabel(_wrapped(short[x]))
        if column == 0:
            panel.set_ylabel(_wrapped(short[y]))
    if side > 2:
        _draw_legend(figure.add_subplot(grid[0, -2]))


def _draw_legend(panel: Any) -> None:
    """Draw what the colors mean, in an empty corner of the pair maps."""
    panel.set_axis_off()
    panel.text(0, 1.0, "place in the ranking", transform=panel.transAxes, va="top")
    names = "the worst fifth", *(f"best {share} %" for share in PERCENT[::-1])
    for level, name in enumerate(names):
        height = 0.08 + 0.12 * level
        charts.dots(
            panel,
            [0.03],
            [height],
            charts.LEVELS[level],
            5,
            transform=panel.transAxes,
            clip_on=False,
        )
        panel.text(0.1, height, name, transform=panel.transAxes, va="center", color=charts.SOFT)


def _draw_parallel(figure: Any, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Draw an axis per parameter and one for the score, and a line per trial."""
    panel = figure.subplots()
    panel.set_axis_off()
    names, scale, levels = list(sweep.dimensions), score_axis(sweep), rank_levels(sweep)
    width, alpha = (0.45, 0.4) if len(trials) > 300 else (0.8, 0.75)
    ways = {
        t.number: _way(sweep, t, scale) for t in (*trials, *([sweep.best] if sweep.best else ()))
    }
    layers = [
        (color, width, 0.9 if level == len(charts.LEVELS) - 1 else alpha,
         [ways[t.number] for t in trials if levels[t.number] == level])
        for level, color in enumerate(charts.LEVELS)
    ]  # fmt: skip
    if sweep.best:
        layers.append((charts.BEST, 2.2, 1.0, [ways[sweep.best.number]]))
    for color, thick, opacity, some in layers:
        charts.lines(panel, [range(len(names) + 1)] * len(some), some, color, thick, alpha=opacity)
    worst, best = (scale.low, scale.high) if sweep.maximize else (scale.high, scale.low)
    axes = [(shorts(names)[name], *_ends(sweep, name)) for name in names]
    axes.append((label(sweep.metric), format_number(worst, 3), format_number(best, 3)))
    for at, (title, low, high) in enumerate(axes):
        panel.plot([at, at], [0, 1], color=charts.INK, linewidth=0.9)
        above = {"ha": "center", "va": "bottom"}
        panel.text(at, 1.13, _wrapped(title), fontweight="bold", fontsize=7.5, **above)
        panel.text(at, 1.03, high, color=charts.SOFT, fontsize=7, **above)
        panel.text(at, -0.03, low, ha="center", va="top", color=charts.SOFT, fontsize=7)
    for at, dimension in enumerate(sweep.dimensions.values()):
        if isinstance(dimension, Choice | Grid) and 2 < len(dimension.options) <= 8:
            for option in dimension.options[1:-1]:
                panel.text(
                    at + 0.03, dimension.unit(option), format_number(option), va="center", **SMALL
                )
    if any(len(t.values) < len(names) for t in trials):
        panel.plot(
            [-0.1, len(names) - 0.9], [-0.2, -0.2], color=charts.LINE, linewidth=0.8, linestyle=":"
        )
        panel.text(-0.12, -0.2, "none", ha="right", va="center", color=charts.SOFT, fontsize=7)
    panel.set_xlim(-0.4, len(names) + 0.4)
    panel.set_ylim(-0.24, 1.3)


def rank_levels(sweep: Sweep) -> dict[int, int]:
    """Return the color of each trial by its place in the ranking; the last is the best tenth.

    The other levels end at `PERCENT`.
    """
    many = len(sweep.ranking)
    return {
        trial.number: len(charts.LEVELS)
        - 1
        - int(np.searchsorted(PERCENT, 100 * (rank + 0.5) / many))
        for rank, trial in enumerate(sweep.ranking)
    }


def _way(sweep: Sweep, trial: Trial, scale: ScoreScale) -> list[float]:
    """Return the heights of a trial on the parallel axes."""
    values: Any = trial.values
    spread = 0.25 + 0.5 * ((0.618034 * trial.number) % 1)
    heights = [
        dimension.unit(values[name], spread) if name in values else -0.2
        for name, dimension in sweep.dimensions.items()
    ]
    f = math.log if scale.log else float
    score, low, high = map(f, (scale.clipped(sweep.scores[trial.number].mean), *scale[:2]))
    share = (score - low) / (high - low)
    return [*heights, share if sweep.maximize else 1 - share]


def _ends(sweep: Sweep, name: str) -> tuple[str, str]:
    dimension = sweep.dimensions[name]
    if isinstance(dimension, Choice | Grid):
        return format_number(dimension.options[0]), format_number(dimension.options[-1])
    return format_number(dimension.low), format_number(dimension.high) + (
        ", log" if dimension.log else ""
    )


def _wrapped(name: str) -> str:
    return name.replace(".", ".\n") if len(name) > 13 else name
