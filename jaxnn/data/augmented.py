"""Training data whose batches are augmented on the device, in compiled code."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax

from jaxnn.core.values import Value
from jaxnn.explain.text import describe
from jaxnn.validation import Accepts

from ..fields import code

# The possible names of the second parameter of a function of the inputs alone.
INPUTS = ("x", "images")


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


_augmentation = Accepts(
    "a function of (key, batch), (key, x), or (key, x, y)",
    lambda value: len(_parameters(value)) >= 2,
    TypeError,
    "write data.random_flip, functools.partial(data.random_shift, pixels=2), or a function of "
    "(key, batch) that returns the batch",
)
_hashable = Accepts(
    "hashable, so that its compiled program can be found again",
    _is_hashable,
    TypeError,
    "write a function, or functools.partial(function, pixels=2) of numbers and text",
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Augmented:
    """Data with a function that augments each training batch, for the argument `data` of a run.

    The function is pure and runs on the device, inside the compiled step, with a separate key for
    each step. It is one of

        function(key, batch) -> batch           # a pytree of rows, of any structure
        function(key, x) -> x                   # the inputs of a pair; `x` or `images` by name
        function(key, x, y) -> (x, y)           # both of a pair; with a parameter named `y`

    so `random_flip`, `cutmix`, and `Augmentation` are such functions. The second form also applies
    to the inputs of (inputs, targets, weights), and to a batch that is a single array. Functions
    that run on the host belong in a generator or a Grain pipeline instead.

    Args:
        source: Data in any form that a run accepts, such as a pytree of rows, a `Source`, or a
            DataLoader. If it is `Augmented`, its function is applied first.
        function: The augmentation, which must be hashable. Runs with equal functions share a
            compiled program, so pass a function or a `functools.partial`, not a lambda that is made
            in a loop.

    Raises:
        TypeError: The function is not callable, takes other arguments, or cannot be hashed.

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
        """Raise if the function is not an augmentation, or cannot be hashed."""
        for accepts in (_augmentation, _hashable):
            accepts(self.function, "Augmented.function")

    def __repr__(self) -> str:
        """Return the source, with shapes and types of arrays, and the function."""
        return f"Augmented({describe(self.source)}, {code(self.function)})"

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions of this and all inner augmented data, in the order of their application."""
        inner = self.source.functions if isinstance(self.source, Augmented) else ()
        return (*inner, self.function)

    @property
    def bare(self) -> Any:
        """The innermost source, without any augmentation."""
        return self.source.bare if isinstance(self.source, Augmented) else self.source

    def augment(self, key: jax.Array, batch: Any) -> Any:
        """Apply all functions to a batch.

        Args:
            key: A JAX key. A single function receives it; of several, function i receives
                `fold_in(key, i)`.
            batch: A pytree of rows.
        """
        return augmented(self.functions, key, batch)


class Augmentation(Value):
    """Apply augmentations in sequence: a function of (key, x, y) that returns (x, y).

    Each part is a function of (key, x), such as `random_flip`, or of (key, x, y), such as `mixup`;
    see `Augmented`. Part i receives the key `fold_in(key, i)`. Augmentations with equal parts are
    equal and share one compiled program, so bind hyperparameters with `functools.partial`.

    Args:
        *parts: The augmentations, in the order of their application.

    Raises:
        TypeError: A part is not a function with these arguments.

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
        """Raise if a part is not an augmentation."""
        for index, part in enumerate(self.parts):
            _augmentation(part, f"Augmentation.parts[{index}]")

    def __call__(self, key: jax.Array, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the batch after all parts.

        Args:
            key: A JAX key.
            x: Inputs, (rows, ...).
            y: Targets, (rows, ...).
        """
        batch: Any = (x, y)
        for index, part in enumerate(self.parts):
            batch = _applied(part, jax.random.fold_in(key, index), batch)
        return batch

    def __repr__(self) -> str:
        return f"Augmentation({', '.join(map(code, self.parts))})"


def augmented(functions: tuple[Callable[..., Any], ...], key: jax.Array, batch: Any) -> Any:
    """Return a batch after several augmentations; a compiled step calls this.

    Args:
        functions: The augmentations, in the order of their application.
        key: A JAX key. A single function receives it; of several, function i receives
            `fold_in(key, i)`.
        batch: A pytree of rows.

    >>> augmented((lambda key, batch: {"x": batch["x"] + 1},), jax.random.key(0), {"x": 1})
    {'x': 2}
    """
    if len(functions) == 1:
        return _applied(functions[0], key, batch)
    for index, function in enumerate(functions):
        batch = _applied(function, jax.random.fold_in(key, index), batch)
    return batch


def _applied(function: Callable[..., Any], key: jax.Array, batch: Any) -> Any:
    names = _parameters(function)
    parts = len(batch) if isinstance(batch, tuple | list) else 0
    if "y" in names:
        if parts != 2:
            raise TypeError(
                f"the augmentation {function!r:.60} takes (key, x, y), but a batch is "
                f"{describe(batch)}; write a function of (key, batch) that returns the batch"
            )
        changed = function(key, *batch)
    elif names[1] in INPUTS and parts in (2, 3):
        x, *rest = batch
        changed = (function(key, x), *rest)
    else:
        return function(key, batch)
    return type(batch)(*changed) if hasattr(batch, "_fields") else type(batch)(changed)


def _parameters(function: Any) -> list[str]:
    """Return the names of the positional parameters of a function; none if it is not one."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
