"""Plan: the memory and traffic of a training step on a mesh, before anything is run."""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import jax

from ..core import paths
from ..core.declarations import abstract
from ..explain import notebook
from ..explain.text import describe
from ..fields import is_array
from ..train import Program, make_step
from .placement import Placement, sharded_struct
from .rules import flatten_with_paths

# An asynchronous operation is counted at its end.
_KIND = (
    r"(?:ragged-)?all-to-all|all-gather|all-reduce|reduce-scatter|collective-(?:permute|broadcast)"
)
_OPERATION = re.compile(rf"= (?P<shape>.*?) (?P<kind>{_KIND})(?:-done)?\(")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """The number of exchanges of one kind, and the total bytes that each device receives.

    Args:
        times: The number of exchanges.
        bytes: The number of bytes.
    """

    times: int
    bytes: int


def collectives(compiled: Any) -> dict[str, Collective]:
    """Return the communication in one call of a compiled program, by XLA's name of each kind.

    An exchange inside a loop counts as often as the loop runs, or once if XLA does not know the
    number; each branch of a condition counts. Several arrays that are exchanged together count as
    one exchange. XLA may choose another kind on other devices: an `all-reduce` whose result is
    split becomes a `reduce-scatter` on a GPU or TPU.

    Args:
        compiled: The compiled program, from `jax.jit(f).lower(...).compile()`.

    >>> import jax, jax.numpy as jnp
    >>> collectives(jax.jit(jnp.sum).lower(jnp.ones(4)).compile())
    {}
    """
    lines = list(_lines(compiled.as_text()))
    times = _times(lines)
    found: dict[str, list[int]] = {}
    for computation, line in lines:
        if match := _OPERATION.search(line):
            counts = found.setdefault(match["kind"], [0, 0])
            counts[0] += times[computation]
            counts[1] += times[computation] * _bytes(match["shape"])
    return {kind: Collective(*counts) for kind, counts in sorted(found.items())}


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction with the name of its computation."""
    computation = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = "ENTRY" if line.startswith("ENTRY") else match[1]
        elif computation:
            yield computation, line


def _times(lines: list[tuple[str, str]]) -> dict[str, int]:
    """Return how often each computation runs."""
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for computation, line in lines:
        called = [*_CALLED.findall(line)]
        for names in _BRANCHES.findall(line):
            called += [name.strip().lstrip("%") for name in names.split(",")]
        turns, body = _TURNS.search(line), _BODY.search(line)
        for name in called:
            loops = turns is not None and body is not None and name == body[1]
            calls[computation].append((name, int(turns[1]) if turns and loops else 1))
    times: dict[str, int] = defaultdict(int)

    def run(computation: str, count: int) -> None:
        times[computation] += count
        for name, turns in calls[computation]:
            run(name, count * turns)

    run("ENTRY", 1)
    return times


def _bytes(shape: str) -> int:
    """Return the bytes of arrays written as `f32[16,4]{1,0}`, alone or several in parentheses."""
    total = 0
    for kind, sizes in _SHAPE.findall(re.sub(r"/\*.*?\*/", "", shape)):
        bits = 8 if kind == "pred" else int(next(iter(re.findall(r"\d+", kind)), 0))
        total += math.prod(int(size) for size in sizes.split(",") if size) * bits // 8
    return total


# The memory of a program on a CPU does not depend on the quality of its code: compile quickly.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a state.

    Args:
        shape: Its shape and type.
        split: The mesh axes that split it.
        bytes: Its bytes.
        bytes_per_device: The bytes that one device holds.
    """

    shape: str
    split: str
    bytes: int
    bytes_per_device: int


@dataclasses.dataclass(frozen=True, repr=False)
class Plan(notebook.Table):
    """The memory of one device in a training step, and the communication between devices.

    `str` returns a text table; notebooks show an HTML table.

    Args:
        mesh: The size of each axis of the mesh.
        rows: The arrays of the state, by path.
        parts: The bytes of each part of the state by name, such as `params` and `opt_state`.
        state: The bytes of the whole state.
        batch: The bytes of a batch.
        gradients: The bytes of the gradients. Parameters under `nn.Inference` have no gradients.
        activations: The bytes of all other arrays at the moment of the largest memory use.
        total: The bytes of the whole step, as XLA reports them.
        collectives: A `Collective` for each kind of exchange between devices.
    """

    mesh: dict[str, int]
    rows: dict[str, Array]
    parts: dict[str, int]
    state: int
    batch: int
    gradients: int
    activations: int
    total: int
    collectives: dict[str, Collective]

    def _table(self) -> tuple[list[notebook.Line], list[notebook.Line]]:
        lines = [("Path", "Array", "Split by", "Bytes", "Per device")]
        for path, row in self.rows.items():
            sizes = notebook.binary(row.bytes), notebook.binary(row.bytes_per_device)
            lines.append((path, notebook.shape(row.shape), row.split, *sizes))
        whole = sum(row.bytes for row in self.rows.values())
        lines.append(("total", "", "", notebook.binary(whole), notebook.binary(self.state)))
        parts = {f"state/{name}": size for name, size in self.parts.items()}
        names = ("state", "batch", "gradients", "activations", "total")
        parts |= {name: getattr(self, name) for name in names}
        notes = [("mesh", " x ".join(f"{axis}={size}" for axis, size in self.mesh.items()))]
        notes += [
            (name, f"{notebook.binary(size).strip()} per device") for name, size in parts.items()
        ]
        notes += [
            (kind, f"{one.times:,} per step, {notebook.binary(one.bytes).strip()} per device")
            for kind, one in self.collectives.items()
        ]
        return lines, notes


