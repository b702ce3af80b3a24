"""Dropout: against equinox and haiku at the same key, its statistics, and traced rates."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

RATES = [0.1, 0.5, 0.9]


def train(rate, x, key=KEY):
    return nn.Dropout(rate).apply({}, x, key=key, train=True)


@pytest.mark.parametrize("rate", [0.1, 0.9])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5)], ids=str)
def test_as_equinox_and_haiku(rate, shape):
    x = normals(0, *shape)
    assert_agree(lambda x: train(rate, x), lambda x: eqx.nn.Dropout(rate)(x, key=KEY), x)
    np.testing.assert_allclose(train(rate, x), hk.dropout(KEY, rate, x), rtol=1e-6)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_share_and_mean(rate, dtype):
    n = 100_000
    y = train(rate, jnp.ones(n, dtype))
    assert y.dtype == dtype
    y = np.asarray(y, np.float64)
    error = np.sqrt(rate * (1 - rate) / n)
    assert abs((y == 0).mean() - rate) < 5 * error
    # 1 - rate carries the rounding of rate, which is larger beside what is left.
    rounding = float(jnp.finfo(dtype).eps) / (1 - rate)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=rounding)
    assert abs(y.mean() - 1) < 5 * error / (1 - rate) + rounding


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_traced_rate_is_the_same_as_a_known_one(rate):
    x = normals(0, 50, 4)
    assert_near(jax.jit(train)(rate, x), train(rate, x))
    assert_near(jax.jit(jax.vmap(train, (0, None)))(jnp.array([rate]), x)[0], train(rate, x))
    gradient = jax.jit(jax.grad(lambda x, rate: train(rate, x).sum()))(x, rate)
    assert_near(gradient, train(rate, jnp.ones_like(x)))


def test_the_identity_without_training_and_at_rate_zero():
    x = normals(0, 5)
    np.testing.assert_array_equal(nn.Dropout(0.5).apply({}, x), x)
    np.testing.assert_array_equal(nn.Dropout(0.5).apply({}, x, key=KEY), x)
    np.testing.assert_array_equal(train(0.0, x), x)


def test_integers():
    y = train(0.5, jnp.full(100, 3))
    assert sorted(set(y.tolist())) == [0.0, 6.0]


def test_zeros_hide_infinities():
    x = jnp.full(100, jnp.inf)
    y = train(0.5, x)
    assert set(y.tolist()) == {0.0, np.inf}
