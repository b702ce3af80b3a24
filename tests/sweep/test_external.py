"""Searches from outside: Optuna's samplers, and objects with `ask` and `tell`."""

import dataclasses
from typing import Any

import numpy as np
import optuna
import pytest

from jaxnn.experiment import SGD
from jaxnn.sweep import Choice, Grid, LogUniform, Space, Uniform
from jaxnn.sweep.external import searcher
from jaxnn.sweep.samplers import OptunaSampler
from jaxnn.sweep.search import Observation, new_trials, size_of, trial_key

SPACE = Space(SGD, {"learning_rate": LogUniform(1e-4, 1.0), "momentum": Choice(0.0, 0.5, 0.9)})
FINITE = Space(SGD, {"learning_rate": Grid(0.1, 0.2), "momentum": Choice(0.5, 0.9)})


def nsga(seed=0):
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=4)


class Halving:
    """Bisection of the logarithm of the rate, which ignores the momentum."""

    def __init__(self, low=1e-4, high=1.0):
        self.low, self.high, self.told = low, high, []

    def ask(self, count):
        edges = np.geomspace(self.low, self.high, count + 2)[1:-1]
        return [{"learning_rate": float(edge), "momentum": 0.5} for edge in edges]

    def tell(self, values, score):
        self.told.append((values["learning_rate"], score))
        best = min((s, rate) for rate, s in self.told if s is not None)[1]
        self.low, self.high = max(best / 2, 1e-4), min(best * 2, 1.0)


def scored(trial):
    """The best rate is 0.01."""
    return float(abs(np.log(trial["learning_rate"] / 0.01)))


def history_of(search, rounds, count=4, given=(), repeat=False):
    history = [Observation(values, None, 0, own=False) for values in given]
    for round in range(rounds):
        asked = new_trials(search, count, round, history, repeat)
        begun = [one for one in history if one.score is not None or one.round is None]
        new = [Observation(v, scored(v), 0, False) for v in (given if round == 0 else ())]
        history = [*begun, *new, *(Observation(v, scored(v), round) for v in asked)]
    return history


def test_a_sampler_chooses_what_optuna_chooses_when_it_is_used_alone():
    """The same calls of a study, by hand."""
    found = history_of(searcher(nsga(), SPACE), 6, repeat=True)
    study, expected = optuna.create_study(sampler=nsga()), []
    for _ in range(6):
        trials = []
        for _ in range(4):
            trial = study.ask()
            rate = trial.suggest_float("learning_rate", 1e-4, 1.0, log=True)
            momentum = (0.0, 0.5, 0.9)[trial.suggest_categorical("momentum", [0, 1, 2])]
            trials.append((trial, {"learning_rate": rate, "momentum": momentum}))
        for trial, values in trials:
            study.tell(trial, scored(values))
            expected.append(values)
    assert [one.values for one in found] == expected
    assert new_trials(searcher(nsga(), SPACE), 4, 6, found) == new_trials(
        searcher(nsga(), SPACE), 4, 6, found
    )


@pytest.mark.parametrize("make", [nsga, Halving, lambda: "RandomSampler"])
def test_a_search_that_is_replayed_continues_as_one_that_was_not(make):
    whole = history_of(searcher(make(), SPACE), 4, given=[{"learning_rate": 0.5, "momentum": 0.0}])
    for rounds in (1, 2, 3):
        part = [one for one in whole if one.round is not None and one.round < rounds]
        new = new_trials(searcher(make(), SPACE), 4, rounds, part)
        assert new == [one.values for one in whole if one.round == rounds]


def test_an_object_receives_scores_of_given_trials_and_of_earlier_sweeps():
    search: Any = searcher(Halving(), SPACE)
    earlier = Observation({"learning_rate": 0.3, "momentum": 0.9}, 3.0, None, own=False)
    failed = Observation({"learning_rate": 0.2, "momentum": 0.9}, float("nan"), 0, own=False)
    assert len(search.ask(2, 1, [earlier, failed])) == 2
    (replay,) = search._replay
    assert replay._state.told == [(0.3, 3.0), (0.2, None)]
    assert (replay._state.low, replay._state.high) == (0.15, 0.6)


def test_the_object_that_is_passed_is_not_changed():
    sampler, mine = nsga(), Halving()
    first = searcher(sampler, SPACE).ask(3, 0, [])
    assert searcher(sampler, SPACE).ask(3, 0, []) == first
    searcher(mine, SPACE).ask(3, 1, [Observation(first[0], 1.0, own=False)])
    assert mine.told == []


def test_a_search_that_chooses_other_trials_is_refused():
    history = history_of(searcher(nsga(), SPACE), 2)
    with pytest.raises(
        ValueError, match=r"^the search NSGAIISampler chooses other trials than bef"
    ):
        searcher(nsga(seed=1), SPACE).ask(4, 2, history)
    with pytest.raises(
        ValueError, match=r"so that the sweep could not be resumed: write NSGAIISam"
    ):
        searcher(optuna.samplers.NSGAIISampler(), SPACE)


@pytest.mark.parametrize(
    ("search", "error", "message"),
    [
        (3, TypeError, r"object with the methods ask\(count\) and tell\(values, score\), got 3$"),
        (Halving, TypeError, r"search must be a name, an Optuna sampler, or an object with the"),
        ("NSGAISampler", ValueError, "^Optuna has no sampler 'NSGAISampler'; did you mean 'NSGAII"),
        ("GridSampler", ValueError, r"pass it to sweep.run\(..., search=GridSampler\(...\)\)$"),
        ("object Mine", ValueError, r"which Python code passed: continue it with sweep.run\(..., "),
    ],
)
def test_what_cannot_search(search, error, message):
    with pytest.raises(error, match=message):
        searcher(search, SPACE)


