"""Embeddings: against flax, haiku, equinox and torch on the same table, and ids outside of it."""

from typing import Any

import equinox as eqx
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.fixtures.embedding import BAGS, FILE, MODES, PACKED, SEGMENTS, bag
from tests.fixtures.embedding import IDS as TORCH_IDS
from tests.fixtures.layers import stored
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

IDS = jnp.array([[0, 4, 4], [2, 0, 3]])
TABLE = {"w": normals(1, 5, 3)}
NET = nn.Embedding(5, 3)
FLAX = flax.linen.Embed(5, 3)


def test_as_flax():
    def theirs(params):
        return FLAX.apply({"params": {"embedding": params["w"]}}, IDS)

    assert_agree(lambda params: NET.apply(params, IDS), theirs, TABLE)


def test_as_haiku_and_equinox():
    peer = hk.without_apply_rng(hk.transform(lambda ids: hk.Embed(5, 3)(ids)))
    y = NET.apply(TABLE, IDS)
    assert_near(y, peer.apply({"embed": {"embeddings": TABLE["w"]}}, IDS))
    other = eqx.nn.Embedding(weight=TABLE["w"])
    assert_near(y, jax.vmap(jax.vmap(other))(IDS))


def test_attend_as_flax():
    def theirs(params, x):
        return FLAX.apply({"params": {"embedding": params["w"]}}, x, method="attend")

    assert_agree(
        lambda params, x: NET.apply(params, x, method="attend"), theirs, TABLE, normals(0, 2, 7, 3)
    )


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3, 1)], ids=str)
def test_ids_of_any_shape(shape):
    assert NET.apply(TABLE, jnp.zeros(shape, int)).shape == (*shape, 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
@pytest.mark.parametrize("jit", [False, True])
def test_ids_of_any_integer_type(dtype, jit):
    table = {"w": normals(1, 300, 2)}  # longer than a type of 8 bits counts
    net = nn.Embedding(300, 2)
    ids = np.array([0, 1, 100, 127], dtype)
    apply = jax.jit(net.apply) if jit else net.apply
    np.testing.assert_array_equal(apply(table, ids), np.asarray(table["w"])[ids])


OUTSIDE = [
    *[("int8", n) for n in (5, 127, -1, -5, -6, -128)],
    *[("uint8", n) for n in (5, 255)],
    *[("int32", n) for n in (5, -1, 2**31 - 1, -(2**31))],
    *[("uint32", n) for n in (5, 2**31, 2**32 - 1)],
]


@pytest.mark.parametrize(("dtype", "token"), OUTSIDE)
def test_a_token_outside_gives_nan_and_no_gradient(dtype, token):
    ids = jnp.array([token, 1], dtype)
    with pytest.raises(
        ValueError, match=rf"at 'ids', .*0 \.\. 4, got the token {token}: (write|use) "
    ):
        nn.Sequential(ids=NET).apply({"ids": TABLE}, ids)
    y = jax.jit(NET.apply)(TABLE, ids)
    assert np.isnan(y[0]).all()
    np.testing.assert_array_equal(y[1], TABLE["w"][1])
    gradient = jax.jit(jax.grad(lambda p, ids: NET.apply(p, ids)[1].sum()))(TABLE, ids)["w"]
    np.testing.assert_array_equal(gradient, np.eye(5)[1][:, None] * np.ones(3))


def test_the_table_has_variance_one_over_features():
    # Of 64,000 numbers the standard error of the variance is sqrt(2 / 64000) = 0.0056 of itself.
    w = nn.Embedding(1000, 64).init(KEY, IDS)["w"]
    assert float(jnp.var(w)) == pytest.approx(1 / 64, rel=0.03)


# ---- padding and bags ----


def test_padding_and_bags_as_torch():
    """Outputs, and gradients of table and weights, of all cases in one program."""
    with np.load(FILE) as file:
        saved = dict(file)
    table = {"w": saved["w"]}

    @jax.jit
    def run(table, saved):
        found = {}

        def record(name, call, *inputs):
            y, pull = jax.vjp(call, *inputs)
            found[f"{name} y"] = y
            for i, gradient in enumerate(pull(saved[f"{name} dy"])):
                found[f"{name} d{i}"] = gradient["w"] if isinstance(gradient, dict) else gradient

        record("embedding", lambda p: nn.Embedding(6, 3, padding=2).apply(p, TORCH_IDS), table)
        for i, case in enumerate(BAGS):
            net, packed = bag(*case), case[-1]
            ids, segment_ids = (PACKED, SEGMENTS) if packed else (TORCH_IDS, None)

            def call(params, weights=None, net=net, ids=ids, segment_ids=segment_ids):
                return net.apply(params, ids, weights, segment_ids=segment_ids)

            record(f"bag {i}", call, table)
            if case[0] == "sum":
                record(f"weighted {i}", call, table, saved[f"bag {i} weights"])
        return found

    found = run(table, saved)
    assert_near(found, {name: saved[name] for name in found})


def test_segments_of_zero_are_in_no_bag():
    table, ids = {"w": np.asarray(normals(1, 5, 3))}, np.array([[4, 0, 1], [3, 3, 2]])
    segment_ids = np.array([[1, 7, 0], [0, 0, 0]])
    y = np.asarray(jax.jit(nn.EmbeddingBag(5, 3).apply)(table, ids, segment_ids=segment_ids))
    np.testing.assert_allclose(y[0], (table["w"][4] + table["w"][0]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(y[1], np.zeros(3))
    assert nn.EmbeddingBag(5, 3, "max").apply(table, ids[:, :0]).tolist() == [[0.0] * 3] * 2


def test_a_token_outside_gives_nan_in_its_bag_alone():
    table, ids = {"w": normals(1, 5, 3)}, jnp.array([0, 5, 1, 2, -1])
    segment_ids = jnp.array([1, 1, 2, 2, 0])

    @jax.jit
    def run(table, ids):
        found = []
        for mode in MODES:
            net = nn.EmbeddingBag(5, 3, mode, bags=2)
            found.append(net.apply(table, ids, segment_ids=segment_ids))
            found.append(nn.EmbeddingBag(5, 3, mode).apply(table, ids.reshape(5, 1)))
        return found

    expected = [[True, False], [False, True, False, False, True]] * len(MODES)
    for y, outside in zip(run(table, ids), expected, strict=True):
        np.testing.assert_array_equal(np.isnan(y), np.repeat(np.array(outside)[:, None], 3, 1))


def test_a_known_token_outside_is_refused_where_it_is_in_a_bag():
    net, ids = nn.EmbeddingBag(5, 3), jnp.array([0, 5, 1])
    with pytest.raises(ValueError, match=r"got the token 5: write EmbeddingBag\(6, 3\) for a"):
        net.apply(TABLE, ids)
    y = net.apply(TABLE, ids, segment_ids=jnp.array([1, 0, 1]))
    assert_near(y, (TABLE["w"][0] + TABLE["w"][1]) / 2)


def test_weights_that_are_not_floating():
    net, ids = nn.EmbeddingBag(5, 3, "sum"), jnp.array([0, 1, 2])
    for weights in (jnp.array([2, 0, 1]), jnp.array([True, False, True])):
        y = net.apply(TABLE, ids, weights)
        assert_near(y, jnp.asarray(weights, jnp.float32) @ TABLE["w"][:3])


def test_bags_without_rows_or_tokens():
    net = nn.EmbeddingBag(5, 3, bags=2)
    for shape in ((0, 4), (4, 0)):
        none, run = np.zeros(shape, int), jax.jit(net.apply)
        np.testing.assert_array_equal(
            run(TABLE, none, segment_ids=none), np.zeros((shape[0], 2, 3))
        )


def test_bags_packed_in_several_rows():
    table = {"w": normals(1, 5, 3)}
    ids, segment_ids = jnp.array([[0, 1, 2], [3, 4, 0]]), jnp.array([[2, 2, 1], [1, 3, 2]])

    @jax.jit
    def run(table):
        found = []
        for mode in MODES:
            net = nn.EmbeddingBag(5, 3, mode, bags=2)
            rows = [net.apply(table, ids[i], segment_ids=segment_ids[i]) for i in range(2)]
            found.append((net.apply(table, ids, segment_ids=segment_ids), jnp.stack(rows)))
        return found

    for y, rows in run(table):
        np.testing.assert_array_equal(y, rows)


@pytest.mark.parametrize("net", [nn.Embedding(7, 2, padding=3), nn.EmbeddingBag(7, 2, padding=3)])
def test_the_padding_row_begins_as_zeros(net):
    w = net.init(KEY, IDS)["w"]
    assert (w[3] == 0).all()
    plain = np.array(nn.Embedding(7, 2).init(KEY, IDS)["w"])
    plain[3] = 0
    assert_near(w, plain)


BAG = nn.EmbeddingBag(5, 3)
WRONG: Any = "median"
REFUSED = [
    (
        lambda: nn.Embedding(5, 3, padding=5),
        "Embedding.padding must be None or an int from 0 to 4, got 5",
    ),
    (lambda: nn.EmbeddingBag(5, 3, padding=-1), "must be None or an int from 0 to 4, got -1"),
    (
        lambda: nn.EmbeddingBag(5, 3, WRONG),
        "EmbeddingBag.mode must be 'sum', 'mean', or 'max', got 'median'",
    ),
    (lambda: nn.EmbeddingBag(5, 3, bags=0), "EmbeddingBag.bags must be None or an int >= 1, got 0"),
    (
        lambda: BAG.apply(TABLE, IDS > 1),
        "the input must be an array of integer tokens, got bool[2,3]",
    ),
    (
        lambda: BAG.apply(TABLE, IDS[0, 0]),
        "expected an input of shape (..., n), or use nn.Embedding, got int32[]",
    ),
    (
        lambda: BAG.apply(TABLE, IDS, segment_ids=IDS[0]),
        "segment_ids must be of the shape (..., T) of the sequence, (2, 3), got int32[3]",
    ),
    (
        lambda: BAG.apply(TABLE, IDS, segment_ids=IDS * 1.0),
        "segment_ids must be integers: 0 for padding",
    ),
    (
        lambda: BAG.apply(TABLE, IDS, jnp.ones((2, 3))),
        "weights must have the shape of ids, in EmbeddingBag(..., mode='sum'); got float32[2,3]",
    ),
    (
        lambda: nn.EmbeddingBag(5, 3, bags=2).apply(TABLE, IDS),
        "EmbeddingBag(bags=2) needs segment_ids; write net.apply(params, ids, "
        "segment_ids=segment_ids)",
    ),
]


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=range(len(REFUSED)))
def test_refused(call, text):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert text in str(error.value)


def test_a_row_of_weight_zero_has_no_effect():
    """NaN in a row whose weight is 0, or at padding; a finite row's weight keeps its gradient."""
    table = np.array([[1.0], [np.nan], [np.inf], [5.0]], np.float32)
    ids, segment_ids = np.array([[0, 1, 2, 3]]), np.array([[1, 1, 1, 1]])

    @jax.jit
    def run(table, weights, segment_ids):
        return nn.EmbeddingBag(4, 1, "sum").apply({"w": table}, ids, weights, segment_ids).sum()

    weights = np.array([[2.0, 0.0, 0.0, 0.0]], np.float32)
    value, gradients = jax.jit(jax.value_and_grad(run, (0, 1)))(table, weights, segment_ids)
    by_table, by_weights = map(np.asarray, gradients)
    assert value == 2
    assert by_table[:, 0].tolist() == [2, 0, 0, 0]
    assert by_weights[0, [0, 3]].tolist() == [1, 5] and np.isfinite(by_weights).all()
    behind = np.array([[2.0, np.nan, np.inf, 1.0]], np.float32)
    assert run(table, behind, np.array([[1, 0, 0, 1]])) == 7


def test_rows_longer_than_max_norm_are_shortened_as_in_torch():
    a = stored("max norm")
    net, ids = nn.Embedding(6, 4, max_norm=1.9), jnp.array([[0, 2, 5], [1, 3, 4]])
    found = jax.jit(lambda w: net.apply({"w": w}, ids))(a["w"])
    np.testing.assert_allclose(found, a["y"], rtol=1e-6)
