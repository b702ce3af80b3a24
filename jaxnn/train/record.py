"""Records: the numbers of a run, added exactly and fetched when they are read."""

from collections.abc import Iterator, Mapping
from typing import Any

from .combining import Tally


class Record(Mapping[str, float]):
    """The numbers of a record by name, as a dict: fetched from the device when one is read.

    Args:
        fixed: numbers that are known, such as the step.
        tally: the metrics since the record before.
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
        """The record as a dict."""
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
    """The metrics with a prefix: "validation" makes "validation_loss" of "loss"."""
    return {f"{name}_{key}" if name else key: value for key, value in metrics.items()}
