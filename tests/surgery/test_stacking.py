"""unstack_layers and stacked: the same function, and each other's inverse."""

from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.explain.text import Mismatch
from jaxnn.models import GPT
from tests.cases import KEY
from tests.layers.agreement import normals
from tests.near import assert_near

X = normals(0, 3, 4)
BLOCK = nn.Residual(nn.Sequential(nn.LayerNorm(), nn.Dense(4), jax.nn.tanh, nn.Dropout(0.5)))


def test_the_same_function_whatever_is_around():
    """Random numbers too: a copy's key is that of the layer in the row."""
    net = nn.Sequential(
        a=nn.Remat(nn.Repeat(nn.Remat(BLOCK), 2)), b=nn.Parallel(nn.Repeat(BLOCK, 3), jnp.tanh)
    )
    params = net.init(KEY, X)
    row, row_params = nn.unstack_layers(net, params)
    expected = nn.Sequential(
        a=nn.Remat(nn.Sequential(*[nn.Remat(BLOCK)] * 2)),
        b=nn.Parallel(nn.Sequential(*[BLOCK] * 3), jnp.tanh),
    )
    assert row == expected
    chex.assert_trees_all_equal(row_params, expected.init(KEY, X))

    def outputs(net: Any, params: Any) -> Any:
        return jax.jit(lambda params, x: net.apply(params, x, key=KEY, train=True))(params, X)

    assert_near(outputs(row, row_params), outputs(net, params))
    back, back_params = nn.stack_layers(row, row_params)
    assert back == net
    chex.assert_trees_all_equal(back_params, params)


def test_what_only_a_scan_needs_is_dropped():
    net = nn.Repeat(nn.Remat(BLOCK, keep="products"), 2)
    params = net.init(KEY, X)
    row, row_params = nn.unstack_layers(net, params)
    assert row == nn.Sequential(BLOCK, BLOCK)
    chex.assert_trees_all_equal(row_params, row.init(KEY, X))


def test_repeats_within_repeats():
    net = nn.Repeat(nn.Repeat(nn.Dense(4), 2), 3)
    params = net.init(KEY, X)
    row, row_params = nn.unstack_layers(net, params)
    assert row == nn.Sequential(*[nn.Sequential(nn.Dense(4), nn.Dense(4))] * 3)
    np.testing.assert_array_equal(row_params[2][1]["w"], params["w"][2, 1])
    back, back_params = nn.stack_layers(row, row_params)
    assert back == net
    chex.assert_trees_all_equal(back_params, params)


def test_a_language_model_generates_the_same():
    net = GPT(layers=2, width=8, num_heads=2, length=16).network(outputs=10)
    params = net.init(KEY, jnp.zeros((1, 4), int))
    row, row_params = nn.unstack_layers(net, params)
    prompts = [[1, 2, 3], [4]]
    expected = nn.generate(net, params, prompts, steps=4, temperature=0)
    chex.assert_trees_all_equal(
        nn.generate(row, row_params, prompts, steps=4, temperature=0), expected
    )


def test_optional_and_bare_children_stay():
    layer = nn.EncoderLayer(nn.MultiHeadAttention(2), nn.Repeat(nn.Dense(4), 2))
    params = layer.init(KEY, X)
    row, row_params = nn.unstack_layers(layer, params)
    assert row.dropout is None and row.attention == layer.attention
    assert row.feed_forward == nn.Sequential(nn.Dense(4), nn.Dense(4))
    assert_near(row.apply(row_params, X), layer.apply(params, X))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Dense(4), nn.Dense(4, bias=False)),
        nn.Sequential(a=nn.Dense(4), b=nn.Dense(4)),
        nn.Sequential(nn.Dense(5), nn.Dense(5)),  # of 4 and 5 inputs
        nn.Sequential(jnp.tanh, jnp.tanh),
        nn.Sequential(nn.Dense(4)),
        nn.Sequential(),
        nn.Ensemble(nn.Sequential(nn.Dense(4), nn.Dense(4)), 2),
    ],
    ids=repr,
)
def test_rows_that_are_not_stacked(net):
    params = net.init(KEY, X)
    same, same_params = nn.stack_layers(net, params)
    assert same == net
    chex.assert_trees_all_equal(same_params, params)


def test_a_repeat_within_an_ensemble_stays():
    net = nn.Ensemble(nn.Repeat(nn.Dense(4), 2), 3)
    params = net.init(KEY, X)
    assert nn.unstack_layers(net, params)[0] == net


def test_refused():
    net = nn.Repeat(nn.Dense(4), 2)
    params = net.init(KEY, X)
    with pytest.raises(Mismatch, match=r"3 copies must have a leading axis of 3:\n  float32\[2"):
        nn.unstack_layers(nn.Repeat(nn.Dense(4), 3), params)
    with pytest.raises(
        TypeError, match=r"unstack_layers.net must be a layer, got 3; write nn.unstack_layers\("
    ):
        nn.unstack_layers(cast(Any, 3), params)
    with pytest.raises(TypeError, match=r"stack_layers.net must be a layer"):
        nn.stack_layers(cast(Any, None), params)
