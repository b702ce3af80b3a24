"""Augmentations in turn, as one value."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxnn.core.values import Value
from jaxnn.printing import code


class Augmentation(Value):
    """Augmentations in turn, each by a key of its own: a function of (key, x, y) to (x, y).

    A part is a function of (key, x), such as `random_flip`, or one of (key, x, y) that gives both,
    such as `mixup`; which of them is told by its having a parameter `y`. Part i has the key
    `fold_in(key, i)`. Equal augmentations are equal and share one compiled program, with
    `functools.partial` for their numbers.

    Args:
        parts: the augmentations, the first one first.

    Raises:
        TypeError: a part is no function, or takes no key and x.

    >>> import jax.numpy as jnp
    >>> from functools import partial
    >>> from jaxnn.data import cutmix, random_flip, random_shift
    >>> augment = Augmentation(
    ...     partial(random_shift, pixels=2), random_flip, partial(cutmix, classes=10)
    ... )
    >>> x, y = augment(jax.random.key(0), jnp.zeros((4, 8, 8)), jnp.arange(4))
    >>> x.shape, y.shape
    ((4, 8, 8), (4, 10))
    """

    parts: tuple[Callable[..., Any], ...]

    def __init__(self, *parts: Callable[..., Any]) -> None:
        object.__setattr__(self, "parts", parts)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Refuse parts that are no augmentations."""
        for part in self.parts:
            takes_targets(part)

    def __call__(self, key: jax.Array, x: Any, y: Any) -> tuple[Any, Any]:
        """The batch after all parts."""
        for index, part in enumerate(self.parts):
            x, y = applied(part, jax.random.fold_in(key, index), x, y)
        return x, y

    def __repr__(self) -> str:
        return f"Augmentation({', '.join(map(code, self.parts))})"


def applied(augment: Callable[..., Any], key: jax.Array, x: Any, y: Any) -> tuple[Any, Any]:
    """The batch (x, y) after one augmentation, of (key, x) or of (key, x, y).

    >>> applied(lambda key, x: x + 1, jax.random.key(0), 1, 2)
    (2, 2)
    >>> applied(lambda key, x, y: (x + 1, y + 1), jax.random.key(0), 1, 2)
    (2, 3)
    """
    return augment(key, x, y) if takes_targets(augment) else (augment(key, x), y)


def takes_targets(augment: Callable[..., Any]) -> bool:
    """Whether an augmentation is one of (key, x, y), rather than of (key, x)."""
    try:
        free = [
            p.name
            for p in inspect.signature(augment).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        free = []
    if len(free) < 2:
        raise TypeError(
            f"an augmentation is a function of (key, x) or of (key, x, y), got {augment!r}: write "
            "data.random_flip, or functools.partial(data.random_shift, pixels=2)"
        )
    return "y" in free
