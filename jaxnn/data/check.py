"""Whether arrays can be trained on, asked before the first step instead of after a NaN loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check(
    x: Any,
    y: Any,
    *,
    classes: int | None = None,
    ignore: int | None = None,
    name: str = "data",
    write: str = "classes={}",
) -> None:
    """Raise if inputs and targets cannot be trained on; return nothing if they can.

    Both hold numbers, as many rows, at least one row, and no NaN or infinity. With `classes`,
    targets are integers in 0 .. classes - 1.

    Args:
        x: inputs, (rows, ...), a numpy or JAX array.
        y: targets, (rows, ...), likewise.
        classes: how many classes there are; None if y is not a class label.
        ignore: a label that is accepted although it is not a class, such as -100; None for none.
        name: what the data are called in errors.
        write: the code that sets the number of classes, for errors, with {} for the number.

    Raises:
        TypeError: not an array, not numbers, or labels that are not integers.
        ValueError: shapes, values or labels are wrong; the first offending row is named.

    >>> x = np.zeros((3, 2), np.float32)
    >>> check(x, np.array([0, 1, 2]), classes=3)
    >>> check(x, np.array([1, 2, 3]), classes=3)
    Traceback (most recent call last):
    ValueError: data: y holds label 3 at row 2, wanted 0 .. 2 for classes=3. The labels seem to \
count from 1: write y - 1
    """
    x, y = _numbers(x, f"{name}: x"), _numbers(y, f"{name}: y")
    if len(x) != len(y):
        raise ValueError(
            f"{name}: x has {len(x)} rows and y has {len(y)}, wanted as many: "
            f"x is {x.shape}, y is {y.shape}; write x[:n], y[:n] or see where they came apart"
        )
    if len(x) == 0:
        raise ValueError(
            f"{name}: no rows: x is {x.shape}, y is {y.shape}; wanted one row or more. "
            "See what selected them: print(x.shape) before that"
        )
    _finite(x, f"{name}: x")
    _finite(y, f"{name}: y")
    if classes is not None:
        _labels(y, classes, ignore, name, write)


def _numbers(value: Any, what: str) -> np.ndarray:
    symbol = what[-1]
    if isinstance(value, dict) or _holds_arrays(value):
        raise TypeError(
            f"{what} is a {type(value).__name__} of arrays, wanted one array: join them along the "
            "last axis by np.concatenate, and split them in the network or the loss; or train from "
            "a data.Source, whose batches may hold tuples and dicts of arrays"
        )
    if not isinstance(value, np.ndarray | jax.Array):
        raise TypeError(
            f"{what} is a {type(value).__name__}, wanted an array: "
            f"write {symbol} = np.asarray({symbol})"
        )
    if isinstance(value, Tracer):
        raise TypeError(
            f"{what} is traced, and its values cannot be looked at: "
            "write check(x, y) outside jit, before the training step"
        )
    kinds = (np.number, np.bool_)
    if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise TypeError(
            f"{what} has dtype {value.dtype}, wanted numbers: "
            f"write {symbol} = {symbol}.astype(np.float32), or encode text as integers first"
        )
    if value.ndim == 0:
        raise ValueError(
            f"{what} has shape (), wanted (rows, ...): write {symbol} = {symbol}.reshape(1)"
        )
    return np.asarray(value)


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, tuple | list) and any(hasattr(one, "shape") for one in value)


def _finite(array: np.ndarray, what: str) -> None:
    if not jnp.issubdtype(array.dtype, np.inexact):
        return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    row, *position = (int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
    rows = int(bad.reshape(len(bad), -1).any(axis=1).sum())
    symbol = what[-1]
    at = f"row {row}, position {tuple(position)}" if position else f"row {row}"
    advice = (
        f"write keep = np.isfinite({symbol}).reshape(len({symbol}), -1).all(axis=1); "
        "x, y = x[keep], y[keep], or fill them in"
    )
    if symbol == "y" and array.ndim > 1:  # a row may hold other targets, which are known
        advice = (
            "write np.nan_to_num(y, posinf=0, neginf=0), and weights np.isfinite(y) as the third "
            "part of a batch of train.Supervised"
        )
    raise ValueError(
        f"{what} holds {array[(row, *position)]} at {at} ({rows} of {len(array)} rows are not "
        f"finite), wanted finite numbers: {advice}"
    )


def saturated_batch(batch: Any) -> Any:
    """The batch, with `saturated` applied to each leaf."""
    # A step calls this: for arrays on the device, `jax.tree.map` would take 3 % of a short one.
    if any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch)):
        return jax.tree.map(saturated, batch)
    return batch


def saturated(value: Any) -> Any:
    """A NumPy array of integers as JAX holds it, clipped to the range of that type.

    JAX keeps the lower 32 bits of 64, which may be a class. Other values are returned as they are.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu":
        return value
    held = jax.dtypes.canonicalize_dtype(value.dtype)
    if held == value.dtype:
        return value
    info = np.iinfo(held)
    return np.clip(value, info.min, info.max).astype(held)


