"""Where a run's arrays are and how a step is made there: on one device, or on a mesh.

`fit` asks a `Placement` for both. `Here` is one device; `jaxnn.parallel` has the one of a mesh.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from ..core.layer import Layer
from .state import TrainState
from .step import pure_step
from .task import Loss, Metrics


class Placement(Protocol):
    """A hashable value that says where arrays lie."""

    def create(self, net: Layer, optimizer: Any, key: jax.Array, x: Any) -> TrainState:
        """`TrainState.create`, there."""
        ...

    def step(
        self,
        net: Layer,
        task: Loss,
        optimizer: Any,
        ts: TrainState,
        batch: Any,
        **options: Any,
    ) -> tuple[TrainState, Metrics]:
        """`pure_step`, there."""
        ...

    def whole(self, array: Any) -> jax.Array:
        """An array that every device has."""
        ...

    def batches(self, batches: Any) -> Any:
        """Batches stacked along a first axis, each device with its rows of them."""
        ...


@dataclasses.dataclass(frozen=True)
class Here:
    """JAX's default device."""

    def create(self, net: Layer, optimizer: Any, key: jax.Array, x: Any) -> TrainState:
        """`TrainState.create`."""
        return TrainState.create(net, optimizer, key, x)

    def step(
        self, net: Layer, task: Loss, optimizer: Any, ts: TrainState, batch: Any, **options: Any
    ) -> tuple[TrainState, Metrics]:
        """`pure_step`."""
        return pure_step(net, task, optimizer, ts, batch, **options)

    def whole(self, array: Any) -> jax.Array:
        """The array on the device."""
        return jnp.asarray(array)

    def batches(self, batches: Any) -> Any:
        """The batches on the device."""
        return jax.device_put(batches)


HERE = Here()


@dataclasses.dataclass(frozen=True)
class SingleDevice:
    """Where the arrays of a program lie by default: on JAX's default device.

    `parallel.Placement` has the same methods for a mesh.
    """

    def init(self, program: Any, key: jax.Array, batch: Any) -> Any:
        """The state before the first step."""
        return program.init(key, batch)

    def like(self, tree: Any) -> Any:
        """Shapes and types, with the sharding that the arrays are to have."""
        return tree

    def pinned(self, state: Any) -> Any:
        """The state that a step returns, inside compiled code, where it is to lie."""
        return state

    def pinned_batch(self, batch: Any) -> Any:
        """A batch inside compiled code, where it is to lie."""
        return batch

    def put(self, tree: Any) -> Any:
        """Arrays of which each device needs all rows."""
        return jax.tree.map(jnp.asarray, tree)

    def put_batch(self, batch: Any) -> Any:
        """A batch that a source gave, of this process."""
        return jax.device_put(batch)


SINGLE_DEVICE = SingleDevice()
