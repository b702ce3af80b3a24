"""Several objectives and constraints: fronts, the order of trials, and what uses them."""

import itertools
import math

import numpy as np
import optuna
import pytest

from jaxnn.sweep.objectives import Constraint, fronts, ranked, violation


def peeled(points):
    """The front of each point by the definition: what no remaining point dominates."""
    rest, found, number = set(range(len(points))), {}, 0
    while rest:
        front = [
            i for i in rest
            if not any(
                all(points[j] <= points[i]) and any(points[j] < points[i]) for j in rest
            )
        ]  # fmt: skip
        found |= dict.fromkeys(front, number)
        rest, number = rest - set(front), number + 1
    return [found[i] for i in range(len(points))]


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_are_peeled(objectives):
    rng = np.random.default_rng(objectives)
    for points in (rng.random((40, objectives)), rng.integers(0, 4, (40, objectives))):
        assert fronts(points).tolist() == peeled(points)


def test_the_first_front_is_that_of_optuna():
    points = np.random.default_rng(0).integers(0, 9, (60, 2)).astype(float)
    study = optuna.create_study(directions=["minimize", "minimize"])
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=point.tolist()))
    best = {trial.number for trial in study.best_trials}
    assert {i for i, front in enumerate(fronts(points)) if front == 0} == best


def test_the_best_is_nearest_to_the_ideal_point_of_the_front():
    # scaled by hand: (0, 1), (0.1, 0.2), (0.5, 0.1), (1, 0), at distances 1, 0.224, 0.51, 1
    points = [[0.0, 100.0], [1.0, 20.0], [5.0, 10.0], [10.0, 0.0]]
    assert ranked(points, [0.0] * 4) == [1, 2, 0, 3]
    assert ranked([[a] for a, _ in points], [0.0] * 4) == [0, 1, 2, 3]
    assert ranked([[3.0], [1.0], [1.0]], [0.0] * 3) == [1, 2, 0]  # of equals, the first


def test_feasible_trials_are_first_and_others_by_their_violation():
    points = [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    assert ranked(points, [0.5, 0.0, 0.1, 0.0]) == [1, 3, 2, 0]
    assert ranked(points, [0.5, math.inf, 0.1, 0.3]) == [2, 3, 0, 1]


def test_violations_are_relative_to_their_bounds():
    constraints = [Constraint.of("parameters <= 1e3"), Constraint.of(" accuracy>=0.5")]
    assert violation(constraints, {"parameters": 1000, "accuracy": 0.5}) == 0
    found = violation(constraints, {"parameters": 1500, "accuracy": 0.25})
    assert found == pytest.approx(0.5 + 0.5)
    assert violation(constraints, {"parameters": 1, "accuracy": None}) == math.inf
    assert Constraint.of("loss <= 0").violation(0.25) == 0.25
    assert list(map(str, constraints)) == ["parameters <= 1000", "accuracy >= 0.5"]


@pytest.mark.parametrize("text", ["parameters", "parameters < 3", "<= 3", "a <= b", "a <= nan", 3])
def test_what_is_no_constraint_is_refused(text):
    with pytest.raises(ValueError, match="a constraint must be a bound on a metric, such as "):
        Constraint.of(text)


def test_many_points_are_sorted_soon():
    rng = np.random.default_rng(0)
    for points in (rng.random((3000, 2)), np.sort(rng.random((3000, 2)), 0)):
        found = fronts(points)
        assert len(found) == 3000
        by_front = [points[found == number] for number in range(2)]
        for a, b in itertools.permutations(by_front[0], 2) if len(by_front[0]) < 50 else ():
            assert not (np.all(a <= b) and np.any(a < b))
