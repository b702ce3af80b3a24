"""The report of a sweep: one HTML file under 1.5 MB, written completely or not at all.

`write_report` writes `report.html` to the folder of a sweep; `sweep_report` returns its text, with
the result, all trials, programs, and settings. `scores` has the sections of scores (best so far,
curves, Pareto front, rungs), and `parameters` those of importance, parameters, and failures, each
with the numbers that the script of the page draws.
"""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import html as page
from ...files import replace_file
from ...files.reading import quoted
from ...html import NONE, count, duration, escaped, flat, format_number, label, shorts
from ..dimensions import Choice, at_edge
from ..score import seed_mean
from ..snapshot import Sweep
from ..tables import Trial
from .parameters import (
    LESS,
    LOST,
    PAIRED,
    Importance,
    columns,
    embedded,
    failures,
    importance,
    importance_of,
    kind_of,
    parameter_axis,
    parameters,
    shown_order,
)
from .scores import (
    STATUSES,
    curve_names,
    curves,
    front,
    known_best,
    progress,
    records_of,
    score_axis,
    short_number,
    survival,
    timeline,
)

__all__ = ["sweep_report", "write_report"]

FILE = "report.html"
SHOWN = 10  # trials in the table of the best
COHORTS = 200  # cohorts in the table


def sweep_report(sweep: Sweep) -> str:
    """Return the report of a sweep as HTML. Equal sweeps have equal reports."""
    found = importance_of(sweep)
    known = isinstance(found, Importance)
    names = shown_order(sweep, found.shares if isinstance(found, Importance) else {})
    data = data_of(sweep, names)
    body = (
        headline(sweep),
        front(sweep),
        progress(sweep),
        importance(found, sweep) if sweep.best else "",
        parameters(sweep, names, known),
        trials(sweep, len(data["trials"]["number"])),
        survival(sweep),
        failures(sweep),
        programs(sweep),
        settings(sweep),
    )
    seeds = f" of {count(sweep.seeds, 'seed')}" if sweep.seeds > 1 else ""
    facts = [
        count(len(sweep.trials), "trial") + seeds,
        f"up to {count(sweep.epochs, 'epoch')}",
        f"{count(len(sweep.dimensions), 'parameter')} by {sweep.facts.get('search', '?')}",
        f"compared by {label(sweep.metric)}",
        sweep.facts.get("device") or "",
    ]
    subtitle = " · ".join(escaped(fact) for fact in facts if fact)
    footer = f"Made from the ledger in {escaped(sweep.folder)}."
    return page.document(f"Sweep of {sweep.name}", subtitle, "".join(body), footer, data)


def write_report(sweep: Sweep) -> Path:
    """Write `report.html` into the folder of a sweep, and return its path.

    Args:
        sweep: The sweep, as `snapshot.read` returns it.

    Raises:
        OSError: The file cannot be written.
    """
    return replace_file(sweep.folder / FILE, sweep_report(sweep).encode())


def data_of(sweep: Sweep, names: Sequence[str]) -> dict[str, Any]:
    """Return the data that the script draws.

    Args:
        sweep: the sweep.
        names: the parameters, in the order in which they are shown.
    """
    found, records = known_best(sweep), records_of(sweep)
    once = {number for _, _, number in found} | {number for number, _ in records}
    trials = embedded(sweep, once)
    index = {trial.number: t for t, trial in enumerate(trials)}
    kinds = {kind_of(sweep, trial) for trial in sweep.trials}
    scale = score_axis(sweep) if sweep.best else None
    return {
        "metric": label(sweep.metric),
        "maximize": sweep.maximize,
        "scale": {"low": scale.low, "high": scale.high, "log": scale.log} if scale else None,
        "strips": {"stopped": LESS in kinds, "lost": LOST in kinds},
        "statuses": list(STATUSES),
        "asked": len(sweep.trials),
        "parameters": [parameter_axis(sweep, name) for name in names],
        "paired": list(range(min(len(names), PAIRED))) if len(names) > 1 else [],
        "trials": columns(sweep, trials, names),
        "records": [[index[number], short_number(value)] for number, value in records],
        "known": [[short_number(s), short_number(v), index[n]] for s, v, n in found],
        "curves": [curve for name in curve_names(sweep) if (curve := curves(sweep, name, index))],
        "rungs": list(sweep.rungs[:-1]),
        "timeline": timeline(sweep),
    }


