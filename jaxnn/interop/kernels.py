"""What flax and keras have in common: layers whose weight is a `kernel` with features last."""

import math
from typing import Any

import numpy as np

from .conversion import Source, Unfit


def dense(layer: Any, source: Source) -> dict[str, Any]:
    """kernel (inputs, features), of more axes where there are several of either."""
    return {"w": shaped(source("kernel"), source.shape("w"), "kernel")} | bias(source)


def convolution(layer: Any, source: Source) -> dict[str, Any]:
    """kernel (*window, inputs / groups, features)."""
    return {"w": source("kernel")} | bias(source)


def bias(source: Source) -> dict[str, Any]:
    """bias (features), where the layer has one."""
    if "b" not in source.declared:
        return {}
    return {"b": shaped(source("bias"), source.shape("b"), "bias")}


def attention(out: str) -> Any:
    """query, key and value (n, heads, d), and `out` (heads, d, features)."""

    def convert(layer: Any, source: Source) -> dict[str, Any]:
        names = {"query": "query", "key": "key", "value": "value", "out": out}
        found = {}
        for ours, theirs in names.items():
            part = {"w": f"{theirs}/kernel", "b": f"{theirs}/bias"}
            found[ours] = {
                name: shaped(source(there), source.at(ours).shape(name), there)
                for name, there in part.items()
                if name in source.declared[ours]
            }
        return found

    return convert


def shaped(array: Any, shape: tuple[int, ...], name: str) -> Any:
    """`array` with axes split or joined; Unfit where the shape asks for more than that.

    >>> shaped(np.zeros((4, 2, 3)), (4, 6), "kernel").shape
    (4, 6)
    """
    if not _joins(np.shape(array), shape):
        raise Unfit(f"{name} is {np.shape(array)}, and {shape} for this network")
    return np.reshape(array, shape)


def _joins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the first or last axis is the same in both, the others being joined or split."""
    if math.prod(one) != math.prod(other):
        return False
    shared = bool(one) and bool(other) and (one[0] == other[0] or one[-1] == other[-1])
    return one == other or shared or len(one) == 1 or len(other) == 1
