"""PReLU: against flax and equinox; activations that jax.nn lacks: against their formulas."""

import functools
import math

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
import jaxnn as nn
from jaxnn import functional
from tests.layers.agreement import KEY, assert_agree, normals

ROWS = np.array(normals(0, 5, 4))
ROWS[0, 0] = 0.0
X = jax.device_put(ROWS)


@pytest.mark.parametrize("alpha", [0.25, -0.5, 1.7])
def test_as_flax(alpha):
    peer = flax.linen.PReLU()

    def theirs(params, x):
        return peer.apply({"params": {"negative_slope": params["alpha"]}}, x)

    assert_agree(nn.PReLU().apply, theirs, {"alpha": jnp.float32(alpha)}, X)


def test_one_slope_a_feature_as_equinox():
    def theirs(params, x):
        peer = eqx.nn.PReLU()
        return eqx.tree_at(lambda p: p.negative_slope, peer, params["alpha"])(x)

    net = nn.PReLU(axis=-1)
    assert_agree(net.apply, theirs, {"alpha": normals(1, 4)}, normals(0, 2, 3, 4))
    # At zero the slope is 1 or alpha; here, as in the formula, 1.
    np.testing.assert_array_equal(
        jax.grad(lambda x: net.apply({"alpha": normals(1, 4)}, x).sum())(jnp.zeros(4)), np.ones(4)
    )


def test_the_first_slope_is_a_quarter_and_integers_become_floating():
    net = nn.PReLU()
    y = net.apply(net.init(KEY, X), jnp.array([-2, 0, 3]))
    assert y.dtype == jnp.float32 and y.tolist() == [-0.5, 0.0, 3.0]
    assert net.apply(net.init(KEY, X), X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


FORMULAS = {
    functional.soft_shrink: lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    functional.hard_shrink: lambda x: x * (np.abs(x) > 0.5),
    functional.tanh_shrink: lambda x: x - np.tanh(x),
    functools.partial(functional.threshold, threshold=0.3, value=-2.0): lambda x: np.where(
        x > 0.3, x, -2
    ),
    functional.soft_min: lambda x: np.exp(-x) / np.exp(-x).sum(-1, keepdims=True),
}


def test_formulas():
    """Values and gradients, as layers; the formulas are differentiated by differences."""
    x, v = np.asarray(X, np.float64), np.asarray(normals(3, *X.shape), np.float64)

    @jax.jit
    def run(x):
        found = []
        for function in FORMULAS:
            net = nn.Sequential(function)
            y, pull = jax.vjp(lambda x, net=net: net.apply(({},), x), x)
            found.append((y, *pull(jnp.asarray(v, y.dtype))))
        return found

    def difference(formula, i):
        step = np.zeros_like(x)
        step[i] = 1e-6
        return ((formula(x + step) - formula(x - step)) * v).sum() / 2e-6

    for formula, (y, dx) in zip(FORMULAS.values(), run(X), strict=True):
        # x - tanh(x) near 0 loses the digits that both have: up to one unit of float32 at 1.
        np.testing.assert_allclose(y, formula(x), rtol=1e-5, atol=2e-7)
        expected = [difference(formula, i) for i in np.ndindex(*x.shape)]
        np.testing.assert_allclose(dx.ravel(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", FORMULAS, ids=lambda f: getattr(f, "__name__", "threshold"))
def test_activations_are_values_keep_types_and_nan(function):
    net = nn.Sequential(function)
    assert (
        eval(repr(net), {"Sequential": nn.Sequential, "functools": functools, "jaxnn": jaxnn})
        == net
    )
    for dtype, expected in (("bfloat16", "bfloat16"), ("int32", "float32")):
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            y = jax.eval_shape(function, jax.ShapeDtypeStruct((2, 3), dtype))
        assert y.dtype == expected
    assert np.isnan(jax.jit(function)(jnp.array([np.nan]))).all()


def test_the_gelu_named_for_torch_is_exact():
    """torch.nn.GELU() is x * (1 + erf(x / sqrt 2)) / 2, not the approximation by tanh."""
    assert "functools.partial(jax.nn.gelu, approximate=False)" in (functional.__doc__ or "")
    x = np.linspace(-4, 4, 33)
    expected = [a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in x]
    found = functools.partial(jax.nn.gelu, approximate=False)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_prelu_of_each_element_by_the_formula():
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("f")
    alpha = np.random.default_rng(1).normal(size=(5, 4)).astype("f")
    net, images = nn.PReLU(axis=(1, 3)), np.stack([x, -x])
    assert jax.tree.map(np.shape, net.init(jax.random.key(0), images)) == {"alpha": (5, 4)}
    found = jax.jit(lambda a, x: net.apply({"alpha": a}, x))(alpha, images)
    expected = np.where(images >= 0, images, images * alpha[None, :, None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rrelu_draws_slopes_between_its_bounds():
    x = -jnp.ones(1000)
    y = nn.RReLU(0.25, 0.5).apply({}, x, key=jax.random.key(0), train=True)
    assert -0.5 <= y.min() < -0.49 and -0.26 < y.max() <= -0.25
    np.testing.assert_allclose(nn.RReLU(0.25, 0.5).apply({}, jnp.array([-2.0, 3.0])), [-0.75, 3.0])
    with pytest.raises(ValueError, match=r"RReLU.lower must be below upper=0.1, got 0.2"):
        nn.RReLU(0.2, 0.1)
