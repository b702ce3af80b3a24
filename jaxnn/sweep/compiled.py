"""The compiled program of a structure: an epoch of a lane, for many lanes.

A lane does the same as `train.fit` in an epoch: the same steps in the same order, then an
evaluation. A solo run compiles the two separately, and so do lanes that must be bitwise equal to
one. A `Way` defines only how lanes run:

    loop    one after the other, a call each
    map     one after the other, in one call (`lax.map`)
    vmap    together (`jax.vmap`)

`map` and `vmap` also share the devices of a host, by a mesh axis named `lanes`. Lanes never affect
each other, even if one diverges.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..experiment.experiment import Loaded
from ..experiment.functional_training import (
    FoldOfSeed,
    Order,
    Training,
    array,
    as_written,
    dependent,
    scalar,
)
from ..train.program import with_keys, without_keys
from .space import Values
from .structure import Structure

By: TypeAlias = Literal["loop", "map", "vmap"]


class Way(NamedTuple):
    """How the lanes of a cohort run in its program.

    Args:
        by: "loop", "map", or "vmap".
        width: Lanes per call on each device; 1 for "loop".
        devices: Devices of this host that share the lanes of a call. Default: 1.
    """

    by: By
    width: int
    devices: int = 1

    @property
    def lanes(self) -> int:
        """Lanes per call on all devices."""
        return self.width * self.devices

    def __str__(self) -> str:
        several = f" on {self.devices} devices" if self.devices > 1 else ""
        return f"{self.by} of {self.width}{several}" if self.by != "loop" else "loop"


class Numbers(NamedTuple):
    """The numbers of a lane that are arguments of its program.

    Args:
        values: Its traced values, by dimension.
        leaves: The leaves of its program that depend on them, which a solo run passes to compiled
            code.
    """

    values: dict[str, Any]
    leaves: dict[str, Any]


class _Given(NamedTuple):
    """What the programs take for the lanes of a call; `first` is the training of the first."""

    first: Training
    seeds: Sequence[int | FoldOfSeed]
    numbers: Numbers
    state: Any
    data: tuple[Any, dict[str, Any]]
    pieces: list[Any]
    at_once: int | None


class Compiled:
    """The compiled functions of one structure, for one way through them.

    Args:
        structure: The static part of the trials.
        way: How the lanes go through the program.
        shared: Whether all lanes have the same seed, hence the same order of the data.

    Attributes:
        traces: Number of times that the epoch was traced, and thus compiled.
        compile_seconds: Seconds of tracing and compiling.
        bytes: Memory of a call on a device, without the data.
    """

    def __init__(self, structure: Structure, way: Way, shared: bool) -> None:
        self.structure: Structure = structure
        self.way: Way = way
        self.shared: bool = shared
        self.traces: int = 0
        self.compile_seconds: float = 0.0
        self.bytes: int = 0
        mesh = _mesh(way.devices)
        # On one device as results are, so that the next epoch is not lowered again.
        self._split = NamedSharding(mesh, P("lanes") if way.devices > 1 else P())
        self._whole = NamedSharding(mesh, P())
        self._epoch = jax.jit(
            self._of_lanes(self._lane_epoch, (0, 0, None if shared else 0, None), mesh),
            donate_argnums=1,
        )
        evaluation = self._lane_evaluation
        # Lanes of folds have other rows, which one after the other take less memory.
        self._together = way.by == "vmap" and structure.folds == 1
        if self._together:
            evaluation = self._of_lanes(evaluation, (0, 0, None, None, None), mesh)
        self._evaluation: Any = jax.jit(evaluation)
        self._compiled: set[Any] = set()  # the shapes that are compiled
        self._alike: bool | None = None  # whether lanes of a seed have the same first state
        self._started: tuple[int | FoldOfSeed | None, Any] = (None, None)  # the last seed's
        self._varying: set[str] | None = None  # the leaves that depend on a lane's values
        self._example: Training | None = None

    def train(
        self,
        values: Sequence[Values],
        seeds: Sequence[int | FoldOfSeed],
        state: Any,
        epochs: tuple[int, int],
    ) -> tuple[Any, list[Any]]:
        """Train up to `way.lanes` lanes from the first epoch to the last.

        Args:
            values: The traced values of each lane.
            seeds: The seed of each lane.
            state: The stacked states of the lanes after the earlier epochs, which an earlier call
                may have returned; None at the beginning.
            epochs: The first epoch, and the one after the last.

        Returns:
            The lanes' states, stacked, and what `metrics` reads, an item per epoch. Both may still
            be computing. A call of fewer lanes than its width repeats the last one.
        """
        given, found = self._given(values, seeds, state), []
        ts = given.state
        for epoch in range(*epochs):
            sums = []
            for order in self._orders(given, epoch):
                try:
                    ts, some = self._call(self._epoch, (given.numbers, ts, order, given.data), 2)
                except Exception:
                    self._started = None, None  # corrected code may start differently
                    raise
                sums.append(some)
            held = self._evaluated(given, ts, len(seeds), self._call)
            found.append((sums, held))
        return ts, found

    def prepare(
        self, values: Sequence[Values], seeds: Sequence[int | FoldOfSeed]
    ) -> Callable[[], None]:
        """Lower what `train` runs in the first epoch; return what compiles it, in any thread.

        Args:
            values: The traced values of each lane.
            seeds: The seed of each lane.
        """
        given = self._given(values, seeds, None)
        order = next(self._orders(given, 0))
        calls = [(self._epoch, (given.numbers, given.state, order, given.data), 2)]
        # The state after the epoch has the shapes of the one before.
        self._evaluated(given, given.state, 1, lambda *call: calls.append(call))
        lowered = {self._shapes(*call): self._lowered(*call[:2]) for call in calls}

        def compile() -> None:
            for shapes, one in lowered.items():
                self._compile(shapes, *one)

        return compile

    def _given(
        self, values: Sequence[Values], seeds: Sequence[int | FoldOfSeed], state: Any
    ) -> _Given:
        """Return what the programs take for lanes; a call of fewer lanes repeats the last one."""
        fill = self.way.lanes - len(seeds)
        values, seeds = [*values, *[values[-1]] * fill], [*seeds, *[seeds[-1]] * fill]
        values = [self.structure.numbers(lane) for lane in values]
        trainings = [self.structure.training(lane) for lane in values]
        first = self._example = trainings[0]
        numbers = jax.tree.map(lambda *each: np.stack(each), *map(self._numbers, values, trainings))
        data = _data_on(first.source, self.way.devices), self._constant(first)
        # lanes of different folds train on different rows
        rows = [seed if isinstance(seed, FoldOfSeed) else 0 for seed in seeds]
        by_rows = {one: first.pieces(data[0], one) for one in dict.fromkeys(rows)}
        pieces = [by_rows[one] for one in rows]
        at_once = self.steps_at_once(values[0])
        if state is not None:
            ts = jax.tree.map(lambda leaf: _filled(leaf, self.way.lanes), state)
        else:  # as in `train.fit`: faster than compiling it for all lanes
            pairs = zip(trainings, seeds, strict=True)
            starts = [self._start(one, seed, numbers, data[1]) for one, seed in pairs]
            ts = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
        ts = jax.device_put(ts, self._split)
        return _Given(first, seeds, numbers, ts, data, pieces, at_once)

    def _orders(self, given: _Given, epoch: int) -> Iterator[Order]:
        """Yield the orders of an epoch, in the parts that a program takes at once."""
        seeds = given.seeds[:1] if self.shared else given.seeds
        for part in _parts([given.first.order(seed, epoch) for seed in seeds], given.at_once):
            yield part[0] if self.shared else jax.tree.map(lambda *each: np.stack(each), *part)

    def metrics(self, found: list[list[Any]], count: int) -> dict[str, np.ndarray]:
        """Return metrics by name, float64 (count, epochs), as `train.fit` reports them.

        Args:
            found: What each call of `train` returned, one after the other.
            count: Number of lanes.
        """
        assert self._example is not None
        pieces = []
        for epochs in found:
            each = [
                self._example.metrics(_joined(sums), self._by_lane(held)) for sums, held in epochs
            ]
            pieces.append({name: np.stack([one[name] for one in each], 1) for name in each[0]})
        return {name: np.concatenate([one[name] for one in pieces])[:count] for name in pieces[0]}

    def steps_at_once(self, values: Values) -> int | None:
        """Return the most steps of one program; None for all of a record.

        Args:
            values: Values of any lane.
        """
        known = _at_once(self.structure)
        if not known:
            written = self.structure.numbers(values)
            known.append(self.structure.training(written).at_once())
        return known[0]

    def _by_lane(self, held: Any) -> list[Any]:
        """Return the metrics of the pieces of an evaluation by lane, on the host."""
        if not self._together or not held:
            return held
        lanes = len(jax.tree.leaves(held)[0])
        return [jax.tree.map(lambda leaf, at=i: leaf[at], held) for i in range(lanes)]

    def lane(self, values: Values) -> Any:
        """Return the shapes and types of one lane's state.

        Args:
            values: Values of any lane.
        """
        written = self.structure.numbers(values)
        training = self.structure.training(written)
        numbers = self._numbers(written, training)
        constant = self._constant(training)
        return jax.eval_shape(
            lambda n, c: without_keys(self._training(n, c).begin(0)), numbers, constant
        )

    def _numbers(self, values: Values, training: Training) -> Numbers:
        """Return the traced values of a lane, and the leaves that depend on them."""
        traced = {name: scalar(value) for name, value in values.items()}
        if self._varying is None:
            self._varying = self._found(traced, training)
        leaves = {n: array(leaf) for n, leaf in training.leaves().items() if n in self._varying}
        return Numbers(traced, leaves)

    def _found(self, traced: dict[str, Any], training: Training) -> set[str]:
        """Return the leaves of the program that depend on the values of a lane."""
        names: list[str] = []

        def leaves(values: dict[str, Any]) -> list[Any]:
            made = self.structure.training(jax.tree.map(as_written, values)).leaves()
            names.extend(made)
            return list(made.values())

        which = dependent(jax.make_jaxpr(leaves)(traced).jaxpr)
        known = training.leaves()  # a whole number is a leaf only if it is traced
        return {name for name, one in zip(names, which, strict=True) if one and name in known}

    def _constant(self, training: Training) -> dict[str, Any]:
        """Return the leaves of the program that are the same for all lanes, on the devices."""
        varying = self._varying or set()
        kept = {n: leaf for n, leaf in training.leaves().items() if n not in varying}
        return jax.device_put(jax.tree.map(array, kept), self._whole)

    def _training(self, numbers: Numbers, constant: dict[str, Any]) -> Training:
        """Return the training of traced numbers, with leaves as in a solo run."""
        values = jax.tree.map(as_written, numbers.values)
        return self.structure.training(values).with_leaves(numbers.leaves | constant)

    def _start(
        self, training: Training, seed: int | FoldOfSeed, numbers: Numbers, constant: Any
    ) -> Any:
        """Return the first state of a lane, on the host; lanes of a seed share it if possible."""
        if self._alike is None:
            first = jax.tree.map(lambda leaf: leaf[0], numbers)
            begun = jax.make_jaxpr(lambda n: self._training(n, constant).begin(0))(first)
            self._alike = not any(dependent(begun.jaxpr))
        if self._alike and self._started[0] == seed:
            return self._started[1]
        begun = without_keys(training.begin(seed))
        self._started = seed, jax.device_get(begun)
        return self._started[1]

    def _lane_epoch(self, numbers: Numbers, ts: Any, order: Any, data: Any) -> Any:
        self.traces += 1
        arrays, constant = data
        training = self._training(numbers, constant)
        ts, found = training.advance(_with_keys(ts, training), order, arrays)
        return without_keys(ts), found

    def _lane_evaluation(
        self, numbers: Numbers, ts: Any, constant: Any, piece: Any, key: jax.Array
    ) -> Any:
        training = self._training(numbers, constant)
        return training.evaluate(_with_keys(ts, training), piece, key)

    def _evaluated(self, given: _Given, ts: Any, count: int, call: Callable[..., Any]) -> list[Any]:
        """Return the metrics of each piece; for each of `count` lanes unless they are vmapped."""
        numbers, pieces, constant = given.numbers, given.pieces, given.data[1]
        if self._together:
            return [call(self._evaluation, (numbers, ts, constant, *one), 3) for one in pieces[0]]
        if not pieces[0]:
            return [[]] * count
        # Taking lanes that several devices share is a collective, which must not wait for another.
        held = numbers, ts if self.way.devices == 1 else jax.device_get(ts)
        taken = [_lane(held, lane) for lane in range(count)]
        return [
            [call(self._evaluation, (*one, constant, *piece), 3) for piece in each]
            for one, each in zip(taken, pieces, strict=False)
        ]

    def _call(self, function: Any, arguments: tuple[Any, ...], at: int) -> Any:
        """Call a function; if the shapes of an argument are new, compile first and measure that."""
        shapes = self._shapes(function, arguments, at)
        if shapes not in self._compiled:
            self._compile(shapes, *self._lowered(function, arguments))
        return function(*arguments)

    def _shapes(self, function: Any, arguments: tuple[Any, ...], at: int) -> Any:
        """Return what a compiled program is known by."""
        return function is self._epoch, *map(jnp.shape, jax.tree.leaves(arguments[at]))

    def _lowered(self, function: Any, arguments: tuple[Any, ...]) -> tuple[Any, int]:
        """Return a lowered function, and the bytes on a device that an epoch's arguments take."""
        began = time.perf_counter()
        lowered = function.lower(*arguments)
        self.compile_seconds += time.perf_counter() - began
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[:3]))
        return lowered, held // self.way.devices if function is self._epoch else 0

    def _compile(self, shapes: Any, lowered: Any, held: int) -> None:
        """Compile a lowered function, and measure that."""
        began = time.perf_counter()
        memory = lowered.compile().memory_analysis()
        self.compile_seconds += time.perf_counter() - began
        self._compiled.add(shapes)
        if held:
            self.bytes = max(self.bytes, held + getattr(memory, "temp_size_in_bytes", 0))

    def _of_lanes(
        self, lane: Callable[..., Any], axes: tuple[Any, ...], mesh: Mesh
    ) -> Callable[..., Any]:
        """Return a function of one lane as one of all lanes of a call."""
        wrap: Any = {"loop": _alone, "map": _mapped, "vmap": jax.vmap}[self.way.by]
        several = wrap(lane, axes)
        if self.way.devices > 1:
            specs = tuple(P("lanes") if axis == 0 else P() for axis in axes)
            several = jax.shard_map(
                several, mesh=mesh, in_specs=specs, out_specs=P("lanes"), check_vma=False
            )
        return several


