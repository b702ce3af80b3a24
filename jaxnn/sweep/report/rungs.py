"""The number of trials at each rung, and the regions in which trials diverge or fail."""

import bisect
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...html import charts, page
from ...html.page import NONE, count, escaped, format_number, label, shorts, shown
from ..dimensions import Choice, Grid
from ..ranges import Int, LogUniform, Uniform
from ..snapshot import Sweep
from ..tables import BROKEN, Trial

BINS = 5  # parts of a range
COMMON = 10  # distinct errors in the table


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
    cells = [[shown(row[key]) for key in heads] for row in rows]
    return page.section(
        "rungs",
        title,
        charts.chart(
            "rungs", "Trials by rung", lambda f: _draw_survivors(f, rows), 0.34 * len(rows) + 0.6,
            "How many trials reached each rung, and how many of them continued: the best by then.",
        ),
        page.html_table([*heads.values()], cells, range(len(heads))),
        page.note(
            f"Median and best: {escaped(label(sweep.metric))} of all trials that reached the rung. "
            "Lost: diverged or failed since the rung before.",
            "caption",
        ),
    )  # fmt: skip


def survivors(sweep: Sweep) -> list[dict[str, Any]]:
    """Return for each rung how many trials reached it, and what became of them there."""
    rows, before = [], 0
    reach = {number: score.epoch for number, score in sweep.scores.items()}
    broken = [_last_epoch(sweep, trial) for trial in sweep.trials if trial.status in BROKEN]
    for epoch in sweep.rungs:
        reached = [number for number in reach if reach[number] >= epoch]
        there = Counter(t.status for t in sweep.trials if reach.get(t.number, 0) == epoch)
        numbers = [v for number in reached if (v := sweep.at(number, epoch)) is not None]
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


def _draw_survivors(figure: Any, rows: list[dict[str, Any]]) -> None:
    """Draw a bar per rung; its dark part continued."""
    reached = [row["reached"] for row in rows]
    on = [row["reached"] - row["stopped"] for row in rows]
    texts = [
        f"{n:,}" + (f", {m:,} continue" if m < n else "") for n, m in zip(reached, on, strict=True)
    ]
    names = [f"epoch {row['epoch']}" for row in rows]
    layers = [(charts.LEVELS[1], reached), (charts.CURVE, on)]
    charts.bars(figure.subplots(), names, layers, texts, "trials", max(reached) or 1)


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
        charts.chart(
            "failures", "Share of failures by parameter", lambda f: _draw_failures(f, sweep),
            1.75 * charts.rows_of(len(sweep.dimensions)) + 0.2,
            "The share of trials that diverged or failed in each part of the range of a parameter, "
            "with their number above each bar. A high bar shows where not to search.",
        ),
    ]  # fmt: skip
    if errors := [trial for trial in sweep.trials if trial.error]:
        first, text = errors[0].number, (errors[0].error or "")[-4000:]
        parts += [
            page.html_table(["error", "trials", "such as"], _error_rows(errors), [1]),
            page.collapsed(f"The traceback of trial {first}", f"<pre>{escaped(text)}</pre>"),
        ]
    return page.section("failures", title, *parts)


def _error_rows(trials: Sequence[Trial]) -> list[list[str]]:
    """Return each distinct error, the number of its trials, and some of them."""
    found: dict[str, list[int]] = {}
    for trial in trials:
        found.setdefault(_error_line(trial.error or "")[:300], []).append(trial.number)
    common = sorted(found.items(), key=lambda item: -len(item[1]))[:COMMON]
    return [
        [text, f"{len(n):,}", ", ".join(map(str, n[:5])) + (" …" if len(n) > 5 else "")]
        for text, n in common
    ]


def _error_line(error: str) -> str:
    """Return the line of a traceback that names the error, the first after its last frame."""
    lines = [line for line in error.splitlines() if line.strip()]
    frames = [at for at, line in enumerate(lines) if line.startswith("  ")]
    after = lines[frames[-1] + 1 :] if frames else []
    return (after or lines[-1:] or [""])[0].strip()


def _draw_failures(figure: Any, sweep: Sweep) -> None:
    """Draw a panel per parameter: the share of failures in each part of its range."""
    short, most = shorts(sweep.dimensions), 0.0
    found = charts.panels(figure, len(short), sharey=True)
    for index, (panel, name) in enumerate(zip(found, short, strict=True)):
        lost, ran, ticks = failure_counts(sweep, name)
        shares = [100 * bad / all_ if all_ else 0.0 for bad, all_ in zip(lost, ran, strict=True)]
        most = max(most, *shares)
        panel.bar(range(len(shares)), shares, width=0.86, color=charts.BAD, alpha=0.85)
        for at, share in enumerate(shares):
            text = f"{lost[at]}/{ran[at]}" if ran[at] else NONE
            panel.text(at, share, text, ha="center", va="bottom", fontsize=6.5, color=charts.SOFT)
        panel.set_xticks(*ticks)
        panel.set_xlim(-0.6, len(ran) - 0.4)
        panel.grid(axis="x", visible=False)
        panel.set_title(short[name] + (" (log)" if sweep.dimensions[name].log else ""))
        if index % charts.COLUMNS == 0:
            panel.set_ylabel("lost, %")
    found[0].set_ylim(0, 1.2 * most)
    charts.set_ticks(found[0].yaxis, charts.linear_ticks(0, min(100, 1.2 * most)))


def failure_counts(
    sweep: Sweep, name: str
) -> tuple[list[int], list[int], tuple[list[float], list[str]]]:
    """Return by parts of a range: trials lost, trials that ran, and positions and texts of ticks.

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
        ticks = [float(i) for i in range(size)], [format_number(option) for option in options]
    else:
        size, edges = BINS, [dimension.at(i / BINS) for i in range(BINS + 1)]
        where = [min(max(bisect.bisect(edges, value) - 1, 0), size - 1) for value, _ in values]
        ticks = [i - 0.5 for i in range(size + 1)], [format_number(edge, 2) for edge in edges]
    ran = Counter(where)
    lost = Counter(at for at, (_, broken) in zip(where, values, strict=True) if broken)
    return [lost[i] for i in range(size)], [ran[i] for i in range(size)], ticks
