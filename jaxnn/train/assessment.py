"""Evaluation and prediction of any program: a state over a whole data set, in pieces.

Metrics are combined as they declare it, so the numbers do not depend on the size of the pieces.
Piece i draws with `fold_in(key, i)`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..data.accept import as_source, pieces
from ..data.augmented import Augmented
from ..data.rows import row_count, row_spec
from ..data.source import Source
from ..data.stream import Stream
from .combining import combine
from .evaluation import check_count
from .metrics import check_metrics, directions
from .placement import SINGLE_DEVICE
from .program import Program, code_of
from .step import remembered

SIZE = 1024  # rows of a piece


def evaluated(
    program: Program,
    state: Any,
    data: Any,
    *,
    key: jax.Array | None = None,
    batch_size: int = SIZE,
    placement: Any = SINGLE_DEVICE,
) -> tuple[dict[str, float], dict[str, bool]]:
    """The metrics of a state over all rows of data, and whether each is maximized.

    Args:
        program: the program, whose `evaluate` is called.
        state: a state of it.
        data: whatever `data.as_source` accepts, of which each row is read once; None for a program
            without data.
        key: a JAX key; `jax.random.key(0)` by default, so that two evaluations are comparable.
        batch_size: the largest number of rows of a piece.
        placement: where the arrays lie.

    Returns:
        Floats by name, and the directions that metrics declare.
    """
    key = jax.random.key(0) if key is None else key
    check_count(batch_size, "batch_size")
    numbers, structure = jax.tree.flatten(program)
    compiled = _compiled_evaluation(structure, code_of(program), placement)
    data = prepared(program, data, "data", placement)
    parts = []
    for i, piece in enumerate(_pieces(data, batch_size)):
        if isinstance(data, Source):  # arrays were checked as a whole
            program.check_data(piece, "a batch of the data")
        metrics = compiled(numbers, state, piece, jax.random.fold_in(key, i))
        parts.append((metrics, 1 if data is None else row_count(piece)))
    if not parts:
        raise ValueError("evaluation needs one row of data or more, got none")
    return combine(parts), directions(parts[0][0])


def evaluation_spec(
    program: Program, state: Any, data: Any, batch_size: int, placement: Any
) -> dict[str, Any]:
    """The metrics of the first piece of an evaluation as shapes; arguments as for `evaluated`."""
    numbers, structure = jax.tree.flatten(program)
    compiled = _compiled_evaluation(structure, code_of(program), placement)
    if data is None:
        piece: Any = None
    elif isinstance(data, Stream):
        piece = data.spec()
    elif isinstance(data, Source):
        piece = data.spec(batch_size)
    else:
        piece = row_spec(data, min(batch_size, row_count(data)))
    return compiled.eval_shape(numbers, state, piece, jax.random.key(0))


def predicted(program: Program, state: Any, inputs: Any, *, batch_size: int = SIZE) -> Any:
    """`program.predict` of all rows of `inputs`, a pytree of arrays of rows, in pieces."""
    check_count(batch_size, "batch_size")
    numbers, structure = jax.tree.flatten(program)
    compiled = _compiled_prediction(structure, code_of(program))
    pieces = [
        compiled(numbers, state, piece)
        for piece in _pieces(as_source(inputs, "inputs"), batch_size)
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)


def prepared(program: Program, data: Any, name: str, placement: Any) -> Any:
    """Data to evaluate: a source, or arrays on the device that the program accepts.

    Args:
        program: the program, which checks the data.
        data: whatever `data.as_source` accepts.
        name: what errors call the data.
        placement: where the arrays lie.
    """
    data = as_source(data, name)
    while isinstance(data, Augmented):
        data = data.source
    if data is None or isinstance(data, Source):
        return data
    program.check_data(data, name)
    return placement.put(data)


def _pieces(data: Any, size: int) -> Iterator[Any]:
    return iter([None]) if data is None else pieces(data, size)


@remembered
def _compiled_evaluation(structure: Any, code: Any, placement: Any) -> Any:
    def evaluate(numbers: Any, state: Any, batch: Any, key: jax.Array) -> dict[str, Any]:
        program = jax.tree.unflatten(structure, numbers)
        metrics = program.evaluate(state, placement.pinned_batch(batch), key=key)
        check_metrics(metrics, f"{type(program).__name__}.evaluate")
        return dict(metrics)

    return jax.jit(evaluate)


@remembered
def _compiled_prediction(structure: Any, code: Any) -> Any:
    def predict(numbers: Any, state: Any, inputs: Any) -> Any:
        return jax.tree.unflatten(structure, numbers).predict(state, inputs)

    return jax.jit(predict)


def check_names(metrics: Iterable[str], owner: str) -> None:
    """Raise ValueError for no metrics at all."""
    if not list(metrics):
        raise ValueError(
            f"{owner} returns no metrics to evaluate; write def evaluate(self, state, batch, *, "
            "key): ... return {'loss': loss}"
        )
