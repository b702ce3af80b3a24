"""A step of an optimizer down the gradient of a loss: what `Minimize` does."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..keys import kept_key
from .accumulation import accumulated, total_counts
from .apply_if_finite import chosen, was_made
from .for_network import layout_of
from .loss_scale import scale_of, unscaled
from .metrics import terms_of, value_of, without_collected
from .norms import norms_by_path
from .optimizer import first_updated
from .partition import without_gradient
from .state import TrainState


def step_key(state: TrainState) -> jax.Array:
    """The random key of the step that comes next."""
    return jax.random.fold_in(kept_key(state.key), state.step)


def gradient_step(
    loss_of: Callable[..., Any],
    optimizer: Any,
    ts: TrainState,
    batch: Any,
    *,
    accumulate: int = 1,
    log_norms: str | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """A step of an optimizer down the gradient of a loss, as a pure function.

    Args:
        loss_of: maps (params, state, batch, key) to ((loss, metrics), state). The loss is a scalar,
            a mean over the rows, or a `Ratio` or a sum of them; the metrics have the loss, too.
        optimizer: as `for_network` returns it; parameters under `nn.Inference` are not changed.
        ts: the state before the step.
        batch: a pytree of rows.
        accumulate: the number of micro-batches, which go through one after the other.
        log_norms: a pattern of parameter paths whose norms become metrics.

    Returns:
        The state after the step, and the metrics of the whole batch. `Collected` metrics are
        dropped. If the optimizer may skip steps, `skipped` is 1 for a step that changed nothing.
    """
    scale = scale_of(ts.opt_state)
    layout = layout_of(optimizer)
    trained, still = (ts.params, None) if layout is None else layout.split(ts.params)
    arguments = trained, ts.state, batch, step_key(ts)

    def whole(trained: Any) -> Any:
        return trained if layout is None else layout.join(trained, still)

    counts = None
    if accumulate > 1:
        counts = total_counts(loss_of, accumulate, ts.params, *arguments[1:])

    def objective(trained: Any, *rest: Any) -> tuple[jax.Array, Any]:
        params = whole(without_gradient(optimizer, trained))
        (loss, metrics), state = loss_of(params, *rest)
        if counts is not None:  # of the whole batch, since the means of micro-batches are taken
            pairs = zip(terms_of(loss, 1), counts, strict=True)
            loss = sum(accumulate * term.sum / jnp.where(n == 0, 1, n) for term, n in pairs)
        loss = value_of(loss)
        scaled = loss if scale is None else loss * scale.astype(loss.dtype)
        return scaled, (without_collected(metrics), state)

    def gradients(*arguments: Any) -> tuple[Any, Any, Any]:
        grads, (metrics, state) = jax.grad(objective, has_aux=True)(*arguments)
        return unscaled(grads, scale), metrics, state

    if accumulate == 1:
        grads, metrics, state = gradients(*arguments)
    else:
        grads, metrics, state = accumulated(gradients, accumulate, *arguments)

    def loss_at(trained: Any, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
        # optax's line searches refuse arguments that their function does not name.
        del obj_fn, grad_fn

        def loss_only(*arguments: Any) -> tuple[Any, Any, Any]:
            _, (metrics, state) = objective(*arguments)
            return {}, {"loss": metrics["loss"]}, state

        given = (trained, *arguments[1:])
        if accumulate == 1:
            return value_of(loss_only(*given)[1]["loss"])
        return value_of(accumulated(loss_only, accumulate, *given)[1]["loss"])

    updates, opt_state = first_updated(
        optimizer,
        grads,
        ts.opt_state,
        trained,
        value=value_of(metrics["loss"]),
        grad=grads,
        value_fn=loss_at,
        obj_fn=loss_at,
        grad_fn=lambda trained, _: jax.grad(loss_at)(trained),
    )
    params = whole(optax.apply_updates(trained, updates))
    if log_norms is not None:
        metrics |= norms_by_path(log_norms, grads, updates)
    made = was_made(opt_state)
    if made is not None:
        state = chosen(made, state, ts.state)
        metrics["skipped"] = 1 - made.astype(jnp.float32)
    if scale is not None:
        metrics["loss_scale"] = scale
    return TrainState(params, state, opt_state, ts.step + 1, ts.key), metrics
