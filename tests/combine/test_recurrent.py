"""Recurrent and Bidirectional over sequences: against torch, loops, and each sequence alone.

torch's numbers come from `tests/fixtures/recurrence.py`: several layers, both directions, packed
lengths, begun from random states; outputs, last states and the gradients of everything.
"""

from pathlib import Path
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.recurrence import gate_sums
from tests.cases import KEY, floats, host
from tests.derivatives import check_derivatives
from tests.layers.agreement import normals, outputs_and_gradients
from tests.near import assert_near

TORCH = np.load(Path(__file__).parent.parent / "fixtures" / "recurrence.npz")
LENGTHS = [5, 2, 4]
SEGMENTS = jnp.asarray([[t < n for t in range(5)] for n in LENGTHS], jnp.int32)
CELLS = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


class Stack(nn.Composite):
    layers: tuple[nn.Layer, ...]

    def forward(self, x: Any, carries: Any) -> Any:
        ends = []
        for layer, carry in zip(self.layers, carries, strict=True):
            end, x = layer.unroll(x, carry=carry)
            ends.append(end)
        return ends, x


def from_torch(weights: dict[str, Any], layer: str) -> Any:
    """The parameters of one layer in one direction, of torch's weights for it."""
    w, u, b, c = (weights[f"{name}_{layer}"] for name in TORCH_NAMES)
    n = u.shape[1]
    if len(u) != 3 * n:
        return {"input": {"w": w.T, "b": b + c}, "recurrent": {"w": u.T}}
    both = b + c.at[2 * n :].set(0)
    return {"input": {"w": w.T, "b": both}, "recurrent": {"w": u.T, "b": c[2 * n :]}}


TORCH_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


KINDS = sorted({name.split("/")[0] for name in TORCH})


@pytest.mark.parametrize("kind", KINDS)
def test_as_torch(kind):
    found = {k.split("/")[1]: jnp.asarray(a) for k, a in TORCH.items() if k.startswith(kind + "/")}
    weights = {k: a for k, a in found.items() if k.startswith(TORCH_NAMES)}
    cell = CELLS[kind.split("_")[0]](3)
    if "relu" in kind:
        cell = nn.replace(cell, "activation", jax.nn.relu)
    both, layer = "both" in kind, nn.Recurrent(cell)
    count = sum(k.startswith("weight_hh") for k in weights) // (2 if both else 1)
    net = Stack((nn.Bidirectional(layer) if both else layer,) * count)
    named = {"segment_ids": SEGMENTS} if "packed" in kind else {}
    kept = [name for name in ("h", "c") if f"{name}_0" in found]

    def in_layers(states: Any) -> Any:
        flat = [{name: states[name][i] for name in kept} for i in range(len(states["h"]))]
        if not both:
            return flat
        return [{"forward": a, "backward": b} for a, b in zip(flat[::2], flat[1::2], strict=True)]

    def outputs(weights: Any, x: Any, begin: Any) -> Any:
        params = tuple(
            {
                "forward": from_torch(weights, f"l{i}"),
                "backward": from_torch(weights, f"l{i}_reverse"),
            }
            if both
            else from_torch(weights, f"l{i}")
            for i in range(count)
        )
        ends, y = cast(Any, net.apply)({"layers": params}, x, in_layers(begin), **named)
        flat = [
            one for end in ends for one in ((end["forward"], end["backward"]) if both else (end,))
        ]
        return y, {name: jnp.stack([one[name] for one in flat]) for name in kept}

    def loss(*args: Any) -> Any:
        y, end = outputs(*args)
        states = sum(jnp.sum(end[name] * found[f"weight_{name}"]) for name in kept)
        return jnp.sum(y * found["weight_y"]) + states, (y, end)

    begin = {name: found[f"{name}_0"] for name in kept}
    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    (dw, dx, dbegin), (y, end) = run(weights, found["x"], begin)
    assert_near(y, found["y"])
    assert_near(end, {name: found[f"{name}_n"] for name in kept})
    assert_near(dx, found["d_x"])
    assert_near(dbegin, {name: found[f"d_{name}_0"] for name in kept})
    assert_near(dw, {name: found[f"d_{name}"] for name in weights})


# ---- the scan against a loop over the cell ----

