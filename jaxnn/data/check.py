"""Checks of training data before the first step, instead of after a NaN loss."""

from typing import Any

import jax
import numpy as np

from jaxnn.data.rows import check_finite, check_rows, in_pieces, leaves_by_path, place
from jaxnn.fields import is_traced
from jaxnn.validation import Accepts


def check(
    x: Any,
    y: Any,
    *,
    classes: int | None = None,
    ignore: int | None = None,
    name: str = "data",
    write: str = "classes={}",
) -> None:
    """Raise if inputs and targets cannot be trained on.

    Both must be arrays of numbers with the same number of rows, at least one, and no NaN or
    infinity. If `classes` is given, targets must be integers in 0 .. classes - 1. If x or y is a
    pytree of several arrays, only types and numbers of rows are checked, since NaN may be masked.

    Args:
        x: Inputs, (rows, ...), a NumPy or JAX array; or a pytree of such arrays.
        y: Targets, (rows, ...), likewise.
        classes: Number of classes. Default: None if y does not hold class labels.
        ignore: A label that is accepted although it is not a class, such as -100. Default: None.
        name: Name of the data in errors. Default: "data".
        write: The code that sets the number of classes, for errors, with {} for the number.

    Raises:
        TypeError: `x` or `y` is not an array of numbers, or labels are not integers.
        ValueError: The number of rows, a value, or a label is not valid; the message contains the
            first such row.

    >>> x = np.zeros((3, 2), np.float32)
    >>> check(x, np.array([0, 1, 2]), classes=3)
    >>> check(x, np.array([1, 2, 3]), classes=3)
    Traceback (most recent call last):
    ValueError: data/y must hold labels 0 .. 2 for classes=3, got label 3 at row 2; \
the labels seem to count from 1: write y - 1
    """
    check_rows({"x": x, "y": y}, name)
    if not jax.tree_util.all_leaves([x, y]):
        return
    for path, leaf in leaves_by_path({"x": x, "y": y}, name).items():
        _known(leaf, path)
    check_finite({"x": x, "y": y}, name)
    if classes is not None:
        _check_labels(y, classes, ignore, f"{name}/y", write)


_known = Accepts(
    "an array of known values, not a traced one",
    lambda leaf: not is_traced(leaf),
    TypeError,
    "write check(x, y) outside jit, before the training step",
    abstract=True,
)


def saturated_batch(batch: Any) -> Any:
    """Return a batch with `saturated` applied to each leaf.

    Args:
        batch: A pytree of arrays.
    """
    # A step calls this: for arrays on the device, `jax.tree.map` would take 3 % of a short one.
    if any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch)):
        return jax.tree.map(saturated, batch)
    return batch


def saturated(value: Any) -> Any:
    """Return a NumPy array of integers as JAX holds it, clipped to the range of that type.

    By default, JAX keeps only the lower 32 of 64 bits, which may be a valid class. Other values are
    returned unchanged.

    Args:
        value: Any value.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        return value
    held = jax.dtypes.canonicalize_dtype(value.dtype)
    if held == value.dtype:
        return value
    info = np.iinfo(held)
    return np.clip(value, info.min, info.max).astype(held)


def wrong_label(y: Any, classes: int, ignore: int | None) -> str | None:
    """Return the first label that is neither in [0, classes) nor `ignore`, and its place.

    Args:
        y: Targets (rows, ...). Those that are not integers are not checked.
        classes: Number of classes.
        ignore: A label that is accepted although it is not a class; None for none.

    Returns:
        The text for an error; None if all labels are accepted.

    >>> wrong_label(np.array([0, 7]), 2, None)
    'label 7 at row 1'
    """
    if np.issubdtype(y.dtype, np.integer):
        for begin, piece in in_pieces(np.atleast_1d(y)):
            wrong = _outside(piece, classes, ignore)
            if wrong.any():
                row, *position = np.unravel_index(int(wrong.argmax()), wrong.shape)
                label = int(piece[(row, *position)])
                return f"label {label} at {place((begin + row, *position))}"
    return None


def _outside(y: np.ndarray, classes: int, ignore: int | None) -> np.ndarray:
    bad = (y < 0) | (y >= classes)
    return bad if ignore is None else bad & (y != ignore)


def _check_labels(y: Any, classes: int, ignore: int | None, path: str, write: str) -> None:
    error: type[Exception] = ValueError
    if y.ndim == 2 and y.shape[1] == classes > 1 and _is_one_hot(y := np.asarray(y)):
        found, advice = f"one-hot rows {y.shape}", "write y.argmax(axis=1)"
    elif not np.issubdtype(y.dtype, np.integer):
        error, found = TypeError, f"dtype {y.dtype}"
        advice = "write y.astype(np.int32), or classes=None for regression"
        if not (y == np.round(y)).all():
            advice = (
                "they are not whole numbers: write classes=None, and in training, a task for "
                "numbers such as train.Regression(), or a loss function of probabilities"
            )
    elif (found := wrong_label(y, classes, ignore)) is not None:
        advice = _label_advice(np.asarray(y), classes, ignore, write)
    else:
        return
    raise error(
        f"{path} must hold labels 0 .. {classes - 1} for classes={classes}, got {found}; {advice}"
    )


def _label_advice(y: np.ndarray, classes: int, ignore: int | None, write: str) -> str:
    """Return a change that keeps the meaning of every label, if all parts of the data get it."""
    known = y if ignore is None else y[y != ignore]
    whole = known.size == y.size
    low, high = int(known.min()), int(known.max())

    def changed(code: str) -> str:
        return code if whole else f"np.where(y == {ignore}, y, {code})"

    if low == 1 and high == classes:
        return f"the labels seem to count from 1: write {changed('y - 1')}"
    if classes == 2 and low == -1 and high == 1 and known.all():
        return f"the labels seem to be -1 and 1: write {changed('(y + 1) // 2')}"
    label = int(known[_outside(known, classes, ignore)].ravel()[0])
    excluded = f"ignore={label}" if whole else f"np.where(y == {label}, {ignore}, y)"
    excluded = f"write {excluded} if {label} marks examples without a label"
    if low < 0:
        return f"if labels are below 0, {excluded}" if label >= 0 else excluded
    return f"write {write.format(high + 1)} if {high} is a class; {excluded}"


def _is_one_hot(y: np.ndarray) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())
