"""A cohort: trials of one structure that train together as lanes of one compiled program.

A `Work` is sent to a worker, where `work` runs it, and a `WorkResult` returns. Both are plain data,
so any executor can carry them. The states of lanes are one pytree whose leaves have a first axis of
lanes; packed, it is safetensors: named arrays without code, whose shapes and types are checked
against the program.

Which way is fastest for lanes on the present device is measured by short runs of the program. The
candidates are the loop, `lax.map`, and `vmap` at several widths, on one device and on all. Each
costs a compilation and a run, so another is tried only if much more work than that is left: the
search for the fastest way never takes longer than it can save.
"""

import dataclasses
import math
import os
import statistics
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..explain.text import describe
from ..installation import required
from .compiled import By, Compiled, Way, compiled_cohort
from .space import Values
from .structure import Structure

__all__ = ["By", "Compiled", "Way", "Work", "WorkResult", "compiled_cohort", "work"]


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
class WorkResult:
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


def work(task: Work) -> WorkResult:
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
            return WorkResult({}, None, way, time.perf_counter() - began, error=_traceback(error))


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


def _run(task: Work, asked: Way) -> WorkResult:
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
    return WorkResult(
        metrics=compiled.metrics(jax.device_get(found), count),
        state=pack(join_lanes(jax.device_get(states), count)) if task.keep else None,
        way=asked,
        seconds=0.0,
        compile_seconds=compiled.compile_seconds - compile_seconds,
        traces=compiled.traces - traces,
    )


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
        ValueError: The bytes hold something else.
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
    return required(
        "safetensors.numpy", "the states of lanes are packed by", "safetensors", "sweep"
    )


WIDTHS = (8, 32, 128, 512, 2048)
# More lanes per call of `map` gain nothing.
MAPPED = 16
# The fraction of a device's memory to use: programs do not report all that they need.
SHARE = 0.5
# A wider call is tried if the last one took at most this fraction of the time of the one before.
GAIN = 0.95
# A way within this factor of the best is timed again before it is rejected.
CLOSE = 1.4
ROUNDS = 5
# The least seconds of a run that is timed again.
SAMPLE = 0.5
# The fractions of the work left that trying one more way may cost, and timing again.
TRYING = 0.2
AGAIN = 0.025
# The least lanes that are timed; seconds of a call that is not repeated.
FEW = 4
LONG = 2.0


class Timing(NamedTuple):
    """One way that was tried.

    Args:
        way: The way.
        seconds: Seconds per lane and epoch; infinite if memory ran out.
        compile_seconds: Seconds of its compilation.
        bytes: Memory of a call on a device.
    """

    way: Way
    seconds: float
    compile_seconds: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Probe:
    """A question to a worker: which way is fastest for lanes of this structure?

    Args:
        work: One or more of the lanes, as examples.
        lanes: How many lanes there will be at a time.
        epochs: Epochs that are left, over all lanes.
        width: Lanes per call if that is fixed; otherwise 0. Default: 0.
        by: The ways to try. Default: all.
    """

    work: Work
    lanes: int
    epochs: int
    width: int = 0
    by: tuple[By, ...] = ("loop", "map", "vmap")


def probe(asked: Probe) -> tuple[Timing, ...]:
    """Time the ways that are worth trying, and return them with the fastest first.

    Args:
        asked: The question.
    """
    found: list[Timing] = []
    for ladder in _ladders(asked):
        before = math.inf
        for way in ladder:
            if not _worth(way, found, asked.epochs):
                break
            found.append(_timed(asked.work, way))
            if found[-1].seconds > GAIN * before:
                break
            before = found[-1].seconds
    return tuple(sorted(_settled(asked, found), key=lambda timing: timing.seconds))


def _settled(asked: Probe, found: list[Timing]) -> list[Timing]:
    """Return the timings; those close to the best are repeated in turns, by longer runs."""
    best = min(timing.seconds for timing in found)
    close = [timing for timing in found if timing.seconds < CLOSE * best]
    times = {t.way: max(1, round(SAMPLE / (t.seconds * t.way.lanes))) for t in close}
    round_takes = sum(times[t.way] * t.way.lanes * t.seconds for t in close)
    rounds = min(ROUNDS, int(AGAIN * best * asked.epochs / round_takes))
    if len(close) < 2 or not rounds:
        return found
    again: dict[Way, list[float]] = {timing.way: [] for timing in close}
    for _ in range(rounds):
        for way, seconds in again.items():
            seconds.append(_seconds(asked.work, way, times[way]))
    return [
        t._replace(seconds=statistics.median(again[t.way])) if t.way in again else t for t in found
    ]


def _worth(way: Way, found: list[Timing], epochs: int) -> bool:
    """Return whether to try a way: the first one, then those that fit and may save their cost."""
    if not found:
        return True
    best = min(timing.seconds for timing in found)
    costs = max(timing.compile_seconds for timing in found) + 2 * way.lanes * best
    if costs > TRYING * best * epochs:
        return False
    a_lane = min(timing.bytes / timing.way.width for timing in found)
    return way.width * a_lane < SHARE * memory()


def memory() -> float:
    """Return the bytes of memory that a device has, as the system reports them."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:
        limit = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(limit)


def _ladders(asked: Probe) -> Iterator[list[Way]]:
    """Yield lists of ways: a wider way of a list is tried if the one before it gained."""
    if "loop" in asked.by:
        yield [Way("loop", 1)]
    usual: dict[By, tuple[int, ...]] = {"vmap": WIDTHS, "map": (MAPPED,)}
    for by, usually in usual.items():
        widths = (asked.width,) if asked.width else usually
        for devices in sorted({len(jax.local_devices()), 1}, reverse=True):
            most = -(-asked.lanes // devices)  # a wider call would only be filled up
            if by in asked.by:
                ways = [Way(by, w, devices) for w in dict.fromkeys(min(w, most) for w in widths)]
                structure, values = asked.work.structure, asked.work.values[0]
                yield [w for w in ways if len(asked.by) == 1 or taken(structure, values, w) == w]


def _timed(work: Work, way: Way) -> Timing:
    compiled = compiled_cohort(work.structure, way, _shared(work))
    before = compiled.compile_seconds
    try:
        seconds = _seconds(work, way)
        if seconds * way.lanes < LONG:  # the first run is slower
            seconds = _seconds(work, way)
    except Exception as error:
        if not out_of_memory(error):
            raise
        seconds = math.inf
    return Timing(way, seconds, compiled.compile_seconds - before, compiled.bytes)


def _seconds(work: Work, way: Way, times: int = 0) -> float:
    """Return the wall time per lane and epoch, over a number of full calls; by default a few."""
    compiled = compiled_cohort(work.structure, way, _shared(work))
    times = times or max(1, FEW // way.lanes)
    picked = [index % len(work.seeds) for index in range(way.lanes)]
    values, seeds = [work.values[i] for i in picked], [work.seeds[i] for i in picked]
    state, _ = compiled.train(values, seeds, None, (0, 0))
    state = jax.device_get(state)
    began, compiling = time.perf_counter(), compiled.compile_seconds
    calls = [compiled.train(values, seeds, state, (0, 1))[1] for _ in range(times)]
    jax.block_until_ready(calls)
    spent = time.perf_counter() - began - (compiled.compile_seconds - compiling)
    return spent / (times * way.lanes)


def _shared(work: Work) -> bool:
    return len(set(work.seeds)) == 1
