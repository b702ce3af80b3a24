"""Accumulation: equal to the large batch, with state threaded and keys apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12, dtype=np.int32) % 3
TASK = train.Classification(3)


def run(net, accumulate, steps=3, batch=(X, Y), task: Any = TASK):
    program = train.Supervised(net, task, optax.adam(1e-2), accumulate=accumulate)
    ts, step, metrics = program.init(KEY, batch), train.make_step(program), {}
    for _ in range(steps):
        ts, metrics = step(ts, batch)
    return ts, metrics


@pytest.mark.parametrize("accumulate", [3, 12])
def test_it_equals_the_large_batch(accumulate):
    net = nn.Sequential(nn.Dense(8), jnp.tanh, nn.Dense(3))
    (one, metrics), (several, means) = run(net, 1), run(net, accumulate)
    assert metrics.keys() == means.keys()
    for name in metrics:
        np.testing.assert_allclose(float(means[name]), float(metrics[name]), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
        # Sums in another order; Adam divides a gradient by its own size, noise too.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_state_goes_through_the_micro_batches():
    """A running mean after micro-batches of the rows i, i + 3, ...: by the formula."""
    net = nn.Sequential(nn.BatchNorm(momentum=0.5), nn.Dense(3))
    ts, _ = run(net, 3, steps=1)
    mean = np.zeros(4)
    for i in range(3):
        mean = 0.5 * mean + 0.5 * X[i::3].mean(0)
    np.testing.assert_allclose(ts.state["0"]["mean"], mean, rtol=1e-5, atol=1e-6)


def test_micro_batch_i_has_the_key_of_the_step_folded_by_i():
    net, ones = nn.Sequential(nn.Dropout(0.5)), np.ones((12, 4), np.float32)
    _, metrics = run(net, 2, 1, (ones, ones), lambda outputs, targets: jnp.sum(outputs))
    step = jax.random.fold_in(KEY, 0)
    sums = [
        float(net.apply(({},), ones[:6], key=jax.random.fold_in(step, i), train=True).sum())
        for i in range(2)
    ]
    assert sums[0] != sums[1]
    np.testing.assert_allclose(metrics["loss"], np.mean(sums), rtol=1e-6)


def test_sums_are_taken_in_float32():
    """Thousands of ones in bfloat16 would stay at 256: here the mean of equal gradients is one."""
    count = 512

    def loss(outputs, targets):
        return jnp.mean(outputs, dtype=jnp.float32)

    net, x = nn.Dense(1, w_init=nn.zeros()), np.ones((count, 1), np.float32)
    program = train.Supervised(net, loss, optax.sgd(1.0), accumulate=count)
    ts = program.init(KEY, (x, x))
    ts = ts._replace(params=jax.tree.map(lambda p: p.astype(jnp.bfloat16), ts.params))
    ts, _ = train.make_step(program)(ts, (x, x))
    assert ts.params["w"].dtype == jnp.bfloat16
    assert float(ts.params["w"][0, 0]) == float(ts.params["b"][0]) == -1.0


def test_targets_may_be_a_tree():
    def loss(outputs, targets):
        return jnp.mean((outputs - targets["a"]) ** 2 * targets["weight"][:, None])

    targets = {"a": X[:, :1], "weight": np.ones(12, np.float32)}
    (one, _), (several, _) = (run(nn.Dense(1), n, 1, (X, targets), loss) for n in (1, 4))
    np.testing.assert_allclose(one.params["w"], several.params["w"], rtol=1e-5)


@pytest.mark.parametrize(
    ("accumulate", "text"),
    [
        (
            5,
            r"into 5 equal parts, got float32\[12,4\]; accumulate=5 needs them: write ",
        ),
        (0, r"Minimize.accumulate must be an int >= 1, got 0"),
        (True, r"Minimize.accumulate must be an int >= 1, got True"),
    ],
)
def test_the_error_says_what_is_wrong(accumulate, text):
    with pytest.raises(ValueError, match=text):
        run(nn.Dense(3), accumulate)


class Reported(nn.Composite):
    """Metrics of integers and booleans."""

    def forward(self, batch):
        large, narrow = batch.max() > 3, jnp.uint8(200)
        metrics = {
            "narrow": narrow,
            "whole": batch.max().astype(jnp.int32),
            "large": large,
            "several": train.Ratio(large, True),
            "ratio": train.Ratio(narrow, narrow),
        }
        return batch.astype(jnp.float32).mean(), metrics


def test_metrics_of_integers_and_booleans_do_not_overflow():
    """Means and sums over four micro-batches, computed by hand."""
    program = train.Minimize(Reported(), optax.sgd(0.1), accumulate=4)
    batch = jnp.arange(8)  # the largest of the micro-batches are 4, 5, 6, and 7
    batch = batch.at[4].set(0)  # 0 and 0, 5, 6, and 7
    _, metrics = jax.jit(program.step)(program.init(KEY, batch), batch)
    found = {name: float(metric) for name, metric in metrics.items()}
    expected = {"narrow": 200, "whole": 4.5, "large": 0.75, "several": 0.75, "ratio": 1}
    assert found == {"loss": 3.0, **expected}