def headline(sweep: Sweep) -> str:
    """Return the section of the result: main numbers, warnings, best trials, and commands."""
    best = sweep.best
    parts = [page.cards(main_numbers(sweep))]
    if best is None:
        return page.section("result", "Result", *parts, page.warning("No trial has a score yet."))
    at = [
        f"{name} = {format_number(value)} is at the {edge} edge of its range "
        f"({sweep.dimensions[name]})"
        for name, value in best.values.items()
        if (edge := at_edge(sweep.dimensions[name], value))
    ]
    if at:
        parts.append(
            page.warning(
                f"In the best trial, {'; '.join(at)}. If values beyond it make sense, widen the "
                "range and sweep again."
            )
        )
    if left_out := sweep.facts.get("left_out"):
        parts.append(page.warning(f"Note: {left_out}."))
    parts += [page.warning(line) for line in sweep.forced]
    parts += [page.heading("The best trials"), _best_trials(sweep)]
    parts += [page.heading("Run the best again"), *_commands(sweep, best)]
    return page.section("result", "Result", *parts)


def main_numbers(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Return the main numbers: (number, name, remark) for each."""
    statuses = Counter(trial.status for trial in sweep.trials)
    whole = ", ".join(f"{statuses[s]:,} {STATUSES[s]}" for s in STATUSES if statuses[s])
    probed = sum(group.probe_seconds for group in sweep.groups)
    seconds = sum(cohort.seconds for cohort in sweep.cohorts) + probed
    probe_compiled = sum(group.compile_seconds for group in sweep.groups)
    compiled = sum(cohort.compile_seconds for cohort in sweep.cohorts) + probe_compiled
    parts = f"{duration(compiled)} of it compiling"
    if probed > probe_compiled:
        parts += f", {duration(probed - probe_compiled)} measuring how to run"
    shown = []
    if sweep.best is not None:
        mean = seed_mean(sweep.scores[sweep.best.number].each)
        sure = f"95 % interval, {count(mean.n, 'seed')}" if mean.half is not None else "one seed"
        remark = f"trial {sweep.best.number}; {sure}"
        shown.append((str(mean), f"best {label(sweep.metric)}", remark))
        shown += [*_gain(sweep, sweep.best), *_on_test(sweep)]
    shown.append((f"{len(sweep.trials):,}", "trials", whole or "none yet"))
    shown.append((duration(seconds), "of computing", parts))
    if seconds > 0:
        ended = sum(n for s, n in statuses.items() if s not in ("asked", "running"))
        rate = format_number(ended / seconds, 3)
        shown.append((rate, "trials per second", "including compiling and measuring"))
    return shown


def defaults_of(sweep: Sweep) -> Trial | None:
    """Return the first trial whose values are those of the configuration; None if none are."""
    plain, missing = dict(flat(sweep.config)), object()
    start = {name: plain.get(re.sub(r":\w+", "", name), missing) for name in sweep.dimensions}
    return next(
        (t for t in sweep.trials if all(v == start[name] for name, v in t.values.items())), None
    )


def _gain(sweep: Sweep, best: Trial) -> list[tuple[str, str, str]]:
    """Return the gain over the configuration's defaults as a card; none if they did not run."""
    start = defaults_of(sweep)
    if start is None:
        return []
    name = f"trial {start.number}, the defaults"
    if start.number not in sweep.compared:
        return [(NONE, "gain over the defaults", f"{name}: {STATUSES[start.status]}")]
    before, after = sweep.scores[start.number].mean, sweep.scores[best.number].mean
    gain = after - before if sweep.maximize else before - after
    share = f", {100 * gain / abs(before):.0f} % of it" if before else ""
    return [
        (
            format_number(gain, 3),
            "gain over the defaults",
            f"{name}: {format_number(before)}{share}",
        )
    ]


def _on_test(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Return the metric of the chosen trial on the test rows as a card; none if it is unknown."""
    test = sweep.facts.get("test")
    if not test:
        return []
    name = sweep.metric.removeprefix("validation_")
    name = name if name in test["scores"] else next(iter(test["scores"]), name)
    each = test["scores"].get(name)
    remark = f"trial {test['trial']}, once, on {count(test['rows'], 'row')} that chose nothing"
    return [(str(seed_mean(each)), f"test {label(name)}", remark)] if each else []


def _best_trials(sweep: Sweep) -> str:
    """Return the table of the first trials of the ranking."""
    trials = sweep.ranking[:SHOWN]
    used = [name for name in sweep.ordered if any(name in trial.values for trial in trials)]
    rows = []
    for rank, trial in enumerate(trials, 1):
        score = sweep.scores[trial.number]
        values = [format_number(trial.values[n], 3) if n in trial.values else NONE for n in used]
        mean = str(seed_mean(score.each))
        rows.append([rank, trial.number, mean, len(score.each), score.epoch, *values])
    heads = ["", "trial", label(sweep.metric), "n", "epochs", *shorts(used).values()]
    options = {i for i, n in enumerate(used, 5) if isinstance(sweep.dimensions[n], Choice)}
    interval = (
        "Mean over n seeds ± half of the 95 % interval (Student's t with n - 1 degrees of freedom)."
        if sweep.seeds > 1
        else "One seed per trial gives no interval: sweep with <code>--seeds 5</code> to get one."
    )
    epochs = sorted({sweep.scores[trial.number].epoch for trial in sweep.finalists})
    length = count(epochs[-1], "epoch")
    if len(epochs) > 1:
        length = f"{epochs[0]} to {length}, depending on the configuration"
    caption = (
        f"{_order_of(sweep)} first, after the last epoch of trials that completed ({length}). "
        f"{interval} The first trial was selected as the best of "
        f"{count(len(sweep.finalists), 'trial')} by this number, so expect a slightly worse one "
        "on new data."
    )
    table = page.html_table(heads, rows, set(range(len(heads))) - options, "best")
    return table + page.note(caption, "caption")


def _order_of(sweep: Sweep) -> str:
    """Return a description of the order of the table of the best trials."""
    if len(sweep.objectives) > 1:
        return "The Pareto front of all objectives, and in it the most balanced trial"
    order = f"The {'largest' if sweep.maximize else 'smallest'} {escaped(label(sweep.metric))}"
    return f"{order} of the trials that satisfy the constraints" if sweep.constraints else order


def best_command(sweep: Sweep) -> str:
    """Return the command that trains the best configuration of a sweep again."""
    trial = quoted(f"{sweep.folder}:best")
    return f"python -m {shlex.quote(sweep.experiment)} run --from {trial}"


def _commands(sweep: Sweep, best: Trial) -> list[str]:
    """Return how to train the best configuration again, and its values."""
    digits = (
        "The results are bitwise identical, since the sweep ran with --exact."
        if sweep.facts.get("exact")
        else "The results may differ in the last digits, since it does not run as one of several "
        "lanes."
    )
    versions = ", ".join(f"{k} {v}" for k, v in (sweep.facts.get("versions") or {}).items())
    parts = [
        page.command(best_command(sweep)),
        page.note(
            f"This trains the same program alone, with the values of trial {best.number} and the "
            f"other settings of the sweep. {digits}"
            f"{f' Versions: {escaped(versions)}.' if versions else ''}",
            "caption",
        ),
    ]
    if best.number in sweep.changed:
        parts.append(
            page.warning(
                f"Population-based training changed the values of trial {best.number} during "
                "training. The values here are its last; the command trains with them from the "
                "beginning, which is another run."
            )
        )
    rows = [(name, str(value)) for name, value in best.values.items()]
    values = page.html_table(["parameter", "value"], rows, [1])
    return [*parts, page.collapsed(f"All values of trial {best.number}", values)]


def trials(sweep: Sweep, embedded: int) -> str:
    """Return the section with the table of all trials, which the script fills.

    Args:
        sweep: the sweep.
        embedded: the number of trials in the page.
    """
    left_out = ""
    if embedded < len(sweep.trials):
        left_out = (
            f" The page has {embedded:,} of {count(len(sweep.trials), 'trial')}: half of them the "
            "best, half an even sample of the others. "
            "<code>jaxnn sweep export FOLDER csv TARGET</code> writes all."
        )
    return page.section(
        "trials",
        "All trials",
        page.note(
            "A click on a title sorts. A filter is a range (<code>0.001..0.01</code>), a bound "
            "(<code>&gt;=3</code>), options (<code>relu|gelu</code>), or a part of the text; it "
            f"applies to all plots. A click on a row marks the trial in them.{left_out}",
            "caption",
        ),
        '<div class="wide"><table id="every"></table></div>'
        '<button type="button" id="more" hidden></button>'
        "<noscript><p>The table and the plots need JavaScript, which this page contains.</p>"
        "</noscript>",
    )


def programs(sweep: Sweep) -> str:
    """Return the section of the groups: their programs, and the times to compile and to run."""
    rows = []
    for group in sweep.groups:
        cohorts = [c for c in sweep.cohorts if c.group == group.name]
        trials = sum(trial.group == group.name for trial in sweep.trials)
        compiled = sum(c.compile_seconds for c in cohorts)
        run = sum(c.seconds for c in cohorts) - compiled
        measuring = group.probe_seconds - group.compile_seconds
        epochs = sum((c.epoch_to - c.epoch_from) * len(c.lanes) for c in cohorts)
        devices = f" on {count(group.devices, 'device')}" if group.devices > 1 else ""
        rows.append([
            group.name,
            f"{group.way}, {count(group.lanes, 'lane')}{devices}",
            f"{trials:,}",
            len(cohorts),
            duration(compiled + group.compile_seconds),
            duration(measuring) if measuring else NONE,
            duration(run),
            format_number(epochs / run, 3) if run else NONE,
        ])  # fmt: skip
    heads = ["group", "how", "trials", "cohorts", "compiling", "measuring", "running"]
    heads.append("lane epochs per second")
    parts = [
        page.note(
            "Trials of equal structure form a group: one compiled program for each width, whose "
            "lanes are the trials. Measuring determined how to run them; running excludes "
            "compiling and measuring. A lane epoch is an epoch of one lane."
        ),
        page.html_table(heads, rows, range(2, len(heads))),
    ]
    if any(cohort.finished for cohort in sweep.cohorts):
        parts += [
            page.heading("Timeline"),
            page.plot(
                "timeline",
                "A bar is a cohort of lanes, with their number, in the colors of the groups; "
                "orange: compiling. A bar without a number measured how to run a group. Bars below "
                "each other ran at the same time. Dotted: an interruption, whose time is cut.",
            ),
            page.collapsed(f"All {count(len(sweep.cohorts), 'cohort')}", _cohorts(sweep)),
        ]
    if reasons := sweep.facts.get("traced"):
        static = [(name, why) for name, why in reasons.items() if why != "traced"]
        traced = ", ".join(name for name, why in reasons.items() if why == "traced") or "none"
        parts.append(
            page.collapsed(
                f"Why {count(len(rows), 'group')}: which parameters are traced",
                page.note(f"One program for all values of: {escaped(traced)}."),
                page.html_table(["a program for each value of", "because"], static)
                if static
                else "",
            )
        )
    return page.section("programs", "Compiled programs", *parts)


def _cohorts(sweep: Sweep) -> str:
    """Return the table of the first cohorts."""
    heads = ["cohort", "group", "lanes", "epochs", "compiling", "running"]
    rows = [
        [
            f"{c.id}",
            c.group,
            f"{len(c.lanes):,}",
            f"{c.epoch_from + 1} to {c.epoch_to}",
            duration(c.compile_seconds),
            duration(c.seconds - c.compile_seconds),
        ]
        for c in sweep.cohorts[:COHORTS]
    ]
    more = len(sweep.cohorts) - COHORTS
    note = page.note(f"and {more:,} more", "caption") if more > 0 else ""
    return page.html_table(heads, rows, (0, 2, 3, 4, 5)) + note


def settings(sweep: Sweep) -> str:
    """Return the section of the settings: the space, how it was searched, the configuration."""
    space = [(name, type(d).__name__, str(d)) for name, d in sweep.dimensions.items()]
    facts = {
        "experiment": sweep.experiment,
        "compared by": f"{sweep.metric}, {'more' if sweep.maximize else 'less'} is better",
        "seeds per trial": sweep.seeds,
        "epochs": sweep.epochs,
        "rungs": ", ".join(map(str, sweep.rungs)) if len(sweep.rungs) > 1 else "none",
        **{k: v for k, v in sweep.facts.items() if k not in ("traced", "sources", "kept", "test")},
    }
    return page.section(
        "settings",
        "Settings",
        page.heading("Search space"),
        page.html_table(["parameter", "kind", "range or options"], space),
        page.collapsed("How the sweep ran", page.html_table(["setting", "value"], flat(facts))),
        page.collapsed(
            "The configuration that trials change",
            page.html_table(["field", "value"], flat(sweep.config)),
        ),
    )
