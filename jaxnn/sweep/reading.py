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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..train.directions import badness
from .dimensions import Choice, Dimension, Grid, Int, Log, Uniform
from .history import History
from .records import BROKEN, Cohort, Group, Trial

KINDS = {kind.__name__.lower(): kind for kind in (Uniform, Log, Int, Choice, Grid)}
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
        return float(np.mean(self.each))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as it stands, be it finished or not.

    Args:
        folder: where its ledger is.
        recipe: the experiment's module, such as `experiments.mnist_mlp`.
        config: the configuration that trials change, as `configuration.to_plain` gives it.
        dimensions: what is searched, by name.
        metric: the name that trials are compared by.
        maximise: whether more of it is better.
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
    recipe: str
    config: Mapping[str, Any]
    dimensions: Mapping[str, Dimension]
    metric: str
    maximise: bool
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
        return self.recipe.rpartition(".")[2]

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

    def better(self, a: float, b: float) -> bool:
        """Whether the metric `a` is better than `b`; what is not finite is never better."""
        return badness(a, self.maximise) < badness(b, self.maximise)

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
            means = {e: float(np.mean(each)) for e, each in sorted(whole.items())}
            found[number] = {e: mean for e, mean in means.items() if math.isfinite(mean)}
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
            badness(score.mean, self.maximise),
            trial.number,
        )


def read(ledger: History) -> Sweep:
    """The sweep in a ledger, as it is at this moment; a driver may be writing meanwhile.

    Raises ValueError where the ledger's meta data lacks what a sweep has.
    """
    with ledger.snapshot():
        facts = dict(ledger.meta)
        last = {change.trial: change.values for change in ledger.changes()}
        trials, cohorts, groups = ledger.trials(), ledger.cohorts(), ledger.groups()
        results = ledger.results()
    missing = [name for name in NEEDED if name not in facts]
    if missing:
        raise ValueError(
            f"the ledger in {ledger.folder} does not say {', '.join(map(repr, missing))}: it was "
            "not written by a sweep"
        )
    known = {name: facts.pop(name) for name in NEEDED}
    curves: dict[str, dict[int, dict[int, list[tuple[int, float | None]]]]] = {}
    for trial, seed, epoch, name, value in results:
        curve = curves.setdefault(name, {}).setdefault(trial, {}).setdefault(seed, [])
        curve.append((epoch, value if math.isfinite(value) else None))
    return Sweep(
        folder=ledger.folder,
        dimensions={row["name"]: dimension_of(row) for row in known.pop("space")},
        trials=[dataclasses.replace(t, values=last.get(t.number, t.values)) for t in trials],
        cohorts=cohorts,
        groups=groups,
        curves=curves,
        facts=facts,
        changed=frozenset(last),
        **known,
    )


NEEDED = ("recipe", "config", "space", "metric", "maximise", "seeds", "epochs", "rungs")


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
