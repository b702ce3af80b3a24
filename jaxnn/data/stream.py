"""A source of batches that are made elsewhere: a DataLoader, a generator, any iterable."""

import itertools
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np

from jaxnn.core.declarations import abstract
from jaxnn.data.rows import as_arrays, check_like, check_rows, row_count, row_spec
from jaxnn.data.source import Position
from jaxnn.fingerprint import fingerprint
from jaxnn.validation import Accepts


def _is_iterable(value: Any) -> bool:
    return hasattr(type(value), "__iter__") or hasattr(type(value), "__next__")


an_iterator: Accepts = Accepts(
    "an iterator of batches",
    _is_iterable,
    TypeError,
    "write yield batch in its body, or return iter(batches)",
)
_batches = Accepts(
    "an iterable of batches, an iterator, or a function that returns one",
    lambda value: (_is_iterable(value) or callable(value)) and not isinstance(value, str | bytes),
    TypeError,
    "write data.Stream(loader), or data.Stream(lambda: batches)",
)


class Stream:
    """Batches, in order, from an iterable, an iterator, or a function that returns one.

    An iterable is read from its beginning in each epoch; a function is called once per epoch; an
    iterator, such as a generator, is read once, so it has one epoch. Batches may be any pytree of
    rows, and the last one of an epoch may be smaller. Leaves become NumPy arrays, copied, so that
    the iterable may use its arrays again; a list at the top of a batch becomes a tuple.

    Worker processes of a DataLoader should be spawned, `multiprocessing_context="spawn"`: JAX uses
    threads, which a fork does not copy. In a run with several processes, each one reads its part of
    every batch from its iterable. A stream cannot return to a position, so its runs cannot be
    resumed.

    Args:
        batches: A DataLoader of torch, a list of batches, an iterator, or a function without
            arguments that returns an iterable.

    Raises:
        TypeError: `batches` is none of these.

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
        self.batches: Any = _batches(batches, "Stream.batches")
        self._is_iterator = hasattr(type(batches), "__next__")
        self._is_function = not _is_iterable(batches)
        self._structure: Any = None  # of the first batch
        self._begun: tuple[list[Any], Iterator[Any]] | None = None  # a pass that `spec` began

    def __repr__(self) -> str:
        return f"Stream({self.name})"

    @property
    def name(self) -> str:
        """The name of the batches' origin in errors."""
        function = getattr(self.batches, "__name__", None) if self._is_function else None
        return f"function {function}" if function else type(self.batches).__name__

    @property
    def epochs(self) -> int | None:
        """The number of epochs: 1 for an iterator, None for any number."""
        return 1 if self._is_iterator else None

    def steps_per_epoch(self, batch_size: int | None = None) -> int | None:
        """Return `len(batches)` if the iterable has a length, otherwise None.

        Args:
            batch_size: Rows of a batch; ValueError if the first batch differs. Default: None.
        """
        self._check_size(batch_size, jax.process_count())
        return self.length()

    def length(self) -> int | None:
        """Return the number of batches of an epoch; None if it is unknown, and for an iterator."""
        if self._is_iterator:  # its length may include batches that were read
            return None
        try:
            return len(self.batches)
        except TypeError:  # no __len__, or the loader of a torch IterableDataset
            return None

    def spec(self, batch_size: int | None = None) -> Any:
        """Return the shapes and types of the first batch, of all processes together.

        The batch is read, and the next `open` returns it first.

        Args:
            batch_size: Rows of a batch; ValueError if the first batch differs. Default: None.
        """
        self._check_size(batch_size, jax.process_count())
        first = self._first_structure()
        return row_spec(first, row_count(first) * jax.process_count())

    def open(
        self,
        key: Any,
        batch_size: int | None = None,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> "StreamBatches":
        """Return the batches: of one epoch if its length is unknown, otherwise without end.

        Args:
            key: Not used; the iterable determines the order.
            batch_size: Rows of a batch, of all processes together. Default: None, any number.
            position: None: a stream cannot return to a position.
            process: (index, count) of this process.

        Raises:
            ValueError: A position is given, or the size of the first batch differs from
                `batch_size`. Also raised later, if a batch has another structure than the first or
                cannot be trained on, or if the number of batches of an epoch differs from
                `len(batches)`.
        """
        if position is not None:
            raise ValueError(
                f"the {self.name} cannot return to a position, so the run cannot be resumed; write "
                "data=(x, y), data.HostArrays(x, y), or data.Grain(pipeline) for runs that can"
            )
        self._check_size(batch_size, process[1])
        return StreamBatches(self, endless=self.length() is not None)

    def once(self, batch_size: int | None = None) -> "StreamBatches":
        """Return the batches of one epoch.

        Args:
            batch_size: Rows of a batch; ValueError if the first batch differs. Default: None.
        """
        self._check_size(batch_size, 1)
        return StreamBatches(self, endless=False)

    def fingerprint(self) -> dict[str, Any]:
        """Return the known properties of the batches: class, number, and the code of a function."""
        found: dict[str, Any] = {"batches": _path(self.batches), "length": str(self.length())}
        dataset = getattr(self.batches, "dataset", None)
        if dataset is not None:
            rows = f" of {len(dataset)}" if hasattr(type(dataset), "__len__") else ""
            found["dataset"] = f"{_path(dataset)}{rows}"
        if self._is_function:
            found["function"] = fingerprint(self.batches)
        return found

    def _first_structure(self) -> Any:
        """Return shapes and types of the first batch, which is read unless it has been."""
        if self._structure is None:
            iterator = self._iterator()
            read = list(itertools.islice(iterator, 1))
            if not read:
                self._raise_empty()
            self._begun = read, iterator
            self._checked(read[0], 0)
        return self._structure

    def _check_size(self, batch_size: int | None, processes: int) -> None:
        if batch_size is None:
            return
        rows = row_count(self._first_structure())
        if rows * processes != batch_size:
            here = f" in each of {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"batch_size is {batch_size}, but the batches of the {self.name} have {rows} "
                f"rows{here}; leave batch_size out, or make batches of {batch_size // processes} "
                f"rows, such as DataLoader(dataset, batch_size={batch_size // processes})"
            )

    # ---- reading, for StreamBatches ----

    def _begin(self) -> tuple[list[Any], Iterator[Any]]:
        """Return the batches of a new pass that `spec` has read, and the iterator of the rest."""
        begun, self._begun = self._begun, None
        return begun or ([], self._iterator())

    def _iterator(self) -> Iterator[Any]:
        batches = self.batches() if self._is_function else self.batches
        an_iterator(batches, f"the result of the {self.name}")
        return batches if self._is_iterator else iter(batches)

    def _checked(self, batch: Any, index: int) -> Any:
        """Return a batch as arrays of this process, once it has the structure of the first."""
        what = f"batch {index} of the {self.name}"
        batch = jax.tree.map(_copied, as_arrays(batch, what))
        check_rows(batch, what)
        if self._structure is None:
            self._structure = abstract(batch)
        check_like(batch, self._structure, what)
        return batch

    def _raise_empty(self) -> NoReturn:
        """Raise the error for a pass without batches."""
        advice = "check what it filters; a function must return a new iterator at each call"
        if self._is_iterator:
            advice = (
                "an iterator gives its batches once: write epochs=1, or pass a function that "
                "returns a new iterator, data=lambda: batches()"
            )
        left = " left" if self._is_iterator else ""
        raise ValueError(f"the {self.name} has no batches{left}; {advice}")

    def _close_pass(self, iterator: Any) -> None:
        """Close an iterator that was made here, so that a generator's `finally` blocks run."""
        close = getattr(iterator, "close", None)
        if self._is_iterator or close is None:  # the caller may continue an iterator of theirs
            return
        try:
            close()
        except ValueError as error:
            if "already executing" not in str(error):  # it waits in the thread that reads ahead
                raise


