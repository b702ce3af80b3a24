"""Fifty steps on real digits against a program in pure jax, written out by hand.

Nothing of jaxnn computes the expected numbers: forward, loss, backward and Adam are spelt out, from
the same initial weights and the same batches.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data, train

STEPS, BATCH = 50, 128
RATE, B1, B2, EPS = 1e-3, 0.9, 0.999, 1e-8


@pytest.fixture(scope="module")
def digits():
    x, y = data.mnist_5k().train
    return jnp.asarray(x), jnp.asarray(y)


def by_hand(weights, batches):
    """Losses and final weights of 784-128-10 with Adam, from the formulas."""
    w1, b1, w2, b2 = weights

    @jax.jit
    def step(params, first, second, count, x, y):
        w1, b1, w2, b2 = params
        hidden = x @ w1 + b1
        active = jnp.maximum(hidden, 0)
        logits = active @ w2 + b2
        exps = jnp.exp(logits - logits.max(1, keepdims=True))
        probs = exps / exps.sum(1, keepdims=True)
        wanted = (y[:, None] == jnp.arange(10)).astype(jnp.float32)
        loss = -jnp.sum(wanted * jnp.log(probs)) / len(y)
        d_logits = (probs - wanted) / len(y)
        d_hidden = (d_logits @ w2.T) * (hidden > 0)
        grads = (x.T @ d_hidden, d_hidden.sum(0), active.T @ d_logits, d_logits.sum(0))
        first = [B1 * m + (1 - B1) * g for m, g in zip(first, grads, strict=True)]
        second = [B2 * v + (1 - B2) * g**2 for v, g in zip(second, grads, strict=True)]
        fixes = 1 - B1**count, 1 - B2**count
        params = [
            p - RATE * (m / fixes[0]) / (jnp.sqrt(v / fixes[1]) + EPS)
            for p, m, v in zip(params, first, second, strict=True)
        ]
        return params, first, second, loss

    params = [w1, b1, w2, b2]
    first = [jnp.zeros_like(p) for p in params]
    second = [jnp.zeros_like(p) for p in params]
    losses = []
    for count, (x, y) in enumerate(batches, start=1):
        params, first, second, loss = step(params, first, second, float(count), x, y)
        losses.append(float(loss))
    return losses, params


def test_fifty_steps_equal_the_program_written_by_hand(digits):
    x, y = digits
    rows = np.random.default_rng(0).integers(0, len(x), (STEPS, BATCH))
    batches = [(x[r], y[r]) for r in rows]
    net = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))
    optimizer = optax.adam(RATE)
    ts = train.TrainState.create(net, optimizer, jax.random.key(0), x[:1])
    assert sum(leaf.size for leaf in jax.tree.leaves(ts.params)) == 101_770
    weights = [jnp.copy(ts.params[i][name]) for i in (0, 2) for name in ("w", "b")]
    expected, final = by_hand(weights, batches)

    step = train.make_step(net, train.Classification(10), optimizer)
    losses = []
    for batch in batches:
        ts, metrics = step(ts, batch)
        losses.append(float(metrics["loss"]))

    # Both round in float32 at every step; Adam divides by roots of tiny numbers, which magnifies
    # the last bit: where a gradient is nothing but rounding, its sign may differ; a step is 1e-3.
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    got = [ts.params[i][name] for i in (0, 2) for name in ("w", "b")]
    for ours, theirs in zip(got, final, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-4)
    assert losses[-1] < 0.5 * losses[0]
