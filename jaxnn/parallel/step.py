"""The training step on a mesh: the same step, whose state stays where it lies."""

from collections.abc import Callable
from typing import Any

import jax
from jax.lax import with_sharding_constraint
from jax.sharding import Mesh

from ..core.declarations import abstract
from ..core.layer import Layer
from ..train import TrainState
from ..train.optimizer import as_pytree
from ..train.step import Donating, Step, check_options, check_parts, pair, pure_step, remembered
from ..train.task import Loss, Metrics
from .gathering import gathered
from .layout import Layout
from .rules import Rules


def make_step(
    net: Layer, task: Loss, optimizer: Any, mesh: Mesh, rules: Rules, **options: Any
) -> Step:
    """A jitted training step on a mesh: `ts, metrics = step(ts, batch)`, as `train.make_step`.

    The numbers are those of one device, to the rounding of sums in another order: a batch is one
    batch, wherever its rows lie, for losses, metrics and batch norm. The state comes from
    `parallel.create` and the batch from `parallel.shard_batch`. The new state lies as the old one
    did, whose memory is donated; metrics are whole on every device. `options` are those of
    `train.make_step`. With a `precision`, weights are gathered and gradients summed in its type.

    Raises as `train.make_step`, and ValueError at the first call where the rules do not fit the
    network.

    >>> import jax.numpy as jnp, optax
    >>> from jaxnn import Dense, parallel, train
    >>> net, task, optimizer = Dense(1), train.Regression(), optax.sgd(0.1)
    >>> mesh, rules = parallel.mesh(data=1), parallel.FSDP
    >>> x, y = jnp.ones((4, 2)), jnp.ones(4)
    >>> ts = parallel.create(net, optimizer, jax.random.key(0), x, mesh, rules)
    >>> step = parallel.make_step(net, task, optimizer, mesh, rules)
    >>> ts, metrics = step(ts, parallel.shard_batch((x, y), mesh))
    >>> int(ts.step), list(metrics)
    (1, ['loss', 'mae'])
    """
    check_parts(net, task, optimizer)
    check_options(**({"accumulate": 1, "norms": None, "precision": None} | options))
    numbers, structure = jax.tree.flatten(as_pytree(optimizer))
    compiled = compiled_step(net, task, structure, Layout(mesh, rules), tuple(options.items()))
    return Donating(compiled, numbers)


@remembered
def compiled_step(
    net: Layer,
    task: Loss,
    structure: Any,
    layout: Layout,
    options: tuple[tuple[str, Any], ...] = (),
) -> Callable[..., Any]:
    """The jitted function `(ts, batch, *numbers)` of a step."""

    def step(ts: TrainState, batch: Any, *numbers: Any) -> tuple[TrainState, Metrics]:
        optimizer = jax.tree.unflatten(structure, numbers)
        return sharded_step(net, task, optimizer, layout, ts, batch, **dict(options))

    return jax.jit(step, donate_argnums=0)


def sharded_step(
    net: Layer,
    task: Loss,
    optimizer: Any,
    layout: Layout,
    ts: TrainState,
    batch: Any,
    **options: Any,
) -> tuple[TrainState, Metrics]:
    """`train.pure_step` on a mesh, as a plain pure function, to jit or scan.

    It pins the batch, the weights in use, the gradients' sums and the new state to where the layout
    has them, so that XLA has little to choose.
    """
    batch = with_sharding_constraint(batch, layout.batch)
    x = abstract(pair(batch)[0])
    new, metrics = pure_step(gathered(net, layout, x), task, optimizer, ts, batch, **options)
    new = with_sharding_constraint(new, layout.state_shardings(net, optimizer, x))
    return new, with_sharding_constraint(metrics, layout.whole)
