"""Scores of trials: their axis, the best so far, the learning curves, the front, and the rungs.

Scores of complete trials are on the axis. The score of a trial that halving stopped is not
comparable, because it is after fewer epochs: such trials are drawn in a strip beyond the worse end
of the axis, and trials that diverged or failed in a second strip.

The Pareto front of several objectives is a table of its trials, and a picture of all trials.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import html as page
from ...html import count, duration, escaped, format_number, label, shorts, shown
from ...train.metrics import direction_of
from ..dimensions import at_edge
from ..score import Objective
from ..snapshot import Sweep
from ..tables import BROKEN, Trial

FARTHEST = 1e100  # larger numbers would overflow on an axis
LINES = 12  # trials that have learning curves
EPOCHS = 150  # points of a learning curve
BARS = 1000  # cohorts in the timeline
FRONT = 20  # trials of the front in the table
WIDTH, HEIGHT, MARGIN = 640, 360, 56  # of a picture of the front
STATUSES = {
    "done": "completed",
    "stopped": "stopped by halving",
    "running": "in progress",
    "asked": "not run yet",
    "diverged": "diverged",
    "failed": "failed",
}


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

    def share(self, value: float) -> float:
        """Return the relative position of a number between the ends."""
        f = math.log if self.log else float
        return (f(value) - f(self.low)) / (f(self.high) - f(self.low))


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
            value = sweep.means[trial].get(cohort.epoch_to)
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


def front(sweep: Sweep) -> str:
    """Return the section of the front; "" for one objective without constraints."""
    if len(sweep.objectives) == 1 and not sweep.constraints:
        return ""
    by = " and ".join(
        f"{'larger' if one.maximize else 'smaller'} {escaped(label(one.metric))}"
        for one in sweep.objectives
    )
    bounds = ", ".join(escaped(str(bound)) for bound in sweep.constraints)
    found = sweep.front
    text = (
        f"Trials are compared by {by}{f', with {bounds}' if bounds else ''}. The "
        f"{count(len(found), 'trial')} of the front satisfy all constraints, and no other trial "
        "that does is as good in every objective and better in one. The first is nearest to the "
        "best of each objective, scaled to the front: the best trial of the sweep."
    )
    first, *others = sweep.objectives
    plots = [_plot(sweep, first, other) for other in others]
    return page.section("front", "Pareto front", page.note(text), *plots, _table(sweep, found))


def _table(sweep: Sweep, found: Sequence[Trial]) -> str:
    """Return the trials of the front as a table."""
    names = [one.metric for one in sweep.objectives]
    names += [one.metric for one in sweep.constraints if one.metric not in names]
    used = [name for name in sweep.dimensions if any(name in trial.values for trial in found)]
    rows = [
        [
            trial.number,
            *(shown(sweep.measured(trial.number, name)) for name in names),
            *(format_number(trial.values[n], 3) if n in trial.values else page.NONE for n in used),
        ]
        for trial in found[:FRONT]
    ]
    heads = ["trial", *map(label, names), *shorts(used).values()]
    return page.html_table(heads, rows, range(1 + len(names)), "best" if rows else "")


def _plot(sweep: Sweep, first: Objective, other: Objective) -> str:
    """Return a picture of all trials by two objectives; those of the front are filled."""
    points = {
        trial.number: (sweep.measured(trial.number, other.metric), sweep.scores[trial.number].mean)
        for trial in sweep.ranking
        if trial.status == "done"
    }
    known = {n: (x, y) for n, (x, y) in points.items() if x is not None and math.isfinite(x)}
    if len(known) < 2:
        return ""
    across = score_scale([x for x, _ in known.values()], other.maximize, whole=True)
    up = score_scale([y for _, y in known.values()], first.maximize, whole=True)
    members = {trial.number for trial in sweep.front}
    marks = []
    for number, (x, y) in sorted(known.items(), key=lambda item: item[0] in members):
        filled = number in members
        text = f"trial {number}: {label(first.metric)} {shown(y)}, {label(other.metric)} {shown(x)}"
        marks.append(
            f'<circle cx="{MARGIN + across.share(x) * (WIDTH - 2 * MARGIN):.1f}" '
            f'cy="{HEIGHT - MARGIN - up.share(y) * (HEIGHT - 2 * MARGIN):.1f}" '
            f'r="{5 if filled else 4}" fill="{"currentColor" if filled else "none"}" '
            f'stroke="currentColor" stroke-opacity="{1 if filled else 0.45}">'
            f"<title>{escaped(text)}</title></circle>"
        )
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    texts = [
        (MARGIN, bottom + 18, "start", shown(across.low)),
        (right, bottom + 18, "end", shown(across.high)),
        (WIDTH / 2, bottom + 38, "middle", label(other.metric) + " (log)" * across.log),
        (MARGIN - 6, bottom, "end", shown(up.low)),
        (MARGIN - 6, MARGIN + 4, "end", shown(up.high)),
        (MARGIN - 6, MARGIN - 22, "start", label(first.metric) + " (log)" * up.log),
    ]
    written = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="currentColor">'
        f"{escaped(text)}</text>"
        for x, y, anchor, text in texts
    )
    about = f"{label(first.metric)} by {label(other.metric)}; the front is filled"
    frame = f'<path d="M{MARGIN},{MARGIN}V{bottom}H{right}" fill="none" stroke="currentColor"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(about)}" '
        f'style="width:100%;max-width:{WIDTH}px;height:auto">{frame}{written}{"".join(marks)}</svg>'
    )


def survival(sweep: Sweep) -> str:
    """Return the section of the rungs: how many trials reached each, and their scores there."""
    rows = survivors(sweep)
    if not rows:
        return ""
    title = "Survival by rung"
    if len(rows) == 1:
        text = (
            f"No halving: every trial runs {count(rows[0]['epoch'], 'epoch')}. "
            f"{rows[0]['reached']:,} of {count(len(sweep.trials), 'trial')} completed them."
        )
        return page.section("rungs", title, page.note(text))
    heads = {
        "epoch": "epoch",
        "reached": "reached it",
        "stopped": "stopped there",
        "lost": "lost before",
        "running": "in progress",
        "median": "median there",
        "best": "best there",
    }
    most = max(row["reached"] for row in rows) or 1
    cells = [[*(shown(row[key]) for key in heads), _bar(row, most)] for row in rows]
    return page.section(
        "rungs",
        title,
        page.html_table([*heads.values(), "continued of all"], cells, range(len(heads)), "bars"),
        page.note(
            "How many trials reached each rung (pale), and how many of them continued (dark): the "
            f"best by then. Median and best: {escaped(label(sweep.metric))} of all trials that "
            "reached the rung. Lost: diverged or failed since the rung before.",
            "caption",
        ),
    )


def survivors(sweep: Sweep) -> list[dict[str, Any]]:
    """Return for each rung how many trials reached it, and how many stopped or were lost there."""
    rows, before = [], 0
    reach = {number: score.epoch for number, score in sweep.scores.items()}
    broken = [_last_epoch(sweep, trial) for trial in sweep.trials if trial.status in BROKEN]
    for epoch in sweep.rungs:
        reached = [number for number in reach if reach[number] >= epoch]
        there = Counter(t.status for t in sweep.trials if reach.get(t.number, 0) == epoch)
        numbers = [sweep.means[n][epoch] for n in reached if epoch in sweep.means[n]]
        rows.append({
            "epoch": epoch,
            "reached": len(reached),
            "stopped": there["stopped"],
            "lost": sum(before <= last < epoch for last in broken),
            "running": there["running"],
            "median": float(np.quantile(numbers, 0.5)) if numbers else None,
            "best": (max if sweep.maximize else min)(numbers) if numbers else None,
        })  # fmt: skip
        before = epoch
    return rows


def _last_epoch(sweep: Sweep, trial: Trial) -> int:
    """Return the last epoch after which a lost trial still had finite metrics."""
    seeds = sweep.curves.get(sweep.metric, {}).get(trial.number, {})
    finite = [[e for e, v in curve if v is not None] for curve in seeds.values()]
    return min((max(one, default=0) for one in finite), default=0)


def _bar(row: dict[str, Any], most: int) -> page.Markup:
    """Return a bar for a rung; its dark part continued."""
    reached, on = row["reached"], row["reached"] - row["stopped"]
    text = f"{reached:,}" + (f", {on:,} continued" if on < reached else "")
    return page.bar(text, [("band", reached / most), ("curve", on / most)])


# The numbers that the script of the page draws


def short_number(value: Any, digits: int = 6) -> Any:
    """Return a number with few digits, which a page shows; None if it is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else float(value)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def records_of(sweep: Sweep) -> list[tuple[int, float]]:
    """Return the finalists that were better than all asked before them, with their scores."""
    found: list[tuple[int, float]] = []
    for number in sorted(sweep.compared):
        score = sweep.scores[number].mean
        if not found or sweep.better(score, found[-1][1]):
            found.append((number, score))
    return found


