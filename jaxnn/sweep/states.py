"""The states of lanes as bytes: of lanes that continue from a rung, or of kept trials.

The states of lanes are one pytree whose leaves have a first axis of lanes. Packed, it is
safetensors: named arrays without code, whose shapes and types are checked against the program.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..explain.text import describe
from ..installation import required
from .score import Keep


def join_lanes(parts: Sequence[Any], count: int) -> Any:
    """Return the first `count` lanes of several stacked states, on the host."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def pack(state: Any) -> bytes:
    """Return stacked states as the bytes of a safetensors file."""
    safetensors = _library()
    leaves = jax.device_get(jax.tree.leaves(state))
    return safetensors.save({f"{index:06d}": _plain(leaf) for index, leaf in enumerate(leaves)})


def unpack(packed: bytes, lane: Any) -> Any:
    """Return the stacked states that `pack` packed.

    Args:
        packed: The bytes.
        lane: The shapes and types of one lane's state.

    Raises:
        ValueError: The bytes do not contain such states.
    """
    safetensors = _library()
    leaves, structure = jax.tree.flatten(lane)
    problem, arrays = "", {}
    try:
        arrays = safetensors.load(packed)
    except Exception as error:  # safetensors raises several kinds
        problem = f"the states of the lanes are damaged: {error}"
    found = [arrays[name] for name in sorted(arrays)]
    if len(found) == len(leaves):
        pairs = zip(found, leaves, strict=True)
        found = [_typed(array, leaf.dtype) for array, leaf in pairs]
    count = len(found[0]) if found and found[0].ndim else 0
    wanted = [describe(jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)) for leaf in leaves]
    if not problem and [describe(leaf) for leaf in found] != wanted:
        problem = (
            f"the states of the lanes must be {', '.join(wanted)}, got "
            f"{', '.join(map(describe, found))}; they belong to another program"
        )
    if problem:
        raise ValueError(problem)
    return jax.tree.unflatten(structure, found)


def _plain(leaf: Any) -> np.ndarray:
    """Return an array with a NumPy type: bfloat16 and float8 as their bits."""
    array = np.ascontiguousarray(leaf)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _typed(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the array of this type that `_plain` converted."""
    dtype = np.dtype(dtype)
    bits = f"u{dtype.itemsize}"
    return array.view(dtype) if dtype.kind == "V" and array.dtype == np.dtype(bits) else array


def regrouped(pieces: Sequence[tuple[bytes, Sequence[int]]], order: Sequence[int]) -> bytes:
    """Return packed lanes from several packs.

    Args:
        pieces: Packs, each with the indices of the lanes to take.
        order: The order of the lanes taken.
    """
    safetensors = _library()
    parts = [(safetensors.load(packed), np.asarray(places)) for packed, places in pieces]
    return safetensors.save(
        {
            name: np.concatenate([arrays[name][places] for arrays, places in parts])[list(order)]
            for name in parts[0][0]
        }
    )


def _library() -> Any:
    return required(
        "safetensors.numpy", "the states of lanes are packed by", "safetensors", "sweep"
    )


def kept_states(
    keep: Keep,
    state: bytes,
    places: Mapping[int, Sequence[int]],
    curves: Mapping[int, Sequence[Sequence[float]]],
    before: Mapping[int, float],
) -> dict[int, tuple[float, bytes | None]]:
    """Return the trials that are kept after a cohort: their scores, and the states of new ones.

    Args:
        keep: Which trials to keep.
        state: The packed states of the cohort.
        places: Where the lanes of each trial are in it, for the trials that ran to their end.
        curves: The metric of each of these trials by epoch, for each lane.
        before: The scores of the trials that are kept already, smaller for better.
    """
    new = {trial: keep.badness(curves[trial]) for trial in places}
    best = keep.best({**before, **new})
    return {
        trial: (new[trial], regrouped([(state, places[trial])], range(len(places[trial]))))
        if trial in new
        else (before[trial], None)
        for trial in best
    }
