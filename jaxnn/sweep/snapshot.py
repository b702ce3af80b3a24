"""The results of a sweep as plain values: the view that the report and the exports have of it.

`read` reads it from a ledger. It defines the score of a trial and which trial is the best.

- The `score` of a trial is the mean over its seeds of the metric after the last epoch, or, by the
  setting `score`, of its best value or its mean over epochs. A trial has no score if it diverged,
  failed, or has not run, or if a seed has no finite value.
- The `ranking` first lists the trials that ran to their end, by score, even if their numbers of
  epochs differ, since a sweep can be extended. Then come trials that halving stopped, those with
  more epochs first, since metrics after different epochs are not comparable.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.reading import FileError, listed
from ..html import count
from ..train.metrics import badness
from .dimensions import Dimension, dimension_of
from .ledger import Ledger
from .score import (
    Constraint,
    Objective,
    finite,
    fronts,
    known_metrics,
    lane_scores,
    mean,
    ranked,
    rule_of_score,
    violation,
)
from .storage import check_undamaged
from .tables import BROKEN, Cohort, Group, Trial, is_list

# By metric, trial, and seed: (epoch, value) in order; None for a value that is not finite.
Curves = Mapping[str, Mapping[int, Mapping[int, Sequence[tuple[int, float | None]]]]]


@dataclasses.dataclass(frozen=True)
class Score:
    """The score of a trial after an epoch.

    Args:
        epoch: The epoch.
        each: The score of each seed.
    """

    epoch: int
    each: tuple[float, ...]

    @functools.cached_property
    def mean(self) -> float:
        """The mean over the seeds."""
        return mean(self.each)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The results of a sweep, finished or not.

    Args:
        folder: Folder of the ledger.
        experiment: Module of the experiment, such as `experiments.mnist_mlp`.
        config: The configuration that trials change, as `configuration.to_plain` returns it.
        dimensions: The swept dimensions, by name.
        metric: Name of the metric that trials are compared by.
        maximize: Whether a larger value is better.
        seeds: Number of lanes per trial.
        epochs: Epochs of a whole run.
        rungs: The epochs at which trials are compared; only the last without halving.
        trials: The trials by number, with their final values.
        cohorts: The cohorts, in the order of their commits.
        groups: The groups, in the order in which they were added.
        curves: The metrics after each epoch.
        facts: All other meta data: search, seed, device, versions, traced, ...
        changed: The epoch of the last change by population-based training, by trial. Default: none.
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
    changed: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the experiment's module, such as `mnist_mlp`.

        A notebook is not such a module: its sweep has the name of the experiment.
        """
        module = self.experiment.rpartition(".")[2]
        return str(self.facts.get("name", module)) if module == "__main__" else module

    @functools.cached_property
    def scores(self) -> dict[int, Score]:
        """The score of each trial that has one, by its number."""
        found = {}
        for trial in self.trials:
            curves = self._lanes(trial.number, self.metric)
            if trial.status not in BROKEN and curves:
                each = self.each(trial.number)
                if math.isfinite(mean(each)):
                    epoch = max(max(curve) for curve in curves)  # seeds may stop early
                    found[trial.number] = Score(epoch, each)
        return found

    def _lanes(self, number: int, metric: str) -> list[dict[int, float | None]]:
        """Return a metric of the lanes of a trial by epoch."""
        seeds = self.curves.get(metric, {}).get(number, {})
        return [dict(curve) for _, curve in sorted(seeds.items()) if curve]

    def each(self, number: int, end: float = math.inf) -> tuple[float, ...]:
        """Return the scores of the lanes of a trial.

        Args:
            number: Number of the trial.
            end: The last epoch that counts; lanes may end before. Default: all count.
        """
        curves = self._lanes(number, self.metric)
        rule = self.facts.get("settings", {}).get("score", "last")
        changed = [self.changed[number]] if number in self.changed else []
        return tuple(lane_scores(curves, changed, rule, self.maximize, end))

    @functools.cached_property
    def ranking(self) -> list[Trial]:
        """The trials that have a score, the best first; of equals, the earlier trial."""

        def rank(trial: Trial) -> tuple[bool, int, float, int]:
            score, done = self.scores[trial.number], trial.status == "done"
            worth = badness(score.mean, self.maximize)
            return not done, 0 if done else -score.epoch, worth, trial.number

        found = sorted((trial for trial in self.trials if trial.number in self.scores), key=rank)
        if len(self.objectives) == 1 and not self.constraints:
            return found
        done, points = self._complete(found)
        first = [done[i] for i in ranked(points, [self.violation(t.number) for t in done])]
        numbers = {trial.number for trial in first}
        return [*first, *(trial for trial in found if trial.number not in numbers)]

    def _complete(self, trials: Sequence[Trial]) -> tuple[list[Trial], list[list[float]]]:
        """Return the complete trials with all objectives, and their values; smaller is better."""
        done, points = [], []
        for trial in trials:
            pairs = [(self.measured(trial.number, o.metric), o.maximize) for o in self.objectives]
            values = [badness(value, up) for value, up in pairs if value is not None]
            if trial.status == "done" and len(values) == len(pairs):
                done.append(trial)
                points.append(values)
        return done, points

    @functools.cached_property
    def objectives(self) -> list[Objective]:
        """The metrics that trials are compared by; the first is `metric`."""
        rows = self.facts.get("objectives") or [[self.metric, self.maximize]]
        return [Objective(*row) for row in rows]

    @functools.cached_property
    def constraints(self) -> list[Constraint]:
        """The bounds on metrics."""
        return [*map(Constraint.of, self.facts.get("settings", {}).get("constraints", []))]

    @functools.cached_property
    def front(self) -> list[Trial]:
        """The trials of the Pareto front that ran to their end, the most balanced first.

        No trial that satisfies the constraints is as good as one of them in all objectives and
        better in one. With one objective it is the best trial; empty if none satisfies the bounds.
        """
        allowed = [trial for trial in self.ranking if self.violation(trial.number) == 0]
        done, points = self._complete(allowed)
        found = fronts(points) if points else ()
        return [trial for trial, number in zip(done, found, strict=True) if number == 0]

    def measured(self, number: int, metric: str) -> float | None:
        """Return a metric of a trial: its score, or the last value, the mean over its seeds.

        Args:
            number: Number of the trial.
            metric: Name of a metric that the program reports, or of `objectives.CONFIGURED`.
        """
        if metric == self.metric:
            return self.scores[number].mean if number in self.scores else None
        curves = self._lanes(number, metric)
        if not curves:
            return self._known.get(number, {}).get(metric)
        value = mean([finite(curve[max(curve)]) for curve in curves])
        return value if math.isfinite(value) else None

    def violation(self, number: int) -> float:
        """Return how far a trial violates the constraints; 0 if it satisfies them.

        Args:
            number: Number of the trial.
        """
        values = {bound.metric: self.measured(number, bound.metric) for bound in self.constraints}
        return violation(self.constraints, values)

    @functools.cached_property
    def _known(self) -> dict[int, dict[str, float]]:
        """The metrics of configurations, by trial."""
        return known_metrics(self.trials, self.groups, self.cohorts)

    @property
    def best(self) -> Trial | None:
        """The first trial of the ranking; None if no trial is ranked."""
        return self.ranking[0] if self.ranking else None

    @functools.cached_property
    def longest(self) -> int:
        """The most epochs that a score has; 0 if there is no score."""
        return max((score.epoch for score in self.scores.values()), default=0)

    @functools.cached_property
    def finalists(self) -> list[Trial]:
        """The trials whose scores are compared with each other, the best first.

        These are the trials that ran to their end; if no trial did, those with the most epochs.
        """
        done = [trial for trial in self.ranking if trial.status == "done"]
        return done or [t for t in self.ranking if self.scores[t.number].epoch == self.longest]

    @functools.cached_property
    def compared(self) -> frozenset[int]:
        """The numbers of the finalists."""
        return frozenset(trial.number for trial in self.finalists)

    @functools.cached_property
    def conditional(self) -> frozenset[str]:
        """The names of the dimensions that some trial does not have."""
        return frozenset(
            name for name in self.dimensions if any(name not in t.values for t in self.trials)
        )

    @property
    def ordered(self) -> list[str]:
        """The names of the dimensions: those that all trials have, then the conditional ones."""
        return sorted(self.dimensions, key=self.conditional.__contains__)

    @property
    def forced(self) -> list[str]:
        """A sentence for each time the sweep was resumed although its code or data had changed."""
        return [
            f"Resumed with --force after {count(one['after trials'], 'trial')}, although this "
            f"changed: {listed(list(map(str, one['changes'])))}. The trials before and after are "
            "not comparable."
            for one in self.facts.get("forced", [])
        ]

    @functools.cached_property
    def causes(self) -> list[tuple[str, str, list[int]]]:
        """Why trials diverged or failed: (status, cause, numbers), the most common first."""
        found: dict[tuple[str, str], list[int]] = {}
        for trial in self.trials:
            if trial.status in BROKEN:
                cause = _cause(trial.error or "")
                found.setdefault((trial.status, cause), []).append(trial.number)
        ordered = sorted(found.items(), key=lambda item: -len(item[1]))
        return [(status, cause, numbers) for (status, cause), numbers in ordered]

    def better(self, a: float, b: float) -> bool:
        """Return whether the metric `a` is better than `b`; one that is not finite never is."""
        return badness(a, self.maximize) < badness(b, self.maximize)

    @functools.cached_property
    def means(self) -> dict[int, dict[int, float]]:
        """The metric by trial and epoch: the mean over its seeds if each has a finite value."""
        found: dict[int, dict[int, float]] = {trial.number: {} for trial in self.trials}
        for number, seeds in self.curves.get(self.metric, {}).items():
            curves = [dict(curve) for curve in seeds.values()]
            epochs = sorted(set.intersection(*map(set, curves))) if curves else []
            means = {at: mean([finite(curve[at]) for curve in curves]) for at in epochs}
            found[number] = {at: value for at, value in means.items() if math.isfinite(value)}
        return found