def curve_names(sweep: Sweep) -> list[str]:
    """Return at most three metrics: the compared one, its value on training data, and losses."""
    training = sweep.metric.removeprefix("validation_")
    wanted = [sweep.metric, training, "validation_loss", "loss"]
    return list(dict.fromkeys(name for name in wanted if name in sweep.curves))[:3]


def curves(sweep: Sweep, name: str, index: dict[int, int]) -> dict[str, Any] | None:
    """Return quantiles over all runs by epoch, and the curves of the best trials.

    Args:
        sweep: the sweep.
        name: the metric.
        index: the place of each trial in the page, by number.
    """
    by_epoch: dict[int, list[float]] = {}
    for seeds in sweep.curves[name].values():
        for curve in seeds.values():
            for epoch, value in curve:
                if value is not None:
                    by_epoch.setdefault(epoch, []).append(value)
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    chosen = sorted({int(at) for at in np.linspace(0, len(epochs) - 1, EPOCHS)})
    epochs = [epochs[at] for at in chosen]
    bands = [np.quantile(by_epoch[epoch], (0.1, 0.25, 0.5, 0.75, 0.9)) for epoch in epochs]
    lines = []
    for trial in sweep.ranking[:LINES]:
        for seed, curve in sweep.curves[name].get(trial.number, {}).items():
            known = dict(curve)
            values = [short_number(known.get(epoch)) for epoch in epochs]
            lines.append({"t": index[trial.number], "seed": seed, "values": values})
    compared = name == sweep.metric
    minimized = not sweep.maximize if compared else direction_of(name) == "minimize"
    return {
        "name": label(name),
        "log": minimized,
        "epochs": epochs,
        "bands": [[short_number(float(v)) for v in band] for band in bands],
        "lines": lines,
    }


