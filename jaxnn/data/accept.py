"""Conversion of the data that a run accepts to a pytree of rows or a source."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.core.values import Value
from jaxnn.data.augmented import Augmented
from jaxnn.data.dataset import Dataset, Text
from jaxnn.data.grain_pipeline import Grain, is_pipeline
from jaxnn.data.rows import as_arrays, check_rows, is_foreign, leaves_by_path, slices
from jaxnn.data.source import Source
from jaxnn.data.stream import Stream
from jaxnn.fields import is_array
from jaxnn.fingerprint import checksum, fingerprint


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
    data = _bare(data)
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
    data = _bare(data)
    return not isinstance(data, Source) or bool(getattr(data, "resumable", True))


def check_resumable(data: Any, what: str = "Checkpoints") -> None:
    """Raise ValueError if data cannot return to a position.

    Args:
        data: The result of `as_source`.
        what: The name of the hook that needs it. Default: "Checkpoints".
    """
    if not is_resumable(data):
        raise ValueError(
            f"{what} cannot be used with {_bare(data)!r}, which cannot return to a position in an "
            "epoch; write data=(x, y), data.HostArrays(x, y), data.Records(files, decode), or "
            f"data.Grain(pipeline), or leave {what} out"
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


def _bare(data: Any) -> Any:
    """Return data without augmentation."""
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
    elif hasattr(kind, "__dataclass_fields__") and not isinstance(data, type):
        advice = f"write jax.tree_util.register_dataclass({kind.__name__}), which makes it a pytree"
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
