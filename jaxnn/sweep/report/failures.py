"""Where in the space trials diverge or fail, and what was said."""

import bisect
from collections import Counter
from typing import Any

from ...page import html
from ...page.drawing import BAD, SOFT, svg
from ...page.words import NONE, count, escaped, label, number, shorts
from ..dimensions import Choice, Dimension, Grid, Int, Log, Uniform
from ..reading import Sweep
from ..tables import BROKEN
from .axes import linear_ticks, set_ticks

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
            panel.text(
                at,
                share,
                f"{bad}/{all_}" if all_ else NONE,
                ha="center",
                va="bottom",
                fontsize=6.5,
                color=SOFT,
            )
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
        dimension = (Log if dimension.log else Uniform)(dimension.low, dimension.high)
    return [dimension.at(i / BINS) for i in range(BINS + 1)]
