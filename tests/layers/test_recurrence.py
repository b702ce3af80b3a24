"""Cells, on the same weights: against flax linen, equinox and haiku, and by hand.

Other libraries keep a matrix for each gate, or the gates in another order; `cut` and `join` take
ours apart and put theirs together.
"""

from typing import Any, cast

import chex
import equinox as eqx
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near


def random(net: nn.Layer, x: Any) -> Any:
    """Random parameters, biases too."""
    params = net.init(KEY, x)
    leaves, tree = jax.tree.flatten(params)
    drawn = [0.5 * normals(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, drawn)


def cut(a: jax.Array, names: str) -> dict[str, jax.Array]:
    """The blocks of a fused weight, by the letters of its gates."""
    return dict(zip(names, jnp.split(a, len(names), -1), strict=True))


def join(a: jax.Array, ours: str, theirs: str) -> jax.Array:
    """A fused weight with its gates in another order."""
    blocks = cut(a, ours)
    return jnp.concatenate([blocks[name] for name in theirs], -1)


def as_flax(params: Any, gates: str, recurrent_bias: str) -> Any:
    """A Dense for each gate: i* for the input, h* for the hidden state."""
    w, b = (cut(params["input"][name], gates) for name in ("w", "b"))
    u = cut(params["recurrent"]["w"], gates)
    found = {f"i{g}": {"kernel": w[g], "bias": b[g]} for g in gates}
    found |= {f"h{g}": {"kernel": u[g]} for g in gates}
    for g in recurrent_bias:
        found[f"h{g}"]["bias"] = params["recurrent"]["b"]
    return found


def lstm_as_flax(params: Any) -> Any:
    """Biases with the hidden state, none with the input."""
    found = as_flax(params, "ifgo", "")
    for g in "ifgo":
        found[f"h{g}"]["bias"] = found[f"i{g}"].pop("bias")
    return found


FLAX = {
    "RNN": (nn.RNNCell, flax.linen.SimpleCell, lambda p: {
        "i": {"kernel": p["input"]["w"], "bias": p["input"]["b"]},
        "h": {"kernel": p["recurrent"]["w"]},
    }),
    "LSTM": (nn.LSTMCell, flax.linen.LSTMCell, lstm_as_flax),
    "GRU": (nn.GRUCell, flax.linen.GRUCell, lambda p: as_flax(p, "rzn", "n")),
    "minimal": (nn.MinimalGatedCell, flax.linen.MGUCell, lambda p: as_flax(p, "fn", "n")),
}  # fmt: skip
SEGMENTS = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("name", FLAX)
def test_as_flax(name):
    cell, peer, convert = FLAX[name]
    net, theirs = nn.Recurrent(cell(3)), flax.linen.RNN(peer(3))
    x = normals(0, 2, 4, 2)
    params = random(net, x)
    assert_agree(
        net.apply, lambda p, x: theirs.apply({"params": {"cell": convert(p)}}, x), params, x
    )


def test_padded_bidirectional_as_flax():
    net, x = nn.Bidirectional(nn.Recurrent(nn.LSTMCell(3))), normals(0, 2, 4, 2)
    rnn = flax.linen.RNN(flax.linen.LSTMCell(3)), flax.linen.RNN(flax.linen.LSTMCell(3))
    peer = flax.linen.Bidirectional(*rnn)

    def theirs(params, x):
        both = {f"{name}_rnn": {"cell": lstm_as_flax(params[name])} for name in params}
        y = cast(Any, peer.apply({"params": both}, x, seq_lengths=jnp.array([4, 2])))
        return jnp.where(SEGMENTS[..., None] == 0, 0.0, y)  # which it leaves as they come

    def ours(params, x):
        return net.apply(params, x, segment_ids=SEGMENTS)

    assert_agree(ours, theirs, random(net, x), x)


@pytest.mark.parametrize("size", [(3,), (2, 3)], ids=str)
def test_convolutional_as_flax_and_haiku(size):
    net, x = nn.Recurrent(nn.ConvLSTMCell(3, size)), normals(0, 2, 3, *(4, 5)[: len(size)], 2)
    params = random(net, x)

    def flax_output(params, x):
        # The gates in the order i, g, f, o, and 1 added to f.
        one = jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0]), 3)
        w, u = (join(params[k]["w"], "ifgo", "igfo") for k in ("input", "recurrent"))
        b = join(params["input"]["b"], "ifgo", "igfo") - one
        cell = {"ih": {"kernel": w, "bias": b}, "hh": {"kernel": u, "bias": 0 * b}}
        peer = flax.linen.RNN(flax.linen.ConvLSTMCell(3, size))
        return peer.apply({"params": {"cell": cell}}, x)

    def haiku_output(params, x):
        one = jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0]), 3)
        w, u = (join(params[k]["w"], "ifgo", "igfo") for k in ("input", "recurrent"))
        b = join(params["input"]["b"], "ifgo", "igfo") - one

        def run(x):
            kind = {1: hk.Conv1DLSTM, 2: hk.Conv2DLSTM}[len(size)]
            core = kind(x.shape[2:-1], output_channels=3, kernel_shape=size)
            return hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0]

        bare = hk.without_apply_rng(hk.transform(run))
        weights = jax.eval_shape(bare.init, KEY, x)
        names = {name.split("/")[-1]: name for name in weights}
        found = {
            names["input_to_hidden"]: {"w": w, "b": b},
            names["hidden_to_hidden"]: {"w": u, "b": 0 * b},
        }
        return bare.apply(found, x)

    assert_agree(net.apply, flax_output, params, x)
    assert_agree(net.apply, haiku_output, params, x)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_a_step_as_equinox(name):
    x = normals(0, 2)
    if name == "LSTM":
        cell, peer = nn.LSTMCell(3), eqx.nn.LSTMCell(2, 3, key=KEY)
    else:
        cell, peer = nn.GRUCell(3), eqx.nn.GRUCell(2, 3, key=KEY)
    carry = {name: normals(i, 3) for i, name in enumerate(cell.initial_carry(x))}
    net = nn.Recurrent(cell)
    params = random(net, x[None])

    def theirs(params, x):
        w, b = params["input"]["w"].T, params["input"]["b"]
        u = params["recurrent"]["w"].T
        filled = eqx.tree_at(lambda p: (p.weight_ih, p.weight_hh, p.bias), peer, (w, u, b))
        if name == "LSTM":
            return filled(x, (carry["h"], carry["c"]))[0]
        filled = eqx.tree_at(lambda p: p.bias_n, filled, params["recurrent"]["b"])
        return filled(x, carry["h"])

    assert_agree(lambda p, x: cell.apply(p, carry, x)[1], theirs, params, x)


