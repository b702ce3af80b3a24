"""A cohort: trials of one structure that train together as lanes of one compiled program.

A `Work` is sent to a worker, where `work` runs it, and an `Outcome` returns. Both are plain data,
so any executor can carry them. The states of lanes are one pytree whose leaves have a first axis of
lanes; packed, it is safetensors: named arrays without code, whose shapes and types are checked
against the program.
"""

import dataclasses
import time
import traceback
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..explain.text import describe
from ..installation import missing
from .compiled import By, Compiled, Way, compiled_cohort
from .space import Values
from .structure import Structure

__all__ = ["By", "Compiled", "Outcome", "Way", "Work", "compiled_cohort", "work"]


@dataclasses.dataclass(frozen=True)
class Work:
    """Lanes of one structure to train for a segment of epochs.

    Args:
        structure: The structure that they share.
        values: The traced values of each lane.
        seeds: The seed of each lane.
        way: How the lanes run in the program.
        epochs: The first epoch and the one after the last, counted from 0.
        state: The packed states of the lanes after the epochs before; None at the beginning.
        keep: Whether to return the states, from which the lanes continue. Default: False.
    """

    structure: Structure
    values: tuple[Values, ...]
    seeds: tuple[int, ...]
    way: Way
    epochs: tuple[int, int]
    state: bytes | None = None
    keep: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a `Work`.

    Args:
        metrics: Values by name, float64 (lanes, epochs).
        state: The packed states of the lanes, if they were asked for.
        way: How the lanes went through the program: narrower than asked for if memory ran out.
        seconds: Wall time, with compilation.
        compile_seconds: The part of it that traced and compiled.
        traces: How often the epoch was traced, hence compiled.
        error: The traceback, if the program raised.
    """

    metrics: dict[str, np.ndarray]
    state: bytes | None
    way: Way
    seconds: float
    compile_seconds: float = 0.0
    traces: int = 0
    error: str | None = None


def work(task: Work) -> Outcome:
    """Train the lanes of a cohort; if memory runs out, in calls of half the lanes.

    An error that the program raises is returned as text: it would be raised again.

    Args:
        task: The lanes.
    """
    began = time.perf_counter()
    # Fewer devices take longer for the same bits: each has the same number of lanes per call.
    way = task.way._replace(devices=min(task.way.devices, len(jax.local_devices())))
    while True:
        try:
            return dataclasses.replace(_run(task, way), seconds=time.perf_counter() - began)
        except Exception as error:  # whatever the experiment's code raises
            if out_of_memory(error) and way.width > 1:
                way = way._replace(width=way.width // 2)
                continue
            return Outcome({}, None, way, time.perf_counter() - began, error=_traceback(error))


def _traceback(error: Exception) -> str:
    """Return the traceback, without JAX's note on its own frames."""
    notes = getattr(error, "__notes__", [])
    if any("JAX_TRACEBACK_FILTERING" in note for note in notes):
        error.__notes__ = [note for note in notes if note.strip("-") and "JAX_TRACE" not in note]
    return "".join(traceback.format_exception(error))


def out_of_memory(error: BaseException) -> bool:
    """Return whether a device had no memory left."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def taken(structure: Structure, values: Values, way: Way) -> Way:
    """Return the way that lanes take: a program that must not be in a loop is not mapped either.

    Args:
        structure: Structure of the lanes.
        values: Values of any lane.
        way: The way that was asked for.
    """
    mapped = way.by == "map"
    alone = mapped and compiled_cohort(structure, way, True).steps_at_once(values) == 1
    return Way("loop", 1) if alone else way


def _run(task: Work, asked: Way) -> Outcome:
    way = taken(task.structure, task.values[0], asked)
    compiled = compiled_cohort(task.structure, way, len(set(task.seeds)) == 1)
    traces, compile_seconds = compiled.traces, compiled.compile_seconds
    held = None if task.state is None else unpack(task.state, compiled.lane(task.values[0]))
    states, found = [], []
    for begin in range(0, len(task.seeds), way.lanes):
        piece = slice(begin, begin + way.lanes)
        before = None if held is None else jax.tree.map(lambda leaf, p=piece: leaf[p], held)
        ts, sums = compiled.train(task.values[piece], task.seeds[piece], before, task.epochs)
        found.append(sums)
        if task.keep:
            states.append(ts)
    count = len(task.seeds)
    # The device has worked in the meantime; this waits for it.
    return Outcome(
        metrics=compiled.metrics(jax.device_get(found), count),
        state=pack(joined(jax.device_get(states), count)) if task.keep else None,
        way=asked,
        seconds=0.0,
        compile_seconds=compiled.compile_seconds - compile_seconds,
        traces=compiled.traces - traces,
    )


def joined(parts: Sequence[Any], count: int) -> Any:
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
        ValueError: The bytes hold something else.
    """
    safetensors = _library()
    try:
        arrays = safetensors.load(packed)
    except Exception as error:  # safetensors raises several kinds
        raise ValueError(f"the states of the lanes are damaged: {error}") from None
    leaves, structure = jax.tree.flatten(lane)
    found = [arrays[name] for name in sorted(arrays)]
    if len(found) == len(leaves):
        pairs = zip(found, leaves, strict=True)
        found = [_typed(array, leaf.dtype) for array, leaf in pairs]
    count = len(found[0]) if found and found[0].ndim else 0
    wanted = [describe(jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)) for leaf in leaves]
    if [describe(leaf) for leaf in found] != wanted:
        raise ValueError(
            f"the states of the lanes must be {', '.join(wanted)}, got "
            f"{', '.join(map(describe, found))}; they belong to another program"
        )
    return jax.tree.unflatten(structure, found)


def _plain(leaf: Any) -> np.ndarray:
    """Return an array of a type of NumPy: bfloat16 and float8 as their bits."""
    array = np.ascontiguousarray(leaf)
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _typed(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the array that `_plain` received, if it had this type."""
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
    try:
        import safetensors.numpy
    except ImportError as error:
        raise missing("the states of lanes are packed by", "safetensors", "sweep") from error
    return safetensors.numpy
