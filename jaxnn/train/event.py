"""What a run has reached: an event, for hooks and for loops over `train.run`."""

from collections.abc import Mapping
from typing import Any

from .record import Record


class Event:
    """What a run has reached, for hooks and for a loop over `train.run`.

    Attributes:
        run: the `Run`: its program, key, total number of steps, and hooks.
        state: the program's state. The next step takes its memory, so copy what you keep.
        step: the number of steps that are done.
        epoch: the number of the epoch of the last step, from 1; None without epochs.
        is_record: whether `metrics` are a record of the run, and not those of a part of one.
        metrics: the numbers since the last record by name, a read-only dict that fetches them from
            the device when one is read. Hooks that come first add theirs.
        directions: whether a metric is maximized, by name, as the program declares it.
        history: the records so far, with this one.
        stop: why the run ends here, None if it continues.
    """

    def __init__(self, run: Any, metrics: Record, is_record: bool) -> None:
        self.run, self.metrics, self.is_record = run, metrics, is_record
        self.state, self.step, self.epoch = run.state, run.step, run.epoch
        self.moment, self.stop = run.moment(), run.stop
        self.directions: dict[str, bool] = run.directions
        self.history: list[Record] = run.history

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add floats by name to the record, such as those of a validation.

        A hook that adds metrics adds their names to `run.names`, and the directions of those that
        have one to `run.directions`, in `check(run)`.
        """
        self.metrics.add(metrics)
