"""Metrics that declare how they are combined, and whether larger or smaller is better.

The metric of a data set is rarely the mean of the metrics of its batches: a mean over valid tokens
divides by all of them, F1 is a ratio of sums, and AUC needs every row. A metric therefore declares
how its parts are combined:

    a plain scalar          a mean, weighted by the rows of its batch (by steps without data)
    Mean(value)             the same, with a direction
    Ratio(sum, count)       sums and counts are added, and divided once at the end
    Derived(f, sums)        f of several sums, each of which is added
    Collected(f, arrays)    f of the arrays of all rows, on the host

`record` adds the parts of several steps or batches. A loss may also be a sum of ratios,
`beta * Ratio(a, n) + Ratio(b, m)`: each term divides by its own count.

Records and trials are ranked by the direction of a metric, which is given by the caller that ranks
(`maximize=` of `EarlyStopping` and `Checkpoints`, `--maximize` and `--minimize` of a sweep), or
declared by the program or its task:

    class Scored(train.Classification):
        directions = {"f1": "maximize"}

The names of a run's records derive from those: `validation_f1`, `train_f1`, and `test_f1` have the
direction of `f1`. The loss is minimized. A metric without a direction is not ranked.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..fields import code
from ..validation import Accepts, check_none, instance, one_of

Direction: TypeAlias = Literal["maximize", "minimize"]
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
    # The last one may be defined by a property, an instance, or a function.
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
    bare = re.sub("^(validation|train|test)_(?=.)", "", metric)
    return declared.get(metric) or declared.get(bare)


def badness(value: float | None, maximize: bool) -> float:
    """Return a number that is smaller for a better value, infinity for None, NaN, and infinities.

    So neither NaN nor an infinity of either sign is ever better than a finite value.

    >>> [badness(value, maximize=True) for value in (0.5, float("nan"), float("inf"), None)]
    [-0.5, inf, inf, inf]
    """
    if value is None or not math.isfinite(value):
        return math.inf
    return -float(value) if maximize else float(value)


def _is_real(value: Any) -> bool:
    """Return whether a value is a real scalar, known, traced, or abstract."""
    kinds = bool | int | float | np.generic | np.ndarray | jax.Array | jax.ShapeDtypeStruct
    if not isinstance(value, kinds) or jnp.shape(value) != ():
        return False
    real = (jnp.floating, jnp.integer, jnp.bool_)
    return any(jnp.issubdtype(jnp.result_type(value), kind) for kind in real)


a_metric: Accepts = Accepts(
    "a real scalar",
    _is_real,
    hint="write its mean, train.Ratio(sum, count), or one metric per element",
    abstract=True,
)
STATIC = {"static": True}  # a field that is part of the structure of a pytree


class Metric:
    """Base of the metrics: `float(metric)` and `f"{metric:.3f}"` read its value."""

    value: Any

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean(Metric):
    """A mean over the rows of a batch, with a direction.

    Args:
        value: Scalar, the mean over the rows.
        maximize: Whether larger is better. Default: None, the metric is not used for ranking.

    >>> Mean(0.5, maximize=True)
    Mean(value=0.5, maximize=True)
    """

    value: Any
    maximize: bool | None = dataclasses.field(default=None, metadata=STATIC)


class _Terms(Metric):
    """Base of metrics that are sums of terms: they can be added and multiplied by numbers."""

    terms: tuple[Any, ...]

    def _each(self, function: Callable[[Any], Any]) -> Any:
        """Return the sum of the terms, `function` applied to the sum of each ratio."""
        terms = [
            Ratio(function(term.sum), term.count) if isinstance(term, Ratio) else function(term)
            for term in self.terms
        ]
        return sum_of(terms)

    def __mul__(self, factor: Any) -> Any:
        return self._each(lambda one: one * factor)

    def __truediv__(self, divisor: Any) -> Any:
        return self._each(lambda one: one / divisor)

    def __neg__(self) -> Any:
        return self * -1

    def __add__(self, other: Any) -> "Sum":
        return Sum((*self.terms, *(other.terms if isinstance(other, _Terms) else (other,))))

    def __sub__(self, other: Any) -> "Sum":
        return self + -other

    def __rsub__(self, other: Any) -> "Sum":
        return -self + other

    __rmul__ = __mul__
    __radd__ = __add__


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ratio(_Terms):
    """A ratio of sums, sum / count. Ratios of several batches are combined by adding both terms.

    Ratios can be added to each other and to scalars, and multiplied by numbers: a loss may be
    `beta * Ratio(a, n) + Ratio(b, m)`.

    Args:
        sum: Scalar.
        count: Scalar, such as the number of valid tokens or the sum of the weights. Its gradient is
            zero. A ratio with a count of 0 is 0.
        maximize: Whether larger is better. Default: None, the metric is not used for ranking.

    >>> import jax.numpy as jnp
    >>> float(Ratio(jnp.float32(6), jnp.float32(4)))
    1.5
    """

    sum: Any
    count: Any
    maximize: bool | None = dataclasses.field(default=None, metadata=STATIC)

    @property
    def terms(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The ratio itself."""
        return (self,)

    @property
    def value(self) -> jax.Array:  # type: ignore[override]
        """sum / count."""
        count = jax.lax.stop_gradient(jnp.asarray(self.count))
        dtype = jnp.promote_types(jnp.result_type(self.sum), jnp.float32)
        divisor = jnp.where(count == 0, 1, count).astype(dtype)
        # XLA may multiply by the reciprocal of a count that lanes share; here, all programs do.
        return jnp.where(count == 0, 0, jnp.asarray(self.sum).astype(dtype) * (1 / divisor))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(_Terms):
    """The result of adding ratios: several terms, each with its own count.

    Args:
        terms: Tuple of ratios and scalars.

    >>> import jax.numpy as jnp
    >>> both = 2 * Ratio(jnp.float32(6), jnp.float32(4)) + Ratio(jnp.float32(1), jnp.float32(2))
    >>> f"{both:.2f}"
    '3.50'
    """

    terms: tuple[Any, ...]

    @property
    def value(self) -> Any:  # type: ignore[override]
        """The sum of the values of the terms."""
        return sum(map(value_of, self.terms))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Derived(Metric):
    """`function(*sums)`, a function of sums over the examples: perplexity, macro F1, R2.

    It is combined like a `Ratio`, also inside compiled steps: the sums of all batches are added,
    and the function is called once at the end.

    Args:
        function: Takes the sums, JAX or NumPy arrays, and returns a scalar.
        sums: Tuple of arrays of any shape.
        maximize: Whether larger is better. Default: None, the metric is not used for ranking.
        merge: A function that combines the parts if they cannot be added. It receives each of
            `sums` with a leading axis, one entry per part, and returns the sums without this axis.
            Parts that are all zeros must not change the result. Default: None, the parts are added.

    >>> import jax.numpy as jnp
    >>> from jaxnn.train import combine
    >>> def perplexity(loss, count):
    ...     return jnp.exp(loss / count)
    >>> parts = [({"perplexity": Derived(perplexity, (2.0, 1.0))}, 1),
    ...          ({"perplexity": Derived(perplexity, (1.0, 2.0))}, 2)]
    >>> round(combine(parts)["perplexity"], 4)  # exp((2 + 1) / (1 + 2))
    2.7183
    """

    function: Callable[..., Any] = dataclasses.field(metadata=STATIC)
    sums: tuple[Any, ...]
    maximize: bool | None = dataclasses.field(default=None, metadata=STATIC)
    merge: Callable[..., tuple[Any, ...]] | None = dataclasses.field(default=None, metadata=STATIC)

    @property
    def value(self) -> Any:  # type: ignore[override]
        """`function(*sums)`."""
        return self.function(*self.sums)

    def over_parts(self) -> "Derived":
        """Return the metric of all parts, which are stacked along a leading axis of the sums."""
        merged = self.merge(*self.sums) if self.merge else tuple(s.sum(0) for s in self.sums)
        return dataclasses.replace(self, sums=tuple(merged))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Collected(Metric):
    """`function(*arrays)` of all rows, computed in NumPy on the host: for AUC, medians, and ranks.

    Training steps omit this metric, because they do not keep the arrays of all rows.

    Args:
        function: Takes NumPy arrays with the rows of all batches, and returns a number.
        arrays: Tuple of arrays, each with one row per example.
        maximize: Whether larger is better. Default: None, the metric is not used for ranking.

    >>> import numpy as np
    >>> from jaxnn.train import combine
    >>> combine([({"median": Collected(np.median, (np.arange(n),))}, n) for n in (4, 1)])
    {'median': 1.0}
    """

    function: Callable[..., Any] = dataclasses.field(metadata=STATIC)
    arrays: tuple[Any, ...]
    maximize: bool | None = dataclasses.field(default=None, metadata=STATIC)

    @property
    def value(self) -> float:  # type: ignore[override]
        """`function(*arrays)` of the rows of this part."""
        found = self.function(*map(np.asarray, self.arrays))
        name = f"the result of {code(self.function)}, the function of a train.Collected,"
        return float(a_metric(found, name))


