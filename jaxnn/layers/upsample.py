"""Upsample: resize the spatial axes of an array."""

from typing import Annotated, Any

import jax

from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.upsample import Method, upsample
from ..validation import positive, tuple_of
from .checks import AXES, check_rank

grid = tuple_of(positive, "a tuple of an int >= 1 for each of 1 to 3 axes", tuple(AXES)).such(
    hint="write {owner}({name}=(2, 2)) for images"
)


class Upsample(Primitive):
    """Resize spatial axes by a factor or to a size, with half-pixel centers.

    x has shape `(..., *axes, n)` and y `(..., *(axes * factor), n)` or `(..., *size, n)`. Exactly
    one of `factor` and `size` must be given. There are no parameters.

    Args:
        factor: Factor by which each axis grows, a tuple of 1 to 3 ints. Default: None.
        size: New size of each axis, a tuple of 1 to 3 ints. Default: None.
        method: "nearest" repeats elements, as torch.nn.Upsample with a factor, and as its
            "nearest-exact" with a size. "linear" is torch's "linear", "bilinear", and "trilinear"
            with align_corners=False. "cubic" uses Keys' kernel with a = -0.5, as tf.image.resize;
            torch uses a = -0.75. Default: "nearest".

    Raises:
        ValueError: If both or neither of `factor` and `size` are given.

    Reference: Keys, Cubic convolution interpolation for digital image processing, 1981.

    >>> import jax.numpy as jnp
    >>> Upsample((2, 2)).apply({}, jnp.zeros((5, 8, 8, 3))).shape
    (5, 16, 16, 3)
    >>> Upsample(size=(20, 30), method="linear").apply({}, jnp.zeros((5, 8, 8, 3))).shape
    (5, 20, 30, 3)
    """

    factor: Annotated[tuple[int, ...] | None, None | grid] = None
    size: Annotated[tuple[int, ...] | None, None | grid] = None
    method: Method = "nearest"

    def __post_init__(self) -> None:
        """Check that one of the two is given."""
        if (self.factor is None) == (self.size is None):
            raise ValueError(
                f"Upsample takes either a factor or a size, got factor={self.factor!r}, "
                f"size={self.size!r}; write Upsample((2, 2)) or Upsample(size=(32, 32))"
            )

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x on the new grid."""
        given = self.size or self.factor or ()
        check_rank(x, len(given) + 1, "(..., *axes, channels)")
        sizes = x.shape[-1 - len(given) : -1]
        if 0 in sizes:
            raise ValueError(f"cannot upsample {describe(x)}: it has an empty axis")
        if self.factor is not None:
            given = tuple(n * f for n, f in zip(sizes, self.factor, strict=True))
        return upsample(x, given, self.method)
