"""How the score depends on the parameters: importance, plots, and regions of failures.

The importance of a parameter is how well it alone predicts the ranks of held-out trials, the
held-out R^2 of the ranks r of the scores,

    1 - sum_i (r_i - f_i)^2 / sum_i (r_i - m_i)^2,

where f_i is the prediction for trial i from the value of the parameter by all other trials (a
polynomial of its position in the range, or the mean of the trials with the same option), and m_i is
the mean rank of all other trials. At 1, the parameter alone determines the rank; at 0 or below, it
does not help. Only trials that have the parameter count.

With few trials, some parameter always seems to matter. The importance is therefore also computed
for shuffled ranks, and a parameter counts only if its importance exceeds that of shuffled ranks in
95 % of sweeps, over all parameters together (Bonferroni).

The page has the trials as columns, in the order of the ranking, in at most `BYTES`. If there are
more, half of the page is for the best trials and half for an even sample of the others; trials that
were the best once are always included.

Trials that run longer score better for that reason alone. If halving stopped some trials, all are
therefore compared after the last epoch that all of them reached; otherwise, each is compared after
its last epoch.

References: Allen, The relationship between variable selection and data augmentation and a method
for prediction, 1974 (held-out errors of a linear fit); Fisher, The design of experiments, 1935
(permutation tests).
"""

import bisect
import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import html as page
from ...files.reading import printable
from ...html import LONGEST_NAME, NONE, count, escaped, format_number, label, shorts
from ...train.metrics import badness
from ..dimensions import Choice, Dimension, Grid
from ..ranges import Int, LogUniform, Uniform
from ..score import mean, seed_mean
from ..snapshot import Sweep
from ..tables import BROKEN, Trial
from .scores import STATUSES, best_edge, score_axis, score_caption, short_number

FEWEST = 25  # comparable trials that are needed
LEAST = 10  # of them, that have the parameter
COMPARED = 2000  # trials that are compared: of more, an even sample
SHUFFLES = 1000
ERROR = 0.05  # fraction of sweeps in which a parameter without effect may count
BINS = 5  # parts of a range in which failures are counted
BYTES = 900_000  # of the trials in a page
PAIRED = 6  # parameters of the pair plots
COMMON = 10  # causes of failures in the table
FLEXIBLE = 100  # number of trials from which polynomials have degree 4 instead of 2
COMPARABLE, LESS, LOST, OPEN = range(4)  # kinds of trials


class Importance(NamedTuple):
    """The prediction of the score from each parameter alone.

    Args:
        shares: the held-out R^2 by parameter; 0 if it does not exceed `chance`.
        chance: the value that it must exceed; infinite if too few trials have the parameter.
        trials: the number of trials that have it.
        compared: the number of compared trials.
        epoch: after which they are compared; None if each is compared after its last epoch.
    """

    shares: dict[str, float]
    chance: dict[str, float]
    trials: dict[str, int]
    compared: int
    epoch: int | None


def importance_of(sweep: Sweep) -> Importance | str:
    """Return the importance of the parameters, or the reason why it is unknown."""
    epoch, scores = common_scores(sweep)
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


def common_scores(sweep: Sweep) -> tuple[int | None, dict[int, float]]:
    """Return an epoch at which all trials with a score can be compared, and their scores there.

    If all of them ran to completion, the epoch is None and the scores are their final ones, even if
    their numbers of epochs differ. Otherwise, the epoch is the last one that all of them reached.
    Without any score, the result is (0, {}).
    """
    if sweep.scores and all(trial.status == "done" for trial in sweep.ranking):
        return None, {number: score.mean for number, score in sweep.scores.items()}
    epoch = min((score.epoch for score in sweep.scores.values()), default=0)
    found = {number: mean(sweep.each(number, epoch)) for number in sweep.scores}
    return epoch, {number: score for number, score in found.items() if math.isfinite(score)}


