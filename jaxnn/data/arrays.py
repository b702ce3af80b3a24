"""Arrays from what other libraries hold them in: frames, series, tensors.

Nothing is imported: a frame, a series, or a tensor is recognized by its methods, so pandas, polars,
pyarrow, torch, and TensorFlow work where they are installed and cost nothing where they are not.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_arrays(tree: Any, name: str = "data") -> Any:
    """The pytree with an array for each leaf of another library.

    A frame becomes the dict of its columns, a mapping a dict, and a series or tensor an array;
    other leaves stay as they are. A list at the top becomes a tuple: it is how a DataLoader of
    torch returns a pair.

    Args:
        tree: a pytree.
        name: what errors call it.

    Raises:
        TypeError: a column does not hold numbers, a frame is lazy, or an array is sparse.
        ValueError: a column has missing values, or two columns have one name.
    """
    if isinstance(tree, list):
        tree = tuple(tree)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _leaf(leaf, _joined(name, path)), tree
    )


def is_foreign(leaf: Any) -> bool:
    """Whether `as_arrays` has an array for a leaf that is not one."""
    return is_frame(leaf) or isinstance(leaf, Mapping) or hasattr(leaf, "__array__")


def is_frame(leaf: Any) -> bool:
    """Whether a leaf is a frame: a table with named columns, of pandas, polars, or pyarrow."""
    kind = type(leaf)
    named = hasattr(kind, "column_names") or (hasattr(kind, "columns") and hasattr(kind, "dtypes"))
    # pandas keeps `columns` in the instance's manager, and declares it on the class as well.
    return named and hasattr(kind, "__getitem__")


def _joined(name: str, path: Any) -> str:
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    return f"{name}/{text}" if text else name


def _leaf(leaf: Any, where: str) -> Any:
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(
            f"{where} is a masked array, whose mask would be lost: write a.filled(0), and pass "
            "~np.ma.getmaskarray(a) as a further leaf"
        )
    if isinstance(leaf, np.ndarray | jax.Array | np.generic):
        return leaf
    if hasattr(type(leaf), "collect_schema") and hasattr(type(leaf), "collect"):
        raise TypeError(
            f"{where} is a {type(leaf).__name__}, which has not been read: write frame.collect()"
        )
    if is_frame(leaf):
        return _columns(leaf, where)
    if isinstance(leaf, Mapping):  # not a pytree of JAX, such as the output of a tokenizer
        return as_arrays(dict(leaf), where)
    if hasattr(leaf, "toarray"):
        raise TypeError(
            f"{where} is a {type(leaf).__name__}, a sparse array: write a.toarray(), or pass its "
            "rows in batches by a generator"
        )
    if hasattr(leaf, "detach") and hasattr(leaf, "cpu"):
        return _tensor(leaf)
    if hasattr(type(leaf), "to_numpy"):
        return _column(leaf, where, "the series")
    return np.asarray(leaf) if hasattr(leaf, "__array__") else leaf


def _tensor(tensor: Any) -> np.ndarray:
    """The array of a tensor of torch."""
    tensor = tensor.detach().cpu()
    if "bfloat16" in str(tensor.dtype):  # NumPy's own types do not include it
        return np.asarray(jnp.from_dlpack(tensor.contiguous()))
    return tensor.numpy()


def _columns(frame: Any, where: str) -> dict[str, np.ndarray]:
    names = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{where} is a frame with columns named {names!r:.80}, expected text: write "
            "frame.to_numpy() for one array of all columns, or frame.rename(columns=str)"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{where} is a frame with several columns named {', '.join(twice)}, expected one of "
            "each name: write frame.columns = [...] with different names"
        )
    return {name: _column(frame[name], f"{where}/{name}", "the column") for name in names}


def _column(series: Any, where: str, what: str) -> np.ndarray:
    array = np.asarray(series)
    kind = array.dtype.kind
    missing = _missing(series, array)
    if missing:
        raise ValueError(
            f"{where}: {missing} of {len(array)} values are missing; expected a number in each "
            f"row: fill them in (fillna of pandas, fill_null of polars and pyarrow), or add a "
            "column that masks them"
        )
    if kind in "biufc" or jnp.issubdtype(array.dtype, np.number):
        return array
    dtype = getattr(series, "dtype", getattr(series, "type", array.dtype))
    if kind in "mM":
        advice = f"(a - a.min()) / np.timedelta64(1, 's') for seconds, with a = np.asarray({what})"
    elif kind == "O" and len(array) and not isinstance(array[0], str | bytes | int | float):
        advice = f"np.stack({what}) for rows of equal shape"
    else:
        advice = f"np.unique({what}, return_inverse=True)[1] for integers that stand for the values"
    advice = advice.replace("the column", f"frame[{where.rpartition('/')[2]!r}]")
    raise TypeError(
        f"{where}: {what} has dtype {dtype}, expected numbers: write "
        f"{advice.replace('the series', 'series')}"
    )


def _missing(series: Any, array: np.ndarray) -> int:
    """The number of missing values, which an array of numbers would show as NaN."""
    kind = type(series)
    if hasattr(kind, "null_count"):  # a method of polars, a property of pyarrow
        count = series.null_count
        return int(count() if callable(count) else count)  # type: ignore[call-overload]
    # In pandas NaN is a number if the column has a type of NumPy, otherwise a missing value.
    of_numpy = isinstance(getattr(series, "dtype", None), np.dtype) and series.dtype.kind in "biufc"
    if hasattr(kind, "isna") and not of_numpy:
        return int(np.sum(np.asarray(series.isna())))
    return sum(item is None for item in array.flat) if array.dtype.kind == "O" else 0
