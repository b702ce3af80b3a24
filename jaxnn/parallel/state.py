"""The state of a training run, made where it lies; and batches, put where they belong."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ..core import paths
from ..core.layer import Layer
from ..data.check import saturated
from ..explain.text import describe
from ..keys import as_key, kept_key, kept_words
from ..train import TrainState
from ..watching import watching
from .layout import Layout
from .mesh import batch_axes
from .rules import Rules
from .watches import Drawing


def create(
    net: Layer, optimizer: Any, key: jax.Array, x: Any, mesh: Mesh, rules: Rules
) -> TrainState:
    """`train.TrainState.create(net, optimizer, key, x)`, each array of which is made in its parts.

    No device ever holds more than its own parts, and once more those of parameters of one kind,
    which are drawn together. Numbers are those of one device, to
    rounding, for JAX's default generator (`threefry2x32` with `jax_threefry_partitionable`, as it
    is set by default); other generators give others. `x` is an array or a `jax.ShapeDtypeStruct`, a
    batch or any part of one.

    Raises ValueError as `parallel.shardings` where the rules do not fit the parameters.

    >>> import optax
    >>> from jaxnn import Dense, parallel
    >>> x = jax.ShapeDtypeStruct((4, 2), "float32")
    >>> mesh, rules = parallel.mesh(data=1), parallel.FSDP
    >>> ts = parallel.create(Dense(8), optax.adam(0.1), jax.random.key(0), x, mesh, rules)
    >>> ts.params["w"].shape, ts.params["w"].sharding.mesh == mesh
    ((2, 8), True)
    """
    found = Layout(mesh, rules).state_shardings(net, optimizer, x)
    key = as_key(key)
    spec, places = dict(paths.walk(net.spec(x))), dict(paths.walk(found.params))

    def make(words: jax.Array) -> TrainState:
        with watching(Drawing([(spec, places)])):
            return TrainState.create(net, optimizer, kept_key(words), x)

    # On the host, the key's words are the same to all processes.
    return jax.jit(make, out_shardings=found)(np.asarray(kept_words(key)))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """A batch on the devices of the mesh, each with its rows.

    `batch` is an array or a tree of arrays such as (x, y), with one row an example, on the host or
    a device. Where there are several processes, each gives the rows that it has read, and the batch
    is all of them, in the order of the processes; those whose devices share rows give the same.

    Raises ValueError where the devices do not divide the rows.

    >>> import jax.numpy as jnp
    >>> from jaxnn import parallel
    >>> x, y = shard_batch((jnp.ones((4, 2)), jnp.ones(4)), parallel.mesh(data=1))
    >>> x.shape, y.shape
    ((4, 2), (4,))
    """
    sharding = Layout(mesh, ()).batch
    parts = _parts_here(mesh)
    for path, leaf in jax.tree.leaves_with_path(batch):
        if not np.ndim(leaf) or np.shape(leaf)[0] % parts:
            where = jax.tree_util.keystr(path) or "the batch"
            raise ValueError(
                f"{where} is {describe(leaf)}, whose rows do not fall into the {parts} parts that "
                f"{_written(mesh, batch_axes(mesh))} of the mesh has here; make the batch a "
                f"multiple of {parts}"
            )
    batch = jax.tree.map(saturated, batch)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch
    )


def _parts_here(mesh: Mesh) -> int:
    """How many different parts of a batch the devices of this process hold."""
    axes = [mesh.axis_names.index(axis) for axis in batch_axes(mesh)]
    here = [
        tuple(place[axis] for axis in axes)
        for place, device in np.ndenumerate(mesh.devices)
        if device.process_index == jax.process_index()
    ]
    return max(1, len(set(here)))


def _written(mesh: Mesh, axes: Sequence[str]) -> str:
    return " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
