"""The next action of a sweep, as a pure function of the committed history and the settings.

Ask      ask the search for the trials of the next round
Regroup  find the groups of trials that are asked again
Train    train lanes to the next rung, in cohorts
Select   at a rung: which trials stop, and what population-based training changes
End      the sweep ends: all trials have ended, or the budget is used
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..html import count, duration
from ..train.metrics import badness
from .plan import Grouped
from .score import Objective, constrained, keep, lane_scores, mean, population, violation
from .search import Known, Observation, perturbed
from .settings import Settings
from .space import Space, Values
from .tables import BROKEN, OPEN, Change, Trial

LOSSES = ("loss", "validation_loss")
NOTHING = Known()


class Lane(NamedTuple):
    """The training of a trial with one seed."""

    trial: int
    seed: int


@dataclasses.dataclass(frozen=True)
class SweepHistory:
    """The input of decisions: all committed results, and the definition of the sweep.

    Args:
        trials: All trials, by number.
        curves: Values of the metric and the losses by name, trial, seed, and epoch.
        trained: The number of epochs that each lane has trained; absent for none.
        changes: The changes of population-based training, by epoch.
        groups: How each group of the round that is running trains, by name.
        seeds: The first seed of each trial of this round that has a group.
        epochs: Epochs of a whole run.
        metric: Name of the metric that trials are compared by.
        maximize: Whether a larger value is better.
        space: The search space.
        known: Configurations to try first and earlier sweeps. Default: none.
        seconds: The wall time that training took so far. Default: 0.
        objectives: All metrics that trials are compared by, the first of which is `metric`.
            Default: none, only that one.
        known_metrics: Metrics of the configuration and of its training, by trial. Default: none.
        scores: The scores of trials that have ended, by number, added when they are first computed;
            later histories of the same sweep may share them. Default: empty.
        observed: The observations of the first trials, likewise. Default: empty.
    """

    trials: Sequence[Trial]
    curves: Mapping[str, Mapping[int, Mapping[int, Mapping[int, float]]]]
    trained: Mapping[tuple[int, int], int]
    changes: Sequence[Change]
    groups: Mapping[str, Grouped]
    seeds: Mapping[int, int]
    epochs: int
    metric: str
    maximize: bool
    space: Space
    known: Known = NOTHING
    seconds: float = 0.0
    objectives: Sequence[Objective] = ()
    known_metrics: Mapping[int, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    scores: dict[int, float | None] = dataclasses.field(default_factory=dict)
    observed: list[Observation] = dataclasses.field(default_factory=list)

    def curve(self, name: str, trial: int) -> Mapping[int, Mapping[int, float]]:
        """Return the values of a metric of a trial by seed and epoch."""
        return self.curves.get(name, {}).get(trial, {})

    def changed(self, trial: int) -> list[int]:
        """Return the epochs at which a trial took the state of another."""
        return [change.epoch for change in self.changes if change.trial == trial]

    def values(self, trials: Iterable[int], epoch: int) -> dict[int, Values]:
        """Return the values of trials after an epoch: as asked, or as changed since."""
        values = {number: self.trials[number].values for number in trials}
        changed = {c.trial: c.values for c in self.changes if c.epoch <= epoch}  # the last one
        return values | {number: changed[number] for number in values.keys() & changed.keys()}


@dataclasses.dataclass(frozen=True)
class Ask:
    """Begin a round with the given configurations, and `count` trials that the search chooses.

    The observations are all earlier trials, and the known ones of this round.
    """

    round: int
    known: list[Values]
    count: int
    observations: list[Observation]


@dataclasses.dataclass(frozen=True)
class Regroup:
    """Find the groups of trials; `count` is the number of trials of their round."""

    trials: list[Trial]
    count: int


@dataclasses.dataclass(frozen=True)
class Part:
    """Lanes of a group that train together, from the first epoch of `epochs` to the second."""

    group: str
    lanes: list[Lane]
    epochs: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train lanes to a rung; `last` if they end there."""

    rung: int
    parts: list[Part]
    last: bool


@dataclasses.dataclass(frozen=True)
class Select:
    """End these trials at a rung, and change others by population-based training."""

    rung: int
    stopped: list[int]
    changes: list[Change]


@dataclasses.dataclass(frozen=True)
class End:
    """End the sweep; `reason` is a sentence, or "" if all its trials have ended."""

    reason: str


