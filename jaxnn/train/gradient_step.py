"""A gradient step of an optimizer, whose gradients may not be finite: the step of `Minimize`."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ..arrays import widened
from ..core import paths
from ..data.rows import check_divisible
from ..functional.convolution import looped
from ..keys import kept_key
from ..validation import Accepts, is_number, one_of, require
from .for_network import ForNetwork, layout_of
from .metrics import (
    Derived,
    Ratio,
    Sum,
    check_metric_names,
    terms_of,
    value_of,
    with_part,
    without_collected,
)
from .optimizer import (
    Optimizer,
    as_pytree,
    first_updated,
    optimizer_like,
    states_of,
    updated,
)
from .program import TrainState
from .task import Metrics
from .wrapped_optimizers import without_gradient

_AROUND = "write train.dynamic_loss_scale around the whole optimizer, and no other one"


class SkipState(NamedTuple):
    """The state of the optimizer inside, and whether the last step was applied."""

    inner: Any
    finite: jax.Array
    skipped: jax.Array


class SkipNonfinite:
    """The optimizer that `apply_if_finite` makes."""

    def __init__(self, optimizer: Any) -> None:
        self.inner: Any = as_pytree(optimizer)

    def init(self, params: Any) -> SkipState:
        """Return the optimizer's state, with nothing skipped."""
        inner = self.inner.init(params)
        inside = len(states_of(inner, SkipState))
        one_of(0)(inside, "the number of optimizers that skip steps inside of another one", _AROUND)
        return SkipState(inner, jnp.array(True), jnp.zeros((), jnp.int32))

    def update(
        self, updates: Any, state: SkipState, params: Any = None, **extra: Any
    ) -> tuple[Any, SkipState]:
        """Return the optimizer's updates and state, or zeros and the state before."""
        every = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)]
        finite = functools.reduce(jnp.logical_and, every, jnp.array(True))
        new, inner = updated(self.inner, updates, state.inner, params, **extra)
        new = choose_tree(finite, new, jax.tree.map(jnp.zeros_like, new))
        skipped = state.skipped + jnp.where(finite, 0, 1)
        return new, SkipState(choose_tree(finite, inner, state.inner), finite, skipped)


def apply_if_finite(optimizer: Any) -> Optimizer:
    """Return an optimizer that skips each step whose gradients are not finite.

    A skipped step does not change the parameters, the optimizer's state (including its step count),
    or the network's state; `state.step` is incremented, so the next step uses another batch and
    key. The metrics of each step include `skipped`, 1 or 0, and the records of a run omit all other
    metrics of skipped steps. Apply this function last, around other wrappers of an optimizer. An
    optimizer that already skips such steps is returned unchanged. `opt_state.finite` is True if the
    last step was applied, and `opt_state.skipped` is the number of skipped steps.

    Args:
        optimizer: An optax optimizer or a `train.Optimizer`.

    >>> import jax.numpy as jnp, optax
    >>> optimizer, params = apply_if_finite(optax.adam(0.1)), jnp.ones(2)
    >>> updates, opt_state = optimizer.update(jnp.array([1.0, jnp.nan]), optimizer.init(params))
    >>> updates.tolist(), opt_state.skipped.item()
    ([0.0, 0.0], 1)
    """
    optimizer_like(optimizer, "apply_if_finite.optimizer")
    return optimizer if _skips(optimizer) else Optimizer(SkipNonfinite, optimizer)


class LossScaleState(NamedTuple):
    """The factor of the loss, the finite steps since it last changed, and the state inside."""

    scale: jax.Array
    good: jax.Array
    inner: SkipState


class LossScaled:
    """The optimizer that `dynamic_loss_scale` makes."""

    def __init__(self, optimizer: Any, initial: Any, period: Any, factor: Any) -> None:
        self.inner: SkipNonfinite = SkipNonfinite(optimizer)
        self.initial: Any = initial
        self.period: Any = period
        self.factor: Any = factor

    def init(self, params: Any) -> LossScaleState:
        """Return the first factor, and the optimizer's state."""
        scale = jnp.asarray(self.initial, jnp.float32)
        return LossScaleState(scale, jnp.zeros((), jnp.int32), self.inner.init(params))

    def update(
        self, updates: Any, state: LossScaleState, params: Any = None, **extra: Any
    ) -> tuple[Any, LossScaleState]:
        """Return the optimizer's updates for gradients that are already divided by the factor."""
        updates, inner = self.inner.update(updates, state.inner, params, **extra)
        good = state.good + 1
        grown = state.scale * self.factor
        grows = (good >= self.period) & jnp.isfinite(grown)
        up = jnp.where(grows, grown, state.scale)
        down = jnp.maximum(state.scale / self.factor, 1)
        scale = jnp.where(inner.finite, up, down).astype(jnp.float32)
        good = jnp.where(inner.finite & (good < self.period), good, 0)
        return updates, LossScaleState(scale, good, inner)


