"""PixelShuffle and PixelUnshuffle: rearrange channels into a finer grid and back."""

import math
from typing import Annotated, Any

import jax

from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from .checks import check_rank
from .upsample import grid


class PixelShuffle(Primitive):
    """Rearrange channels into blocks of a finer grid.

    y[..., h * f + i, w * g + j, c] = x[..., h, w, (c * f + i) * g + j] for factor (f, g). x has
    shape `(..., *axes, n * prod(factor))` and y `(..., *(axes * factor), n)`. Channels are ordered
    as in torch.nn.PixelShuffle. There are no parameters.

    Args:
        factor: Factor by which each axis grows, a tuple of 1 to 3 ints.

    Raises:
        ValueError: If the number of channels is not a multiple of prod(factor).

    Reference: Shi et al., Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network, 2016.

    >>> import jax.numpy as jnp
    >>> PixelShuffle((2, 2)).apply({}, jnp.zeros((5, 8, 8, 12))).shape
    (5, 16, 16, 3)
    """

    factor: Annotated[tuple[int, ...], grid]

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x on the finer grid."""
        check_rank(x, len(self.factor) + 1, "(..., *axes, channels)")
        if x.shape[-1] % math.prod(self.factor):
            raise ValueError(
                f"the {x.shape[-1]} channels of {describe(x)} are not a multiple of "
                f"{math.prod(self.factor)}, the product of factor={self.factor}"
            )
        return pixel_shuffle(x, self.factor)


class PixelUnshuffle(Primitive):
    """Rearrange blocks of a grid into channels: the inverse of `PixelShuffle`.

    x has shape `(..., *(axes * factor), n)` and y `(..., *axes, n * prod(factor))`. Channels are
    ordered as in torch.nn.PixelUnshuffle. There are no parameters.

    Args:
        factor: Factor by which each axis shrinks, a tuple of 1 to 3 ints.

    Raises:
        ValueError: If the size of an axis is not a multiple of its factor.

    >>> import jax.numpy as jnp
    >>> PixelUnshuffle((2, 2)).apply({}, jnp.zeros((5, 16, 16, 3))).shape
    (5, 8, 8, 12)
    """

    factor: Annotated[tuple[int, ...], grid]

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x on the coarser grid."""
        k = len(self.factor)
        check_rank(x, k + 1, "(..., *axes, channels)")
        if any(n % f for n, f in zip(x.shape[-1 - k : -1], self.factor, strict=True)):
            raise ValueError(
                f"the axes {x.shape[-1 - k : -1]} of {describe(x)} are not multiples of "
                f"factor={self.factor}"
            )
        return pixel_unshuffle(x, self.factor)
