"""DataLoaders, generators, and functions that return them: epoch after epoch, and read ahead."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import data
from jaxnn.data.source import Batches
from tests.data.trees import KEY, X, Y, assert_equal


def unchanged(key, batch):
    return batch


class Tensor:
    """An array as torch holds it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array


class Loader:
    """Batches of tensors from the rows in a new order each epoch, as a DataLoader of torch."""

    def __init__(self, size=4, claims=None):
        self.size, self.claims, self.epoch = size, claims, -1

    def __len__(self):
        return self.claims or -(-11 // self.size)

    def __iter__(self):
        self.epoch += 1
        for rows in np.split(np.roll(np.arange(11), self.epoch), range(self.size, 11, self.size)):
            yield [Tensor(X[rows]), Tensor(Y[rows])]


def test_a_loader_is_read_again_each_epoch():
    loader = Loader()
    source = data.as_source(loader)
    assert not data.is_resumable(source) and source.epochs is None
    assert source.steps_per_epoch(4) == source.steps_per_epoch() == 3
    spec = source.spec()
    assert [leaf.shape for leaf in spec] == [(4, 2), (4,)]
    assert loader.epoch == 0  # the batch that gave the spec is not lost:
    batches = source.open(KEY, 4)
    assert isinstance(batches, Batches) and batches.position() is None
    for epoch in range(3):
        for begin in (0, 4, 8):
            rows = np.roll(np.arange(11), epoch)[begin : begin + 4]
            assert_equal(next(batches), (X[rows], Y[rows]))
    assert [len(y) for _, y in data.pieces(source, 100)] == [4, 4, 3]
    assert data.fingerprint_of(source)["length"] == "3"


def test_a_function_is_called_once_per_epoch():
    calls, ended = [], []

    def batches():
        calls.append(1)
        try:
            for rows in ([0, 1], [2, 3], [4]):
                yield {"x": X[rows]}
        finally:
            ended.append(1)

    source = data.as_source(batches)
    assert source.steps_per_epoch() is None and source.epochs is None
    assert source.spec()["x"].shape == (2, 2) and len(calls) == 1
    for epoch in range(3):
        found = list(source.open(KEY))
        assert [len(b["x"]) for b in found] == [2, 2, 1] and len(calls) == epoch + 1
    opened = source.open(KEY)
    next(opened)
    opened.close()
    assert len(ended) == 4 and list(opened) == []
    code = data.fingerprint_of(source)["function"]
    assert any(key.startswith("code of ") for key in code)


def test_an_iterator_is_read_once_and_may_be_continued():
    iterator = ({"x": X[[i]]} for i in range(5))
    source = data.as_source(iterator)
    assert source.steps_per_epoch() is None and source.epochs == 1
    assert source.spec()["x"].shape == (1, 2)
    first = source.open(KEY)
    assert [next(first)["x"][0, 0] for _ in range(2)] == [0, 2]
    first.close()
    assert [b["x"][0, 0] for b in data.as_source(iterator).open(KEY)] == [4, 6, 8]
    with pytest.raises(ValueError, match=r"generator has no batches left; .* write epochs=1, or"):
        next(source.open(KEY))


def test_batches_are_copied_from_arrays_that_are_used_again():
    def batches():
        buffer = np.zeros((2, 3), np.float32)
        for i in range(4):
            buffer[...] = i
            yield buffer

    found = list(data.as_source(batches).open(KEY))
    assert [float(batch[0, 0]) for batch in found] == [0, 1, 2, 3]
    with data.prefetched(data.as_source(batches).open(KEY), counts=[4]) as found:
        assert next(found)[:, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("made", "error", "text"),
    [
        (
            lambda: data.as_source(Loader()).open(KEY, 8),
            ValueError,
            r"batch_size is 8, but the batches of the Loader have 4 rows; leave batch_size out, or "
            r"make batches of 8 rows, such as DataLoader\(dataset, batch_size=8\)",
        ),
        (
            lambda: data.as_source(Loader()).open(KEY, 4, process=(0, 2)),
            ValueError,
            "have 4 rows in each of 2 processes",
        ),
        (
            lambda: data.as_source(Loader()).open(KEY, 4, {"batches": 1}),
            ValueError,
            r"the Loader cannot return to a position, so the run cannot be resumed; write data=\(x",
        ),
        (
            lambda: list(zip(range(4), data.as_source(Loader(claims=2)).open(KEY), strict=False)),
            ValueError,
            r"len\(\) of the Loader is 2, but an epoch has more batches; correct its __len__",
        ),
        (
            lambda: list(zip(range(4), data.as_source(Loader(claims=5)).open(KEY), strict=False)),
            ValueError,
            r"len\(\) of the Loader is 5, but an epoch has 3 batches",
        ),
        (
            lambda: data.as_source(lambda: 3).spec(),
            TypeError,
            r"result of the function <lambda> must be an iterator of batches, got 3; ",
        ),
        (
            lambda: data.Stream([]).spec(),
            ValueError,
            "the list has no batches; check what it filters",
        ),
        (
            lambda: data.Stream(3),
            TypeError,
            r"Stream.batches must be an iterable of batches, .* got 3; write",
        ),
        (
            lambda: list(data.Stream([(X, Y), (X, Y[:3])]).once()),
            ValueError,
            r"batch 1 of the list must have the same .* got batch 1 of the list/0: 11, batch 1 of",
        ),
        (
            lambda: list(data.Stream([{"x": X, "y": Y}, {"x": X}]).once()),
            ValueError,
            r"batch 1 of the list differs from the first batch in its structure: it has no y \(int",
        ),
        (
            lambda: data.check_resumable(data.Augmented(data.as_source(Loader()), unchanged)),
            ValueError,
            r"Checkpoints cannot be used with Stream\(Loader\), which cannot return to a position",
        ),
    ],
)
def test_streams_say_what_to_write(made, error, text):
    with pytest.raises(error, match=text):
        made()


def test_loaders_of_torch():
    torch = pytest.importorskip("torch")
    utils = torch.utils.data
    dataset = utils.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    source = data.as_source(utils.DataLoader(dataset, batch_size=4))
    assert source.steps_per_epoch(4) == 3
    batches = source.open(KEY)
    for _ in range(2):
        for rows in (slice(0, 4), slice(4, 8), slice(8, 11)):
            assert_equal(next(batches), (X[rows], Y[rows]))
    assert "TensorDataset of 11" in data.fingerprint_of(source)["dataset"]
    named = [{"x": torch.ones(3, dtype=torch.bfloat16), "n": i} for i in range(4)]
    workers = utils.DataLoader(named, batch_size=2)  # type: ignore[arg-type]
    (first, second) = data.as_source(workers).once()
    assert first["x"].dtype == jnp.bfloat16 and second["n"].tolist() == [2, 3]
    assert_equal(data.as_source({"x": torch.from_numpy(X)}), {"x": X})

    class Rows(utils.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    endless = data.as_source(utils.DataLoader(Rows(), batch_size=2))
    assert endless.steps_per_epoch() is None
    assert [batch.tolist() for batch in endless.open(KEY)] == [[0, 1], [2]]
    with pytest.raises(
        TypeError, match=r"got a TensorDataset; .* write torch.utils.data.DataLoader"
    ):
        data.as_source(dataset)


# ---- reading ahead ----


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("jaxnn-")]


def test_streams_are_read_ahead_and_their_errors_are_their_own():
    def batches():
        yield {"x": X[:4]}
        yield {"x": X[4:8]}
        raise OSError("the disk is gone")

    source = data.as_source(batches)
    with data.prefetched(source.open(KEY)) as found:
        assert float(found.peek()["x"][0, 0]) == float(found.peek()["x"][0, 0]) == 0
        assert [float(next(found)["x"][0, 0]) for _ in range(2)] == [0, 8]
        assert found.position() is None
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                found.peek()
    assert not threads()


def test_batches_of_other_shapes_are_not_stacked():
    kept = []

    class Counted(data.Stream):
        pass

    source = Counted(Loader())
    with data.prefetched(source.open(KEY, 4), counts=[2, 3, 1]) as found:
        for batch in found:
            kept.append(batch[1].shape)
    # epochs of batches of 4, 4, and 3 rows; counts end after 2, 5, and 6 batches
    assert kept == [(2, 4), (1, 3), (2, 4), (1, 3)]


def test_the_position_of_a_batch_of_another_shape_is_its_own():
    class Uneven:
        read = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.read += 1
            return np.zeros(2 if self.read % 3 else 1)

        def position(self):
            return {"batches": self.read}

        def close(self):
            pass

    with data.prefetched(Uneven(), counts=[4, 2]) as found:
        positions = [(next(found).shape, found.position()["batches"]) for _ in range(4)]
    assert positions == [((2, 2), 2), ((1, 1), 3), ((1, 2), 4), ((1, 2), 5)]


def test_a_generator_that_waits_is_given_up():
    begun, goes_on, read = threading.Event(), threading.Event(), []

    def waiting():
        begun.set()
        goes_on.wait(10)
        yield X

    batches = data.as_source(waiting).open(KEY)
    thread = threading.Thread(target=lambda: read.append(next(batches)))
    thread.start()
    begun.wait(10)
    batches.close()  # of a generator that runs in another thread
    goes_on.set()
    thread.join(10)
    assert list(batches) == [] and not thread.is_alive()
