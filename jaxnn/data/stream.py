"""A source of batches that are made elsewhere: a DataLoader, a generator, any iterable."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.core.declarations import abstract
from jaxnn.data.arrays import as_arrays
from jaxnn.data.rows import check_like, check_rows, row_count, row_spec
from jaxnn.data.source import Position
from jaxnn.fingerprint import fingerprint


class Stream:
    """Batches from an iterable, an iterator, or a function that returns one, as they come.

    An iterable is read from its beginning in each epoch; a function is called once per epoch; an
    iterator, such as a generator, is read once, so it has one epoch. Batches may be any pytree of
    rows, and the last one of an epoch may be smaller. Leaves become NumPy arrays, copied, so that
    the iterable may use its arrays again; a list at the top of a batch becomes a tuple.

    Worker processes of a DataLoader should be spawned, `multiprocessing_context="spawn"`: JAX has
    threads, which a fork does not copy. Each of several processes of a run reads its share of a
    batch from its iterable. A stream cannot return to a position, so its runs cannot be resumed.

    Args:
        batches: a DataLoader of torch, a list of batches, an iterator, or a function without
            arguments that returns an iterable.

    Raises:
        TypeError: batches is none of these.

    >>> source = Stream([np.zeros((4, 2)), np.zeros((3, 2))])
    >>> source.steps_per_epoch(), source.spec().shape
    (2, (4, 2))
    >>> def batches():
    ...     yield {"x": np.zeros((4, 2))}
    >>> [batch["x"].shape for batch in Stream(batches).open(jax.random.key(0))]
    [(4, 2)]
    """

    resumable = False

    def __init__(self, batches: Any) -> None:
        kind = type(batches)
        is_text = isinstance(batches, str | bytes)
        if is_text or not (
            hasattr(kind, "__iter__") or hasattr(kind, "__next__") or callable(batches)
        ):
            raise TypeError(
                "Stream takes an iterable of batches, an iterator, or a function that returns one, "
                f"got {batches!r:.60}: write data.Stream(loader), or data.Stream(lambda: batches)"
            )
        self.batches: Any = batches
        self._is_iterator = hasattr(kind, "__next__")
        self._is_function = not self._is_iterator and not hasattr(kind, "__iter__")
        self._structure: Any = None  # of the first batch
        self._begun: tuple[list[Any], Iterator[Any]] | None = None  # a pass that `spec` began

    def __repr__(self) -> str:
        return f"Stream({self.name})"

    @property
    def name(self) -> str:
        """What errors call the batches' origin."""
        function = getattr(self.batches, "__name__", None) if self._is_function else None
        return f"function {function}" if function else type(self.batches).__name__

    @property
    def epochs(self) -> int | None:
        """How many epochs the data have: 1 for an iterator, None for any number."""
        return 1 if self._is_iterator else None

    def steps_per_epoch(self, batch_size: int | None = None) -> int | None:
        """`len(batches)` if an iterable has such a number; otherwise None: it is known at the end.

        Raises ValueError if `batch_size` is given and differs from that of the first batch.
        """
        self._check_size(batch_size, jax.process_count())
        return self.length()

    def length(self) -> int | None:
        """The number of batches of an epoch, None if it is unknown, and for an iterator."""
        if self._is_iterator:  # its length may count what was read already
            return None
        try:
            return len(self.batches)
        except TypeError:  # no __len__, or the loader of a torch IterableDataset
            return None

    def spec(self, batch_size: int | None = None) -> Any:
        """The shapes and types of the first batch, of all processes together.

        The batch is read, and given out by the next `open`.
        """
        self._check_size(batch_size, jax.process_count())
        rows = row_count(self.first_structure()) * jax.process_count()
        return row_spec(self.first_structure(), rows)

    def open(
        self,
        key: Any,
        batch_size: int | None = None,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> "StreamBatches":
        """The batches: of one epoch if its length is unknown, otherwise without end.

        Args:
            key: not used; the iterable decides the order.
            batch_size: rows of a batch, of all processes together. Default: None, as they come.
            position: None: a stream cannot return to a position.
            process: (index, count) of this process.

        Raises:
            ValueError: a position is given, or the first batch has another size than `batch_size`.
                When a batch is read: it has another structure than the first or cannot be trained
                on, or an epoch has another number of batches than `len(batches)`.
        """
        if position is not None:
            raise ValueError(
                f"the {self.name} cannot return to a position, so the run cannot be resumed: write "
                "data=(x, y), data.HostArrays(x, y), or data.Grain(pipeline) for runs that can"
            )
        self._check_size(batch_size, process[1])
        return StreamBatches(self, endless=self.length() is not None)

    def once(self, batch_size: int | None = None) -> "StreamBatches":
        """The batches of one epoch."""
        self._check_size(batch_size, 1)
        return StreamBatches(self, endless=False)

    def fingerprint(self) -> dict[str, Any]:
        """What is known of the batches: their class and number, and the code of a function."""
        kind = type(self.batches)
        found: dict[str, Any] = {
            "batches": f"{kind.__module__}.{kind.__qualname__}",
            "length": str(self.length()),
        }
        dataset = getattr(self.batches, "dataset", None)
        if dataset is not None:
            rows = f" of {len(dataset)}" if hasattr(type(dataset), "__len__") else ""
            found["dataset"] = f"{type(dataset).__module__}.{type(dataset).__qualname__}{rows}"
        if self._is_function:
            found["function"] = fingerprint(self.batches)
        return found

    # ---- reading, for StreamBatches ----

    def begin(self) -> tuple[list[Any], Iterator[Any]]:
        """What `spec` has read of a pass that begins, and the iterator of the rest."""
        begun, self._begun = self._begun, None
        return begun or ([], self._iterator())

    def checked(self, batch: Any, index: int) -> Any:
        """A batch as arrays of this process, once it has the structure of the first."""
        what = f"batch {index} of the {self.name}"
        batch = jax.tree.map(_copied, as_arrays(batch, what))
        check_rows(batch, what)
        if self._structure is None:
            self._structure = abstract(batch)
        check_like(batch, self._structure, what)
        return batch

    def first_structure(self) -> Any:
        """Shapes and types of the first batch, which is read if none has been."""
        if self._structure is None:
            iterator = self._iterator()
            read = list(itertools.islice(iterator, 1))
            if not read:
                raise self.empty()
            self._begun = read, iterator
            self.checked(read[0], 0)
        return self._structure

    def empty(self) -> ValueError:
        """The error for a pass without batches."""
        if self._is_iterator:
            return ValueError(
                f"the {self.name} has no batches left; an iterator gives its batches once: write "
                "epochs=1, or pass a function that returns a new iterator, data=lambda: batches()"
            )
        return ValueError(
            f"the {self.name} has no batches: see what it filters, and whether it was read to its "
            "end before; a function has to return a new iterator at each call"
        )

    def close_pass(self, iterator: Any) -> None:
        """Close an iterator that was made here, so that a generator's `finally` blocks run."""
        close = getattr(iterator, "close", None)
        if self._is_iterator or close is None:  # the caller may continue an iterator of theirs
            return
        try:
            close()
        except ValueError as error:
            if "already executing" not in str(error):  # it waits in the thread that reads ahead
                raise

    def _iterator(self) -> Iterator[Any]:
        batches = self.batches() if self._is_function else self.batches
        if not hasattr(type(batches), "__iter__") and not hasattr(type(batches), "__next__"):
            raise TypeError(
                f"the {self.name} returned {batches!r:.60}, expected an iterator of batches: write "
                "yield batch in its body, or return iter(batches)"
            )
        return batches if self._is_iterator else iter(batches)

    def _check_size(self, batch_size: int | None, processes: int) -> None:
        if batch_size is None:
            return
        rows = row_count(self.first_structure())
        if rows * processes != batch_size:
            here = f" in each of {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"batch_size is {batch_size}, but the batches of the {self.name} have {rows} "
                f"rows{here}: leave batch_size out, or make batches of {batch_size // processes} "
                f"rows, such as DataLoader(dataset, batch_size={batch_size // processes})"
            )


