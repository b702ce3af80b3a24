"""Optimizers are optax's. `Optimizer` holds one as data, so that its numbers can change."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from ..core.values import is_traced


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class Optimizer:
    """An optax optimizer whose numbers are data: `Optimizer(optax.adam, learning_rate=1e-3)`.

    `optax.adam(1e-3)` hides its numbers in closures, so another learning rate is another compiled
    program. Here the numbers are leaves of a pytree: changing, sweeping or differentiating them
    costs no compilation. Everything else that the factory takes (flags, functions) is static. It
    has `init` and `update` as every optax optimizer, and stands wherever one does.

    >>> import jax, optax
    >>> slow = Optimizer(optax.sgd, learning_rate=0.1, nesterov=False)
    >>> slow
    Optimizer(optax.sgd, learning_rate=0.1, nesterov=False)
    >>> jax.tree.map(lambda number: 10 * number, slow)
    Optimizer(optax.sgd, learning_rate=1.0, nesterov=False)
    """

    factory: Callable[..., Any]
    numbers: dict[str, Any]
    static: tuple[tuple[str, Any], ...]

    def __init__(self, factory: Callable[..., Any], /, **arguments: Any) -> None:
        if not callable(factory):
            raise TypeError(
                f"Optimizer takes an optax function and its arguments, got {factory!r}; write "
                "Optimizer(optax.adam, learning_rate=1e-3)"
            )
        numbers = {name: item for name, item in arguments.items() if _is_number(item)}
        static = tuple((name, item) for name, item in arguments.items() if name not in numbers)
        vars(self).update(factory=factory, numbers=numbers, static=static)

    def init(self, params: Any) -> Any:
        """The optimizer's state for `params`."""
        return self._built().init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """Updates and the new state, as in optax."""
        return self._built().update(updates, state, params, **extra)

    def _built(self) -> Any:
        return self.factory(**dict(self.static), **self.numbers)

    def tree_flatten(self) -> tuple[Any, Any]:
        """The numbers, and what is static."""
        return tuple(self.numbers.values()), (self.factory, tuple(self.numbers), self.static)

    @classmethod
    def tree_unflatten(cls, aux: Any, numbers: Any) -> "Optimizer":
        """An optimizer with other numbers."""
        factory, names, static = aux
        self = object.__new__(cls)
        named = dict(zip(names, numbers, strict=True))
        vars(self).update(factory=factory, numbers=named, static=static)
        return self

    def __repr__(self) -> str:
        module = getattr(self.factory, "__module__", "").split(".")[0]
        name = getattr(self.factory, "__qualname__", repr(self.factory))
        items = [f"{name}={item!r}" for name, item in (*self.numbers.items(), *self.static)]
        return f"Optimizer({', '.join([f'{module}.{name}' if module else name, *items])})"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Fixed:
    """A plain optax optimizer as a pytree without leaves: equal to itself alone."""

    optimizer: optax.GradientTransformation

    def update(self, updates: Any, state: Any, params: Any = None) -> Any:
        """Updates and the new state, as in optax."""
        return self.optimizer.update(updates, state, params)


def as_pytree(optimizer: Any) -> Any:
    """The optimizer as a pytree that can be an argument of a jitted function."""
    return optimizer if isinstance(optimizer, Optimizer) else Fixed(optimizer)


def _is_number(item: Any) -> bool:
    if isinstance(item, bool):
        return False
    return isinstance(item, float | int | jax.Array) or is_traced(item)
