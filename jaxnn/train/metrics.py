"""Metrics that say how they are combined, and which direction is better.

A number of a whole data set is rarely the mean of the numbers of its batches: a mean over valid
tokens divides by all of them, F1 is a ratio of sums, and AUC needs every row. A metric therefore
declares how its parts are combined:

    a plain scalar          a mean, weighted by the rows of its batch (by steps without data)
    Mean(value)             the same, with a direction
    Ratio(sum, count)       sums and counts are added, and divided once at the end
    Derived(f, sums)        f of several sums, each of which is added
    Collected(f, arrays)    f of the arrays of all rows, on the host

`combining` adds the parts of several steps or batches. A loss may also be a sum of ratios,
`beta * Ratio(a, n) + Ratio(b, m)`: each term divides by its own count.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..explain.text import describe


class Metric:
    """Base of the metrics: `float(metric)` and `f"{metric:.3f}"` read the value of one."""

    def __float__(self) -> float:
        return float(value_of(self))

    def __format__(self, spec: str) -> str:
        return format(value_of(self), spec)


@partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=("maximize",))
@dataclasses.dataclass(frozen=True)
class Mean(Metric):
    """A mean over the rows of a batch, with a direction.

    Args:
        value: a scalar, the mean over the rows.
        maximize: whether larger is better; None if nothing may be ranked by it.

    >>> Mean(0.5, maximize=True)
    Mean(value=0.5, maximize=True)
    """

    value: Any
    maximize: bool | None = None


class _Term(Metric):
    """A metric that can be added to others and to scalars, and multiplied by numbers."""

    def __mul__(self, factor: Any) -> Any:
        raise NotImplementedError

    def __neg__(self) -> Any:
        return self * -1

    def __add__(self, other: Any) -> "Sum":
        several = [one.terms if isinstance(one, Sum) else (one,) for one in (self, other)]
        return Sum((*several[0], *several[1]))

    def __sub__(self, other: Any) -> "Sum":
        return self + -other

    def __rsub__(self, other: Any) -> "Sum":
        return -self + other

    __radd__ = __add__


@partial(jax.tree_util.register_dataclass, data_fields=("sum", "count"), meta_fields=("maximize",))
@dataclasses.dataclass(frozen=True)
class Ratio(_Term):
    """sum / count: two are combined by adding both.

    Ratios can be added to each other and to scalars, and multiplied by numbers: a loss may be
    `beta * Ratio(a, n) + Ratio(b, m)`.

    Args:
        sum: a scalar.
        count: a scalar, such as the number of valid tokens or the sum of the weights. It is not
            differentiated. A ratio with a count of 0 is 0.
        maximize: whether larger is better; None if nothing may be ranked by it.

    >>> import jax.numpy as jnp
    >>> float(Ratio(jnp.float32(6), jnp.float32(4)))
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
        # XLA may divide by a count that lanes share in this way; written out, all programs do.
        return jnp.where(count == 0, 0, jnp.asarray(self.sum).astype(wide) * (1 / some))

    def __mul__(self, factor: Any) -> "Ratio":
        return Ratio(self.sum * factor, self.count)

    def __truediv__(self, divisor: Any) -> "Ratio":
        return Ratio(self.sum / divisor, self.count)

    __rmul__ = __mul__