def plan(program: Program, batch: Any, placement: Placement) -> Plan:
    """Return the memory per device and the communication of a training step on a mesh.

    The step is compiled by `train.make_step(program, placement=placement)`, and nothing is
    allocated or run, so the state may be larger than the memory. With a mesh such as
    `parallel.abstract_mesh(data=16, model=16)`, the devices do not need to exist: the step is
    compiled for simulated CPU devices. Temporary arrays may then be larger than on a GPU, whose
    compiler fuses more operations, and products in bfloat16 are computed in float32.

    Args:
        program: The program.
        batch: A whole batch, or `jax.ShapeDtypeStruct` in its place; None without data.
        placement: The mesh, from `parallel.mesh` or `parallel.abstract_mesh`, and the rules.

    Raises:
        TypeError: `program.init` reads values of the batch.
        ValueError: The rules do not fit the state, or the mesh does not divide the rows of the
            batch.

    >>> import jax, optax, jaxnn as nn
    >>> from jaxnn import parallel, train
    >>> program = train.Supervised(
    ...     nn.Dense(8, bias=False), train.Classification(8), optax.adam(1e-3))
    >>> batch = jax.ShapeDtypeStruct((16, 32), "float32"), jax.ShapeDtypeStruct((16,), "int32")
    >>> placement = parallel.Placement(parallel.abstract_mesh(data=4), parallel.FSDP)
    >>> found = parallel.plan(program, batch, placement)
    >>> found.parts["params"], found.gradients, found.state, found.batch
    (256, 256, 784, 528)
    >>> list(found.collectives)
    ['all-gather', 'all-reduce']
    """
    batch = placement.batch_like(abstract(batch))
    state, recording = placement._traced(program, jax.random.key(0), batch)
    state = jax.tree.map(sharded_struct, state, placement._places(state, recording))
    # Arrays of the program become shapes, which do not need devices.
    shapes = jax.tree.map(
        lambda leaf: sharded_struct(leaf, placement.whole) if is_array(leaf) else leaf, program
    )
    step: Any = make_step(shapes, placement=placement)
    quick = _QUICK if placement.mesh.devices.flat[0].platform == "cpu" else None
    compiled = step.lower(state, batch).compile(compiler_options=quick)
    memory = compiled.memory_analysis()
    rows = {path: _row(leaf) for path, leaf in flatten_with_paths(state)}
    parts = Counter[str]()
    for path, row in rows.items():
        parts[path[0] if path else "state"] += row.bytes_per_device
    gradients = 0
    for one in recording.declared():
        ends = (path for path in rows if path[len(path) - len(one.path) :] == one.path)
        nearest = min(ends, key=len, default=None)
        if one.trained and nearest is not None:
            found = (*one.prefix, *one.path)
            gradients += rows[found if found in rows else nearest].bytes_per_device
    given, kept = memory.argument_size_in_bytes, memory.alias_size_in_bytes
    return Plan(
        mesh=dict(placement.mesh.shape),
        rows={paths.text(path): row for path, row in rows.items()},
        parts=dict(parts),
        state=parts.total(),
        batch=sum(_row(leaf).bytes_per_device for leaf in jax.tree.leaves(batch)),
        gradients=gradients,
        activations=max(0, memory.temp_size_in_bytes - gradients),
        total=given + memory.output_size_in_bytes - kept + memory.temp_size_in_bytes,
        collectives=collectives(compiled),
    )


def _row(leaf: Any) -> Array:
    split = ", ".join("-" if entry is None else str(entry) for entry in leaf.sharding.spec)
    shapes = leaf.shape, leaf.sharding.shard_shape(leaf.shape)
    return Array(describe(leaf), split, *(math.prod(one) * leaf.dtype.itemsize for one in shapes))
