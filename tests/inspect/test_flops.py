"""FLOPs against closed forms worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas
from jax.sharding import PartitionSpec

from jaxnn.inspect import flops


def shaped(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_a_matrix_product_is_2mnk_times_its_batch():
    assert flops(jnp.dot, shaped(5, 7), shaped(7, 3)) == 2 * 5 * 7 * 3
    assert flops(jnp.matmul, shaped(4, 5, 7), shaped(4, 7, 3)) == 4 * 2 * 5 * 7 * 3
    two_axes = flops(lambda x, y: jnp.einsum("abc,bcd->ad", x, y), shaped(2, 3, 4), shaped(3, 4, 5))
    assert two_axes == 2 * 2 * 12 * 5


def test_integer_products_count():
    assert flops(jnp.dot, shaped(5, 7, dtype="int8"), shaped(7, 3, dtype="int8")) == 2 * 5 * 7 * 3


def test_a_grouped_product_meets_each_row_with_one_group():
    given = shaped(8, 5), shaped(4, 5, 3), shaped(4, dtype="int32")
    assert flops(lax.ragged_dot, *given) == 2 * 8 * 5 * 3


def convolve(x, w, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


def test_a_convolution_is_2_output_elements_times_window_times_input_features():
    x, w = shaped(2, 8, 8, 6), shaped(3, 3, 6, 10)
    assert flops(convolve, x, w) == 2 * (2 * 8 * 8 * 10) * (9 * 6)
    strided = flops(lambda x, w: convolve(x, w, window_strides=(2, 2)), x, w)
    assert strided == 2 * (2 * 4 * 4 * 10) * (9 * 6)


def test_a_grouped_convolution_sees_its_groups_features_only():
    x, w = shaped(2, 8, 8, 6), shaped(3, 3, 2, 9)
    grouped = flops(lambda x, w: convolve(x, w, feature_group_count=3), x, w)
    assert grouped == 2 * (2 * 8 * 8 * 9) * (9 * 2)


def test_a_transposed_convolution_costs_what_the_convolution_it_transposes_costs():
    x, w = shaped(2, 4, 4, 6), shaped(2, 2, 6, 10)
    numbers = ("NHWC", "HWIO", "NHWC")
    transposed = flops(
        lambda x, w: lax.conv_transpose(x, w, (2, 2), "VALID", dimension_numbers=numbers), x, w
    )
    assert transposed == 2 * (2 * 4 * 4 * 6) * (4 * 10)  # each input element meets the window once


@pytest.mark.parametrize(("stride", "padding"), [(2, [(2, 2)]), (2, [(1, 1)]), (3, [(2, 3)])])
def test_a_transposed_convolution_counts_its_inputs_whatever_its_output(stride, padding):
    def transposed(x, w):
        numbers = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(
            x, w, (1,), padding, lhs_dilation=(stride,), dimension_numbers=numbers
        )

    x, w = shaped(2, 5, 6), shaped(3, 6, 4)
    assert flops(transposed, x, w) == 2 * (2 * 5 * 3) * (6 * 4)
    size = jax.eval_shape(transposed, x, w).size
    for argument in (0, 1):  # forward and sum, then each gradient as many products again
        gradient = flops(jax.grad(lambda x, w: transposed(x, w).sum(), argument), x, w)
        assert gradient == 2 * (2 * (2 * 5 * 3) * (6 * 4)) + size


def test_the_gradients_of_a_convolution_cost_what_it_costs():
    def loss(x, w):
        return convolve(x, w, window_strides=(2, 2), feature_group_count=3).sum()

    forward = 2 * (2 * 4 * 4 * 9) * (9 * 2)
    counted = flops(jax.grad(loss, (0, 1)), shaped(2, 8, 8, 6), shaped(3, 3, 2, 9))
    assert counted == 3 * forward + 2 * 4 * 4 * 9


def test_the_published_first_layer_of_resnet_50():
    """118,013,952 multiply-adds of 4.09 G in all (He et al., 2016, as counted by fvcore)."""
    x, w = shaped(1, 224, 224, 3), shaped(7, 7, 3, 64)
    stem = flops(lambda x, w: convolve(x, w, window_strides=(2, 2), padding=[(3, 3), (3, 3)]), x, w)
    assert stem == 2 * 118_013_952


ONE_EACH = [
    *(jnp.exp, jnp.log, jnp.tanh, jnp.sin, jnp.sqrt, lax.rsqrt, jnp.abs, jnp.negative, lax.erf),
    *(lax.logistic, lax.square, lax.cbrt, jnp.exp2, jnp.expm1, jnp.log1p, jnp.floor, jnp.sign),
    *(jax.nn.relu, lambda x: x**3, lambda x: x + 1, lambda x: x * x, lambda x: x / 2, lax.lgamma),
    lambda x: lax.clamp(0.0, x, 1.0),
]


@pytest.mark.parametrize("function", ONE_EACH)
def test_arithmetic_and_transcendentals_are_one_an_output_element(function):
    assert flops(function, shaped(3, 5)) == 15


FREE = [
    *(jnp.transpose, jnp.ravel, lambda x: x.astype("bfloat16"), lambda x: x > 0, jnp.isfinite),
    *(lambda x: jnp.where(x > 0, x, 0), lambda x: x[1:], lambda x: jnp.pad(x, 1), jnp.sort),
    *(lambda x: x.argmax(), lambda x: jnp.arange(5) + 1, lambda x: x.at[0].set(1.0)),
    lambda x: x[jnp.array([0, 2])],
]


@pytest.mark.parametrize("function", FREE)
def test_moves_comparisons_casts_and_integers_are_free(function):
    assert flops(function, shaped(3, 5)) == 0


def test_a_reduction_is_its_input():
    for reduce in (jnp.sum, jnp.max, jnp.prod, lambda x: jnp.cumsum(x, 1)):
        assert flops(reduce, shaped(3, 5)) == 15
    assert flops(jnp.mean, shaped(3, 5)) == 15 + 1
    assert flops(lambda x: x.at[jnp.array([0, 0])].add(x[:2]), shaped(3, 5)) == 10


def test_softmax():
    # maximum, its clip at -inf, difference, exponential, sum, quotient
    assert flops(jax.nn.softmax, shaped(3, 5)) == 15 + 3 + 15 + 15 + 15 + 15


def test_pooling_is_the_window_for_each_output_element():
    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID")

    assert flops(pool, shaped(8, 6)) == 8 * 6
    gradient = flops(jax.grad(lambda x: pool(x).sum()), shaped(8, 6))
    assert gradient == 8 * 6 + 12 + 8 * 6  # forward, sum, scatter


def test_fourier_transforms():
    assert flops(jnp.fft.fft, shaped(3, 8, dtype="complex64")) == 3 * 5 * 8 * 3
    assert flops(jnp.fft.rfft, shaped(3, 8)) == 3 * 5 * 8 * 3 / 2
    assert flops(jnp.fft.irfft, shaped(3, 5, dtype="complex64")) == 3 * 5 * 8 * 3 / 2


def body(x):
    return jnp.sin(x) * 2


def test_a_scan_is_its_body_times_its_length():
    looped = flops(
        lambda x: lax.scan(lambda c, _: (body(c), None), x, None, length=7)[0], shaped(5)
    )
    assert looped == 7 * flops(body, shaped(5)) == 7 * 10
    assert flops(lambda x: lax.fori_loop(0, 7, lambda _, c: body(c), x), shaped(5)) == 7 * 10
    assert flops(lambda x: lax.map(body, x), shaped(7, 5)) == 7 * 10


def test_a_while_loop_is_one_turn():
    looped = flops(lambda x: lax.while_loop(lambda c: c.sum() < 9, body, x), shaped(5))
    assert looped == 10 + 5


def test_cond_is_its_dearest_branch():
    branches = [jnp.sin, body, jnp.ravel]
    assert flops(lambda i, x: lax.switch(i, branches, x), shaped(dtype="int32"), shaped(5)) == 10


@jax.custom_jvp
def with_jvp(x):
    return body(x)


@jax.custom_vjp
def with_vjp(x):
    return body(x)


with_jvp.defjvp(lambda x, t: (body(x[0]), t[0]))
with_vjp.defvjp(lambda x: (body(x), x), lambda x, g: (g,))


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap, lambda f: jax.jit(jax.jit(f))])
@pytest.mark.parametrize("function", [body, with_jvp, with_vjp])
def test_transforms_are_looked_into(wrap, function):
    assert flops(wrap(function), shaped(5)) == 10


def test_vmap_multiplies():
    assert flops(jax.vmap(jnp.dot), shaped(4, 5, 7), shaped(4, 7, 3)) == 4 * 2 * 5 * 7 * 3


def test_a_gradient_of_a_matrix_product_is_two_more():
    def loss(w, x):
        return (x @ w).sum()

    both = flops(jax.grad(loss, (0, 1)), shaped(7, 3), shaped(5, 7))
    assert both == 3 * (2 * 5 * 7 * 3) + 5 * 3


def test_shard_map_counts_every_device():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("i")
    mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec)
    assert flops(mapped, shaped(5)) == 10


def test_a_pallas_kernel_is_its_body_times_the_grid():
    def kernel(x, y):
        y[...] = body(x[...])

    block = pallas.BlockSpec((8, 128), lambda i: (i, 0))
    call = pallas.pallas_call(
        kernel, out_shape=shaped(32, 128), grid=(4,), in_specs=[block], out_specs=block
    )
    assert flops(call, shaped(32, 128)) == 2 * 32 * 128


def test_a_linear_solve_counts_the_solve():
    def solve(x):
        return lax.custom_linear_solve(lambda v: v * 3, x, lambda _, b: body(b), symmetric=True)

    assert flops(solve, shaped(5)) == 10


def test_nothing_is_computed():
    huge = shaped(2**20, 2**20)
    assert flops(jnp.dot, huge, huge) == 2 * 2**60
    assert flops(jnp.exp, np.zeros(4, np.float32)) == 4


def test_keyword_arguments():
    assert flops(lambda x, *, scale: x * scale, shaped(3), scale=shaped()) == 3


def test_attention_has_two_products_and_a_softmax():
    b, t, h, d = 2, 6, 3, 4
    q = shaped(b, t, h, d)
    counted = flops(jax.nn.dot_product_attention, q, q, q)
    scores = b * h * t * t
    products = 2 * (2 * scores * d)
    assert products < counted < products + 8 * scores
    assert math.isclose(counted, products + 6 * scores, rel_tol=0.1)  # scaling, softmax
