"""A step of any program under a placement, and the check of what it returns."""

from typing import Any

import jax

from ..explain.text import describe
from .metrics import check_metrics, without_collected
from .program import Program
from .state import differences


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
    if lines := differences(before, jax.eval_shape(lambda: result[0]), "the state"):
        raise ValueError(
            "a step returns a state like the one it is given, in structure, shapes, and types, but "
            f"in the one that {owner}.step returns {'; '.join(lines[:5])}; write "
            "new.astype(old.dtype), or return from init all that step returns"
        )