def test_values_outside_of_the_space_are_reported():
    class Wrong(Halving):
        def ask(self, count):
            return [{"learning_rate": 2.0, "momentum": 0.5}]

    with pytest.raises(
        ValueError, match=r"^Wrong.ask\(4\) sets learning_rate to 2.0, which is not"
    ):
        searcher(Wrong(), SPACE).ask(4, 0, [])


@pytest.mark.parametrize("proposed", [None, {"x": 0.5}, ["x=0.5"], [0.5]])
def test_an_object_must_propose_a_list_of_dicts(proposed):
    class Mistaken:
        def ask(self, count):
            return proposed

        def tell(self, values, score):
            pass

    expected = r"Mistaken\.ask\(2\) must be a list of dicts of values by dotted path, got "
    with pytest.raises(TypeError, match=expected):
        searcher(Mistaken(), SPACE).ask(2, 0, [])


def test_a_failed_trial_and_one_of_another_search_reach_the_study():
    sampler = OptunaSampler(SPACE, nsga())
    (values,) = sampler.ask(1)
    sampler.tell(values, None)
    sampler.tell({"learning_rate": 0.1, "momentum": 0.9}, 2.0)
    states = [(trial.state.name, trial.value) for trial in sampler._study.trials]
    assert states == [("FAIL", None), ("COMPLETE", 2.0)]
    assert sampler._study.trials[1].params == {"learning_rate": 0.1, "momentum": 2}


# Known trials


@pytest.mark.parametrize("search", ["random", "sobol", "tpe", "grid", "cmaes", nsga()])
def test_a_finite_space_is_tried_to_its_last_point_and_no_further(search):
    history = history_of(searcher(search, FINITE), 4, count=3)
    points = {trial_key(point) for point in FINITE.grid(10)}
    assert {trial_key(one.values) for one in history} == points
    assert len(history) == len(points) == size_of(FINITE) == 4


def test_trials_are_repeated_on_request_only():
    search = searcher("random", FINITE)
    assert len(new_trials(search, 24, 0, [], repeat=True)) == 24
    assert len(new_trials(search, 24, 0, [])) == 4
    endless = Space(SGD, {"learning_rate": Uniform(0.1, 0.2)})
    again = [Observation(values, 1.0) for values in searcher("random", endless).ask(8, 0, [])]
    shifted = [one._replace(own=False) for one in again]
    new = new_trials(searcher("random", endless), 8, 1, shifted)  # draws the same samples again
    assert len(new) == 8
    assert not {trial_key(v) for v in new} & {trial_key(one.values) for one in again}


def test_a_search_that_begins_later_begins_with_its_first_point():
    first = searcher("sobol", SPACE).ask(4, 0, [])
    others = [
        Observation(values, 1.0, own=False) for values in searcher("random", SPACE).ask(5, 0, [])
    ]
    assert searcher("sobol", SPACE).ask(4, 1, others) == first


def test_tpe_learns_from_trials_that_where_forbids(monkeypatch):
    """They are pruned in both studies: of failed trials, TPE would learn nothing, and propose the
    like, since the best trials are next to them."""
    studies, create = [], optuna.create_study
    monkeypatch.setattr(
        optuna, "create_study", lambda **given: studies.append(create(**given)) or studies[-1]
    )
    space = dataclasses.replace(SPACE, where=lambda config: config.learning_rate < 0.008)
    rng = np.random.default_rng(0)
    history = [Observation(one, scored(one)) for one in (space.sample(rng) for _ in range(12))]
    sampler = OptunaSampler(space, optuna.samplers.TPESampler(seed=0))
    for one in history:
        sampler.tell(one.values, one.score)
    asked = searcher("tpe", space).ask(8, 1, history), sampler.ask(8)
    states = optuna.trial.TrialState
    for study, values in zip(reversed(studies), asked, strict=True):
        by_state = {state: study.get_trials(states=[state]) for state in states}
        proposed = [trial.params["learning_rate"] for trial in by_state[states.RUNNING]]
        assert proposed == [one["learning_rate"] for one in values]  # none of them is random
        forbidden = [trial.params["learning_rate"] for trial in by_state[states.PRUNED]]
        assert min(forbidden) >= 0.008
        assert len(study.trials) == len([*history, *proposed, *forbidden])


def test_cmaes_begins_where_earlier_sweeps_were_best():
    """Earlier trials are spread over the space; the best are near 0.01."""
    space = Space(SGD, {"learning_rate": LogUniform(1e-4, 1.0), "momentum": Uniform(0.0, 0.9)})
    earlier = [
        Observation(values, scored(values), None, own=False)
        for values in searcher("sobol", space).ask(64, 0, [])
    ]
    warm = np.mean([scored(v) for v in searcher("cmaes", space).ask(16, 0, earlier)])
    cold = np.mean([scored(v) for v in searcher("cmaes", space).ask(16, 0, [])])
    assert warm < 0.5 * cold


def test_a_sampler_proposes_what_is_allowed():
    space = dataclasses.replace(SPACE, where=lambda config: config.momentum != 0.5)
    trials = [v for round in range(4) for v in searcher(nsga(), space).ask(8, round, [])]
    assert {trial["momentum"] for trial in trials} == {0.0, 0.9}
    with pytest.raises(ValueError, match=r"which the `where` of the space does not allow$"):
        searcher(Halving(), space).ask(2, 0, [])
    few = dataclasses.replace(FINITE, where=lambda config: config.momentum != 0.5)
    assert size_of(few) == len(new_trials(searcher("random", few), 8, 0, [])) == 2
