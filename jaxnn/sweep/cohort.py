"""A cohort: trials of one structure, trained side by side as lanes of one compiled program.

A `Work` is what goes to a worker, an `Outcome` what comes back, both plain data, so that any
executor can carry them. `work` runs one there.
"""

import dataclasses
import time
import traceback

import jax
import numpy as np

from . import lanes
from .compiled import By, Compiled, Way, compiled_cohort
from .space import Values
from .structure import Structure

__all__ = ["By", "Compiled", "Outcome", "Way", "Work", "compiled_cohort", "work"]


@dataclasses.dataclass(frozen=True)
class Work:
    """Lanes of one structure to train for a segment of epochs.

    Args:
        structure: what they have in common.
        values: the traced values of each lane.
        seeds: the seed of each lane.
        way: how they go through the program.
        epochs: the first epoch and the one after the last, counted from 0.
        state: the packed state of the lanes after the epochs before; None at the beginning.
        keep: whether the state is wanted at the end, for a segment after this one.
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
    """What came of a `Work`.

    Args:
        metrics: numbers by name, float64 (lanes, epochs), in the data set's units.
        state: the packed state of the lanes, if it was to be kept.
        way: how they went through in the end: narrower than asked for where memory ran out.
        seconds: wall time, compilation included.
        compile_seconds: of it, the calls that traced and compiled.
        traces: how often the epoch was traced, hence compiled, for it.
        error: the traceback, where the program itself could not run.
    """

    metrics: dict[str, np.ndarray]
    state: bytes | None
    way: Way
    seconds: float
    compile_seconds: float = 0.0
    traces: int = 0
    error: str | None = None


def work(task: Work) -> Outcome:
    """Train the lanes of a cohort; where memory runs out, in calls of half as many lanes.

    An error that the program itself raises comes back as text, since it would come again.
    """
    began = time.perf_counter()
    # On fewer devices the lanes take longer, to the same bits: a device has as many at a time.
    way = task.way._replace(devices=min(task.way.devices, len(jax.local_devices())))
    while True:
        try:
            return dataclasses.replace(_run(task, way), seconds=time.perf_counter() - began)
        except Exception as error:  # whatever the experiment's code raises
            if out_of_memory(error) and way.width > 1:
                way = way._replace(width=way.width // 2)
                continue
            return Outcome({}, None, way, time.perf_counter() - began, error=_told(error))


def _told(error: Exception) -> str:
    """The traceback, with what the error says at its end: not JAX's note on its own frames."""
    notes = getattr(error, "__notes__", [])
    if any("JAX_TRACEBACK_FILTERING" in note for note in notes):
        error.__notes__ = [note for note in notes if note.strip("-") and "JAX_TRACE" not in note]
    return "".join(traceback.format_exception(error))


def out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def taken(structure: Structure, values: Values, way: Way) -> Way:
    """The way that lanes take: a program that is not to be in a loop is not mapped either."""
    mapped = way.by == "map"
    alone = mapped and compiled_cohort(structure, way, True).steps_at_once(values) == 1
    return Way("loop", 1) if alone else way


def _run(task: Work, asked: Way) -> Outcome:
    way = taken(task.structure, task.values[0], asked)
    compiled = compiled_cohort(task.structure, way, len(set(task.seeds)) == 1)
    traces, compile_seconds = compiled.traces, compiled.compile_seconds
    held = None if task.state is None else lanes.unpack(task.state, compiled.lane(task.values[0]))
    states, found = [], []
    for begin in range(0, len(task.seeds), way.lanes):
        piece = slice(begin, begin + way.lanes)
        before = None if held is None else jax.tree.map(lambda leaf, p=piece: leaf[p], held)
        ts, sums = compiled.train(task.values[piece], task.seeds[piece], before, task.epochs)
        found.append(sums)
        if task.keep:
            states.append(ts)
    count = len(task.seeds)
    # The device has worked all the while; only now is it waited for.
    return Outcome(
        metrics=compiled.metrics(jax.device_get(found), count),
        state=lanes.pack(lanes.joined(jax.device_get(states), count)) if task.keep else None,
        way=asked,
        seconds=0.0,
        compile_seconds=compiled.compile_seconds - compile_seconds,
        traces=compiled.traces - traces,
    )