def _cause(error: str) -> str:
    """Return the cause of an error, which is equal for trials with the same cause.

    It is the line of a traceback that names the error, the first after its last frame; or the
    divergence without its epoch and seed.
    """
    lines = [line for line in error.splitlines() if line.strip()]
    frames = [at for at, line in enumerate(lines) if line.startswith("  ")]
    after = lines[frames[-1] + 1 :] if frames else []
    line = (after or lines[-1:] or ["unknown"])[0].strip()
    return re.sub(r" after epoch \d+( with seed \d+)?$", "", line)


def read(ledger: Ledger) -> Sweep:
    """Return the results of a sweep at this moment; a driver may be writing meanwhile.

    Args:
        ledger: Ledger of the sweep.

    Raises:
        ValueError: The meta data lack an entry.
        LedgerError: The ledger has invalid values.
    """
    with ledger.snapshot():
        facts = dict(ledger.meta)
        changes = ledger.changes()  # in the order of epochs
        last = {change.trial: change.values for change in changes}
        trials, cohorts, groups = ledger.trials(), ledger.cohorts(), ledger.groups()
        results = ledger.results()
    known, dimensions = described(ledger.folder, facts)
    trials = [dataclasses.replace(t, values=last.get(t.number, t.values)) for t in trials]
    problem = next(
        (
            f"trial {trial.number} has {name} = {value!r:.40}, which the space does not have"
            for trial in trials
            for name, value in trial.values.items()
            if name not in dimensions or not dimensions[name].has(value)
        ),
        "",
    )
    if not all(0 <= result.trial < len(trials) for result in results):
        problem = "a result belongs to no trial"
    check_undamaged(ledger.folder, problem)
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
        facts={name: plain for name, plain in facts.items() if name not in known},
        changed={change.trial: change.epoch for change in changes},
        **{name: known[name] for name in known if name != "space"},
    )


