"""Pytrees of rows, the form of data sets and batches: their checks, and conversion from frames.

Each leaf is an array with one row per example along its first axis. Errors name a leaf by its path:
`training data/tokens/mask`. Frames, series, and tensors of other libraries are recognized by their
methods, so nothing is imported: pandas, polars, pyarrow, torch, and TensorFlow work if they are
installed.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.declarations import abstract
from jaxnn.explain.text import describe
from jaxnn.fields import is_traced
from jaxnn.validation import Accepts, check_none

PIECE = 2**26  # bytes checked at a time, so that a mapped file does not need to fit in memory


def leaves_by_path(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a pytree by path, `name/key/index`.

    Args:
        tree: A pytree.
        name: The first part of each path. Default: "", none.

    >>> leaves_by_path({"x": 1, "y": (2, 3)}, "data")
    {'data/x': 1, 'data/y/0': 2, 'data/y/1': 3}
    """
    return {_joined(name, path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _joined(name: str, path: Any) -> str:
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    return "/".join(part for part in (name, text) if part)


def row_count(tree: Any) -> int:
    """Return the number of rows of a pytree.

    Args:
        tree: A pytree of arrays that passed `check_rows`.
    """
    return jax.tree.leaves(tree)[0].shape[0]


def classes_of(arrays: Any) -> np.ndarray | None:
    """Return the class of each row, numbered by first appearance; None for other targets.

    Args:
        arrays: A pytree of rows. Targets are the second item of a tuple `(x, y)` or
            `(x, y, weights)`; they are classes if they are whole numbers, one for each row.

    >>> classes_of((np.zeros(4), np.array([7, 3, 7, 5])))
    array([0, 1, 0, 2])
    """
    targets: Any = arrays[1] if isinstance(arrays, tuple | list) and len(arrays) > 1 else None
    if np.ndim(targets) != 1 or np.asarray(targets).dtype.kind not in "biu":
        return None
    _, first, classes = np.unique(np.asarray(targets), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[classes]


def row_spec(tree: Any, rows: int) -> Any:
    """Return the shapes and types of a batch, as they are on the device.

    Args:
        tree: A pytree of rows.
        rows: The number of rows of the batch.

    Returns:
        A pytree of `jax.ShapeDtypeStruct` with the structure of `tree`.
    """
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), abstract(tree)
    )


def slices(tree: Any, batch_size: int) -> Iterator[Any]:
    """Yield all rows in order, in batches; the last batch holds the remaining rows.

    Args:
        tree: A pytree of rows.
        batch_size: Rows of a batch.

    >>> [batch.tolist() for batch in slices(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    for begin in range(0, row_count(tree), batch_size):
        yield jax.tree.map(lambda leaf, at=begin: leaf[at : at + batch_size], tree)


# ---- checks ----


def _is_rows(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array) and leaf.ndim > 0 and holds_numbers(leaf.dtype)


def holds_numbers(dtype: Any) -> bool:
    """Return whether a type of array elements is a number or bool.

    Args:
        dtype: A type of NumPy or JAX, such as bfloat16.
    """
    return any(jnp.issubdtype(dtype, kind) for kind in (np.number, np.bool_))


_rows = Accepts(
    "an array of numbers with one row per example, (rows, ...)",
    _is_rows,
    TypeError,
    "write np.asarray(a) for a list, np.full(rows, a) for one value, or np.unique(a, "
    "return_inverse=True)[1] to encode text as integers",
)


_tree = Accepts(
    "a pytree of arrays",
    lambda tree: bool(jax.tree.leaves(tree)),
    TypeError,
    "write (inputs, targets), or data=None for a program that makes its own data",
    traced=True,
)


def row_advice(leaf: Any) -> str:
    """Return what to write for a dataclass or random keys, which are not rows; "" for others."""
    kind = type(leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        name = kind.__name__
        return f"write jax.tree_util.register_dataclass({name}), which makes it a pytree"
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return "write jax.random.key_data(keys), and jax.random.wrap_key_data(words) in the program"
    return ""


def check_rows(tree: Any, name: str = "data") -> int:
    """Raise unless every leaf is an array of numbers with the same number of rows, at least one.

    Values are not read, so traced arrays pass; `check_finite` reads them.

    Args:
        tree: A pytree of NumPy or JAX arrays, (rows, ...) each.
        name: Name of the data in errors, the first part of the path of each leaf. Default: "data".

    Returns:
        The number of rows.

    Raises:
        TypeError: A leaf is not an array of numbers, or there is no leaf.
        ValueError: There are no rows, or leaves differ in their number of rows.

    >>> check_rows({"tokens": np.zeros((4, 7), int), "mask": np.ones((4, 7), bool)})
    4
    >>> check_rows({"tokens": np.zeros((4, 7), int), "mask": np.ones((3, 7), bool)}, "batch 2")
    Traceback (most recent call last):
    ValueError: batch 2 must have the same number of rows in every leaf, at least 1, got \
batch 2/mask: 3, batch 2/tokens: 4; write jax.tree.map(np.shape, data) to see all shapes
    """
    leaves = leaves_by_path(_tree(tree, name), name)
    for path, leaf in leaves.items():
        if not _is_rows(leaf):
            _rows(leaf, path, row_advice(leaf))
    counts = {path: leaf.shape[0] for path, leaf in leaves.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        listed = ", ".join(f"{path}: {count}" for path, count in counts.items())
        raise ValueError(
            f"{name} must have the same number of rows in every leaf, at least 1, got {listed}; "
            "write jax.tree.map(np.shape, data) to see all shapes"
        )
    return row_count(tree)


def check_divisible(tree: Any, parts: int, hint: str) -> None:
    """Raise ValueError if the rows of a batch cannot be split into a number of equal parts.

    Args:
        tree: A pytree of arrays.
        parts: The number of parts.
        hint: Where the number comes from, and what to write, for errors.
    """
    rows = Accepts(
        f"an array whose rows can be split into {parts} equal parts",
        lambda leaf: jnp.ndim(leaf) > 0 and leaf.shape[0] % parts == 0,
        hint=hint,
        abstract=True,
    )
    for path, leaf in leaves_by_path(tree, "batch").items():
        rows(leaf, path)


def in_pieces(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of an array in pieces of bounded size, each with the number of its first row.

    Args:
        array: An array (rows, ...), which may be mapped from a file.
    """
    rows = max(PIECE // max(array[:1].nbytes, 1), 1)
    for begin in range(0, len(array), rows):
        yield begin, np.asarray(array[begin : begin + rows])


def place(index: tuple[Any, ...]) -> str:
    """Return the text for an index of an array of rows.

    Args:
        index: The row, then the position in the row if it has axes.

    >>> place((2,)), place((2, 0, 1))
    ('row 2', 'row 2, position (0, 1)')
    """
    row, *position = map(int, index)
    return f"row {row}, position {tuple(position)}" if position else f"row {row}"


def check_finite(tree: Any, name: str = "data") -> None:
    """Raise ValueError if a floating-point leaf holds NaN or infinity.

    This check is separate from `check_rows`, because values that a mask or weights exclude may be
    NaN.

    Args:
        tree: A pytree of arrays that passed `check_rows`. Traced leaves are not read.
        name: Name of the data in errors, the first part of the path of each leaf. Default: "data".

    >>> check_finite({"x": np.array([1.0, 2.0])})
    >>> check_finite({"x": np.array([1.0, np.inf])}, "training data")
    Traceback (most recent call last):
    ValueError: training data/x must be finite, got inf at row 1 (1 of 2 rows are not finite); \
write np.isfinite(x).all() after each step that makes it. Missing values can be filled in, or \
masked by weights of 0
    """
    for path, leaf in leaves_by_path(tree, name).items():
        if not jnp.issubdtype(leaf.dtype, np.inexact) or is_traced(leaf):
            continue
        if isinstance(leaf, jax.Array) and bool(jnp.isfinite(leaf).all()):
            continue  # one number crosses to the host
        first, bad = "", 0
        for begin, piece in in_pieces(leaf):
            wrong = ~np.isfinite(piece)
            if wrong.any() and not first:
                row, *position = np.unravel_index(int(wrong.argmax()), wrong.shape)
                first = f"{piece[(row, *position)]} at {place((begin + row, *position))}"
            bad += int(wrong.reshape(len(wrong), -1).any(axis=1).sum())
        if bad:
            raise ValueError(
                f"{path} must be finite, got {first} ({bad} of {len(leaf)} rows are not finite); "
                "write np.isfinite(x).all() after each step that makes it. Missing values can be "
                "filled in, or masked by weights of 0"
            )


def check_like(tree: Any, first: Any, name: str, first_name: str = "the first batch") -> None:
    """Raise ValueError with all differences if two pytrees differ in structure.

    Leaves may differ in dtype and in the lengths of axes, but not in the number of axes. Tuples,
    lists, and named tuples of equal length count as equal.

    Args:
        tree: A batch or data set, with arrays or `jax.ShapeDtypeStruct`s as leaves.
        first: The pytree to compare with.
        name: Name of `tree` in errors.
        first_name: Name of `first` in errors. Default: "the first batch".

    >>> first = {"x": np.zeros((4, 2)), "mask": np.ones(4)}
    >>> check_like({"x": np.zeros((3, 2))}, first, "validation data")
    Traceback (most recent call last):
    ValueError: validation data differs from the first batch in its structure: it has no mask \
(float64[4]); write a pytree like {x: float64[4,2], mask: float64[4]}
    """
    tree, like = _outline(tree), _outline(first)
    found, expected = leaves_by_path(tree), leaves_by_path(like)
    lines = [
        f"it has no {p or 'leaf'} ({describe(expected[p])})" for p in expected if p not in found
    ]
    lines += [
        f"it has {p or 'one leaf'} ({describe(found[p])})" for p in found if p not in expected
    ]
    lines += [
        f"its {path or 'array'} is {describe(leaf)}, which has {leaf.ndim} axes and not "
        f"{expected[path].ndim}"
        for path, leaf in found.items()
        if path in expected and leaf.ndim != expected[path].ndim
    ]
    if not lines and jax.tree.structure(tree) != jax.tree.structure(like):
        lines = [f"{jax.tree.structure(tree)} and not {jax.tree.structure(like)}"]
    what = f"{name} differs from {first_name} in its structure"
    check_none(lines, what, f"write a pytree like {describe(like)}")


def _outline(tree: Any) -> Any:
    """Return the same leaves, with plain tuples for all kinds of sequences."""
    if isinstance(tree, tuple | list):
        return tuple(map(_outline, tree))
    if isinstance(tree, Mapping):
        return {key: _outline(item) for key, item in tree.items()}
    return tree


# ---- frames, series, and tensors ----


def as_arrays(tree: Any, name: str = "data") -> Any:
    """Return a pytree with an array for each leaf of another library.

    A frame becomes the dict of its columns, a mapping a dict, and a series or tensor an array;
    other leaves stay as they are. A list at the top becomes a tuple, since a DataLoader of torch
    returns a pair as a list.

    Args:
        tree: A pytree.
        name: Name of the data in errors. Default: "data".

    Raises:
        TypeError: A column does not hold numbers, a frame is lazy, or an array is sparse or masked.
        ValueError: A column has missing values.
    """
    if isinstance(tree, list):
        tree = tuple(tree)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _leaf(leaf, _joined(name, path)), tree
    )


def is_foreign(leaf: Any) -> bool:
    """Return whether `as_arrays` converts a leaf.

    Args:
        leaf: Any object.
    """
    return _is_frame(leaf) or isinstance(leaf, Mapping) or hasattr(leaf, "__array__")


def _is_frame(leaf: Any) -> bool:
    """Return whether a leaf is a table with named columns, of pandas, polars, or pyarrow."""
    kind = type(leaf)
    named = hasattr(kind, "column_names") or (hasattr(kind, "columns") and hasattr(kind, "dtypes"))
    # pandas keeps `columns` in the instance's manager, and declares it on the class as well.
    return named and hasattr(kind, "__getitem__")


def _leaf(leaf: Any, where: str) -> Any:
    kind = type(leaf)
    masked = isinstance(leaf, np.ma.MaskedArray)
    if isinstance(leaf, np.ndarray | jax.Array | np.generic) and not masked:
        return leaf
    if masked:
        advice = "a.filled(0), and pass ~np.ma.getmaskarray(a) as a further leaf"
    elif hasattr(kind, "collect_schema") and hasattr(kind, "collect"):
        advice = "frame.collect(), which reads it"
    elif hasattr(leaf, "toarray"):
        advice = "a.toarray(), or pass rows of the sparse array in batches by a generator"
    elif _is_frame(leaf):
        return _columns(leaf, where)
    elif isinstance(leaf, Mapping):  # not a pytree of JAX, such as the output of a tokenizer
        return as_arrays(dict(leaf), where)
    elif hasattr(leaf, "detach") and hasattr(leaf, "cpu"):
        return _tensor(leaf)
    elif hasattr(kind, "to_numpy"):
        return _column(leaf, where, "series")
    else:
        return np.asarray(leaf) if hasattr(leaf, "__array__") else leaf
    raise TypeError(f"{where} must be an array, got a {kind.__name__}; write {advice}")


def _tensor(tensor: Any) -> np.ndarray:
    """Return the array of a tensor of torch."""
    tensor = tensor.detach().cpu()
    if "bfloat16" in str(tensor.dtype):  # NumPy's own types do not include it
        return np.asarray(jnp.from_dlpack(tensor.contiguous()))
    return tensor.numpy()


_names = Accepts(
    "different names of type str",
    lambda names: (
        bool(names) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)
    ),
    TypeError,
    "write frame.to_numpy() for one array of all columns, or frame.columns = [...]",
)


