"""Windows that slide along the axes of an array: padding, maxima, and minima.

A padding is one entry for all axes, or a tuple with one entry for each axis. An entry is a name,
an int (zeros on both sides), or a pair of ints (zeros before and after). A pair of ints is one
entry if there is one axis, and two entries if there are two axes. The names are:

- "same": zeros for an output of length ceil(n / stride); of an odd number, one more is at the end.
- "valid": no padding.
- "causal": zeros at the front only, so that no output depends on a later input. With several
  axes, it must be an entry of a tuple.
- "circular", "reflect", "replicate": window - 1 elements (of an odd number, one more at
  the end), taken from the other end of the axis, the axis mirrored at its end (without the end
  itself), or its last element. The output has length ceil(n / stride).

Maxima and minima are computed by repeated selection between two arrays. Axes are reduced one at a
time from the last, and elements in order, so the first of several equal numbers is chosen and
receives the whole gradient. XLA has `reduce_window` for maxima too, but its gradient takes ten
times as long on a CPU, and JAX has none for windows with dilation.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..validation import Accepts, is_int

PerAxis = int | tuple[int, ...]
Entry = str | int | tuple[int, int]
Padding = Entry | tuple[Entry, ...]

MODES = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
NAMES = ("same", "valid", "causal", *MODES)


def per_axis(number: PerAxis, axes: int) -> tuple[int, ...]:
    """Return one number for each axis.

    >>> per_axis(2, 3), per_axis((1, 2), 2)
    ((2, 2, 2), (1, 2))
    """
    return number if isinstance(number, tuple) else (number,) * axes


def entries(
    padding: Any, axes: int, names: tuple[str, ...] = NAMES, where: str = "padding"
) -> tuple[Entry, ...]:
    """Return the entry of each of `axes` axes; raise ValueError for an invalid padding.

    >>> entries("same", 2), entries((1, (0, 2)), 2)
    (('same', 'same'), (1, (0, 2)))
    >>> entries((1, 0), 1), entries((1, 0), 2)
    (((1, 0),), (1, 0))
    """
    if axes == 1 and isinstance(padding, tuple) and _is_entry(padding, names):
        padding = (padding,)
    each = padding if isinstance(padding, tuple) else (padding,) * axes
    several_causal = padding == "causal" and axes > 1
    valid = len(each) == axes and all(_is_entry(entry, names) for entry in each)
    accepts = Accepts(
        f"{', '.join(map(repr, names))}, an int >= 0, or a tuple with a name, an int, or a pair of "
        f"ints for each of the {axes} axes",
        lambda padding: valid and not several_causal,
    )
    causal = f"write padding={('causal', *['same'] * (axes - 1))!r}" if several_causal else ""
    accepts(padding, where, causal)
    return each


def _is_entry(entry: Any, names: tuple[str, ...]) -> bool:
    if isinstance(entry, str):
        return entry in names
    if isinstance(entry, tuple):
        return len(entry) == 2 and all(map(_is_length, entry))
    return _is_length(entry)


def _is_length(n: Any) -> bool:
    return is_int(n) and n >= 0


def padding_lengths(entry: Entry, size: int, window: int, stride: int) -> tuple[int, int]:
    """Return the padding (before, after) of `size` elements for a window that spans `window`.

    >>> padding_lengths("same", 5, 3, 2), padding_lengths("causal", 5, 3, 1)
    ((1, 1), (2, 0))
    """
    if isinstance(entry, tuple):
        return entry
    if isinstance(entry, int):
        return entry, entry
    if entry == "valid":
        return 0, 0
    if entry == "causal":
        return window - 1, 0
    total = window - 1
    if entry == "same":
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def fill(x: jax.Array, axis: int, mode: str, before: int, after: int) -> jax.Array:
    """Pad `axis` by a mode of `MODES`; raise ValueError if the axis is too short.

    >>> import jax.numpy as jnp
    >>> fill(jnp.arange(3), 0, "circular", 1, 1).tolist()
    [2, 0, 1, 2, 0]
    >>> fill(jnp.arange(3), 0, "reflect", 1, 1).tolist()
    [1, 0, 1, 2, 1]
    """
    size = x.shape[axis]
    most = {"circular": size, "reflect": size - 1}.get(mode, max(before, after) if size else 0)
    if max(before, after) > most:
        raise ValueError(
            f"padding={mode!r} adds at most {max(most, 0)} elements on each side of an axis of "
            f"{size}, but {max(before, after)} are needed; use padding='same' (zeros), or less"
        )
    pairs = [(0, 0)] * x.ndim
    pairs[axis] = (before, after)
    return jnp.pad(x, pairs, MODES[mode])


POOLING = ("same", "valid")


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows along one axis of `length` elements."""

    length: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    count: int

    @property
    def starts(self) -> np.ndarray:
        """Index of the first element of each window; negative in the padding."""
        return np.arange(self.count) * self.stride - self.padding[0]

    @property
    def cover(self) -> tuple[int, int]:
        """The padding (before, after) that these windows reach."""
        span = self.dilation * (self.kernel - 1) + 1
        end = (self.count - 1) * self.stride + span - self.padding[0]
        return self.padding[0], max(end - self.length, self.padding[1])