def _with_keys(ts: Any, training: Training) -> Any:
    """Return the state of a lane with typed keys, which are transferred as words."""
    return with_keys(ts, jax.eval_shape(lambda: training.begin(0)))


def _filled(leaf: Any, lanes: int) -> Any:
    """Return the states of a number of lanes, the last one repeated."""
    missing = lanes - leaf.shape[0]
    return np.concatenate([leaf, *[leaf[-1:]] * missing]) if missing else leaf


def _parts(orders: list[Order], at_once: int | None) -> Iterator[list[Order]]:
    """Yield the orders of all lanes in parts of a given number of steps."""
    count = len(orders[0].steps)
    size = at_once or count
    for begin in range(0, count, size):
        part = slice(begin, begin + size)
        yield [Order(one.words, one.steps[part], one.rows[part]) for one in orders]


def _joined(parts: list[Any]) -> Any:
    """Return the metrics of the parts of a record, joined along the steps."""
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), *parts)


@jax.jit
def _lane(stacked: Any, lane: Any) -> Any:
    """Return one lane of stacked trees."""
    return jax.tree.map(lambda leaf: leaf[lane], stacked)


@functools.lru_cache(maxsize=64)
def compiled_cohort(structure: Structure, way: Way, shared: bool) -> Compiled:
    """Return the compiled functions, the same object for equal arguments.

    Args:
        structure: The static part of the trials.
        way: How the lanes go through the program.
        shared: Whether all lanes have the same seed.
    """
    return Compiled(structure, way, shared)