def decide(history: SweepHistory, settings: Settings) -> Ask | Regroup | Train | Select | End:
    """Return the next action of a sweep. This is a pure function.

    The first round with an open trial is replayed rung by rung, to the first step that is not
    committed.

    Args:
        history: All that is committed.
        settings: Settings of the sweep.
    """
    trials = history.trials
    if reason := used_up(history, settings):
        return End(reason)
    open_rounds = [trial.round for trial in trials if trial.status in OPEN]
    if not open_rounds:
        index = max((trial.round for trial in trials), default=-1) + 1
        left = settings.trials - len(trials)
        if left <= 0 or (settings.halving == "population" and trials):
            return End("")
        count = min(settings.bracket(index, None, history.epochs).count, left)
        waiting = history.known.waiting(trials)[:count]
        new = trials[len(history.observed) :]  # all have ended, which is never undone
        scores = [_scores(history, trial, settings) for trial in new]
        violations = _violations(history, new, settings)
        history.observed.extend(history.known.observations(new, scores, violations))
        observations = [*history.known.earlier, *history.observed]
        observations += [Observation(values, None, index, own=False) for values in waiting]
        return Ask(index, waiting, count - len(waiting), observations)
    index = min(open_rounds)
    round = [trial for trial in trials if trial.round == index]
    bracket = settings.bracket(index, len(round), history.epochs)
    if alone := [trial for trial in round if trial.group is None and trial.status in OPEN]:
        return Regroup(alone, bracket.count)
    members = [trial.number for trial in round]
    for rung, (begin, end) in enumerate(bracket.spans):
        last = end == bracket.rungs[-1]
        if parts := _parts(history, members, (begin, end), last, settings.repeats):
            return Train(rung, parts, last)
        if last:
            break
        scores = constrained(
            [_score(history, trials[n], settings, (begin, end)) for n in members],
            _violations(history, [trials[n] for n in members], settings, end),
        )
        changes: list[Change] = []
        if settings.halving == "population":
            if all(change.epoch != end for change in history.changes):
                changes = _changes(history, members, scores, (begin, end), settings.search_seed)
            staying = members
        else:
            best = keep(scores, min(bracket.counts[rung + 1], len(members)))
            staying = sorted(members[i] for i in best)
        stopped = [n for n in members if n not in staying and trials[n].status in OPEN]
        if stopped or changes:
            return Select(rung, stopped, changes)
        members = staying
    raise ValueError(f"round {index} has open trials, all of whose lanes are trained")


def used_up(history: SweepHistory, settings: Settings) -> str:
    """Return a sentence about the limit of the budget that is reached; "" if none is.

    Args:
        history: All that is committed.
        settings: Settings of the sweep.
    """
    budget = settings.budget
    if not budget:
        return ""
    epochs = sum(history.trained.values())
    if budget.time is not None and history.seconds >= float(budget.time):
        return f"the time of {duration(float(budget.time))} is used"
    if budget.epochs is not None and epochs >= budget.epochs:
        return f"the budget of {count(budget.epochs, 'epoch')} is used"
    if budget.target is None and budget.patience is None:
        return ""
    done = [trial for trial in history.trials if trial.status == "done"]
    far = _violations(history, done, settings)
    done = [trial for trial, violated in zip(done, far, strict=True) if not violated]
    scores = {trial.number: _end_score(history, trial, settings) for trial in done}
    ranked = sorted((score, number) for number, score in scores.items() if score is not None)
    if not ranked:
        return ""
    score, best = ranked[0]
    if budget.target is not None and score <= badness(budget.target, history.maximize):
        return f"trial {best} reached the target {history.metric} = {budget.target:g}"
    ended = sum(trial.number > best for trial in history.trials if trial.status not in OPEN)
    if budget.patience is not None and ended >= budget.patience:
        return f"no trial was better than trial {best} in the {ended} that followed"
    return ""


def _parts(
    history: SweepHistory, members: Sequence[int], epochs: tuple[int, int], last: bool, seeds: int
) -> list[Part]:
    """Return the lanes that still need training to a rung, in cohorts.

    The cohorts depend only on the trials and groups, so a lane has the same neighbors in a resumed
    sweep.
    """
    by_group: dict[str, list[Lane]] = {}
    for number in members:
        if (name := history.trials[number].group) is not None:
            first = history.seeds[number]
            by_group.setdefault(name, []).extend(Lane(number, first + k) for k in range(seeds))
    found = []
    for name, lanes in by_group.items():
        group = history.groups[name]
        # Without halving, a trial ends with its own epochs, which a sweep may change.
        begin, end = (0, group.epochs) if last and epochs[0] == 0 else epochs
        for at in range(0, len(lanes), group.cohort):
            left = [
                lane
                for lane in lanes[at : at + group.cohort]
                if history.trials[lane.trial].status in OPEN and history.trained.get(lane, 0) < end
            ]
            if left:
                found.append(Part(name, left, (begin, end)))
    return found


