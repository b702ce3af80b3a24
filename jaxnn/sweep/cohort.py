"""A cohort: trials of one structure that train together as lanes of one compiled program.

A `Work` is sent to a worker, on which `work` runs it and returns a `WorkResult`. Both are plain
data, so any executor can transfer them.

When a lane stops early, the remaining lanes are packed into fewer calls.

The states of lanes that continue, or that are kept, are one pytree whose leaves have a first axis
of lanes. It is serialized as safetensors: named arrays without code, whose shapes and types are
checked against the program.
"""

import dataclasses
import time
import traceback
import types
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from ..experiment.functional_training import FoldOfSeed
from ..explain.text import describe
from ..installation import required
from ..train import EarlyStopping
from .compiled import Compiled, Way, compiled_cohort
from .score import Keep
from .space import Values
from .structure import Structure


@dataclasses.dataclass(frozen=True)
class Work:
    """Lanes of one structure to train for a segment of epochs.

    Args:
        structure: The structure that they share.
        values: The traced values of each lane.
        seeds: The seed of each lane; with folds, also its fold.
        way: How the lanes run in the program.
        epochs: The first epoch and the one after the last, counted from 0.
        state: The packed states of the lanes after the epochs before; None at the beginning.
        keep: Whether to return the states of all lanes, from which they continue later. Default:
            False.
        trials: The number of the trial of each lane, needed for `best`. Default: ().
        best: The trials whose final states to return. Default: None, no trial.
        stopping: When a lane stops early, as a run does with this hook. Default: None, never.
    """

    structure: Structure
    values: tuple[Values, ...]
    seeds: tuple[int | FoldOfSeed, ...]
    way: Way
    epochs: tuple[int, int]
    state: bytes | None = None
    keep: bool = False
    trials: tuple[int, ...] = ()
    best: Keep | None = None
    stopping: EarlyStopping | None = None


@dataclasses.dataclass(frozen=True)
class WorkResult:
    """The result of a `Work`.

    Args:
        metrics: Values by name, float64 (lanes, epochs); NaN after a lane stopped early.
        state: The packed states of the lanes, if they were asked for.
        way: How the lanes ran; narrower than requested if memory ran out.
        seconds: Wall time, including compilation.
        compile_seconds: The part of it that traced and compiled.
        traces: Number of times that the epoch was traced, and thus compiled.
        error: The traceback, if the program raised.
        packed: The indices of the lanes in `state`, in its order.
        ended: The epochs that each lane has trained.
    """

    metrics: dict[str, np.ndarray]
    state: bytes | None
    way: Way
    seconds: float
    compile_seconds: float = 0.0
    traces: int = 0
    error: str | None = None
    packed: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()


