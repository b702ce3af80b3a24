"""Layers without parameters that change the shape of an array."""

import math
from typing import Annotated, Any

import jax

from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.resampling import Method, pixel_shuffle, pixel_unshuffle, upsample
from ..validation import Accepts, is_int, natural, positive, tuple_of
from .checks import AXES, check_multiples, check_not_empty, check_rank

_START = natural.such(what="an axis, an int >= 0")
_SHAPE = Accepts(
    "a tuple of ints, at most one of them -1",
    lambda v: isinstance(v, tuple) and all(is_int(n) and n >= -1 for n in v) and v.count(-1) < 2,
)


class Flatten(Primitive):
    """Flatten axes: all axes from `start` on become one.

    (batch, 28, 28) becomes (batch, 784).

    Args:
        start: First axis to flatten. Default: 1.

    >>> import jax.numpy as jnp
    >>> Flatten().apply({}, jnp.zeros((5, 28, 28))).shape
    (5, 784)
    """

    start: Annotated[int, _START] = 1

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its axes from `start` on flattened."""
        check_rank(x, self.start, f"(*{self.start} axes, ...)")
        return x.reshape(*x.shape[: self.start], math.prod(x.shape[self.start :]))


class Reshape(Primitive):
    """Reshape the axes from `start` on to `shape`.

    Args:
        shape: New sizes; one of them may be -1, which is inferred.
        start: First axis to reshape. Default: 1.

    Raises:
        ValueError: If the number of elements differs.

    >>> import jax.numpy as jnp
    >>> Reshape((28, 28, 1)).apply({}, jnp.zeros((5, 784))).shape
    (5, 28, 28, 1)
    """

    shape: Annotated[tuple[int, ...], _SHAPE]
    start: Annotated[int, _START] = 1

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its axes from `start` on reshaped."""
        check_rank(x, self.start, f"(*{self.start} axes, ...)")
        have, want = math.prod(x.shape[self.start :]), math.prod(n for n in self.shape if n >= 0)
        if (have != want) if -1 not in self.shape else (want == 0 or have % want):
            raise ValueError(
                f"cannot reshape {describe(x)} to {self.shape} from axis {self.start} on: it has "
                f"{have} elements there"
            )
        shape = (have // want if n == -1 else n for n in self.shape)  # supports an empty batch
        return x.reshape(*x.shape[: self.start], *shape)


grid: Accepts = tuple_of(
    positive, "a tuple of an int >= 1 for each of 1 to 3 axes", tuple(AXES)
).such(hint="write {owner}({name}=(2, 2)) for images")


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
        check_not_empty(x, range(-1 - len(given), -1), "spatial axes with at least one element")
        if self.factor is not None:
            given = tuple(n * f for n, f in zip(sizes, self.factor, strict=True))
        return upsample(x, given, self.method)


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
        hint = f"change factor={self.factor}, whose product it is"
        check_multiples(x, "channels", x.shape[-1:], (math.prod(self.factor),), hint)
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
        check_multiples(x, "axes", x.shape[-1 - k : -1], self.factor, "change factor")
        return pixel_unshuffle(x, self.factor)
