"""What a sweep found, as plain values: the one view that the report and the exports have of it.

`read` takes it from a ledger; nothing behind it knows of SQLite. From it follow the two questions
that every reader asks: what a trial's score is, and which trial is the best.

- The *score* of a trial is the metric after its last epoch, the mean over its seeds. A trial that
  diverged, failed or has not run has none, and neither has one of which a seed has none, or one
  that is not finite.
- The *ranking* puts the trials that ran to their end first, the better score before the worse,
  whatever their number of epochs, which a sweep may change. Trials that halving stopped come after
  them, those with more epochs first: the metric after one epoch says little about a later one.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files.reading import FileError, listed
from ..html.formatting import count
from ..train.directions import badness
from .dimensions import Choice, Dimension, Grid, Int, LogUniform, Uniform
from .faults import LedgerError, damaged
from .history import History
from .tables import BROKEN, Cohort, Group, Trial

KINDS = {kind.__name__.lower(): kind for kind in (Uniform, LogUniform, Int, Choice, Grid)}
# By metric, trial and seed: (epoch, number) in order; None for what was not finite.
Curves = Mapping[str, Mapping[int, Mapping[int, Sequence[tuple[int, float | None]]]]]


@dataclasses.dataclass(frozen=True)
class Score:
    """The metric of a trial after one epoch: `each` has a number a seed."""

    epoch: int
    each: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.each)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as it stands, be it finished or not.

    Args:
        folder: where its ledger is.
        experiment: the experiment's module, such as `experiments.mnist_mlp`.
        config: the configuration that trials change, as `configuration.to_plain` gives it.
        dimensions: what is searched, by name.
        metric: the name that trials are compared by.
        maximize: whether more of it is better.
        seeds: lanes a trial.
        epochs: the length of a whole run.
        rungs: the epochs at which trials are compared; of one epoch count without halving.
        trials, cohorts, groups: in the order in which they came. Trials have the values that they
            ended with.
        curves: what was measured after each epoch.
        facts: what else the ledger's meta says: search, seed, device, versions, traced, ...
        changed: the trials whose values changed on their way, by population-based training.
    """

    folder: Path
    experiment: str
    config: Mapping[str, Any]
    dimensions: Mapping[str, Dimension]
    metric: str
    maximize: bool
    seeds: int
    epochs: int
    rungs: Sequence[int]
    trials: Sequence[Trial]
    cohorts: Sequence[Cohort]
    groups: Sequence[Group]
    curves: Curves
    facts: Mapping[str, Any]
    changed: Collection[int] = ()

    @property
    def name(self) -> str:
        """The experiment's name, `mnist_mlp`."""
        return self.experiment.rpartition(".")[2]

    @functools.cached_property
    def scores(self) -> dict[int, Score]:
        """The score of each trial that has one, by its number."""
        found = {trial.number: self._last(trial) for trial in self.trials}
        return {n: score for n, score in found.items() if score and math.isfinite(score.mean)}

    @functools.cached_property
    def ranking(self) -> list[Trial]:
        """The trials that have a score, the best first; of equals, the first asked."""
        scored = [trial for trial in self.trials if trial.number in self.scores]
        return sorted(scored, key=self._place)

    @property
    def best(self) -> Trial | None:
        """The first of the ranking."""
        return self.ranking[0] if self.ranking else None

    @functools.cached_property
    def longest(self) -> int:
        """The most epochs behind a score; 0 where there is none."""
        return max((score.epoch for score in self.scores.values()), default=0)

    @functools.cached_property
    def finalists(self) -> list[Trial]:
        """The trials whose scores are compared with each other, the best first.

        Those that ran to their end; while there are none, those with the most epochs.
        """
        done = [trial for trial in self.ranking if trial.status == "done"]
        return done or [t for t in self.ranking if self.scores[t.number].epoch == self.longest]

    @property
    def forced(self) -> list[str]:
        """A sentence for each time the sweep was resumed although its code or data had changed."""
        return [
            f"Resumed with --force after {count(one['after trials'], 'trial')}, although this "
            f"changed: {listed(list(map(str, one['changes'])))}. The trials before and after do "
            "not compare."
            for one in self.facts.get("forced", [])
        ]

    def better(self, a: float, b: float) -> bool:
        """Whether the metric `a` is better than `b`; what is not finite is never better."""
        return badness(a, self.maximize) < badness(b, self.maximize)

    def at(self, number: int, epoch: int) -> float | None:
        """The metric of a trial after an epoch, the mean over its seeds; None where it has none."""
        return self.means(number).get(epoch)

    def means(self, number: int) -> dict[int, float]:
        """The metric of a trial by epoch, the mean over its seeds where each of them has one."""
        return self._means.get(number, {})

    @functools.cached_property
    def common(self) -> tuple[int | None, dict[int, float]]:
        """What all trials with a score are compared by: an epoch, and the metric there by number.

        If all of them ran to their end, None and their scores, whatever their number of epochs.
        Else the last epoch that each of them reached; (0, {}) if nothing was measured.
        """
        if self.scores and len(self.scores) == sum(t.status == "done" for t in self.ranking):
            return None, {number: score.mean for number, score in self.scores.items()}
        epoch = min((score.epoch for score in self.scores.values()), default=0)
        numbers = {number: self.at(number, epoch) for number in self.scores}
        return epoch, {number: mean for number, mean in numbers.items() if mean is not None}

    @functools.cached_property
    def _means(self) -> dict[int, dict[int, float]]:
        """By trial and epoch; only where every seed of the trial has a number."""
        found = {}
        for number, seeds in self.curves.get(self.metric, {}).items():
            by_epoch: dict[int, list[float]] = {}
            for curve in seeds.values():
                for epoch, value in curve:
                    if value is not None:
                        by_epoch.setdefault(epoch, []).append(value)
            whole = {e: each for e, each in by_epoch.items() if len(each) == len(seeds)}
            found[number] = {e: mean(each) for e, each in sorted(whole.items())}
            found[number] = {e: m for e, m in found[number].items() if math.isfinite(m)}
        return found

    def _last(self, trial: Trial) -> Score | None:
        seeds = self.curves.get(self.metric, {}).get(trial.number, {})
        curves = [dict(curve) for _, curve in sorted(seeds.items()) if curve]
        if trial.status in BROKEN or not curves:
            return None
        epoch = min(max(curve) for curve in curves)
        each = [curve.get(epoch) for curve in curves]
        finite = tuple(value for value in each if value is not None and math.isfinite(value))
        return Score(epoch, finite) if len(finite) == len(each) else None

    def _place(self, trial: Trial) -> tuple[bool, int, float, int]:
        score, done = self.scores[trial.number], trial.status == "done"
        return (
            not done,
            0 if done else -score.epoch,
            badness(score.mean, self.maximize),
            trial.number,
        )


