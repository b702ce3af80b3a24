"""A source of Grain pipelines, for data that fit neither on the device nor in memory.

Grain reads records, transforms them in threads or worker processes, shuffles and batches them; its
iterators say where they are. Reference: https://google-grain.readthedocs.io.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxnn.core.declarations import abstract, is_array
from jaxnn.data.check import check
from jaxnn.data.records import Records
from jaxnn.data.rows import check_like, check_rows, leaves_by_path, row_count, row_spec
from jaxnn.data.source import NoEpochs, Position, share
from jaxnn.fingerprint import fingerprint
from jaxnn.installation import missing

THREADS, BUFFER = 8, 16  # of a MapDataset; an IterDataset has what it was made with


@dataclasses.dataclass(frozen=True, eq=False)
class Grain:
    """A Grain pipeline, taken as it is: its elements are batches, any pytrees of numpy arrays.

        pipeline = grain.MapDataset.source(records).seed(0).shuffle().map(decoded)
        source = data.Grain(pipeline.batch(128, drop_remainder=True))

    A `MapDataset` is read in threads, epoch after epoch; Grain shuffles each epoch anew. The order
    is that of the pipeline's own seed, not of the run's key. Each of several processes reads every
    count-th batch, so that the pipeline batches what is one process's share of a step.

    An `IterDataset` brings its own reading, with worker processes by `mp_prefetch`, and its own
    share for each process, by a slice of the MapDataset it is made from:

        share = pipeline[jax.process_index() :: jax.process_count()].repeat()
        workers = grain.MultiprocessingOptions(num_workers=4)
        source = data.Grain(share.batch(128).to_iter_dataset().mp_prefetch(workers), steps=1000)

    Where it ends it begins again. Worker processes import the main module, which must start the
    training below `if __name__ == "__main__":`.

    Args:
        dataset: a `grain.MapDataset` or `grain.IterDataset` of batches of equal size.
        steps: the batches of an epoch, of all processes together a step each; None for all of a
            MapDataset that has an end.

    Raises:
        ImportError: Grain is not installed.
        TypeError: the dataset is neither of these.
    """

    dataset: Any
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no pipeline."""
        grain = library()
        if not isinstance(self.dataset, grain.MapDataset | grain.IterDataset):
            raise TypeError(
                f"Grain takes a grain.MapDataset or grain.IterDataset, got "
                f"{type(self.dataset).__name__}: write data.Grain(grain.MapDataset.source(records)"
                ".shuffle(0).batch(128, drop_remainder=True))"
            )
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 1):
            raise ValueError(f"steps is {self.steps!r}, wanted an int >= 1, the steps of an epoch")

    def steps_per_epoch(self, batch_size: int) -> int:
        """`steps`, or how many batches the MapDataset has.

        In several processes an epoch has as many of them as there are whole rounds of batches.
        Raises ValueError where the pipeline does not say and `steps` is not given.
        """
        if self.steps is not None:
            return self.steps
        length = len(self.dataset) if self._is_map() else sys.maxsize
        if length == sys.maxsize:
            raise NoEpochs(
                "this Grain pipeline does not say how many batches an epoch has: write "
                "data.Grain(dataset, steps=1000)"
            )
        local = self._rows()
        if batch_size % local:
            raise self._other_size(local, batch_size)
        steps = length // (batch_size // local)
        if not steps:
            raise ValueError(
                f"this Grain pipeline has {length} batches of {local} rows, which make no step of "
                f"batch_size={batch_size}: write a smaller one, here and in dataset.batch"
            )
        return steps

    def fingerprint(self) -> dict[str, Any]:
        """What determines the batches: the pipeline's steps, its workers, and the first batch.

        The records themselves are known by their number alone. Another number of workers gives the
        batches in another order, and Grain cannot translate the position of one into the other.
        """
        first = self._first
        named = {"x": first[0], "y": first[1]} if _is_pair(first) else leaves_by_path(first)
        return {
            "kind": "MapDataset" if self._is_map() else "IterDataset",
            "steps": str(self.steps),
            "workers": str(_workers(self.dataset)),
            "pipeline": _pipeline(self.dataset),
            "first batch": {name: fingerprint(part) for name, part in named.items()},
        }

    def spec(self, batch_size: int) -> Any:
        """The shapes and types of a batch, from the pipeline's first."""
        return row_spec(self._first, batch_size)

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> "GrainBatches":
        """The batches of a run, without end. The pipeline's seed decides the order, not `key`.

        Raises ValueError for a batch the processes do not divide, for the position of another
        source or batch, and where the pipeline's batches come: for one that cannot be read, has
        another size, or cannot be trained on. Each says which batch it is.
        """
        local = share(batch_size, process)
        dataset = self.dataset
        if self._is_map():
            dataset = self._endless(dataset, process)
        return GrainBatches(self, dataset, local.stop - local.start, batch_size, position)

    def once(self, batch_size: int) -> Iterator[Any]:
        """The batches of one epoch, in the pipeline's order: all, or `steps` of them.

        `batch_size` is not used: the batches of a pipeline have a size.
        """
        steps = self.steps if self.steps is not None else sys.maxsize
        if self._is_map() and self.steps is None and len(self.dataset) == sys.maxsize:
            self.steps_per_epoch(batch_size)  # which raises
        batches = _opened(self.dataset)
        try:
            for index, batch in zip(range(steps), batches, strict=False):
                yield _checked(batch, f"batch {index} of the Grain pipeline")
        finally:
            getattr(batches, "close", lambda: None)()

    def _endless(self, dataset: Any, process: tuple[int, int]) -> Any:
        grain, (index, count) = library(), process
        if len(dataset) != sys.maxsize:
            whole = len(dataset) // count * count
            dataset = (dataset[index:whole:count] if count > 1 else dataset).repeat()
        elif count > 1:
            dataset = dataset[index::count]
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=BUFFER)
        return dataset.to_iter_dataset(options)

    def _is_map(self) -> bool:
        return isinstance(self.dataset, library().MapDataset)

    @functools.cached_property  # worker processes take seconds to start
    def _first(self) -> Any:
        what = "batch 0 of the Grain pipeline"
        if self._is_map():
            return _checked(self.dataset[0], what)
        batches = _opened(self.dataset)
        try:
            return _checked(next(batches), what)
        finally:
            batches.close()

    def _rows(self) -> int:
        return row_count(self._first)

    def _other_size(self, rows: int, wanted: int) -> ValueError:
        return ValueError(
            f"the Grain pipeline has batches of {rows} rows, and batch_size asks for {wanted}: "
            f"write dataset.batch({wanted}, drop_remainder=True)"
        )