NEEDED = ("experiment", "config", "space", "metric", "maximize", "seeds", "epochs", "rungs")
TEST: dict[str, type[Any]] = {"trial": int, "rows": int, "scores": dict}


def _any(kind: type[Any], *names: str) -> dict[str, tuple[type[Any], Callable[[Any], Any]]]:
    """Return entries that accept any value of a type."""
    return dict.fromkeys(names, (kind, lambda _: True))


# The type of each entry of the metadata, and a test of its value.
ENTRIES: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    **_any(dict, "config", "traced", "versions", "sources", "kept"),
    **_any(list, "space"),
    **_any(str, "metric", "search", "ended"),
    **_any(bool, "maximize"),
    "experiment": (str, re.compile(r"\w[\w.-]*").fullmatch),  # users copy it in commands
    "seeds": (int, lambda count: count > 0),
    "epochs": (int, lambda count: count > 0),
    "rungs": (list, lambda epochs: all(type(epoch) is int and epoch > 0 for epoch in epochs)),
    "settings": (dict, lambda plain: rule_of_score.test(plain.get("score", "last"))),
    "objectives": (list, lambda rows: all(is_list(row, str, bool) for row in rows)),
    "tries": (list, lambda all_: all(isinstance(one, dict) for one in all_)),
    "searches": (list, lambda rows: rows and all(is_list(row, str, int) for row in rows)),
    "warm_start": (
        dict,
        lambda one: all(
            isinstance(row, list) and len(row) in (2, 4) and isinstance(row[0], dict)
            for row in one.get("trials", [])
        ),
    ),
    "forced": (
        list,
        lambda all_: all(
            isinstance(one, dict)
            and isinstance(one.get("after trials"), int)
            and isinstance(one.get("changes"), list)
            for one in all_
        ),
    ),
    "test": (
        dict,
        lambda found: (
            {name: type(one) for name, one in found.items()} == TEST
            and all(isinstance(each, list) and each for each in found["scores"].values())
            and all(isinstance(x, int | float) for each in found["scores"].values() for x in each)
        ),
    ),
}


def described(folder: Path, meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Dimension]]:
    """Return the description of a sweep in a ledger's meta data, and its dimensions.

    Args:
        folder: Folder of the ledger.
        meta: The meta data.

    Raises:
        ValueError: They lack what a sweep has.
        LedgerError: An entry is of another type.
    """
    if missing := [name for name in NEEDED if name not in meta]:
        raise FileError(
            f"the ledger in {folder} lacks {', '.join(map(repr, missing))}: it was not written by "
            "a sweep"
        )
    dimensions: dict[str, Dimension] = {}
    try:
        wrong = [
            f"{name!r} is {meta[name]!r:.80}"
            for name, (kind, test) in ENTRIES.items()
            if name in meta and (type(meta[name]) is not kind or not test(meta[name]))
        ]
        problem = wrong[0] if wrong else ""
        if not wrong:
            dimensions = {str(row["name"]): dimension_of(row) for row in meta["space"]}
            if not set(dimensions) <= set(meta.get("traced", dimensions)):
                problem = "'traced' lacks a parameter"
    except (KeyError, TypeError, ValueError) as error:
        problem = f"the space is not one: {error}"
    check_undamaged(folder, problem)
    return {name: meta[name] for name in NEEDED}, dimensions
