"""The data that a run accepts: converted to a pytree of rows or a source, and augmented.

`Augmented` adds a function that changes each training batch on the device, in compiled code.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.core.values import Value
from jaxnn.data.dataset import Dataset, Text
from jaxnn.data.grain_pipeline import Grain, is_pipeline
from jaxnn.data.rows import as_arrays, check_rows, is_foreign, leaves_by_path, row_advice, slices
from jaxnn.data.source import Source
from jaxnn.data.stream import Stream
from jaxnn.explain.text import describe
from jaxnn.fields import code, is_array
from jaxnn.fingerprint import checksum, fingerprint
from jaxnn.validation import Accepts


def as_source(data: Any, name: str = "training data") -> Any:
    """Convert training data of any supported kind to a pytree of rows or a `Source` of batches.

    ============================================  ==================================================
    data                                          result
    ============================================  ==================================================
    None                                          None: the program makes its own data
    a pytree of arrays, frames, series, tensors   the pytree, with arrays and dicts of columns;
                                                  a list at the top becomes a tuple
    a `Dataset`                                   its `train`
    a `Source`: HostArrays, Grain, Records        itself
    a Grain pipeline                              `Grain(pipeline)`
    a DataLoader, another iterable, an iterator,  `Stream(data)`; a list of arrays is a pytree, so
    a function that returns one                   a list of batches is `Stream(batches)`
    `Augmented(source, function)`                 `Augmented(as_source(source), function)`
    ============================================  ==================================================

    Args:
        data: Any of these.
        name: Name of the data in errors. Default: "training data".

    Raises:
        TypeError: The data are of another kind, or a leaf is not an array of numbers.
        ValueError: Leaves differ in the number of rows, there are no rows, or a column has missing
            values.

    >>> as_source([np.zeros((4, 2)), np.arange(4)])[1].tolist()
    [0, 1, 2, 3]
    >>> as_source(iter([np.zeros((4, 2))]))
    Stream(list_iterator)
    """
    if isinstance(data, Augmented):
        source = as_source(data.source, name)
        return data if source is data.source else Augmented(source, data.function)
    if isinstance(data, Dataset):
        data = data.train
    if data is None or isinstance(data, Source):
        return data
    if is_pipeline(data):
        return Grain(data)
    if _is_stream(data):
        return Stream(data)
    tree = as_arrays(data, name)
    if jax.tree_util.all_leaves([tree]) and not is_array(tree):
        raise _not_data(data, name)
    check_rows(tree, name)
    return tree


def pieces(data: Any, batch_size: int) -> Iterator[Any]:
    """Return an iterator over batches of all rows, once and in order, for an evaluation.

    The last batch of arrays contains the remaining rows. A source yields the batches of its method
    `once`, or else `steps_per_epoch(batch_size)` batches. The batches of a stream and of a Grain
    pipeline have a fixed size, so `batch_size` is not used. Augmentations are not applied.

    Args:
        data: The result of `as_source`.
        batch_size: Rows of a batch.

    >>> [batch["x"].tolist() for batch in pieces({"x": np.arange(5)}, 2)]
    [[0, 1], [2, 3], [4]]
    """
    data = unaugmented(data)
    if isinstance(data, Stream):
        return data.once()
    once = getattr(data, "once", None)
    if once is not None:
        return once(batch_size)
    return _one_epoch(data, batch_size) if isinstance(data, Source) else slices(data, batch_size)


def is_resumable(data: Any) -> bool:
    """Return whether reading the data can resume at a position, as for arrays and most sources.

    Args:
        data: The result of `as_source`.

    >>> is_resumable(np.zeros(3)), is_resumable(as_source(iter([np.zeros(3)])))
    (True, False)
    """
    data = unaugmented(data)
    return not isinstance(data, Source) or bool(getattr(data, "resumable", True))


def check_resumable(data: Any, what: str = "Checkpoints") -> None:
    """Raise ValueError if data cannot return to a position.

    Args:
        data: The result of `as_source`.
        what: The name of the hook that needs it. Default: "Checkpoints".
    """
    if not is_resumable(data):
        raise ValueError(
            f"{what} cannot be used with {unaugmented(data)!r}, which cannot return to a position "
            "in an epoch; write data=(x, y), data.HostArrays(x, y), data.Records(files, decode), "
            f"or data.Grain(pipeline), or leave {what} out"
        )


def fingerprint_of(data: Any) -> dict[str, Any]:
    """Return a fingerprint of the data: nested dicts of text, equal in every process.

    Arrays are identified by the path, shape, type, and checksum of each leaf, and a source by its
    class and the result of its method `fingerprint`.

    Args:
        data: The result of `as_source`.

    >>> fingerprint_of({"x": np.zeros(2, np.float32)})
    {'x': 'float32[2] af5570f5a1810b7a'}
    """
    if data is None:
        return {}
    if isinstance(data, Augmented):
        functions = {str(i): fingerprint(one) for i, one in enumerate(data.functions)}
        return {**fingerprint_of(data.bare), "augmentation": functions}
    if isinstance(data, Source):
        own = getattr(data, "fingerprint", None)
        kind = f"{type(data).__module__}.{type(data).__qualname__}"
        return {"source": kind, **(fingerprint(data) if own is None else own())}
    return {path or "array": checksum(leaf) for path, leaf in leaves_by_path(data).items()}


def unaugmented(data: Any) -> Any:
    """Return data without their augmentation; other data unchanged.

    Args:
        data: Data in any form that a run accepts.
    """
    return data.bare if isinstance(data, Augmented) else data


def _is_stream(data: Any) -> bool:
    """Return whether data are batches that are made elsewhere, and not a pytree of rows."""
    if not jax.tree_util.all_leaves([data]) or is_array(data) or is_foreign(data):
        return False
    if isinstance(data, type | str | bytes | Value):
        return False
    kind = type(data)
    return hasattr(kind, "__iter__") or hasattr(kind, "__next__") or callable(data)


def _one_epoch(source: Source, batch_size: int) -> Iterator[Any]:
    steps = source.steps_per_epoch(batch_size)
    batches = source.open(np.zeros(2, np.uint32), batch_size)
    try:
        for index, batch in enumerate(batches, 1):
            yield batch
            if index == steps:
                return
    finally:
        batches.close()


def _not_data(data: Any, name: str) -> TypeError:
    kind = type(data)
    if isinstance(data, Text):
        advice = "write text.windows(128) for pieces of it, each with the tokens that follow"
    elif advice := row_advice(data):
        pass
    elif hasattr(kind, "__getitem__") and hasattr(kind, "__len__"):
        advice = (
            "if it holds examples by number, write torch.utils.data.DataLoader(dataset, "
            "batch_size=128), or a Grain pipeline"
        )
    else:
        advice = "write (x, y) with np.asarray, or a function that returns an iterator of batches"
    return TypeError(
        f"{name} must be a pytree of arrays, a frame, a data.Source, or an iterable of batches, "
        f"got a {kind.__name__}; {advice}"
    )


# ---- augmentation ----

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
