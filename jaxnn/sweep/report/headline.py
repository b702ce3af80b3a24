"""The head of the report: how good the best is, how sure that is, and how to have it again."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...files.plain import quoted
from ...page import html
from ...page.words import NONE, count, duration, escaped, label, number, shorts
from ..dimensions import Choice
from ..reading import Sweep, mean
from ..tables import Trial
from .axes import at_edge

SHOWN = 10
STATUSES = {
    "done": "ran to the end",
    "stopped": "stopped by halving",
    "running": "under way",
    "asked": "not run yet",
    "diverged": "diverged",
    "failed": "failed",
}


def headline(sweep: Sweep) -> str:
    """Cards of the main numbers, the table of the best trials, and the commands."""
    best = sweep.best
    if best is None:
        return html.section(
            "result", "Result", cards(sweep), html.note("No trial has a score yet.", "warn")
        )
    return html.section(
        "result",
        "Result",
        cards(sweep),
        edges(sweep, best),
        html.note(escaped(f"Note: {left_out}."), "warn")
        if (left_out := sweep.facts.get("left_out"))
        else "",
        *(html.note(escaped(line), "warn") for line in sweep.forced),
        "<h3>The best trials</h3>",
        best_trials(sweep),
        "<h3>Run the best again</h3>",
        commands(sweep, best),
    )


def cards(sweep: Sweep) -> str:
    """The few numbers that most readers come for."""
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
        score = sweep.scores[sweep.best.number]
        mean = seed_mean(score.each)
        sure = f"95 % interval, {count(mean.n, 'seed')}" if mean.half is not None else "one seed"
        shown.append(
            (str(mean), f"best {label(sweep.metric)}", f"trial {sweep.best.number}; {sure}")
        )
    shown.append((f"{len(sweep.trials):,}", "trials", whole or "none yet"))
    shown.append((duration(seconds), "of computing", parts))
    if seconds > 0:
        ended = sum(n for s, n in statuses.items() if s not in ("asked", "running"))
        rate = ended / seconds
        shown.append((number(rate, 3), "trials a second", "compiling and measuring included"))
    return html.cards(shown)


def edges(sweep: Sweep, best: Trial) -> str:
    """A warning for each parameter whose best value lies at the edge of what was searched."""
    found = [
        f"<b>{escaped(name)}</b> = {number(value)} lies at the {edge} edge of its range "
        f"({escaped(sweep.dimensions[name])})"
        for name, value in best.values.items()
        if (edge := at_edge(sweep.dimensions[name], value))
    ]
    if not found:
        return ""
    return html.note(
        f"The best trial's {'; '.join(found)}. Where values beyond it make sense, widen the range "
        "and sweep again.",
        "warn",
    )


def best_trials(sweep: Sweep) -> str:
    """The table of the first of the ranking, with the values of what was swept."""
    trials = sweep.ranking[:SHOWN]
    used = [name for name in sweep.dimensions if any(name in trial.values for trial in trials)]
    names = shorts(used)
    rows = []
    for rank, trial in enumerate(trials, 1):
        score = sweep.scores[trial.number]
        values = [number(trial.values[n], 3) if n in trial.values else NONE for n in used]
        rows.append(
            [rank, trial.number, str(seed_mean(score.each)), len(score.each), score.epoch, *values]
        )
    heads = ["", "trial", f"{label(sweep.metric)}", "n", "epochs", *names.values()]
    plain = [i for i, n in enumerate(used, 5) if isinstance(sweep.dimensions[n], Choice)]
    right = [i for i in range(len(heads)) if i not in plain]
    told = _told(sweep)
    return html.table(heads, rows, right, "best") + f'<p class="caption">{told}</p>'


def best_command(sweep: Sweep) -> str:
    """What to write to train the best configuration of a sweep again."""
    trial = quoted(f"{sweep.folder}:best")
    return f"python -m {shlex.quote(sweep.experiment)} run --from {trial}"


def commands(sweep: Sweep, best: Trial) -> str:
    """How to train the best configuration again, and what it is."""
    lines = best_command(sweep)
    rows = [(name, str(value)) for name, value in best.values.items()]
    digits = (
        "Its numbers are the same to the bit, since the sweep ran exactly."
        if sweep.facts.get("exact")
        else "Its numbers may differ in the last digits, for it is not one of several lanes."
    )
    versions = ", ".join(f"{k} {v}" for k, v in (sweep.facts.get("versions") or {}).items())
    return (
        html.command(lines)
        + f'<p class="caption">The same program, trained alone with trial {best.number}\'s values '
        f"and the sweep's other settings. {digits}"
        f"{' Made with ' + escaped(versions) + '.' if versions else ''}</p>"
        + (_changed(best) if best.number in sweep.changed else "")
        + html.folded(
            f"All values of trial {best.number}", html.table(["parameter", "value"], rows, [1])
        )
    )


def _changed(best: Trial) -> str:
    return html.note(
        f"Population-based training changed the values of trial {best.number} on its way. Those "
        "here are its last; the command trains with them from the beginning, which is another run.",
        "warn",
    )


def _told(sweep: Sweep) -> str:
    better = "largest" if sweep.maximize else "smallest"
    many = sweep.seeds
    interval = (
        "Mean over n seeds ± half of the 95 % interval (Student's t with n - 1 degrees of freedom)."
        if many > 1
        else "One seed a trial, so no interval: sweep with <code>--seeds 5</code> to have one."
    )
    epochs = sorted({sweep.scores[trial.number].epoch for trial in sweep.finalists})
    length = count(epochs[-1], "epoch")
    if len(epochs) > 1:
        length = f"{epochs[0]} to {length}, each as long as its configuration says"
    return (
        f"The {better} {escaped(label(sweep.metric))} first, after the last epoch of those that "
        f"ran to the end ({length}). {interval} The first was picked as the best of "
        f"{count(len(sweep.finalists), 'trial')} by this very number, so expect a little less of "
        "it on new data."
    )


class Mean(NamedTuple):
    """A mean over `n` seeds, and half of its 95 % interval; None for a single seed."""

    mean: float
    half: float | None
    n: int

    def __str__(self) -> str:
        if self.half is None:
            return number(self.mean)
        if not 0 < self.half < math.inf:
            return f"{number(self.mean)} ± {number(self.half)}"
        digits = max(0, 1 - math.floor(math.log10(self.half)))
        if digits > 7 or self.half >= 1e6:
            return f"{number(self.mean)} ± {number(self.half, 2)}"
        return f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"


def seed_mean(each: Sequence[float]) -> Mean:
    """The mean over seeds and its 95 % t interval, t(0.975, n - 1) * s / sqrt(n).

    It holds what another n seeds' mean would be near to, where seeds scatter as a normal law does.

    >>> str(seed_mean([0.90, 0.92, 0.94])), str(seed_mean([0.5]))
    ('0.920 ± 0.050', '0.5')
    """
    n, middle = len(each), mean(each)
    if n < 2:
        return Mean(middle, None, n)
    from scipy.special import stdtrit  # half a second less to import than scipy.stats

    size = max(1.0, *map(abs, each)) if max(map(abs, each)) > 1e150 else 1.0  # squares overflow
    spread = float(np.std(np.divide(each, size), ddof=1)) * size
    return Mean(middle, float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n), n)
