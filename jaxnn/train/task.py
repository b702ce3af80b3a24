"""Tasks: what belongs together when a network is trained for a purpose.

A task is a value that holds the loss, the metrics, the number of outputs that a network needs, and
the map from outputs to predictions. Its method `measure` states the loss and the metrics once, as
`train.Ratio`s over the examples that count; `task(outputs, targets)` is the loss alone, a scalar. A
plain function `loss(outputs, targets)` may be passed instead if only a loss is needed.

A subclass adds metrics to `measure`:

>>> import jax, jax.numpy as jnp, optax
>>> from jaxnn import train
>>> class Scored(train.Classification):
...     def measure(self, outputs, targets, weights=None):
...         found = super().measure(outputs, targets, weights)
...         return found | {"f1": train.f1(outputs, targets, weights, average="macro")}
>>> found = Scored(3).measure(jnp.eye(3), jnp.array([0, 1, 1]))
>>> f"{found['f1']:.3f}"
'0.556'

Losses come from optax. A task with another one is a subclass that keeps metrics and predictions:

>>> class Focal(train.BinaryClassification):
...     gamma: float = 2.0
...     def __call__(self, outputs, targets):
...         logits, labels = self._wide(outputs, targets, True), self._labels(targets)
...         logits = labels.select(logits)[..., 0]
...         return labels.mean(optax.sigmoid_focal_loss(logits, labels.number, gamma=self.gamma))
>>> Focal(gamma=1.5)
Focal(gamma=1.5)

A loss without predictions of that kind is a function. Targets may be any tuple or dict of arrays.
CTC, for frames (batch, T, classes) with class 0 the blank, and contrastive learning of pairs:

>>> def ctc(logits, targets):
...     frames, labels, padding = targets  # paddings are 1 after the end
...     return optax.ctc_loss(logits, frames, labels, padding).mean()
>>> def contrastive(embeddings, labels):
...     return optax.ntxent(embeddings, labels, temperature=0.1)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..core.values import Value
from ..explain.text import describe
from ..fields import is_traced
from .directions import Direction, directions_of
from .labels import Labels, bad_weights, weights_like, wide
from .metrics import (
    Collected,
    Derived,
    Ratio,
    check_loss,
    check_metrics,
    directed,
    of_terms,
    terms_of,
    value_of,
)

Metrics: TypeAlias = dict[str, jax.Array]


class Task(Value):
    """Base of the tasks. A subclass writes `outputs`, `predict`, and `measure`.

    It may write `__call__` and `metrics` instead of `measure`, as functions of outputs and targets
    that return means over the examples. These are then combined as means over the rows, and example
    weights apply to the numbers of each row.

    Losses and metrics are computed in at least float32. `directions` maps the name of each further
    metric to "maximize" or "minimize", and adds to that of the base class; whatever ranks runs or
    trials by a metric reads it there. The loss is minimized.

    >>> from jaxnn import train
    >>> class Scored(train.Classification):
    ...     directions = {"f1": "maximize"}
    """

    directions: ClassVar[Mapping[str, Direction]] = {"loss": "minimize"}

    @property
    def outputs(self) -> Any:
        """The number of outputs that a network needs: the features of its last layer."""
        raise NotImplementedError

    @property
    def classes(self) -> int | None:
        """The number of classes that targets name, or None if they are not labels."""
        return None

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The loss and the metrics over the examples that count, by name, "loss" first.

        Args:
            outputs: what the network returns.
            targets: the targets of these outputs.
            weights: a number per row or per position, whose shape is a prefix of that of the
                targets; None if all examples count alike. What has the weight 0 has no effect on
                values and gradients, even if it is NaN.

        Returns:
            A `train.Ratio` or another metric for each name; `float(found["loss"])` is its value.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no loss; write def measure(self, outputs, targets, "
            "weights=None): ... return {'loss': train.Ratio(sum, count)}"
        )

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """The loss, a scalar."""
        return value_of(self.measure(outputs, targets)["loss"])

    def metrics(self, outputs: Any, targets: Any) -> dict[str, Any]:
        """Further scalars by name."""
        if type(self).measure is Task.measure:
            return {}
        found = self.measure(outputs, targets)
        return {name: value_of(metric) for name, metric in found.items() if name != "loss"}

    def predict(self, outputs: Any) -> Any:
        """Predictions from outputs."""
        raise NotImplementedError

    def _normalize_fields(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            given = getattr(self, field.name)
            if isinstance(given, np.ndarray | jax.Array) and given.ndim and not is_traced(given):
                raise TypeError(
                    f"{type(self).__name__}.{field.name} is a tuple of numbers, got "
                    f"{describe(given)}; write {field.name}=tuple({field.name}.tolist())"
                )
        super()._normalize_fields()

    # The task with another number of classes, as code for an error; "" if there is none.
    _with_classes = "a task with {} classes"
    # The number of classes of each integer target, for tasks without `classes`.
    _classes_per_output = None
    # The task for targets of several numbers per example, as code for an error.
    _several: ClassVar[str | None] = None
    # Whether the targets have a number for each output, and not one in all.
    _per_output = False

    @property
    def ignored(self) -> int | None:
        """The label that marks examples without one, or None if there is no such label."""
        return getattr(self, "ignore", None)

    def _wide(self, outputs: Any, targets: Any, labels: bool) -> jax.Array:
        """The outputs in at least float32, once their shape fits the targets'."""
        number = outputs.shape[-1] if outputs.ndim else 0
        same = outputs.ndim > 1 and outputs.shape == targets.shape
        if number != self.outputs:
            advice = f"end the network with nn.Dense({self.outputs})"
            if same and self._several:  # several targets per example, as intended
                advice = (
                    f"{type(self).__name__} has {self.outputs} per example; for several targets, "
                    f"write {self._several.format(number)}"
                )
            raise ValueError(
                f"{self!r} needs {self.outputs} outputs of shape (..., {self.outputs}), got "
                f"{describe(outputs)} for targets {describe(targets)}; {advice}"
            )
        expected = outputs.shape if self._per_output else outputs.shape[:-1]
        if targets.shape != expected:
            raise ValueError(
                f"{self!r} needs targets of shape {expected} for outputs {describe(outputs)}, got "
                f"{describe(targets)}{self._of_another_shape(targets, expected)}"
            )
        if labels and not jnp.issubdtype(targets.dtype, jnp.integer):
            raise TypeError(
                f"{self!r} needs integer class labels, got {describe(targets)}; write "
                f"y.astype('int32') if they are whole numbers{self._if_fractions}"
            )
        return wide(outputs)

    def _of_another_shape(self, targets: Any, expected: tuple[int, ...]) -> str:
        """The call to write for targets with a further axis, for an error."""
        if targets.shape[:-1] != expected or targets.ndim < 2:
            return ""
        number = targets.shape[-1]
        if number == 1:
            return "; write targets[..., 0]"
        if self._several is None:
            return ""
        advice = f"; for several targets, write {self._several.format(number)}"
        if number == self.classes:
            advice += ", and for one-hot targets, targets.astype('float32')"
        return advice

    # The call to write for targets that are probabilities, for an error.
    _if_fractions = ""

    def _labels(self, targets: Any, weights: Any = None) -> Labels:
        """The targets as labels of this task, once the weights fit them."""
        assert self.classes is not None
        weights = weights_like(weights, jnp.shape(targets), repr(self))
        return Labels.of(targets, self.classes, self.ignored, weights)


