"""Dropout: against equinox and haiku at the same key, its statistics, and traced rates."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, applied, assert_agree, normals
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


@pytest.mark.parametrize(
    "net",
    [
        nn.Dropout(0.0),
        nn.AlphaDropout(0),
        nn.StochasticDepth(0.0),
        nn.GaussianNoise(0.0),
        nn.GaussianDropout(0.0),
    ],
    ids=str,
)
def test_a_known_rate_of_zero_needs_no_key_and_a_traced_one_does(net):
    x = normals(0, 5, 2)
    np.testing.assert_array_equal(nn.Residual(net).apply({}, x, train=True), x + x)
    with pytest.raises(ValueError, match="draws random numbers in training, but no key was given"):
        jax.jit(lambda rate: type(net)(rate).apply({}, x, train=True))(0.0)


def test_integers():
    y = train(0.5, jnp.full(100, 3))
    assert sorted(set(y.tolist())) == [0.0, 6.0]


@pytest.mark.parametrize(
    "net",
    [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.StochasticDepth(0.5), nn.GaussianNoise(0.5)],
    ids=str,
)
def test_integers_are_floats_in_inference_too(net):
    x = jnp.array([[1, 2]])
    y = net.apply({}, x)
    assert y.dtype == net.apply({}, x, key=KEY, train=True).dtype == jnp.float32
    np.testing.assert_array_equal(y, x)
    with pytest.raises(TypeError, match=r"at 'a', .*expected an array of shape .*got 1.5; use jnp"):
        nn.Sequential(a=net).apply({"a": {}}, 1.5)


def test_zeros_hide_infinities():
    x = jnp.full(100, jnp.inf)
    y = train(0.5, x)
    assert set(y.tolist()) == {0.0, np.inf}


@pytest.mark.parametrize("shared", [-2, (-3, -2), (0, 1, 2, 3)], ids=str)
def test_shared_axes_as_haiku(shared):
    """Spatial dropout and the like: one draw along the axes, as haiku broadcasts it."""
    x = normals(0, 2, 3, 4, 5)
    axes = shared if isinstance(shared, tuple) else (shared,)
    y = nn.Dropout(0.5, shared).apply({}, x, key=KEY, train=True)
    peer = hk.dropout(KEY, 0.5, x, broadcast_dims=tuple(axis % 4 for axis in axes))
    np.testing.assert_allclose(y, peer, rtol=1e-6)


def test_stochastic_depth():
    """Whole examples, by the draw of their first axis; a branch that fell leaves x as it was."""
    x = normals(0, 6, 2, 3)
    net = nn.Residual(nn.StochasticDepth(0.4))
    y = net.apply({}, x, key=KEY, train=True)
    kept = jax.random.bernoulli(KEY, 1 - jnp.float32(0.4), (6, 1, 1))
    assert 0 < kept.sum() < 6
    assert_near(y, jnp.where(kept, x + x / 0.6, x))
    np.testing.assert_array_equal(net.apply({}, x), x + x)


@pytest.mark.parametrize("rate", RATES)
def test_alpha_dropout_keeps_mean_and_variance(rate):
    """Klambauer et al., section 3: dropped to -lambda * alpha, then a * x + b."""
    floor = -1.0507009873554805 * 1.6732632423543772
    a = (1 - rate + rate * (1 - rate) * floor**2) ** -0.5
    n = 20_000
    x = np.asarray(normals(0, n))
    y = np.asarray(applied(nn.AlphaDropout(rate), {}, x, key=KEY, train=True))
    fell = np.isclose(y, a * (floor - rate * floor), rtol=1e-5)
    error = np.sqrt(rate * (1 - rate) / n)
    assert abs(fell.mean() - rate) < 5 * error
    np.testing.assert_allclose(y[~fell], (a * x - a * rate * floor)[~fell], rtol=1e-4, atol=1e-5)
    # The mean of n numbers of variance 1 has the error n**-0.5; the square of such a y, two values
    # at worst, at most 1 / (rate * (1 - rate)) as much.
    assert abs(y.mean()) < 5 / np.sqrt(n)
    assert abs(y.var() - 1) < 5 / np.sqrt(n) / np.sqrt(rate * (1 - rate))


def test_alpha_dropout_keeps_selu_at_its_fixed_point():
    net = nn.Sequential(jax.nn.selu, nn.AlphaDropout(0.1))
    y = np.asarray(applied(net, ({}, {}), normals(0, 20_000), key=KEY, train=True))
    assert abs(y.mean()) < 0.04 and abs(y.var() - 1) < 0.06  # five errors of 20,000 numbers


def test_gaussian_noise():
    x = normals(0, 5, 4)
    y = nn.GaussianNoise(0.5).apply({}, x, key=KEY, train=True)
    assert_near(y, x + 0.5 * jax.random.normal(KEY, (5, 4)))
    np.testing.assert_array_equal(nn.GaussianNoise(0.5).apply({}, x), x)


def test_gaussian_dropout_is_noise_with_the_variance_of_dropout():
    x = normals(0, 5, 4)
    y = nn.GaussianDropout(0.2).apply({}, x, key=KEY, train=True)
    assert_near(y, x * (1 + 0.5 * jax.random.normal(KEY, (5, 4))))
    np.testing.assert_array_equal(nn.GaussianDropout(0.2).apply({}, x), x)


def test_alpha_dropout_of_feature_maps():
    """torch.nn.FeatureAlphaDropout: a whole map has one value or keeps its numbers."""
    y = nn.AlphaDropout(0.5, (-3, -2)).apply({}, normals(0, 8, 2, 2, 4), key=KEY, train=True)
    maps = np.asarray(y).transpose(0, 3, 1, 2).reshape(32, 4)
    fell = (maps == maps[:, :1]).all(1)
    assert 0 < fell.sum() < 32 and len(set(maps[fell, 0].tolist())) == 1


@pytest.mark.parametrize("kind", [nn.AlphaDropout, nn.StochasticDepth, nn.GaussianNoise])
def test_traced_strengths(kind):
    x = normals(0, 50, 4)

    def run(number, x):
        return kind(number).apply({}, x, key=KEY, train=True)

    assert_near(jax.jit(run)(0.2, x), run(0.2, x))
    np.testing.assert_array_equal(run(0.0, x), x)
    assert_near(jax.jit(jax.vmap(run, (0, None)))(jnp.array([0.0, 0.2]), x)[0], x)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.AlphaDropout(1.0), r"AlphaDropout.rate must be a dropout rate in \[0, 1\)"),
        (lambda: nn.StochasticDepth(-0.1), r"StochasticDepth.rate must be a dropout rate"),
        (
            lambda: nn.GaussianNoise(-0.1),
            r"GaussianNoise.stddev must be a number >= 0, got -0.1",
        ),
        (
            lambda: nn.Dropout(0.1, broadcast_dims=True),
            r"Dropout.broadcast_dims must be an axis or a tuple",
        ),
        (
            lambda: nn.Dropout(0.1, broadcast_dims=-2).apply({}, jnp.ones(3)),
            r"axis=-2 must name distinct axes that float32\[3\] has",
        ),
    ],
)
def test_what_does_not_fit(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout, nn.StochasticDepth])
def test_a_traced_rate_of_one_gives_zeros_and_finite_gradients(kind, dtype):
    """As torch.nn.Dropout(1) and torch.nn.AlphaDropout(1), whose results are 0."""
    x = np.array([[1.0, -2.0, 300.0], [np.inf, np.nan, 0.0]], jnp.dtype(dtype))

    def total(x, rate):
        y = kind(rate).apply({}, x, key=KEY, train=True)
        return y.astype(jnp.float32).sum(), y

    @jax.jit
    def run(x, rate):
        (_, y), (by_x, by_rate) = jax.value_and_grad(total, (0, 1), has_aux=True)(x, rate)
        return (y, by_x), by_rate

    def wide(a):
        return np.asarray(a, np.float32)

    (y, by_x), by_rate = run(x, 1.0)
    assert y.dtype == by_x.dtype == x.dtype
    assert not wide(y).any() and not wide(by_x).any() and np.isfinite(by_rate)
    finite = x[:1]  # for a rate just below 1, the factor 2**24 is not finite in float16
    for rate in (0.0, 1 - 2**-24):
        found, _ = run(finite, rate)
        assert all(np.isfinite(wide(leaf)).all() for leaf in found)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout, nn.StochasticDepth])
def test_a_rate_that_rounds_to_one_is_refused(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name}.rate .* got 0.999999999; .* rounded to float32"):
        kind(0.999999999)
    with pytest.raises(ValueError, match=r"write for example MultiHeadAttention\(dropout=0.1\)"):
        nn.MultiHeadAttention(2, dropout=0.999999999)


def test_dropped_attention_weights_at_rate_one():
    x = normals(1, 3, 4)
    params = nn.MultiHeadAttention(2).init(KEY, x)

    def run(params, rate):
        return nn.MultiHeadAttention(2, dropout=rate).apply(params, x, key=KEY, train=True)

    assert not np.any(jax.jit(run)(params, 1.0))
    gradient = jax.jit(jax.grad(lambda p, r: run(p, r).sum()))(params, 1.0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