def dynamic_loss_scale(
    optimizer: Any, initial: Any = 2.0**15, period: Any = 2000, factor: Any = 2.0
) -> Optimizer:
    """Return an optimizer with dynamic loss scaling, for training in float16.

    A training step multiplies the loss by a scale and divides the gradients by it, in the type of
    the parameters. If the gradients are not finite, the step is skipped, as by `apply_if_finite`,
    and the scale is divided by `factor`, down to 1. After `period` consecutive finite steps the
    scale is multiplied by `factor`. Use it with `nn.Precision(net, "float16")`, because the
    smallest positive number of float16 is 6e-8; bfloat16 has the range of float32 and does not need
    it. Metrics are those of the unscaled loss and include `loss_scale`, the scale of the step, and
    `skipped`. Apply this function last, around other wrappers of an optimizer.

    Args:
        optimizer: An optax optimizer or a `train.Optimizer`.
        initial: The initial scale, >= 1. Default: 32768.
        period: Number of consecutive finite steps before the scale grows, >= 1. Default: 2000.
        factor: Factor by which the scale is multiplied or divided, > 1. Default: 2.

    Raises:
        ValueError: An argument is out of range.

    Reference: Micikevicius et al., Mixed precision training, 2018.

    >>> import jax.numpy as jnp, optax
    >>> optimizer, params = dynamic_loss_scale(optax.sgd(0.1), initial=8.0), jnp.ones(2)
    >>> _, opt_state = optimizer.update(jnp.array([1.0, jnp.inf]), optimizer.init(params))
    >>> opt_state.scale.item()
    4.0
    """
    optimizer_like(optimizer, "dynamic_loss_scale.optimizer")
    _at_least_1(initial, "dynamic_loss_scale.initial")
    _at_least_1(period, "dynamic_loss_scale.period")
    _above_1(factor, "dynamic_loss_scale.factor")
    return Optimizer(LossScaled, optimizer, initial=initial, period=period, factor=factor)


def loss_scale_of(opt_state: Any) -> jax.Array | None:
    """Return the factor of the loss in an optimizer's state, None if it has none.

    Raises ValueError for more than one.
    """
    states = states_of(opt_state, LossScaleState)
    one_of(0, 1)(len(states), "the number of loss scales of the optimizer", _AROUND)
    return states[0].scale if states else None