@partial(jax.tree_util.register_dataclass, data_fields=("terms",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Sum(_Term):
    """Several terms, ratios and scalars, each with its own count: what adding ratios gives.

    >>> import jax.numpy as jnp
    >>> both = 2 * Ratio(jnp.float32(6), jnp.float32(4)) + Ratio(jnp.float32(1), jnp.float32(2))
    >>> f"{both:.2f}"
    '3.50'
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

    __rmul__ = __mul__


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("sums",),
    meta_fields=("function", "maximize", "merge"),
)
@dataclasses.dataclass(frozen=True)
class Derived(Metric):
    """function(*sums), a function of several sums over the examples: perplexity, macro F1, R2.

    It is combined like a `Ratio`, also inside compiled steps: the sums of all batches are added,
    and the function is called once at the end.

    Args:
        function: takes the sums, JAX or NumPy arrays, and returns a scalar.
        sums: a tuple of arrays of any shape.
        maximize: whether larger is better; None if nothing may be ranked by it.
        merge: what combines parts that are not added. It takes each of `sums` with a leading axis,
            one entry per part, and returns the sums without it. A part of zeros has no effect.

    >>> import jax.numpy as jnp
    >>> from jaxnn.train import combine
    >>> def perplexity(loss, count):
    ...     return jnp.exp(loss / count)
    >>> parts = [({"perplexity": Derived(perplexity, (2.0, 1.0))}, 1),
    ...          ({"perplexity": Derived(perplexity, (1.0, 2.0))}, 2)]
    >>> round(combine(parts)["perplexity"], 4)  # exp((2 + 1) / (1 + 2))
    2.7183
    """

    function: Callable[..., Any]
    sums: tuple[Any, ...]
    maximize: bool | None = None
    merge: Callable[..., tuple[Any, ...]] | None = None

    @property
    def value(self) -> Any:
        """function(*sums)."""
        return self.function(*self.sums)

    def over_parts(self) -> "Derived":
        """The metric of all parts, which are stacked along a leading axis of the sums."""
        merged = self.merge(*self.sums) if self.merge else tuple(s.sum(0) for s in self.sums)
        return dataclasses.replace(self, sums=tuple(merged))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("arrays",),
    meta_fields=("function", "maximize"),
)
@dataclasses.dataclass(frozen=True)
class Collected(Metric):
    """function(*arrays) of all rows, computed in NumPy on the host: for AUC, medians, and ranks.

    A training step drops it, since its arrays would have to be kept.

    Args:
        function: takes NumPy arrays with the rows of all batches, and returns a number.
        arrays: a tuple of arrays, each with one row per example.
        maximize: whether larger is better; None if nothing may be ranked by it.

    >>> import numpy as np
    >>> from jaxnn.train import combine
    >>> combine([({"median": Collected(np.median, (np.arange(n),))}, n) for n in (4, 1)])
    {'median': 1.0}
    """

    function: Callable[..., Any]
    arrays: tuple[Any, ...]
    maximize: bool | None = None

    @property
    def value(self) -> float:
        """function(*arrays) of the rows at hand."""
        return float(self.function(*map(np.asarray, self.arrays)))


def value_of(metric: Any) -> Any:
    """The number of a metric of one batch, such as a loss, as an array."""
    return metric.value if isinstance(metric, Mean | Ratio | Sum | Derived | Collected) else metric


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


def directed(metric: Any, maximize: bool) -> Any:
    """The metric with a direction, unless it states one; a scalar becomes a `Mean`."""
    if isinstance(metric, Mean | Ratio | Derived | Collected):
        undirected = metric.maximize is None
        return dataclasses.replace(metric, maximize=maximize) if undirected else metric
    return metric if isinstance(metric, Sum) else Mean(metric, maximize)


def without_collected(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that a compiled loop can add."""
    return {name: one for name, one in metrics.items() if not isinstance(one, Collected)}


def merged(total: Any, new: Any) -> Any:
    """The metric `total` with another part, in the types and with the functions of `total`."""
    leaves, structure = jax.tree.flatten(total)
    more = [
        jnp.asarray(n).astype(t.dtype) for t, n in zip(leaves, jax.tree.leaves(new), strict=True)
    ]
    if isinstance(total, Derived):
        pairs = [jnp.stack(pair) for pair in zip(leaves, more, strict=True)]
        return jax.tree.unflatten(structure, pairs).over_parts()
    return jax.tree.unflatten(structure, [t + n for t, n in zip(leaves, more, strict=True)])


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
        if isinstance(metric, Derived):
            metric = jax.eval_shape(metric.function, *metric.sums)
        for leaf in jax.tree.leaves(metric):
            if jnp.shape(leaf) != ():
                raise ValueError(
                    f"a metric is a scalar, but {name!r} of {owner} is {describe(leaf)}; write its "
                    "mean, train.Ratio(sum, count), or one metric per element"
                )


def check_loss(loss: Any, owner: str, advice: str = "write return loss, metrics") -> None:
    """Raise TypeError or ValueError for a loss that is not a real scalar, a Ratio, or a sum.

    Args:
        loss: what an objective returned.
        owner: the objective, for the error.
        advice: what to write in place of a tuple.
    """
    if isinstance(loss, tuple | list | Mapping):
        raise TypeError(
            f"a loss is a scalar or a train.Ratio, got {describe(loss)} from {owner}; {advice}"
        )
    for term in loss.terms if isinstance(loss, Sum) else (loss,):
        if isinstance(term, Mean | Derived | Collected):
            raise TypeError(
                f"a loss is a scalar or a train.Ratio, got a train.{type(term).__name__} from "
                f"{owner}; write train.Ratio(sum, count)"
            )
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
