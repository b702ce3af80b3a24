"""Pytrees of rows: what a data set and a batch are, and the checks that hold for every structure.

Each leaf is an array with one row per example along its first axis. Errors name a leaf by its path:
`training data/tokens/mask`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.core.declarations import abstract
from jaxnn.explain.text import describe
from jaxnn.fields import is_traced

PIECE = 2**26  # bytes checked at a time, so that a mapped file does not need to fit in memory


def leaves_by_path(tree: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a pytree by path, `name/key/index`.

    >>> leaves_by_path({"x": 1, "y": (2, 3)}, "data")
    {'data/x': 1, 'data/y/0': 2, 'data/y/1': 3}
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        text = jax.tree_util.keystr(path, simple=True, separator="/")
        found["/".join(part for part in (name, text) if part)] = leaf
    return found


def row_count(tree: Any) -> int:
    """The number of rows of a pytree that passed `check_rows`."""
    return jax.tree.leaves(tree)[0].shape[0]


def row_spec(tree: Any, rows: int) -> Any:
    """Shapes and types, as they are on the device, of a batch of `rows` rows of `tree`."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), abstract(tree)
    )


def check_rows(tree: Any, name: str = "data") -> int:
    """Raise unless every leaf is an array of numbers with the same number of rows, at least one.

    Values are not read, so traced arrays pass; `check_finite` reads them.

    Args:
        tree: a pytree of NumPy or JAX arrays, (rows, ...) each.
        name: what errors call it; it begins the path of each leaf.

    Returns:
        The number of rows.

    Raises:
        TypeError: a leaf is not an array of numbers, or there is no leaf.
        ValueError: a leaf has no axis of rows, there are no rows, or leaves differ in rows.

    >>> check_rows({"tokens": np.zeros((4, 7), int), "mask": np.ones((4, 7), bool)})
    4
    >>> check_rows({"tokens": np.zeros((4, 7), int), "mask": np.ones((3, 7), bool)}, "batch 2")
    Traceback (most recent call last):
    ValueError: batch 2: leaves differ in their number of rows: batch 2/mask has 3, \
batch 2/tokens has 4; expected one row per example along the first axis of every leaf. Write \
jax.tree.map(np.shape, data) to see all shapes
    """
    leaves = leaves_by_path(tree, name)
    if not leaves:
        raise TypeError(
            f"{name}: no arrays in {tree!r:.80}; expected a pytree of arrays with one row per "
            "example: write (inputs, targets), or data=None for a program that makes its own data"
        )
    for path, leaf in leaves.items():
        _check_leaf(leaf, path)
    rows = {path: leaf.shape[0] for path, leaf in leaves.items()}
    count = next(iter(rows.values()))
    if any(other != count for other in rows.values()):
        listed = ", ".join(f"{path} has {n}" for path, n in rows.items())
        raise ValueError(
            f"{name}: leaves differ in their number of rows: {listed}; expected one row per "
            "example along the first axis of every leaf. Write jax.tree.map(np.shape, data) to "
            "see all shapes"
        )
    if count == 0:
        raise ValueError(
            f"{name}: no rows: {describe(tree)}; expected at least one. Write "
            "jax.tree.map(np.shape, data) before and after the selection of rows"
        )
    return count


def _check_leaf(leaf: Any, path: str) -> None:
    if not isinstance(leaf, np.ndarray | jax.Array):
        raise TypeError(
            f"{path} is a {type(leaf).__name__}, {leaf!r:.60}, expected an array with one row per "
            "example: write np.asarray(...); a list of numbers is a pytree of numbers, not an array"
        )
    if not any(jnp.issubdtype(leaf.dtype, kind) for kind in (np.number, np.bool_)):
        raise TypeError(
            f"{path} has dtype {leaf.dtype}, expected numbers: write a.astype(np.float32), or "
            "np.unique(a, return_inverse=True)[1] to encode text as integers"
        )
    if leaf.ndim == 0:
        raise ValueError(
            f"{path} has shape (), expected (rows, ...): write np.full(rows, a) for a value that "
            "all rows share, or make it a field of the program"
        )


