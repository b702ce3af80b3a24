"""Decisions are a pure function of what is committed, so nothing depends on when a driver died."""

import copy
import dataclasses
import random

import numpy as np
import pytest

from jaxnn.sweep import Space, Uniform
from jaxnn.sweep.compiled import Way
from jaxnn.sweep.decision import Ask, End, Regroup, Select, SweepHistory, Train, decide
from jaxnn.sweep.plan import Grouped
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.tables import Trial
from tests.sweep import quick

SPACE = Space(quick.Config, {"optimizer.momentum": Uniform(0.0, 1.0)})
EMPTY = SweepHistory([], {}, {}, [], {}, {}, 4, "validation_accuracy", True, SPACE)


def grouped(cohort):
    return Grouped(None, 4, Way("loop", 1), cohort)  # type: ignore[arg-type]


def accuracy(values, seed, epoch):
    """A metric in closed form: the best trials have a momentum near 0.6, and some diverge."""
    momentum = values["optimizer.momentum"]
    return float("nan") if momentum > 0.95 else epoch / 4 - abs(momentum - 0.6) + 0.01 * seed


def committed(history, step, settings, parts=None):
    """The history after a step; of `Train`, after some of its parts."""
    trials, curves = list(history.trials), copy.deepcopy(history.curves)
    trained = dict(history.trained)
    match step:
        case Ask():
            new = [SPACE.sample(np.random.default_rng(len(trials) + i)) for i in range(step.count)]
            for number, values in enumerate([*step.known, *new], len(trials)):
                group = None if number % 7 == 6 else f"group {number % 2}"
                trials.append(Trial(number, step.round, step.round, values, group))
        case Regroup():
            for trial in step.trials:
                trials[trial.number] = dataclasses.replace(trial, status="failed")
        case Train():
            for part in step.parts if parts is None else parts:
                for lane in part.lanes:
                    values = history.values([lane.trial], part.epochs[0])[lane.trial]
                    trained[lane] = part.epochs[1]
                    value = 0.0
                    for epoch in range(part.epochs[0] + 1, part.epochs[1] + 1):
                        value = accuracy(values, lane.seed, epoch)
                        for name, one in (("validation_accuracy", value), ("loss", -value)):
                            trial = curves.setdefault(name, {}).setdefault(lane.trial, {})
                            trial.setdefault(lane.seed, {})[epoch] = one
                    bad = value != value and (step.last or settings.halving != "population")
                    status = "diverged" if bad else "done" if step.last else "running"
                    trials[lane.trial] = dataclasses.replace(trials[lane.trial], status=status)
        case Select():
            for number in step.stopped:
                trials[number] = dataclasses.replace(trials[number], status="stopped")
    changes = [*history.changes, *(step.changes if isinstance(step, Select) else ())]
    return dataclasses.replace(
        history,
        trials=trials,
        curves=curves,
        trained=trained,
        changes=changes,
        groups={f"group {i}": grouped(4) for i in range(2)},
        seeds={trial.number: 0 for trial in trials if trial.group is not None},
    )


def driven(settings, rng=None):
    """The steps and the last history of a sweep; with `rng`, of one that is stopped often."""
    history, steps = EMPTY, []
    while not isinstance(step := decide(history, settings), End):
        before = copy.deepcopy(history)
        assert decide(history, settings) == step  # pure
        assert history == before
        steps.append(step)
        parts = None
        if rng is not None and isinstance(step, Train):
            parts = rng.sample(step.parts, rng.randint(1, len(step.parts)))  # in any order
        history = committed(history, step, settings, parts)
    return steps, history


KINDS = {
    "none": Settings(trials=16, batch=6, seeds=2),
    "successive": Settings(trials=32, batch=16, seeds=2, halving="successive", eta=2),
    "hyperband": Settings(trials=20, seeds=2, halving="hyperband", eta=2),
    "population": Settings(trials=10, seeds=2, halving="population"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decided_does_not_depend_on_interruptions(kind):
    _, whole = driven(KINDS[kind])
    assert bool(whole.changes) == (kind == "population")
    for seed in range(3):
        _, stopped = driven(KINDS[kind], random.Random(seed))
        assert repr(stopped.trials) == repr(whole.trials)
        assert stopped.changes == whole.changes
        assert stopped.trained == whole.trained
        assert repr(stopped.curves.keys()) == repr(whole.curves.keys())


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_has_the_same_neighbors_after_an_interruption(kind):
    steps, _ = driven(KINDS[kind])
    again, _ = driven(KINDS[kind], random.Random(0))
    neighbors = {
        (lane, part.epochs): tuple(part.lanes)
        for step in steps
        if isinstance(step, Train)
        for part in step.parts
        for lane in part.lanes
    }
    for step in again:
        for part in step.parts if isinstance(step, Train) else ():
            for lane in part.lanes:
                assert tuple(part.lanes) == neighbors[lane, part.epochs]


def test_each_bracket_trains_its_number_of_trials_to_each_rung():
    settings = dataclasses.replace(KINDS["hyperband"], seeds=1)
    _, history = driven(settings)
    ends = {number: epoch for (number, _), epoch in history.trained.items()}
    for index, bracket in enumerate(settings.rounds(4)):
        numbers = [trial.number for trial in history.trials if trial.round == index]
        failed = sum(history.trials[n].status == "failed" for n in numbers)
        for rung, count in zip(bracket.rungs, bracket.counts, strict=True):
            reached = [n for n in numbers if ends.get(n, 0) >= rung]
            # A trial that failed counts as one that was compared.
            assert count - failed <= len(reached) <= count


def test_a_trial_that_is_asked_again_is_trained_again_alone():
    settings = KINDS["none"]
    _, history = driven(settings)
    number = next(t.number for t in history.trials if t.status == "diverged")
    trials = list(history.trials)
    trials[number] = dataclasses.replace(trials[number], status="asked")
    trained = {lane: epoch for lane, epoch in history.trained.items() if lane[0] != number}
    step = decide(dataclasses.replace(history, trials=trials, trained=trained), settings)
    assert isinstance(step, Train)
    assert {lane for part in step.parts for lane in part.lanes} == {(number, 0), (number, 1)}


def test_a_damaged_history_is_an_error():
    _, history = driven(KINDS["none"])
    trials = [dataclasses.replace(trial, status="running") for trial in history.trials]
    trials = [trial for trial in trials if trial.group is not None]
    trials = [dataclasses.replace(trial, number=n) for n, trial in enumerate(trials)]
    trained = {(trial.number, seed): 4 for trial in trials for seed in (0, 1)}
    seeds = {trial.number: 0 for trial in trials}
    broken = dataclasses.replace(history, trials=trials, trained=trained, seeds=seeds)
    with pytest.raises(ValueError, match="round 0 has open trials, all of whose lanes are trained"):
        decide(broken, KINDS["none"])