def mean(numbers: Sequence[float]) -> float:
    """The mean of finite numbers: finite, even if their sum is not."""
    with np.errstate(over="ignore"):
        found = float(np.mean(numbers))
    return found if math.isfinite(found) else float(np.sum(np.divide(numbers, len(numbers))))


def read(ledger: History) -> Sweep:
    """The sweep in a ledger, as it is at this moment; a driver may be writing meanwhile.

    Raises ValueError if the ledger's meta data lack what a sweep has, and LedgerError for values
    that no sweep has.
    """
    with ledger.snapshot():
        facts = dict(ledger.meta)
        last = {change.trial: change.values for change in ledger.changes()}
        trials, cohorts, groups = ledger.trials(), ledger.cohorts(), ledger.groups()
        results = ledger.results()
    known, dimensions = described(ledger.folder, facts)
    facts = {name: plain for name, plain in facts.items() if name not in known}
    trials = [dataclasses.replace(t, values=last.get(t.number, t.values)) for t in trials]
    _check_values(ledger.folder, dimensions, trials)
    numbers = range(len(trials))
    if not all(result.trial in numbers for result in results):
        raise LedgerError(f"{damaged(ledger.folder)} (a result is of no trial)")
    curves: dict[str, dict[int, dict[int, list[tuple[int, float | None]]]]] = {}
    for trial, seed, epoch, name, value in results:
        curve = curves.setdefault(name, {}).setdefault(trial, {}).setdefault(seed, [])
        curve.append((epoch, value if math.isfinite(value) else None))
    return Sweep(
        folder=ledger.folder,
        dimensions=dimensions,
        trials=trials,
        cohorts=cohorts,
        groups=groups,
        curves=curves,
        facts=facts,
        changed=frozenset(last),
        **{name: known[name] for name in known if name != "space"},
    )