@functools.lru_cache(maxsize=64)
def _at_once(structure: Structure) -> list[int | None]:
    """Return the most steps of one program, a list of one number; of none until it is traced."""
    return []


@functools.lru_cache(maxsize=8)
def _data_on(source: Loaded, devices: int) -> Any:
    """Return the arrays to train on and those for validation, on each of the devices."""
    arrays = source.arrays, source.validation
    return jax.device_put(arrays, NamedSharding(_mesh(devices), P()))


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), ("lanes",))


def _alone(lane: Callable[..., Any], axes: tuple[Any, ...]) -> Callable[..., Any]:
    """Return `jax.vmap(lane, axes)` for one lane, without its axis inside."""

    def alone(*arguments: Any) -> Any:
        pairs = zip(arguments, axes, strict=True)
        inside = [jax.tree.map(lambda leaf: leaf[0], a) if axis == 0 else a for a, axis in pairs]
        return jax.tree.map(lambda leaf: leaf[None], lane(*inside))

    return alone


def _mapped(lane: Callable[..., Any], axes: tuple[Any, ...]) -> Callable[..., Any]:
    """Return `jax.vmap(lane, axes)`, one lane after the other."""

    def mapped(*arguments: Any) -> Any:
        def one(parts: tuple[Any, ...]) -> Any:
            left = iter(parts)
            pairs = zip(arguments, axes, strict=True)
            return lane(*(next(left) if axis == 0 else a for a, axis in pairs))

        return lax.map(one, tuple(a for a, axis in zip(arguments, axes, strict=True) if axis == 0))

    return mapped
