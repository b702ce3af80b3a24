"""Upsample: an image on a finer grid, without parameters."""

from typing import Any

import jax

from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.upsample import Method, upsample
from .checks import check_rank


class Upsample(Primitive):
    """x on another grid: each of the last axes before the channels `factor` times as long, or
    `size`.

    `factor` or `size` is a tuple with an int for each axis, 1 to 3 of them; x is (..., *axes, n), y
    (..., *(axes * factor), n) or (..., *size, n). `method` "nearest" repeats elements: that of
    torch.nn.Upsample for a factor, and its "nearest-exact" for every size. "linear" is torch's
    "linear", "bilinear" and "trilinear" with align_corners=False. "cubic" has the kernel of Keys
    with a = -0.5, as tf.image.resize has it; torch's has a = -0.75. All of them have align_corners
    False: the elements are middles of cells. Raises ValueError for both or neither of factor and
    size.

    Reference: Keys, Cubic convolution interpolation for digital image processing, 1981.

    >>> import jax.numpy as jnp
    >>> Upsample((2, 2)).apply({}, jnp.zeros((5, 8, 8, 3))).shape
    (5, 16, 16, 3)
    >>> Upsample(size=(20, 30), method="linear").apply({}, jnp.zeros((5, 8, 8, 3))).shape
    (5, 20, 30, 3)
    """

    factor: tuple[int, ...] | None = None
    size: tuple[int, ...] | None = None
    method: Method = "nearest"

    def __post_init__(self) -> None:
        """Check the fields."""
        given = self.size if self.factor is None else self.factor
        if (self.factor is None) == (self.size is None):
            raise ValueError(
                f"Upsample takes a factor or a size, got factor={self.factor!r}, "
                f"size={self.size!r}; write Upsample((2, 2)) or Upsample(size=(32, 32))"
            )
        if (
            not isinstance(given, tuple)
            or not 1 <= len(given) <= 3
            or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in given)
        ):
            name = "size" if self.factor is None else "factor"
            raise ValueError(
                f"Upsample.{name} is a tuple with an int >= 1 for each of 1 to 3 axes, got "
                f"{given!r}; write Upsample({name}=(2, 2)) for images"
            )
        if self.method not in ("nearest", "linear", "cubic"):
            raise ValueError(
                f"Upsample.method is 'nearest', 'linear' or 'cubic', got {self.method!r}"
            )

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """x on the other grid."""
        given = self.size or self.factor or ()
        check_rank(self, x, len(given) + 1, "(..., *axes, channels)")
        sizes = x.shape[-1 - len(given) : -1]
        if 0 in sizes:
            raise ValueError(f"{describe(x)} has an empty axis to sample up")
        if self.factor is not None:
            given = tuple(n * f for n, f in zip(sizes, self.factor, strict=True))
        return upsample(x, given, self.method)
