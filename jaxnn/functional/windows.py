"""Positions of the windows that slide along the axes of an array, as in pooling."""

import dataclasses

import numpy as np

from .padding import Padding, entries, lengths

PerAxis = int | tuple[int, ...]

NAMES = ("same", "valid")


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
    strides = kernels if stride is None else _per_axis(stride, axes)
    found = {}
    for i, entry in enumerate(entries(padding, axes, NAMES)):
        axis = i - axes - 1
        n, k, s, d = shape[axis], kernels[i], strides[i], _per_axis(dilation, axes)[i]
        span = d * (k - 1) + 1
        before, after = lengths(entry, n, span, s)
        free = n + before + after - span
        where = f"axis {axis} of an array {tuple(shape)} padded by {before} before, {after} after"
        if n == 0 or free < 0:
            raise ValueError(
                f"a window that spans {span} elements (kernel {k}, dilation {d}) does not fit "
                f"{where}; use a smaller kernel, or padding='same'"
            )
        if max(before, after) >= span:
            raise ValueError(
                f"a window that spans {span} elements would lie wholly in the padding of {where}; "
                f"use less padding, for example padding={span // 2}"
            )
        count = free // s + 1
        if ceil_mode and free % s and count * s < n + before:
            count += 1
        found[axis] = Windows(n, k, s, (before, after), d, count)
    return found


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


def _per_axis(number: PerAxis, axes: int) -> tuple[int, ...]:
    return number if isinstance(number, tuple) else (number,) * axes
