"""Whether a metric is maximized or minimized: the one rule by which records and trials are ranked.

The direction of a metric is stated by the caller that ranks by it (`maximize=` of `EarlyStopping`
and `Checkpoints`, `--maximize` and `--minimize` of a sweep), or declared by the program or its
task:

    class Scored(train.Classification):
        directions = {"f1": "maximize"}

The names of a run's records derive from those: `validation_f1`, `train_f1`, and `test_f1` have the
direction of `f1`. The loss is minimized. A metric without a direction is not ranked.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from ..validation import Accepts, one_of

Direction: TypeAlias = Literal["maximize", "minimize"]
PREFIXES = ("validation_", "train_", "test_")
valid_direction: Accepts = one_of("maximize", "minimize")


def directions_of(task: Any = None) -> dict[str, Direction]:
    """Return the directions that a task declares, and that of the loss.

    A `directions` of a class adds to those of the classes it inherits from.

    Args:
        task: Task or loss function. Default: None, the loss alone.

    Raises:
        ValueError: A direction that is neither "maximize" nor "minimize".

    >>> from jaxnn import train
    >>> directions_of(train.Regression())["mae"]
    'minimize'
    """
    found: dict[str, Any] = {"loss": "minimize"}
    declared = [vars(cls).get("directions") for cls in reversed(type(task).__mro__)]
    # The last one is that of a property, an instance, or a function.
    for one in (*declared, getattr(task, "directions", None)):
        found |= one if isinstance(one, Mapping) else {}
    for metric, direction in found.items():
        valid_direction(direction, f"{type(task).__name__}.directions[{metric!r}]")
    return found


def direction_of(metric: str, task: Any = None) -> Direction | None:
    """Return the direction of a metric by its name in the records; None if it is not declared.

    Args:
        metric: Name, with or without the prefix "validation_", "train_", or "test_".
        task: Task or loss function that reports it. Default: None.

    >>> from jaxnn import train
    >>> direction_of("validation_accuracy", train.Classification(3)), direction_of("f1")
    ('maximize', None)
    """
    declared = directions_of(task)
    return declared[metric] if metric in declared else declared.get(plain(metric))


def plain(metric: str) -> str:
    """Return the name of a metric without the prefix of the data it is computed on.

    >>> plain("validation_f1"), plain("f1")
    ('f1', 'f1')
    """
    for prefix in PREFIXES:
        if metric.startswith(prefix):
            return metric.removeprefix(prefix) or metric
    return metric


def badness(value: float | None, maximize: bool) -> float:
    """Return a number that is smaller for a better value, infinity for None, NaN, and infinities.

    So neither NaN nor an infinity of either sign is ever better than a finite value.

    >>> [badness(value, maximize=True) for value in (0.5, float("nan"), float("inf"), None)]
    [-0.5, inf, inf, inf]
    """
    if value is None or not math.isfinite(value):
        return math.inf
    return -float(value) if maximize else float(value)
