"""Hooks that add numbers to records: Evaluate and LearningRate."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Self

import jax
import numpy as np
import optax

from ...data.accept import as_source, fingerprint_of
from ...data.rows import check_like
from ...validation import instance, positive
from ..evaluation import SIZE, evaluated, evaluation_spec, piece_spec, prepare_data, require_metrics
from ..metrics import directions
from ..optimizer import Optimizer, states_of
from ..program import Program
from ..record import Event, prefixed
from .hook import Hook


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluate(Hook):
    """Evaluate the program's state at each record, and add the metrics to it.

    The metrics are those of `program.evaluate`, combined over all rows, with the same key at every
    record. Hooks that read these metrics, such as `EarlyStopping`, must come after this hook.

    Args:
        data: As for `train.evaluate`. Default: None, for a program without data.
        name: The prefix of the metrics: "validation" gives `validation_loss`. Default:
            "validation".
        batch_size: Maximum number of rows that are evaluated at once. Default: 1024.
        program: The program that evaluates the state. Default: None, the run's program.

    >>> import numpy as np
    >>> Evaluate((np.ones((3, 2)), np.zeros(3)), name="test").name
    'test'
    """

    data: Any = None
    name: Annotated[str, instance(str, "a str, the prefix of the metrics")] = "validation"
    batch_size: Annotated[int, positive] = SIZE
    program: Any = None

    @contextmanager
    def open(self, run: Any) -> Iterator[Self]:
        """Check the data, and put arrays on the device once."""
        program = run.program if self.program is None else self.program
        data = prepare_data(program, self.data, f"{self.name} data", run.placement)
        yield dataclasses.replace(self, data=data, program=program)

    def check(self, run: Any) -> None:
        """Add the names and directions of the metrics, by abstract evaluation."""
        program, size = self.program, self.batch_size
        try:
            metrics = evaluation_spec(program, run.state, self.data, size, run.placement)
        except Exception as error:
            spec = run.loader.spec()
            if self.data is not None and spec is not None and program is run.program:
                given = piece_spec(self.data, size)
                try:
                    check_like(given, spec, f"{self.name} data", "the training data")
                except ValueError as difference:  # which is what the program failed at
                    raise difference from error
            raise
        require_metrics(metrics, type(program).__name__)
        run.names |= prefixed(self.name, metrics).keys()
        run.directions |= prefixed(self.name, directions(metrics))

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Add the metrics to the record."""
        placement, size = event.run.placement, self.batch_size
        metrics = evaluated(self.program, event.state, self.data, size, placement)
        event.add(prefixed(self.name, metrics))
        return memory, None

    def identity(self) -> Mapping[str, Any]:
        """Return the checksums of the data."""
        return {} if self.data is None else {self.name: fingerprint_of(as_source(self.data))}


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