def windows(
    shape: tuple[int, ...],
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "valid",
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> dict[int, Windows]:
    """Return the windows along each axis of an array `(..., *axes, features)`, by negative axis.

    Args:
        shape: Shape of the array.
        kernel_size: Number of elements of a window, one for each axis (an int: one axis).
        stride: Step between windows. None means `kernel_size`.
        padding: See `functional.pooling`.
        dilation: Step between the elements of a window.
        ceil_mode: Whether a last window may extend past the end.

    Raises:
        ValueError: If a window is larger than the padded array, or could lie entirely in padding.

    >>> {axis: along.count for axis, along in windows((5, 7, 1), (2, 3), ceil_mode=True).items()}
    {-3: 3, -2: 3}
    """
    kernels = kernel_size if isinstance(kernel_size, tuple) else (kernel_size,)
    axes = len(kernels)
    strides = kernels if stride is None else per_axis(stride, axes)
    found = {}
    for i, entry in enumerate(entries(padding, axes, POOLING)):
        axis = i - axes - 1
        n, k, s, d = shape[axis], kernels[i], strides[i], per_axis(dilation, axes)[i]
        span = d * (k - 1) + 1
        before, after = padding_lengths(entry, n, span, s)
        check_span(shape, axis, k, d, (before, after))
        real = Accepts(f"below {span}, which a window spans", lambda pad, span=span: pad < span)
        padded = f"the padding of axis {axis} of an array {tuple(shape)}"
        real(max(before, after), padded, f"write padding={span // 2} or less")
        free = n + before + after - span
        count = free // s + 1
        if ceil_mode and free % s and count * s < n + before:
            count += 1
        found[axis] = Windows(n, k, s, (before, after), d, count)
    return found


def check_span(
    shape: tuple[int, ...], axis: int, kernel: int, dilation: int, padding: tuple[int, int]
) -> None:
    """Raise ValueError unless a window fits an axis padded by (before, after)."""
    span, (before, after) = dilation * (kernel - 1) + 1, padding
    if shape[axis] == 0 or shape[axis] + before + after < span:
        raise ValueError(
            f"a window that spans {span} elements (kernel {kernel}, dilation {dilation}) does not "
            f"fit axis {axis} of an array {tuple(shape)} padded by {before} before, {after} after; "
            "use a smaller kernel, or padding='same'"
        )


def even_windows(length: int, count: int) -> np.ndarray:
    """Return the element indices of `count` windows that cover an axis evenly.

    Window i is [floor(i * length / count), ceil((i + 1) * length / count)). The result has shape
    (count, size of the largest window); shorter windows are filled up with `length`.
    >>> even_windows(5, 2).tolist(), even_windows(5, 3).tolist()
    ([[0, 1, 2], [2, 3, 4]], [[0, 1, 5], [1, 2, 3], [3, 4, 5]])
    """
    i = np.arange(count)
    starts, ends = i * length // count, -(-(i + 1) * length // count)
    places = starts[:, None] + np.arange((ends - starts).max())
    return np.where(places < ends[:, None], places, length)


FEW = 8  # Window sizes up to this are not reduced by doubling.


@jax.custom_jvp
def larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """max(a, b); if they are equal, a receives the gradient."""
    return lax.max(a, b)


@jax.custom_jvp
def smaller(a: jax.Array, b: jax.Array) -> jax.Array:
    """min(a, b); if they are equal, a receives the gradient."""
    return lax.min(a, b)


@larger.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return larger(*primals), lax.select(primals[1] > primals[0], tangents[1], tangents[0])


@smaller.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return smaller(*primals), lax.select(primals[1] < primals[0], tangents[1], tangents[0])


def lowest(dtype: Any) -> Any:
    """Return the smallest value of a type: -infinity if it is floating, False if it is boolean."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return False
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def highest(dtype: Any) -> Any:
    """Return the largest value of a type: infinity if it is floating, True if it is boolean."""
    if jnp.issubdtype(dtype, jnp.bool_):
        return True
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max


def chosen_by_window(x: jax.Array, found: dict[int, Windows], choose: Any, never: Any) -> jax.Array:
    """Reduce each window by `choose`; the padding is filled with `never`."""
    for axis, along in reversed(found.items()):
        span = along.dilation * (along.kernel - 1) + 1
        before, after = along.padding[0], (along.count - 1) * along.stride + span
        edges = [(0, 0, 0)] * x.ndim
        edges[axis] = (before, after - before - x.shape[axis], 0)
        x = lax.pad(x, jnp.asarray(never, x.dtype), edges)
        x = (_one_by_one if along.kernel <= FEW else _doubled)(x, axis, along, choose)
    return x


def _one_by_one(x: jax.Array, axis: int, along: Windows, choose: Any) -> jax.Array:
    """Reduce windows one element at a time."""
    end = x.shape[axis] - (along.kernel - 1) * along.dilation
    shifts = range(0, along.kernel * along.dilation, along.dilation)
    places = [lax.slice_in_dim(x, i, i + end, along.stride, axis) for i in shifts]
    return functools.reduce(choose, places)


def _doubled(x: jax.Array, axis: int, along: Windows, choose: Any) -> jax.Array:
    """Reduce windows by doubling: windows of 2n elements from two windows of n."""
    size = 1
    while size < along.kernel:
        step = min(size, along.kernel - size)
        shift, length = step * along.dilation, x.shape[axis]
        first = lax.slice_in_dim(x, 0, length - shift, axis=axis)
        x = choose(first, lax.slice_in_dim(x, shift, length, axis=axis))
        size += step
    return lax.slice_in_dim(x, 0, x.shape[axis], along.stride, axis)


def reduce_pairs(x: jax.Array, axis: int, choose: Any) -> jax.Array:
    """Reduce `axis` by `choose` on pairs of neighbors until one element is left.

    >>> import jax.numpy as jnp
    >>> reduce_pairs(jnp.array([[3, 7, 5]]), -1, larger).tolist()
    [7]
    """
    while (length := x.shape[axis]) > 1:
        first = lax.slice_in_dim(x, 0, length - 1, 2, axis)
        chosen = choose(first, lax.slice_in_dim(x, 1, length, 2, axis))
        rest = [lax.slice_in_dim(x, length - 1, length, axis=axis)] if length % 2 else []
        x = lax.concatenate([chosen, *rest], axis % x.ndim) if rest else chosen
    return lax.squeeze(x, [axis])
