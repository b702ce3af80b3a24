"""Layers without parameters that change the shape of an array, and resample spatial axes."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.resize import Method, upsample
from ..functional.windows import fill
from ..validation import (
    Accepts,
    above,
    each,
    is_int,
    natural,
    number,
    one_of,
    positive,
    require,
    tuple_of,
)
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


_AMOUNT = Accepts(
    "an int, a pair of ints (before, after)",
    lambda v: is_int(v) or (isinstance(v, tuple) and len(v) == 2 and all(map(is_int, v))),
)
_AMOUNTS = each(
    _AMOUNT,
    "an int, or a tuple with an int or a pair (before, after) for each of 1 to 3 axes",
    tuple(AXES),
)


class Pad(Primitive):
    """Pad the axes before the features: `y = concatenate([before, x, after])` along each axis.

    x has shape `(..., *axes, n)`, and y has the type of x. With `mode="constant"` the new elements
    are `value`; with "reflect" they are those of the axis mirrored at its end, without the end
    itself; with "replicate" its last element; and with "circular" those of its other end. Negative
    amounts remove elements. There are no parameters.

    Args:
        padding: Number of elements on both sides of one axis, or a tuple with an entry for each
            axis: one number for both sides, or a pair (before, after). A pair for one axis is
            `((1, 2),)`.
        mode: "constant", "reflect", "replicate", or "circular". Default: "constant".
        value: Value of the new elements, for "constant"; may be traced. Default: 0.

    Raises:
        ValueError: If more elements are removed than there are, or if an axis is too short to be
            mirrored or repeated.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0], [2.0], [3.0]])
    >>> Pad(2, "reflect").apply({}, x).ravel().tolist()
    [3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]
    >>> Pad(((1, -1),), value=9.0).apply({}, x).ravel().tolist()
    [9.0, 1.0, 2.0]
    """

    padding: Annotated[int | tuple[int | tuple[int, int], ...], _AMOUNTS]
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    value: Annotated[float, number()] = 0.0

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with padded axes."""
        amounts = self.padding if isinstance(self.padding, tuple) else (self.padding,)
        check_rank(x, len(amounts) + 1, f"(..., {AXES[len(amounts)]}, channels)")
        for axis, entry in enumerate(amounts, x.ndim - 1 - len(amounts)):
            before, after = entry if isinstance(entry, tuple) else (entry, entry)
            n = x.shape[axis]
            cut = max(-before, 0), n - max(-after, 0)
            require(cut[0] <= cut[1], "Pad.padding", f"at most {n} elements to remove", entry)
            x = jax.lax.slice_in_dim(x, *cut, axis=axis)
            before, after = max(before, 0), max(after, 0)
            if self.mode == "constant":
                edges = [(0, 0, 0)] * x.ndim
                edges[axis] = (before, after, 0)
                x = jax.lax.pad(x, jnp.asarray(self.value).astype(x.dtype), edges)
            elif before or after:
                x = fill(x, axis, self.mode, before, after)
        return x


grid: Accepts = tuple_of(
    positive, "a tuple of an int >= 1 for each of 1 to 3 axes", tuple(AXES)
).such(hint="write {owner}({name}=(2, 2)) for images")


_FACTORS = tuple_of(
    above(0).such(traced=False), "a tuple of a number > 0 for each of 1 to 3 axes", tuple(AXES)
).such(hint="write {owner}({name}=(2, 2)) for images")