def value_of(metric: Any) -> Any:
    """Return the number of a metric of one batch, such as a loss, as an array."""
    return metric.value if isinstance(metric, Metric) else metric


def terms_of(metric: Any, rows: Any) -> list[Ratio]:
    """Return the ratios whose sum a metric is; a scalar is a mean over `rows`."""
    if isinstance(metric, Ratio):
        return [metric]
    if isinstance(metric, Sum):
        return [ratio for term in metric.terms for ratio in terms_of(term, rows)]
    value = value_of(metric)
    count = np.broadcast_to(rows, np.shape(value))
    return [Ratio(value * rows, count, getattr(metric, "maximize", None))]


def sum_of(terms: list[Any]) -> Any:
    """Return the metric with these terms; a single one keeps its direction."""
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def directed(metric: Any, maximize: bool) -> Any:
    """Return the metric with a direction, unless it states one; a scalar becomes a `Mean`."""
    if not isinstance(metric, Metric):
        return Mean(metric, maximize)
    if isinstance(metric, Mean | Ratio | Derived | Collected) and metric.maximize is None:
        return dataclasses.replace(metric, maximize=maximize)
    return metric


def without_collected(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that a compiled loop can add."""
    return {name: one for name, one in metrics.items() if not isinstance(one, Collected)}


def with_part(total: Any, new: Any) -> Any:
    """Return the metric `total` with another part, in the types and functions of `total`."""
    # Two traces create different functions, so the tree structures may differ.
    leaves, structure = jax.tree.flatten(total)
    more = [
        jnp.asarray(n).astype(t.dtype) for t, n in zip(leaves, jax.tree.leaves(new), strict=True)
    ]
    if isinstance(total, Derived):
        pairs = [jnp.stack(pair) for pair in zip(leaves, more, strict=True)]
        return jax.tree.unflatten(structure, pairs).over_parts()
    return jax.tree.unflatten(structure, [t + n for t, n in zip(leaves, more, strict=True)])


def directions(metrics: Mapping[str, Any]) -> dict[str, bool]:
    """Return the directions that metrics declare, {name: maximize}; the loss is minimized.

    >>> directions({"loss": 1.0, "accuracy": Mean(0.5, maximize=True), "other": 2.0})
    {'loss': False, 'accuracy': True}
    """
    declared = {name: getattr(one, "maximize", None) for name, one in metrics.items()}
    declared |= {"loss": False} if "loss" in metrics else {}
    return {name: maximize for name, maximize in declared.items() if maximize is not None}


# ---- checks of what an objective or a program reports ----


def _are_rows(arrays: Any) -> bool:
    """Return whether a value is a tuple of arrays with the same number of rows."""
    if not isinstance(arrays, tuple) or not all(map(np.ndim, arrays)):
        return False
    return len({np.shape(one)[0] for one in arrays}) == 1


_HINT = "write return loss, {{'accuracy': accuracy}}"
_by_name = instance(Mapping, "a dict by name", _HINT)
_metric_name = Accepts(
    "a str of at least one character",
    lambda name: isinstance(name, str) and bool(name.strip()),
    TypeError,
    _HINT,
)
_collected = Accepts(
    "a tuple of arrays, each with one row per example",
    _are_rows,
    TypeError,
    "write train.Collected(function, (predictions, targets))",
    abstract=True,
)
_loss = Accepts(
    "a real scalar or a train.Ratio",
    lambda leaf: _is_real(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating),
    TypeError,
    "write loss.mean() or train.Ratio(loss.sum(), loss.size) for an array, and loss.real for a "
    "complex number. To report metrics, return loss, metrics from an objective, or write a "
    "train.Task",
    abstract=True,
)


def check_metrics(metrics: Any, owner: str) -> None:
    """Raise TypeError or ValueError unless metrics are a dict of metrics by name.

    Args:
        metrics: Result of an objective or a program.
        owner: Name of the function that returned them, for the error.
    """
    for name, metric in _by_name(metrics, f"the metrics that {owner} returns").items():
        _metric_name(name, f"the name of a metric of {owner}")
        if isinstance(metric, Collected):
            _collected(metric.arrays, f"the arrays of the metric {name!r} of {owner}")
            continue
        if isinstance(metric, Derived):
            metric = jax.eval_shape(metric.function, *metric.sums)
        for leaf in jax.tree.leaves(metric) if isinstance(metric, Metric) else [metric]:
            a_metric(leaf, f"the metric {name!r} of {owner}")


def check_metric_names(metrics: Mapping[str, Any], taken: Collection[str], owner: str) -> None:
    """Raise ValueError for metrics whose names are those of other numbers in the records of a run.

    Args:
        metrics: Metrics by name.
        taken: Names that a run or a step reports itself.
        owner: Name of what reports the metrics, for the error.
    """
    check_none(
        map(repr, sorted(metrics.keys() & set(taken))),
        f"{owner} reports a metric under the name of another number in the records of a run",
        "return it under another name",
    )


def check_loss(loss: Any, owner: str) -> None:
    """Raise TypeError for a loss that is not a real scalar, a Ratio, or a Sum.

    Args:
        loss: Result of an objective or a loss function.
        owner: Name of the function that returned it, for the error.
    """
    for term in loss.terms if isinstance(loss, Sum) else (loss,):
        _loss(term.sum if isinstance(term, Ratio) else term, f"the loss of {owner}")
