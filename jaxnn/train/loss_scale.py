"""dynamic_loss_scale: a factor that keeps small gradients of float16 from becoming zero."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..fields import is_traced
from .apply_if_finite import SkipNonfinite, SkipState
from .optimizer import Optimizer, states_of


class LossScaleState(NamedTuple):
    """The factor on the loss, the good steps since it last changed, and what is inside."""

    scale: jax.Array
    good: jax.Array
    inner: SkipState


class LossScaled:
    """What `dynamic_loss_scale` gives."""

    skips = True

    def __init__(self, optimizer: Any, initial: Any, period: Any, factor: Any) -> None:
        self.inner = SkipNonfinite(optimizer)
        self.initial, self.period, self.factor = initial, period, factor

    def init(self, params: Any) -> LossScaleState:
        """The first factor, and the optimizer's state."""
        scale = jnp.asarray(self.initial, jnp.float32)
        return LossScaleState(scale, jnp.zeros((), jnp.int32), self.inner.init(params))

    def update(
        self, updates: Any, state: LossScaleState, params: Any = None, **extra: Any
    ) -> tuple[Any, LossScaleState]:
        """The optimizer's updates for gradients that are divided by the factor already."""
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
    """An optimizer for a loss times a factor, which follows the range of float16.

    A step of training multiplies the loss by the factor and divides the gradients, of the
    parameters' own type, by it. If they are not finite, the step is skipped, as by
    `apply_if_finite`, and the factor is divided by `factor`, down to 1; after `period` good steps
    in a row it is multiplied. It is for `nn.Precision(net, "float16")`, whose smallest number is
    6e-8; bfloat16 has the range of float32 and needs none. Metrics are those of the plain loss, and
    have `loss_scale`, the factor of the step, and `skipped`. Put it around other wrappers of an
    optimizer. Raises ValueError for an initial factor or a period below 1, and a factor that is not
    above 1.

    Reference: Micikevicius et al., Mixed precision training, 2018.

    >>> import jax.numpy as jnp, optax
    >>> optimizer, params = dynamic_loss_scale(optax.sgd(0.1), initial=8.0), jnp.ones(2)
    >>> _, opt_state = optimizer.update(jnp.array([1.0, jnp.inf]), optimizer.init(params))
    >>> opt_state.scale.item()
    4.0
    """
    for name, number in (("initial", initial), ("period", period)):
        if not is_traced(number) and not 1 <= number < math.inf:
            raise ValueError(f"dynamic_loss_scale: {name} is a finite number >= 1, got {number!r}")
    if not is_traced(factor) and not 1 < factor < math.inf:
        raise ValueError(f"dynamic_loss_scale: factor is a finite number > 1, got {factor!r}")
    return Optimizer(LossScaled, optimizer, initial=initial, period=period, factor=factor)


def scale_of(opt_state: Any) -> jax.Array | None:
    """The factor on the loss that an optimizer's state holds; None if there is none.

    Raises ValueError for more than one.
    """
    states = states_of(opt_state, LossScaleState)
    if len(states) > 1:
        raise ValueError(
            f"the optimizer scales the loss {len(states)} times; put one train.dynamic_loss_scale "
            "around the whole optimizer"
        )
    return states[0].scale if states else None


def unscaled(gradients: Any, scale: jax.Array | None) -> Any:
    """The gradients of the loss, from those of the loss times a factor."""
    if scale is None:
        return gradients
    return jax.tree.map(lambda gradient: gradient / scale.astype(gradient.dtype), gradients)
