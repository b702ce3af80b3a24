"""Loaders: they bring the batches of a run to the steps of its program.

Arrays of rows lie on the device, where each step gathers its rows in the order of the epoch. A
source is read ahead in a thread. A program without data gets None. In each case several steps are
one compiled program, and what a step computes depends on the key, the step, and the batch alone.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.declarations import describe
from ..data.order import epoch_order
from ..data.prefetch import prefetched
from ..data.source import Position, Source
from .metrics import check_metrics, without_collected
from .program import Program, code_of
from .step import remembered

Ahead = Callable[[int], int]


class Loader(Protocol):
    """Steps on the batches of a run.

    Attributes:
        steps_per_epoch: the number of batches of an epoch; None without epochs.
        at_once: the largest number of steps that one program takes.
        rows: the rows of a batch, by which plain metrics are weighted; 1 without data.
        arrays: what all steps have in common, None if nothing.
    """

    steps_per_epoch: int | None
    at_once: int
    rows: int
    arrays: Any

    def first(self) -> Any:
        """The batch of the first step, for `program.init`."""
        ...

    def begin(self, step: int, position: Position | None, ahead: Ahead) -> None:
        """Get ready for the steps after `step`.

        Args:
            step: the number of steps that are done.
            position: the position of the source there, as `position` returned it.
            ahead: maps a step to the end of the dispatch that begins there.
        """
        ...

    def items(self, step: int, count: int) -> Any:
        """What `count` compiled steps after `step` run on, stacked along a first axis."""
        ...

    def position(self) -> Position | None:
        """The position of the source; None if it follows from the step."""
        ...

    def close(self) -> None:
        """Release what reading needs."""
        ...


class NoLoader:
    """The loader of a program that makes its own data."""

    def __init__(self) -> None:
        self.steps_per_epoch: int | None = None
        self.at_once, self.rows = 1000, 1
        self.arrays: Any = None

    def first(self) -> None:
        """None."""

    def begin(self, step: int, position: Position | None, ahead: Ahead) -> None:
        """Nothing is read."""

    def items(self, step: int, count: int) -> Any:
        """One None for each step."""
        return None

    def position(self) -> None:
        """It follows from the step."""

    def close(self) -> None:
        """Nothing is held."""


class ArrayLoader:
    """Arrays on the device: each step gathers its rows there, in the order of `epoch_order`.

    Args:
        arrays: a pytree of arrays of rows.
        size: the rows of a batch.
        words: of the run's root key.
        placement: where the arrays lie.
    """

    def __init__(self, arrays: Any, size: int, words: np.ndarray, placement: Any) -> None:
        self.arrays: Any = placement.put(arrays)
        self._total, self.rows, self._words = _rows_of(arrays), size, words
        if size > self._total:
            raise ValueError(
                f"batch_size is {size}, but the training data have {self._total} rows; write "
                f"batch_size={self._total} or less"
            )
        self._steps = self.at_once = self._total // size
        self.steps_per_epoch: int | None = self._steps
        self._drawn: tuple[int, Any] = (-1, None)

    def first(self) -> Any:
        """The batch of the first step."""
        chosen = self.items(0, 1)[0]
        return jax.tree.map(lambda leaf: leaf[chosen], self.arrays)

    def begin(self, step: int, position: Position | None, ahead: Ahead) -> None:
        """The step says everything."""

    def items(self, step: int, count: int) -> np.ndarray:
        """The rows of each step, int32 (count, batch)."""
        epoch, begin = divmod(step, self._steps)
        table = self._order(epoch)[: self._steps * self.rows].reshape(-1, self.rows)
        return table[begin : begin + count]

    def position(self) -> None:
        """It follows from the step."""

    def close(self) -> None:
        """Nothing is held."""

    def _order(self, epoch: int) -> np.ndarray:
        if self._drawn[0] != epoch:
            self._drawn = epoch, epoch_order(self._words, epoch, self._total)
        return self._drawn[1]


class SourceLoader:
    """A source, whose batches a thread reads and puts on the device ahead of the training.

    Args:
        source: the source.
        size: the rows of a batch, of all processes together.
        words: of the run's root key.
        placement: where the batches lie.
    """

    def __init__(self, source: Source, size: int, words: np.ndarray, placement: Any) -> None:
        self._source, self.rows, self._words, self._placement = source, size, words, placement
        self.steps_per_epoch: int | None = source.steps_per_epoch(size)
        self.at_once, self.arrays = 1, None
        self._process = jax.process_index(), jax.process_count()
        self._batches: Any = None

    def first(self) -> Any:
        """The first batch of the run."""
        batches = self._open(None)
        try:
            batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], next(iter(batches)))
            return jax.tree.map(lambda leaf: leaf[0], self._placed(batch))
        finally:
            batches.close()

    def begin(self, step: int, position: Position | None, ahead: Ahead) -> None:
        """Open the source there and read ahead."""

        def counts() -> Iterator[int]:
            at = step
            while (end := ahead(at)) > at:  # it stays at the end of the run
                yield end - at
                at = end

        self._batches = prefetched(self._open(position), self._placed, counts=counts())

    def items(self, step: int, count: int) -> Any:
        """The batches that come next."""
        try:
            return next(self._batches)
        except StopIteration:
            raise ValueError(
                f"the source of data ended after step {step}, before the run did; repeat it, or "
                f"write steps={step}"
            ) from None

    def position(self) -> Position | None:
        """The position of the training: batches that were read ahead count as not read."""
        return self._batches.position()

    def close(self) -> None:
        """End the thread and close the source."""
        if self._batches is not None:
            self._batches.close()

    def _placed(self, batches: Any) -> Any:
        return self._placement.put_batches(batches)

    def _open(self, position: Position | None) -> Any:
        return self._source.open(self._words, self.rows, position, process=self._process)


def loader_of(data: Any, size: int, words: np.ndarray, placement: Any) -> Loader:
    """The loader of a run's data: None, a `data.Source`, or a pytree of arrays of rows."""
    if data is None:
        return NoLoader()
    if isinstance(data, Source):
        return SourceLoader(data, size, words, placement)
    return ArrayLoader(data, size, words, placement)


