"""Layers without parameters that change the shape of an array, and resample spatial axes."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..core.layer import Primitive
from ..explain.text import describe
from ..functional.linear import floating_type, wider_type
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
from . import AXES, check_multiples, check_not_empty, check_rank

Method = Literal["nearest", "nearest_floor", "linear", "cubic", "bicubic"]

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


def upsample(
    x: jax.Array,
    size: tuple[int, ...],
    method: Method = "nearest",
    *,
    align_corners: bool = False,
    factor: tuple[float, ...] | None = None,
) -> jax.Array:
    """Resize the axes of x to `size`.

    Grids are aligned by half-pixel centers: elements are the centers of equal cells, and the ends
    of both grids coincide. With `align_corners`, the centers of the first and last cells coincide.

    Args:
        x: Array of shape `(..., *axes, n)`.
        size: New length of each axis. Shrinking does not smooth first.
        method: "nearest" takes the element whose cell contains the new center, "nearest_floor"
            that whose cell contains the start of the new cell; both keep the type of x. "linear"
            interpolates the two nearest elements along each axis; "cubic" interpolates the four
            nearest by Keys' kernel with a = -0.5, and leaves out elements past the ends; "bicubic"
            uses a = -0.75, and repeats the elements at the ends. These return the floating type of
            x. Default: "nearest".
        align_corners: Whether the corners are aligned; for interpolation only. Default: False.
        factor: Ratio of the new to the old grid of each axis, if it is not that of the sizes;
            "cubic" uses that of the sizes. Default: None.

    Returns:
        Array of shape `(..., *size, n)`.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [4.0]])
    >>> upsample(x, (4,))[:, 0].tolist(), upsample(x, (4,), "linear")[:, 0].tolist()
    ([0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 3.0, 4.0])
    >>> upsample(x, (5,), "linear", align_corners=True)[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    first = x.ndim - 1 - len(size)
    sizes = list(zip(x.shape[first:-1], size, strict=True))
    ratios = [new / old for old, new in sizes] if factor is None else factor
    nearest = method in ("nearest", "nearest_floor")
    if not nearest:
        x = x.astype(floating_type(x))
    if method == "cubic" or (method == "linear" and not align_corners and factor is None):
        shape = (*x.shape[:first], *size, x.shape[-1])
        return jax.image.resize(x, shape, "cubic" if method == "cubic" else method, antialias=False)
    for axis, ((old, new), ratio) in enumerate(zip(sizes, ratios, strict=True), first):
        if nearest:
            offset = 0.5 if method == "nearest" else 0.0
            x = _nearest(x, axis, old, new, ratio, offset)
        else:
            x = _interpolated(x, axis, _weights(old, new, ratio, method == "linear", align_corners))
    return x


def _weights(old: int, new: int, ratio: float, linear: bool, align_corners: bool) -> np.ndarray:
    """Return the weights (new, old) of interpolation along an axis."""
    steps = np.arange(new)
    corners = steps * ((old - 1) / max(new - 1, 1))
    place = corners if align_corners else (steps + 0.5) / ratio - 0.5
    if linear:
        place = np.clip(place, 0, old - 1)
    below = np.floor(place)
    away = place - below
    weights = np.zeros((new, old))
    for shift in (0, 1) if linear else (-1, 0, 1, 2):
        weight = 1 - np.abs(away - shift) if linear else _keys(away - shift, -0.75)
        nearest = np.clip(below + shift, 0, old - 1).astype(int)
        np.add.at(weights, (steps, nearest), weight)
    return weights


def _keys(t: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic convolution kernel at distances t."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    return np.where(t <= 1, near, np.where(t < 2, a * (((t - 5) * t + 8) * t - 4), 0))


def _interpolated(x: jax.Array, axis: int, weights: np.ndarray) -> jax.Array:
    """Return the sums of the elements along an axis with weights (new, old)."""
    wide = wider_type(x.dtype, jnp.float32)
    y = jnp.tensordot(x, jnp.asarray(weights, x.dtype), [[axis], [1]], preferred_element_type=wide)
    return jnp.moveaxis(y, -1, axis).astype(x.dtype)


def _nearest(x: jax.Array, axis: int, old: int, new: int, ratio: Any, offset: float) -> jax.Array:
    if old == new and ratio == 1:
        return x
    if new % old or ratio != new // old:
        if ratio == new / old and offset:
            places = (2 * np.arange(new) + 1) * old // (2 * new)
        else:
            # torch divides in float32.
            scale = np.float32(old / new if ratio == new / old else 1 / ratio)
            places = np.floor((np.arange(new, dtype=np.float32) + np.float32(offset)) * scale)
        return jnp.take(x, np.minimum(places, old - 1).astype(np.int32), axis)
    # The gradient of a broadcast is a sum; that of a gather would be a slow scatter.
    shape = x.shape
    x = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*shape[: axis + 1], new // old, *shape[axis + 1 :])
    )
    return x.reshape(*shape[:axis], new, *shape[axis + 1 :])


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
        k = len(self.factor)
        batch, sizes = x.shape[: -1 - k], x.shape[-1 - k : -1]
        n, first = x.shape[-1] // math.prod(self.factor), len(batch)
        order = [axis for i in range(k) for axis in (first + i, first + k + 1 + i)]
        y = x.reshape(*batch, *sizes, n, *self.factor)
        y = y.transpose(*range(first), *order, first + k)
        return y.reshape(*batch, *[s * f for s, f in zip(sizes, self.factor, strict=True)], n)


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
        batch, sizes = x.shape[: -1 - k], x.shape[-1 - k : -1]
        check_multiples(x, "axes", sizes, self.factor, "change factor")
        coarse = [n // f for n, f in zip(sizes, self.factor, strict=True)]
        blocked = [n for pair in zip(coarse, self.factor, strict=True) for n in pair]
        first = len(batch)
        blocks, within = ([first + 2 * i + j for i in range(k)] for j in (0, 1))
        y = x.reshape(*batch, *blocked, x.shape[-1])
        y = y.transpose(*range(first), *blocks, first + 2 * k, *within)
        return y.reshape(*batch, *coarse, x.shape[-1] * math.prod(self.factor))


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
