"""Checks of what an objective or a program reports: its loss, and its metrics by name."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..validation import Accepts, require
from .metrics import Collected, Derived, Metric, Ratio, Sum, a_metric


def check_metrics(metrics: Any, owner: str) -> None:
    """Raise TypeError or ValueError unless metrics are a dict of metrics by name.

    Args:
        metrics: Result of an objective or a program.
        owner: Name of the function that returned them, for the error.
    """
    require(
        isinstance(metrics, Mapping),
        f"the metrics that {owner} returns",
        "a dict by name",
        metrics,
        "write return loss, {'accuracy': accuracy}",
        TypeError,
    )
    for name, metric in metrics.items():
        _metric_name(name, f"the name of a metric of {owner}")
        if isinstance(metric, Collected):
            _collected(metric.arrays, f"the arrays of the metric {name!r} of {owner}")
            continue
        if isinstance(metric, Derived):
            metric = jax.eval_shape(metric.function, *metric.sums)
        for leaf in jax.tree.leaves(metric) if isinstance(metric, Metric) else [metric]:
            a_metric(leaf, f"the metric {name!r} of {owner}")


def check_metric_names(metrics: Mapping[str, Any], taken: Collection[str], owner: str) -> None:
    """Raise ValueError for a metric whose name is that of another number in the records of a run.

    Args:
        metrics: Metrics by name.
        taken: Names that a run or a step reports itself.
        owner: Name of what reports the metrics, for the error.
    """
    for name in sorted(metrics.keys() & set(taken)):
        raise ValueError(
            f"{owner} reports a metric {name!r}, but that is the name of another number in the "
            "records of a run; return it under another name"
        )


def _are_rows(arrays: Any) -> bool:
    """Return whether a value is a tuple of arrays with the same number of rows."""
    if not isinstance(arrays, tuple) or not all(map(np.ndim, arrays)):
        return False
    return len({np.shape(one)[0] for one in arrays}) == 1


_metric_name = Accepts(
    "a str of at least one character",
    lambda name: isinstance(name, str) and bool(name.strip()),
    TypeError,
    "write return loss, {{'accuracy': accuracy}}",
)
_collected = Accepts(
    "a tuple of arrays, each with one row per example",
    _are_rows,
    TypeError,
    "write train.Collected(function, (predictions, targets))",
    abstract=True,
)


def check_loss(loss: Any, owner: str) -> None:
    """Raise TypeError for a loss that is not a real scalar, a Ratio, or a Sum.

    Args:
        loss: Result of an objective or a loss function.
        owner: Name of the function that returned it, for the error.
    """
    for term in loss.terms if isinstance(loss, Sum) else (loss,):
        leaf = term.sum if isinstance(term, Ratio) else term
        is_real_scalar = (
            not isinstance(leaf, Metric | tuple | list | Mapping)
            and jnp.shape(leaf) == ()
            and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        )
        require(
            is_real_scalar,
            f"the loss of {owner}",
            "a real scalar or a train.Ratio",
            leaf,
            "write loss.mean() or train.Ratio(loss.sum(), loss.size) for an array, and "
            "loss.real for a complex number. To report metrics, return loss, metrics from an "
            "objective, or write a train.Task",
            TypeError,
        )
