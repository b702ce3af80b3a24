"""mesh: the devices as a grid with named axes."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

# Mesh axes that split a batch into rows, the outermost first. Every other axis splits weights only.
BATCH_AXES = ("replica", "data")


def mesh(**axes: int) -> Mesh:
    """The devices as a grid with the named axes: `parallel.mesh(data=2, model=4)` is 2 x 4 of them.

    One axis may be -1, for as many as there are devices for. The axes `data` and `replica` split a
    batch (and `data` the weights too, by the tables with FSDP), every other axis splits weights; of
    the names nothing else depends. The last axis has the devices that are closest to each other.
    Sharding over the axes is XLA's (`AxisType.Auto`): what a step computes is partitioned for it.

    Raises ValueError where the mesh is larger than the devices, for an axis that is no size, and
    where several processes would leave some of the devices out.

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


def check_axes(axes: dict[str, Any], rest: bool) -> None:
    """Raise ValueError where the axes are none, or one is no size; -1 is one where `rest`."""
    if not axes:
        raise ValueError("a mesh has at least one axis: write parallel.mesh(data=-1)")
    for name, size in axes.items():
        whole = isinstance(size, int) and not isinstance(size, bool)
        if not whole or (size < 1 and not (rest and size == -1)):
            or_rest = ", or -1 for the rest" if rest else ""
            raise ValueError(f"the axis {name!r} of a mesh is an int >= 1{or_rest}; got {size!r}")


def _sizes(axes: dict[str, Any], devices: int) -> dict[str, int]:
    check_axes(axes, rest=True)
    known = math.prod(size for size in axes.values() if size != -1)
    free = [name for name, size in axes.items() if size == -1]
    if len(free) > 1:
        raise ValueError(f"one axis of a mesh may be -1, got {_written(axes)}")
    if known > devices or (free and devices % known):
        wanted = f"a multiple of {known}" if free else str(known)
        raise ValueError(
            f"{_written(axes)} needs {wanted} devices, but there {_are(devices)}; make an axis "
            "smaller, or, to try it on a CPU, start Python with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={known}"
        )
    return {name: devices // known if size == -1 else size for name, size in axes.items()}


def _are(devices: int) -> str:
    return "is 1" if devices == 1 else f"are {devices}"


def _written(axes: dict[str, Any]) -> str:
    return f"parallel.mesh({', '.join(f'{name}={size}' for name, size in axes.items())})"


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes of the mesh that split a batch."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