def _changes(
    history: SweepHistory,
    members: Sequence[int],
    scores: list[float | None],
    epochs: tuple[int, int],
    seed: int,
) -> list[Change]:
    """Return the changes of population-based training at a rung."""
    random = np.random.default_rng((seed, epochs[1]))
    values, found = history.values(members, epochs[0]), []
    for at, source in enumerate(population(scores, random)):
        if source != at:
            near = perturbed(history.space, values[members[source]], random)
            found.append(Change(members[at], epochs[1], near, members[source]))
    return found


def _end_score(history: SweepHistory, trial: Trial, settings: Settings) -> float | None:
    """Return the score of a trial at its end, which is computed once for a trial that has ended."""
    if trial.status in OPEN:
        return _score(history, trial, settings)
    if trial.number not in history.scores:
        history.scores[trial.number] = _score(history, trial, settings)
    return history.scores[trial.number]


def _score(
    history: SweepHistory, trial: Trial, settings: Settings, epochs: tuple[int, int] | None = None
) -> float | None:
    """Return the score of a trial, the mean over its seeds; smaller is better.

    It is the score at the end, or at the end of the given epochs. The result is None if the trial
    is broken or diverged within the epochs, because an accuracy may be the best while the loss is
    NaN. It is also None if the metric is missing or not finite for a seed.
    """
    number = trial.number
    if trial.status in BROKEN if epochs is None else _diverged(history, number, epochs):
        return None
    curves = [curve for curve in history.curve(history.metric, number).values() if curve]
    if len(curves) < settings.repeats:
        return None
    end = epochs[1] if epochs else math.inf
    if epochs and not all(end in curve for curve in curves):
        return None
    rule, changed = settings.score, history.changed(number)
    each = lane_scores(curves, changed, rule, history.maximize, end)
    score = badness(mean(each), history.maximize)
    return score if math.isfinite(score) else None


def _value(
    history: SweepHistory, metric: str, number: int, settings: Settings, epoch: int | None = None
) -> float | None:
    """Return a metric of a trial at its end or at an epoch, the mean over its seeds; or None."""
    curves = [curve for curve in history.curve(metric, number).values() if curve]
    if not curves:
        return history.known_metrics.get(number, {}).get(metric)
    if len(curves) < settings.repeats:
        return None
    return float(np.mean([curve.get(epoch or max(curve), math.nan) for curve in curves]))


def _scores(history: SweepHistory, trial: Trial, settings: Settings) -> tuple[float, ...]:
    """Return the scores of all objectives, smaller is better; () if the trial lacks one."""
    found = [_end_score(history, trial, settings)]
    for metric, maximize in history.objectives[1:]:
        value = _value(history, metric, trial.number, settings)
        found.append(None if value is None else badness(value, maximize))
    whole = [one for one in found if one is not None and math.isfinite(one)]
    return tuple(whole) if len(whole) == len(found) else ()


def _violations(
    history: SweepHistory, trials: Sequence[Trial], settings: Settings, epoch: int | None = None
) -> list[float]:
    """Return how far trials violate the constraints, at their end or at an epoch."""
    found, bounds = [], settings.bounds
    for trial in trials:
        values = {
            b.metric: _value(history, b.metric, trial.number, settings, epoch) for b in bounds
        }
        found.append(violation(bounds, values))
    return found


def _diverged(history: SweepHistory, number: int, epochs: tuple[int, int]) -> bool:
    """Return whether a trial diverged within these epochs."""
    return any(
        epochs[0] < at <= epochs[1] and _shows_divergence(name, value, at == epochs[1])
        for name in LOSSES
        for curve in history.curve(name, number).values()
        for at, value in curve.items()
    )


def divergences(
    results: Iterable[tuple[int, int, int, str, float]],
    ends: Mapping[Lane, int],
    ranking: str,
    last: bool,
) -> dict[int, str]:
    """Return why trials diverged in a segment of epochs, by number.

    Args:
        results: The trial, seed, epoch, metric, and value of each result.
        ends: The last epoch of each lane.
        ranking: The metric that trials are compared by, which must be finite at the end.
        last: Whether the trials end after the segment.
    """
    found: dict[int, str] = {}
    for trial, seed, at, metric, value in results:
        at_end = at == ends[Lane(trial, seed)]
        unranked = last and at_end and metric == ranking and not math.isfinite(value)
        if unranked or _shows_divergence(metric, value, at_end):
            found.setdefault(trial, f"{metric} is {value} after epoch {at} with seed {seed}")
    return found


def _shows_divergence(metric: str, value: float, at_end: bool) -> bool:
    """Return whether a value shows that a trial diverged.

    A trial diverged if its training loss is not finite, or its validation loss at the end of a
    segment of epochs. Other metrics may be undefined for a while, as the precision of a class that
    is never predicted.
    """
    return not math.isfinite(value) and (
        metric == "loss" or (at_end and metric == "validation_loss")
    )
