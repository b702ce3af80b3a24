"""Parameters with many uses: values as in the narrow type, gradients as in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.gradients import shared_product, shared_rows, shared_sum
from jaxnn.models import ViT
from tests.derivatives import check_derivatives

KEY = jax.random.key(0)
NARROW = ["bfloat16", "float16"]
SHARED = {"sum": (shared_sum, jnp.add), "product": (shared_product, jnp.multiply)}


def numbers(*shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", SHARED)
def test_values_are_bitwise_those_of_the_type(name, dtype):
    shared, plain = SHARED[name]
    y, parameter = numbers(50, 40, dtype=dtype), numbers(1, 40, seed=1)
    expected = jax.jit(plain)(y, parameter.astype(dtype))
    np.testing.assert_array_equal(jax.jit(shared)(y, parameter), expected)


@pytest.mark.parametrize("name", SHARED)
def test_in_float32_it_is_the_plain_operation(name):
    shared, plain = SHARED[name]
    y, parameter = numbers(5, 4), numbers(1, 4)
    operations = [e.primitive.name for e in jax.make_jaxpr(shared)(y, parameter).eqns]
    assert operations == ["broadcast_in_dim", {"sum": "add", "product": "mul"}[name]]
    np.testing.assert_array_equal(jax.jit(shared)(y, parameter), jax.jit(plain)(y, parameter))
    check_derivatives(shared, y, parameter, order=2)
    indices: Any = np.array([0, 2, 2])
    check_derivatives(lambda table: shared_rows(table, indices), y, order=2)


@pytest.mark.parametrize("dtype", NARROW)
def test_every_derivative_is_there(dtype):
    """Forward, reverse, and twice: of sum((p + table[1])**2 * p), by hand."""

    def f(p):
        rows = shared_rows(p, jnp.array([1, 1]))
        return jnp.sum(shared_product(jnp.square(shared_sum(rows, p)), p).astype(jnp.float32))

    p = jnp.array([1.0, 2.0], dtype)  # f = (p1 + p0)**2 * p0 + (2 * p1)**2 * p1
    gradient = [(2 + 1) ** 2 + 2 * (2 + 1) * 1, 2 * (2 + 1) * 1 + 12 * 2**2]
    hessian = [[4 * (2 + 1) + 2 * 1, 2 * (2 + 1) + 2 * 1], [2 * (2 + 1) + 2 * 1, 2 * 1 + 24 * 2]]

    @jax.jit
    def derivatives(p):
        twice = (jax.jacfwd, jax.jacrev), (jax.jacfwd, jax.jacfwd), (jax.jacrev, jax.grad)
        return [jax.grad(f)(p), jax.jacfwd(f)(p)], [one(other(f))(p) for one, other in twice]

    first, second = derivatives(p)
    for found in first:
        np.testing.assert_array_equal(found, gradient)
    for found in second:
        np.testing.assert_array_equal(found, hessian)


@pytest.mark.parametrize("dtype", NARROW)
def test_lanes_of_vmap_are_uses_too(dtype):
    """4,096 lanes with one parameter: each adds 1, where a sum in the type stops before."""
    n = 4096

    def total(f):
        return lambda p: jnp.sum(jax.vmap(lambda i: f(p, i))(jnp.arange(n)).astype(jnp.float32))

    def one(i):
        return jnp.full((1, 1), 1, dtype) + 0 * i.astype(dtype)

    functions = (
        lambda p, i: shared_sum(one(i), p),
        lambda p, i: shared_product(one(i), p),
        lambda p, i: shared_rows(p.astype(dtype), 0 * i),
    )
    slopes = jax.jit(lambda p: [jax.grad(total(f))(p) for f in functions])
    assert [slope.item() for slope in slopes(np.zeros((1, 1), "f"))] == [n] * 3


class Counter(nn.Primitive):
    """A cell whose output is x + b: a cell of another structure than this library's."""

    def carries(self, x):
        return {"h": nn.Variable(x.shape, dtype=x.dtype)}

    def parameters(self, carry, x):
        return {"b": nn.Param(x.shape[-1:])}

    def forward(self, params, carry, x):
        y = x + params["b"].astype(x.dtype)
        return {"h": y}, y


