"""The compiled program of a structure: what a lane does in an epoch, for many lanes.

A lane does what `train.fit` does in an epoch: the same steps in the same order, then an evaluation.
A `Way` only says how lanes go through it:

    loop    one after the other, a call each
    map     one after the other, in one call (`lax.map`)
    vmap    together (`jax.vmap`)

`map` and `vmap` also share the devices of a host, by a mesh axis called `lanes`. Lanes never touch
each other: one that diverges does so alone.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from jax import lax
from jax.extend.core import Var
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..data.order import epoch_order
from ..experiment.problem import Problem
from ..experiment.program import Program, Recipe
from ..train import TrainState
from ..train.average import evaluation_params
from ..train.evaluation import pure_evaluation
from ..train.feed import pure_steps
from ..train.state import with_keys, without_keys
from ..train.tally import means_of
from . import lanes
from .space import Values
from .structure import Structure, as_written, scalar, start

By: TypeAlias = Literal["loop", "map", "vmap"]


class Way(NamedTuple):
    """How the lanes of a cohort go through its program.

    Args:
        by: `loop`, `map` or `vmap`.
        width: lanes a call, on each device; 1 for `loop`.
        devices: devices of this host that share the lanes of a call.
    """

    by: By
    width: int
    devices: int = 1

    @property
    def lanes(self) -> int:
        """Lanes of one call, on all devices."""
        return self.width * self.devices

    def __str__(self) -> str:
        several = f" on {self.devices} devices" if self.devices > 1 else ""
        return f"{self.by} of {self.width}{several}" if self.by != "loop" else "loop"


class Numbers(NamedTuple):
    """The numbers of a lane that are arguments of its program."""

    values: dict[str, Any]
    optimizer: list[Any]


class Compiled:
    """The compiled functions of one structure, for one way through them.

    Args:
        structure: the static part of the trials.
        way: how the lanes go through.
        shared: whether all lanes have one seed, hence one order of the data.
    """

    def __init__(self, structure: Structure, way: Way, shared: bool) -> None:
        self.structure, self.way, self.shared = structure, way, shared
        self.problem = problem_of(structure.recipe)
        self.traces = 0  # how often the epoch was traced, hence compiled
        self.compile_seconds = 0.0
        self.bytes = 0  # of memory that a call takes on a device, beside the data
        mesh = _mesh(way.devices)
        self._split = NamedSharding(mesh, P("lanes"))
        self._data = _data_on(structure.recipe, way.devices)
        self._epoch = self._jitted(mesh)
        self._alike: bool | None = None  # whether lanes of one seed start alike
        self._started: tuple[int | None, Any] = (None, None)  # the last seed's

    def train(
        self,
        values: Sequence[Values],
        seeds: Sequence[int],
        state: Any,
        epochs: tuple[int, int],
    ) -> tuple[Any, list[Any]]:
        """Train up to `way.lanes` lanes from the first epoch to the last.

        Args:
            values, seeds: of each lane.
            state: the lanes after the epochs before, stacked; None at the beginning.
            epochs: the first, and the one after the last.

        Returns:
            The lanes' states, stacked, and a list of what `metrics` reads, an item an epoch. Both
            are still being computed; a call of fewer lanes than its width repeats the last one.
        """
        fill = self.way.lanes - len(seeds)
        values, seeds = [*values, *[values[-1]] * fill], [*seeds, *[seeds[-1]] * fill]
        values = [self.structure.numbers(lane) for lane in values]
        programs = [self.structure.program(self.problem, lane) for lane in values]
        numbers = jax.tree.map(lambda *each: np.stack(each), *map(self._numbers, values, programs))
        rows, size = len(self._data[0][0]), programs[0].batch_size
        steps = rows // size
        if state is not None:
            ts = jax.tree.map(lambda leaf: np.concatenate([leaf, *[leaf[-1:]] * fill]), state)
        else:  # as `train.fit` starts, which is quicker than to compile it for all lanes
            pairs = zip(programs, seeds, strict=True)
            ts = lanes.stacked([self._start(program, seed, numbers) for program, seed in pairs])
        ts = jax.device_put(ts, self._split)

        def order(seed: int, epoch: int) -> np.ndarray:
            return _order(seed, epoch, rows)[: steps * size].reshape(steps, size)

        found = []
        for epoch in range(*epochs):
            orders = [order(seed, epoch) for seed in (seeds[:1] if self.shared else seeds)]
            rows_of = orders[0] if self.shared else np.stack(orders)
            arguments = numbers, ts, rows_of, self._data
            try:
                if not self.bytes:
                    self._compile(arguments)
                ts, sums = self._epoch(*arguments)
            except Exception:
                self._started = None, None  # code that is put right may start otherwise
                raise
            found.append((sums, steps))
        return ts, found

    def metrics(self, found: list[list[Any]], count: int) -> dict[str, np.ndarray]:
        """Metrics by name, float64 (count, epochs), of what calls of `train` found, one after the
        other: training metrics are those of an epoch's steps, as `train.fit` reports them."""
        pieces = []
        for epochs in found:
            each = [
                means_of({n: np.asarray(total, np.float64) for n, total in sums.items()}, steps)
                | {
                    f"validation_{name}": np.asarray(mean, np.float64)
                    for name, mean in held.items()
                }
                for (sums, held), steps in epochs
            ]
            pieces.append({name: np.stack([one[name] for one in each], 1) for name in each[0]})
        joined = {name: np.concatenate([one[name] for one in pieces])[:count] for name in pieces[0]}
        return self.problem.reported(joined)

    def lane(self, values: Values) -> Any:
        """The shapes and types of one lane's state."""
        written = self.structure.numbers(values)
        numbers = self._numbers(written, self.structure.program(self.problem, written))
        return jax.eval_shape(
            lambda n: without_keys(start(self._program(n), self.problem, 0)), numbers
        )

    def _numbers(self, values: Values, program: Program) -> Numbers:
        """A lane's numbers: those of its values that are traced, and those of its optimizer."""
        traced = {name: scalar(value) for name, value in values.items()}
        return Numbers(traced, [scalar(leaf) for leaf in jax.tree.leaves(program.optimizer)])

    def _program(self, numbers: Numbers) -> Program:
        """The program of traced numbers; those of the optimizer come as `train.fit` has them."""
        values, leaves = jax.tree.map(as_written, numbers)
        program = self.structure.program(self.problem, values)
        optimizer = jax.tree.unflatten(jax.tree.structure(program.optimizer), leaves)
        return dataclasses.replace(program, optimizer=optimizer)

    def _start(self, program: Program, seed: int, numbers: Numbers) -> Any:
        """A lane before its first step, on the host; one for all lanes of a seed if it can be."""
        if self._alike is None:
            first = jax.tree.map(lambda leaf: leaf[0], numbers)
            begun = jax.make_jaxpr(lambda n: start(self._program(n), self.problem, 0))(first)
            self._alike = not depends(begun.jaxpr)
        if self._alike and self._started[0] == seed:
            return self._started[1]
        begun = without_keys(start(program, self.problem, seed))
        self._started = seed, jax.device_get(begun)
        return self._started[1]

    def _lane_epoch(self, numbers: Numbers, ts: TrainState, order: Any, data: Any) -> Any:
        self.traces += 1
        (x, y), (held_x, held_y) = data
        p = self._program(numbers)
        ts = with_keys(ts, jax.eval_shape(lambda: start(p, self.problem, 0)))
        ts, sums = pure_steps(p.net, p.task, p.optimizer, p.augment, ts, x, y, order)
        size = min(1024, len(held_x))
        found = pure_evaluation(
            p.net, p.task, evaluation_params(ts), ts.state, held_x, held_y, size
        )
        return without_keys(ts), (sums, found)

    def _compile(self, arguments: tuple[Any, ...]) -> None:
        """Compile for the calls to come, to know how long it takes and what memory they need."""
        began = time.perf_counter()
        memory = self._epoch.lower(*arguments).compile().memory_analysis()
        self.compile_seconds += time.perf_counter() - began
        held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(arguments[:3]))
        self.bytes = held // self.way.devices + getattr(memory, "temp_size_in_bytes", 0)

    def _jitted(self, mesh: Mesh) -> Any:
        """The epoch of all lanes of a call, jitted; their states are donated."""
        axes = (0, 0, None if self.shared else 0, None)
        wrap: Any = {"loop": _alone, "map": _mapped, "vmap": jax.vmap}[self.way.by]
        several = wrap(self._lane_epoch, axes)
        if self.way.devices > 1:
            specs = tuple(P("lanes") if axis == 0 else P() for axis in axes)
            several = jax.shard_map(
                several, mesh=mesh, in_specs=specs, out_specs=P("lanes"), check_vma=False
            )
        return jax.jit(several, donate_argnums=1)


