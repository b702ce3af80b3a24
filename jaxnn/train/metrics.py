"""Metrics that say how they are combined, and which direction is better.

A number of a whole data set is rarely the mean of the numbers of its batches: a mean over valid
tokens divides by all of them, F1 is a ratio of sums, and AUC needs every row. A metric therefore
declares how its parts are combined:

    a plain scalar          a mean, weighted by the rows of its batch (by steps without data)
    Mean(value)             the same, with a direction
    Ratio(sum, count)       sums and counts are added, and divided once at the end
    Collected(f, arrays)    f of the arrays of all rows, on the host

`total` adds the parts within a batch, `combine` those of several batches. A loss may also be a sum
of ratios, `beta * Ratio(a, n) + Ratio(b, m)`: each term divides by its own count.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.declarations import describe


@partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=("maximize",))
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over the rows of a batch, with a direction.

    Args:
        value: a scalar, the mean over the rows.
        maximize: whether larger is better; None if nothing may be ranked by it.

    >>> Mean(0.5, maximize=True)
    Mean(value=0.5, maximize=True)
    """

    value: Any
    maximize: bool | None = None


@partial(jax.tree_util.register_dataclass, data_fields=("sum", "count"), meta_fields=("maximize",))
@dataclasses.dataclass(frozen=True)
class Ratio:
    """sum / count: two are combined by adding both.

    Ratios can be added to each other and to scalars, and multiplied by numbers: a loss may be
    `beta * Ratio(a, n) + Ratio(b, m)`.

    Args:
        sum: a scalar.
        count: a scalar, such as the number of valid tokens or the sum of the weights. It is not
            differentiated. A ratio with a count of 0 is 0.
        maximize: whether larger is better; None if nothing may be ranked by it.

    >>> import jax.numpy as jnp
    >>> float(Ratio(jnp.float32(6), jnp.float32(4)).value)
    1.5
    """

    sum: Any
    count: Any
    maximize: bool | None = None

    @property
    def value(self) -> jax.Array:
        """sum / count."""
        count = jax.lax.stop_gradient(jnp.asarray(self.count))
        wide = jnp.promote_types(jnp.result_type(self.sum), jnp.float32)
        some = jnp.where(count == 0, 1, count).astype(wide)
        return jnp.where(count == 0, 0, jnp.asarray(self.sum).astype(wide) / some)

    def __mul__(self, factor: Any) -> "Ratio":
        return Ratio(self.sum * factor, self.count)

    def __truediv__(self, divisor: Any) -> "Ratio":
        return Ratio(self.sum / divisor, self.count)

    def __neg__(self) -> "Ratio":
        return Ratio(-self.sum, self.count)

    def __add__(self, other: Any) -> "Sum":
        return Sum((self,)) + other

    def __sub__(self, other: Any) -> "Sum":
        return Sum((self,)) + -other

    def __rsub__(self, other: Any) -> "Sum":
        return -self + other

    __rmul__ = __mul__
    __radd__ = __add__


