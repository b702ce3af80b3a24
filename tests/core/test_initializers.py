"""Initializers: against `jax.nn.initializers` at the same key, and what is known of each
distribution."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers as peers

import jaxnn as nn

KEY = jax.random.key(3)
FAST = jax.random.key(3, impl="rbg")  # its draws compile in a fraction of the time
SHAPES = [(7, 5), (1, 1), (3, 4, 6), (3, 3, 4, 6), (2, 3, 1, 5, 4)]
NAMED = [
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "glorot_normal",
    "glorot_uniform",
]


def assert_same(drawn, expected):
    assert drawn.dtype == expected.dtype
    # A scale is rounded once or twice on the way: to 2 units in the last place.
    rounding = 2 * float(jnp.finfo(drawn.dtype).eps)
    one, other = np.asarray(drawn, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding * np.abs(other).max())


def assert_all_same(cases, dtype=jnp.float32):
    """Both initializers of each case give the same array of its shape: all in one program."""

    @jax.jit
    def draw(key):
        return [[f(key, shape, dtype) for f in pair] for *pair, shape in cases]

    for ours, theirs in draw(FAST):
        assert_same(ours, theirs)


@pytest.mark.parametrize("name", NAMED)
def test_named_ones_as_jax(name):
    assert_all_same([(getattr(nn, name)(), getattr(peers, name)(), shape) for shape in SHAPES])


@pytest.mark.parametrize("name", ["he_normal", "glorot_uniform"])
def test_default_generator(name):
    assert_same(getattr(nn, name)()(KEY, (7, 5)), getattr(peers, name)()(KEY, (7, 5)))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_variance_scaling_as_jax(mode):
    cases = [
        ("normal", (7, 5), (-2, -1, ())),
        ("truncated_normal", (7, 5), (1, 0, ())),
        ("uniform", (3, 3, 4, 6), (-2, -1, ())),
        ("normal", (3, 3, 4, 6), (-1, -2, ())),
        ("uniform", (4, 6, 3, 3), (1, 0, ())),
        ("normal", (5, 4, 2, 3), ((0, 1), (2, 3), ())),
        ("truncated_normal", (8, 7, 5), (-2, -1, 0)),
        ("normal", (8, 2, 7, 5), (-2, -1, (0, 1))),
    ]
    assert_all_same(
        [
            (
                nn.variance_scaling(1.7, mode, distribution, *axes),
                peers.variance_scaling(1.7, mode, distribution, *axes),
                shape,
            )
            for distribution, shape, axes in cases
        ]
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_types_as_jax(dtype):
    with jax.enable_x64(dtype == "float64"):
        assert_all_same(
            [(getattr(nn, name)(), getattr(peers, name)(), (7, 5)) for name in NAMED],
            jnp.dtype(dtype),
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_ones_as_jax(dtype):
    dtype = jnp.dtype(dtype)
    pairs = [
        (nn.normal(0.3), peers.normal(0.3)),
        (nn.truncated_normal(0.3, -1.0, 2.5), peers.truncated_normal(0.3, dtype, -1.0, 2.5)),
        (nn.uniform(0.0, 0.3), peers.uniform(0.3)),
        (nn.uniform(-2.0, 0.3), functools.partial(jax.random.uniform, minval=-2.0, maxval=0.3)),
    ]
    assert_all_same([(*pair, shape) for pair in pairs for shape in [(), (4,), (7, 5)]], dtype)


N = 300_000


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
def test_variance_scaling_has_the_variance_it_says(distribution):
    w = nn.variance_scaling(2.0, "fan_in", distribution)(KEY, (300, N // 300))
    # The standard error of a variance over N numbers is at most sqrt(2 / N) = 0.0026 of it.
    assert float(jnp.var(w)) == pytest.approx(2 / 300, rel=0.013)
    assert abs(float(jnp.mean(w))) < 5 * math.sqrt(2 / 300 / N)


def test_truncated_normal_is_cut_and_keeps_the_deviation_it_had_before():
    drawn = np.asarray(nn.truncated_normal(0.5, -2.0, 2.0)(KEY, (N,)))
    assert np.abs(drawn).max() <= 1.0
    # Of a standard normal cut to [-2, 2] the variance is 1 - 4 phi(2) / (2 Phi(2) - 1).
    density = math.exp(-2.0) / math.sqrt(2 * math.pi)
    deviation = math.sqrt(1 - 4 * density / math.erf(math.sqrt(2.0)))
    assert drawn.std() == pytest.approx(0.5 * deviation, rel=0.01)


def test_uniform_fills_its_interval():
    drawn = np.asarray(nn.uniform(-0.25, 0.75)(KEY, (N,)))
    assert -0.25 <= drawn.min() < -0.2499 and 0.7499 < drawn.max() < 0.75
    assert drawn.mean() == pytest.approx(0.25, abs=5 / math.sqrt(12 * N))


@pytest.mark.parametrize("shape", [(4, 4), (9, 4), (4, 9), (3, 3, 4, 6)], ids=str)
def test_orthogonal(shape):
    w = jax.jit(lambda key: nn.orthogonal(1.5)(key, shape))(FAST)
    flat = np.asarray(w, np.float64).reshape(-1, shape[-1])
    gram = flat.T @ flat if flat.shape[0] >= flat.shape[1] else flat @ flat.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(len(gram)), atol=1e-5)  # float32 QR


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 5, 4, 4), (3, 3, 3, 2, 7)], ids=str)
def test_delta_orthogonal(shape):
    w = np.asarray(jax.jit(lambda key: nn.delta_orthogonal(2.0)(key, shape))(FAST), np.float64)
    center = tuple(n // 2 for n in shape[:-2])
    np.testing.assert_allclose(w[center] @ w[center].T, 4.0 * np.eye(shape[-2]), atol=1e-5)
    w[center] = 0.0
    assert not w.any()


def test_without_a_key():
    assert nn.zeros()(None, (2, 3)).tolist() == np.zeros((2, 3)).tolist()
    assert nn.ones()(None, (2,), "bfloat16").dtype == jnp.bfloat16
    assert nn.constant(2.5)(None, ()).item() == 2.5
    np.testing.assert_array_equal(nn.identity(3.0)(None, (2, 4)), 3.0 * np.eye(2, 4))


def test_traced_numbers():
    kinds = [
        nn.normal,
        nn.truncated_normal,
        nn.constant,
        lambda scale: nn.variance_scaling(scale, "fan_in", "uniform"),
        lambda scale: nn.variance_scaling(scale, "fan_avg", "truncated_normal"),
    ]

    @jax.jit
    def draw(value, key):
        return [[make(v)(key, (7, 5)) for v in (value, 1.7)] for make in kinds]

    for traced, known in draw(1.7, FAST):
        assert_same(traced, known)
