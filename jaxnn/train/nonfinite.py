"""apply_if_finite and dynamic_loss_scale: steps whose gradients are not finite change nothing."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..validation import Accepts, is_number
from .for_network import ForNetwork
from .optimizer import Optimizer, as_pytree, states_of, updated


class SkipState(NamedTuple):
    """The state of the optimizer inside, and whether the last step was applied."""

    inner: Any
    finite: jax.Array
    skipped: jax.Array


class SkipNonfinite:
    """The optimizer that `apply_if_finite` makes."""

    skips = True

    inner: Any

    def __init__(self, optimizer: Any) -> None:
        self.inner = as_pytree(optimizer)

    def init(self, params: Any) -> SkipState:
        """Return the optimizer's state, with nothing skipped."""
        inner = self.inner.init(params)
        if states_of(inner, SkipState):
            raise ValueError(
                "an optimizer that skips steps has another one inside, whose state a "
                "skipped step would not update; write train.dynamic_loss_scale around the whole "
                "optimizer, and no other one"
            )
        return SkipState(inner, jnp.array(True), jnp.zeros((), jnp.int32))

    def update(
        self, updates: Any, state: SkipState, params: Any = None, **extra: Any
    ) -> tuple[Any, SkipState]:
        """Return the optimizer's updates and state, or zeros and the state before."""
        every = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)]
        finite = functools.reduce(jnp.logical_and, every, jnp.array(True))
        new, inner = updated(self.inner, updates, state.inner, params, **extra)
        new = chosen(finite, new, jax.tree.map(jnp.zeros_like, new))
        skipped = state.skipped + jnp.where(finite, 0, 1)
        return new, SkipState(chosen(finite, inner, state.inner), finite, skipped)


def apply_if_finite(optimizer: Any) -> Optimizer:
    """Return an optimizer that skips each step whose gradients are not finite.

    A skipped step does not change the parameters, the optimizer's state (including its step count),
    and the network's state; `state.step` is incremented, so the next step uses another batch and
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
    return optimizer if _skips(optimizer) else Optimizer(SkipNonfinite, optimizer)


class LossScaleState(NamedTuple):
    """The factor of the loss, the finite steps since it last changed, and the state inside."""

    scale: jax.Array
    good: jax.Array
    inner: SkipState


class LossScaled:
    """The optimizer that `dynamic_loss_scale` makes."""

    skips = True

    inner: SkipNonfinite
    initial: Any
    period: Any
    factor: Any

    def __init__(self, optimizer: Any, initial: Any, period: Any, factor: Any) -> None:
        self.inner = SkipNonfinite(optimizer)
        self.initial, self.period, self.factor = initial, period, factor

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
    _at_least_1(initial, "dynamic_loss_scale.initial")
    _at_least_1(period, "dynamic_loss_scale.period")
    _above_1(factor, "dynamic_loss_scale.factor")
    return Optimizer(LossScaled, optimizer, initial=initial, period=period, factor=factor)


def scale_of(opt_state: Any) -> jax.Array | None:
    """Return the factor of the loss in an optimizer's state, None if it has none.

    Raises ValueError for more than one.
    """
    states = states_of(opt_state, LossScaleState)
    if len(states) > 1:
        raise ValueError(
            f"the optimizer scales the loss {len(states)} times; put one train.dynamic_loss_scale "
            "around the whole optimizer"
        )
    return states[0].scale if states else None


def chosen(condition: jax.Array, new: Any, old: Any) -> Any:
    """Return one of two trees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def was_applied(opt_state: Any) -> jax.Array | None:
    """Return whether the last step was applied; None for an optimizer that skips none."""
    states = states_of(opt_state, SkipState)
    return jnp.all(jnp.stack([state.finite for state in states])) if states else None


def _skips(optimizer: Any) -> bool:
    """Return whether an optimizer skips steps."""
    if not isinstance(optimizer, Optimizer):
        return False
    if optimizer.factory is ForNetwork:
        return _skips(optimizer.parts[0])
    return getattr(optimizer.factory, "skips", False)


_at_least_1 = Accepts(
    "a finite number >= 1", lambda value: is_number(value) and 1 <= value < math.inf, traced=True
)
_above_1 = Accepts(
    "a finite number > 1", lambda value: is_number(value) and 1 < value < math.inf, traced=True
)
