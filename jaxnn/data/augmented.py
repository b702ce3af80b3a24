"""Training data whose batches are augmented on the device, in compiled code."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxnn.explain.text import describe
from jaxnn.printing import code

# What the second parameter of a function of the inputs alone is called.
INPUTS = ("x", "images")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Augmented:
    """Data, and a function that changes each training batch: a value for `data=`.

    The function is pure and runs on the device, inside the compiled step, with a separate key for
    each step. It is one of

        function(key, batch) -> batch           # a pytree of rows, of any structure
        function(key, x) -> x                   # the inputs of a pair; `x` or `images` by name
        function(key, x, y) -> (x, y)           # both of a pair; with a parameter named `y`

    so `random_flip`, `cutmix`, and `Augmentation` are such functions. The second also applies to
    the inputs of (inputs, targets, weights), and to a batch that is one array. A function that runs
    on the host belongs in a generator or a Grain pipeline instead.

    Args:
        source: any data that a run takes: a pytree of rows, a `Source`, a DataLoader; or Augmented
            data, whose function is applied first.
        function: the augmentation. It must be hashable; runs with an equal one share a compiled
            program, so write a function or a `functools.partial` and not a lambda in a loop.

    Raises:
        TypeError: the function is not callable, takes other arguments, or cannot be hashed.

    >>> import jax.numpy as jnp
    >>> from jaxnn.data import random_flip
    >>> data = Augmented((jnp.zeros((8, 4, 4)), jnp.arange(8)), random_flip)
    >>> x, y = data.augment(jax.random.key(0), data.source)
    >>> x.shape, y.shape
    ((8, 4, 4), (8,))
    """

    source: Any
    function: Callable[..., Any]

    def __post_init__(self) -> None:
        """Reject what is not an augmentation."""
        parameters(self.function)
        try:
            hash(self.function)
        except TypeError:
            raise TypeError(
                f"the augmentation {self.function!r:.60} cannot be hashed, so that no compiled "
                "program can be found by it: write a function, or functools.partial(function, "
                "pixels=2) of numbers and text"
            ) from None

    def __repr__(self) -> str:
        """The source, of arrays their shapes and types, and the function."""
        return f"Augmented({describe(self.source)}, {code(self.function)})"

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions of this and all inner augmented data, in the order of their application."""
        inner = self.source.functions if isinstance(self.source, Augmented) else ()
        return (*inner, self.function)

    def augment(self, key: jax.Array, batch: Any) -> Any:
        """The batch after all functions. One function gets `key`; of several, i `fold_in(key, i)`.

        Args:
            key: a JAX key.
            batch: a pytree of rows.
        """
        return augmented(self.functions, key, batch)


def augmented(functions: tuple[Callable[..., Any], ...], key: jax.Array, batch: Any) -> Any:
    """The batch after augmentations in turn: what a compiled step calls.

    >>> augmented((lambda key, batch: {"x": batch["x"] + 1},), jax.random.key(0), {"x": 1})
    {'x': 2}
    """
    if len(functions) == 1:
        return _applied(functions[0], key, batch)
    for index, function in enumerate(functions):
        batch = _applied(function, jax.random.fold_in(key, index), batch)
    return batch


def _applied(function: Callable[..., Any], key: jax.Array, batch: Any) -> Any:
    names = parameters(function)
    parts = len(batch) if isinstance(batch, tuple | list) else 0
    if "y" in names:
        if parts != 2:
            raise TypeError(
                f"the augmentation {function!r:.60} takes (key, x, y), but a batch is "
                f"{_kind(batch)}: write a function of (key, batch) that returns the batch"
            )
        return _like(batch, function(key, *batch))
    if names[1] in INPUTS and parts in (2, 3):
        x, *rest = batch
        return _like(batch, (function(key, x), *rest))
    return function(key, batch)


def _like(batch: Any, parts: Any) -> Any:
    """The parts as the same kind of sequence as the batch."""
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def _kind(batch: Any) -> str:
    size = f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else ""
    return f"a {type(batch).__name__}{size}"


def parameters(function: Callable[..., Any]) -> list[str]:
    """Names of the positional parameters of an augmentation; TypeError if they are not two."""
    try:
        names = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        names = []
    if len(names) < 2:
        raise TypeError(
            f"an augmentation is a function of (key, batch), (key, x), or (key, x, y), got "
            f"{function!r:.60}: write data.Augmented(source, data.random_flip), or "
            "data.Augmented(source, lambda key, batch: batch)"
        )
    return names
