"""Records of a run, added exactly and fetched when they are read, and the events that have them."""

from collections.abc import Iterator, Mapping
from typing import Any

from .combining import Tally


class Record(Mapping[str, float]):
    """The numbers of a record by name, as a dict: fetched from the device when one is read.

    Args:
        fixed: Numbers that are known, such as the step.
        tally: The metrics since the previous record. Default: None.
    """

    def __init__(self, fixed: Mapping[str, float], tally: Tally | None = None) -> None:
        self._numbers, self._tally = dict(fixed), tally

    def add(self, numbers: Mapping[str, float]) -> None:
        """Add further numbers, such as those of a validation.

        Raises ValueError for a name that the record has already.
        """
        if twice := sorted(set(self.plain()) & set(numbers)):
            raise ValueError(
                f"the record has {', '.join(twice)} already; give the second hook another name, "
                "such as train.Evaluate(data, name='test')"
            )
        self._numbers |= numbers

    def plain(self) -> dict[str, float]:
        """Return the record as a dict."""
        tally, self._tally = self._tally, None
        if tally is not None:
            self._numbers |= tally.metrics()
        return self._numbers

    def __getitem__(self, name: str) -> float:
        return self.plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain())

    def __len__(self) -> int:
        return len(self.plain())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self.plain() == dict(other)

    def __repr__(self) -> str:
        return repr(self.plain())


def prefixed(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics with a prefix: "validation" makes "validation_loss" of "loss"."""
    return {f"{name}_{key}" if name else key: value for key, value in metrics.items()}


class Event:
    """The progress of a run at one moment, for hooks and for loops over `train.run`.

    Args:
        run: The `Run`: its program, key, total number of steps, and hooks.
        metrics: The metrics since the last record by name, a read-only dict. It fetches the values
            from the device when one is read. It includes metrics that earlier hooks added.
        is_record: Whether `metrics` form a record of the run. False between two records.

    Attributes:
        state: The program's state. The next step reuses its memory, so copy arrays that you keep.
        step: The number of completed steps.
        epoch: The number of the epoch of the last step, from 1; None without epochs.
        directions: Whether a metric is maximized, by name, as the program declares it.
        history: The records so far, including this one.
        stop: The reason why the run ends here; None if it continues.
    """

    run: Any
    metrics: Record
    is_record: bool
    state: Any
    step: int
    epoch: int | None
    moment: Any
    stop: str | None

    def __init__(self, run: Any, metrics: Record, is_record: bool) -> None:
        self.run, self.metrics, self.is_record = run, metrics, is_record
        self.state, self.step, self.epoch = run.state, run.step, run.epoch
        self.moment, self.stop = run.moment(), run.stop
        self.directions: dict[str, bool] = run.directions
        self.history: list[Record] = run.history

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add metrics to the record: floats by name, such as those of a validation.

        In `check(run)`, such a hook must add the names of its metrics to `run.names`, and their
        directions, if they have one, to `run.directions`.
        """
        self.metrics.add(metrics)