EVERY = {
    "RNN": (nn.RNNCell(3), (2,)),
    "LSTM": (nn.LSTMCell(3), (2,)),
    "GRU": (nn.GRUCell(3), (2,)),
    "minimal": (nn.MinimalGatedCell(3), (2,)),
    "ConvLSTM": (nn.ConvLSTMCell(3, (2, 3)), (3, 2, 2)),
}


def loop(cell: Any, params: Any, carry: Any, x: Any, time: int) -> Any:
    ys = []
    for t in range(x.shape[time]):
        carry, y = cell.apply(params, carry, jnp.take(x, t, time))
        ys.append(y)
    return carry, jnp.stack(ys, time)


@pytest.mark.parametrize(
    ("name", "batch"),
    [*((name, (2,)) for name in EVERY), ("RNN", ()), ("RNN", (2, 1))],
    ids=str,
)
def test_a_loop_over_the_cell(name, batch):
    """Outputs, the last carry, and gradients by a derivative of its own (`unroll`)."""
    cell, element = EVERY[name]
    time = len(batch)
    x = np.asarray(normals(0, *batch, 4, *element))
    net = nn.Recurrent(cell)
    params = jax.tree.map(lambda a: a + np.float32(0.3), host(net.init(KEY, x)))
    first = np.take(x, 0, time)
    carry = jax.tree.map(lambda a: a + np.float32(0.5), host(cell.initial_carry(first)))

    def flat(pair: Any) -> Any:
        return jnp.concatenate([a.ravel() for a in jax.tree.leaves(pair)])

    def ours(params: Any, carry: Any, x: Any) -> Any:
        return flat(net.apply(params, x, carry, method="unroll"))

    def looped(params: Any, carry: Any, x: Any) -> Any:
        return flat(loop(cell, params, carry, x, time))

    both = jax.jit(lambda *a: [outputs_and_gradients(f, *a) for f in (ours, looped)])
    assert_near(*both(params, carry, x))


@pytest.mark.parametrize(
    ("cell", "order"),
    [
        (nn.GRUCell(2), 1),
        pytest.param(nn.GRUCell(2), 2, marks=pytest.mark.slow),
        pytest.param(nn.LSTMCell(2), 2, marks=pytest.mark.slow),
    ],
    ids=["GRU", "GRU twice", "LSTM twice"],
)
def test_derivatives_of_every_kind(cell, order):
    """Forward, backward, and one over the other: the scan has a derivative rule of its own."""
    net = nn.Recurrent(cell)

    def total(params: Any, x: Any) -> Any:
        return net.apply(params, x).sum()

    with jax.enable_x64(True):
        x = normals(0, 3, 2, dtype=np.float64)
        params = net.init(KEY, x)
        check_derivatives(net.apply, params, x, order=order)
        if order == 1:
            check_derivatives(jax.grad(total), params, x)

    x = normals(0, 3, 2)
    params = net.init(KEY, x)
    lanes = jax.jit(jax.vmap(jax.grad(total), (None, 0)))(params, jnp.stack([x, 2 * x]))
    assert_near(jax.tree.map(lambda a: a[1], lanes), jax.jit(jax.grad(total))(params, 2 * x))


class Skip(nn.Composite):
    """A cell made of a cell and layers, which is run by the plain scan."""

    cell: nn.Layer
    norm: nn.Layer
    drop: nn.Layer

    def carries(self, x: Any) -> Any:
        return self.cell.carries(x)

    def forward(self, carry: Any, x: Any) -> Any:
        carry, y = self.cell(carry, x)
        return carry, x + self.drop(self.norm(y))


def test_only_what_is_used_is_summed():
    """A gate with what the input and the hidden state add apart is in one sum fewer."""
    z = (jnp.ones(2),) * 3
    for apart in (False, True):
        program = jax.make_jaxpr(lambda z, u, a=apart: gate_sums(z, u, a))(z, z)
        assert [str(e.primitive) for e in program.eqns] == ["add"] * (3 - apart)


