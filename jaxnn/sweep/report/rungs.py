"""Who survived to which rung."""

from typing import Any

from ...page import html
from ...page.drawing import CURVE, INK, LEVELS, svg
from ...page.words import NONE, count, escaped, label, number
from ..reading import Sweep, mean
from ..tables import BROKEN, Trial


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
        told = f"{row['reached']:,}" + (f", {on:,} go on" if row["stopped"] else "")
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