class StreamBatches:
    """The batches of `Stream.open`.

    Args:
        stream: The stream that is read.
        endless: Whether a new epoch follows each one.
    """

    def __init__(self, stream: Stream, endless: bool) -> None:
        self._stream, self._length = stream, stream.length() if endless else None
        self._iterator: Any = None
        self._read: list[Any] = []  # a batch of this pass that was read before it began
        self._taken = self._in_pass = 0
        self._over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next batch, with the arrays of this process."""
        while not self._over:
            if self._iterator is None:
                (self._read, self._iterator), self._in_pass = self._stream._begin(), 0
            try:
                batch = self._read.pop() if self._read else next(self._iterator)
            except StopIteration:
                if not self._in_pass:
                    self._stream._raise_empty()
                self._check_length(self._in_pass == self._length, self._in_pass)
                self._iterator, self._over = None, self._length is None
                continue
            self._in_pass += 1
            self._check_length(self._in_pass <= (self._length or 0), "more")
            self._taken += 1
            return self._stream._checked(batch, self._taken - 1)
        raise StopIteration

    def position(self) -> None:
        """Return None: a stream cannot return to a position."""

    def close(self) -> None:
        """Close the iterator of this pass."""
        iterator, self._iterator, self._over = self._iterator, None, True
        if iterator is not None:
            self._stream._close_pass(iterator)

    def _check_length(self, right: bool, found: int | str) -> None:
        if self._length is not None and not right:
            raise ValueError(
                f"len() of the {self._stream.name} is {self._length}, but an epoch has {found} "
                "batches; correct its __len__, or pass a function, data=lambda: iter(batches), "
                "whose epochs end with its batches"
            )


def _path(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _copied(leaf: Any) -> Any:
    """Return an array whose memory is not shared."""
    return np.array(leaf, subok=False) if isinstance(leaf, np.ndarray) else leaf