def test_a_composite_is_a_cell():
    cell = Skip(nn.GRUCell(2), nn.LayerNorm(), nn.Dropout(0.5))
    net, x = nn.Recurrent(cell), normals(0, 2, 4, 2)
    params = net.init(KEY, x)
    carry = cell.carries(x[:, 0])["h"]
    assert carry.shape == (2, 2)
    start = nn.GRUCell(2).initial_carry(x[:, 0])
    expected = jax.jit(lambda params, x: loop(cell, params, start, x, 1))(params, x)
    run = jax.jit(net.apply, static_argnames=("method", "train"))
    assert_near(run(params, x, method="unroll"), expected)
    # Each step draws a different mask, and padding changes nothing in such a cell either.
    one = np.broadcast_to(x[:, :1], x.shape)
    y = np.asarray(run(params, one, key=KEY, train=True)) - one
    assert len({tuple(row) for row in (y[0] == 0).tolist()}) > 1
    segment_ids = np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    y = np.asarray(run(params, x, segment_ids=segment_ids))
    assert_near(y[1, 1:], run(params, x[1, 1:]))
    assert not y[0, 2:].any()


def test_a_wrapped_cell_is_the_cell():
    x = normals(0, 2, 4, 3)
    for wrap in (nn.Remat, lambda cell: nn.Precision(cell, "float32")):
        net, plain = nn.Recurrent(wrap(nn.LSTMCell(2))), nn.Recurrent(nn.LSTMCell(2))
        params = plain.init(KEY, x)
        chex.assert_trees_all_equal(net.init(KEY, x), params)
        pair = jax.jit(
            lambda p, x, net=net, plain=plain: [
                outputs_and_gradients(one.apply, p, x) for one in (net, plain)
            ]
        )
        assert_near(*pair(params, x))


# ---- segment_ids ----


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_rows_are_each_sequence_alone(reverse):
    """Outputs and gradients, whatever stands in the padding."""
    net = nn.Recurrent(nn.GRUCell(2), reverse=reverse)
    segment_ids = jnp.array([[0, 4, 4, 0, 4, 0], [1, 1, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0]])
    x = normals(0, 3, 6, 2)
    params = net.init(KEY, x)
    spoilt = jnp.where(segment_ids[..., None] == 0, jnp.nan, x)
    places = [(0, [1, 2, 4]), (1, [0, 1]), (1, [2, 3, 4])]

    def packed(params: Any) -> Any:
        return net.apply(params, spoilt, segment_ids=segment_ids)

    def alone(params: Any) -> Any:
        y = jnp.zeros((3, 6, 2))
        for row, at in places:
            y = y.at[row, np.array(at)].set(net.apply(params, x[row, np.array(at)]))
        return y

    both = jax.jit(lambda params: [outputs_and_gradients(f, params) for f in (packed, alone)])
    assert_near(*both(params))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_output(reverse):
    net = nn.Recurrent(nn.LSTMCell(2), reverse=reverse, output="last")
    whole = nn.replace(net, "output", "all")
    x, segment_ids = normals(0, 3, 5, 2), SEGMENTS.at[1].set(0)
    params = net.init(KEY, x)

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        plain = net.apply(params, x), whole.apply(params, x)
        packed = [one.apply(params, x, segment_ids=segment_ids) for one in (net, whole)]
        return plain, packed, net.apply(params, x, segment_ids=segment_ids, method="unroll")

    (end, plain), (last, y), (carry, all_of_them) = run(params, x)
    assert_near(end, plain[:, 0 if reverse else -1])
    at = np.array([0, 0, 0] if reverse else [4, 0, 3])
    assert_near(last, y[np.arange(3), at])
    assert not last[1].any()
    assert_near(all_of_them, y)
    assert_near(carry["h"][0], end[0])


def test_a_carry_begins_the_first_sequence_only():
    net, x = nn.Recurrent(nn.RNNCell(2)), normals(0, 4, 2)
    params, carry = net.init(KEY, x), {"h": jnp.array([3.0, -2.0])}
    segment_ids = jnp.array([0, 1, 2, 2])

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        y = net.apply(params, x, carry, segment_ids=segment_ids)
        named = net.apply(params, x, carry=carry, segment_ids=segment_ids)
        return y, named, net.apply(params, x[1:2], carry), net.apply(params, x[2:])

    y, named, one, rest = run(params, x)
    assert_near(y[1], one[0])
    assert_near(y[2:], rest)
    assert_near(y, named)


# ---- pieces ----


