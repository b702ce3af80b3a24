"""A mesh of devices that there are not, to plan for."""

import functools
import math
from typing import Any

import numpy as np
from jax.sharding import AxisType, Mesh

from .mesh import check_axes


def abstract_mesh(**axes: int) -> Mesh:
    """A mesh as `parallel.mesh` gives, of as many simulated devices as it needs.

    They belong to a CPU, and to nothing else that JAX does in this process: `parallel.plan` and
    `jax.jit(f).lower(...).compile()` compile for them. Raises ValueError for an axis that is no
    size.

    >>> dict(abstract_mesh(data=64, model=4).shape)
    {'data': 64, 'model': 4}
    """
    check_axes(axes, rest=False)
    sizes = tuple(axes.values())
    devices = np.array(_devices(math.prod(sizes))).reshape(sizes)
    return Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(sizes))


@functools.lru_cache(maxsize=8)
def _devices(count: int) -> list[Any]:
    # A client beside JAX's own: the number of that one's devices is settled by its first use.
    from jaxlib import xla_client

    return xla_client.make_cpu_client(num_devices=count).devices()
