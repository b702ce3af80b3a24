"""Meshes, which are grids of devices with named axes, and batches whose rows are split over them.

`initialize` starts several processes that train one program together, each with its own devices.
"""

import atexit
import functools
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..data.check import saturated
from ..data.rows import check_divisible
from ..train.hooks.stopping import is_peer_lost, peer_lost
from ..validation import Accepts, integer, is_int, positive
from .rules import placed

# Mesh axes that split a batch into rows, the outermost first. Every other axis splits weights only.
BATCH_AXES = ("replica", "data")

_SIZE_OR_REST = Accepts(
    "an int >= 1, or -1 for the rest", lambda size: is_int(size) and (size >= 1 or size == -1)
)


def mesh(**axes: int) -> Mesh:
    """Arrange devices in a grid with named axes: `parallel.mesh(data=2, model=4)` is 2 x 4.

    The axes `data` and `replica` split the rows of a batch, and rules may split weights by any
    axis. Devices along the last axis have the fastest connections to each other. XLA partitions the
    computation (`AxisType.Auto`).

    Args:
        **axes: The size of each axis. One size may be -1, for all remaining devices.

    Raises:
        ValueError: The mesh has more devices than exist, a size is not valid, or the mesh omits
            devices of one of several processes.

    >>> dict(mesh(data=-1).shape) == {"data": jax.device_count()}
    True
    """
    _check_axes(axes, _SIZE_OR_REST)
    devices, processes = jax.device_count(), jax.process_count()
    known = math.prod(size for size in axes.values() if size != -1)
    has_rest = -1 in axes.values()
    sizes = {name: devices // known if size == -1 else size for name, size in axes.items()}
    count = math.prod(sizes.values())
    problem = ""
    if known > devices or (has_rest and devices % known):
        wanted = f"a multiple of {known}" if has_rest else str(known)
        problem = (
            f"needs {wanted} devices, but jax.devices() has {devices}; make an axis smaller, or, "
            "to try it on a CPU, start Python with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={known}"
        )
    elif processes > 1 and count < devices:
        problem = (
            f"has {count} devices, but the {processes} processes have {devices}, and each must "
            "contribute all of its devices: write -1 for an axis"
        )
    if problem:
        written = ", ".join(f"{name}={size}" for name, size in axes.items())
        raise ValueError(f"parallel.mesh({written}) {problem}")
    types = (AxisType.Auto,) * len(sizes)
    used = jax.devices()[:count]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=used)


def abstract_mesh(**axes: int) -> Mesh:
    """Return a mesh of any number of simulated devices, for planning and compilation only.

    `parallel.plan`, `Placement.shardings`, and `jax.jit(f).lower(...).compile()` work with it. The
    simulated devices are CPU devices, separate from `jax.devices()`.

    Args:
        **axes: The size of each axis.

    Raises:
        ValueError: The size of an axis is not an int >= 1.

    >>> dict(abstract_mesh(data=64, model=4).shape)
    {'data': 64, 'model': 4}
    """
    _check_axes(axes, positive)
    sizes = tuple(axes.values())
    devices = np.array(_simulated(math.prod(sizes))).reshape(sizes)
    return Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(sizes))


@functools.lru_cache(maxsize=8)
def _simulated(count: int) -> list[Any]:
    # A second client, because the number of devices of JAX's client is fixed at its first use.
    from jaxlib import xla_client

    return xla_client.make_cpu_client(num_devices=count).devices()


_AXES = Accepts(
    "at least one, of which one may be -1",
    lambda axes: bool(axes) and [*axes.values()].count(-1) <= 1,
    hint="write parallel.mesh(data=-1)",
)


def _check_axes(axes: dict[str, Any], size: Accepts) -> None:
    for name, item in axes.items():
        size(item, f"the axis {name!r} of a mesh")
    _AXES(axes, "the axes of a mesh")


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Place a batch on the devices of a mesh, with its rows split between them.

    Args:
        batch: A pytree of arrays of rows, such as (x, y), on the host or a device. If there are
            several processes, each passes the rows that it has read, and the batch consists of
            all of them in the order of the processes; processes whose devices hold the same rows
            pass the same rows.
        mesh: The mesh, from `parallel.mesh`.

    Raises:
        ValueError: The rows of an array cannot be split into equal parts.

    >>> import jax.numpy as jnp
    >>> from jaxnn import parallel
    >>> x, y = shard_batch((jnp.ones((4, 2)), jnp.ones(4)), parallel.mesh(data=1))
    >>> x.shape, y.shape
    ((4, 2), (4,))
    """
    rows = row_sharding(mesh)
    here = rows.addressable_devices_indices_map((row_parts(mesh),)).values()
    check_rows_fit(batch, mesh, len(set(map(repr, here))))  # a slice has no hash
    batch = jax.tree.map(saturated, batch)
    if jax.process_count() == 1:
        return jax.device_put(batch, rows)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(rows, np.asarray(leaf)), batch
    )


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """Return the axes of a mesh that split the rows of a batch."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays of rows."""
    return placed(mesh, P(batch_axes(mesh)))


