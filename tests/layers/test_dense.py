"""Dense: against flax, equinox and haiku on the same weights, and float64 numpy."""

import equinox as eqx
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals

SHAPES = [(4,), (5, 4), (1, 4), (0, 4), (2, 3, 5, 4), (2, 1, 3, 2, 1, 4)]


def weights(n: int, features: int, bias: bool = True) -> dict[str, jax.Array]:
    params = {"w": normals(1, n, features)}
    return params | {"b": normals(2, features)} if bias else params


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_as_flax(shape, bias):
    net, peer = nn.Dense(3, bias=bias), flax.linen.Dense(3, use_bias=bias)

    def theirs(params, x):
        names = {"w": "kernel", "b": "bias"}
        return peer.apply({"params": {names[k]: p for k, p in params.items()}}, x)

    assert_agree(net.apply, theirs, weights(4, 3, bias), normals(0, *shape))


def test_as_haiku():
    peer = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(x)))
    assert_agree(
        nn.Dense(3).apply,
        lambda params, x: peer.apply({"linear": params}, x),
        weights(4, 3),
        normals(0, 2, 5, 4),
    )


def test_as_equinox():
    def theirs(params, x):
        peer = eqx.nn.Linear(4, 3, key=KEY)
        peer = eqx.tree_at(lambda p: (p.weight, p.bias), peer, (params["w"].T, params["b"]))
        return jax.vmap(peer)(x)

    assert_agree(nn.Dense(3).apply, theirs, weights(4, 3), normals(0, 5, 4))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool"])
def test_integers_take_the_type_of_the_parameters(dtype):
    params = weights(4, 3)
    x = jnp.asarray(np.arange(20).reshape(5, 4) % 3, dtype)
    y = nn.Dense(3).apply(params, x)
    assert y.dtype == jnp.float32
    expected = np.asarray(x, np.float64) @ np.asarray(params["w"], np.float64) + params["b"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)  # float32 sums of four terms


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_output_has_the_type_of_the_input(dtype):
    params, x = weights(4, 3), normals(0, 5, 4).astype(dtype)
    y = nn.Dense(3).apply(params, x)
    assert y.dtype == x.dtype
    expected = np.asarray(x, np.float64) @ np.asarray(params["w"], np.float64) + params["b"]
    # Each of w, b, the product and the sum is rounded once; the terms are of size 4 at most.
    np.testing.assert_allclose(
        np.asarray(y, np.float64), expected, atol=16 * float(jnp.finfo(dtype).eps)
    )


def test_numpy_inputs_and_an_empty_last_axis():
    params, x = weights(4, 3), np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(nn.Dense(3).apply(params, x), nn.Dense(3).apply(params, 1 * x))
    net = nn.Dense(3)
    empty = jnp.ones((2, 0))
    assert net.apply(net.init(KEY, empty), empty).tolist() == [[0, 0, 0], [0, 0, 0]]
