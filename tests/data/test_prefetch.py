"""Reading ahead changes no batch, no order and no position, and leaves no thread behind."""

import gc
import threading
import time

import jax
import numpy as np
import pytest

from jaxnn.data import HostArrays, prefetched

KEY = jax.random.key(0)
SOURCE = HostArrays(np.arange(10.0), np.arange(10))


class Counted:
    """Batches 0, 1, ... that fail or end at one of them."""

    def __init__(self, fails=-1, ends=-1):
        self.read, self.fails, self.ends, self.closed = 0, fails, ends, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.read == self.fails:
            raise OSError("the disk is gone")
        if self.read == self.ends:
            raise StopIteration
        self.read += 1
        return np.full(2, self.read - 1), np.full(2, self.read - 1)

    def position(self):
        return {"batches": self.read}

    def close(self):
        self.closed += 1


def threads():
    return [one for one in threading.enumerate() if one.name == "jaxnn-prefetch"]


def until(true):
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise TimeoutError


def test_the_same_batches_on_the_device():
    plain = SOURCE.open(KEY, 3)
    with prefetched(SOURCE.open(KEY, 3)) as batches:
        for _ in range(7):
            x, y = next(batches)
            assert isinstance(x, jax.Array)
            for found, wanted in zip((x, y), next(plain), strict=True):
                np.testing.assert_array_equal(found, wanted)
    assert not threads()


def test_the_position_is_the_consumers():
    inner = Counted()
    with prefetched(inner, ahead=3) as batches:
        until(lambda: inner.read >= 3)
        assert batches.position() == {"batches": 0}
        batches.peek()
        time.sleep(0.05)
        assert inner.read == 3  # and no more than that ahead
        next(batches)
        assert batches.position() == {"batches": 1}
        until(lambda: inner.read >= 4)
        time.sleep(0.05)
        assert inner.read == 4
    assert inner.closed == 1


def test_several_batches_an_item():
    plain = SOURCE.open(KEY, 3)
    wanted = [next(plain)[1] for _ in range(6)]
    with prefetched(SOURCE.open(KEY, 3), counts=[2, 3, 1]) as batches:
        found = list(batches)
        assert batches.position()["batches"] == 6  # and not one more was taken
    assert [len(y) for _, y in found] == [2, 3, 1]
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), wanted)
    with prefetched(Counted(ends=3), counts=[2, 2, 2]) as batches:
        assert [len(y) for _, y in batches] == [2, 1]  # the last is shorter, nothing is lost


def test_an_error_comes_after_all_that_was_read():
    with prefetched(Counted(fails=2)) as batches:
        assert [int(next(batches)[0][0]) for _ in range(2)] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(batches)
        assert batches.position() == {"batches": 2}


def test_what_places_may_fail_too():
    def place(batch):
        raise MemoryError("no room on the device")

    with prefetched(Counted(), place) as batches, pytest.raises(MemoryError, match="no room"):
        next(batches)


def test_closed_and_given_up():
    inner = Counted()
    batches = prefetched(inner)
    batches.close()
    batches.close()
    assert inner.closed == 1 and not threads()
    with pytest.raises(ValueError, match="these batches are closed; open the source again"):
        next(batches)
    inner = Counted()
    batches = prefetched(inner)
    del batches
    gc.collect()
    assert inner.closed == 1 and not threads()


def test_errors():
    with pytest.raises(ValueError, match=r"prefetched.ahead must be an int >= 1, got 0"):
        prefetched(Counted(), ahead=0)
