"""EarlyStopping: stop a run whose metric no longer becomes better."""

import math
from typing import Any

from ...core.values import Value
from ..directions import badness, check_maximize, check_metric, is_maximized
from ..evaluation import check_count
from ..event import Event
from .hook import Hook, Stop


class EarlyStopping(Value, Hook):
    """Stop a run once a metric has not become better for `patience` records.

    A value that is not finite is never better.

    Args:
        metric: its name in the records, "validation_loss" by default.
        patience: the number of records without a better one, at least 1; 5 by default.
        margin: by how much a value has to be better to count, finite and at least 0, the default.
        maximize: whether a larger value is better, as for an accuracy; by default as the program
            declares it.

    Raises:
        TypeError, ValueError: numbers out of range; before the first step, a metric that the run
            does not have, or whose direction is unknown.

    Reference: Prechelt, Early stopping, but when?, 1998.

    >>> EarlyStopping("validation_loss", patience=3)
    EarlyStopping(patience=3)
    """

    metric: str = "validation_loss"
    patience: int = 5
    margin: float = 0.0
    maximize: bool | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_count(self.patience, "EarlyStopping.patience")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"EarlyStopping.margin is a finite number >= 0, got {self.margin!r}")
        check_maximize(self.maximize, "EarlyStopping")

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run does not have, or that has no direction."""
        check_metric(self.metric, run.names, "EarlyStopping watches")
        self._maximize(run)

    def begin(self, state: Any) -> dict[str, Any]:
        """The best score, smaller for better, and for how many records there was no better one."""
        return {"best": math.inf, "waited": 0}

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | None]:
        """Compare the metric with the best one, and stop after `patience` records."""
        maximize = self._maximize(event)
        score, best = badness(event.metrics[self.metric], maximize), memory["best"]
        if score < best - self.margin:
            return {"best": score, "waited": 0}, None
        waited = memory["waited"] + 1
        if waited < self.patience:
            return memory | {"waited": waited}, None
        reason = f"{self.metric} has not been finite for {waited} records"
        if best < math.inf:
            found = -best if maximize else best
            reason = f"{self.metric} has not become better than {found:.4g} for {waited} records"
        return memory | {"waited": waited}, Stop(reason)

    def _maximize(self, run: Any) -> bool:
        call = f"EarlyStopping({self.metric!r}, "
        return is_maximized(self.metric, run.directions, self.maximize, call)
