"""The number of trials at each rung, and the regions in which trials diverge or fail."""

import bisect
import itertools
from collections import Counter
from typing import Any

import numpy as np

from ...html import page
from ...html.page import NONE, count, escaped, format_number, label, shorts, shown
from ..dimensions import Choice, Grid
from ..ranges import Int, LogUniform, Uniform
from ..snapshot import Sweep
from ..tables import BROKEN, Trial

BINS = 5  # parts of a range
COMMON = 10  # causes in the table


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


def _bar(row: dict[str, Any], most: int) -> page.Markup:
    """Return a bar for a rung; its dark part continued."""
    reached, on = row["reached"], row["reached"] - row["stopped"]
    text = f"{reached:,}" + (f", {on:,} continued" if on < reached else "")
    return page.bar(text, [("band", reached / most), ("curve", on / most)])


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
        parts.append(page.html_table(["cause", "", "trials", "such as"], _cause_rows(sweep), [2]))
        if first.error:
            text = page.command(first.error[-4000:])
            parts.append(page.collapsed(f"The error of trial {first.number}", text))
    return page.section("failures", title, *parts)


def _cause_rows(sweep: Sweep) -> list[list[str]]:
    """Return each cause, its status, the number of its trials, and some of them."""
    return [
        [cause[:300], status, f"{len(n):,}", ", ".join(map(str, n[:5])) + " …" * (len(n) > 5)]
        for status, cause, n in sweep.causes[:COMMON]
    ]


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