def test_a_carry_given_to_a_cached_layer_replaces_its_own():
    net, x = nn.Recurrent(nn.GRUCell(2)), normals(0, 2, 4, 2)
    params, streamed = net.init(KEY, x), nn.with_cache(net)

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        carry, _ = net.apply(params, x, method="unroll")
        y, state = streamed.apply(params, x[:, :2], carry, state=streamed.init_state(x))
        rest, state = streamed.apply(params, x[:, 2:], state=state)
        return jnp.concatenate([y, rest], 1), net.apply(params, x, carry)

    assert_near(*run(params, x))


def test_half_precision_carries_are_wide():
    """Ten thousand equal steps, which a sum of bfloat16 would lose."""
    cell = nn.LSTMCell(1)
    params = {
        "input": {"w": jnp.zeros((1, 4)), "b": jnp.array([100.0, 100.0, 1e-3, 100.0])},
        "recurrent": {"w": jnp.zeros((1, 4))},
    }
    x = jnp.zeros((1000, 1), jnp.bfloat16)
    carry, y = nn.Recurrent(cell).apply(params, x, method="unroll")
    assert y.dtype == jnp.bfloat16
    # A thousand additions of a bfloat16 tanh(1e-3), each rounded in float32.
    np.testing.assert_allclose(carry["c"], [1.0], rtol=3e-3)


# ---- both directions ----


def test_bidirectional_is_two_layers():
    layer = nn.Recurrent(nn.GRUCell(2))
    net, x = nn.Bidirectional(layer), normals(0, 2, 4, 3)
    params = net.init(KEY, x)
    for name in ("forward", "backward"):
        chex.assert_trees_all_equal(params[name], layer.init(nn.fold_in(KEY, name), x))
    added = nn.Bidirectional(layer, jnp.add)
    last = nn.Bidirectional(nn.replace(layer, "output", "last"))

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        back = jnp.flip(layer.apply(params["backward"], jnp.flip(x, 1)), 1)
        ahead = layer.apply(params["forward"], x)
        return ahead, back, [one.apply(params, x) for one in (net, added, last)]

    ahead, back, found = run(params, x)
    ends = jnp.concatenate([ahead[:, -1], back[:, 0]], -1)
    assert_near(found, [jnp.concatenate([ahead, back], -1), ahead + back, ends])


def test_bidirectional_of_a_network():
    deep = nn.Sequential(
        nn.Recurrent(nn.RNNCell(2)), nn.Dense(3), nn.Remat(nn.Recurrent(nn.RNNCell(2)))
    )
    net, x = nn.Bidirectional(deep), normals(0, 4, 3)
    params = net.init(KEY, x)

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        back = jnp.flip(deep.apply(params["backward"], jnp.flip(x, 0)), 0)
        ahead = deep.apply(params["forward"], x)
        return net.apply(params, x), jnp.concatenate([ahead, back], -1)

    assert_near(*run(params, x))
    twice = nn.Bidirectional(nn.Bidirectional(deep))
    both = {"forward": params, "backward": params}
    assert jax.eval_shape(twice.apply, both, x).shape == (4, 8)


def test_replaced_in_both_directions():
    net = nn.Bidirectional(nn.Recurrent(nn.GRUCell(2)))
    wanted = nn.Bidirectional(nn.Recurrent(nn.GRUCell(5)))
    assert nn.replace(net, "forward/features", 5) == wanted
    assert nn.replace(net, "backward/features", 5) == wanted
    assert nn.replace(nn.Sequential(net), "0/merge", jnp.add) == nn.Sequential(
        nn.Bidirectional(nn.Recurrent(nn.GRUCell(2)), jnp.add)
    )


# ---- summary ----


def test_floating_point_operations():
    """2 (n + m) 4m multiplications and additions a step in the products, and 4m for the biases."""
    n, m, steps = 3, 5, 7
    total = nn.summary(nn.Recurrent(nn.LSTMCell(m)), floats(2, steps, n)).total
    products = 2 * steps * (2 * (n + m) * 4 * m + 4 * m)
    elementwise = 2 * steps * (4 * m + 3 * 4 * m + 5 * m)  # z + u; scale, tanh, scale, shift; c, h
    assert total.parameters == (n + m + 1) * 4 * m
    assert products < total.flops <= products + elementwise + 2 * steps * 4 * m