def wrong_label(y: np.ndarray, classes: int, ignore: int | None) -> str | None:
    """The first label that is neither in [0, classes) nor `ignore`, and its place; None if all are.

    >>> wrong_label(np.array([0, 7]), 2, None)
    'label 7 at row 1'
    """
    if not np.issubdtype(y.dtype, np.integer):
        return None
    bad = _outside(y, classes, ignore)
    if not bad.any():
        return None
    row, *position = (int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape) or (0,))
    label = int(y[(row, *position)]) if y.ndim else int(y)
    return f"label {label} at row {row}" + (f", position {tuple(position)}" if position else "")


def _outside(y: np.ndarray, classes: int, ignore: int | None) -> np.ndarray:
    bad = (y < 0) | (y >= classes)
    return bad if ignore is None else bad & (y != ignore)


def _labels(y: np.ndarray, classes: int, ignore: int | None, name: str, write: str) -> None:
    if y.ndim == 2 and y.shape[1] == classes > 1 and _one_hot(y):
        raise ValueError(
            f"{name}: y is one-hot, {y.shape}, wanted labels, ({len(y)},): write y.argmax(axis=1)"
        )
    if not np.issubdtype(y.dtype, np.integer):
        advice = "write y.astype(np.int32), or classes=None for regression"
        if not (y == np.round(y)).all():
            advice = (
                "they are not whole numbers: write classes=None, and in training, a task for "
                "numbers such as train.Regression(), or a loss function of probabilities"
            )
        raise TypeError(
            f"{name}: y has dtype {y.dtype}, wanted integer labels 0 .. {classes - 1} for "
            f"classes={classes}: {advice}"
        )
    wrong = wrong_label(y, classes, ignore)
    if wrong is None:
        return
    raise ValueError(
        f"{name}: y holds {wrong}, wanted 0 .. {classes - 1} for classes={classes}. "
        f"{_label_advice(y, classes, ignore, write)}"
    )


def _label_advice(y: np.ndarray, classes: int, ignore: int | None, write: str) -> str:
    """A change that keeps what every label means, if it is made in all parts of the data."""
    known = y if ignore is None else y[y != ignore]
    whole = known.size == y.size
    low, high = int(known.min()), int(known.max())
    if low == 1 and high == classes:
        change = "y - 1" if whole else f"np.where(y == {ignore}, y, y - 1)"
        return f"The labels seem to count from 1: write {change}"
    if classes == 2 and low == -1 and high == 1 and known.all():
        change = "(y + 1) // 2" if whole else f"np.where(y == {ignore}, y, (y + 1) // 2)"
        return f"The labels seem to be -1 and 1: write {change}"
    label = int(known[_outside(known, classes, ignore)].ravel()[0])
    excluded = f"ignore={label}" if whole else f"np.where(y == {label}, {ignore}, y)"
    excluded = f"write {excluded} if {label} marks examples without a label"
    if low < 0:
        return f"If labels are below 0, {excluded}" if label >= 0 else excluded.capitalize()
    return f"Write {write.format(high + 1)} if {high} is a class; {excluded}"


def _one_hot(y: np.ndarray) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())
