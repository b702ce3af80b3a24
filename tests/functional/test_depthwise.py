"""Depthwise convolutions on a CPU: equal to XLA's, and never computed by XLA's convolution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import jaxnn as nn
from jaxnn.functional.convolution import LAYOUTS, PRODUCTS, convolution, transposed_convolution


@st.composite
def kinds(draw):
    """Shapes of x and of a kernel, and the numbers of a convolution along each axis."""
    axes = draw(st.integers(1, 3))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    window, dilation = numbers(1, 3), numbers(1, 2)
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    sizes = [span + more for span, more in zip(spans, numbers(0, 4), strict=True)]
    channels, several = draw(st.integers(2, 3)), draw(st.integers(1, 2))
    padding = tuple(zip(numbers(0, 2), numbers(0, 2), strict=True))
    shapes = (2, *sizes, channels), (*window, 1, channels * several)
    return draw(st.booleans()), *shapes, numbers(1, 3), dilation, padding


def of_xla(x, w, transposed, stride, dilation, padding):
    """XLA's convolution; a transposed one has holes in its input and a flipped kernel."""
    axes = w.ndim - 2
    if transposed:
        w = jnp.flip(w, tuple(range(axes)))
        reach = [(k - 1) * d for k, d in zip(w.shape, dilation, strict=False)]
        padding = [(r - a, r - b) for r, (a, b) in zip(reach, padding, strict=True)]
    image, kernel = LAYOUTS[axes]
    return lax.conv_general_dilated(
        x,
        w,
        (1,) * axes if transposed else stride,
        padding,
        lhs_dilation=stride if transposed else None,
        rhs_dilation=dilation,
        dimension_numbers=(image, kernel, image),
        feature_group_count=x.shape[-1],
    )


def derivatives(function, x, w):
    """Results, gradients, derivatives of gradients, and gradients of several images and kernels."""
    weights = np.cos(np.arange(math.prod(jax.eval_shape(function, x, w).shape)))

    def value(x, w):
        y = function(x, w)
        return jnp.sum(jnp.sin(y) * weights.reshape(y.shape))

    gradients = jax.grad(value, (0, 1))
    lanes = jax.vmap(gradients, (None, 0))
    images = jax.vmap(lanes, (1, None), 1)
    return (
        function(x, w),
        jax.jvp(gradients, (x, w), (jnp.cos(x), jnp.sin(w))),
        lanes(x, jnp.stack([w, w / 2])),
        images(jnp.stack([x, x / 2], 1), jnp.stack([w, w / 2])),
    )


def check(kind):
    transposed, shape, kernel, stride, dilation, padding = kind
    x, w = np.cos(np.arange(math.prod(shape))), np.sin(np.arange(math.prod(kernel)))

    def ours(x, w):
        function = transposed_convolution if transposed else convolution
        options = {"stride": stride, "dilation": dilation, "groups": shape[-1]}
        return function(x, w, padding=padding, **options)

    def other(x, w):
        return of_xla(x, w, transposed, stride, dilation, padding)

    with jax.enable_x64(True):

        @jax.jit
        def both(x, w):
            return [derivatives(function, x, w) for function in (ours, other)]

        found, expected = both(x.reshape(shape), w.reshape(kernel))
    for one, true in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, true, rtol=0, atol=1e-13 * max(1, np.abs(true).max()))


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(kinds())
def test_any_convolution_is_that_of_xla_with_all_derivatives(kind):
    transposed, shape, kernel, strides, dilations, padding = kind
    lengths = [
        (n - 1) * s + (k - 1) * d + 1 - sum(pair)
        for n, k, s, d, pair in zip(shape[1:], kernel, strides, dilations, padding, strict=False)
    ]
    assume(not transposed or min(lengths) > 0)  # of the output
    check(kind)


@pytest.mark.parametrize(
    "kind",
    [
        (False, (2, 7, 6, 3), (3, 2, 1, 6), (2, 1), (1, 2), ((2, 0), (1, 1))),
        (True, (2, 70, 2), (3, 1, 2), (2,), (1,), ((0, 1),)),
    ],
)
def test_convolutions_are_those_of_xla_with_all_derivatives(kind):
    check(kind)


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: nn.Repeat(net, 2)], ids=["", "loop"])
def test_no_depthwise_convolution_or_gradient_is_computed_by_xla(wrap):
    net = nn.Sequential(
        wrap(nn.Residual(nn.Sequential(nn.DepthwiseConv((3, 3)), nn.Conv(4, (1, 1))))),
        nn.DepthwiseConv((2, 2), 2, stride=2),
    )
    x = jnp.ones((2, 6, 6, 4))
    params = net.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(net.apply(params, x) ** 2)))
    text = gradient.lower(params).as_text()
    assert "feature_group_count = 1 : i64" in text  # of the convolution with a window of 1
    assert text.count("group_count = ") == text.count("group_count = 1 : i64")


def test_large_windows_and_one_group_are_left_to_xla():
    def names(window, groups):
        x, w = jnp.ones((1, 80, 2)), jnp.ones((window, 2 // groups, 2))
        jaxpr = jax.make_jaxpr(lambda x, w: convolution(x, w, groups=groups))(x, w).jaxpr
        return {equation.primitive.name for equation in jaxpr.eqns}

    assert "convolution" in names(PRODUCTS, 2)
    assert "conv_general_dilated" in names(PRODUCTS + 1, 2) & names(3, 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_are_summed_in_float32(dtype):
    # 1,000 images of ones: in a narrow type, a sum of ones would stop at 256 or 2048.
    x, w = jnp.ones((5000, 3, 2), dtype), jnp.ones((3, 1, 4), dtype)
    value = lambda x, w: jnp.sum(convolution(x, w, groups=2, padding="valid").astype("float32"))  # noqa: E731
    dx, dw = jax.grad(value, (0, 1))(x, w)
    assert dx.dtype == dw.dtype == dtype
    np.testing.assert_array_equal(dw, jnp.full(w.shape, 5000, dtype))
    np.testing.assert_array_equal(dx, jnp.full(x.shape, 2, dtype))


@pytest.mark.parametrize(("dtype", "number"), [("int8", 100), ("int32", 2**25 + 1)])
def test_integers_are_summed_as_integers(dtype, number):
    # 3 * 100 wraps around in int8, and float32 has no 3 * (2**25 + 1).
    x = jnp.full((1, 5, 2), number, dtype)
    y = convolution(x, jnp.ones((3, 1, 2), dtype), groups=2, padding="valid")
    expected = np.full((1, 3, 2), number, dtype) * np.array(3, dtype)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, expected)


def test_an_empty_batch_and_complex_numbers():
    w = jnp.ones((3, 1, 2)) * 1j
    value = lambda x, w: jnp.sum(convolution(x, w, groups=2)).real  # noqa: E731
    assert convolution(jnp.zeros((0, 5, 2)), jnp.ones((3, 1, 2)), groups=2).shape == (0, 5, 2)
    dw = jax.grad(lambda w: jnp.sum(convolution(jnp.zeros((0, 5, 2)), w, groups=2)))(w.real)
    np.testing.assert_array_equal(dw, jnp.zeros((3, 1, 2)))
    found = jax.grad(value)(jnp.ones((1, 5, 2)) * (1 + 1j), w)
    np.testing.assert_array_equal(found[0, :, 0], np.array([2, 3, 3, 3, 2]) * 1j)
