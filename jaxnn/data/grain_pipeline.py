"""A source of Grain pipelines, for data that fit neither on the device nor in memory.

Grain reads records, transforms them in threads or worker processes, and shuffles and batches them;
its iterators report their position. Reference: https://google-grain.readthedocs.io.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import numpy as np

from jaxnn.core.declarations import abstract
from jaxnn.data.check import check
from jaxnn.data.records import Records
from jaxnn.data.rows import check_like, check_rows, leaves_by_path, row_count, row_spec
from jaxnn.data.source import NoEpochs, Position, batches_before, share
from jaxnn.fields import is_array
from jaxnn.fingerprint import fingerprint
from jaxnn.installation import required
from jaxnn.validation import Accepts, check_fields, instance, positive

THREADS, BUFFER = 8, 16  # of a MapDataset; an IterDataset was created with its own

# Words in the names of settings of a Grain step that change how it reads, and not what.
_AHEAD = ("buffer", "thread", "prefetch", "metrics", "has_child", "original_source")
_AHEAD += ("cycle_length", "init_fn")


@dataclasses.dataclass(frozen=True, eq=False)
class Grain:
    """A Grain pipeline whose elements are batches: pytrees of NumPy arrays.

        pipeline = grain.MapDataset.source(records).seed(0).shuffle().map(decoded)
        source = data.Grain(pipeline.batch(128, drop_remainder=True))

    A `MapDataset` is read in threads, epoch after epoch; Grain shuffles each epoch separately. The
    order depends on the seed of the pipeline, not on the key of the run. Each of `count` processes
    reads every `count`-th batch, so a batch of the pipeline is one process's part of a step.

    An `IterDataset` itself determines how it is read: worker processes are set by `mp_prefetch`,
    and the part of each process by a slice of the MapDataset from which it is made:

        part = pipeline[jax.process_index() :: jax.process_count()].repeat()
        workers = grain.MultiprocessingOptions(num_workers=4)
        source = data.Grain(part.batch(128).to_iter_dataset().mp_prefetch(workers), steps=1000)

    When the pipeline ends, it starts again. Worker processes import the main module, which must
    start the training under `if __name__ == "__main__":`.

    Args:
        dataset: A `grain.MapDataset` or `grain.IterDataset` of batches of equal size.
        steps: Number of steps of an epoch; in each step, every process reads one batch. Default:
            None, all batches of a finite MapDataset.

    Raises:
        ImportError: Grain is not installed.
        TypeError: `dataset` is not a Grain pipeline.
    """

    dataset: Any
    steps: Annotated[int | None, None | positive] = None

    def __post_init__(self) -> None:
        """Raise if the dataset is not a pipeline."""
        grain = import_grain()
        instance((grain.MapDataset, grain.IterDataset), "a grain.MapDataset or grain.IterDataset")(
            self.dataset,
            "Grain.dataset",
            "write data.Grain(grain.MapDataset.source(records).shuffle(0).batch(128, "
            "drop_remainder=True))",
        )
        check_fields(self)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return `steps`, or the number of steps for which the MapDataset has batches.

        Args:
            batch_size: Rows of a batch, of all processes together.

        Raises:
            NoEpochs: The pipeline has no end, and `steps` is None.
            ValueError: The pipeline's batches do not make up whole steps.
        """
        if self.steps is not None:
            return self.steps
        batches, rows = self._length(), row_count(self._first)
        steps = batches // max(batch_size // rows, 1)
        if batch_size % rows or not steps:
            raise ValueError(
                f"this Grain pipeline has {batches} batches of {rows} rows, which do not make up "
                f"steps of batch_size={batch_size}; write dataset.batch({batch_size}, "
                "drop_remainder=True) or a smaller batch_size"
            )
        return steps

    def fingerprint(self) -> dict[str, Any]:
        """Return what determines the batches: the pipeline's steps, its workers, the first batch.

        Of the records, only the number is known. Another number of workers gives the batches in
        another order, and Grain cannot convert the position of one into the other.
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
        """Return the shapes and types of a batch, from the pipeline's first.

        Args:
            batch_size: Rows of a batch.
        """
        return row_spec(self._first, batch_size)

    def open(
        self,
        key: Any,
        batch_size: int,
        position: Position | None = None,
        *,
        process: tuple[int, int] = (0, 1),
    ) -> "GrainBatches":
        """Return the batches of a run, without end.

        Args:
            key: Not used; the pipeline's seed determines the order.
            batch_size: Rows of a batch, of all processes together.
            position: Where to continue. Default: None, from the beginning.
            process: (index, count) of this process.

        Raises:
            ValueError: The processes do not divide the batch, or the position is that of another
                source or batch size. Also raised later, if a batch cannot be read, has another
                size, or cannot be trained on.
        """
        local = share(batch_size, process)
        dataset = self._endless(process) if self._is_map() else self.dataset
        return GrainBatches(dataset, local.stop - local.start, batch_size, position)

    def once(self, batch_size: int) -> Iterator[Any]:
        """Yield the batches of one epoch, in the pipeline's order: all, or `steps` of them.

        Args:
            batch_size: Not used; the pipeline determines the size of its batches.
        """
        steps = self.steps
        if steps is None:
            steps = self._length() if self._is_map() else sys.maxsize
        batches = _opened(self.dataset)
        try:
            for index, batch in zip(range(steps), batches, strict=False):
                yield _checked(batch, f"batch {index} of the Grain pipeline")
        finally:
            getattr(batches, "close", lambda: None)()

    def _length(self) -> int:
        length = len(self.dataset) if self._is_map() else sys.maxsize
        if length == sys.maxsize:
            raise NoEpochs(
                "this Grain pipeline does not have a known number of batches; write "
                "data.Grain(dataset, steps=1000)"
            )
        return length

    def _endless(self, process: tuple[int, int]) -> Any:
        dataset, grain, (index, count) = self.dataset, import_grain(), process
        ends = len(dataset) != sys.maxsize
        if count > 1:
            whole = len(dataset) // count * count if ends else None
            dataset = dataset[index:whole:count]
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=BUFFER)
        return (dataset.repeat() if ends else dataset).to_iter_dataset(options)

    def _is_map(self) -> bool:
        return isinstance(self.dataset, import_grain().MapDataset)

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


class GrainBatches:
    """The batches of `Grain.open`.

    Args:
        dataset: The pipeline as an IterDataset.
        rows: Rows of a batch of this process.
        batch_size: Rows of a batch of all processes together.
        position: Where to continue; None for the beginning.
    """

    def __init__(self, dataset: Any, rows: int, batch_size: int, position: Position | None) -> None:
        self._dataset = dataset
        self._of_its_size = Accepts(
            f"of {rows} rows, this process's part of batch_size {batch_size}",
            lambda batch: row_count(batch) == rows,
            hint=f"write dataset.batch({rows}, drop_remainder=True)",
        )
        self._kept = {"batch_size": batch_size, "workers": _workers(dataset)}
        self._done = batches_before(position, self._kept)
        self._like: Any = None  # shapes and types of the first batch that was read
        self._batches = _opened(dataset)
        if position is not None:
            try:
                self._batches.set_state(position["grain"])
            except Exception as error:  # whatever Grain raises for a state of another pipeline
                raise ValueError(
                    "the position in the data is that of another Grain pipeline, and this one "
                    f"cannot continue from it ({type(error).__name__}: {error}); write the "
                    "pipeline with which the run began, or begin a new run"
                ) from error

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next batch, once it is checked."""
        what = f"batch {self._done} of the Grain pipeline"
        batch = self._of_its_size(_checked(self._read(what), what), what)
        if self._like is None:
            self._like = abstract(batch)
        check_like(batch, self._like, what)
        self._done += 1
        return batch

    def position(self) -> Position:
        """Return how many batches were taken, and the state of Grain's iterator."""
        return {"batches": self._done, **self._kept, "grain": self._batches.get_state()}

    def close(self) -> None:
        """End Grain's threads and processes."""
        self._batches.close()

    def _read(self, what: str) -> Any:
        cause: Exception | None = None
        for _ in range(2):
            try:
                return next(self._batches)
            except StopIteration as error:  # the next epoch; a second one means that it is empty
                cause = error
                self._batches.close()
                self._batches = _opened(self._dataset)
            except Exception as error:
                cause = error
                break
        raise ValueError(
            f"{what} cannot be read: {type(cause).__name__}: {cause}"
            if not isinstance(cause, StopIteration)
            else "the Grain pipeline has no batches; check len(dataset), and what it filters"
        ) from cause