@functools.lru_cache(maxsize=256)
def compiled_cohort(structure: Structure, way: Way, shared: bool) -> Compiled:
    """The compiled functions, the same for equal arguments."""
    return Compiled(structure, way, shared)


@functools.lru_cache(maxsize=8)
def problem_of(recipe: Recipe[Any]) -> Problem:
    """The experiment's problem, read once a process."""
    return recipe.problem()


@functools.lru_cache(maxsize=8)
def _data_on(recipe: Recipe[Any], devices: int) -> Any:
    """The examples to train on and those for validation, on each of the devices."""
    data = problem_of(recipe).scaled
    pairs = (*data.train,), (*data.validation,)
    return jax.device_put(pairs, NamedSharding(_mesh(devices), P()))


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), ("lanes",))


def metric_names(program: Program, problem: Problem) -> list[str]:
    """What a run reports after each epoch, by name."""
    x, y = problem.scaled.train

    def names(x: Any, y: Any) -> Any:
        ts = start(program, problem, 0)
        return pure_evaluation(
            program.net, program.task, evaluation_params(ts), ts.state, x, y, len(x)
        )

    size = program.batch_size
    found = jax.eval_shape(
        names, *(jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for a in (x, y))
    )
    return [*found, *(f"validation_{name}" for name in found)]


