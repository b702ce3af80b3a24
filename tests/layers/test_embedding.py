"""Embedding: against flax, haiku and equinox on the same table, and ids outside of it."""

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
    y = jax.jit(NET.apply)(TABLE, ids)
    assert np.isnan(y[0]).all()
    np.testing.assert_array_equal(y[1], TABLE["w"][1])
    gradient = jax.grad(lambda p: NET.apply(p, ids)[1].sum())(TABLE)["w"]
    np.testing.assert_array_equal(gradient, np.eye(5)[1][:, None] * np.ones(3))


def test_the_table_has_variance_one_over_features():
    # Of 64,000 numbers the standard error of the variance is sqrt(2 / 64000) = 0.0056 of itself.
    w = nn.Embedding(1000, 64).init(KEY, IDS)["w"]
    assert float(jnp.var(w)) == pytest.approx(1 / 64, rel=0.03)
