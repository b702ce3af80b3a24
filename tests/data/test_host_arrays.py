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
    monkeypatch.setattr("jaxnn.data.rows.PIECE", 16)  # two rows
    bad = X.copy()
    bad[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"training data/x must be finite, got nan at row 7, po"):
        HostArrays(bad, Y)
    with pytest.raises(ValueError, match=r"got training data/x: 11, training data/y: 10"):
        HostArrays(X, Y[:10])
    source = HostArrays(X, Y)
    source.check(classes=11)
    with pytest.raises(ValueError, match=r"/y must hold labels 0 .. 9 .*, got label 10 at row 10"):
        source.check(classes=10)


def test_errors():
    source = HostArrays(X, Y)
    with pytest.raises(ValueError) as error:
        source.steps_per_epoch(12)
    assert str(error.value) == (
        "batch_size must be an int from 1 to 11, got 12; the training data have 11 rows; write "
        "batch_size=11 or less"
    )
    with pytest.raises(
        ValueError, match=r"divisible by the 3 processes, got 4; write batch_size=3"
    ):
        source.open(KEY, 4, process=(0, 3))
    with pytest.raises(ValueError, match=r"process\[0\] must be an int from 0 to 1, got 2"):
        share(4, (2, 2))
    kept = source.open(KEY, 4).position()
    with pytest.raises(ValueError) as error:
        HostArrays(X[:8], Y[:8]).open(KEY, 4, kept)
    assert str(error.value) == (
        "the position in the data is that of another run, whose batches differ: its rows is 11, "
        "not 8; continue with the same data, batch_size, key, and workers, or begin a new run"
    )
    with pytest.raises(ValueError, match=r"its batch_size is 4, not 2"):
        source.open(KEY, 2, kept)
    with pytest.raises(ValueError, match=r"its key is \[0, 3\], not \[0, 4\]"):
        source.open(jax.random.key(4), 4, kept)
    with pytest.raises(ValueError, match=r"number of batches must be an int >= 0, got -1"):
        source.open(KEY, 4, {**kept, "batches": -1})


def test_its_public_names():
    assert repr(data.HostArrays(X, Y)) == "HostArrays(x (11, 2) float32, y (11,) int64)"
