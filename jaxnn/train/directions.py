"""Whether a metric is maximized or minimized: the one rule of all that ranks records and trials.

The direction of a metric is stated by the caller that ranks by it (`maximize=` of `EarlyStopping`
and `Checkpoints`, `--maximize` and `--minimize` of a sweep), or declared by the program or its
task:

    class Scored(train.Classification):
        directions = {"f1": "maximize"}

The names of a run's records derive from those: `validation_f1`, `train_f1`, and `test_f1` have the
direction of `f1`. The loss is minimized. A metric without a direction is not ranked.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias

from ..explain.text import suggestion

Direction: TypeAlias = Literal["maximize", "minimize"]
DIRECTIONS = ("maximize", "minimize")
PREFIXES = ("validation_", "train_", "test_")


def directions_of(task: Any = None) -> dict[str, Direction]:
    """The directions that a task declares, and that of the loss.

    A `directions` of a class adds to those of the classes it inherits from.

    Args:
        task: a task or a loss function; None for the loss alone.

    Raises ValueError for a direction that is neither "maximize" nor "minimize".

    >>> from jaxnn import train
    >>> directions_of(train.Regression())["mae"]
    'minimize'
    """
    found: dict[str, Any] = {"loss": "minimize"}
    for cls in reversed(type(task).__mro__):
        own = vars(cls).get("directions")
        found |= own if isinstance(own, Mapping) else {}
    whole = getattr(task, "directions", None)  # of a property, an instance, or a function
    found |= whole if isinstance(whole, Mapping) else {}
    for metric, direction in found.items():
        if direction not in DIRECTIONS:
            raise ValueError(
                f"the directions of {task!r} say {direction!r} for {metric!r}, expected 'maximize' "
                "or 'minimize'"
            )
    return found


def direction_of(metric: str, task: Any = None) -> Direction | None:
    """The direction of a metric by its name in the records; None if nobody declares it.

    Args:
        metric: the name, with or without the prefix "validation_", "train_", or "test_".
        task: the task or loss function that reports it.

    >>> from jaxnn import train
    >>> direction_of("validation_accuracy", train.Classification(3)), direction_of("f1")
    ('maximize', None)
    """
    declared = directions_of(task)
    return declared[metric] if metric in declared else declared.get(plain(metric))


def is_maximized(
    metric: str, directions: Mapping[str, bool], maximize: bool | None, call: str
) -> bool:
    """Whether a metric of a run is maximized: as stated, or else as the program declares.

    Args:
        metric: the name in the records.
        directions: whether a metric is maximized, by name, as the program declares it.
        maximize: what the caller states; None if it states nothing.
        call: the call that states it, up to `maximize=`, for the error.

    Raises ValueError if the direction is not known.
    """
    found = directions.get(metric) if maximize is None else maximize
    if found is None:
        raise ValueError(
            f"the direction of {metric!r} is unknown: write {call}maximize=True) or "
            "maximize=False, or return train.Mean(value, maximize=True) from the program; known "
            f"are {', '.join(sorted(directions)) or 'none'}"
        )
    return found


def check_maximize(maximize: Any, owner: str) -> None:
    """Raise TypeError for anything but a direction that a caller may state."""
    if maximize is not None and not isinstance(maximize, bool):
        raise TypeError(
            f"{owner}.maximize is {maximize!r}, expected True if larger is better, False if less "
            "is better, or None for the direction that the program declares"
        )


def check_metric(metric: str, names: Collection[str], what: str) -> None:
    """Raise ValueError for a metric that a run does not have.

    Args:
        metric: the name.
        names: the names of the run's metrics.
        what: the beginning of the error, such as "EarlyStopping watches".
    """
    if metric not in names:
        raise ValueError(
            f"{what} {metric!r}, which is not among the metrics; {suggestion(metric, names)}; a "
            "train.Evaluate that adds it comes before in hooks="
        )


def plain(metric: str) -> str:
    """The name of a metric without the prefix that says which data it is of.

    >>> plain("validation_f1"), plain("f1")
    ('f1', 'f1')
    """
    for prefix in PREFIXES:
        if metric.startswith(prefix) and metric != prefix:
            return metric.removeprefix(prefix)
    return metric


def badness(value: float | None, maximize: bool) -> float:
    """A number that is smaller for a better value; infinity for one that is missing or not finite.

    So neither NaN nor an infinity of either sign is ever better than a finite value.

    >>> [badness(value, maximize=True) for value in (0.5, float("nan"), float("inf"), None)]
    [-0.5, inf, inf, inf]
    """
    if value is None or not math.isfinite(value):
        return math.inf
    return -float(value) if maximize else float(value)
