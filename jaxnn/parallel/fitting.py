"""The training loop on a mesh: the same loop, whose arrays lie by rules."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .. import train
from ..core.layer import Layer
from ..train.loop import Record
from ..train.task import Loss, Metrics
from .layout import Layout
from .rules import Rules
from .state import create
from .step import sharded_step


def fit(
    net: Layer,
    task: Loss,
    optimizer: Any,
    data: Any,
    *,
    mesh: Mesh,
    rules: Rules,
    key: jax.Array,
    **options: Any,
) -> tuple[train.TrainState, list[Record]]:
    """`train.fit` on a mesh; `options` are its own.

    Parameters and what the optimizer keeps lie by the rules from the start, and each device works
    on its rows of a batch. Data that are arrays lie whole on every device; a `data.Source` is read
    by each process in its share. Checkpoints are written by all processes together, and go on on
    any other mesh. Loggers and `report` are called in the first process alone.

    Raises as `train.fit`, and ValueError where the rules do not fit the network, or the devices do
    not divide a batch.

    >>> import jax.numpy as jnp, optax
    >>> from jaxnn import Dense, parallel, train
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> ts, history = parallel.fit(
    ...     Dense(1), train.Regression(), optax.adam(0.1), (x, 3 * x[:, 0]),
    ...     mesh=parallel.mesh(data=1), rules=parallel.FSDP, batch_size=16, epochs=2,
    ...     key=jax.random.key(0))
    >>> len(history)
    2
    """
    if jax.process_index() != 0:
        options |= {"report": None, "loggers": ()}
    placement = OnMesh(Layout(mesh, rules))
    return train.fit(net, task, optimizer, data, key=key, placement=placement, **options)


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """The `train.placement.Placement` of a layout."""

    layout: Layout

    def create(self, net: Layer, optimizer: Any, key: jax.Array, x: Any) -> train.TrainState:
        """`parallel.create`."""
        return create(net, optimizer, key, x, self.layout.mesh, self.layout.rules)

    def step(
        self,
        net: Layer,
        task: Loss,
        optimizer: Any,
        ts: train.TrainState,
        batch: Any,
        **options: Any,
    ) -> tuple[train.TrainState, Metrics]:
        """The step of `parallel.make_step`."""
        return sharded_step(net, task, optimizer, self.layout, ts, batch, **options)

    def whole(self, array: Any) -> jax.Array:
        """The array on every device."""
        return jax.device_put(np.asarray(array), self.layout.whole)

    def batches(self, batches: Any) -> Any:
        """Each process gives its rows of the batches."""
        spec = self.layout.batch.spec
        sharding = NamedSharding(self.layout.mesh, P(None, *spec))
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batches
        )
