"""A split of rows that is the same everywhere: it rests on SHA-256, not on a random generator."""

import hashlib
import operator
from typing import Any

import jax
import numpy as np

from jaxnn.data.check import check
from jaxnn.data.dataset import Examples
from jaxnn.data.rows import check_rows, row_count


def split(
    examples: tuple[Any, Any], fraction: float, *, seed: int = 0
) -> tuple[Examples, Examples]:
    """Split rows in two: those kept, and a fraction held out.

    Rows are ordered by the SHA-256 of the text "seed/row", as in `printf 0/17 | sha256sum`.
    Of each class the first round(fraction * rows of that class) are held out (halves round to
    even); where targets are floats, all rows count as one class. Both results keep that order,
    so any leading rows of them are a random sample too.

    Args:
        examples: x and y, (rows, ...) each, or pytrees of such arrays. If y is one array of
            integers (rows,), they are classes.
        fraction: of the rows to hold out, between 0 and 1, neither of them.
        seed: another seed gives another split.

    Returns:
        (kept, held): every row is in one of them, once.

    Raises:
        ValueError: the fraction is out of range or leaves one side empty, or x, y fail `check`
            (`check_rows` if one of them is not one array).
        TypeError: the seed is not an integer, or x, y fail the check.

    >>> y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> kept, held = split((np.arange(8), y), 0.25)
    >>> sorted(held.y.tolist()), kept.x.shape
    ([0, 1], (6,))
    """
    x, y = examples
    if jax.tree_util.all_leaves([x, y]):
        check(x, y, name="split")
    else:
        check_rows(Examples(x, y), "split")
    rows = row_count((x, y))
    if not 0 < fraction < 1:
        raise ValueError(
            f"split: fraction is {fraction}, wanted a number between 0 and 1: "
            "write split((x, y), 0.2) to hold out a fifth of the rows"
        )
    seed = operator.index(seed)
    digests = [hashlib.sha256(f"{seed}/{row}".encode()).digest() for row in range(rows)]
    order = np.array(sorted(range(rows), key=digests.__getitem__))
    held = np.zeros(rows, bool)
    one_array = jax.tree_util.all_leaves([y])
    for members in _classes(np.asarray(y)[order]) if one_array else [np.arange(rows)]:
        held[members[: round(fraction * len(members))]] = True
    if held.all() or not held.any():
        raise ValueError(
            f"split: fraction {fraction} of {rows} rows, rounded in each class, leaves "
            f"{int(held.sum())} held out, wanted at least one on either side: "
            "write another fraction, or bring more rows"
        )
    kept, held = order[~held], order[held]
    part = Examples(x, y)
    return tuple(jax.tree.map(lambda a, at=at: a[at], part) for at in (kept, held))  # type: ignore[return-value]


def _classes(y: np.ndarray) -> list[np.ndarray]:
    """The positions of each class's rows, in order."""
    if not np.issubdtype(y.dtype, np.integer):
        return [np.arange(len(y))]
    if y.ndim != 1:
        raise ValueError(
            f"split: y holds integers of shape {y.shape}, wanted one label a row, ({len(y)},): "
            "write split((x, y.astype(np.float32)), fraction) to split without regard to y"
        )
    return [np.flatnonzero(y == label) for label in np.unique(y)]
