"""Minibatches: every row at most once, pairs kept together, repeatable by key."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import data


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 12), size=st.integers(1, 12), seed=st.integers(0, 3))
def test_rows_once_and_together(rows, size, seed):
    if size > rows:
        return
    x = np.arange(rows)
    found = list(data.batches(jax.random.key(seed), data.Examples(x, -x), size))
    assert len(found) == rows // size
    assert all(isinstance(batch, data.Examples) and len(batch.x) == size for batch in found)
    seen = np.concatenate([batch.x for batch in found])
    assert len(set(seen.tolist())) == len(seen)
    np.testing.assert_array_equal(np.concatenate([batch.y for batch in found]), -seen)


def test_the_key_decides():
    def order(seed):
        arrays = {"x": np.arange(50)}
        return [b["x"].tolist() for b in data.batches(jax.random.key(seed), arrays, 10)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(row for batch in order(0) for row in batch) == list(range(50))


@pytest.mark.parametrize("size", [0, -1, 5])
def test_a_size_out_of_range_is_refused_at_the_call(size):
    with pytest.raises(
        ValueError,
        match=rf"batch_size must be an int from 1 to 4, got {size}; the training data have 4 rows",
    ):
        data.batches(jax.random.key(0), np.zeros(4), size)


def test_arrays_of_other_lengths():
    with pytest.raises(ValueError, match=r"arrays/0: 4, arrays/1: 3"):
        data.batches(jax.random.key(0), (np.zeros(4), np.zeros(3)), 2)
