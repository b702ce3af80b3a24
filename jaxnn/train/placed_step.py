"""A step of any program, with its arrays where a placement has them, and what it may return."""

from collections.abc import Iterator
from typing import Any

import jax

from ..explain.text import describe
from .metrics import check_metrics, without_collected
from .program import Program


def placed_step(
    program: Program, state: Any, batch: Any, placement: Any, layout: Any
) -> tuple[Any, Any]:
    """A step of a program, as a pure function, whose arrays are pinned to where they lie.

    Args:
        program: the program.
        state: its state.
        batch: a pytree of rows.
        placement: a `SingleDevice` or a `parallel.Placement`.
        layout: what the placement's `layout` returned for the state.

    Returns:
        The state after the step, and the metrics of the batch. `Collected` metrics are dropped.
    """
    batch = placement.pinned_batch(batch)
    result = placement.gathering(program, state, batch, layout).step(state, batch)
    check_step(result, state, type(program).__name__)
    after, metrics = result
    return placement.pinned(after, layout), placement.pinned_whole(without_collected(metrics))


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


def _by_path(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="/") or "the state", leaf