class Steps:
    """The compiled steps of a program on the batches of a loader.

    Args:
        program: the program.
        loader: its batches.
        words: of the run's root key.
        placement: where the state and the batches lie.
        augment: a function of (key, batch) that is applied to each batch, or None.
    """

    def __init__(
        self, program: Program, loader: Loader, words: Any, placement: Any, augment: Any = None
    ) -> None:
        self._numbers, structure = jax.tree.flatten(program)
        self._loader, self._words = loader, words
        self._gathers = isinstance(loader, ArrayLoader)
        self._compiled = _compiled_steps(
            structure, code_of(program), self._gathers, augment, placement
        )

    def check(self, state: Any, first: Any, count: int) -> Any:
        """The metrics of `count` steps as shapes; an error for steps that do not fit together.

        It traces the compiled steps, which is not repeated when they run.

        Args:
            state: the state before them.
            first: the first batch, or its shapes.
            count: the number of steps.
        """
        batches: Any = jax.ShapeDtypeStruct((count, self._loader.rows), jnp.int32)
        if not self._gathers:
            batches = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), first
            )
        numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
        arguments = self._numbers, state, self._words, (numbers, batches), self._loader.arrays
        traced = self._compiled.trace(*arguments)
        _, metrics = traced.out_info
        if count > 1 and jax.default_backend() == "cpu" and _has_convolution(traced.jaxpr.jaxpr):
            self._loader.at_once = 1  # XLA's convolutions are ten times slower in a loop on a CPU
        return metrics

    def __call__(self, state: Any, step: int, count: int) -> tuple[Any, dict[str, Any]]:
        """The state after `count` steps, and the metrics of each, stacked."""
        numbers = np.arange(step, step + count, dtype=np.int32)
        items = numbers, self._loader.items(step, count)
        return self._compiled(self._numbers, state, self._words, items, self._loader.arrays)


@remembered
def _compiled_steps(
    structure: Any, code: Any, gathers: bool, augment: Any, placement: Any
) -> Callable[..., Any]:
    """The jitted function (numbers, state, words, items, arrays) of a step for each item."""

    def steps(numbers: Any, state: Any, words: Any, items: Any, arrays: Any) -> tuple[Any, Any]:
        program = jax.tree.unflatten(structure, numbers)

        def step(state: Any, item: Any) -> tuple[Any, Any]:
            number, batch = item
            if gathers:
                batch = jax.tree.map(lambda leaf: leaf[batch], arrays)
            batch = placement.pinned_batch(batch)
            if augment is not None:
                key = jax.random.fold_in(jax.random.fold_in(paths.kept_key(words), number), 1)
                batch = augment(key, batch)
            result = program.step(state, batch)
            check_step(result, state, type(program).__name__)
            after, metrics = result
            return placement.pinned(after), without_collected(metrics)

        if items[0].shape[0] == 1:  # without a loop
            state, metrics = step(state, jax.tree.map(lambda leaf: leaf[0], items))
            return state, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], metrics)
        return lax.scan(step, state, items)

    return jax.jit(steps, donate_argnums=1)


def check_step(result: Any, before: Any, owner: str) -> None:
    """Raise TypeError or ValueError for anything but a state like the one before, and metrics."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"a step returns the new state and metrics, got {describe(result)} from {owner}.step; "
            "write return state, {'loss': loss}"
        )
    check_metrics(result[1], f"{owner}.step")
    _check_state(owner, before, jax.eval_shape(lambda: result[0]))


def _check_state(owner: str, before: Any, after: Any) -> None:
    """Raise ValueError if a step returns a state of another structure, shape, or type."""
    told = "a step returns a state like the one it is given, in structure, shapes, and types"
    given, returned = (dict(_by_path(tree)) for tree in (before, after))
    if jax.tree.structure(before) != jax.tree.structure(after):
        only = [f"{name} is missing" for name in given if name not in returned]
        only += [f"{name} is new" for name in returned if name not in given]
        found = "; ".join(only[:5]) or (
            f"{jax.tree.structure(after)} instead of {jax.tree.structure(before)}"
        )
        raise ValueError(f"{told}, but in the one that {owner}.step returns {found}")
    lines = [
        f"{name} is {describe(returned[name])} instead of {describe(leaf)}"
        for name, leaf in given.items()
        if (leaf.shape, leaf.dtype) != (returned[name].shape, returned[name].dtype)
    ]
    if lines:
        raise ValueError(
            f"{told}, but in the one that {owner}.step returns {'; '.join(lines[:5])}; write "
            "new.astype(old.dtype), or give init's array that type"
        )


def _has_convolution(jaxpr: Any) -> bool:
    """Whether a jaxpr or one inside it convolves."""
    from jax.extend.core import jaxprs_in_params  # here: its import is slow

    return any(
        equation.primitive.name == "conv_general_dilated"
        or any(map(_has_convolution, jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )


def _by_path(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="/") or "the state", leaf


def _rows_of(tree: Any) -> int:
    """The number of rows of a pytree of arrays."""
    return jax.tree.leaves(tree)[0].shape[0]