class GrainBatches:
    """The batches of `Grain.open`."""

    def __init__(
        self, source: Grain, dataset: Any, rows: int, batch_size: int, position: Position | None
    ) -> None:
        self._source, self._dataset, self._rows, self._size = source, dataset, rows, batch_size
        self._workers, self._done = _workers(dataset), 0
        self._like: Any = None  # shapes and types of the first batch that was read
        if position is not None:
            then = position.get("batch_size")
            if "grain" not in position or then != batch_size:
                raise ValueError(
                    f"the position in the data is not one of this Grain pipeline with batch_size "
                    f"{batch_size}, it is {position}: go on with the source and batch_size that "
                    "the run was begun with, or begin a new run"
                )
            if position.get("workers") != self._workers:
                raise ValueError(
                    "the position in the data is of a Grain pipeline with "
                    f"{position.get('workers')} worker processes, and this one has "
                    f"{self._workers}: its batches come in another order. Write mp_prefetch with "
                    f"num_workers={position.get('workers')}, or begin a new run"
                )
            self._done = position["batches"]
        self._batches = _opened(dataset)
        if position is not None:
            try:
                self._batches.set_state(position["grain"])
            except Exception as error:  # whatever Grain raises for a state of another pipeline
                raise ValueError(
                    "the position in the data is of another Grain pipeline, which this one cannot "
                    f"continue ({type(error).__name__}: {error}): write the pipeline that the run "
                    "was begun with, or begin a new run"
                ) from error

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch, looked at."""
        what = f"batch {self._done} of the Grain pipeline"
        batch = _checked(self._read(what), what)
        for leaf in jax.tree.leaves(batch):
            if leaf.shape[:1] != (self._rows,):
                raise ValueError(
                    f"{what} has shape {leaf.shape}, wanted {self._rows} rows, this process's "
                    f"share of batch_size {self._size}: write dataset.batch({self._rows}, "
                    "drop_remainder=True)"
                )
        if self._like is None:
            self._like = abstract(batch)
        check_like(batch, self._like, what)
        self._done += 1
        return batch

    def position(self) -> Position:
        """How many batches were given out, and where Grain's iterator is."""
        state = self._batches.get_state()
        return {
            "batches": self._done,
            "batch_size": self._size,
            "workers": self._workers,
            "grain": state,
        }

    def close(self) -> None:
        """End Grain's threads and processes."""
        self._batches.close()

    def _read(self, what: str) -> Any:
        for _ in range(2):
            try:
                return next(self._batches)
            except StopIteration:
                self._batches.close()
                self._batches = _opened(self._dataset)
            except Exception as error:
                raise ValueError(
                    f"{what} cannot be read: {type(error).__name__}: {error}"
                ) from error
        raise ValueError("the Grain pipeline has no batches: see len(dataset), and what it filters")


