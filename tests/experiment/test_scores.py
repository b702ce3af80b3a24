"""Scores agree with scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from jaxnn import data, train
from jaxnn.experiment import Problem
from jaxnn.experiment.run import scores_of
from jaxnn.experiment.scores import (
    classification_scores,
    language_scores,
    regression_scores,
)


def test_classification_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200)
    scores = classification_scores(y, p)
    assert scores["accuracy"] == metrics.accuracy_score(y, p.argmax(1))
    assert scores["loss"] == pytest.approx(metrics.log_loss(y, p), rel=1e-12)


def test_regression_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.normal(150, 70, 200)
    p = y + rng.normal(0, 50, 200)
    scores = regression_scores(y, p)
    assert scores["r2"] == pytest.approx(metrics.r2_score(y, p), rel=1e-12)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(y, p), rel=1e-12)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(y, p), rel=1e-12)


def test_a_probability_of_zero_is_a_large_loss_and_not_infinity():
    assert 80 < classification_scores(np.array([0]), np.array([[0.0, 1.0]]))["loss"] < 90


def test_language_scores_are_those_of_all_positions_in_nats_and_bits():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, (20, 10)), rng.dirichlet(np.ones(4), (20, 10))
    scores = language_scores(y, p)
    loss = metrics.log_loss(y.ravel(), p.reshape(200, 4))
    assert scores["accuracy"] == metrics.accuracy_score(y.ravel(), p.reshape(200, 4).argmax(1))
    assert scores["loss"] == pytest.approx(loss, rel=1e-12)
    assert scores["bits"] == pytest.approx(loss / np.log(2), rel=1e-12)


@pytest.mark.parametrize(
    ("task", "ignore"),
    [
        (train.Classification(4), -100),
        (train.Classification(4, ignore=0), 0),
        (train.NextToken(4), -100),
    ],
    ids=str,
)
def test_ignored_labels_are_in_no_score(task, ignore):
    rng = np.random.default_rng(0)
    shape = (20, 10) if isinstance(task, train.NextToken) else (200,)
    y, p = rng.integers(0, 4, shape), rng.dirichlet(np.ones(4), shape)
    y[rng.random(shape) < 0.3] = ignore
    part = data.Examples(np.zeros((len(y), 2), np.float32), y)
    scores = scores_of(Problem(data.Dataset("toy", part, part, part), task), p, y)
    kept = y != ignore
    assert scores["accuracy"] == metrics.accuracy_score(y[kept], p[kept].argmax(-1))
    expected = metrics.log_loss(y[kept], p[kept], labels=range(4))
    assert scores["loss"] == pytest.approx(expected, rel=1e-12)
