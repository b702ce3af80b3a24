"""Batches on a mesh: the rows of each array are split by the mesh axes `replica` and `data`."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..data.check import saturated
from ..explain.text import describe
from .mesh import batch_axes
from .rules import placed


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch on the devices of a mesh, each with its rows.

    Args:
        batch: a pytree of arrays of rows, such as (x, y), on the host or a device. If there are
            several processes, each passes the rows that it has read, and the batch is all of them
            in the order of the processes; processes whose devices share rows pass the same.
        mesh: the mesh, from `parallel.mesh`.

    Raises:
        ValueError: an array whose rows cannot be split into equal parts.

    >>> import jax.numpy as jnp
    >>> from jaxnn import parallel
    >>> x, y = shard_batch((jnp.ones((4, 2)), jnp.ones(4)), parallel.mesh(data=1))
    >>> x.shape, y.shape
    ((4, 2), (4,))
    """
    rows = row_sharding(mesh)
    here = rows.addressable_devices_indices_map((row_parts(mesh),)).values()
    check_rows(batch, mesh, len(set(map(repr, here))))  # a slice has no hash
    batch = jax.tree.map(saturated, batch)
    if jax.process_count() == 1:
        return jax.device_put(batch, rows)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(rows, np.asarray(leaf)), batch
    )


def row_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays of rows."""
    return placed(mesh, P(batch_axes(mesh)))


def row_parts(mesh: Mesh) -> int:
    """The number of parts into which a mesh splits the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def check_rows(batch: Any, mesh: Mesh, parts: int) -> None:
    """Raise ValueError if the rows of a batch cannot be split into a number of equal parts."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        shape = np.shape(leaf)
        if not shape or shape[0] % parts:
            where = jax.tree_util.keystr(path, simple=True, separator="/") or "the batch"
            sizes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in batch_axes(mesh))
            raise ValueError(
                f"{where} is {describe(leaf)}, whose rows cannot be split into the {parts} equal "
                f"parts that {sizes} of the mesh needs; write a batch_size that is a multiple of "
                f"{row_parts(mesh)}"
            )