def import_grain() -> Any:
    """Import Grain."""
    return required("grain", "pipelines are read by", "grain", "grain")


def is_pipeline(value: Any) -> bool:
    """Return whether a value is a Grain pipeline; False if Grain has not been imported.

    Args:
        value: Any object.
    """
    grain = sys.modules.get("grain")
    kinds = [getattr(grain, name, None) for name in ("MapDataset", "IterDataset")]
    return any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)


def _inner(dataset: Any) -> list[Any]:
    return [*getattr(dataset, "_parents", ()), *getattr(dataset, "_datasets", ())]


def _nodes(dataset: Any) -> Iterator[Any]:
    """Yield a pipeline's steps, the last one first; of equal workers, those of one worker."""
    yield dataset
    inner = _inner(dataset)
    for one in inner[:1] if _workers(dataset) == len(inner) else inner:
        yield from _nodes(one)


def _workers(dataset: Any) -> int:
    """Return the number of worker processes of a pipeline."""
    return ("ProcessPrefetch" in type(dataset).__name__) + sum(map(_workers, _inner(dataset)))


def _pipeline(dataset: Any) -> dict[str, str]:
    """Return each step by its kind and settings, and its functions by their fingerprints."""
    steps, functions = [], {}
    for node in _nodes(dataset):
        settings = []
        for name, item in vars(node).items():
            # A cached property is not a setting, and reading ahead changes no batch.
            if hasattr(type(node), name) or any(word in name for word in _AHEAD):
                continue
            short = name.removeprefix("_")
            if item is None or isinstance(item, bool | int | float | str):
                settings.append(f"{short}={item!r}")
            elif short == "source":
                kind = f"{type(item).__module__}.{type(item).__qualname__}"
                settings.append(f"source={kind} of {len(item)}")
                if isinstance(item, Records):
                    functions["records"] = item.fingerprint()
            elif callable(item):
                functions[f"{len(steps)}/{short}"] = fingerprint(item)
        steps.append(f"{type(node).__name__}({', '.join(settings)})")
    return {"steps": " <- ".join(steps), **functions}


def _opened(dataset: Any) -> Any:
    from absl import flags

    # Worker processes read Grain's own flags, which raises if no absl program has begun.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return iter(dataset)


def _checked(batch: Any, what: str) -> Any:
    """Return a batch as plain arrays, once it can be trained on."""
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
    """Return a plain array, copied if its memory is shared with a worker."""
    return np.asarray(leaf) if type(leaf) is np.ndarray else np.array(leaf, subok=False)
