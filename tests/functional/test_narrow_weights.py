"""Products with narrow weights: against float64, their derivatives, under vmap, and int8 layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.linear import SIZE, Int8Weight, fused_product, is_fused, linear, product
from tests.near import assert_near

N, M = 256, SIZE // 256


def drawn(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def narrow(dtype, axis):
    w = drawn(N, M) if axis == 0 else drawn(M, N)
    return jnp.asarray(np.clip(np.round(30 * w), -127, 127) if dtype == "int8" else w, dtype)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_as_float64(dtype, axis):
    w = narrow(dtype, axis)
    x = jnp.asarray(drawn(2 if dtype == "int8" else 1, N))
    assert is_fused(x, w, axis)
    exact = np.asarray(x, np.float64) @ np.moveaxis(np.asarray(w, np.float64), axis, 0)
    y = jax.jit(fused_product, static_argnums=2)(x, w, axis)
    assert y.dtype == jnp.float32
    # N float32 additions in parts, of terms up to max |x| max |w|
    bound = 40 * np.finfo(np.float32).eps * np.abs(x).max() * np.abs(np.asarray(w, float)).max()
    assert np.abs(y - exact).max() < bound


def test_small_products_and_many_rows_take_the_usual_form():
    w = narrow("bfloat16", 0)
    x = jnp.ones((1, N))
    assert is_fused(x, w, 0)
    assert not is_fused(jnp.ones((2, N)), w, 0)
    assert not is_fused(jnp.ones((9, N)), w.astype(jnp.int8), 0)
    assert not is_fused(x, w[:, :-1], 0)  # below the least size
    assert not is_fused(x[:, :-1], jnp.ones((N - 1, 2 * M), jnp.bfloat16), 0)
    assert not is_fused(x, w.astype(jnp.float32), 0)


def test_derivatives_and_vmap_are_those_of_the_product():
    w, x = narrow("bfloat16", 0), jnp.asarray(drawn(1, N))

    def plain(x, w):
        return jnp.sum(jnp.sin(x @ w.astype(jnp.float32)))

    def fused(x, w):
        return jnp.sum(jnp.sin(fused_product(x, w, 0)))

    found = jax.jit(jax.grad(fused, (0, 1)))(x, w)
    wanted = jax.jit(jax.grad(plain, (0, 1)))(x, w)
    assert [a.dtype.name for a in found] == ["float32", "bfloat16"]
    for a, b in zip(found, wanted, strict=True):
        # 2**-7 is a unit in the last place of bfloat16, to which nearly equal sums are rounded.
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        np.testing.assert_allclose(a, b, rtol=2**-7, atol=1e-4)
    q = narrow("int8", 1)
    gradient = jax.grad(lambda x: jnp.sum(fused_product(x, q, 1)))(x)
    assert_near(gradient[0], np.asarray(q, np.float32).sum(0))
    xs = np.round(drawn(5, 1, N))  # integers, of which every sum is exact
    rows = jax.vmap(lambda x: fused_product(x, q, 1))
    np.testing.assert_array_equal(jax.jit(rows)(xs), xs @ np.asarray(q, np.float32).T)
    assert "slice" not in str(jax.make_jaxpr(rows)(xs))  # one product of all rows


def test_a_program_has_no_wide_copy_of_the_weights():
    w = jnp.zeros((N, 16 * M), jnp.int8)
    for x in (jnp.ones((1, N)), jnp.ones((3, N))):
        weight = Int8Weight(w, jnp.ones((1, 16 * M)))
        memory: Any = jax.jit(product).lower(x, weight).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 2 * w.size  # float32 needs 4 * w.size


def test_a_float32_input_takes_the_same_form():
    w, x = narrow("bfloat16", 0), jnp.asarray(drawn(1, N))
    compiled = jax.jit(linear).lower(x, w).compile()
    memory: Any = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 2 * w.size  # float32 needs 4 * w.size
    assert compiled(x, w).dtype == jnp.float32
    np.testing.assert_allclose(compiled(x, w), x @ w.astype(jnp.float32), atol=2e-4)
    double: Any = np.ones((1, N))
    assert not is_fused(double, w, 0)  # float64 keeps its accuracy
    assert linear(x.astype(jnp.bfloat16), w.astype(jnp.float16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_int8_layers_as_their_weights(rows):
    """The layer multiplies by q and then by the scale; the weight is their product."""
    weight = Int8Weight(narrow("int8", 0), jnp.asarray(np.abs(drawn(1, M))) + 1)
    x, b = jnp.asarray(drawn(rows, N)), jnp.asarray(drawn(M))
    wanted = np.asarray(x, np.float64) @ np.asarray(weight.whole(), np.float64) + np.asarray(b)
    np.testing.assert_allclose(linear(x, weight, b), wanted, rtol=1e-4, atol=0.05)
    half = linear(x.astype(jnp.bfloat16), weight, b)
    assert half.dtype == jnp.bfloat16
    scale = np.abs(wanted).max()
    assert np.abs(half.astype(jnp.float32) - wanted).max() < 0.02 * scale


def test_a_tied_table():
    net = nn.Embedding(512, N)
    params = net.init(jax.random.key(0), jnp.array([3]))
    small, numbers = nn.quantize(net, params)
    x = jnp.asarray(drawn(1, 1, N))
    logits = jax.jit(lambda p: small.apply(p, x, method="attend"))(numbers)
    table = np.asarray(numbers["w"]["q"], np.float64) * np.asarray(numbers["w"]["scale"])
    np.testing.assert_allclose(logits[0, 0], np.asarray(x)[0, 0] @ table.T, atol=1e-5)
    found = jax.jit(small.apply)(numbers, jnp.array([5, 600]))
    np.testing.assert_allclose(found[0], table[5], rtol=1e-6)
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", [nn.GRUCell(N), nn.LSTMCell(N)])
def test_the_gradient_of_one_step_of_one_sequence(cell, dtype):
    """The product of a hidden state and a tangent of narrow weights is transposed."""
    net, x = nn.Recurrent(cell), jnp.asarray(drawn(1, 1, N), dtype)
    params = net.init(jax.random.key(0), x.astype(jnp.float32))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)

    @jax.jit
    def gradient(params, x):
        return jax.grad(lambda p: jnp.sum(net.apply(p, x).astype(jnp.float32) ** 2))(params)

    for a, b in zip(*(jax.tree.leaves(gradient(p, x)) for p in (half, wide)), strict=True):
        assert a.dtype == jnp.bfloat16
        # Three roundings to bfloat16: of products, of gates, and of the gradient.
        np.testing.assert_allclose(
            a.astype(jnp.float32), b, atol=3 * 2**-8 * float(jnp.abs(b).max())
        )
