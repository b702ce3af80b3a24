"""Dense: against flax, equinox and haiku on the same weights, and float64 numpy."""

import itertools
import re

import equinox as eqx
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
from jaxnn import parallel
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


# ---- on several axes ----


@pytest.mark.parametrize(
    ("features", "axis"),
    [((2, 3), -1), (3, (1, -1)), ((3,), (0, -1)), ((2, 1, 2), (0,)), (2, 1)],
    ids=str,
)
def test_on_axes_as_flax(features, axis):
    net, peer = nn.Dense(features, axis=axis), flax.linen.DenseGeneral(features, axis)
    x = normals(0, 3, 2, 4)
    params = jax.tree.map(lambda p: normals(1, *p.shape), net.spec(x))

    def theirs(params, x):
        return peer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)

    assert_agree(net.apply, theirs, params, x)


def test_the_axes_of_w_are_in_the_order_given():
    """As in numpy.tensordot; flax sorts them."""
    x, w = normals(0, 3, 2, 4), normals(1, 4, 3, 5)
    y = nn.Dense(5, bias=False, axis=(-1, 0)).apply({"w": w}, x)
    wanted = np.tensordot(np.asarray(x), np.asarray(w), ((2, 0), (0, 1)))
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)  # float32 sums of twelve terms


@pytest.mark.parametrize(
    ("net", "fan"), [(nn.Dense(7), 16), (nn.Dense((8, 64)), 16), (nn.Dense(7, axis=(-2, -1)), 128)]
)
def test_the_fan_is_the_number_of_inputs(net, fan):
    w = net.spec(jnp.zeros((2, 8, 16)))["w"]
    assert w.init.fan(w.shape) == fan
    flat = net.init(KEY, jnp.zeros((2, 8, 16)))["w"].reshape(-1)
    assert float(np.abs(flat).max()) <= 2 * np.sqrt(2 / fan) / 0.8796  # cut at two deviations


def test_an_initializer_that_names_its_axes_keeps_them():
    own = nn.variance_scaling(2.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))
    assert nn.Dense((8, 64), w_init=own).spec(jnp.zeros((2, 16)))["w"].init == own


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Dense(()), "Dense.features must be an int >= 1 or a tuple of them, got ()"),
        (lambda: nn.Dense((2, 0)), "a tuple of them, got (2, 0)"),
        (
            lambda: nn.Dense(2, axis=()),
            "Dense.axis must be an axis or a tuple of axes, such as -1 or (-2, -1), got ()",
        ),
    ],
)
def test_features_and_axes_that_cannot_be(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


@pytest.mark.parametrize("axis", [2, (0, -2), (-3,)])
def test_an_axis_that_is_not_there_or_comes_twice(axis):
    text = f"axis={axis} must name distinct axes that float32[2,4] has"
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.Dense(3, axis=axis).init(KEY, jnp.ones((2, 4)))


def primitives(function, *arguments):
    """Return the equations, also those of calls that later versions of JAX inline at last."""

    def equations(jaxpr):
        for equation in jaxpr.eqns:
            inner = list(jaxprs_in_params(equation.params))
            yield from itertools.chain.from_iterable(map(equations, inner)) if inner else [equation]

    return [(e.primitive.name, e) for e in equations(jax.make_jaxpr(function)(*arguments).jaxpr)]


def test_on_the_last_axis_it_is_one_product_of_matrices_and_one_sum():
    found = primitives(nn.Dense(3).apply, weights(4, 3), normals(0, 2, 5, 4))
    names = [name for name, _ in found if name not in ("reshape", "broadcast_in_dim")]
    assert names == ["dot_general", "add"]
    (product,) = [e for name, e in found if name == "dot_general"]
    assert [v.aval.shape for v in product.invars] == [(10, 4), (4, 3)]


def test_gradients_of_many_batch_axes_are_products_of_matrices():
    # XLA's CPU compiler copies what a product has in more axes.
    x = normals(0, 2, 5, 7, 4)
    found = primitives(jax.grad(lambda *a: nn.Dense(3).apply(*a).sum(), (0, 1)), weights(4, 3), x)
    products = [e for name, e in found if name == "dot_general"]
    assert len(products) == 3
    assert all(v.aval.ndim == 2 for product in products for v in product.invars)


def test_a_sequence_split_over_a_mesh_stays_split():
    mesh, net = parallel.abstract_mesh(data=2, model=4), nn.Dense(6)

    def placed(a, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

    x = placed(jax.ShapeDtypeStruct((8, 16, 4), jnp.float32), "data", "model")
    params = jax.tree.map(placed, weights(4, 6))
    step = jax.jit(jax.grad(lambda params, x: jnp.sum(net.apply(params, x) ** 2)))
    exchanged = parallel.collectives(step.lower(params, x).compile())
    assert set(exchanged) == {"all-reduce"}
    # The gradients, over one axis of the mesh and then the other.
    sums = exchanged["all-reduce"]
    assert sums.bytes == sums.times * 4 * (4 * 6 + 6)
