"""EarlyStopping: stop a run whose metric no longer becomes better."""

import math
from typing import Annotated, Any

from ...core.values import Value
from ...validation import number, positive
from ..metrics import badness
from ..record import Event
from .hook import MAXIMIZE, Hook, Stop, is_maximized


class EarlyStopping(Value, Hook):
    """Stop a run when a metric has not improved for `patience` records.

    A value that is not finite never counts as an improvement.

    Args:
        metric: Name of the metric in the records. Default: "validation_loss".
        patience: Number of records without an improvement, at least 1. Default: 5.
        margin: Minimum change that counts as an improvement, at least 0. Default: 0.
        maximize: Whether a larger value is better, as for an accuracy. Default: None, as declared
            by the program.

    Raises:
        TypeError, ValueError: An argument is out of range. Before the first step: the run does not
            have the metric, or its direction is unknown.

    Reference: Prechelt, Early stopping, but when?, 1998.

    >>> EarlyStopping("validation_loss", patience=3)
    EarlyStopping(patience=3)
    """

    metric: str = "validation_loss"
    patience: Annotated[int, positive] = 5
    margin: Annotated[float, number(0)] = 0.0
    maximize: Annotated[bool | None, MAXIMIZE] = None

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run does not have, or that has no direction."""
        is_maximized(self.metric, run, self.maximize, "EarlyStopping({!r})")

    def begin(self, state: Any) -> dict[str, Any]:
        """Return the best score, smaller for better, and the records without a better one."""
        return {"best": math.inf, "waited": 0}

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | None]:
        """Compare the metric with the best one, and stop after `patience` records."""
        maximize = event.directions[self.metric] if self.maximize is None else self.maximize
        score, best = badness(event.metrics[self.metric], maximize), memory["best"]
        if score < best - self.margin:
            return {"best": score, "waited": 0}, None
        memory = {"best": best, "waited": memory["waited"] + 1}
        if memory["waited"] < self.patience:
            return memory, None
        better = f"become better than {-best if maximize else best:.4g}"
        failure = better if best < math.inf else "been finite"
        return memory, Stop(f"{self.metric} has not {failure} for {memory['waited']} records")
