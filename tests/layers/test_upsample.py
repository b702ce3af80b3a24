"""Upsample, by the formula; against torch in `test_convolution`."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, normals


def test_nearest_keeps_the_type():
    y = nn.Upsample((2,)).apply({}, jnp.array([[1], [2]]))
    assert y.dtype == jnp.int32 and y[:, 0].tolist() == [1, 1, 2, 2]
    assert nn.Upsample((2,), method="linear").apply({}, jnp.array([[1], [2]])).dtype == jnp.float32


def test_cubic_is_the_kernel_of_keys():
    """Far from the ends: weights of the four nearest places at a quarter, by the formula."""

    def keys(t: float, a: float = -0.5) -> float:
        t = abs(t)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        return near if t <= 1 else a * (t**3 - 5 * t**2 + 8 * t - 4)

    x = normals(0, 6, 1)
    y = nn.Upsample((2,), method="cubic").apply({}, x)
    wanted = sum(keys(2.25 - i) * x[i, 0] for i in range(1, 5))  # y[5] lies at (5 + 0.5) / 2 - 0.5
    np.testing.assert_allclose(y[5, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Upsample(2), "write Upsample(factor=(2, 2)) for images"),  # type: ignore
        (
            lambda: nn.Upsample((2,), (4,)),
            "takes either a factor or a size, got factor=(2,), size=(4,)",
        ),
        (lambda: nn.Upsample((2,), method="area"), "must be 'nearest', 'nearest_floor', 'linear',"),  # type: ignore
        (
            lambda: nn.Upsample((2,), align_corners=True),
            "method with align_corners=True must be 'linear' or 'bicubic', got 'nearest'",
        ),
    ],
)
def test_a_layer_that_cannot_be(make: Any, text: str):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (jnp.ones((4, 4)), "expected an input of shape (..., *axes, channels)"),
        (
            jnp.ones((2, 0, 4, 1)),
            "at least one element, got float32[2,0,4,1]",
        ),
    ],
    ids=str,
)
def test_an_input_that_cannot_be(x: jax.Array, text: str):
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.Upsample(size=(2, 2)).init(KEY, x)