def library() -> Any:
    """Grain; ImportError, with what to install, where it is not there."""
    try:
        import grain
    except ImportError as error:
        raise missing("pipelines are read by", "grain", "grain") from error
    return grain


def is_pipeline(value: Any) -> bool:
    """Whether a value is a Grain pipeline; False if Grain has not been imported."""
    grain = sys.modules.get("grain")
    kinds = [getattr(grain, name, None) for name in ("MapDataset", "IterDataset")]
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


def _nodes(dataset: Any) -> Iterator[Any]:
    """A pipeline's steps, from its last to its sources; of equal workers, those of the first."""
    yield dataset
    inner = [*getattr(dataset, "_parents", ()), *getattr(dataset, "_datasets", ())]
    for one in inner[:1] if _workers(dataset) == len(inner) else inner:
        yield from _nodes(one)


def _workers(dataset: Any) -> int:
    """How many worker processes a pipeline has."""
    inner = [*getattr(dataset, "_parents", ()), *getattr(dataset, "_datasets", ())]
    return ("ProcessPrefetch" in type(dataset).__name__) + sum(map(_workers, inner))


def _pipeline(dataset: Any) -> dict[str, str]:
    """Each step by its kind and numbers, and the functions that it calls by their fingerprints."""
    steps, functions = [], {}
    for node in _nodes(dataset):
        told = []
        for name, item in vars(node).items():
            # A cached property was not given, and reading ahead changes no batch.
            if hasattr(type(node), name) or any(word in name for word in _AHEAD):
                continue
            short = name.removeprefix("_")
            if item is None or isinstance(item, bool | int | float | str):
                told.append(f"{short}={item!r}")
            elif short == "source":
                kind = f"{type(item).__module__}.{type(item).__qualname__}"
                told.append(f"source={kind} of {len(item)}")
                if isinstance(item, Records):
                    functions["records"] = item.fingerprint()
            elif callable(item):
                functions[f"{len(steps)}/{short}"] = fingerprint(item)
        steps.append(f"{type(node).__name__}({', '.join(told)})")
    return {"steps": " <- ".join(steps), **functions}


# What a step of Grain calls things that say how it reads, and not what.
_AHEAD = (
    "buffer",
    "thread",
    "prefetch",
    "metrics",
    "has_child",
    "original_source",
    "cycle_length",
    "init_fn",
)


def _opened(dataset: Any) -> Any:
    from absl import flags

    # Worker processes look at Grain's own flags, which raises where no absl program has begun.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return iter(dataset)


def _checked(batch: Any, what: str) -> Any:
    """A batch as plain arrays, once it can be trained on."""
    if isinstance(batch, list):
        batch = tuple(batch)
    batch = jax.tree.map(_owned, batch)
    if _is_pair(batch):
        check(*batch, name=what)
    else:
        check_rows(batch, what)
    return batch


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple) and len(batch) == 2 and all(map(is_array, batch))


def _owned(leaf: Any) -> np.ndarray:
    """A plain array: what lies in memory shared with a worker is copied out of it."""
    return np.asarray(leaf) if type(leaf) is np.ndarray else np.array(leaf, subok=False)
