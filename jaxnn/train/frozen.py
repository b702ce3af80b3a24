"""Trained and frozen parameters: no optimizer receives what is under `nn.Inference`.

`Partition` splits a tree of parameters in two, each with None in place of the other's leaves. The
optimizer, the gradients, and the averages are trees of the trained part, so they have no leaf for a
frozen parameter; a step joins the two parts again. Which parameters are frozen follows from the
network's own declaration.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..core.layer import Layer
from .optimizer import Optimizer, as_pytree, updated


@dataclasses.dataclass(frozen=True)
class Partition:
    """Which parameters are frozen, in the order of the leaves, as a hashable value."""

    structure: Any
    frozen: tuple[bool, ...]

    @classmethod
    def of(cls, net: Layer, *inputs: Any, **named: Any) -> "Partition":
        """The partition of a network's parameters, from `net.spec(*inputs, **named)`."""
        leaves, structure = jax.tree.flatten(net.spec(*inputs, **named))
        return cls(structure, tuple(param.frozen for param in leaves))

    def split(self, tree: Any) -> tuple[Any, Any]:
        """(trained, frozen): the tree twice, each with None for the leaves of the other part."""
        leaves, structure = jax.tree.flatten(tree)
        if structure != self.structure:
            raise ValueError(
                f"the optimizer was made for parameters with the structure {self.structure}, got "
                f"{structure}: these are the parameters of another network; write "
                "train.TrainState.create(net, optimizer, key, x), or, in a loop of your own, "
                "train.for_network(optimizer, net, x)"
            )
        pairs = [*zip(leaves, self.frozen, strict=True)]
        trained = [None if still else leaf for leaf, still in pairs]
        frozen = [leaf if still else None for leaf, still in pairs]
        return jax.tree.unflatten(structure, trained), jax.tree.unflatten(structure, frozen)

    def join(self, trained: Any, frozen: Any) -> Any:
        """The tree that `split` was given."""
        parts = [self.structure.flatten_up_to(part) for part in (trained, frozen)]
        several = zip(*parts, self.frozen, strict=True)
        return jax.tree.unflatten(self.structure, [b if still else a for a, b, still in several])

    def trained(self, tree: Any) -> Any:
        """The trained part of a tree like the parameters; any other value as it is."""
        like = jax.tree.structure(tree) == self.structure
        return self.split(tree)[0] if like else tree


class OnTrained:
    """The optimizer that `for_network` makes: one that receives only the trained parameters."""

    def __init__(self, optimizer: Any, partition: Partition) -> None:
        self.inner, self.partition = as_pytree(optimizer), partition

    def init(self, params: Any) -> Any:
        """The state of the trained parameters."""
        return self.inner.init(self.partition.split(params)[0])

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        """The updates, which leave the frozen parameters as they are, and the optimizer's state."""
        part = self.partition
        given, still = part.split(updates)
        if params is not None:
            params, still = part.split(params)

        def joined(item: Any) -> Any:
            trained = jax.tree.structure(item) == jax.tree.structure(given)
            return part.join(item, still) if trained else item

        def of_trained(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)  # optax looks at the names of its parameters
            def of_trained(*args: Any, **named: Any) -> Any:
                named = {name: joined(item) for name, item in named.items()}
                return part.trained(function(*map(joined, args), **named))

            return of_trained

        more = {
            name: of_trained(item) if callable(item) else part.trained(item)
            for name, item in extra.items()
        }
        found, state = updated(self.inner, given, state, params, **more)
        return part.join(found, jax.tree.map(_no_update, still)), state


def on_trained(optimizer: Any, partition: Partition) -> Optimizer:
    """An optimizer of all parameters that leaves the frozen ones as they are."""
    return Optimizer(OnTrained, optimizer, partition)


def parts_of(optimizer: Any) -> tuple[Any, Partition | None]:
    """The optimizer of the trained parameters, and which these are; None for all of them."""
    if isinstance(optimizer, Optimizer) and optimizer.factory is OnTrained:
        inner, partition = optimizer.parts
        return as_pytree(inner), partition
    return optimizer, None


def _no_update(leaf: Any) -> jax.Array:
    """What can be added to an array without a change: -0 + -0 is -0, but -0 + 0 is 0."""
    zero = jnp.zeros_like(leaf)
    return -zero if jnp.issubdtype(zero.dtype, jnp.inexact) else zero
