"""Numbers of a whole from the metrics of its parts, added in order and in double precision."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ..files.reading import FileError
from .metrics import Collected, Derived, Mean, Ratio, Sum

MOST = 1000  # dispatches whose metrics wait on the device
SKIPPED = "skipped"  # 1 for a step that changed nothing: its other metrics are left out
EVERY_STEP = (SKIPPED, "loss_scale")


class Tally:
    """Metrics of several parts, such as steps or batches, added one after the other.

    The parts are added in order, so the result does not depend on how many steps are compiled into
    one program. What the device still computes is not waited for until a number is needed.

    Args:
        sums: the sums by metric of a resumed run, as `plain` returned them.
        source: the checkpoint that holds them, for an error.
    """

    def __init__(self, sums: Mapping[str, Any] | None = None, source: str = "") -> None:
        self._waiting: list[tuple[dict[str, Any], Any]] = []
        self._sums = {
            name: [np.asarray(leaf, np.float64) for leaf in leaves]
            for name, leaves in (sums or {}).items()
        }
        self._forms: dict[str, Any] = {}
        self._source = source

    def add(self, metrics: Mapping[str, Any], rows: Any) -> None:
        """Add the metrics of several parts.

        Args:
            metrics: by name, each with a leading axis of the parts.
            rows: the rows of each part, over which plain scalars are means; 1 without data.
        """
        self._waiting.append((dict(metrics), rows))
        if len(self._waiting) >= MOST:
            self._fetch()

    def plain(self) -> dict[str, Any]:
        """The sums as JSON."""
        self._fetch()
        return {name: [leaf.tolist() for leaf in leaves] for name, leaves in self._sums.items()}

    def metrics(self) -> dict[str, float]:
        """The numbers of all parts together; NaN if all steps were skipped."""
        self._fetch()
        found = {
            name: _number(jax.tree.unflatten(self._forms[name], leaves))
            for name, leaves in self._sums.items()
        }
        if found.get(SKIPPED) == 1:
            found |= {name: math.nan for name in found if name not in EVERY_STEP}
        return found

    @np.errstate(all="ignore")
    def _fetch(self) -> None:
        waiting, self._waiting = self._waiting, []
        for metrics, rows in _on_host(waiting):
            if self._sums and self._sums.keys() != metrics.keys():
                recorded, given = (", ".join(sorted(one)) for one in (self._sums, metrics))
                raise FileError(
                    f"{self._source} has sums of the metrics {recorded}, and the program returns "
                    f"{given}; restore it from a copy, or name another folder"
                )
            made = np.asarray(metrics.get(SKIPPED, 0)) != 1
            for name, metric in metrics.items():
                if name not in EVERY_STEP and not made.all():
                    metric = jax.tree.map(lambda leaf: leaf[made], metric)  # noqa: B023
                form = _sums(metric, rows)
                leaves, self._forms[name] = jax.tree.flatten(form)
                before = self._sums.get(name) or [np.zeros(leaf.shape[1:]) for leaf in leaves]
                add = _merged if isinstance(form, Derived) and form.merge else _added
                self._sums[name] = add(form, before, leaves)


def combine(parts: Iterable[tuple[Mapping[str, Any], Any]]) -> dict[str, float]:
    """The numbers of the whole from (metrics, rows) of its parts, in double precision on the host.

    Args:
        parts: the metrics of each part by name, and the rows that plain scalars are means over (1
            without data). Every part has the same names.

    Returns:
        A float for each name.

    Raises:
        ValueError: no parts, or parts with different names.

    >>> parts = [({"loss": 1.0, "f1": Ratio(2, 3)}, 2), ({"loss": 4.0, "f1": Ratio(0, 1)}, 1)]
    >>> combine(parts)
    {'f1': 0.5, 'loss': 2.0}
    """
    pieces = list(jax.device_get([(dict(metrics), rows) for metrics, rows in parts]))
    if not pieces:
        raise ValueError("combine needs the metrics of one part or more, got none")
    first = pieces[0][0]
    collected = {name for name, metric in first.items() if isinstance(metric, Collected)}
    tally = Tally()
    for metrics, rows in pieces:
        if set(metrics) != set(first):
            raise ValueError(
                f"every part has the same metrics, got {sorted(first)} and {sorted(metrics)}"
            )
        added = {name: metric for name, metric in metrics.items() if name not in collected}
        tally.add(jax.tree.map(lambda leaf: np.asarray(leaf)[None], added), rows)
    found = tally.metrics()
    for name in collected:
        columns = zip(*(metrics[name].arrays for metrics, _ in pieces), strict=True)
        arrays = (np.concatenate([np.asarray(leaf) for leaf in column]) for column in columns)
        found[name] = float(first[name].function(*arrays))
    return {name: found[name] for name in first}


def _sums(metric: Any, rows: Any) -> Any:
    """The metric as something whose leaves are added: a scalar is weighted by its rows."""
    if isinstance(metric, Sum):
        return Sum(tuple(_sums(term, rows) for term in metric.terms))
    if isinstance(metric, Ratio | Derived):
        return jax.tree.map(_wide, metric)
    is_mean = isinstance(metric, Mean)
    value = _wide(metric.value if is_mean else metric)
    maximize = metric.maximize if is_mean else None
    return Ratio(value * rows, np.full_like(value, rows), maximize)


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf, np.float64)


def _on_host(tree: Any) -> Any:
    """`jax.device_get`, which takes several times as long for few arrays."""
    leaves, structure = jax.tree.flatten(tree)
    if jax.default_backend() != "cpu":  # where to begin a copy takes 4 us and gains nothing
        for leaf in leaves:
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
    return jax.tree.unflatten(structure, map(np.asarray, leaves))


def _added(form: Any, before: list[Any], leaves: list[Any]) -> list[Any]:
    """before + leaf[0] + leaf[1] + ..., in this order, for each leaf."""
    pairs = zip(before, leaves, strict=True)
    return [
        start + leaf[0]
        if len(leaf) == 1
        else np.add.accumulate(np.concatenate([start[None], leaf]))[-1]
        for start, leaf in pairs
    ]


def _merged(form: Any, before: list[Any], leaves: list[Any]) -> list[Any]:
    """`before` merged with one part after the other."""
    for part in zip(*leaves, strict=True):
        pairs = tuple(np.stack(pair) for pair in zip(before, part, strict=True))
        before = [_wide(leaf) for leaf in dataclasses.replace(form, sums=pairs).over_parts().sums]
    return before


def _number(whole: Any) -> float:
    if isinstance(whole, Sum):
        return _sum(map(_number, whole.terms))
    if isinstance(whole, Derived):
        return float(whole.value)
    return float(whole.sum / whole.count) if whole.count else 0.0


def _sum(values: Iterable[float]) -> float:
    """The sum of numbers, rounded once; NaN or infinity as NumPy adds them if it is not finite."""
    numbers = list(values)
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # of infinities of both signs, and of huge numbers
        with np.errstate(all="ignore"):
            return float(np.sum(numbers))
