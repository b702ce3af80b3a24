"""Early stopping: a pure function of the history, so a resumed run stops where it would have."""

import math
from collections.abc import Mapping, Sequence

from ..core.signatures import suggestion
from ..core.values import Value


class EarlyStopping(Value):
    """Stop once a metric has not become better for `patience` records.

    Args:
        metric: its name in the records, such as "validation_loss".
        patience: records without a better one that are waited for, at least 1.
        margin: by how much it has to be better to count, at least 0.
        larger: whether larger is better, as for an accuracy.

    It is called with the history and gives the reason to stop, or None. Raises ValueError for
    numbers out of range, and for a metric that the records do not have.

    Reference: Prechelt, Early stopping, but when?, 1998.

    >>> losses = [{"epoch": e, "loss": loss} for e, loss in enumerate([3.0, 1.0, 2.0, 1.5])]
    >>> EarlyStopping("loss", patience=2)(losses)
    'loss has not become better than 1 for 2 records'
    >>> EarlyStopping("loss", patience=2)(losses[:3])
    """

    metric: str = "validation_loss"
    patience: int = 5
    margin: float = 0.0
    larger: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"EarlyStopping.patience is an int >= 1, got {self.patience!r}")
        if not self.margin >= 0:
            raise ValueError(f"EarlyStopping.margin is a number >= 0, got {self.margin!r}")

    def __call__(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """The reason to stop, or None."""
        sign = -1.0 if self.larger else 1.0
        best, waited = math.inf, 0
        for record in history:
            if self.metric not in record:
                raise ValueError(
                    f"EarlyStopping watches {self.metric!r}, which is not among the metrics; "
                    f"{suggestion(self.metric, record)}"
                )
            score = sign * record[self.metric]
            if score < best - self.margin:
                best, waited = score, 0
            else:
                waited += 1
        if waited < self.patience:
            return None
        return f"{self.metric} has not become better than {sign * best:.4g} for {waited} records"
