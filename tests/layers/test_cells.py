"""Options of cells: outputs and gradients of torch, keras, and onnx, and normalization by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import interop
from tests.fixtures.layers import stored
from tests.layers.agreement import KEY, normals
from tests.near import assert_near

# name: the cell, and the names of its weights in torch or keras
TORCH = {
    "lstm projection": nn.LSTMCell(4, bias=False, projection=2),
    "gru": nn.GRUCell(4, bias=False),
}


@pytest.mark.parametrize("name", TORCH)
def test_without_bias_and_with_projection_as_torch(name):
    a, net = stored(name), nn.Recurrent(TORCH[name])
    names = [k for k in a if k.startswith("weight_")]

    @jax.jit
    def run(x, params, dy):
        y, pull = jax.vjp(net.apply, params, x)
        return y, pull(dy)

    def converted(prefix):
        weights = {k: a[prefix + k] for k in names}
        return interop.from_torch(net, weights, a["x"]).params

    y, gradients = run(a["x"], converted(""), a["dy"])
    assert_near((y, gradients), (a["y"], (converted("d"), a["dx"])))


def ordered(a: Any) -> Any:
    """The gates z, r, h of keras in our order."""
    z, r, h = np.split(a, 3, -1)
    return np.concatenate([r, z, h], -1)


@pytest.mark.parametrize("name", ["gru, reset before", "conv lstm"])
def test_other_products_as_keras(name):
    a = stored(name)
    cell, order = {
        "gru, reset before": (nn.GRUCell(4, reset_after=False), ordered),
        "conv lstm": (nn.ConvLSTMCell(2, 2, stride=2, padding="valid"), np.asarray),
    }[name]
    net = nn.Recurrent(cell)
    params, slopes = (
        {"input": {k: order(a[d + k]) for k in "wb"}, "recurrent": {"w": order(a[f"{d}u"])}}
        for d in ("", "d")
    )

    @jax.jit
    def run(x, params, dy):
        y, pull = jax.vjp(net.apply, params, x)
        return y, pull(dy)

    assert_near(run(a["x"], params, a["dy"]), (a["y"], (slopes, a["dx"])))


DROPPED = {
    "LSTM": (nn.LSTMCell(4), np.asarray),
    "GRU": (nn.GRUCell(4, reset_after=False), ordered),
    "SimpleRNN": (nn.RNNCell(4), np.asarray),
}


@pytest.mark.parametrize("name", DROPPED)
def test_recurrent_dropout_as_keras(name):
    """One mask for all steps, given as `Recurrent` passes it."""
    (cell, order), a = DROPPED[name], stored(f"dropped {name}")
    net = nn.Recurrent(cell)
    params, slopes = (
        {"input": {k: order(a[d + k]) for k in "wb"}, "recurrent": {"w": order(a[f"{d}u"])}}
        for d in ("", "d")
    )

    @jax.jit
    def run(x, params, dy):
        y, pull = jax.vjp(lambda p, x: net.apply(p, x, recurrent_mask=a["mask"]), params, x)
        return y, pull(dy)

    assert_near(run(a["x"], params, a["dy"]), (a["y"], (slopes, a["dx"])))


def test_recurrent_dropout_draws_one_mask_for_each_row():
    """With h' = h * mask + 1, h after T steps is T if the mask is 0, and 2**T - 1 if it is 2."""

    class Sum(nn.Cell):
        def parameters(self, carry, x):
            ones = (nn.ones(),)
            return {"input": self._input(x, ones, ()), "recurrent": self._recurrent(ones)}

        def step(self, carry, gate):
            return {"h": gate}, gate

    net, x = nn.Recurrent(Sum(1), recurrent_dropout=0.5), jnp.ones((64, 4, 1))
    params = net.init(KEY, x)

    @jax.jit
    def run(key):
        return net.apply(params, x, key=key, train=True), net.apply(params, x)

    dropped, whole = run(KEY)
    np.testing.assert_array_equal(whole[..., 0], np.tile(np.arange(1.0, 5), (64, 1)))
    rows = {tuple(row) for row in np.asarray(dropped[..., 0]).tolist()}
    assert rows == {(1.0, 1.0, 1.0, 1.0), (1.0, 3.0, 7.0, 15.0)}
    assert 16 < (dropped[:, -1, 0] == 1).sum() < 48
    with pytest.raises(TypeError, match=r"takes the named input recurrent_mask.*_Plain"):
        nn.Recurrent(_Plain(), recurrent_dropout=0.5)


class _Plain(nn.Primitive):
    def carries(self, x):
        return {}

    def forward(self, params, carry, x):
        return carry, x


def test_peepholes_as_onnx():
    a = stored("peepholes")

    def gates(w: Any) -> Any:
        i, o, f, g = np.split(w, 4)
        return np.concatenate([i, f, g, o])

    b = a["B"][0, :12] + a["B"][0, 12:]
    i, o, f = np.split(a["P"][0], 3)
    params = {
        "input": {"w": gates(a["W"][0]).T, "b": gates(b)},
        "recurrent": {"w": gates(a["R"][0]).T},
        "peephole": {"w": np.stack([i, f, o])},
    }
    net = nn.Recurrent(nn.LSTMCell(3, peepholes=True))
    y = jax.jit(net.apply)(params, a["X"].swapaxes(0, 1))
    assert_near(y, a["y"][:, 0].swapaxes(0, 1))


def test_layer_normalized_lstm_by_the_formula():
    """One step in double precision, from random parameters."""
    cell, x = nn.LSTMCell(3, layer_norm=True), normals(0, 2, 4)
    carry = {"c": normals(1, 2, 3), "h": normals(2, 2, 3)}
    shapes = cell.init(KEY, carry, x)
    leaves, tree = jax.tree.flatten(shapes)
    params = jax.tree.unflatten(tree, [normals(i + 3, *a.shape) for i, a in enumerate(leaves)])
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def norm(a):
        return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    z = norm(np.float64(x) @ p["input"]["w"]) * p["input_norm"]["scale"]
    u = norm(np.float64(carry["h"]) @ p["recurrent"]["w"]) * p["recurrent_norm"]["scale"]
    i, f, g, o = np.split(z + u + p["input"]["b"], 4, -1)
    c = sigmoid(f) * np.float64(carry["c"]) + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(norm(c) * p["cell_norm"]["scale"] + p["cell_norm"]["b"])
    found, y = jax.jit(cell.apply)(params, carry, x)
    expected = {"c": np.float32(c), "h": np.float32(h)}
    assert_near((found, y), (expected, expected["h"]))


def test_cells_without_bias_have_none():
    x = jnp.zeros((1, 2, 3))
    for kind in (nn.RNNCell, nn.GRUCell, nn.LSTMCell, nn.MinimalGatedCell):
        cell = kind(2, bias=False)
        params = jax.eval_shape(nn.Recurrent(cell).init, KEY, x)
        assert {part: list(arrays) for part, arrays in params.items()} == {
            "input": ["w"],
            "recurrent": ["w"],
        }


def test_a_minimal_gated_cell_without_bias_is_one_with_zeros():
    with_bias, without = (
        nn.Recurrent(nn.MinimalGatedCell(2, forget_init=nn.zeros(), bias=bias))
        for bias in (True, False)
    )
    x = normals(0, 2, 4, 3)
    params = with_bias.init(KEY, x)
    short = {part: {"w": arrays["w"]} for part, arrays in params.items()}
    y, z = jax.jit(lambda p, q: (with_bias.apply(p, x), without.apply(q, x)))(params, short)
    assert_near(y, z)