def timeline(sweep: Sweep) -> dict[str, Any]:
    """Return when cohorts ran and programs compiled: a bar for each, rows of bars that overlap.

    A bar is [row, start, seconds, compiling, group, text, lanes]. The time between interrupted
    sessions is removed; `gaps` are the positions.
    """
    groups = {group.name: at for at, group in enumerate(sweep.groups)}
    spans: list[tuple[float, float, float, int, str, Any]] = []
    for group in sweep.groups:
        if finished := group.probe.get("finished"):
            text = f"{group.name}: {duration(group.probe_seconds)} of measuring how to run, "
            text += f"{duration(group.compile_seconds)} of it compiling"
            start = finished - group.probe_seconds
            spans.append((start, group.probe_seconds, group.compile_seconds, groups[group.name],
                          text, ""))  # fmt: skip
    cohorts = [cohort for cohort in sweep.cohorts if cohort.finished]
    for cohort in cohorts[:BARS]:
        compiling = f", {duration(cohort.compile_seconds)} of it compiling"
        text = (
            f"{cohort.group}: {count(len(cohort.lanes), 'lane')}, trials "
            f"{cohort.lanes[0][0]} to {cohort.lanes[-1][0]}, epochs {cohort.epoch_from + 1} to "
            f"{cohort.epoch_to}, {duration(cohort.seconds)}"
            f"{compiling if cohort.compile_seconds else ''}"
        )
        start = (cohort.finished or 0.0) - cohort.seconds
        spans.append((start, cohort.seconds, cohort.compile_seconds, groups.get(cohort.group, 0),
                      text, len(cohort.lanes)))  # fmt: skip
    spans.sort(key=lambda span: span[0])
    busy = sum(span[1] for span in spans)
    ends: list[float] = []
    bars, gaps, cut, latest = [], [], spans[0][0] if spans else 0.0, -math.inf
    for start, seconds, compiling, group, text, lanes in spans:
        if start - latest > max(5.0, 0.05 * busy) and bars:
            cut += start - latest
            gaps.append(short_number(latest - cut + start - latest))
        latest = max(latest, start + seconds)
        row = next((at for at, end in enumerate(ends) if end <= start + 0.02), len(ends))
        ends[row : row + 1] = [start + seconds]
        numbers = [short_number(one, 5) for one in (start - cut, seconds, min(compiling, seconds))]
        bars.append([row, *numbers, group, text, lanes])
    end = max((bar[1] + bar[2] for bar in bars), default=1.0) or 1.0
    return {"bars": bars, "rows": len(ends), "end": end, "gaps": gaps, "left_out":
            max(0, len(cohorts) - BARS)}  # fmt: skip
