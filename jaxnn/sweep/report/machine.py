"""What was compiled, how it ran, and under which settings."""

from collections.abc import Mapping
from typing import Any

from ...page import html
from ...page.words import NONE, count, duration, escaped, flat, number
from ..reading import Sweep


def groups(sweep: Sweep) -> str:
    """The section of the groups: their programs, and the times to compile and to run."""
    rows = []
    for group in sweep.groups:
        cohorts = [c for c in sweep.cohorts if c.group == group.name]
        trials = sum(trial.group == group.name for trial in sweep.trials)
        compiled = sum(c.compile_seconds for c in cohorts)
        run = sum(c.seconds for c in cohorts) - compiled
        measuring = group.probe_seconds - group.compile_seconds
        epochs = sum((c.epoch_to - c.epoch_from) * len(c.lanes) for c in cohorts)
        rate = number(epochs / run, 3) if run else NONE
        way = f"{group.way}, {count(group.lanes, 'lane')}" + (
            f" on {count(group.devices, 'device')}" if group.devices > 1 else ""
        )
        times = (
            duration(compiled + group.compile_seconds),
            duration(measuring) if measuring else NONE,
            duration(run),
        )
        rows.append([group.name, way, f"{trials:,}", len(cohorts), *times, rate])
    heads = ["group", "how", "trials", "cohorts", "compiling", "measuring", "running"]
    heads.append("lane epochs a second")
    reasons = sweep.facts.get("traced") or {}
    static = [(name, why) for name, why in reasons.items() if why != "traced"]
    traced = [name for name, why in reasons.items() if why == "traced"]
    parts = [
        html.note(
            "Trials of equal structure are a group: one compiled program for each width, whose "
            "lanes are the trials. Measuring found out how to run them. Running counts neither "
            "compiling nor measuring. An epoch of one lane is a lane epoch."
        ),
        html.table(heads, rows, range(2, len(heads))),
    ]
    if reasons:
        parts.append(
            html.folded(
                f"Why {count(len(rows), 'group')}: what can be traced, and what cannot",
                html.note(
                    f"One program for all values of: {escaped(', '.join(traced) or 'none')}."
                ),
                html.table(["a program for each value of", "because"], static) if static else "",
            )
        )
    return html.section("programs", "Compiled programs", *parts)


def settings(sweep: Sweep) -> str:
    """The section of what was swept and how."""
    space = [(name, type(d).__name__, str(d)) for name, d in sweep.dimensions.items()]
    facts = {
        "experiment": sweep.experiment,
        "compared by": f"{sweep.metric}, {'more' if sweep.maximize else 'less'} is better",
        "seeds a trial": sweep.seeds,
        "epochs": sweep.epochs,
        "rungs": ", ".join(map(str, sweep.rungs)) if len(sweep.rungs) > 1 else "none",
        **{k: _line(v) for k, v in sweep.facts.items() if k not in ("traced", "sources")},
    }
    base = [(name, str(value)) for name, value in flat(sweep.config)]
    return html.section(
        "settings",
        "Settings",
        "<h3>What was searched</h3>",
        html.table(["parameter", "kind", "range or options"], space),
        html.folded("How the sweep was run", html.table(["setting", "value"], facts.items())),
        html.folded("The configuration that trials change", html.table(["field", "value"], base)),
    )


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_line(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_line, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NONE if value is None else number(value)
