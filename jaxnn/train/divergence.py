"""What is done about a loss that is no longer finite, and where it came from."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.layer import Layer
from ..inspect.nonfinite import first_nonfinite
from .feed import Augment, Feed, augmented
from .optimizer import as_pytree
from .state import TrainState
from .step import pure_step, step_key
from .task import Loss, losses_and_metrics


class Diverged(ValueError):
    """The loss of a run is no longer a finite number.

    Args:
        message: at which step, where the first value that is not finite came about, what to write.
        history: the records before.
    """

    def __init__(self, message: str, history: list[dict[str, float]]) -> None:
        super().__init__(message)
        self.history = history


class Good:
    """A copy of the last state that was well, to go back to, and where the run was then."""

    def __init__(self, ts: TrainState, step: int, position: Any) -> None:
        self.ts, self.step, self.position = jax.tree.map(jnp.copy, ts), step, position

    def back(self, step: int) -> TrainState:
        """The state, with the count of steps where the run is: its keys and batches are others."""
        return jax.tree.map(jnp.copy, self.ts)._replace(step=jnp.asarray(step, jnp.int32))


def origin(
    net: Layer,
    task: Loss,
    optimizer: Any,
    augment: Augment | None,
    ts: TrainState,
    batches: Iterable[Any],
    **options: Any,
) -> tuple[int, str] | None:
    """The first of the steps after `ts` that gives something not finite, and what that is.

    It takes the steps again, one by one. None where all are finite.
    """
    optimizer = as_pytree(optimizer)

    @jax.jit
    def one(ts: TrainState, batch: Any) -> Any:
        batch = augmented(augment, ts, batch)
        after, metrics = pure_step(net, task, optimizer, ts, batch, **options)
        return after, metrics, jnp.isfinite(sum(map(jnp.sum, jax.tree.leaves(metrics))))

    for batch in batches:
        after, _, finite = one(ts, batch)
        where = _where(net, task, augment, ts, batch, after, bool(finite))
        if where is not None:
            return int(ts.step) + 1, where
        ts = after
    return None


def cause(
    net: Layer,
    task: Loss,
    optimizer: Any,
    augment: Augment | None,
    feed: Feed,
    good: Good | None,
    ts: TrainState,
    step: int,
    options: dict[str, Any],
) -> str:
    """Where the first value that is not finite came about, as far as can be known."""
    if good is None:
        where = first_in(ts.params) or first_in(ts.state)
        return f"{where} is the first array that is not finite" if where else "no array tells why"
    batches = feed.again(good.step, step - good.step, good.position)
    found = origin(net, task, optimizer, augment, good.ts, batches, **options)
    if found is None:
        return f"none of the steps {good.step + 1:,} to {step:,} is not finite when taken again"
    return f"the first value that is not finite came in step {found[0]:,}, at {found[1]}"


def told(loss: float, step: int, cause: str) -> str:
    """What to say of a run that is stopped."""
    return (
        f"the training loss is {loss} after step {step:,}: the run diverged; {cause}. Write a "
        "smaller learning rate, clip the gradients by optax.clip_by_global_norm(1.0), or write "
        "on_divergence='roll back'"
    )


def first_in(tree: Any) -> str | None:
    """The path of the first array in a tree that holds NaN or infinity."""
    for path, leaf in paths.walk(tree):
        numbers = np.asarray(leaf)
        if jnp.issubdtype(numbers.dtype, jnp.inexact) and not np.isfinite(numbers).all():
            return paths.text(path)
    return None


def _where(
    net: Layer,
    task: Loss,
    augment: Augment | None,
    ts: TrainState,
    batch: Any,
    after: TrainState,
    finite: bool,
) -> str | None:
    updated = first_in(after.params)
    if finite and updated is None:
        return None
    x, y = augmented(augment, ts, batch)
    key = step_key(ts)
    layer = first_nonfinite(net, ts.params, x, state=ts.state, key=key, train=True)
    if layer is not None:
        return layer
    if not finite:
        return "the loss, of outputs that are finite"

    def loss(params: Any) -> jax.Array:
        outputs, _ = net.apply(params, x, state=ts.state, key=key, train=True)
        return losses_and_metrics(task, outputs, y)[0]

    gradient = first_in(jax.jit(jax.grad(loss))(ts.params))
    return f"the gradient of {gradient}" if gradient else f"the update of {updated}"
