"""EarlyStopping: stop a run whose metric no longer becomes better."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from ...core.values import Value
from ...explain.text import suggestion
from ..directions import badness, is_maximized, stated
from ..event import Event
from .hook import Hook, Stop


class EarlyStopping(Value, Hook):
    """Stop once a metric has not become better for `patience` records.

    Args:
        metric: its name in the records, such as "validation_loss".
        patience: records without a better one that are waited for, at least 1.
        margin: by how much it has to be better to count, finite and at least 0.
        maximize: whether larger is better, as for an accuracy; by default as the task declares.
        larger: the former name of `maximize`.

    It is called with the history and gives the reason to stop, or None. A value that is not finite
    is never better. Raises ValueError for numbers out of range, for a metric that the records do
    not have, and for one whose direction is not known: `train.fit` raises that before the first
    step.

    Reference: Prechelt, Early stopping, but when?, 1998.

    >>> losses = [{"epoch": e, "loss": loss} for e, loss in enumerate([3.0, 1.0, 2.0, 1.5])]
    >>> EarlyStopping("loss", patience=2)(losses)
    'loss has not become better than 1 for 2 records'
    >>> EarlyStopping("loss", patience=2)(losses[:3])
    """

    metric: str = "validation_loss"
    patience: int = 5
    margin: float = 0.0
    maximize: bool | None = None
    larger: bool | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"EarlyStopping.patience is an int >= 1, got {self.patience!r}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"EarlyStopping.margin is a finite number >= 0, got {self.margin!r}")
        maximize = stated(self.maximize, self.larger, "EarlyStopping")
        object.__setattr__(self, "maximize", maximize)
        object.__setattr__(self, "larger", None)

    def directed(self, task: Any) -> Self:
        """The same with the direction that the task declares, unless it has one already.

        Raises ValueError if neither says it.
        """
        remedy = f"write EarlyStopping({self.metric!r}, maximize=True) or maximize=False"
        maximize = is_maximized(self.metric, task, self.maximize, remedy)
        return dataclasses.replace(self, maximize=maximize)

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run has not, or that has no direction."""
        if self.metric not in run.names:
            raise ValueError(
                f"EarlyStopping watches {self.metric!r}, which is not among the metrics; "
                f"{suggestion(self.metric, run.names)}; a train.Evaluate that adds it comes before "
                "EarlyStopping in hooks="
            )
        self._maximize(run.directions)

    def begin(self, state: Any) -> dict[str, Any]:
        """The best score, smaller for better, and for how many records there was no better one."""
        return {"best": math.inf, "waited": 0}

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | None]:
        """Compare the metric with the best one, and stop after `patience` records."""
        maximize = self._maximize(event.directions)
        score = badness(event.metrics[self.metric], maximize)
        if score < memory["best"] - self.margin:
            return {"best": score, "waited": 0}, None
        waited = memory["waited"] + 1
        action = None
        if waited >= self.patience:
            action = Stop(self._reason(memory["best"], maximize, waited))
        return memory | {"waited": waited}, action

    def _maximize(self, directions: Mapping[str, bool]) -> bool:
        found = directions.get(self.metric) if self.maximize is None else self.maximize
        if found is None:
            raise ValueError(
                f"the direction of {self.metric!r} is unknown: write "
                f"EarlyStopping({self.metric!r}, maximize=True) or maximize=False, or return "
                f"train.Mean(value, maximize=True) from the program; known are "
                f"{', '.join(sorted(directions)) or 'none'}"
            )
        return found

    def _reason(self, best: float, maximize: bool, waited: int) -> str:
        if best == math.inf:
            return f"{self.metric} has not been finite for {waited} records"
        found = -best if maximize else best
        return f"{self.metric} has not become better than {found:.4g} for {waited} records"

    def __call__(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """The reason to stop, or None."""
        for record in history:
            if self.metric not in record:
                raise ValueError(
                    f"EarlyStopping watches {self.metric!r}, which is not among the metrics; "
                    f"{suggestion(self.metric, record)}"
                )
        maximize = bool(self.directed(None).maximize)
        best, waited = math.inf, 0
        for record in history:
            score = badness(record[self.metric], maximize)
            if score < best - self.margin:
                best, waited = score, 0
            else:
                waited += 1
        if waited < self.patience:
            return None
        return self._reason(best, maximize, waited)
