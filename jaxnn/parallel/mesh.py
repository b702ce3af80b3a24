"""Meshes: the devices as a grid with named axes."""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

# Mesh axes that split a batch into rows, the outermost first. Every other axis splits weights only.
BATCH_AXES = ("replica", "data")


def mesh(**axes: int) -> Mesh:
    """The devices as a grid with named axes: `parallel.mesh(data=2, model=4)` has 2 x 4 of them.

    The axes `data` and `replica` split the rows of a batch, and rules may split weights by any
    axis. Devices along the last axis are the closest to each other. XLA partitions what is computed
    (`AxisType.Auto`).

    Args:
        **axes: the size of each axis. One may be -1, for all devices that are left.

    Raises:
        ValueError: a mesh that is larger than the number of devices, an axis that is not a size,
            or a mesh that leaves out devices of one of several processes.

    >>> dict(mesh(data=-1).shape) == {"data": jax.device_count()}
    True
    """
    sizes = _sizes(axes, jax.device_count())
    count = math.prod(sizes.values())
    if jax.process_count() > 1 and count < jax.device_count():
        raise ValueError(
            f"{_written(axes)} has {count} devices, but the {jax.process_count()} processes have "
            f"{jax.device_count()}, and each takes part with all of its own: write -1 for an axis"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:count],
    )


def abstract_mesh(**axes: int) -> Mesh:
    """A mesh of simulated devices, of any number: to plan and compile for, not to run on.

    `parallel.plan`, `Placement.shardings`, and `jax.jit(f).lower(...).compile()` work with it. The
    devices are those of a CPU, and separate from `jax.devices()`.

    Args:
        **axes: the size of each axis.

    Raises:
        ValueError: an axis that is not a size.

    >>> dict(abstract_mesh(data=64, model=4).shape)
    {'data': 64, 'model': 4}
    """
    _check_axes(axes, rest=False)
    sizes = tuple(axes.values())
    devices = np.array(_simulated(math.prod(sizes))).reshape(sizes)
    return Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(sizes))


@functools.lru_cache(maxsize=8)
def _simulated(count: int) -> list[Any]:
    # A second client: the number of devices of JAX's own is fixed by its first use.
    from jaxlib import xla_client

    return xla_client.make_cpu_client(num_devices=count).devices()


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes of a mesh that split the rows of a batch."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)


def _check_axes(axes: dict[str, Any], rest: bool) -> None:
    """Raise ValueError for no axes, or one that is not a size; `rest` accepts -1."""
    if not axes:
        raise ValueError("a mesh has at least one axis: write parallel.mesh(data=-1)")
    for name, size in axes.items():
        whole = isinstance(size, int) and not isinstance(size, bool)
        if not whole or (size < 1 and not (rest and size == -1)):
            or_rest = ", or -1 for the rest" if rest else ""
            raise ValueError(f"the axis {name!r} of a mesh is an int >= 1{or_rest}; got {size!r}")


def _sizes(axes: dict[str, Any], devices: int) -> dict[str, int]:
    _check_axes(axes, rest=True)
    known = math.prod(size for size in axes.values() if size != -1)
    free = [name for name, size in axes.items() if size == -1]
    if len(free) > 1:
        raise ValueError(f"one axis of a mesh may be -1, got {_written(axes)}")
    if known > devices or (free and devices % known):
        wanted = f"a multiple of {known}" if free else str(known)
        raise ValueError(
            f"{_written(axes)} needs {wanted} devices, but jax.devices() has {devices}; make an "
            "axis smaller, or, to try it on a CPU, start Python with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={known}"
        )
    return {name: devices // known if size == -1 else size for name, size in axes.items()}


def _written(axes: dict[str, Any]) -> str:
    return f"parallel.mesh({', '.join(f'{name}={size}' for name, size in axes.items())})"
