"""Evaluation and prediction of any program: a state over a whole data set, in pieces.

Metrics are combined as they declare it, so the numbers do not depend on the size of the pieces.
Piece i draws with `fold_in(key, i)`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
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
    words = _words(jax.random.key(0) if key is None else key)
    check_count(batch_size, "batch_size")
    compiled, numbers = _evaluation_of(program, state, placement)
    parts = []
    for i, piece in enumerate(_pieces(data, batch_size, placement)):
        metrics = compiled(numbers, state, piece, words, np.int32(i))
        parts.append((metrics, 1 if data is None else rows_of(piece, "data")))
    if not parts:
        raise ValueError("evaluation needs one row of data or more, got none")
    return combine(parts), directions(parts[0][0])


def evaluation_spec(
    program: Program, state: Any, data: Any, batch_size: int, placement: Any
) -> dict[str, Any]:
    """The metrics of the first piece of an evaluation as shapes; arguments as for `evaluated`."""
    compiled, numbers = _evaluation_of(program, state, placement)
    piece = next(_pieces(data, batch_size, placement))
    return compiled.eval_shape(numbers, state, piece, _words(jax.random.key(0)), np.int32(0))


def predicted(
    program: Program,
    state: Any,
    inputs: Any,
    *,
    batch_size: int = SIZE,
    placement: Any = SINGLE_DEVICE,
) -> Any:
    """`program.predict` of all rows, in pieces.

    Args:
        program: the program.
        state: a state of it.
        inputs: a pytree of arrays of rows.
        batch_size: the largest number of rows of a piece.
        placement: where the arrays lie: one device by default, or a `parallel.Placement`. On a mesh
            every device gets all predictions.
    """
    check_count(batch_size, "batch_size")
    compiled = _compiled_prediction(jax.tree.structure(program), code_of(program), placement)
    numbers = placement.put_numbers(program)
    pieces = [compiled(numbers, state, piece) for piece in _pieces(inputs, batch_size, placement)]
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


def _evaluation_of(program: Program, state: Any, placement: Any) -> tuple[Any, Any]:
    """The compiled evaluation of a program, and the program's numbers."""
    layout = placement.layout(state)
    compiled = _compiled_evaluation(
        jax.tree.structure(program), code_of(program), placement, layout
    )
    return compiled, placement.put_numbers(program)


def _words(key: Any) -> np.ndarray:
    # On the host, they are the same to all processes.
    return np.asarray(paths.kept_words(paths.as_key(key)))


@remembered
def _compiled_evaluation(structure: Any, code: Any, placement: Any, layout: Any) -> Any:
    def evaluate(numbers: Any, state: Any, piece: Any, words: Any, number: Any) -> dict[str, Any]:
        program = jax.tree.unflatten(structure, numbers)
        owner = type(program).__name__
        piece = placement.pinned_piece(piece)
        program = placement.gathering(program, state, piece, layout)
        key = jax.random.fold_in(paths.kept_key(words), number)
        metrics = program.evaluate(state, piece, key=key)
        check_metrics(metrics, f"{owner}.evaluate")
        return placement.pinned_whole(dict(metrics))

    return jax.jit(evaluate)


@remembered
def _compiled_prediction(structure: Any, code: Any, placement: Any) -> Any:
    def predict(numbers: Any, state: Any, inputs: Any) -> Any:
        program = jax.tree.unflatten(structure, numbers)
        found = program.predict(state, placement.pinned_piece(inputs))
        return placement.pinned_whole(found)

    return jax.jit(predict)


def check_names(metrics: Iterable[str], owner: str) -> None:
    """Raise ValueError for no metrics at all."""
    if not list(metrics):
        raise ValueError(
            f"{owner} returns no metrics to evaluate; write def evaluate(self, state, batch, *, "
            "key): ... return {'loss': loss}"
        )
