"""Evaluation and prediction of any program: a state over a whole data set, in pieces.

Metrics are combined as they declare it, so the numbers do not depend on the size of the pieces.
Piece i draws with `fold_in(key, i)`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.declarations import brief
from ..data.source import Source
from .evaluation import check_count
from .metrics import check_metrics, combine, directions
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
        data: a pytree of arrays of rows, a source, or None for a program without data.
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
    parts = []
    for i, piece in enumerate(_pieces(data, batch_size, placement)):
        metrics = compiled(numbers, state, piece, jax.random.fold_in(key, i))
        parts.append((metrics, 1 if data is None else rows_of(piece, "data")))
    if not parts:
        raise ValueError("evaluation needs one row of data or more, got none")
    return combine(parts), directions(parts[0][0])


def evaluation_spec(
    program: Program, state: Any, data: Any, batch_size: int, placement: Any
) -> dict[str, Any]:
    """The metrics of the first piece of an evaluation as shapes; arguments as for `evaluated`."""
    numbers, structure = jax.tree.flatten(program)
    compiled = _compiled_evaluation(structure, code_of(program), placement)
    piece = next(_pieces(data, batch_size, placement))
    return compiled.eval_shape(numbers, state, piece, jax.random.key(0))


def predicted(program: Program, state: Any, inputs: Any, *, batch_size: int = SIZE) -> Any:
    """`program.predict` of all rows of `inputs`, a pytree of arrays of rows, in pieces."""
    check_count(batch_size, "batch_size")
    numbers, structure = jax.tree.flatten(program)
    compiled = _compiled_prediction(structure, code_of(program))
    pieces = [
        compiled(numbers, state, piece) for piece in _pieces(inputs, batch_size, SINGLE_DEVICE)
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *pieces)


def rows_of(tree: Any, name: str) -> int:
    """The number of rows of a pytree of arrays; ValueError if its leaves disagree.

    Args:
        tree: the pytree.
        name: what it is called in the error.
    """
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        where = "/".join([name, *(jax.tree_util.keystr((k,), simple=True) for k in path)])
        if not np.ndim(leaf):
            raise ValueError(
                f"{where} is {brief(leaf)}, which has no rows; write np.full(rows, value)"
            )
        counts[where] = np.shape(leaf)[0]
    if not counts:
        raise ValueError(f"{name} has no arrays, got {brief(tree)}")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{where} has {rows}" for where, rows in counts.items())
        raise ValueError(f"{name}: all arrays have one number of rows, but {listed}")
    return next(iter(counts.values()))


def _pieces(data: Any, size: int, placement: Any) -> Iterator[Any]:
    if data is None:
        yield None
    elif isinstance(data, Source):
        raise TypeError(
            f"evaluation reads arrays of rows, got {brief(data)}; write the arrays themselves"
        )
    else:
        rows = rows_of(data, "data")
        if rows == 0:
            raise ValueError(f"data has no rows, got {brief(data)}")
        arrays = placement.put(data)
        for begin in range(0, rows, size):
            yield jax.tree.map(lambda leaf, at=begin: leaf[at : at + size], arrays)


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