NEEDED = {"experiment": str, "config": dict, "space": list, "metric": str, "maximize": bool}
NEEDED |= {"seeds": int, "epochs": int, "rungs": list}
# What else a report and a driver take from the meta data, if it is there.
FURTHER = {"settings": dict, "traced": dict, "versions": dict, "sources": dict, "search": str}
FURTHER |= {"forced": list}
FORCED = {"after trials": int, "changes": list}
# What the values of some of them are, beyond their type.
VALID: dict[str, Callable[[Any], Any]] = {
    "experiment": lambda name: re.fullmatch(r"\w[\w.-]*", name),  # it is in commands to copy
    "seeds": lambda count: count > 0,
    "epochs": lambda count: count > 0,
    "rungs": lambda epochs: all(type(epoch) is int and epoch > 0 for epoch in epochs),
    "forced": lambda all_: all(
        isinstance(one, dict) and all(isinstance(one.get(k), kind) for k, kind in FORCED.items())
        for one in all_
    ),
}


def described(folder: Path, meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Dimension]]:
    """What a ledger's meta data say of a sweep, and its dimensions, each of its type.

    Raises ValueError if they lack what a sweep has, and LedgerError for another type.
    """
    if missing := [name for name in NEEDED if name not in meta]:
        raise FileError(
            f"the ledger in {folder} does not say {', '.join(map(repr, missing))}: it was "
            "not written by a sweep"
        )
    for name, kind in (NEEDED | FURTHER).items():
        value = meta.get(name, kind())
        whole = name in meta and name in VALID
        if type(value) is not kind or (whole and not VALID[name](value)):
            raise LedgerError(f"{damaged(folder)} ({name!r} is {value!r:.80})")
    try:
        dimensions = {str(row["name"]): dimension_of(row) for row in meta["space"]}
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{damaged(folder)} (the space is not one: {error})") from error
    if not set(dimensions) <= set(meta.get("traced", dimensions)):
        raise LedgerError(f"{damaged(folder)} ('traced' lacks a parameter)")
    return {name: meta[name] for name in NEEDED}, dimensions


def _check_values(
    folder: Path, dimensions: Mapping[str, Dimension], trials: Sequence[Trial]
) -> None:
    for trial in trials:
        for name, value in trial.values.items():
            if name not in dimensions or not dimensions[name].has(value):
                raise LedgerError(
                    f"{damaged(folder)} (trial {trial.number} has {name} = {value!r:.40}, which "
                    "the space does not have)"
                )


def dimension_of(row: Mapping[str, Any]) -> Dimension:
    """The dimension that `Space.to_plain` wrote the row for.

    >>> dimension_of({"name": "width", "kind": "choice", "options": [64, 128], "log": False})
    Choice(64, 128)
    """
    kind = KINDS[row["kind"]]
    if kind in (Choice, Grid):
        return kind(*row["options"])
    return (
        Int(row["low"], row["high"], row["log"]) if kind is Int else kind(row["low"], row["high"])
    )