def test_lstm_as_haiku():
    net, x = nn.Recurrent(nn.LSTMCell(3)), normals(0, 2, 4, 2)

    def run(x):
        core = hk.LSTM(3)
        return hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0]

    peer = hk.without_apply_rng(hk.transform(run))

    def theirs(params, x):
        both = jnp.concatenate([params["input"]["w"], params["recurrent"]["w"]])
        b = join(params["input"]["b"], "ifgo", "igfo")
        b = b - jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0]), 3)  # it adds 1 to f
        return peer.apply({"lstm/linear": {"w": join(both, "ifgo", "igfo"), "b": b}}, x)

    assert_agree(net.apply, theirs, random(net, x), x)


def test_gru_is_not_that_of_cho():
    """Where r is 1 the two agree; haiku has the reset of Cho et al., inside the product."""
    cell, x, h = nn.GRUCell(1), jnp.zeros(1), jnp.array([0.8])
    params = {
        "input": {"w": jnp.zeros((1, 3)), "b": jnp.array([0.0, -50.0, 0.0])},
        "recurrent": {"w": jnp.array([[0.0, 0.0, 2.0]]), "b": jnp.array([0.4])},
    }
    _, y = cell.apply(params, {"h": h}, x)
    assert_near(y, jnp.tanh(0.5 * (2.0 * h + 0.4)))  # the bias is inside of what r multiplies


def test_initial_numbers():
    """Each gate is drawn by itself: orthogonal blocks, and 1 for the forget gate's bias."""
    params = nn.Recurrent(nn.LSTMCell(5)).init(KEY, jnp.zeros((2, 3)))
    for block in cut(params["recurrent"]["w"], "ifgo").values():
        np.testing.assert_allclose(block.T @ block, np.eye(5), atol=1e-6)
    bias = cut(params["input"]["b"], "ifgo")
    assert {name: set(b.tolist()) for name, b in bias.items()} == {
        "i": {0.0}, "f": {1.0}, "g": {0.0}, "o": {0.0},
    }  # fmt: skip
    blocks = [np.asarray(b) for b in cut(params["input"]["w"], "ifgo").values()]
    assert len({b.tobytes() for b in blocks}) == 4
    bound = np.sqrt(6 / (3 + 5))  # Glorot's for one gate
    assert all(np.abs(b).max() <= bound for b in blocks)
    assert nn.MinimalGatedCell(2).init(KEY, {"h": jnp.zeros(2)}, jnp.zeros(1))["input"][
        "b"
    ].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_step_by_hand():
    """c' = f c + i g and h' = o tanh c', in float64 numpy with gates told apart."""
    cell, x = nn.LSTMCell(2), normals(0, 3)
    params = random(nn.Recurrent(cell), x[None])
    carry = {"c": normals(1, 2), "h": normals(2, 2)}
    wide: Any = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, carry, x))
    p, start, inputs = wide
    z = inputs @ p["input"]["w"] + start["h"] @ p["recurrent"]["w"] + p["input"]["b"]
    i, f, o = (1 / (1 + np.exp(-z[k : k + 2])) for k in (0, 2, 6))
    c = f * start["c"] + i * np.tanh(z[4:6])
    found, y = cell.apply(params, carry, x)
    assert_near(found["c"], c.astype(np.float32))
    assert_near(y, (o * np.tanh(c)).astype(np.float32))
    chex.assert_trees_all_equal(found["h"], y)


def test_refused():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"LSTMCell.features must be an int >= 1, got 0"):
        nn.LSTMCell(0)
    with pytest.raises(TypeError, match=r"RNNCell.activation must be a plain function such as"):
        nn.RNNCell(2, 3)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"ConvLSTMCell.kernel_size must be an int >= 1, or a tuple"
    ):
        nn.ConvLSTMCell(2, (3, 0))
    cell = nn.GRUCell(2)
    params = cell.init(KEY, cell.initial_carry(x), x)
    with pytest.raises(ValueError, match=r"h: declared \(2, 2\), got \(3, 2\); write carry = "):
        cell.apply(params, {"h": jnp.ones((3, 2))}, x)
    net = nn.Recurrent(nn.ConvLSTMCell(2, (3, 3)))
    with pytest.raises(ValueError, match=r"\(\.\.\., T, \*3 axes\), got float32\[4,3,2"):
        net.init(KEY, jnp.ones((4, 3, 2)))