def choose_tree(condition: jax.Array, new: Any, old: Any) -> Any:
    """Return one of two trees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _skips(optimizer: Any) -> bool:
    """Return whether an optimizer skips steps."""
    if not isinstance(optimizer, Optimizer):
        return False
    if optimizer.factory is ForNetwork:
        return _skips(optimizer.parts[0])
    return optimizer.factory in (SkipNonfinite, LossScaled)


_at_least_1 = Accepts(
    "a finite number >= 1", lambda value: is_number(value) and 1 <= value < math.inf, traced=True
)
_above_1 = Accepts(
    "a finite number > 1", lambda value: is_number(value) and 1 < value < math.inf, traced=True
)


# (params, state, batch, key) -> gradients, metrics, state
Gradients = Callable[[Any, Any, Any, jax.Array], tuple[Any, Any, Any]]


def step_key(state: TrainState) -> jax.Array:
    """Return the random key of the next step."""
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
    """Take a step of an optimizer down the gradient of a loss, as a pure function.

    Args:
        loss_of: Maps (params, state, batch, key) to ((loss, metrics), state). The loss is a scalar,
            a mean over the rows, or a `Ratio` or a sum of them; the metrics have the loss, too.
        optimizer: As `for_network` returns it; parameters under `nn.Inference` are not changed.
        ts: The state before the step.
        batch: A pytree of rows.
        accumulate: The number of micro-batches, which are processed in sequence. Default: 1.
        log_norms: A pattern of parameter paths whose norms become metrics. Default: None.

    Returns:
        The state after the step, and the metrics of the whole batch. `Collected` metrics are
        dropped. If the optimizer may skip steps, `skipped` is 1 for a step that changed nothing.
    """
    scale = loss_scale_of(ts.opt_state)
    layout = layout_of(optimizer)
    trained, still = (ts.params, None) if layout is None else layout.split(ts.params)
    arguments = trained, ts.state, batch, step_key(ts)

    def whole(trained: Any) -> Any:
        return trained if layout is None else layout.join(trained, still)

    counts = total_counts(loss_of, accumulate, ts.params, *arguments[1:])

    def objective(trained: Any, *rest: Any) -> tuple[jax.Array, Any]:
        params = whole(without_gradient(optimizer, trained))
        (loss, metrics), state = loss_of(params, *rest)
        if counts is not None:
            # The gradients of micro-batches are averaged: multiply by the number of micro-batches,
            # and divide by the counts of the whole batch.
            pairs = zip(terms_of(loss, 1), counts, strict=True)
            loss = sum(accumulate * term.sum / jnp.where(n == 0, 1, n) for term, n in pairs)
        loss = value_of(loss)
        scaled = loss if scale is None else loss * scale.astype(loss.dtype)
        return scaled, (without_collected(metrics), state)

    def gradients(*arguments: Any) -> tuple[Any, Any, Any]:
        grads, (metrics, state) = jax.grad(objective, has_aux=True)(*arguments)
        if scale is not None:
            grads = jax.tree.map(lambda grad, s=scale: grad / s.astype(grad.dtype), grads)
        return grads, metrics, state

    grads, metrics, state = accumulated(gradients, accumulate, *arguments)

    def loss_at(trained: Any, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
        # optax's line searches reject arguments that this function does not declare.
        del obj_fn, grad_fn

        def loss_only(*arguments: Any) -> tuple[Any, Any, Any]:
            _, (metrics, state) = objective(*arguments)
            return {}, {"loss": metrics["loss"]}, state

        _, metrics, _ = accumulated(loss_only, accumulate, trained, *arguments[1:])
        return value_of(metrics["loss"])

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
        norms = norms_by_path(log_norms, grads, updates)
        check_metric_names(metrics, norms, "the objective")
        metrics |= norms
    if skipping := states_of(opt_state, SkipState):
        applied = jnp.all(jnp.stack([one.finite for one in skipping]))
        state = choose_tree(applied, state, ts.state)
        metrics["skipped"] = 1 - applied.astype(jnp.float32)
    if scale is not None:
        metrics["loss_scale"] = scale
    return TrainState(params, state, opt_state, ts.step + 1, ts.key), metrics


def norms_by_path(pattern: str, gradients: Any, updates: Any) -> Metrics:
    """Return `gradient_norm` and `update_norm`, of all parameters and of each that matches.

    A norm is the square root of the sum of squares, computed in at least float32; those by path are
    called `gradient_norm/PATH` and `update_norm/PATH`. Parameters stacked by `Repeat` count as one;
    parameters under `nn.Inference`, for which the trees have None, do not count.

    Args:
        pattern: A pattern of paths. Raises ValueError if no path matches it.
        gradients: A tree like the parameters.
        updates: Another one.

    >>> import jax.numpy as jnp
    >>> norms = norms_by_path("*/w", ({"w": jnp.array([3.0, 4.0])},), ({"w": jnp.zeros(2)},))
    >>> {name: float(norm) for name, norm in norms.items()}
    {'gradient_norm': 5.0, 'gradient_norm/0/w': 5.0, 'update_norm': 0.0, 'update_norm/0/w': 0.0}
    """
    found: Metrics = {}
    for name, tree in (("gradient_norm", gradients), ("update_norm", updates)):
        leaves = {paths.text(path): leaf for path, leaf in paths.walk(tree) if leaf is not None}
        squares = {path: jnp.sum(jnp.square(leaf)) for path, leaf in widened(leaves).items()}
        matching = [path for path in squares if paths.matches(pattern, path)]
        what = f"a pattern that matches one of {', '.join(squares) or 'no parameters'}"
        require(matching, "log_norms", what, pattern)
        found[name] = jnp.sqrt(sum(squares.values()))  # type: ignore[arg-type]
        found |= {f"{name}/{path}": jnp.sqrt(squares[path]) for path in matching}
    return found


def accumulated(
    gradients: Gradients, count: int, params: Any, state: Any, batch: Any, key: jax.Array
) -> tuple[Any, Any, Any]:
    """Return the means of gradients and metrics over micro-batches, and the state after them.

    Only one micro-batch is in memory at a time. Micro-batch i has the rows i, i + count, ... and
    the key `fold_in(key, i)`; each passes its state to the next. A mean over the rows, such as a
    loss, has the gradient of the whole batch; statistics of a batch norm are those of a
    micro-batch. Sums are accumulated in at least float32.

    Args:
        gradients: Maps (params, state, batch, key) to gradients, metrics, and state.
        count: The number of micro-batches. Raises ValueError if it does not divide the rows.
        params, state, batch, key: The arguments of `gradients`, of the whole batch.
    """
    if count == 1:
        return gradients(params, state, batch, key)
    batches, first = _micro_batches(batch, count)
    shapes, metrics, _ = jax.eval_shape(gradients, params, state, first, key)

    def zeros(leaf: Any) -> Any:  # of the type in which sums do not overflow
        return widened(jnp.zeros(leaf.shape, jax.eval_shape(jnp.sum, leaf).dtype))

    def one(carry: Any, micro: Any) -> tuple[Any, None]:
        state, sums = carry
        batch, number = micro
        below = jax.random.fold_in(key, number)
        grads, metrics, state = gradients(params, state, batch, below)
        added = jax.tree.map(lambda total, new: total + new.astype(total.dtype), sums[0], grads)
        parts = {name: with_part(total, metrics[name]) for name, total in sums[1].items()}
        return (state, (added, parts)), None

    start = jax.tree.map(zeros, (shapes, metrics))
    with looped():
        (state, sums), _ = lax.scan(one, (state, start), (batches, np.arange(count)))

    def mean(total: Any) -> Any:  # the sums of a ratio are those of the whole batch
        return total if isinstance(total, Ratio | Derived) else total / count

    grads = jax.tree.map(lambda total, like: (total / count).astype(like.dtype), sums[0], shapes)
    metrics = jax.tree.map(mean, sums[1], is_leaf=lambda node: isinstance(node, Ratio | Derived))
    return grads, metrics, state


def total_counts(
    loss_of: Callable[..., Any], count: int, params: Any, state: Any, batch: Any, key: jax.Array
) -> list[jax.Array] | None:
    """Return the counts of a loss's ratios, summed over micro-batches; None for a plain scalar.

    The loss of a whole batch is divided by these, so they are computed before the gradients. They
    rarely depend on the network; if they do not, XLA removes the network from this pass.

    Args:
        loss_of: As for `gradient_step`.
        count: The number of micro-batches; if it is 1, the result is None.
        params, state, batch, key: The arguments of `loss_of`, for the whole batch.
    """
    if count == 1:
        return None
    batches, first = _micro_batches(batch, count)
    (loss, _), _ = jax.eval_shape(loss_of, params, state, first, key)
    if not isinstance(loss, Ratio | Sum):
        return None

    def counts(micro: Any) -> list[jax.Array]:
        batch, number = micro
        (loss, _), _ = loss_of(params, state, batch, jax.random.fold_in(key, number))
        return [jnp.asarray(term.count, jnp.float32) for term in terms_of(loss, 1)]

    several = lax.map(counts, (batches, np.arange(count)))
    return [lax.stop_gradient(jnp.sum(each)) for each in several]


def _micro_batches(batch: Any, count: int) -> tuple[Any, Any]:
    """Return rows (n, ...) as micro-batches (count, n / count, ...), and the first of them."""

    hint = "write accumulate=n for an n that divides the rows, or another batch_size"
    check_divisible(batch, count, f"accumulate={count} needs them: {hint}")

    def cut(rows: Any) -> jax.Array:
        rows = jnp.asarray(rows)
        # Every count-th row, not consecutive ones: rows split among devices do not move.
        several = rows.reshape(rows.shape[0] // count, count, *rows.shape[1:])
        return jnp.moveaxis(several, 1, 0)

    batches = jax.tree.map(cut, batch)
    return batches, jax.tree.map(lambda rows: rows[0], batches)
