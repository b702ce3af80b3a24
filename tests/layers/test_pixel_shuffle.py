"""PixelShuffle and its inverse, by the formula; against torch in `test_convolution`."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, normals

IMAGE = jnp.ones((2, 4, 4, 6))


@pytest.mark.parametrize("factor", [(3,), (2, 3), (2, 1, 3)])
def test_pixel_shuffle_and_its_inverse(factor: tuple[int, ...]):
    k = len(factor)
    x = normals(0, 2, *[2] * k, 2 * int(np.prod(factor)))
    y = nn.PixelShuffle(factor).apply({}, x)
    assert y.shape == (2, *[2 * f for f in factor], 2)
    np.testing.assert_array_equal(nn.PixelUnshuffle(factor).apply({}, y), x)
    x, y = np.asarray(x), np.asarray(y)
    for place in np.ndindex(*y.shape[1:]):  # the formula, place by place
        *axes, c = place
        channel = c
        for n, f in zip(axes, factor, strict=True):
            channel = channel * f + n % f
        coarse = [n // f for n, f in zip(axes, factor, strict=True)]
        assert y[(0, *place)] == x[(0, *coarse, channel)]


def test_an_empty_batch():
    assert nn.PixelUnshuffle((2, 1)).apply({}, jnp.ones((0, 4, 2, 3))).shape == (0, 2, 2, 6)


def test_the_order_of_channels_is_not_that_of_blocks():
    """`c` counts slowest: other libraries put the block first."""
    x = jnp.arange(8.0).reshape(1, 1, 8)
    assert nn.PixelShuffle((2, 2)).apply({}, x)[0, 0].tolist() == [0.0, 4.0]


@pytest.mark.parametrize("factor", [2, (2, 0), (), (2,) * 4])
def test_a_factor_that_cannot_be(factor: Any):
    for layer in (nn.PixelShuffle, nn.PixelUnshuffle):
        text = f"got {factor}; write {layer.__name__}(factor=(2, 2)) for images"
        with pytest.raises(ValueError, match=re.escape(text)):
            layer(factor)


@pytest.mark.parametrize(
    ("net", "x", "text"),
    [
        (
            nn.PixelShuffle((2, 2)),
            IMAGE,
            "float32[2,4,4,6], 6, must be a multiple of 4",
        ),
        (
            nn.PixelUnshuffle((2, 3)),
            IMAGE,
            "float32[2,4,4,6], (4, 4), must be a multiple of",
        ),
    ],
    ids=str,
)
def test_an_input_that_cannot_be(net: nn.Layer, x: jax.Array, text: str):
    with pytest.raises(ValueError, match=re.escape(text)):
        net.init(KEY, x)
