"""Metrics combined from pieces, against scikit-learn on the whole; losses that are ratios."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sklearn_metrics

import jaxnn as nn
from jaxnn import train
from jaxnn.train.metrics import directions
from jaxnn.train.record import Tally, combine

RNG = np.random.default_rng(0)
SCORES = RNG.random(23).astype(np.float32)
LABELS = (RNG.random(23) < SCORES).astype(np.int32)
CUTS = [(0, 10), (10, 11), (11, 23)]  # pieces of different sizes


def measured(scores, labels):
    right = (scores > 0.5) & (labels == 1)
    f1 = train.Ratio(2 * right.sum(), (scores > 0.5).sum() + (labels == 1).sum(), maximize=True)
    return {
        "accuracy": train.Mean(((scores > 0.5) == labels).mean(), maximize=True),
        "brier": ((scores - labels) ** 2).mean(),
        "f1": f1,
        "auc": train.Collected(sklearn_metrics.roc_auc_score, (labels, scores), maximize=True),
    }


def test_numbers_of_the_whole_do_not_depend_on_the_pieces():
    pieces = [(jax.jit(measured)(SCORES[a:b], LABELS[a:b]), b - a) for a, b in CUTS]
    found = combine(pieces)
    assert directions(pieces[0][0]) == {"accuracy": True, "f1": True, "auc": True}
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(LABELS, SCORES > 0.5),
        "brier": sklearn_metrics.brier_score_loss(LABELS, SCORES),
        "f1": sklearn_metrics.f1_score(LABELS, SCORES > 0.5),
        "auc": sklearn_metrics.roc_auc_score(LABELS, SCORES),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_the_metrics_of_a_scan_are_those_of_the_whole():
    def one(carry, rows):
        return carry, {name: m for name, m in measured(*rows).items() if name != "auc"}

    rows = SCORES[:20].reshape(4, 5), LABELS[:20].reshape(4, 5)
    _, metrics = jax.jit(lambda rows: jax.lax.scan(one, 0, rows))(rows)
    tally = Tally()
    tally.add(metrics, 5)
    found = tally.metrics()
    np.testing.assert_allclose(
        found["f1"], sklearn_metrics.f1_score(LABELS[:20], SCORES[:20] > 0.5), rtol=1e-6
    )
    np.testing.assert_allclose(
        found["brier"], sklearn_metrics.brier_score_loss(LABELS[:20], SCORES[:20]), rtol=1e-6
    )


def test_a_ratio_without_a_count_is_zero_and_so_is_its_gradient():
    value, slope = jax.value_and_grad(lambda s: train.Ratio(s, jnp.float32(0)).value)(3.0)
    assert (value, slope) == (0, 0)
    assert combine([({"f1": train.Ratio(0.0, 0.0)}, 4)]) == {"f1": 0.0}


def test_arithmetic_of_ratios():
    a, b = train.Ratio(6.0, 4.0), train.Ratio(1.0, 2.0)
    cases: list[Any] = [
        (2 * a + b, 3.5),
        (a - b / 2, 1.25),
        (1.0 - a, -0.5),
        (sum([a, b]), 2.0),
        ((a + b + 1.0) * 2, 6.0),
    ]
    for metric, expected in cases:
        assert float(metric.value) == expected
    # The parts of a sum divide by their own counts: (6 + 3) / (4 + 5) + (1 + 2) / (2 + 1).
    parts = [({"loss": a + b}, 1), ({"loss": train.Ratio(3.0, 5.0) + train.Ratio(2.0, 1.0)}, 1)]
    assert combine(parts) == {"loss": 2.0}


def test_parts_have_the_same_metrics():
    with pytest.raises(ValueError, match=r"all parts must have the same metrics, got a and b"):
        combine([({"a": 1.0}, 1), ({"b": 1.0}, 1)])
    with pytest.raises(
        ValueError, match=r"metrics must be those of at least one part, .* got \[\]"
    ):
        combine([])


@pytest.mark.parametrize(
    ("parts", "error", "text"),
    [
        (3, TypeError, r"the parts of train\.combine must be pairs \(metrics, rows\), got 3"),
        (
            {"loss": 1},
            TypeError,
            r"parts\[0\] of train\.combine must be a pair .*, got 'loss'; write",
        ),
        ([({"loss": 1.0},)], TypeError, r"parts\[0\] of train\.combine must be a pair"),
        ([({"loss": 1.0}, -1)], TypeError, r"a number of rows >= 0, got"),
        ([({"loss": 1.0}, 1), (2.0, 1)], TypeError, r"parts\[1\] of train\.combine must be a pair"),
        ([({"loss": 1j}, 1)], ValueError, r"'loss' of parts\[0\] .* must be a real scalar, got 1j"),
        ([({"loss": np.ones(2)}, 1)], ValueError, r"must be a real scalar, got float64\[2\]"),
    ],
)
def test_combine_rejects_what_is_not_a_part(parts, error, text):
    with pytest.raises(error, match=text):
        combine(parts)


class Masked(nn.Composite):
    """Cross entropy over valid tokens, as a ratio, and a penalty per row, as a mean."""

    net: nn.Layer

    def forward(self, batch):
        x, y = batch
        logits, valid = self.net(x), y >= 0
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(y, 0))
        loss = train.Ratio(jnp.sum(jnp.where(valid, each, 0)), valid.sum())
        return loss + 0.1 * jnp.mean(logits**2), {"tokens": loss}


X = RNG.normal(size=(12, 6, 3)).astype(np.float32)
Y = np.where(np.arange(6) < RNG.integers(1, 7, (12, 1)), RNG.integers(0, 5, (12, 6)), -1)


@pytest.mark.parametrize("accumulate", [1, 2, 6])
def test_a_mean_over_valid_tokens_divides_by_all_of_them(accumulate):
    """The gradient of the whole batch, computed without jaxnn.train."""
    net = nn.Dense(5)
    program = train.Minimize(Masked(net), optax.sgd(1.0), accumulate=accumulate)
    state = program.init(jax.random.key(0), (X, Y))
    params = jax.tree.map(jnp.copy, state.params["net"])

    def whole(params):
        logits = X @ params["w"] + params["b"]
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits), np.maximum(Y, 0)[..., None], -1)
        return jnp.sum(each[..., 0] * (Y >= 0)) / np.sum(Y >= 0) + 0.1 * jnp.mean(logits**2)

    loss, grads = jax.jit(jax.value_and_grad(whole))(params)
    after, metrics = jax.jit(program.step)(state, (X, Y))
    for name in ("w", "b"):
        update = params[name] - after.params["net"][name]
        np.testing.assert_allclose(update, grads[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(combine([(metrics, 12)])["loss"], loss, rtol=1e-5)