def _columns(frame: Any, where: str) -> dict[str, np.ndarray]:
    names = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    _names(names, f"the columns of {where}")
    return {name: _column(frame[name], f"{where}/{name}", f"frame[{name!r}]") for name in names}


def _column(series: Any, where: str, code: str) -> np.ndarray:
    """Return the array of a series, which is written `code`."""
    array = np.asarray(series)
    kind = array.dtype.kind
    if missing := _missing(series, array):
        raise ValueError(
            f"{where} must have a number in each row, but {missing} of {len(array)} values are "
            "missing; fill them in (fillna of pandas, fill_null of polars and pyarrow), or add a "
            "column that masks them"
        )
    if holds_numbers(array.dtype) and kind != "m":
        return array
    if kind in "mM":
        advice = f"(a - a.min()) / np.timedelta64(1, 's') for seconds, with a = np.asarray({code})"
    elif kind == "O" and len(array) and not isinstance(array[0], str | bytes | int | float):
        advice = f"np.stack({code}) for rows of equal shape"
    else:
        advice = f"np.unique({code}, return_inverse=True)[1] to encode the values as integers"
    dtype = getattr(series, "dtype", getattr(series, "type", array.dtype))
    raise TypeError(f"{where} must hold numbers, got dtype {dtype}; write {advice}")


def _missing(series: Any, array: np.ndarray) -> int:
    """Return the number of missing values, which an array of numbers would show as NaN."""
    kind = type(series)
    if hasattr(kind, "null_count"):  # a method of polars, a property of pyarrow
        count = series.null_count
        return int(count() if callable(count) else count)  # type: ignore[call-overload]
    # In pandas NaN is a number if the column has a type of NumPy, otherwise a missing value.
    of_numpy = isinstance(getattr(series, "dtype", None), np.dtype) and series.dtype.kind in "biufc"
    if hasattr(kind, "isna") and not of_numpy:
        return int(np.sum(np.asarray(series.isna())))
    return sum(item is None for item in array.flat) if array.dtype.kind == "O" else 0