class Tied(nn.Composite):
    """One layer, called many times."""

    inner: nn.Layer
    calls: int

    def forward(self, x):
        return jnp.stack([self.inner(x) for _ in range(self.calls)])


def own(net, params, x, dtype):
    half = jax.tree.map(lambda a: a.astype(dtype), (params, x))
    return net, *half


def under_precision(net, params, x, dtype):
    return nn.Precision(net, dtype), params, x


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("way", [own, under_precision])
@pytest.mark.parametrize(
    ("net", "shape", "uses"),
    [
        (nn.Recurrent(Counter()), (1, 4096, 1), 4096),
        (nn.Dense(1), (64, 64, 1), 4096),
        (nn.Einsum("...n,nm->...m", (1, 1)), (64, 64, 1), 4096),
        (nn.PatchEmbedding(1, 1), (1, 64, 64, 1), 4096),
        (nn.LearnedPositions(1), (64, 64, 1, 1), 4096),
    ],
    ids=["steps of a scan", "Dense", "Einsum", "PatchEmbedding", "LearnedPositions"],
)
def test_a_gradient_counts_its_uses(net, shape, uses, way, dtype):
    """Of y = ... + b, summed: exactly the number of outputs, up to one rounding to the type."""
    x = np.zeros(shape, np.float32)

    @jax.jit
    def gradient():
        wrapped, params, inputs = way(net, net.init(KEY, x), x, dtype)
        return jax.grad(lambda p: jnp.sum(wrapped.apply(p, inputs).astype(jnp.float32)))(params)

    found = max(float(np.max(leaf)) for leaf in jax.tree.leaves(gradient()))
    np.testing.assert_allclose(found, uses, rtol=float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("way", [own, under_precision])
def test_a_gradient_counts_the_calls_of_a_layer(way):
    """Each adds 1, to a sum of bfloat16 only as far as 256."""
    net, x = Tied(nn.LayerScale(nn.ones()), 300), np.ones(1, np.float32)
    params = net.init(KEY, x)
    net, params, x = way(net, params, x, "bfloat16")
    grads = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, x).astype(jnp.float32))))(params)
    np.testing.assert_allclose(float(grads["inner"]["scale"][0]), 300, rtol=2.0**-8)


def test_the_token_of_a_vision_transformer_has_the_gradient_of_float32():
    """One token for 64 x 64 images; the head starts at 0, and is drawn here."""
    net = ViT(image=4, patch=2, layers=1, width=8, num_heads=2).network(outputs=1)
    x = np.tile(numbers(1, 1, 4, 4, 1), (64, 64, 1, 1, 1))
    params = jax.jit(net.init)(KEY, x)
    params["head"] = jax.tree.map(lambda a: numbers(*a.shape, seed=3), params["head"])

    def gradient(net):
        def loss(params):
            return jnp.mean(net.apply(params, x).astype(jnp.float32))

        return np.asarray(jax.jit(jax.grad(loss))(params)["token"]["w"])

    expected = gradient(net)
    assert abs(gradient(nn.Precision(net)) - expected).max() / abs(expected).max() < 0.03


def test_what_is_kept_and_what_is_adapted():
    """`keep`, and a wrapper that makes the weight: both see the parameters' own type."""
    ids = np.zeros(4096, np.int32)

    def gradient(net, params):
        loss = jax.grad(lambda p: jnp.sum(net.apply(p, ids).astype(jnp.float32)))
        return jax.tree.map(np.asarray, jax.jit(loss)(params))

    for inner in (
        nn.LoRA(nn.Sequential(table=nn.Embedding(4, 2)), 2),
        nn.WeightNorm(nn.Sequential(table=nn.Embedding(4, 2))),
    ):
        params = inner.init(KEY, ids)
        expected = gradient(inner, params)
        for net in (nn.Precision(inner), nn.Precision(inner, keep="table")):
            found = gradient(net, params)
            for a, b in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
                np.testing.assert_allclose(b, a, rtol=0.03, atol=0.03 * abs(a).max())
