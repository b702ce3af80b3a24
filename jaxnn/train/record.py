"""Records: the numbers of a run, added exactly and fetched when they are read."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ..files.reading import FileError
from .metrics import Mean, Ratio, Sum, combine


class Tally:
    """Sums of the metrics since the last record.

    They are added step by step in double precision, so they do not depend on how many steps are
    compiled into one program. What the device still computes is not waited for.

    Args:
        sums: the sums by metric of a resumed run, as `plain` returned them.
        source: the checkpoint that holds them, for an error.
    """

    def __init__(self, sums: Mapping[str, list[float]] | None = None, source: str = "") -> None:
        self._waiting: list[tuple[dict[str, Any], int]] = []
        self._sums = {name: list(numbers) for name, numbers in (sums or {}).items()}
        self._forms: dict[str, Any] = {}
        self._source = source

    def add(self, metrics: Mapping[str, Any], rows: int) -> None:
        """Add the metrics of several steps.

        Args:
            metrics: by name, each with a leading axis of the steps.
            rows: the rows of a batch; 1 without data.
        """
        self._waiting.append((dict(metrics), rows))

    def plain(self) -> dict[str, list[float]]:
        """The sums as JSON."""
        self._fetch()
        return {name: list(numbers) for name, numbers in self._sums.items()}

    def metrics(self) -> dict[str, float]:
        """The numbers of all steps together."""
        self._fetch()
        if not self._sums:
            return {}
        whole = {n: jax.tree.unflatten(self._forms[n], sums) for n, sums in self._sums.items()}
        return combine([(whole, 1)])

    def _fetch(self) -> None:
        waiting, self._waiting = self._waiting, []
        for metrics, rows in jax.device_get(waiting):
            if self._sums and self._sums.keys() != metrics.keys():
                recorded, given = (", ".join(sorted(one)) for one in (self._sums, metrics))
                raise FileError(
                    f"{self._source} has sums of the metrics {recorded}, and the program returns "
                    f"{given}; restore it from a copy, or name another folder"
                )
            for name, metric in metrics.items():
                leaves, self._forms[name] = jax.tree.flatten(summable(metric, rows))
                before = self._sums.get(name, [0.0] * len(leaves))
                self._sums[name] = [
                    float(added(start, leaf)) for start, leaf in zip(before, leaves, strict=True)
                ]


def summable(metric: Any, rows: int) -> Any:
    """The metric as something whose leaves are added: a scalar is weighted by its rows."""
    if isinstance(metric, Sum):
        return Sum(tuple(summable(term, rows) for term in metric.terms))
    if isinstance(metric, Mean):
        return _ratio(metric.value, rows, metric.maximize)
    if isinstance(metric, Ratio):
        return jax.tree.map(_wide, metric)
    return _ratio(metric, rows, None)


def _ratio(value: Any, rows: int, maximize: bool | None) -> Ratio:
    wide = _wide(value)
    return Ratio(wide * rows, np.full_like(wide, rows), maximize)


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf, np.float64)


def added(start: float, steps: np.ndarray) -> np.ndarray:
    """start + steps[..., 0] + steps[..., 1] + ..., in this order."""
    begin = np.full((*steps.shape[:-1], 1), start, np.float64)
    return np.add.accumulate(np.concatenate([begin, steps], -1), -1)[..., -1]


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