@partial(jax.tree_util.register_dataclass, data_fields=("terms",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Sum:
    """Several terms, ratios and scalars, each with its own count: what adding ratios gives.

    >>> import jax.numpy as jnp
    >>> both = 2 * Ratio(jnp.float32(6), jnp.float32(4)) + Ratio(jnp.float32(1), jnp.float32(2))
    >>> float(both.value)
    3.5
    """

    terms: tuple[Any, ...]

    @property
    def value(self) -> Any:
        """The sum of the terms' values."""
        return sum(term.value if isinstance(term, Ratio) else term for term in self.terms)

    def __mul__(self, factor: Any) -> "Sum":
        return Sum(tuple(term * factor for term in self.terms))

    def __truediv__(self, divisor: Any) -> "Sum":
        return Sum(tuple(term / divisor for term in self.terms))

    def __neg__(self) -> "Sum":
        return self * -1

    def __add__(self, other: Any) -> "Sum":
        return Sum(self.terms + (other.terms if isinstance(other, Sum) else (other,)))

    def __sub__(self, other: Any) -> "Sum":
        return self + -other

    def __rsub__(self, other: Any) -> "Sum":
        return -self + other

    __rmul__ = __mul__
    __radd__ = __add__


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("arrays",),
    meta_fields=("function", "maximize"),
)
@dataclasses.dataclass(frozen=True)
class Collected:
    """function(*arrays) of all rows, computed in NumPy on the host: for AUC, medians, and ranks.

    A training step drops it, since its arrays would have to be kept.

    Args:
        function: takes NumPy arrays with the rows of all batches, and returns a number.
        arrays: a tuple of arrays, each with one row per example.
        maximize: whether larger is better; None if nothing may be ranked by it.

    >>> import numpy as np
    >>> combine([({"median": Collected(np.median, (np.arange(n),))}, n) for n in (4, 1)])
    {'median': 1.0}
    """

    function: Callable[..., Any]
    arrays: tuple[Any, ...]
    maximize: bool | None = None


def value_of(metric: Any) -> Any:
    """The number of a metric of one batch, such as a loss, as an array."""
    return metric.value if isinstance(metric, Mean | Ratio | Sum) else metric


def terms_of(metric: Any, rows: Any) -> list[Ratio]:
    """The ratios that a metric is the sum of; a scalar is a mean over `rows`."""
    if isinstance(metric, Sum):
        return [term for one in metric.terms for term in terms_of(one, rows)]
    if isinstance(metric, Ratio):
        return [metric]
    maximize = metric.maximize if isinstance(metric, Mean) else None
    value = metric.value if isinstance(metric, Mean) else metric
    return [Ratio(value * rows, jnp.full_like(value, rows, dtype=jnp.float32), maximize)]


def of_terms(terms: list[Ratio]) -> Ratio | Sum:
    """The metric with these terms; a single one keeps its direction."""
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def without_collected(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that a compiled loop can add."""
    return {name: one for name, one in metrics.items() if not isinstance(one, Collected)}


def total(metrics: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """Metrics with a leading axis, one entry per step or micro-batch of `rows` rows, added over it.

    >>> import jax.numpy as jnp
    >>> both = total({"loss": jnp.array([1.0, 3.0])}, rows=4)
    >>> float(both["loss"].sum), float(both["loss"].count)
    (16.0, 8.0)
    """

    def added(term: Ratio) -> Ratio:
        count = jnp.broadcast_to(term.count, jnp.shape(term.sum))
        return Ratio(jnp.sum(term.sum, 0), jnp.sum(count, 0), term.maximize)

    return {
        name: of_terms([added(term) for term in terms_of(metric, rows)])
        for name, metric in without_collected(metrics).items()
    }


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
    names = set(pieces[0][0])
    for metrics, _ in pieces:
        if set(metrics) != names:
            raise ValueError(
                f"every part has the same metrics, got {sorted(names)} and {sorted(metrics)}"
            )
    return {name: _combined([(m[name], rows) for m, rows in pieces]) for name in pieces[0][0]}


def _combined(parts: list[tuple[Any, Any]]) -> float:
    first = parts[0][0]
    if isinstance(first, Collected):
        columns = zip(*(metric.arrays for metric, _ in parts), strict=True)
        return float(first.function(*(np.concatenate(list(map(np.asarray, c))) for c in columns)))
    several = zip(*(_host_terms(metric, rows) for metric, rows in parts), strict=True)
    return exact_sum(_quotient(terms) for terms in several)


def exact_sum(values: Iterable[float]) -> float:
    """The sum of numbers, rounded once; NaN or infinity as NumPy adds them if it is not finite.

    >>> exact_sum([1e16, 1.0, -1e16]), exact_sum([math.inf, -math.inf])
    (1.0, nan)
    """
    numbers = list(values)
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # of infinities of both signs, and of huge numbers
        with np.errstate(all="ignore"):
            return float(np.sum(numbers))


def _host_terms(metric: Any, rows: Any) -> list[tuple[float, float]]:
    if isinstance(metric, Sum):
        return [pair for term in metric.terms for pair in _host_terms(term, rows)]
    if isinstance(metric, Ratio):
        return [(float(metric.sum), float(metric.count))]
    return [(float(value_of(metric)) * float(rows), float(rows))]


def _quotient(terms: tuple[tuple[float, float], ...]) -> float:
    added, count = (exact_sum(each) for each in zip(*terms, strict=True))
    return added / count if count else 0.0


def directions(metrics: Mapping[str, Any]) -> dict[str, bool]:
    """Which metrics declare a direction, {name: maximize}; the loss is minimized.

    >>> directions({"loss": 1.0, "accuracy": Mean(0.5, maximize=True), "other": 2.0})
    {'accuracy': True, 'loss': False}
    """
    declared = {name: getattr(one, "maximize", None) for name, one in metrics.items()}
    known = {name: larger for name, larger in declared.items() if larger is not None}
    return known | ({"loss": False} if "loss" in metrics else {})


def check_metrics(metrics: Any, owner: str) -> None:
    """Raise TypeError or ValueError for metrics that are not numbers by name.

    Args:
        metrics: what an objective or a program returned.
        owner: what returned them, for the error.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"{owner} returns metrics as a dict by name, got {describe(metrics)}; write "
            "return loss, {'accuracy': accuracy}"
        )
    for name, metric in metrics.items():
        if isinstance(metric, Collected):
            continue
        for leaf in jax.tree.leaves(metric):
            if jnp.shape(leaf) != ():
                raise ValueError(
                    f"a metric is a scalar, but {name!r} of {owner} is {describe(leaf)}; write its "
                    "mean, train.Ratio(sum, count), or one metric per element"
                )


def check_loss(loss: Any, owner: str) -> None:
    """Raise TypeError or ValueError for a loss that is not a real scalar, a Ratio, or a sum.

    Args:
        loss: what an objective returned.
        owner: the objective, for the error.
    """
    if isinstance(loss, tuple | list | Mapping | Collected | Mean):
        raise TypeError(
            f"a loss is a scalar or a train.Ratio, got {describe(loss)} from {owner}; write "
            "return loss, metrics"
        )
    for term in loss.terms if isinstance(loss, Sum) else (loss,):
        leaf = term.sum if isinstance(term, Ratio) else term
        if jnp.shape(leaf) != ():
            raise ValueError(
                f"a loss is a scalar, got {describe(leaf)} from {owner}; write loss.mean(), or "
                "train.Ratio(loss.sum(), loss.size)"
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"a loss is a real number, got {describe(leaf)} from {owner}; write its real part "
                "or a float"
            )
