"""The training step: forward, loss, backward, update."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

from ..core import paths
from ..core.calls import is_outside
from ..core.layer import Layer
from .optimizer import as_pytree
from .state import TrainState
from .task import Loss, Metrics, losses_and_metrics

Step: TypeAlias = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def step_key(ts: TrainState) -> jax.Array:
    """The random key of the step that comes next."""
    return jax.random.fold_in(paths.as_key(ts.key), ts.step)


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, remembering what it made for equal arguments, so that they share one program.

    Inside a transform everything is made anew: what is made there may hold traced numbers, which
    must not outlive it.
    """
    cached = functools.lru_cache(maxsize=128)(make)

    @functools.wraps(make)
    def made(*arguments: Any) -> Any:
        return (cached if is_outside() else make)(*arguments)

    return made


def make_step(net: Layer, task: Loss, optimizer: Any) -> Step:
    """A jitted training step: `ts, metrics = step(ts, (x, y))`.

    It computes the loss and its gradient by `jax.value_and_grad`, and updates the parameters by the
    optimizer. `metrics` holds scalars by name: `loss`, and those of the task. The memory of `ts` is
    donated: use the one returned. Equal networks, tasks and optimizers share one compiled program.

    Args:
        net: the network; its forward takes x as its one input.
        task: a `Task`, or any function loss(outputs, targets) that gives a scalar.
        optimizer: an optax optimizer, or `train.Optimizer`, whose numbers cost no compilation.

    >>> import jax, jax.numpy as jnp, optax
    >>> from jaxnn import Dense
    >>> net, optimizer = Dense(1), optax.sgd(0.1)
    >>> x, y = jnp.ones((4, 2)), jnp.ones(4)
    >>> ts = TrainState.create(net, optimizer, jax.random.key(0), x)
    >>> step = make_step(net, lambda outputs, targets: jnp.mean(outputs), optimizer)
    >>> ts, metrics = step(ts, (x, y))
    >>> int(ts.step), list(metrics)
    (1, ['loss'])
    """
    check_parts(net, task, optimizer)
    numbers, structure = jax.tree.flatten(as_pytree(optimizer))
    compiled = _compiled_step(net, task, structure)
    return (lambda ts, batch: compiled(ts, batch, *numbers)) if numbers else compiled


def pure_step(
    net: Layer, task: Loss, optimizer: Any, ts: TrainState, batch: Any
) -> tuple[TrainState, Metrics]:
    """The step as a plain pure function, to jit, scan or vmap."""
    x, targets = batch
    key = step_key(ts)

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        outputs, state = net.apply(params, x, state=ts.state, key=key, train=True)
        loss, metrics = losses_and_metrics(task, outputs, targets)
        return loss, (metrics, state)

    grads, (metrics, state) = jax.grad(loss_of, has_aux=True)(ts.params)
    updates, opt_state = optimizer.update(grads, ts.opt_state, ts.params)
    params = optax.apply_updates(ts.params, updates)
    return TrainState(params, state, opt_state, ts.step + 1, ts.key), metrics


@remembered
def _compiled_step(net: Layer, task: Loss, optimizer: Any) -> Callable[..., Any]:
    def step(ts: TrainState, batch: Any, *numbers: Any) -> tuple[TrainState, Metrics]:
        return pure_step(net, task, jax.tree.unflatten(optimizer, numbers), ts, batch)

    return jax.jit(step, donate_argnums=0)


def check_parts(net: Any, task: Any, optimizer: Any) -> None:
    """Raise TypeError where one of them is something else, or stands in another's place."""
    if not isinstance(net, Layer):
        raise TypeError(f"the network is a layer, got {net!r}; write nn.Serial(...), say")
    if isinstance(task, type) or not callable(task):
        raise TypeError(
            f"the task is a train.Task or a function loss(outputs, targets), got {task!r}; write "
            "train.Classification(10), say"
        )
    if isinstance(task, Layer):
        raise TypeError(f"the task is no layer, got {task!r}; write train.Classification(10), say")
    if isinstance(optimizer, type) or not (
        hasattr(optimizer, "init") and hasattr(optimizer, "update")
    ):
        raise TypeError(
            f"the optimizer has init and update, as optax.adam(1e-3) has; got {optimizer!r}"
        )
