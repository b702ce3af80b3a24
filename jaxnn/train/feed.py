"""What brings the batches to the steps: data that lie on the device, or a source of batches.

Both give a run the same two things: so many steps from a step on, as one compiled program, and the
single batches again, for who looks for what went wrong.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core.layer import Layer
from ..data import check
from ..data.augmentation import applied
from ..data.host_arrays import HostArrays
from ..data.order import epoch_order
from ..data.prefetch import prefetched
from ..data.source import Position, Source
from ..explain.text import describe
from ..fields import is_traced
from .evaluation import check_count, pair_of
from .labels import check_batch_labels, check_labels, label_range
from .optimizer import as_pytree
from .placement import HERE, Placement
from .state import TrainState
from .step import remembered, step_key
from .task import Loss, Metrics

Augment: TypeAlias = Callable[..., Any]
Ahead: TypeAlias = Callable[[int], int]


class Feed(Protocol):
    """Steps on the batches of a run."""

    steps_per_epoch: int
    at_once: int
    """Steps that go into one program where nothing else is said."""
    batch: tuple[Any, Any]
    """The shapes and types of a batch (x, y)."""

    def begin(self, words: np.ndarray, step: int, position: Position | None, ahead: Ahead) -> None:
        """Get ready to go on after `step`.

        Args:
            words: of the run's root key, on the host.
            step: steps done.
            position: of the source there, as `position` gave it.
            ahead: from a step to the end of the dispatch that begins there.
        """
        ...

    def advance(self, ts: TrainState, step: int, count: int) -> tuple[TrainState, Metrics]:
        """The state `count` steps on, and the sum of each metric over them."""
        ...

    def again(self, step: int, count: int, position: Position | None) -> Iterator[Any]:
        """The batches of `count` steps after `step`, one by one."""
        ...

    def position(self) -> Position | None:
        """Where the source is; None where the step says it."""
        ...

    def close(self) -> None:
        """Give back what reading takes."""
        ...


class Resident:
    """Arrays on the device: each step gathers its rows there, in the order of `epoch_order`."""

    def __init__(self, steps: "Steps", x: jax.Array, y: jax.Array, size: int) -> None:
        if size > x.shape[0]:
            raise ValueError(
                f"batch_size is {size}, but the training data have {x.shape[0]} rows; write "
                f"batch_size={x.shape[0]} or less"
            )
        self._steps, self._x, self._y, self._size = steps, x, y, size
        self.steps_per_epoch = self.at_once = x.shape[0] // size
        self.batch: tuple[Any, Any] = _rows_of(x, size), _rows_of(y, size)
        self._drawn: tuple[int, Any] = (-1, None)

    def begin(self, words: np.ndarray, step: int, position: Position | None, ahead: Ahead) -> None:
        """Keep the words of the key."""
        self._words = words

    def advance(self, ts: TrainState, step: int, count: int) -> tuple[TrainState, Metrics]:
        """Steps on the rows that the order of the epoch names."""
        ts, sums = self._steps.on_rows(ts, self._x, self._y, self._rows(step, count))
        if (step + count) % self.steps_per_epoch == 0:
            # The device is at work; the next order is drawn meanwhile.
            self._order((step + count) // self.steps_per_epoch)
        return ts, sums

    def again(self, step: int, count: int, position: Position | None) -> Iterator[Any]:
        """The same batches."""
        for one in range(step, step + count):
            rows = self._rows(one, 1)[0]
            yield self._x[rows], self._y[rows]

    def position(self) -> None:
        """The step says it."""

    def close(self) -> None:
        """Nothing is held."""

    def _rows(self, step: int, count: int) -> np.ndarray:
        epoch, begin = divmod(step, self.steps_per_epoch)
        table = self._order(epoch)[: self.steps_per_epoch * self._size].reshape(-1, self._size)
        return table[begin : begin + count]

    def _order(self, epoch: int) -> np.ndarray:
        if self._drawn[0] != epoch:
            self._drawn = epoch, epoch_order(self._words, epoch, self._x.shape[0])
        return self._drawn[1]


class Streamed:
    """A source whose batches a thread reads and puts on the device ahead of the training."""

    def __init__(self, steps: "Steps", source: Source, task: Loss, size: int) -> None:
        self._steps, self._source, self._task, self._size = steps, source, task, size
        per_epoch, self.at_once = source.steps_per_epoch(size), 1
        if per_epoch is None:
            raise ValueError(
                f"{source!r} does not say how many batches an epoch has: write data.HostArrays(x, "
                "y), or data.Grain(pipeline, steps=1000)"
            )
        self.steps_per_epoch: int = per_epoch
        self.batch = _pair_of_batches(source, size)
        self._process = jax.process_index(), jax.process_count()
        self._batches: Any = None

    def begin(self, words: np.ndarray, step: int, position: Position | None, ahead: Ahead) -> None:
        """Open the source there and read ahead."""
        if step and position is None:
            raise ValueError(
                f"the run goes on after step {step}, but where its source of data was then is not "
                "known: give checkpoints=, which keep it, and leave start out"
            )

        def counts() -> Iterator[int]:
            at = step
            while (end := ahead(at)) > at:  # it stays where the run ends
                yield end - at
                at = end

        self._words = words
        self._batches = prefetched(self._open(position), self._placed, counts=counts())

    def advance(self, ts: TrainState, step: int, count: int) -> tuple[TrainState, Metrics]:
        """Steps on the batches that come next."""
        try:
            x, y = next(self._batches)
        except StopIteration:
            raise ValueError(
                f"the source of data ended after step {step}, before the run did: repeat it, or "
                "train for fewer epochs"
            ) from None
        return self._steps.on_batches(ts, x, y)

    def again(self, step: int, count: int, position: Position | None) -> Iterator[Any]:
        """The same batches, read anew."""
        batches = self._open(position)
        try:
            for _ in range(count):
                yield next(batches)
        finally:
            batches.close()

    def position(self) -> Position | None:
        """Where the training is: what was read ahead counts as not read."""
        return self._batches.position()

    def close(self) -> None:
        """End the thread and close the source."""
        if self._batches is not None:
            self._batches.close()

    def _placed(self, batches: Any) -> Any:
        check_batch_labels(self._task, batches[1])
        return self._steps.placement.batches(batches)

    def _open(self, position: Position | None) -> Any:
        return self._source.open(self._words, self._size, position, process=self._process)


class Steps:
    """The compiled steps of a network, a task and an optimizer: many in one program.

    Args:
        net, task, optimizer: as for `make_step`.
        augment: a pure function of (key, x), or of (key, x, y), applied to each batch.
        placement: where the steps are made.
        options: further arguments of `pure_step` by name, in pairs.
    """

    def __init__(
        self,
        net: Layer,
        task: Loss,
        optimizer: Any,
        augment: Augment | None,
        placement: Placement,
        options: tuple[tuple[str, Any], ...],
    ) -> None:
        numbers, structure = jax.tree.flatten(as_pytree(optimizer))
        self.placement = placement
        static = (net, task, structure, augment, placement, options)
        self.on_rows = functools.partial(_compiled_on_rows(*static), numbers)
        self.on_batches = functools.partial(_compiled_on_batches(*static), numbers)


def feed_of(data: Any, steps: Steps, task: Loss, size: int) -> Feed:
    """The feed of `data`: a pair (x, y) of arrays, or a `data.Source`."""
    check_count(size, "batch_size")
    if isinstance(data, Source):
        if isinstance(data, HostArrays):
            data.check(**label_range(task))
        return Streamed(steps, data, task, size)
    return Resident(steps, *checked(task, data, "training data", steps.placement), size)


def _pair_of_batches(source: Source, size: int) -> tuple[Any, Any]:
    spec = source.spec(size)
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise TypeError(
            f"the batches of {source!r:.60} are {describe(spec)}, wanted a pair (x, y): write "
            "data.HostArrays(x, y), or in a Grain pipeline "
            'dataset.map(lambda row: (row["image"], row["label"])) before .batch(...)'
        )
    return spec


def checked(task: Loss, data: Any, name: str, placement: Placement) -> tuple[jax.Array, jax.Array]:
    """The pair (x, y) as arrays on the device, once it can be trained on."""
    x, y = pair_of(data, name)
    if not is_traced(x) and not is_traced(y):
        check(x, y, name=name, **label_range(task))
        check_labels(task, y, name)
    return placement.whole(x), placement.whole(y)


def pure_steps(
    net: Layer,
    task: Loss,
    optimizer: Any,
    augment: Augment | None,
    ts: TrainState,
    x: jax.Array,
    y: jax.Array,
    order: jax.Array,
    *,
    placement: Placement = HERE,
    **options: Any,
) -> tuple[TrainState, Metrics]:
    """A step for each row of `order`, int32 (steps, batch), on those rows of the data.

    Returns the state after them, and the sum of each metric over them: a plain pure function.
    """

    def step(ts: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        batch = augmented(augment, ts, (x[rows], y[rows]))
        return _made(placement.step(net, task, optimizer, ts, batch, **options))

    return _in_turn(step, ts, order)


def _made(result: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
    """What a step gave, with its metrics at 0 where it was skipped, so that they add nothing."""
    ts, metrics = result
    if "skipped" not in metrics:
        return result
    skipped = metrics["skipped"]
    kept = {name: jnp.where(skipped > 0, 0, number) for name, number in metrics.items()}
    return ts, kept | {"skipped": skipped}


def _rows_of(array: jax.Array, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype)


def augmented(augment: Augment | None, ts: TrainState, batch: Any) -> Any:
    """The batch of a step after augmentation, by a key beside that which the network has."""
    if augment is None:
        return batch
    return applied(augment, jax.random.fold_in(step_key(ts), 1), *batch)


def _in_turn(
    step: Callable[[TrainState, Any], tuple[TrainState, Metrics]], ts: TrainState, items: Any
) -> tuple[TrainState, Metrics]:
    if jax.tree.leaves(items)[0].shape[0] == 1:
        # No loop, in which XLA's convolutions are ten times slower on a CPU.
        return step(ts, jax.tree.map(lambda leaf: leaf[0], items))
    try:
        ts, metrics = lax.scan(step, ts, items)
    except TypeError as error:
        if "carry" not in str(error):
            raise
        raise TypeError(
            "a step returns a state of another structure, shape, or type than it was given, so "
            "that several steps cannot be one program: write steps_per_dispatch=1, or an optimizer "
            f"whose state keeps its structure (that of optax.monitor does not). {error}"
        ) from error
    return ts, jax.tree.map(lambda leaf: jnp.sum(leaf, 0), metrics)


@remembered
def _compiled_on_rows(
    net: Layer,
    task: Loss,
    structure: Any,
    augment: Augment | None,
    placement: Placement,
    options: Any,
) -> Callable[..., Any]:
    """The jitted function `(numbers, ts, x, y, order)` of `pure_steps`."""

    def run(numbers: Any, ts: TrainState, x: Any, y: Any, order: Any) -> tuple[TrainState, Metrics]:
        optimizer = jax.tree.unflatten(structure, numbers)
        return pure_steps(
            net, task, optimizer, augment, ts, x, y, order, placement=placement, **dict(options)
        )

    return jax.jit(run, donate_argnums=1)


@remembered
def _compiled_on_batches(
    net: Layer,
    task: Loss,
    structure: Any,
    augment: Augment | None,
    placement: Placement,
    options: Any,
) -> Callable[..., Any]:
    """The jitted function `(numbers, ts, x, y)` of a step for each of the stacked batches."""

    def run(numbers: Any, ts: TrainState, x: Any, y: Any) -> tuple[TrainState, Metrics]:
        optimizer = jax.tree.unflatten(structure, numbers)

        def step(ts: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
            batch = augmented(augment, ts, batch)
            return _made(placement.step(net, task, optimizer, ts, batch, **dict(options)))

        return _in_turn(step, ts, (x, y))

    return jax.jit(run, donate_argnums=1)
