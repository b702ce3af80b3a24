"""The inputs of multi-head attention: their checks, axes, padding, and masks."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..arrays import without_padding
from ..explain.text import describe
from ..functional.attention import check_types, over_heads
from ..functional.segments import check_segments, segments_mask
from .checks import check_multiples, check_sequence, distinct_axes


class AttentionInputs:
    """The inputs of attention as sequences (..., T, n), zeros at padding, and what hides keys."""

    def __init__(
        self,
        layer: Any,
        x: jax.Array,
        memory: jax.Array | None,
        values: jax.Array | None,
        mask: jax.Array | None,
        bias: Any,
        segment_ids: jax.Array | None,
        memory_segment_ids: jax.Array | None,
    ) -> None:
        # A bias that is a function of positions changes scores, and hides nothing.
        self.bias_mod: Any = bias if callable(bias) else None
        bias = None if callable(bias) else bias
        check_types(mask, bias)
        self.given: jax.Array = x
        self.mask: jax.Array | None = mask
        self.bias: jax.Array | None = bias
        self.segment_ids: jax.Array | None = segment_ids
        self.memory_segment_ids: jax.Array | None = memory_segment_ids
        self.x: jax.Array = sequence(x, layer.axis)
        self.memory: jax.Array | None = None if memory is None else sequence(memory, layer.axis)
        self.values: jax.Array | None = None if values is None else sequence(values, layer.axis)
        if segment_ids is not None:
            check_segments(segment_ids, self.x.shape[:-1])
            self.x = without_padding(self.x, segment_ids)
        across = None if memory is None else memory_segment_ids
        if across is not None and self.memory is not None:
            check_segments(across, self.memory.shape[:-1], "memory_segment_ids")
            self.memory = without_padding(self.memory, across)
            self.values = None if self.values is None else without_padding(self.values, across)
        hiding = (mask, bias, segment_ids, across, layer.mask_mod)
        self.hides: bool = any(a is not None for a in hiding)


def sequence(a: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Return an array with the given axes as one, (..., T, n)."""
    if axis == -2:
        return a
    axes = distinct_axes(a, axis)
    a = jnp.moveaxis(a, axes, range(-1 - len(axes), -1))
    length = math.prod(a.shape[-1 - len(axes) : -1])
    return a.reshape(*a.shape[: -1 - len(axes)], length, a.shape[-1])


def restore_axes(y: jax.Array, x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Return y (..., T, m) with the axes of x that `sequence` made one."""
    if axis == -2:
        return y
    axes = distinct_axes(x, axis)
    y = y.reshape(*y.shape[:-2], *(x.shape[i] for i in axes), y.shape[-1])
    return jnp.moveaxis(y, range(-1 - len(axes), -1), axes)


def mask_across(segment_ids: Any, memory_segment_ids: Any) -> jax.Array | None:
    """Return whether each position of the memory is visible to each query, (..., 1, T or 1, S)."""
    if memory_segment_ids is None:
        return None
    if segment_ids is None:
        return (memory_segment_ids != 0)[..., None, None, :]
    return segments_mask(segment_ids, memory_segment_ids)[..., None, :, :]


def both_masks(mask: jax.Array | None, other: jax.Array | None, ndim: int) -> jax.Array | None:
    """Return what both masks allow, with `ndim` axes; a mask may be None."""
    if mask is None or other is None:
        return other if mask is None else mask
    return over_heads(mask, ndim) & over_heads(other, ndim)


def check_attention(layer: Any, x: Any, memory: Any, values: Any) -> None:
    """Raise ValueError for inputs that `MultiHeadAttention` does not take.

    Args:
        layer: The layer.
        x: First input.
        memory: Second input, or None.
        values: Third input, or None.
    """
    check_sequence(x)
    for other in (memory, values):
        if other is not None:
            check_sequence(other, wanted="(..., S, features)")
    if layer.head_dim is None:
        hint = "change num_heads, or set head_dim"
        check_multiples(x, "features", x.shape[-1:], (layer.num_heads,), hint)
    d = layer._head_dim(x.shape[-1])
    if layer.rotary is not None:
        layer.rotary.turned_features(d)
    wrong = []
    if memory is None and layer.cache and not layer.causal and layer.mask_mod is None:
        wrong.append(
            "attends to later positions, so it needs the whole sequence and cannot keep a "
            "cache: write causal=True, or run it without nn.with_cache"
        )
    if layer.cache and layer.axis != -2:
        wrong.append(f"keeps a cache of the axis -2 only, not of axis={layer.axis!r}")
    if memory is not None and _batch(layer, memory) != _batch(layer, x):
        wrong.append(
            "x and memory must have equal axes before (T, features) and (S, features); got "
            f"{describe(x)} and {describe(memory)}"
        )
    keys = x if memory is None else memory
    if values is not None and (memory is None or values.shape[:-1] != keys.shape[:-1]):
        wrong.append(
            "values need a memory of the same shape except for the features, whose keys they "
            f"belong to; got values {describe(values)} for "
            f"{'no memory' if memory is None else describe(memory)}"
        )
    by_position = [n for n in ("causal", "window", "rotary", "alibi") if getattr(layer, n)]
    if memory is not None and by_position:
        wrong.append(
            f"{' and '.join(by_position)} cannot be used with a memory, which has other "
            "positions: use another MultiHeadAttention for the memory"
        )
    if wrong:
        raise ValueError("; ".join(wrong))


def _batch(layer: Any, a: Any) -> tuple[int, ...]:
    axes = (*distinct_axes(a, layer.axis), len(a.shape) - 1)
    return tuple(n for i, n in enumerate(a.shape) if i not in axes)