class StreamBatches:
    """The batches of `Stream.open`."""

    def __init__(self, stream: Stream, endless: bool) -> None:
        self._stream, self._endless = stream, endless
        self._iterator: Any = None
        self._read: list[Any] = []  # a batch of this pass that was read before it began
        self._given = self._in_pass = 0
        self._over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch, with the arrays of this process."""
        while not self._over:
            if self._iterator is None:
                (self._read, self._iterator), self._in_pass = self._stream.begin(), 0
            try:
                batch = self._read.pop() if self._read else next(self._iterator)
            except StopIteration:
                self._end_pass()
                continue
            self._check_count(self._in_pass + 1)
            batch = self._stream.checked(batch, self._given)
            self._given += 1
            self._in_pass += 1
            return batch
        raise StopIteration

    def position(self) -> None:
        """None: a stream cannot return to a position."""

    def close(self) -> None:
        """Close the iterator of this pass."""
        iterator, self._iterator, self._over = self._iterator, None, True
        if iterator is not None:
            self._stream.close_pass(iterator)

    def _end_pass(self) -> None:
        if not self._in_pass:
            raise self._stream.empty()
        if self._endless:
            length = self._stream.length()
            if length != self._in_pass:
                raise self._other_length(length, f"{self._in_pass}")
        self._iterator, self._over = None, not self._endless

    def _check_count(self, count: int) -> None:
        length = self._stream.length() if self._endless else None
        if length is not None and count > length:
            raise self._other_length(length, "more")

    def _other_length(self, length: Any, found: str) -> ValueError:
        return ValueError(
            f"len() of the {self._stream.name} is {length}, but an epoch has {found} batches: "
            "correct its __len__, or pass a function, data=lambda: iter(batches), whose epochs end "
            "when its batches do"
        )


def _copied(leaf: Any) -> Any:
    """An array that nobody else writes to."""
    if isinstance(leaf, jax.Array):
        return leaf
    return np.array(leaf, subok=False)
