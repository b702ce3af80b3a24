"""The score of a learning curve, and which trials are kept."""

import math

import pytest

from jaxnn.sweep.score import Keep, curve_score, lane_scores, rule_of_score

NAN = math.nan


@pytest.mark.parametrize(
    ("curve", "rule", "larger", "smaller"),
    [
        ([3.0, 1.0, 2.0], "last", 2.0, 2.0),
        ([3.0, 1.0, 2.0], "best", 3.0, 1.0),
        ([3.0, 1.0, 2.0], "mean:2", 1.5, 1.5),
        ([3.0, 1.0, 2.0], "mean:9", 2.0, 2.0),
        ([3.0, math.inf, NAN], "best", 3.0, 3.0),
        ([1e308, 1e308], "mean:2", 1e308, 1e308),
    ],
)
def test_a_score_is_the_last_the_best_or_a_mean(curve, rule, larger, smaller):
    assert curve_score(curve, rule, True) == larger
    assert curve_score(curve, rule, False) == smaller


@pytest.mark.parametrize(
    ("curve", "rule"),
    [([1.0, NAN], "last"), ([1.0, NAN], "mean:2"), ([NAN], "best"), ([], "last"), ([], "mean:3")],
)
def test_a_curve_without_a_finite_value_has_no_score(curve, rule):
    assert math.isnan(curve_score(curve, rule, True))


def test_only_values_since_a_trial_took_another_state_count():
    curve = {1: 0.9, 2: 0.1, 3: 0.2, 4: None}
    score = lambda *changed, end=math.inf: lane_scores([curve], changed, "best", True, end)[0]  # noqa: E731
    assert [score(), score(1), score(1, 3), score(3, end=3)] == [0.9, 0.2, NAN, 0.9]
    assert lane_scores([{1: 0.5}, {1: 0.5, 2: 0.7}], (), "last", True, end=2) == [0.5, 0.7]


def test_the_best_are_kept_the_first_asked_of_equals_and_none_that_is_not_finite():
    keep = Keep(2, "accuracy", True, "last")
    scores = {n: keep.badness([[0.0, value]]) for n, value in enumerate((0.5, NAN, 0.9, 0.5))}
    assert keep.best(scores) == [2, 0]
    assert keep.badness([[0.2], [0.6]]) == -0.4


@pytest.mark.parametrize("rule", ["mean", "mean:0", "mean:-1", "mean:1.5", "first", 3])
def test_another_rule(rule):
    text = r"must be 'last', 'best', or 'mean:N' for the mean over the last N epochs, such as 'mea"
    with pytest.raises(ValueError, match=text):
        rule_of_score(rule, "Settings.score")