def depends(jaxpr: Any) -> bool:
    """Whether any result of a jaxpr depends on its arguments, as far as it shows."""
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(var, Var) and var in reached for var in equation.invars):
            reached.update(equation.outvars)
    return any(isinstance(var, Var) and var in reached for var in jaxpr.outvars)


@functools.lru_cache(maxsize=1024)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order of an epoch, which lanes of one seed share."""
    return epoch_order(_root(seed), epoch, rows)


@functools.lru_cache(maxsize=1024)
def _root(seed: int) -> np.ndarray:
    """The words of the root key of a seed, on the host."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def _alone(lane: Callable[..., Any], axes: tuple[Any, ...]) -> Callable[..., Any]:
    """`jax.vmap(lane, axes)` for one lane, without its axis inside."""

    def alone(*arguments: Any) -> Any:
        pairs = zip(arguments, axes, strict=True)
        inside = [jax.tree.map(lambda leaf: leaf[0], a) if axis == 0 else a for a, axis in pairs]
        return jax.tree.map(lambda leaf: leaf[None], lane(*inside))

    return alone


def _mapped(lane: Callable[..., Any], axes: tuple[Any, ...]) -> Callable[..., Any]:
    """`jax.vmap(lane, axes)`, one lane after the other."""

    def mapped(*arguments: Any) -> Any:
        def one(parts: tuple[Any, ...]) -> Any:
            left = iter(parts)
            pairs = zip(arguments, axes, strict=True)
            return lane(*(next(left) if axis == 0 else a for a, axis in pairs))

        return lax.map(one, tuple(a for a, axis in zip(arguments, axes, strict=True) if axis == 0))

    return mapped
