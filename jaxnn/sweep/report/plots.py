"""The numbers that the script of the page draws: a sweep as plain data.

Trials are columns, in the order of the ranking; those without a score follow. A page has at most
`BYTES` of them. If there are more, half of the page is for the best trials and half for an even
sample of the others; trials that were the best once are always included.
"""

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ...files.reading import printable
from ...html import LONGEST_NAME, count, duration, label, shorts
from ...train.metrics import direction_of
from ..ranges import Int
from ..snapshot import Sweep
from ..tables import BROKEN, Trial
from .scores import best_edge, known_best, score_axis, seed_mean

BYTES = 900_000  # of the trials in a page
LINES = 12  # trials that have learning curves
EPOCHS = 150  # points of a learning curve
BARS = 1000  # cohorts in the timeline
PAIRED = 6  # parameters of the pair plots
STATUSES = ("done", "stopped", "running", "asked", "diverged", "failed")
COMPARED, LESS, LOST, OPEN = range(4)  # kinds of trials


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
        "statuses": STATUSES,
        "asked": len(sweep.trials),
        "parameters": [parameter_axis(sweep, name) for name in names],
        "paired": list(range(min(len(names), PAIRED))) if len(names) > 1 else [],
        "trials": columns(sweep, trials, names),
        "records": [[index[number], _short(value)] for number, value in records],
        "known": [[_short(s), _short(v), index[n]] for s, v, n in found],
        "curves": [curve for name in curve_names(sweep) if (curve := curves(sweep, name, index))],
        "rungs": list(sweep.rungs[:-1]),
        "timeline": timeline(sweep),
    }


def records_of(sweep: Sweep) -> list[tuple[int, float]]:
    """Return the finalists that were better than all asked before them, with their scores."""
    found: list[tuple[int, float]] = []
    for number in sorted(sweep.compared):
        score = sweep.scores[number].mean
        if not found or sweep.better(score, found[-1][1]):
            found.append((number, score))
    return found


def kind_of(sweep: Sweep, trial: Trial) -> int:
    """Return the kind of a trial's score: comparable, after fewer epochs, or missing."""
    if trial.number in sweep.scores:
        return COMPARED if trial.number in sweep.compared else LESS
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
    scores = [sweep.scores.get(trial.number) for trial in trials]
    values: list[list[Any]] = []
    for name in names:
        dimension: Any = sweep.dimensions[name]
        place = dimension.index if hasattr(dimension, "options") else _short
        values.append([place(t.values[name]) if name in t.values else None for t in trials])
    halves = [None if s is None or len(s.each) < 2 else seed_mean(s.each).half for s in scores]
    return {
        "number": [trial.number for trial in trials],
        "rank": [places.get(trial.number) for trial in trials],
        "status": [STATUSES.index(trial.status) for trial in trials],
        "kind": [kind_of(sweep, trial) for trial in trials],
        "score": [None if score is None else _short(score.mean) for score in scores],
        "half": [None if half is None else _short(half, 2) for half in halves],
        "epochs": [None if score is None else score.epoch for score in scores],
        "values": values,
    }


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
        return known | {"options": [_short(option) for option in options]}
    whole = isinstance(dimension, Int)
    return known | {"low": dimension.low, "high": dimension.high, "whole": whole}


def _short(value: Any, digits: int = 6) -> Any:
    """Return a number with few digits, which a page shows; None if it is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else float(value)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


# Curves


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
            values = [_short(known.get(epoch)) for epoch in epochs]
            lines.append({"t": index[trial.number], "seed": seed, "values": values})
    compared = name == sweep.metric
    minimized = not sweep.maximize if compared else direction_of(name) == "minimize"
    return {
        "name": label(name),
        "log": minimized,
        "epochs": epochs,
        "bands": [[_short(float(v)) for v in band] for band in bands],
        "lines": lines,
    }


# Timeline


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
            gaps.append(_short(latest - cut + start - latest))
        latest = max(latest, start + seconds)
        row = next((at for at, end in enumerate(ends) if end <= start + 0.02), len(ends))
        ends[row : row + 1] = [start + seconds]
        numbers = [_short(one, 5) for one in (start - cut, seconds, min(compiling, seconds))]
        bars.append([row, *numbers, group, text, lanes])
    end = max((bar[1] + bar[2] for bar in bars), default=1.0) or 1.0
    return {"bars": bars, "rows": len(ends), "end": end, "gaps": gaps, "left_out":
            max(0, len(cohorts) - BARS)}  # fmt: skip
