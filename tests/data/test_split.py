"""The split: by hand on eight rows, by its laws on any."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import data

# for i in 0 1 2 3 4 5 6 7; do printf 0/$i | sha256sum; done:
#   5513e3.. a93875.. 9dc636.. ecbe93.. 341a66.. c2f817.. 67c37a.. 8cc99d..
SHELL_ORDER = [4, 0, 6, 7, 2, 1, 5, 3]


def test_eight_rows_by_hand():
    rows = np.arange(8)
    kept, held = data.split((rows, rows.astype(np.float32)), 0.25)
    assert held.x.tolist() == SHELL_ORDER[:2]
    assert kept.x.tolist() == SHELL_ORDER[2:]
    # Classes {0, 1, 2, 3} and {4, 5, 6, 7}: the first of each in that order are 0 and 4.
    kept, held = data.split((rows, rows // 4), 0.25)
    assert held.x.tolist() == [4, 0]
    assert kept.x.tolist() == [6, 7, 2, 1, 5, 3]


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(-2, 3), min_size=4, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_a_partition_stratified_and_repeatable(labels, fraction, seed):
    rows, y = np.arange(len(labels)), np.array(labels)
    expected = {label: round(fraction * labels.count(label)) for label in set(labels)}
    if not 0 < sum(expected.values()) < len(labels):
        with pytest.raises(ValueError, match="at least one row on either side"):
            data.split((rows, y), fraction, seed=seed)
        return
    kept, held = data.split((rows, y), fraction, seed=seed)
    assert sorted([*kept.x, *held.x]) == list(rows)
    assert {label: held.y.tolist().count(label) for label in expected} == expected
    for part in (kept, held):
        np.testing.assert_array_equal(part.y, y[part.x])
    again, _ = data.split((rows, y), fraction, seed=seed)
    np.testing.assert_array_equal(again.x, kept.x)


def test_another_seed_is_another_split():
    y = np.zeros(100, np.float32)
    splits = [tuple(data.split((np.arange(100), y), 0.5, seed=s)[1].x) for s in range(4)]
    assert len(set(splits)) == 4


@pytest.mark.parametrize("fraction", [1.5, -0.1, float("nan"), 20])
def test_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError) as error:
        data.split((np.arange(9), np.arange(9.0)), fraction)
    assert f"split.fraction must be a number from 0 to 1, got {fraction}" in str(error.value)
    assert "write split((x, y), 0.2)" in str(error.value)


@pytest.mark.parametrize("fraction", [0, 1])
def test_a_fraction_that_leaves_one_side_empty(fraction):
    with pytest.raises(ValueError, match="expected at least one row on either side"):
        data.split((np.arange(9), np.arange(9.0)), fraction)


def test_bad_rows():
    with pytest.raises(
        ValueError, match=r"split must have .* at least 1, got split/x: 0, split/y: 0"
    ):
        data.split((np.zeros((0, 3)), np.zeros(0)), 0.5)
    with pytest.raises(ValueError, match="got split/x: 3, split/y: 4"):
        data.split((np.zeros(3), np.zeros(4)), 0.5)
    with pytest.raises(
        ValueError, match=r"one label for each row, must be of shape \(4,\), got int64\[4,2\]"
    ):
        data.split((np.zeros(4), np.zeros((4, 2), int)), 0.5)
    with pytest.raises(TypeError, match="integer"):
        data.split((np.zeros(4), np.zeros(4)), 0.5, seed=0.5)  # pyright: ignore[reportArgumentType]
