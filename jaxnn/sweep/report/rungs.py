"""Who survived to which rung, and where in the space trials diverge or fail."""

import bisect
from collections import Counter
from typing import Any

from ...page import html
from ...page.drawing import BAD, CURVE, INK, LEVELS, SOFT, svg
from ...page.words import NONE, count, escaped, label, number, shorts
from ..dimensions import Choice, Dimension, Grid, Int, LogUniform, Uniform
from ..reading import Sweep, mean
from ..tables import BROKEN, Trial
from .axes import linear_ticks, set_ticks


def survival(sweep: Sweep) -> str:
    """The section of the rungs: how many trials reached each, and how good they were there."""
    rows = survivors(sweep)
    if not rows:
        return ""
    if len(rows) == 1:
        return html.section(
            "rungs",
            "Survival by rung",
            html.note(
                f"No halving: every trial is meant to run {count(rows[0]['epoch'], 'epoch')}. "
                f"{rows[0]['reached']:,} of {count(len(sweep.trials), 'trial')} did."
            ),
        )
    cells = [
        [r["epoch"], f"{r['reached']:,}", f"{r['stopped']:,}", f"{r['bad']:,}", f"{r['waiting']:,}",
         _or_dash(r["median"]), _or_dash(r["best"])]
        for r in rows
    ]  # fmt: skip
    heads = [
        "epoch",
        "reached it",
        "stopped there",
        "lost on the way",
        "under way",
        "median there",
        "best there",
    ]
    return html.section(
        "rungs",
        "Survival by rung",
        html.figure(
            svg(
                "rungs", "Trials by rung", lambda f: survival_bars(f, rows), 0.34 * len(rows) + 0.6
            ),
            "How many trials reached each rung, and how many of these went on from there: those "
            "that were best by then.",
        ),
        html.table(heads, cells, range(len(heads))),
        f'<p class="caption">Median and best: {escaped(label(sweep.metric))} of all trials that '
        "reached the rung. Lost: diverged or failed since the rung before.</p>",
    )


def survivors(sweep: Sweep) -> list[dict[str, Any]]:
    """For each rung, how many trials reached it, and what became of them there."""
    rows, before = [], 0
    reach = {trial.number: _epochs(sweep, trial) for trial in sweep.trials}
    for epoch in sweep.rungs:
        reached = [t for t in sweep.trials if t.number in sweep.scores and reach[t.number] >= epoch]
        there = [t for t in sweep.trials if reach[t.number] == epoch and t.status not in BROKEN]
        numbers = [v for t in reached if (v := sweep.at(t.number, epoch)) is not None]
        lost = [
            t for t in sweep.trials if t.status in BROKEN and before <= _alive(sweep, t) < epoch
        ]
        rows.append({
            "epoch": epoch,
            "reached": len(reached),
            "stopped": sum(t.status == "stopped" for t in there),
            "bad": len(lost),
            "waiting": sum(t.status == "running" for t in there),
            "median": _median(numbers) if numbers else None,
            "best": (max if sweep.maximize else min)(numbers) if numbers else None,
        })  # fmt: skip
        before = epoch
    return rows


def survival_bars(figure: Any, rows: list[dict[str, Any]]) -> None:
    """A bar a rung; its dark part went on."""
    panel = figure.subplots()
    most = max(row["reached"] for row in rows) or 1
    for at, row in enumerate(rows):
        on = row["reached"] - row["stopped"]
        panel.barh(at, row["reached"], height=0.62, color=LEVELS[1])
        panel.barh(at, on, height=0.62, color=CURVE)
        told = f"{row['reached']:,}" + (f", {on:,} continue" if row["stopped"] else "")
        panel.text(row["reached"] + 0.01 * most, at, told, va="center")
    panel.set_yticks(range(len(rows)), [f"epoch {row['epoch']}" for row in rows])
    panel.tick_params(axis="y", labelcolor=INK)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlim(0, 1.18 * most)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("trials")


def _epochs(sweep: Sweep, trial: Trial) -> int:
    score = sweep.scores.get(trial.number)
    return score.epoch if score else 0


def _alive(sweep: Sweep, trial: Trial) -> int:
    """The last epoch after which a trial that was lost still had numbers."""
    seeds = sweep.curves.get(sweep.metric, {}).get(trial.number, {})
    good = [[e for e, v in curve if v is not None] for curve in seeds.values()]
    return min((max(one, default=0) for one in good), default=0)


