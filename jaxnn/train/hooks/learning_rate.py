"""LearningRate: the learning rate of the last step, in each record."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

from ..optimizer import Optimizer, states_of
from ..program import Program
from ..record import Event
from .hook import Hook


@dataclasses.dataclass(frozen=True)
class LearningRate(Hook):
    """Add the learning rate of the last step to each record, as `learning_rate`.

    The program must contain a `train.Optimizer` with an argument `learning_rate`, a number or a
    schedule. If it contains several, their names are `learning_rate/PATH`, with the path in the
    program. A single schedule is evaluated at the number of updates in the state; several schedules
    are evaluated at the step of the run.

    Raises:
        ValueError: Before the first step: the program has no such optimizer.

    >>> import optax, jaxnn as nn
    >>> from jaxnn import train
    >>> rates = train.Cosine(1e-3, steps=100)
    >>> program = train.Supervised(nn.Dense(1), train.Regression(),
    ...                            train.Optimizer(optax.adam, learning_rate=rates))
    >>> list(rates_of(program, 0))
    ['learning_rate']
    """

    def check(self, run: Any) -> None:
        """Raise ValueError for a program without a learning rate."""
        names = rates_of(run.program, 0).keys()
        if not names:
            raise ValueError(
                "LearningRate finds no train.Optimizer with a learning_rate in "
                f"{type(run.program).__name__}; write "
                "train.Optimizer(optax.adam, learning_rate=1e-3), or leave the hook out"
            )
        run.names |= names

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Add the rates to the record."""
        if event.is_record:
            counts = states_of(event.state, optax.ScaleByScheduleState)
            updates = int(counts[0].count) if len(counts) == 1 else event.step
            event.add(rates_of(event.run.program, max(updates - 1, 0)))
        return memory, None


def rates_of(program: Any, step: int) -> Mapping[str, float]:
    """Return the learning rates of a program by name, in the step with this number, from 0.

    Args:
        program: A `train.Program`, with optimizers anywhere in its fields.
        step: The number of updates before.
    """
    several = ((path, _rate_at(one, step)) for path, one in _optimizers(program))
    found = {path: rate for path, rate in several if rate is not None}
    if len(found) == 1:
        return {"learning_rate": next(iter(found.values()))}
    return {f"learning_rate/{path}": rate for path, rate in found.items()}


def _optimizers(program: Any, above: str = "") -> Iterator[tuple[str, Optimizer]]:
    """Yield the optimizers in the fields of a program and of programs inside, with their paths."""
    fields = {field.name: getattr(program, field.name) for field in dataclasses.fields(program)}
    kinds = Optimizer, Program
    leaves = jax.tree_util.tree_leaves_with_path(fields, is_leaf=lambda x: isinstance(x, kinds))
    for keys, item in leaves:
        path = above + jax.tree_util.keystr(keys, simple=True, separator="/")
        if isinstance(item, Program):
            yield from _optimizers(item, f"{path}/")
        elif isinstance(item, Optimizer):
            yield path, item


def _rate_at(optimizer: Optimizer, step: int) -> float | None:
    """Return the learning rate in a step, of an optimizer or the first inside it."""
    rate = optimizer.arguments.get("learning_rate")
    if rate is not None:
        return float(np.asarray(rate(step) if callable(rate) else rate))
    parts = jax.tree.leaves(optimizer.parts, is_leaf=lambda one: isinstance(one, Optimizer))
    inside = (_rate_at(one, step) for one in parts if isinstance(one, Optimizer))
    return next((found for found in inside if found is not None), None)