def work(task: Work) -> WorkResult:
    """Train the lanes of a cohort; if memory runs out, retry with half the lanes per call.

    An error that the program raises is returned as text, because a retry would raise it again.

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
    """Return whether an error means that a device ran out of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def taken(structure: Structure, values: Values, way: Way) -> Way:
    """Return how lanes run: a program that must not be in a loop does not use `lax.map` either.

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
    batch = _Batch(task, way)
    return batch.stopping() if task.stopping is not None else batch.whole()


class _Batch:
    """The execution of the lanes of a `Work` by compiled programs."""

    def __init__(self, task: Work, way: Way) -> None:
        self.task, self.way, self.best = task, way, _Best(task)
        self.count, self.before = len(task.seeds), {}

    def compiled(self, way: Way) -> Compiled:
        """Return the program of all lanes for a way, and note what it had compiled before."""
        found = compiled_cohort(self.task.structure, way, len(set(self.task.seeds)) == 1)
        self.before.setdefault(found, (found.traces, found.compile_seconds))
        return found

    def whole(self) -> WorkResult:
        """Train all lanes to the end of the segment."""
        task, compiled = self.task, self.compiled(self.way)
        held = None if task.state is None else unpack(task.state, compiled.lane(task.values[0]))
        states, found, waiting = [], [], deque()
        for lanes in self.pieces(range(self.count), self.way):
            before = None if held is None else jax.tree.map(lambda leaf, p=lanes: leaf[p], held)
            ts, sums = self.train(compiled, lanes, before, task.epochs)
            found.append(sums)
            if task.keep:
                states.append(ts)
            if task.best:  # while the device works on the next lanes
                waiting.append((compiled, lanes, ts, sums))
                if len(waiting) > 1:
                    self.end(*waiting.popleft())
        while waiting:
            self.end(*waiting.popleft())
        # The device has worked in the meantime; this waits for it.
        metrics = compiled.metrics(jax.device_get(found), self.count)
        state = None
        if task.keep:
            joined = jax.tree.map(lambda *each: np.concatenate(each), *jax.device_get(states))
            state = pack(jax.tree.map(lambda leaf: leaf[: self.count], joined))
        return self.outcome(metrics, state, (task.epochs[1],) * self.count)

    def stopping(self) -> WorkResult:
        """Train epoch by epoch; when lanes stop, the others are packed into fewer calls."""
        task, hook = self.task, self.task.stopping
        assert hook is not None
        begin, end = task.epochs
        memories = [hook.begin(None)] * self.count
        rows: list[list[dict[str, float]]] = [[] for _ in range(self.count)]
        way = self.way
        pieces = [(lanes, None) for lanes in self.pieces(range(self.count), way)]
        for epoch in range(begin, end):
            compiled, after, ended = self.compiled(way), [], set()
            for lanes, state in pieces:
                ts, sums = self.train(compiled, lanes, state, (epoch, epoch + 1))
                after.append((lanes, ts, sums))
            for lanes, _, sums in after:
                found = compiled.metrics([jax.device_get(sums)], len(lanes))
                for at, lane in enumerate(lanes):
                    rows[lane].append({name: float(one[at, 0]) for name, one in found.items()})
                    event: Any = types.SimpleNamespace(metrics=rows[lane][-1], directions={})
                    memories[lane], stop = hook.see(memories[lane], event)
                    if stop is not None or epoch + 1 == end:
                        ended.add(lane)
            if task.best:
                for lanes, ts, _ in after:
                    self.best.add(lanes, ts, rows, ended)
            pieces = [(lanes, ts) for lanes, ts, _ in after]
            left = [lane for lanes, _ in pieces for lane in lanes if lane not in ended]
            if not left:
                break
            if ended:
                way = _narrowed(way, len(left))
                pieces = _moved(pieces, ended, self.pieces(left, way))
        names = rows[0][0]
        metrics = {name: np.full((self.count, end - begin), np.nan) for name in names}
        for lane, each in enumerate(rows):
            for name in names:
                metrics[name][lane, : len(each)] = [row[name] for row in each]
        return self.outcome(metrics, None, tuple(begin + len(each) for each in rows))

    def pieces(self, lanes: Sequence[int], way: Way) -> list[list[int]]:
        """Return lanes in calls."""
        return [[*lanes[at : at + way.lanes]] for at in range(0, len(lanes), way.lanes)]

    def train(
        self, compiled: Compiled, lanes: list[int], state: Any, epochs: tuple[int, int]
    ) -> tuple[Any, Any]:
        """Train the lanes of a call."""
        values = [self.task.values[lane] for lane in lanes]
        seeds = [self.task.seeds[lane] for lane in lanes]
        return compiled.train(values, seeds, state, epochs)

    def end(self, compiled: Compiled, lanes: list[int], ts: Any, sums: Any) -> None:
        """Keep the final states of the lanes of a call if they are among the best."""
        assert self.task.best is not None
        found = compiled.metrics([jax.device_get(sums)], len(lanes))
        names = [self.task.best.metric]
        rows = {
            lane: [{name: float(x) for name in names} for x in found[names[0]][at]]
            for at, lane in enumerate(lanes)
        }
        self.best.add(lanes, ts, rows, set(lanes))

    def outcome(
        self, metrics: dict[str, np.ndarray], state: bytes | None, ended: tuple[int, ...]
    ) -> WorkResult:
        """Return the outcome of the lanes."""
        packed = tuple(range(self.count))
        if self.best.states:
            packed = tuple(sorted(self.best.states))
            each = [self.best.states[lane] for lane in packed]
            state = pack(jax.tree.map(lambda *leaves: np.stack(leaves), *each))
        return WorkResult(
            metrics=metrics,
            state=state,
            way=self.way,
            seconds=0.0,
            compile_seconds=sum(c.compile_seconds - old for c, (_, old) in self.before.items()),
            traces=sum(c.traces - old for c, (old, _) in self.before.items()),
            packed=packed,
            ended=ended,
        )


class _Best:
    """The final states of the lanes of the best trials of a `Work`, on the host."""

    def __init__(self, task: Work) -> None:
        self.keep = task.best
        self.trials = task.trials
        self.members: dict[int, list[int]] = {}
        for lane, trial in enumerate(task.trials):
            self.members.setdefault(trial, []).append(lane)
        self.curves: dict[int, list[float]] = {}
        self.scores: dict[int, float] = {}
        self.states: dict[int, Any] = {}

    def add(self, lanes: list[int], ts: Any, rows: Any, ended: Collection[int]) -> None:
        """Add the lanes of a call that ended, and drop those that are not among the best.

        Args:
            lanes: The lanes of the call.
            ts: Their states, stacked.
            rows: The metrics of each epoch, by lane.
            ended: The lanes that ended.
        """
        assert self.keep is not None
        new = {lane: at for at, lane in enumerate(lanes) if lane in ended}
        for lane in new:
            self.curves[lane] = [row[self.keep.metric] for row in rows[lane]]
            members = self.members[self.trials[lane]]
            if all(one in self.curves for one in members):
                curves = [self.curves[one] for one in members]
                self.scores[self.trials[lane]] = self.keep.badness(curves)
        best = self.keep.best(self.scores)
        wanted = {n for n in self.members if n in best or n not in self.scores}  # all may be best
        self.states = {n: one for n, one in self.states.items() if self.trials[n] in wanted}
        if chosen := {lane: at for lane, at in new.items() if self.trials[lane] in wanted}:
            held = jax.device_get(ts)
            for lane, at in chosen.items():
                self.states[lane] = jax.tree.map(lambda leaf, at=at: np.array(leaf[at]), held)


def _narrowed(way: Way, lanes: int) -> Way:
    """Return the way for fewer lanes: a quarter of the width if they fill a quarter of a call.

    It does not depend on measurements, so a repeated cohort has bitwise identical results.
    """
    while way.width >= 4 and 4 * lanes <= way.lanes:
        way = way._replace(width=way.width // 4)
    return way


def _moved(
    before: Sequence[tuple[list[int], Any]], ended: Collection[int], after: Sequence[list[int]]
) -> list[tuple[list[int], Any]]:
    """Return the states of the lanes that have not ended, in the calls `after`."""
    parts = []
    for lanes, ts in before:
        held, places = jax.device_get(ts), [i for i, lane in enumerate(lanes) if lane not in ended]
        parts.append(jax.tree.map(lambda leaf, p=places: leaf[p], held))
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    ends = np.cumsum([len(lanes) for lanes in after])
    slices = [slice(end - len(lanes), end) for lanes, end in zip(after, ends, strict=True)]
    return [
        (lanes, jax.tree.map(lambda leaf, s=piece: leaf[s], whole))
        for lanes, piece in zip(after, slices, strict=True)
    ]


# The states of lanes as bytes


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
