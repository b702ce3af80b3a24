"""apply_if_finite: steps whose gradients are not finite change nothing."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .for_network import ForNetwork
from .optimizer import Optimizer, as_pytree, states_of, updated


class SkipState(NamedTuple):
    """The state of the optimizer inside, whether the last step was made, and how many were not."""

    inner: Any
    finite: jax.Array
    skipped: jax.Array


class SkipNonfinite:
    """What `apply_if_finite` gives."""

    skips = True

    def __init__(self, optimizer: Any) -> None:
        self.inner = as_pytree(optimizer)

    def init(self, params: Any) -> SkipState:
        """The optimizer's state, nothing skipped."""
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
        """The optimizer's updates and state, or zeros and the state before."""
        finite = all_finite(updates)
        new, inner = updated(self.inner, updates, state.inner, params, **extra)
        new = jax.tree.map(lambda update: jnp.where(finite, update, jnp.zeros_like(update)), new)
        skipped = state.skipped + jnp.where(finite, 0, 1)
        return new, SkipState(chosen(finite, inner, state.inner), finite, skipped)


def apply_if_finite(optimizer: Any) -> Optimizer:
    """An optimizer that skips each step whose gradients are not finite.

    Such a step leaves the parameters, the optimizer's state (its count of steps, too), and the
    network's state as they were; `state.step` is incremented, so the next step has another batch
    and key. The metrics of a step then have `skipped`, 1 or 0, and the records of a run leave out
    all other metrics of skipped steps. Put it around other wrappers of an optimizer. An optimizer
    that skips such steps already is returned as it is. `opt_state.finite` is whether the last step
    was made, and `opt_state.skipped` how many were not.

    Args:
        optimizer: an optax optimizer or a `train.Optimizer`.

    >>> import jax.numpy as jnp, optax
    >>> optimizer, params = apply_if_finite(optax.adam(0.1)), jnp.ones(2)
    >>> updates, opt_state = optimizer.update(jnp.array([1.0, jnp.nan]), optimizer.init(params))
    >>> updates.tolist(), opt_state.skipped.item()
    ([0.0, 0.0], 1)
    """
    return optimizer if _skips(optimizer) else Optimizer(SkipNonfinite, optimizer)


def _skips(optimizer: Any) -> bool:
    if not isinstance(optimizer, Optimizer):
        return False
    if optimizer.factory is ForNetwork:
        return _skips(optimizer.parts[0])
    return getattr(optimizer.factory, "skips", False)


def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of all arrays are finite."""
    every = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.logical_and, every, jnp.array(True))


def chosen(condition: jax.Array, new: Any, old: Any) -> Any:
    """One of two trees of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def was_made(opt_state: Any) -> jax.Array | None:
    """Whether the last step was made, by an optimizer that may skip some; None for others."""
    states = states_of(opt_state, SkipState)
    return jnp.all(jnp.stack([state.finite for state in states])) if states else None
