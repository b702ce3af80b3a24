"""Padding of an input for a sliding window.

A padding is one entry for all axes, or a tuple with one entry for each axis. An entry is a name,
an int (zeros on both sides), or a pair of ints (zeros before and after). A pair of ints is one
entry if there is one axis, and two entries if there are two axes. The names are:

- "same": zeros for an output of length ceil(n / stride), with the odd one at the end.
- "valid": no padding.
- "causal": zeros at the front only, so that no output depends on a later input. With several
  axes, it must be an entry of a tuple.
- "circular", "reflect", "replicate": window - 1 elements, with the odd one at the end, taken from
  the other end of the axis, the axis mirrored at its end (without the end itself), or its last
  element. The output has length ceil(n / stride).
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..validation import is_int

Entry = str | int | tuple[int, int]
Padding = Entry | tuple[Entry, ...]

MODES = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
NAMES = ("same", "valid", "causal", *MODES)


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
    if len(each) != axes or several_causal or not all(_is_entry(entry, names) for entry in each):
        hint = f"; write padding={('causal', *['same'] * (axes - 1))!r}" if several_causal else ""
        raise ValueError(
            f"{where} must be {', '.join(map(repr, names))}, an int >= 0, or a tuple with a name, "
            f"an int, or a pair of ints for each of the {axes} axes, got {padding!r}{hint}"
        )
    return each


def _is_entry(entry: Any, names: tuple[str, ...]) -> bool:
    if isinstance(entry, str):
        return entry in names
    if isinstance(entry, tuple):
        return len(entry) == 2 and all(map(_is_length, entry))
    return _is_length(entry)


def _is_length(n: Any) -> bool:
    return is_int(n) and n >= 0


def lengths(entry: Entry, size: int, window: int, stride: int) -> tuple[int, int]:
    """Return the padding (before, after) of `size` elements for a window that spans `window`.

    >>> lengths("same", 5, 3, 2), lengths("causal", 5, 3, 1), lengths(2, 5, 3, 1)
    ((1, 1), (2, 0), (2, 2))
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
            f"{size}, but the window needs {max(before, after)}; use padding='same'"
        )
    pairs = [(0, 0)] * x.ndim
    pairs[axis] = (before, after)
    return jnp.pad(x, pairs, MODES[mode])
