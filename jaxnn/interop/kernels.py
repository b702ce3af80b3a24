"""Converters of both flax and keras: the weight is a `kernel` with features last."""

import math
from typing import Any

import numpy as np

from ..layers.convolution import Conv
from ..layers.embedding import PatchEmbedding
from ..layers.linear import Dense, Einsum
from .source import Converter, Source, fitted


def dense(layer: Any, source: Source) -> dict[str, Any]:
    """kernel (inputs, features), with more axes if there are several of either."""
    return {"w": shaped(source("kernel"), source.shape("w"), "kernel")} | bias(source)


def convolution(layer: Any, source: Source) -> dict[str, Any]:
    """kernel `(*window, inputs / groups, features)`."""
    return {"w": source("kernel")} | bias(source)


def bias(source: Source) -> dict[str, Any]:
    """bias (features), if the layer has one."""
    if "b" not in source.declared:
        return {}
    return {"b": shaped(source("bias"), source.shape("b"), "bias")}


def attention(out: str) -> Any:
    """query, key and value (n, heads, d), and `out` (heads, d, features)."""

    def convert(layer: Any, source: Source) -> dict[str, Any]:
        names = {"query": "query", "key": "key", "value": "value", "out": out}
        found = {}
        for ours, theirs in names.items():
            heads = layer.num_heads
            if ours in ("key", "value"):
                heads = layer.num_kv_heads or heads
            part = {"w": f"{theirs}/kernel", "b": f"{theirs}/bias"}
            found[ours] = {
                name: _by_head(source(there), source.at(ours).shape(name), heads, ours, there)
                for name, there in part.items()
                if name in source.declared[ours]
            }
        return found

    return convert


def _by_head(array: Any, shape: tuple[int, ...], heads: int, ours: str, name: str) -> Any:
    """Return `array` with the features of all heads in one axis; Unfit for another number."""
    axis = 0 if ours == "out" else len(shape) - 1
    split = (*shape[:axis], heads, shape[axis] // heads, *shape[axis + 1 :])
    if ours == "out" and len(shape) == 1:
        split = shape
    return np.reshape(array if np.shape(array) == shape else fitted(array, split, name), shape)


def shaped(array: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return `array` with axes split or joined; Unfit if the shape requires more than that.

    >>> shaped(np.zeros((4, 2, 3)), (4, 6), "kernel").shape
    (4, 6)
    """
    return np.reshape(
        array if _joins(np.shape(array), shape) else fitted(array, shape, name), shape
    )


def _joins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether the first or last axis is the same in both, and each axis of either is one
    axis, or several in a row, of the other."""
    if math.prod(one) != math.prod(other):
        return False
    same_end = bool(one) and bool(other) and (one[0] == other[0] or one[-1] == other[-1])
    if not (same_end or len(one) == 1 or len(other) == 1):
        return False
    left, right = [[n for n in shape if n != 1] for shape in (one, other)]
    while left and right:
        m, n, parts = left.pop(0), right.pop(0), [1, 1]
        while m != n:
            k = int(m > n)
            parts[k] += 1
            m, n = (m * left.pop(0), n) if m < n else (m, n * right.pop(0))
        if min(parts) > 1:
            return False
    return True


KERNELS: dict[type, Converter] = {
    Dense: dense,
    Einsum: dense,
    Conv: convolution,
    PatchEmbedding: convolution,
}