# ---- what raises ----


def raises(error, text):
    return pytest.raises(error, match=text)


def test_refused():
    net, x = nn.Recurrent(nn.LSTMCell(2)), jnp.ones((2, 4, 3))
    params = net.init(KEY, x)
    with raises(
        TypeError, r"Recurrent.inner must be a cell, with a method carries\(x\) .*, got Dense\(3\)"
    ):
        nn.Recurrent(nn.Dense(3))
    with raises(ValueError, r"Recurrent.output must be 'all' or 'last', got 'carry'"):
        nn.Recurrent(nn.LSTMCell(2), output="carry")
    with raises(TypeError, r"Recurrent.reverse must be True or False, got 1"):
        nn.Recurrent(nn.LSTMCell(2), reverse=1)  # type: ignore[arg-type]
    with raises(
        ValueError, r"processes a sequence from its end, so it cannot receive one in chunks"
    ):
        nn.with_cache(nn.Bidirectional(net))
    with raises(ValueError, r"an input of shape \(\.\.\., T, features\), got float32\[3\]"):
        net.init(KEY, jnp.ones(3))
    with raises(
        ValueError, r"at '1', Recurrent.*a sequence of at least one step, got float32\[2,0,3\]"
    ):
        nn.Sequential(jnp.tanh, net).apply(({}, params), jnp.ones((2, 0, 3)))
    with raises(
        ValueError, r"segment_ids must be of the shape \(\.\.\., T\) of the sequence, \(2, 4\)"
    ):
        net.apply(params, x, segment_ids=jnp.ones((2, 3), int))
    with raises(TypeError, r"segment_ids must be integers: 0 for padding"):
        net.apply(params, x, segment_ids=jnp.ones((2, 4)))
    with raises(ValueError, r"carry does not match this cell .*: c: declared \(2, 2\), missing"):
        net.apply(params, x, {"h": jnp.ones((2, 2))})
    with raises(ValueError, r"keeps state \(carry, segment\), but none was given"):
        nn.with_cache(net).apply(params, x)
    with raises(ValueError, r"Recurrent keeps a cache of 256 positions, which is for inference"):
        kept = nn.with_cache(net)
        kept.apply(params, x, state=kept.init_state(x), train=True)
    with raises(ValueError, r"the parameters are not those of this network"):
        net.apply(params, jnp.ones((2, 4, 5)))
    with raises(ValueError, r"input: declared a dict \['b', 'w'\], missing"):
        net.apply({}, x)
    with raises(TypeError, r"no layer of the network takes an input 'mask'"):
        net.apply(params, x, mask=x)
    with raises(ValueError, r"carry must be a carry for each direction, a dict of 'forward'"):
        both = nn.Bidirectional(net)
        both.apply(both.init(KEY, x), x, carry={"h": jnp.ones((2, 2))})
    with raises(
        ValueError, r"a layer, with a field `reverse` in it or in a layer below, got Dense\(3\)"
    ):
        nn.Bidirectional(nn.Dense(3))


class Odd(nn.Primitive):
    wrong: str

    def carries(self, x: Any) -> Any:
        return {"h": nn.Variable(x.shape)}

    def forward(self, params: Any, carry: Any, x: Any) -> Any:
        return x if self.wrong == "alone" else ({"h": x[..., :1]}, x)


class Normed(nn.Composite):
    norm: nn.Layer

    def carries(self, x: Any) -> Any:
        return {}

    def forward(self, carry: Any, x: Any) -> Any:
        return carry, self.norm(x)


def test_cells_refused():
    x = jnp.ones((2, 4, 3))
    with raises(
        ValueError, r"a cell must return \(carry, y\), .*; got .*, which becomes float32\[2,3\]"
    ):
        nn.Recurrent(Odd("alone")).init(KEY, x)
    with raises(
        ValueError,
        r"with the shapes and types of the carry that it received; got \{h: float32\[2,3\]\}",
    ):
        nn.Recurrent(Odd("shape")).init(KEY, x)
    with raises(
        ValueError, r"a cell may keep no state besides its carry, but Normed.*some: 'norm'; put"
    ):
        nn.Recurrent(Normed(nn.BatchNorm())).init(KEY, x)
