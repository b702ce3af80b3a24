"""Positions in packed and padded rows: against a loop over positions, in pieces and as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.functional.segments import check_segments, packed_mask, packed_positions

ROWS = [
    [1, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 3, 3, 3, 0, 0, 0],
    [2, 2, 0, 2, 5, 0, 5, 2],  # padding is skipped; the last 2 is another sequence
    [0, 0, 0, 0, 0, 0, 0, 0],
    [4, 1, 1, 4, 0, 4, 0, 1],
]


def by_loop(row: list[int]) -> tuple[list[int], list[int]]:
    """Sequence and position; those of padding, and what an empty row has, are not looked at."""
    sequence = position = last = 0
    found = []
    for segment in row:
        if segment:
            sequence, position = (sequence, position + 1) if segment == last else (sequence + 1, 0)
            last = segment
        found.append((sequence if segment else 0, position if segment else 0))
    return tuple(map(list, zip(*found, strict=True)))  # type: ignore[return-value]


@pytest.mark.parametrize("split", [(8,), (1,) * 8, (3, 5)])
def test_places_by_a_loop(split: tuple[int, ...]):
    segment_ids, count, found = jnp.array(ROWS), None, []
    for piece in jnp.split(segment_ids, np.cumsum(split)[:-1], axis=1):
        one, count = jax.jit(packed_positions)(piece, count)
        found.append(one)
    sequence, position = (jnp.concatenate(arrays, 1) for arrays in zip(*found, strict=True))
    expected = np.array([by_loop(row) for row in ROWS])
    np.testing.assert_array_equal(sequence, expected[:, 0])
    np.testing.assert_array_equal(jnp.where(segment_ids != 0, position, 0), expected[:, 1])
    assert (position >= 0).all()


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_by_a_loop(causal: bool, window: int | None):

    @jax.jit
    def run(segment_ids):
        found, _ = packed_positions(segment_ids)
        return packed_mask(found, found, causal=causal, window=window)

    mask = np.asarray(run(np.array(ROWS)))
    for row, segment_ids in enumerate(ROWS):
        sequence, position = by_loop(segment_ids)
        for t, s in np.ndindex(8, 8):
            away = position[t] - position[s]
            seen = sequence[t] == sequence[s] != 0 and not (causal and away < 0)
            assert mask[row, t, s] == (seen and (window is None or abs(away) < window))


def test_other_segments_are_refused():
    with pytest.raises(
        TypeError, match=r"segment_ids must be integers: 0 for padding, .* got float32"
    ):
        check_segments(jnp.ones(3), (3,))
    with pytest.raises(TypeError, match=r"got \[1, 2\]"):
        check_segments([1, 2], (2,))
    with pytest.raises(ValueError, match=r"shape \(\.\.\., T\) .* \(3,\), got int32\[2\]"):
        check_segments(jnp.ones(2, int), (3,))