class Upsample(Primitive):
    """Resize spatial axes by a factor or to a size, with half-pixel centers.

    x has shape `(..., *axes, n)` and y `(..., *(axes * factor), n)` or `(..., *size, n)`. Exactly
    one of `factor` and `size` must be given. There are no parameters.

    Args:
        factor: Factor by which each axis grows, a tuple of 1 to 3 numbers > 0; an axis of n
            elements gets floor(n * factor). Default: None.
        size: New size of each axis, a tuple of 1 to 3 ints. Default: None.
        method: "nearest" is "nearest-exact" in torch, and "nearest_floor" is "nearest" in torch;
            they are equal for integer factors. "linear" is "linear", "bilinear", or "trilinear" in
            torch. "cubic" uses Keys' kernel with a = -0.5, like tf.image.resize, and "bicubic" with
            a = -0.75, like torch. Default: "nearest".
        align_corners: Whether the centers of the corners of both grids coincide, instead of their
            outer edges; for "linear" and "bicubic". Default: False.

    Raises:
        ValueError: If both or neither of `factor` and `size` are given, or if `align_corners` is
            combined with another method.

    Reference: Keys, Cubic convolution interpolation for digital image processing, 1981.

    >>> import jax.numpy as jnp
    >>> Upsample((2, 2)).apply({}, jnp.zeros((5, 8, 8, 3))).shape
    (5, 16, 16, 3)
    >>> Upsample(size=(20, 30), method="linear").apply({}, jnp.zeros((5, 8, 8, 3))).shape
    (5, 20, 30, 3)
    """

    factor: Annotated[tuple[float, ...] | None, None | _FACTORS] = None
    size: Annotated[tuple[int, ...] | None, None | grid] = None
    method: Method = "nearest"
    align_corners: bool = False

    def __post_init__(self) -> None:
        """Check that one of the two is given, and that the corners can be aligned."""
        if self.align_corners:
            one_of("linear", "bicubic")(self.method, "Upsample.method with align_corners=True")
        if (self.factor is None) == (self.size is None):
            raise ValueError(
                f"Upsample takes either a factor or a size, got factor={self.factor!r}, "
                f"size={self.size!r}; write Upsample((2, 2)) or Upsample(size=(32, 32))"
            )

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x on the new grid."""
        given: Any = self.size or self.factor or ()
        check_rank(x, len(given) + 1, "(..., *axes, channels)")
        sizes = x.shape[-1 - len(given) : -1]
        check_not_empty(x, range(-1 - len(given), -1), "spatial axes with at least one element")
        ratios = None
        if self.factor is not None:
            given = tuple(math.floor(n * f) for n, f in zip(sizes, self.factor, strict=True))
            positive(min(given), "the new size of an axis", hint="change factor")
            ratios = None if all(map(_is_whole, self.factor)) else self.factor
        options = {"align_corners": self.align_corners, "factor": ratios}
        return upsample(x, given, self.method, **options)


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


def _is_whole(factor: float) -> bool:
    return factor == int(factor)


class ChannelShuffle(Primitive):
    """Interleave groups of channels: channel i of group g becomes channel i * groups + g.

    x and y have shape (..., n). The results are those of torch.nn.ChannelShuffle. There are no
    parameters.

    Args:
        groups: Number of groups, a divisor of n.

    Reference: Zhang et al., ShuffleNet, 2018.

    >>> import jax.numpy as jnp
    >>> ChannelShuffle(2).apply({}, jnp.arange(4)).tolist()
    [0, 2, 1, 3]
    """

    groups: Annotated[int, positive]

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with interleaved channels."""
        check_rank(x, 1, "(..., channels)")
        check_multiples(x, "channels", x.shape[-1:], (self.groups,), "change groups")
        split = x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        return jnp.swapaxes(split, -1, -2).reshape(x.shape)


def pixel_shuffle(x: jax.Array, factor: tuple[int, ...]) -> jax.Array:
    """Rearrange channels into blocks of a finer grid.

    y[..., h * f + i, w * g + j, c] = x[..., h, w, (c * f + i) * g + j] for factor (f, g). Channels
    are ordered as in `torch.nn.PixelShuffle`.

    Args:
        x: Array of shape `(..., *axes, n * prod(factor))`.
        factor: Factor by which each axis grows.

    Returns:
        Array of shape `(..., *(axes * factor), n)`.

    Reference: Shi et al., Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network, 2016.

    >>> import jax.numpy as jnp
    >>> pixel_shuffle(jnp.arange(4).reshape(1, 1, 4), (2, 2))[..., 0].tolist()
    [[0, 1], [2, 3]]
    """
    k = len(factor)
    batch, sizes = x.shape[: x.ndim - 1 - k], x.shape[x.ndim - 1 - k : -1]
    n = x.shape[-1] // math.prod(factor)
    y = x.reshape(*batch, *sizes, n, *factor)
    first = len(batch)
    order = [axis for i in range(k) for axis in (first + i, first + k + 1 + i)]
    y = y.transpose(*range(first), *order, first + k)
    return y.reshape(*batch, *[s * f for s, f in zip(sizes, factor, strict=True)], n)


def pixel_unshuffle(x: jax.Array, factor: tuple[int, ...]) -> jax.Array:
    """Rearrange blocks of a grid into channels: the inverse of `pixel_shuffle`.

    Args:
        x: Array of shape `(..., *(axes * factor), n)`.
        factor: Factor by which each axis shrinks.

    Returns:
        Array of shape `(..., *axes, n * prod(factor))`.

    >>> import jax.numpy as jnp
    >>> pixel_unshuffle(jnp.arange(4).reshape(2, 2, 1), (2, 2)).tolist()
    [[[0, 1, 2, 3]]]
    """
    k = len(factor)
    batch, sizes = x.shape[: x.ndim - 1 - k], x.shape[x.ndim - 1 - k : -1]
    coarse = [s // f for s, f in zip(sizes, factor, strict=True)]
    blocked = [n for pair in zip(coarse, factor, strict=True) for n in pair]
    y = x.reshape(*batch, *blocked, x.shape[-1])
    first = len(batch)
    blocks, within = ([first + 2 * i + j for i in range(k)] for j in (0, 1))
    y = y.transpose(*range(first), *blocks, first + 2 * k, *within)
    return y.reshape(*batch, *coarse, x.shape[-1] * math.prod(factor))
