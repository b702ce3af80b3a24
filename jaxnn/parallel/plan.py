"""plan: what a training step on a mesh will take, before anything is allocated or run."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ..core import paths
from ..core.declarations import abstract
from ..core.layer import Layer, declared
from ..explain.text import describe
from ..inspect import table
from ..train import TrainState
from ..train.frozen import Partition
from ..train.optimizer import as_pytree
from ..train.step import check_parts
from ..train.task import Loss, Task
from .collectives import Collective, collectives
from .layout import Layout
from .mesh import batch_axes
from .rules import Rules
from .step import compiled_step

# How a CPU's code is made says nothing of its memory: made quickly.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Array:
    """A parameter: its shape and type, the mesh axes that split it, its bytes, and a device's."""

    shape: str
    split: str
    bytes: int
    bytes_a_device: int


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """The bytes that one device holds in a training step, and what the devices exchange in it.

    `parameters`, `optimizer`, `state` (the network's state, the step and the key) and `batch` are
    what a step is given. `gradients` are as large as the parameters outside of `nn.Inference`.
    `activations` are all else that is alive when most is. `total` is XLA's own account of the whole
    step. `rows` are the parameters by path. Its text is a table, and a notebook shows it as HTML.
    """

    mesh: dict[str, int]
    rows: dict[str, Array]
    parameters: int
    optimizer: int
    state: int
    batch: int
    gradients: int
    activations: int
    total: int
    collectives: dict[str, Collective]

    def __str__(self) -> str:
        return table.text(*self._table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return table.html(*self._table())

    def _table(self) -> tuple[list[table.Line], list[table.Line]]:
        whole = sum(row.bytes for row in self.rows.values())
        lines = [
            ("Path", "Array", "Split by", "Bytes", "A device"),
            *(
                (path, table.shape(row.shape), row.split, *map(table.binary, _sizes(row)))
                for path, row in self.rows.items()
            ),
            ("total", "", "", table.binary(whole), table.binary(self.parameters)),
        ]
        names = ("parameters", "optimizer", "state", "batch", "gradients", "activations", "total")
        notes = [(name, table.binary(getattr(self, name)).strip()) for name in names]
        notes += [
            (kind, f"{one.times:,} a step, {table.binary(one.bytes).strip()}")
            for kind, one in self.collectives.items()
        ]
        mesh = " x ".join(f"{axis}={size}" for axis, size in self.mesh.items())
        return lines, [("mesh", mesh), *((name, f"{note} a device") for name, note in notes)]


def _sizes(row: Array) -> tuple[int, int]:
    return row.bytes, row.bytes_a_device


def plan(
    net: Layer,
    optimizer: Any,
    x: Any,
    mesh: Mesh,
    rules: Rules,
    *,
    task: Loss | None = None,
    targets: Any = None,
) -> Plan:
    """What a training step of `net` takes on a mesh: bytes a device, and what is exchanged.

    The step is compiled as `parallel.make_step` would have it, for the devices of the mesh, and
    nothing is allocated or run, so the network may be larger than any memory. On the mesh of
    `parallel.abstract_mesh(data=16, model=16)` there need be no such devices: the step is compiled
    for as many of the CPU's. There, arrays that live for a moment may be more than on a GPU, whose
    compiler fuses more, and products in bfloat16 are computed in float32.

    Args:
        net: the network; its forward takes x as its one input.
        optimizer: an optax optimizer or a `train.Optimizer`.
        x: the whole batch, an array or a `jax.ShapeDtypeStruct`.
        mesh: the mesh, from `parallel.mesh` or `parallel.abstract_mesh`.
        rules: the table that says how parameters are split.
        task: a `Task`, or any loss(outputs, targets); the mean of the outputs where None.
        targets: the targets, as `x` is given; those that the task wants where None.

    Raises ValueError as `parallel.shardings`, and where the mesh does not divide the batch.

    >>> import optax, jaxnn as nn
    >>> from jaxnn import parallel
    >>> net, x = nn.Dense(8, bias=False), jax.ShapeDtypeStruct((16, 32), "float32")
    >>> mesh = parallel.abstract_mesh(data=4)
    >>> found = parallel.plan(net, optax.adam(1e-3), x, mesh, parallel.FSDP)
    >>> found.parameters, found.optimizer, found.batch
    (256, 516, 512)
    >>> list(found.collectives)
    ['all-gather', 'all-reduce']
    """
    check_parts(net, _mean if task is None else task, optimizer)
    layout = Layout(mesh, rules)
    x = abstract(x)
    _check_rows(x, mesh)
    batch = x, abstract(_targets(net, task, x) if targets is None else targets)
    batch = _placed(batch, jax.tree.map(lambda _: layout.batch, batch))
    spec = net.spec(x)
    places = layout.state_shardings(net, optimizer, x)
    shapes = jax.eval_shape(lambda: TrainState.create(net, optimizer, jax.random.key(0), x))
    ts = _placed(shapes, places)
    numbers, structure = jax.tree.flatten(as_pytree(optimizer))
    step = compiled_step(net, _mean if task is None else task, structure, layout)
    quick = _QUICK if mesh.devices.flat[0].platform == "cpu" else None
    compiled = step.lower(ts, batch, *numbers).compile(compiler_options=quick)
    memory = compiled.memory_analysis()
    gradients = _bytes(Partition.of(net, x).split(ts.params)[0])
    given, kept = memory.argument_size_in_bytes, memory.alias_size_in_bytes
    return Plan(
        mesh=dict(mesh.shape),
        rows=_rows(spec, places.params),
        parameters=_bytes(ts.params),
        optimizer=_bytes(ts.opt_state),
        state=_bytes((ts.state, ts.step, ts.key)),
        batch=_bytes(batch),
        gradients=gradients,
        activations=max(0, memory.temp_size_in_bytes - gradients),
        total=given + memory.output_size_in_bytes - kept + memory.temp_size_in_bytes,
        collectives=collectives(compiled),
    )


def _mean(outputs: Any, targets: Any) -> jax.Array:
    return sum(jnp.mean(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(outputs))  # type: ignore[return-value]


def _targets(net: Layer, task: Loss | None, x: Any) -> Any:
    if task is None:
        return ()
    if not isinstance(task, Task):
        raise ValueError(
            f"{task!r} does not say what its targets are: write parallel.plan(..., targets="
            "jax.ShapeDtypeStruct(shape, dtype))"
        )
    outputs: Any = declared(net, "forward", (x,), {}).output
    dtype = "float32" if task.classes is None else "int32"
    return jax.ShapeDtypeStruct(outputs.shape[:-1], dtype)


def _check_rows(x: Any, mesh: Mesh) -> None:
    parts = 1
    for axis in batch_axes(mesh):
        parts *= mesh.shape[axis]
    for leaf in jax.tree.leaves(x):
        if not leaf.ndim or leaf.shape[0] % parts:
            raise ValueError(
                f"x is {describe(leaf)}, whose rows do not fall into the {parts} parts that the "
                f"mesh splits a batch in; make the batch a multiple of {parts}"
            )


def _placed(tree: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree, places
    )


def _bytes(tree: Any) -> int:
    return sum(
        jax.ShapeDtypeStruct(a.sharding.shard_shape(a.shape), a.dtype).size * a.dtype.itemsize
        for a in jax.tree.leaves(tree)
    )


def _rows(spec: Any, places: Any) -> dict[str, Array]:
    found = dict(paths.walk(places))
    rows = {}
    for path, param in paths.walk(spec):
        array = jax.ShapeDtypeStruct(param.shape, param.dtype, sharding=found[path])
        split = ", ".join("-" if entry is None else str(entry) for entry in found[path].spec)
        rows[paths.text(path)] = Array(
            describe(array), split, array.size * array.dtype.itemsize, _bytes(array)
        )
    return rows
