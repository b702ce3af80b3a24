"""A convolution as a primitive, until the library has one."""

from typing import Any

import jax
from jax import lax

import jaxnn as nn


class Convolution(nn.Primitive):
    """3 x 3 kernels over images (..., rows, columns, channels), padded to the size they come in.

    With a stride of 2, every second place of each axis.
    """

    features: int
    stride: int = 1

    def parameters(self, x: Any) -> dict[str, nn.Param]:
        """A kernel for each channel and feature, and a bias."""
        return {
            "w": nn.Param((3, 3, x.shape[-1], self.features), nn.he_normal()),
            "b": nn.Param((self.features,), nn.zeros()),
        }

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """The convolution plus the bias."""
        flat = x.reshape(-1, *x.shape[-3:])
        y = lax.conv_general_dilated(
            flat,
            params["w"],
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y.reshape(*x.shape[:-3], *y.shape[-3:]) + params["b"]
