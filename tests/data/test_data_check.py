"""What can be trained on passes in silence; what cannot says what, where and what to write."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.data import check

X = np.zeros((4, 2), np.float32)
Y = np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("x", "y", "classes"),
    [
        (X, Y, 3),
        (X.astype(np.float16), Y.astype(np.uint8), 3),
        (jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y), 3),
        (X, np.zeros(4, np.float32), None),
        (X, np.zeros((4, 5)), None),
        (np.zeros((4, 7), np.int32), np.zeros((4, 7), np.int32), 50),  # token ids
        (X > 0, Y, 4),
    ],
)
def test_what_passes(x, y, classes):
    assert check(x, y, classes=classes) is None


def refused(
    error_type: type[Exception], *parts: str, x: Any = X, y: Any = Y, classes: int | None = 3
) -> None:
    with pytest.raises(error_type) as error:
        check(x, y, classes=classes, name="train")
    for part in ("train", *parts):
        assert part in str(error.value)


def test_not_arrays():
    refused(TypeError, "train/x/0/0 must be an array of numbers", "np.asarray(a)", x=[[1.0]] * 4)
    refused(TypeError, "train/y/0 must be an array of numbers", "got 0; write", y=(0, 1, 2, 1))
    refused(TypeError, "train/y must be an array of numbers", "<U1[4]", y=np.array(list("abca")))
    refused(
        TypeError, "train/x must be an array of numbers", "got object[4]", x=np.array([None] * 4)
    )
    refused(TypeError, "train/y must be an array", "(rows, ...), got int64[]", y=np.array(3))


def test_rows():
    refused(ValueError, "the same number of rows", "train/x: 4, train/y: 3", y=Y[:3])
    refused(ValueError, "at least 1, got train/x: 0, train/y: 0", x=X[:0], y=Y[:0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value):
    x = X.copy()
    x[2, 1] = x[3, 0] = value
    refused(ValueError, f"got {value} at row 2, position (1,) (2 of 4 rows", "isfinite(x)", x=x)
    y = np.array([0.0, value, 1.0, 1.0])
    refused(
        ValueError, f"train/y must be finite, got {value} at row 1 (1 of 4 rows", y=y, classes=None
    )
    half = jnp.asarray(x, jnp.bfloat16)
    refused(ValueError, f"train/x must be finite, got {value} at row 2, position (1,)", x=half)


def test_labels():
    refused(
        ValueError,
        "train/y must hold labels 0 .. 2 for classes=3, got label 5 at row 2",
        "classes=6",
        y=np.array([0, 1, 5, 4]),
    )
    refused(ValueError, "got label -1 at row 1", "write ignore=-1 if -1", y=np.array([0, -1, 2, 1]))
    refused(ValueError, "got label 3 at row 2", "write y - 1", y=Y + 1)
    refused(TypeError, "got dtype float32", "write y.astype(np.int32)", y=Y.astype(np.float32))
    tokens = np.zeros((4, 3), int)
    tokens[1, 2] = 7
    refused(ValueError, "got label 7 at row 1, position (2,)", y=tokens)
    for kind in (np.float32, int, bool):
        refused(
            ValueError, "got one-hot rows (4, 3)", "y.argmax(axis=1)", y=np.eye(3, dtype=kind)[Y]
        )


def test_advice_keeps_what_the_data_mean():
    """No advice drops known targets, or makes a class of a label that marks missing ones."""
    y = np.array([[0.0, 1.0], [np.nan, 2.0], [1.0, 1.0], [0.0, 0.0]])
    with pytest.raises(
        ValueError, match=r"y must be finite, got nan .* masked by weights of 0"
    ) as error:
        check(X, y)
    assert "keep" not in str(error.value)
    with pytest.raises(ValueError, match=r"from 1: write np.where\(y == -100, y, y - 1\)"):
        check(X, np.array([1, 2, 3, -100]), classes=3, ignore=-100)
    # A map of all numbers would make a class of the missing label, or differ from part to part.
    for wrong, ignore, advice in (
        ([0, -1, 2, -100], -100, "write np.where(y == -1, -100, y) if -1 marks examples without a"),
        ([0, -1, 2, 1], -100, "write ignore=-1 if -1 marks examples without a label"),
        ([0, 1, 5, -100], -100, "write classes=6 if 5 is a class; write np.where(y == 5, -100, y)"),
        ([0, 255, 2, 1], None, "write classes=256 if 255 is a class; write ignore=255 if 255"),
    ):
        with pytest.raises(ValueError, match=re.escape(advice)) as error:
            check(X, np.array(wrong), classes=3, ignore=ignore)
        assert "np.unique" not in str(error.value)
    with pytest.raises(ValueError, match=re.escape("be -1 and 1: write (y + 1) // 2")):
        check(X, np.array([1, -1, -1, 1]), classes=2)
    with pytest.raises(TypeError, match=r"not whole numbers: write classes=None") as error:
        check(X, np.array([0.2, 0.9, 1.0, 0.0]), classes=2)
    assert "astype" not in str(error.value)


def test_traced():
    with pytest.raises(TypeError, match=r"x must be .* not a traced one.*outside jit"):
        jax.jit(lambda x: check(x, Y))(X)