def alone(
    dimension: Dimension, values: Sequence[Any], worth: Sequence[float], error: float
) -> tuple[float, float]:
    """Return the held-out R^2 of the ranks of `worth` by one parameter, and its threshold.

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
    """Return ranks from 1; equal numbers get the mean of their ranks."""
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
    rows = []
    for name, text in zip(names, texts, strict=True):
        chance = found.chance[name]
        limit = min(max(chance, 0.0), 1.0) if math.isfinite(chance) else None
        share = page.bar(text, [("band", limit or 0.0), ("curve", found.shares[name])], limit)
        rows.append([name, f"{found.trials[name]:,}", share])
    return page.section(
        "importance",
        title,
        page.html_table(["parameter", "trials that have it", "share of ranks"], rows, [1], "bars"),
        page.note(
            "The share of the variance of the trials' ranks that each parameter predicts alone, "
            "for held-out trials (100 %: the parameter determines the rank). "
            f"{count(found.compared, 'trial')} are compared, {when}; each parameter is estimated "
            "from the trials that have it. The pale part is what chance gives: with shuffled "
            f"ranks, some parameter exceeds it in {100 * ERROR:.0f} % of sweeps. Effects that need "
            "two parameters together are not shown. The result holds for the searched ranges: a "
            "narrow range hides what a parameter can do.",
            "caption",
        ),
    )


def _text(found: Importance, name: str) -> str:
    if found.chance[name] == math.inf:
        return "too few trials have it"
    share = found.shares[name]
    return f"{100 * share:.0f} %" if share else "no effect beyond chance"


def shown_order(sweep: Sweep, weights: dict[str, float]) -> list[str]:
    """Return the parameters in display order: those of all trials first, each by importance."""
    shared = sweep.ordered
    conditional = sweep.conditional
    return sorted(shared, key=lambda name: (name in conditional, -weights.get(name, 0.0)))


def parameters(sweep: Sweep, names: Sequence[str], known: bool) -> str:
    """Return the section of the parameters.

    Args:
        sweep: the sweep.
        names: the parameters, in the order in which they are shown.
        known: whether this is the order of their importance.
    """
    if sweep.best is None:
        return ""
    scale, metric = score_axis(sweep), escaped(label(sweep.metric))
    worst, best = (scale.low, scale.high) if sweep.maximize else (scale.high, scale.low)
    colors = "".join(f'<i style="background:var(--level{level})"></i>' for level in range(7))
    legend = (
        f'<div class="legend"><span>{metric}: {format_number(worst, 3)}'
        f"{' or worse' if scale.beyond else ''}</span><span>{colors}</span>"
        f"<span>{format_number(best, 3)}</span></div>"
    )
    parts = [
        page.heading("One parameter at a time"),
        page.plot(
            "slices",
            f"Across: the value of the parameter. Up: {metric}, "
            f"{'more' if sweep.maximize else 'less'} is better. "
            f"{score_caption(sweep, scale)}{edge_sentence(sweep, names)}",
        ),
        page.heading("All parameters at once"),
        page.plot(
            "parallel",
            "Each line is a trial, from its values to its score at the end, colored by its score, "
            "the best in orange. Before the beginning of an axis: the trial does not have it, or "
            "its score is not comparable. Drag along an axis to select: the trials outside become "
            "pale in every plot and leave the table, whose filters do the same by keyboard; a "
            "click on the axis removes it.",
            legend,
        ),
    ]
    if len(names) > 1:
        which = f"{PAIRED} that matter most" if known else f"first {PAIRED}"
        left_out = f" Shown are the {which}." if len(names) > PAIRED else ""
        parts += [
            page.heading("Two parameters at a time"),
            page.plot(
                "pairs",
                "Each dot is a trial at its two values, colored by its score; the ring is the "
                f"best.{left_out} Trials that lack one of the two are not in that map.",
                legend,
            ),
        ]
    return page.section("parameters", "Parameters", *parts)


def edge_sentence(sweep: Sweep, names: Sequence[str]) -> str:
    """Return a sentence of HTML about parameters of the best trial that are at an edge."""
    at = [f"{escaped(name)} ({edge} edge)" for name in names if (edge := best_edge(sweep, name))]
    return f" <b>The best is at the edge of: {', '.join(at)}.</b>" if at else ""


def failures(sweep: Sweep) -> str:
    """Return the section of trials that diverged or failed: their regions and their errors."""
    statuses = Counter(trial.status for trial in sweep.trials)
    title = "Failures by region"
    if not statuses["diverged"] + statuses["failed"]:
        return page.section("failures", title, page.note("No trial diverged or failed."))
    parts = [
        page.note(
            f"{statuses['diverged']:,} diverged (a loss, or {escaped(label(sweep.metric))} at the "
            f"end, that is not finite) and {statuses['failed']:,} failed (raised an error), of "
            f"{count(len(sweep.trials) - statuses['asked'], 'trial')} that ran."
        ),
        page.note(
            "The share of trials that diverged or failed in each part of the range of a parameter. "
            "A long bar shows where not to search.",
            "caption",
        ),
        f'<div class="grid">{"".join(_failure_table(sweep, name) for name in sweep.ordered)}</div>',
    ]
    if sweep.causes:
        first = sweep.trials[sweep.causes[0][2][0]]
        rows = [
            [cause[:300], status, f"{len(n):,}", ", ".join(map(str, n[:5])) + " …" * (len(n) > 5)]
            for status, cause, n in sweep.causes[:COMMON]
        ]
        parts.append(page.html_table(["cause", "", "trials", "such as"], rows, [2]))
        if first.error:
            text = page.command(first.error[-4000:])
            parts.append(page.collapsed(f"The error of trial {first.number}", text))
    return page.section("failures", title, *parts)


def _failure_table(sweep: Sweep, name: str) -> str:
    """Return a table for a parameter: the share of failures in each part of its range."""
    lost, ran, parts = failure_counts(sweep, name)
    most = max((bad / all_ for bad, all_ in zip(lost, ran, strict=True) if all_), default=0) or 1
    rows = [
        [part, page.bar(f"{bad} of {all_}", [("bad", bad / all_ / most)]) if all_ else NONE]
        for part, bad, all_ in zip(parts, lost, ran, strict=True)
    ]
    return page.html_table(["value", "lost"], rows, [0], "bars", shorts(sweep.dimensions)[name])


def failure_counts(sweep: Sweep, name: str) -> tuple[list[int], list[int], list[str]]:
    """Return by parts of a range: trials lost, trials that ran, and the names of the parts.

    Each option, and each of few integers, is a part; other ranges have equal parts on their axis.
    """
    dimension: Any = sweep.dimensions[name]
    values: list[tuple[Any, bool]] = [
        (trial.values[name], trial.status in BROKEN)
        for trial in sweep.trials
        if trial.status != "asked" and name in trial.values
    ]
    options = None
    if isinstance(dimension, Choice | Grid):
        options = list(dimension.options)
    elif isinstance(dimension, Int):
        if dimension.size <= 8:
            options = dimension.grid(dimension.size)
        dimension = (LogUniform if dimension.log else Uniform)(dimension.low, dimension.high)
    if options is not None:
        size, where = len(options), [options.index(value) for value, _ in values]
        parts = [format_number(option) for option in options]
    else:
        size, edges = BINS, [dimension.at(i / BINS) for i in range(BINS + 1)]
        where = [min(max(bisect.bisect(edges, value) - 1, 0), size - 1) for value, _ in values]
        ends = [format_number(edge, 2) for edge in edges]
        parts = [f"{a} to {b}" for a, b in itertools.pairwise(ends)]
    ran = Counter(where)
    lost = Counter(at for at, (_, broken) in zip(where, values, strict=True) if broken)
    return [lost[i] for i in range(size)], [ran[i] for i in range(size)], parts


# The numbers that the script of the page draws


def parameter_axis(sweep: Sweep, name: str) -> dict[str, Any]:
    """Return the axis of a parameter: its options, or its range."""
    dimension: Any = sweep.dimensions[name]
    known: dict[str, Any] = {
        "name": printable(name, LONGEST_NAME),
        "short": shorts(sweep.dimensions)[name],
        "edge": best_edge(sweep, name),
        "log": bool(getattr(dimension, "log", False)),
    }
    if options := getattr(dimension, "options", None):
        return known | {"options": [short_number(option) for option in options]}
    whole = isinstance(dimension, Int)
    return known | {"low": dimension.low, "high": dimension.high, "whole": whole}


def kind_of(sweep: Sweep, trial: Trial) -> int:
    """Return the kind of a trial's score: comparable, after fewer epochs, or missing."""
    if trial.number in sweep.scores:
        return COMPARABLE if trial.number in sweep.compared else LESS
    return LOST if trial.status in BROKEN else OPEN


