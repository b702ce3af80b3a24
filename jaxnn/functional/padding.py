"""What stands around an input that a window slides over.

A padding is one entry for all axes, or a tuple with an entry for each. An entry is a name, an int
(zeros on both sides) or a pair of ints (zeros before and after); a pair of ints alone is an entry
where there is one axis, and two of them where there are two:

- "same": zeros, so that the output is ceil(n / stride) long, the odd one of them at the end.
- "valid": none.
- "causal": zeros in front alone, so that no output sees an input after it; named for each axis.
- "circular", "reflect", "replicate": as many as the window is longer than one, the odd one of them
  at the end; what stands there is the other end of the axis, the axis mirrored at its ends without
  them, or its last element. The output is ceil(n / stride) long.
"""

from typing import Any

import jax
import jax.numpy as jnp

Entry = str | int | tuple[int, int]
Padding = Entry | tuple[Entry, ...]

MODES = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
NAMES = ("same", "valid", "causal", *MODES)


def entries(padding: Any, axes: int, names: tuple[str, ...] = NAMES) -> tuple[Entry, ...]:
    """The entry of each of `axes` axes; ValueError for a padding that says none.

    >>> entries("same", 2), entries((1, (0, 2)), 2)
    (('same', 'same'), (1, (0, 2)))
    >>> entries((1, 0), 1), entries((1, 0), 2)
    (((1, 0),), (1, 0))
    """
    if axes == 1 and isinstance(padding, tuple) and _is_entry(padding, names):
        padding = (padding,)
    each = padding if isinstance(padding, tuple) else (padding,) * axes
    if padding == "causal" and axes > 1:
        raise ValueError(
            f"padding='causal' is for one axis, got {axes}: name it for the axis of time alone, "
            f"padding={('causal', *['same'] * (axes - 1))!r}"
        )
    if len(each) != axes or not all(_is_entry(entry, names) for entry in each):
        raise ValueError(
            f"padding is {', '.join(map(repr, names))}, an int >= 0, or a tuple with a name, an "
            f"int or a pair of ints for each of the {axes} axes; got {padding!r}"
        )
    return each


def _is_entry(entry: Any, names: tuple[str, ...]) -> bool:
    if isinstance(entry, str):
        return entry in names
    if isinstance(entry, tuple):
        return len(entry) == 2 and all(map(_is_length, entry))
    return _is_length(entry)


def _is_length(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 0


def lengths(entry: Entry, size: int, window: int, stride: int) -> tuple[int, int]:
    """Before and after an axis of `size` elements, for a window that spans `window` of them.

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
    """`x` longer along `axis` by a mode of `MODES`; ValueError where the axis is too short.

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
            f"padding={mode!r} gives an axis of {size} elements {max(most, 0)} more on each side "
            f"at most, but the window needs {max(before, after)}; write padding='same'"
        )
    pairs = [(0, 0)] * x.ndim
    pairs[axis] = (before, after)
    return jnp.pad(x, pairs, MODES[mode])
