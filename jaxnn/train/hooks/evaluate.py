"""Evaluate: metrics of the state on held-out data, added to each record."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Self

from ...data.accept import as_source, fingerprint_of
from ...data.rows import check_like
from ...validation import positive
from ..evaluation import SIZE, evaluated, evaluation_spec, piece_spec, prepare_data, require_metrics
from ..metrics import directions
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
    name: str = "validation"
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