def _median(numbers: list[float]) -> float:
    half, ordered = len(numbers) // 2, sorted(numbers)
    return mean([ordered[(len(numbers) - 1) // 2], ordered[half]])


def _or_dash(value: float | None) -> str:
    return NONE if value is None else number(value)


BINS = 5  # parts of a range


def failures(sweep: Sweep) -> str:
    """The section of the trials that diverged or failed: where they lie, and what was said."""
    statuses = Counter(trial.status for trial in sweep.trials)
    bad = statuses["diverged"] + statuses["failed"]
    title = "Failures by region"
    ran = sum(many for status, many in statuses.items() if status != "asked")
    if not bad:
        return html.section("failures", title, html.note("No trial diverged or failed."))
    names = list(sweep.dimensions)
    rows = -(-len(names) // 3)
    parts = [
        html.note(
            f"{statuses['diverged']:,} diverged (a loss, or {escaped(label(sweep.metric))} at the "
            "end, that is not finite) and "
            f"{statuses['failed']:,} failed (raised an error), of {count(ran, 'trial')} that ran."
        ),
        html.figure(
            svg(
                "failures",
                "Share of failures by parameter",
                lambda f: regions(f, sweep),
                1.75 * rows + 0.2,
            ),
            "The share of trials that diverged or failed in each part of a parameter's range; "
            "above a bar, how many of how many. A high bar says where not to search.",
        ),
    ]
    told = messages(sweep.trials)
    if told:
        parts.append(html.table(["error", "trials", "such as"], told, [1]))
        first = next(t for t in sweep.trials if t.error)
        parts.append(
            html.folded(
                f"The whole traceback of trial {first.number}",
                f"<pre>{escaped((first.error or '')[-4000:])}</pre>",
            )
        )
    return html.section("failures", title, *parts)


def messages(trials: Any) -> list[tuple[str, str, str]]:
    """What each distinct error says, how many trials had it, and which; at most ten."""
    found: dict[str, list[int]] = {}
    for trial in trials:
        if trial.error:
            found.setdefault(said(trial.error)[:300], []).append(trial.number)
    common = sorted(found.items(), key=lambda item: -len(item[1]))[:10]
    return [
        (
            text,
            f"{len(numbers):,}",
            ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else ""),
        )
        for text, numbers in common
    ]


def said(error: str) -> str:
    """The line of a traceback that names the error, the first after its last frame."""
    lines = [line for line in error.splitlines() if line.strip()]
    frames = [at for at, line in enumerate(lines) if line.startswith("  ")]
    after = lines[frames[-1] + 1 :] if frames else lines[-1:]
    return (after or lines[-1:])[0].strip()


def regions(figure: Any, sweep: Sweep) -> None:
    """A panel a parameter: the share of failures in each part of its range."""
    names = list(sweep.dimensions)
    rows, short = -(-len(names) // 3), shorts(names)
    panels = figure.subplots(rows, 3, squeeze=False, sharey=True).ravel()
    most = 0.0
    for index, (panel, name) in enumerate(zip(panels, names, strict=False)):
        dimension = sweep.dimensions[name]
        lost, ran, ticks = shares(sweep, name)
        for at, (bad, all_) in enumerate(zip(lost, ran, strict=True)):
            share = 100 * bad / all_ if all_ else 0.0
            most = max(most, share)
            panel.bar(at, share, width=0.86, color=BAD, alpha=0.85)
            style: Any = {"ha": "center", "va": "bottom", "fontsize": 6.5, "color": SOFT}
            panel.text(at, share, f"{bad}/{all_}" if all_ else NONE, **style)
        panel.set_xticks(*ticks)
        panel.set_xlim(-0.6, len(ran) - 0.4)
        panel.grid(axis="x", visible=False)
        panel.set_title(short[name] + (" (log)" if dimension.log else ""))
        if index % 3 == 0:
            panel.set_ylabel("lost, %")
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    panels[0].set_ylim(0, 1.2 * most)
    set_ticks(panels[0].yaxis, linear_ticks(0, min(100, 1.2 * most)))


def shares(sweep: Sweep, name: str) -> tuple[list[int], list[int], tuple[list[float], list[str]]]:
    """In each part of a range: trials lost, trials that ran; and where the axis has which ticks."""
    dimension = sweep.dimensions[name]
    values: list[tuple[Any, bool]] = [
        (trial.values[name], trial.status in BROKEN)
        for trial in sweep.trials
        if trial.status != "asked" and name in trial.values
    ]
    options = each(dimension)
    if options is not None:
        where = [options.index(value) for value, _ in values]
        ticks = [float(i) for i in range(len(options))], [number(option) for option in options]
        size = len(options)
    else:
        edges = ends(dimension)
        size = len(edges) - 1
        where = [min(max(bisect.bisect(edges, value) - 1, 0), size - 1) for value, _ in values]
        ticks = [i - 0.5 for i in range(size + 1)], [number(edge, 2) for edge in edges]
    ran = Counter(where)
    lost = Counter(at for at, (_, broken) in zip(where, values, strict=True) if broken)
    return [lost[i] for i in range(size)], [ran[i] for i in range(size)], ticks


def each(dimension: Dimension) -> list[Any] | None:
    """The values of a dimension that has few, each a part by itself."""
    if isinstance(dimension, Choice | Grid):
        return list(dimension.options)
    if isinstance(dimension, Int) and dimension.high - dimension.low < 8:
        return list(range(dimension.low, dimension.high + 1))
    return None


def ends(dimension: Any) -> list[float]:
    """The ends of equal parts of a range on its axis."""
    if isinstance(dimension, Int):
        dimension = (LogUniform if dimension.log else Uniform)(dimension.low, dimension.high)
    return [dimension.at(i / BINS) for i in range(BINS + 1)]
