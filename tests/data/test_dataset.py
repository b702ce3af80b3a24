"""A data set as a value: it refuses bad parts and maps all three alike."""

from dataclasses import FrozenInstanceError
from typing import Any

import jax
import numpy as np
import pytest

from jaxnn import data


def part(rows: int, first: int = 0) -> data.Examples:
    x = np.arange(first, first + rows, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    return data.Examples(x, np.arange(rows) % 2)


TOY = data.Dataset("toy", part(6), part(2, 6), part(4, 8), class_names=("even", "odd"))


def test_the_union_leaves_the_test_rows_alone():
    x, y = TOY.train_and_validation
    assert x[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert y.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_pairs_become_examples():
    parts: Any = [tuple(one) for one in (TOY.train, TOY.validation, TOY.test)]
    toy = data.Dataset("toy", *parts, class_names=TOY.class_names)
    assert toy.test.y is TOY.test.y and toy.train.x is TOY.train.x
    assert repr(toy) == repr(TOY)


def test_map_does_the_same_to_every_part():
    scale = data.Standardizer.fit(TOY.train.x)
    scaled = TOY.map(x=scale)
    # Rows 0 .. 5 have mean 2.5 and variance 35 / 12, whatever is in the other parts.
    for before, after in zip(
        (TOY.train, TOY.validation, TOY.test),
        (scaled.train, scaled.validation, scaled.test),
        strict=True,
    ):
        np.testing.assert_allclose(after.x, (before.x - 2.5) / np.sqrt(35 / 12), rtol=1e-6)
        assert after.y is before.y
    assert scaled.class_names == TOY.class_names
    flipped = TOY.map(y=lambda y: 1 - y)
    assert flipped.test.y.tolist() == [1, 0, 1, 0]
    assert flipped.test.x is TOY.test.x


def test_map_refuses_to_lose_rows():
    with pytest.raises(
        ValueError, match=r"toy\.train must have .* got toy\.train/x: 5, toy\.train/y: 6"
    ):
        TOY.map(x=lambda x: x[1:])


def test_bad_parts_are_named():
    bad = data.Examples(part(2).x, np.array([0, 2]))
    with pytest.raises(
        ValueError, match=r"toy\.validation/y must hold labels 0 \.\. 1 .* label 2 at row 1"
    ):
        data.Dataset("toy", part(4), bad, part(4), class_names=("even", "odd"))
    empty = data.Examples(part(2).x[:0], part(2).y[:0])
    with pytest.raises(ValueError, match=r"at least 1, got toy\.test/x: 0"):
        data.Dataset("toy", part(4), part(4), empty)


def test_frozen_and_readable():
    with pytest.raises(FrozenInstanceError):
        TOY.train = TOY.test  # pyright: ignore[reportAttributeAccessIssue]
    assert repr(TOY) == "Dataset('toy': train 6, validation 2, test 4; x (3,) float32, 2 classes)"


def test_examples_are_a_pytree():
    shapes = jax.tree.map(np.shape, part(4))
    assert shapes == data.Examples((4, 3), (4,))  # pyright: ignore[reportArgumentType]
