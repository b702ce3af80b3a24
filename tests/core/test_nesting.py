"""Layers nested deeply work, or are refused as soon as they are built."""

import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

X = np.ones((2, 4), np.float32)


class Box(nn.Composite):
    inner: nn.Layer

    def forward(self, x):
        return self.inner(x)


KINDS = {
    "Sequential": nn.Sequential,
    "Sequential by name": lambda layer: nn.Sequential(a=layer),
    "Composite": Box,
    "Residual": nn.Residual,
    "Remat": nn.Remat,
    "Precision": lambda layer: nn.Precision(layer, "float32"),
}


def nested(wrap, levels):
    net = nn.Dense(4)
    for _ in range(levels - 1):
        net = wrap(net)
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_levels_as_are_allowed_work(kind):
    net = nested(KINDS[kind], sys.getrecursionlimit() // 24)
    assert eval(repr(net), vars(nn) | {"Box": Box}) == net
    assert pickle.loads(pickle.dumps(net)) == net
    assert hash(net) == hash(nested(KINDS[kind], sys.getrecursionlimit() // 24))
    params = net.init(jax.random.key(0), X)
    grads = jax.jit(jax.grad(lambda params: jnp.sum(net.apply(params, X))))(params)
    # Two rows; what a Residual adds does not depend on the one bias.
    np.testing.assert_array_equal(jax.tree.leaves(grads)[0], np.full(4, 2.0))


@pytest.mark.parametrize("kind", KINDS)
def test_more_levels_are_refused(kind):
    levels = sys.getrecursionlimit() // 24 + 1
    with pytest.raises(
        ValueError, match=rf"an int from 1 to {levels - 1}, got {levels}; Python's recu"
    ):
        nested(KINDS[kind], levels)
    with pytest.raises(ValueError, match=r"write nn.Sequential\(a, b, c\) or nn.Repeat"):
        nested(KINDS[kind], 100)


def test_a_hundred_levels_work_under_a_higher_limit():
    """That which the error says to set."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * 24 * 100)
    try:
        net = nested(nn.Sequential, 100)
        params = net.init(jax.random.key(0), X)
        alone = params
        for _ in range(99):
            (alone,) = alone
        np.testing.assert_array_equal(net.apply(params, X), nn.Dense(4).apply(alone, X))
    finally:
        sys.setrecursionlimit(before)


def test_layers_in_a_row_are_not_nested():
    net = nn.Sequential(*[nn.Dense(4)] * 300)
    assert len(net.init(jax.random.key(0), X)) == 300


def test_the_depth_is_that_of_the_layer_put_in():
    """A copy with another layer inside does not remember the depth of the first."""
    deep = nested(nn.Sequential, sys.getrecursionlimit() // 24)
    shallow = nn.replace(deep, "0", nn.Dense(4))
    assert nn.Sequential(nn.Sequential(shallow)).init(jax.random.key(0), X)