def row_parts(mesh: Mesh) -> int:
    """Return the number of parts into which a mesh splits the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def check_rows_fit(batch: Any, mesh: Mesh, parts: int) -> None:
    """Raise ValueError if the rows of a batch cannot be split into a number of equal parts."""
    sizes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in batch_axes(mesh))
    hint = f"{sizes} of the mesh needs them: write a batch_size that is a multiple of"
    check_divisible(batch, parts, f"{hint} {row_parts(mesh)}")


_ADDRESS = Accepts(
    '"host:port"', lambda text: isinstance(text, str) and bool(re.fullmatch(r".+:\d+", text))
)
_DIGITS = Accepts("the digits of an int >= 0", str.isdecimal)


def initialize(
    coordinator: str | None = None, processes: int | None = None, index: int | None = None
) -> None:
    """Connect the processes of a run, so that `jax.devices()` lists the devices of all processes.

    Every process calls this function once, before any other use of JAX, and then runs the same
    code: it creates the same mesh, state, and steps, with its own rows of each batch
    (`parallel.shard_batch`). Metrics are the same in all processes. `parallel.is_first()` is True
    in one process, which writes files and prints.

    Without arguments, the values are read from the environment: from `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES`, and `JAX_PROCESS_ID` (or `JOB_COMPLETION_INDEX`, which Kubernetes sets in
    an Indexed Job); otherwise from Slurm's variables, under `srun` with several tasks; otherwise
    from the API of Kubernetes, which needs the package `kubernetes`. If none of these is available,
    the run has one process, and the function does nothing.

    If one process dies, the others cannot continue. Each of them reports it in one line instead of
    a traceback, and exits with status 1 at once, because JAX would wait for the dead process.

    Args:
        coordinator: "host:port" of the process with index 0; the port must be free on that host.
            Default: None, from the environment.
        processes: The number of processes. Default: None, from the environment.
        index: The index of this process, from 0. Default: None, from the environment.

    Raises:
        ValueError: Only some of the arguments are given, or their values are not valid.
        RuntimeError: JAX was already used, or this function was already called.

    Reference: `jax.distributed.initialize`, which this function calls.
    """
    given = coordinator, processes, index
    found: Any = from_environment(os.environ) if given == (None, None, None) else given
    if found is None:
        return
    if found:
        hint = (
            'write parallel.initialize("host:1234", processes=2, index=0), or '
            "parallel.initialize() if the environment states them"
        )
        _ADDRESS(found[0], "coordinator", hint)
        integer(0, positive(found[1], "processes", hint) - 1)(found[2], "index", hint)
    jax.distributed.initialize(*found)
    if jax.process_count() > 1:
        _report_lost_peers()


def is_first() -> bool:
    """Return whether this is the process with index 0, or the only one.

    >>> is_first()
    True
    """
    return jax.process_index() == 0


def from_environment(
    environment: Mapping[str, str],
) -> tuple[str, int, int] | tuple[()] | None:
    """Return coordinator, processes, and index; () if JAX finds them; None for a single process.

    >>> from_environment({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2",
    ...                   "JOB_COMPLETION_INDEX": "1"})
    ('a:1', 2, 1)
    >>> from_environment({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"})
    ()
    """
    names = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
    coordinator, processes, index = map(environment.get, names)
    index = environment.get("JOB_COMPLETION_INDEX") if index is None else index
    if coordinator is not None and processes is not None and index is not None:
        counts = {"JAX_NUM_PROCESSES": processes, "JAX_PROCESS_ID": index}
        count, own = (_DIGITS(text, name) for name, text in counts.items())
        return coordinator, int(count), int(own)
    # Under sbatch alone there is one process, whatever the number of tasks.
    slurm = {"SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS"} <= set(environment)
    several = slurm and environment["SLURM_NTASKS"] != "1"
    pods = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment)
    return () if several or pods else None


def _report_lost_peers() -> None:
    """Report the death of another process in one line; other errors as before."""
    before = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not is_peer_lost(error):
            return before(kind, error, trace)
        print(f"error: {peer_lost(error)}", file=sys.stderr)
        # Registered last, it runs first: before JAX waits for the dead process, and aborts.
        atexit.register(_leave)

    sys.excepthook = report


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