def embedded(sweep: Sweep, once: Collection[int], size: int = BYTES) -> list[Trial]:
    """Return the trials of the page: by ranking, then those without a score.

    Args:
        sweep: the sweep.
        once: the numbers of the trials that were the best once.
        size: maximum total number of bytes. Default: `BYTES`.
    """
    ranked = {trial.number for trial in sweep.ranking}
    trials = [*sweep.ranking, *(trial for trial in sweep.trials if trial.number not in ranked)]
    some = [trials[at] for at in np.linspace(0, len(trials) - 1, 200).astype(int)] if trials else []
    text = json.dumps(columns(sweep, some, [*sweep.dimensions]), separators=(",", ":"))
    most = int(size / max(len(text) / 200, 1))
    if len(trials) <= most:
        return trials
    kept = {
        *range(most // 2),
        *np.linspace(most // 2, len(trials) - 1, most - most // 2).astype(int),
    }
    return [trial for at, trial in enumerate(trials) if at in kept or trial.number in once]


def columns(sweep: Sweep, trials: Sequence[Trial], names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the trials as columns; an option is its index."""
    places = {trial.number: rank for rank, trial in enumerate(sweep.ranking, 1)}
    statuses = list(STATUSES)
    scores = [sweep.scores.get(trial.number) for trial in trials]
    values: list[list[Any]] = []
    for name in names:
        dimension: Any = sweep.dimensions[name]
        place = dimension.index if hasattr(dimension, "options") else short_number
        values.append([place(t.values[name]) if name in t.values else None for t in trials])
    halves = [None if s is None or len(s.each) < 2 else seed_mean(s.each).half for s in scores]
    return {
        "number": [trial.number for trial in trials],
        "rank": [places.get(trial.number) for trial in trials],
        "status": [statuses.index(trial.status) for trial in trials],
        "kind": [kind_of(sweep, trial) for trial in trials],
        "score": [None if score is None else short_number(score.mean) for score in scores],
        "half": [None if half is None else short_number(half, 2) for half in halves],
        "epochs": [None if score is None else score.epoch for score in scores],
        "values": values,
    }
