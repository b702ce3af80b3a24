"""Gradients of convolutions on a CPU: equal to XLA's, and without slow layouts."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.convolution import convolution, looped, transposed_convolution

KINDS = [
    *itertools.product([convolution], (1, 2), (1, 2, 3), (1, 2), (1, 2, 4), ("same", "valid")),
    *itertools.product([transposed_convolution], (1, 2), (1, 2), (1, 2), (1, 2), ("same",)),
]
FEW = [
    (convolution, 2, 2, 1, 1, "same"),
    (convolution, 2, 1, 2, 2, "valid"),
    (convolution, 2, 1, 1, 4, "same"),
    (transposed_convolution, 2, 2, 1, 1, "same"),
]


def arrays(axes, groups):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, *(11, 9)[:axes], 4)).astype("float32")
    features = 2 if groups == 2 else 8
    return x, random.normal(size=(*(3, 2)[:axes], 4 // groups, features)).astype("float32")


def derivatives(function, x, w):
    """Gradients, gradients of gradients, forward derivatives, and gradients of several kernels."""
    weights = np.random.default_rng(1).normal(size=jax.eval_shape(function, x, w).shape)
    weights = weights.astype("float32")

    @jax.jit
    def found(x, w):
        value = lambda x, w: jnp.sum(jnp.sin(function(x, w)) * weights)  # noqa: E731
        gradients = jax.grad(value, (0, 1))
        twice = jax.grad(lambda x, w: sum(map(jnp.sum, map(jnp.cos, gradients(x, w)))), (0, 1))
        forward = jax.jvp(function, (x, w), (jnp.cos(x), jnp.sin(w)))
        several = jax.vmap(gradients, (None, 0))(x, jnp.stack([w, 2 * w]))
        return gradients(x, w), twice(x, w), forward, several

    return found(x, w)


@pytest.mark.parametrize(
    ("function", "axes", "stride", "dilation", "groups", "padding"),
    [pytest.param(*kind, marks=() if kind in FEW else pytest.mark.slow) for kind in KINDS],
)
def test_derivatives_are_those_of_xla(
    function, axes, stride, dilation, groups, padding, monkeypatch
):
    def plain(x, w):
        return function(x, w, stride=stride, dilation=dilation, groups=groups, padding=padding)

    x, w = arrays(axes, groups)
    with looped():
        found = derivatives(plain, x, w)
    monkeypatch.setattr("jaxnn.functional.convolution._is_bilinear", lambda *_: False)
    found = found, derivatives(plain, x, w)
    # Sums of terms of both signs round by the size of the terms, not of the sum.
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


def test_every_convolution_of_a_loop_has_the_usual_layout():
    block = nn.Residual(nn.Conv(4, (3, 3)))
    x = jnp.ones((2, 6, 6, 4))
    net = nn.Repeat(block, 3)
    params = net.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(net.apply(params, x) ** 2)))
    found = re.findall(
        r"stablehlo.convolution.*dim_numbers = (.*?), window", gradient.lower(params).as_text()
    )
    assert len(found) >= 2
    assert set(found) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}


@pytest.mark.parametrize(
    "layer",
    [nn.Conv(8, (3, 3), groups=2), nn.Conv(8, (1, 1)), nn.Conv(8, (2, 2), stride=2)],
    ids=repr,
)
def test_kernels_in_groups_and_of_patches_have_gradients_by_products(layer):
    x = jnp.ones((2, 6, 6, 4))
    params = layer.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(layer.apply(params, x) ** 2)))
    text = gradient.lower(params).as_text()
    # The only convolution is that of x, whose gradient is not used.
    assert text.count("stablehlo.convolution") == 1
    assert text.count("stablehlo.dot_general") == np.prod(params["w"].shape[:2])