def check_finite(tree: Any, name: str = "data") -> None:
    """Raise ValueError if a floating-point leaf holds NaN or infinity.

    A pytree with a mask or weights may hold both behind them, so this is a separate check.

    Args:
        tree: a pytree of arrays that passed `check_rows`. Traced leaves are not read.
        name: what errors call it; it begins the path of each leaf.

    >>> check_finite({"x": np.array([1.0, 2.0])})
    >>> check_finite({"x": np.array([1.0, np.inf])}, "training data")
    Traceback (most recent call last):
    ValueError: training data/x holds inf at row 1 (1 of 2 rows are not finite), expected finite \
numbers. Find the step that makes them: write np.isfinite(x).all() after each. Missing values can \
be filled in, or masked by weights of 0
    """
    for path, leaf in leaves_by_path(tree, name).items():
        if not jnp.issubdtype(leaf.dtype, np.inexact) or is_traced(leaf):
            continue
        if isinstance(leaf, jax.Array) and bool(jnp.isfinite(leaf).all()):
            continue  # one number crosses to the host
        _check_finite_leaf(leaf, path)


def _check_finite_leaf(leaf: Any, path: str) -> None:
    rows = max(PIECE // max(leaf[:1].nbytes, 1), 1)
    first, bad = None, 0
    for begin in range(0, len(leaf), rows):
        piece = np.asarray(leaf[begin : begin + rows])
        wrong = ~np.isfinite(piece)
        bad += int(wrong.reshape(len(piece), -1).any(axis=1).sum())
        if first is None and wrong.any():
            row, *position = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
            at = f"row {begin + row}"
            at += f", position {tuple(position)}" if position else ""
            first = f"{piece[(row, *position)]} at {at}"
    if first is not None:
        raise ValueError(
            f"{path} holds {first} ({bad} of {len(leaf)} rows are not finite), expected finite "
            "numbers. Find the step that makes them: write np.isfinite(x).all() after each. "
            "Missing values can be filled in, or masked by weights of 0"
        )


def check_like(tree: Any, first: Any, name: str, first_name: str = "the first batch") -> None:
    """Raise ValueError if a pytree has another structure than the first, and name what differs.

    Leaves may differ in dtype and in the length of an axis, not in their number of axes. Tuples,
    lists, and named tuples of equal length count as equal.

    Args:
        tree: a batch, or a data set; leaves are arrays or `jax.ShapeDtypeStruct`s.
        first: what it is compared with.
        name, first_name: what errors call the two.

    >>> first = {"x": np.zeros((4, 2)), "mask": np.ones(4)}
    >>> check_like({"x": np.zeros((3, 2))}, first, "validation data")
    Traceback (most recent call last):
    ValueError: validation data differs from the first batch in its structure: it has no mask \
(float64[4]). Write a pytree like {x: float64[4,2], mask: float64[4]}
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
    if lines:
        raise ValueError(
            f"{name} differs from {first_name} in its structure: {'; '.join(lines)}. Write a "
            f"pytree like {describe(like)}"
        )


def _outline(tree: Any) -> Any:
    """The same leaves, with plain tuples for all kinds of sequences."""
    if isinstance(tree, tuple | list):
        return tuple(map(_outline, tree))
    if isinstance(tree, Mapping):
        return {key: _outline(item) for key, item in tree.items()}
    return tree


def slices(tree: Any, batch_size: int) -> Iterator[Any]:
    """All rows in order, `batch_size` at a time; the last batch holds the rows that are left.

    >>> [batch.tolist() for batch in slices(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    for begin in range(0, row_count(tree), batch_size):
        yield jax.tree.map(lambda leaf, at=begin: leaf[at : at + batch_size], tree)