Loss: TypeAlias = Task | Callable[[Any, Any], Any]


def name_of(loss: Any) -> str:
    """A task as the code that builds it, a function by its name."""
    return repr(loss) if isinstance(loss, Task) else getattr(loss, "__name__", repr(loss))


def measured(task: Loss, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
    """The loss and the metrics of a task or a loss function, as metrics that can be combined.

    Args:
        task: a task, or a function loss(outputs, targets).
        outputs: what the network returns.
        targets: the targets.
        weights: as `Task.measure` takes them. A loss function, and a task that writes `__call__` or
            `metrics`, takes one per row.

    Raises:
        TypeError, ValueError: a loss that is not a real scalar or `train.Ratio`, a metric with an
            axis, or weights of another shape.
    """
    own = _own_methods(task)
    found = {}
    if isinstance(task, Task) and own != _BOTH:
        found = _measure(task, outputs, targets, weights)
    if "metrics" in own:
        found = {name: metric for name, metric in found.items() if name == "loss"}
    if own:
        written = functools.partial(_written, task, own)
        if weights is None:
            found |= written(outputs, targets)
        else:
            found |= _by_rows(written, outputs, targets, weights, name_of(task))
    check_metrics(found, name_of(task))
    stated = {name: one == "maximize" for name, one in directions_of(task).items()}
    return {
        name: directed(metric, stated[name]) if name in stated and name != "loss" else metric
        for name, metric in found.items()
    }


_BOTH = {"__call__", "metrics"}


def _measure(task: Task, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
    """What `measure` returns; TypeError unless it has a loss."""
    found = task.measure(outputs, targets, weights)
    if not isinstance(found, Mapping) or "loss" not in found:
        raise TypeError(
            f"{type(task).__name__}.measure returns the loss and metrics by name, got "
            f"{describe(found)}; write return {{'loss': train.Ratio(sum, count)}}"
        )
    check_loss(found["loss"], repr(task))
    return dict(found)


def _own_methods(task: Loss) -> set[str]:
    """Which of `__call__` and `metrics` a task overrides below the class that wrote `measure`."""
    if not isinstance(task, Task):
        return _BOTH
    if type(task).measure is Task.measure:
        return _BOTH
    order = [vars(cls) for cls in type(task).__mro__]

    def depth(name: str) -> int:
        return next(i for i, own in enumerate(order) if name in own)

    return {name for name in _BOTH if depth(name) < depth("measure")}


def _written(task: Loss, own: set[str], outputs: Any, targets: Any) -> dict[str, Any]:
    """What the task's own methods return, by name."""
    found = {}
    if "__call__" in own:
        found["loss"] = task(outputs, targets)
        advice = (
            "to report metrics, write a train.Task whose __call__ returns the loss and whose "
            "`metrics` returns them"
        )
        check_loss(found["loss"], name_of(task), advice)
    if "metrics" in own and isinstance(task, Task):
        more = task.metrics(outputs, targets)
        check_metrics(more, name_of(task))
        found |= {name: metric for name, metric in more.items() if name != "loss"}
    return found


def _by_rows(
    written: Callable[..., dict[str, Any]], outputs: Any, targets: Any, weights: Any, owner: str
) -> dict[str, Any]:
    """Loss and metrics as ratios: the numbers of each row, weighted."""
    shape = jnp.shape(jax.tree.leaves(targets)[0])
    if not hasattr(weights, "shape") or jnp.shape(weights) != shape[:1]:
        raise ValueError(bad_weights(weights, shape, owner, rows_only=True))
    kept = jnp.asarray(weights) != 0
    # A row of weight 0 is computed as one that counts: 0 times NaN would be NaN in the gradient.
    first = jnp.argmax(kept)

    def shown(leaf: Any) -> jax.Array:
        place = kept.reshape((-1,) + (1,) * (jnp.ndim(leaf) - 1))
        one = jnp.asarray(leaf)[first]
        return jnp.where(place, leaf, jnp.where(kept.any(), one, jnp.zeros_like(one))[None])

    def of_row(outputs: Any, targets: Any) -> dict[str, Any]:
        return written(*jax.tree.map(lambda leaf: leaf[None], (outputs, targets)))

    def mean(name: str, metric: Any) -> Any:
        if isinstance(metric, Derived | Collected):
            raise TypeError(
                f"{name!r} of {owner} is a train.{type(metric).__name__}, which weights per row do "
                "not apply to; write def measure(self, outputs, targets, weights=None), and pass "
                "the weights to the metric"
            )

        def added(numbers: Any) -> jax.Array:
            numbers = jnp.asarray(numbers, jnp.promote_types(jnp.result_type(numbers), jnp.float32))
            return jnp.sum(jnp.where(kept, numbers * jnp.asarray(weights, numbers.dtype), 0))

        terms = terms_of(metric, 1)
        return of_terms([Ratio(added(t.sum), added(t.count), t.maximize) for t in terms])

    rows = jax.vmap(of_row)(*jax.tree.map(shown, (outputs, targets)))
    return {name: mean(name, metric) for name, metric in rows.items()}
