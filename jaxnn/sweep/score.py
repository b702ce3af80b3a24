"""The score of a trial as a function of its learning curve, and the trials that are kept.

    last      the value after the last epoch
    best      the best value of all epochs
    mean:5    the mean over the last five epochs, or over all if there are fewer

The same score is used everywhere: in the search, at rungs, in the ranking, and in the report.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..train.metrics import badness
from ..validation import Accepts

rule_of_score: Accepts = Accepts(
    "'last', 'best', or 'mean:N' for the mean over the last N epochs, such as 'mean:5'",
    lambda rule: isinstance(rule, str) and bool(re.fullmatch(r"last|best|mean:[1-9]\d{0,6}", rule)),
)


def curve_score(values: Sequence[float], rule: str, maximize: bool) -> float:
    """Return the score of a learning curve; NaN if it has none.

    Values that are not finite are never the best, and a mean over them is NaN.

    Args:
        values: The metric after each epoch.
        rule: "last", "best", or "mean:N".
        maximize: Whether a larger value is better.

    >>> [curve_score([0.5, 0.9, 0.7, 0.8], rule, True) for rule in ("last", "best", "mean:2")]
    [0.8, 0.9, 0.75]
    """
    if rule == "best":
        values = [value for value in values if math.isfinite(value)]
        return (max if maximize else min)(values, default=math.nan)
    last = values[-1:] if rule == "last" else values[-int(rule.removeprefix("mean:")) :]
    return mean(last) if len(last) and all(map(math.isfinite, last)) else math.nan


def mean(numbers: Sequence[float]) -> float:
    """Return the mean of numbers; it is finite if they are, even if their sum is not.

    Args:
        numbers: At least one number.
    """
    if len(numbers) == 1:  # of a hundred thousand trials NumPy's mean would take seconds
        return float(numbers[0])
    with np.errstate(over="ignore"):
        found = float(np.mean(numbers))
    return found if math.isfinite(found) else float(np.sum(np.divide(numbers, len(numbers))))


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which trials to keep: the best ones by their score, of equal scores those asked first.

    Args:
        count: The number of trials to keep.
        metric: The metric that trials are compared by.
        maximize: Whether a larger value is better.
        rule: The score of a trial, as for `curve_score`.
    """

    count: int
    metric: str
    maximize: bool
    rule: str

    def badness(self, curves: Sequence[Sequence[float]]) -> float:
        """Return the score of a trial, the mean over the curves of its lanes; smaller is better.

        Args:
            curves: The metric after each epoch, for each lane.
        """
        each = [curve_score(curve, self.rule, self.maximize) for curve in curves]
        return badness(mean(each), self.maximize)

    def best(self, scores: Mapping[int, Any]) -> list[int]:
        """Return the numbers of the trials to keep, the best first.

        Args:
            scores: The result of `badness` by number of the trial; one that is not finite is not
                kept.
        """
        ranked = sorted((score, n) for n, score in scores.items() if math.isfinite(score))
        return [number for _, number in ranked[: self.count]]
