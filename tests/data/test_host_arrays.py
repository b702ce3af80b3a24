"""Arrays on the host: the rows that the order names, in every process, from every position."""

import json

import jax
import numpy as np
import pytest

from jaxnn import data
from jaxnn.data import HostArrays, epoch_order
from jaxnn.data.source import Batches, Source, share

KEY = jax.random.key(3)
X, Y = np.arange(22.0, dtype=np.float32).reshape(11, 2), np.arange(11)


def labels(batches, count):
    return [next(batches)[1].tolist() for _ in range(count)]


def test_the_batches_are_those_of_the_epochs_order():
    source = HostArrays(X, Y)
    assert isinstance(source, Source) and isinstance(source.open(KEY, 4), Batches)
    assert source.steps_per_epoch(4) == 2
    batches = source.open(KEY, 4)
    for epoch in range(3):
        order = epoch_order(KEY, epoch, 11)[:8].reshape(2, 4)
        for rows in order:
            x, y = next(batches)
            np.testing.assert_array_equal(x, X[rows])
            np.testing.assert_array_equal(y, rows)


def test_a_key_may_be_its_words():
    words = np.asarray(jax.random.key_data(KEY))
    source = HostArrays(X, Y)
    assert labels(source.open(words, 4), 5) == labels(source.open(KEY, 4), 5)


@pytest.mark.parametrize("done", [0, 1, 2, 5])
def test_a_position_goes_on_where_it_was_taken(done):
    source = HostArrays(X, Y)
    whole = labels(source.open(KEY, 4), 8)
    batches = source.open(KEY, 4)
    labels(batches, done)
    kept = json.loads(json.dumps(batches.position()))
    assert kept["batches"] == done
    assert labels(HostArrays(X, Y).open(KEY, 4, kept), 8 - done) == whole[done:]


def test_the_shares_of_processes_make_up_the_batch():
    source = HostArrays(X, Y)
    whole = labels(source.open(KEY, 6), 3)
    shares = [labels(source.open(KEY, 6, process=(i, 3)), 3) for i in range(3)]
    assert [[*a, *b, *c] for a, b, c in zip(*shares, strict=True)] == whole
    # A position is of the whole batch, so another number of processes may go on from it.
    batches = source.open(KEY, 6, process=(0, 3))
    next(batches)
    assert labels(source.open(KEY, 6, batches.position()), 2) == whole[1:]


def test_arrays_mapped_from_files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    x, y = next(HostArrays(mapped, Y).open(KEY, 4))
    assert type(x) is np.ndarray and not np.shares_memory(x, mapped)
    np.testing.assert_array_equal(x, X[y])


def test_the_spec_is_that_of_a_batch_on_the_device():
    x, y = HostArrays(X.astype(np.float64), Y).spec(4)
    on_device = jax.device_put((X[:4].astype(np.float64), Y[:4]))
    assert [(a.shape, a.dtype) for a in (x, y)] == [(a.shape, a.dtype) for a in on_device]


def test_checked_in_pieces_as_at_once(monkeypatch):
    monkeypatch.setattr("jaxnn.data.host_arrays.LOOKED_AT", 32)  # two rows
    bad = X.copy()
    bad[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"training data from row 6: x holds nan at row 1, pos"):
        HostArrays(bad, Y)
    with pytest.raises(ValueError, match=r"training data: x has 11 rows and y has 10, wanted"):
        HostArrays(X, Y[:10])
    source = HostArrays(X, Y)
    source.check(classes=11)
    with pytest.raises(ValueError, match=r"from row 10: y holds label 10 at row 0, wanted 0 .. 9"):
        source.check(classes=10)


def test_errors():
    source = HostArrays(X, Y)
    with pytest.raises(ValueError) as error:
        source.steps_per_epoch(12)
    assert str(error.value) == (
        "batch_size is 12, but the training data have 11 rows; write batch_size=11 or less"
    )
    with pytest.raises(ValueError, match=r"batch_size is 4, which 3 processes do not divide: wri"):
        source.open(KEY, 4, process=(0, 3))
    with pytest.raises(ValueError, match=r"process is \(2, 2\), wanted \(index, count\)"):
        share(4, (2, 2))
    kept = source.open(KEY, 4).position()
    with pytest.raises(ValueError) as error:
        HostArrays(X[:8], Y[:8]).open(KEY, 4, kept)
    assert str(error.value) == (
        "the position in the data is of a run with rows 11, and this one has rows 8: its batches "
        "would be others. Go on with the data, batch_size and key that it was begun with, or begin "
        "a new run"
    )
    with pytest.raises(ValueError, match=r"a run with batch_size 4, and this one has batch_size 2"):
        source.open(KEY, 2, kept)
    with pytest.raises(ValueError, match=r"a run with key \[0, 3\], and this one has key \[0, 4\]"):
        source.open(jax.random.key(4), 4, kept)
    with pytest.raises(ValueError, match=r"has batches -1, wanted an int >= 0"):
        source.open(KEY, 4, {**kept, "batches": -1})


def test_its_public_names():
    assert repr(data.HostArrays(X, Y)) == "HostArrays(x (11, 2) float32, y (11,) int64)"
