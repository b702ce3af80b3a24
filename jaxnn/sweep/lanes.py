"""The states of lanes: one pytree whose leaves have a first axis of lanes, and its bytes.

Packed, it is safetensors: named arrays without code. What each leaf must look like is known from
the program, and checked.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..explain.text import describe
from ..installation import missing


def stacked(states: Sequence[Any]) -> Any:
    """The states of single lanes as one on the host, each leaf with a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def joined(parts: Sequence[Any], count: int) -> Any:
    """The first `count` lanes of stacked states, one after the other, on the host."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def pack(state: Any) -> bytes:
    """Stacked states as the bytes of a safetensors file."""
    safetensors = _library()
    leaves = jax.device_get(jax.tree.leaves(state))
    return safetensors.save({f"{index:06d}": _plain(leaf) for index, leaf in enumerate(leaves)})


def unpack(packed: bytes, lane: Any) -> Any:
    """The stacked states that `pack` gave these bytes for.

    Args:
        packed: the bytes.
        lane: the shapes and types of one lane's state.

    Raises ValueError for bytes that hold something else.
    """
    safetensors = _library()
    try:
        arrays = safetensors.load(packed)
    except Exception as error:  # safetensors raises several kinds
        raise ValueError(f"the state of the lanes is damaged: {error}") from None
    leaves, structure = jax.tree.flatten(lane)
    found = [arrays[name] for name in sorted(arrays)]
    if len(found) == len(leaves):
        pairs = zip(found, leaves, strict=True)
        found = [_typed(array, leaf.dtype) for array, leaf in pairs]
    count = len(found[0]) if found and found[0].ndim else 0
    wanted = [describe(jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)) for leaf in leaves]
    if [describe(leaf) for leaf in found] != wanted:
        raise ValueError(
            "the state of the lanes is of another program: wanted "
            f"{', '.join(wanted)}; got {', '.join(map(describe, found))}"
        )
    return jax.tree.unflatten(structure, found)


def _plain(leaf: Any) -> np.ndarray:
    """An array that NumPy itself knows: bfloat16 and float8 as their bits."""
    array = np.ascontiguousarray(leaf)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _typed(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array that `_plain` was given, if it had this type."""
    dtype = np.dtype(dtype)
    bits = f"u{dtype.itemsize}"
    return array.view(dtype) if dtype.kind == "V" and array.dtype == np.dtype(bits) else array


def regrouped(pieces: Sequence[tuple[bytes, Sequence[int]]], order: Sequence[int]) -> bytes:
    """Packed lanes from several packs: the lanes of these places in each, then in this order."""
    safetensors = _library()
    parts = [(safetensors.load(packed), np.asarray(places)) for packed, places in pieces]
    return safetensors.save(
        {
            name: np.concatenate([arrays[name][places] for arrays, places in parts])[list(order)]
            for name in parts[0][0]
        }
    )


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise missing("the states of lanes are packed by", "safetensors", "sweep") from error
    return safetensors.numpy
