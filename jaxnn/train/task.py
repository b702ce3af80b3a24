"""Tasks: the loss, the metrics, the number of outputs, and the predictions of a kind of problem.

A task is a value. Its method `measure` returns the loss and the metrics as `train.Ratio`s over the
examples that count; `task(outputs, targets)` is the loss alone, a scalar. A plain function
`loss(outputs, targets)` may be passed instead if only a loss is needed.

A subclass adds metrics to `measure`:

>>> import jax, jax.numpy as jnp, optax
>>> from jaxnn import train
>>> class Scored(train.Classification):
...     def measure(self, outputs, targets, weights=None):
...         found = super().measure(outputs, targets, weights)
...         return found | {"f1": train.f1(outputs, targets, weights, average="macro")}
>>> found = jax.jit(Scored(3).measure)(jnp.eye(3), jnp.array([0, 1, 1]))
>>> f"{found['f1']:.3f}"
'0.556'

A task with another loss is a subclass that keeps metrics and predictions:

>>> class Poly(train.Classification):
...     epsilon: float = 2.0
...     def __call__(self, outputs, targets):
...         labels = jax.nn.one_hot(targets, self.number)
...         return optax.poly_loss_cross_entropy(outputs, labels, epsilon=self.epsilon).mean()
>>> Poly(3, epsilon=1.5)
Poly(3, epsilon=1.5)

A loss without such predictions is a function. Targets may be an array, such as labels for
contrastive learning, or any tuple or dict of arrays:

>>> def contrastive(embeddings, labels):
...     return optax.ntxent(embeddings, labels, temperature=0.1)
"""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..core.layer import Layer
from ..core.values import Value
from ..explain.text import describe
from ..validation import Accepts, number, one_of, require, unwritten
from .examples import WeightedTargets, expand_like, per_target, wide
from .metrics import (
    Collected,
    Derived,
    Direction,
    Ratio,
    check_loss,
    check_metrics,
    directed,
    directions_of,
    sum_of,
    terms_of,
    value_of,
)

Metrics: TypeAlias = dict[str, jax.Array]


class Task(Value):
    """Base of the tasks. A subclass defines `outputs`, `predict`, and `measure`.

    It may define `__call__` and `metrics` instead of `measure`, as functions of outputs and targets
    that return means over the examples. They are then combined as means over the rows, and example
    weights are applied per row.

    Losses and metrics are computed in at least float32. `directions` maps the name of each further
    metric to "maximize" or "minimize", in addition to those of the base class. Hooks and sweeps
    read it to rank runs or trials by a metric.

    >>> from jaxnn import train
    >>> class Scored(train.Classification):
    ...     directions = {"f1": "maximize"}
    """

    directions: ClassVar[Mapping[str, Direction]] = {
        "loss": "minimize",
        "accuracy": "maximize",
        "bits": "minimize",
        "mae": "minimize",
        "rmse": "minimize",
        "r2": "maximize",
    }
    # In errors: the calls to write for targets of another shape, and for more classes.
    _other_targets: ClassVar[str] = ""
    _more_classes: ClassVar[str] = "train.Classification(n)"
    # Size of the last axis of targets; None if targets have one number per example.
    _axis: ClassVar[int | None] = None

    @property
    def outputs(self) -> Any:
        """Number of outputs that a network needs: the features of its last layer."""
        return None

    @property
    def classes(self) -> int | None:
        """Number of classes of integer targets, or None if targets are not labels."""
        return None

    @property
    def ignored(self) -> int | None:
        """Label that marks examples without a label, or None if no label marks them."""
        return getattr(self, "ignore", None)

    @unwritten(
        "no loss; write def measure(self, outputs, targets, weights=None): ... return {'loss': "
        "train.Ratio(sum, count)}"
    )
    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the loss and the metrics by name, as means over the examples that are not ignored.

        Args:
            outputs: Outputs of the network.
            targets: Targets of these outputs.
            weights: A number per row or per position, whose shape is a prefix of that of the
                targets. An example with the weight 0 has no effect on values and gradients, even
                if it is NaN. Default: None, 1 each.

        Returns:
            A `train.Ratio` or another metric for each name; `float(found["loss"])` is its value.
        """
        ...

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Return the loss, a scalar."""
        return value_of(self.measure(outputs, targets)["loss"])

    def metrics(self, outputs: Any, targets: Any) -> dict[str, Any]:
        """Return further scalars by name."""
        if type(self).measure is Task.measure:
            return {}
        found = self.measure(outputs, targets)
        return {name: value_of(metric) for name, metric in found.items() if name != "loss"}

    @unwritten("no predictions; write def predict(self, outputs)")
    def predict(self, outputs: Any) -> Any:
        """Return predictions from outputs."""
        ...

    def _wide(self, outputs: Any, targets: Any) -> jax.Array:
        """Return outputs in at least float32, and (..., 1) as (...) for a single output.

        ValueError if their shape does not fit the targets.
        """
        n, axis, given, shape = self.outputs, self._axis, jnp.shape(outputs), np.shape(targets)
        rows = shape if axis is None else shape[:-1]
        advice = [] if given[-1:] == (n,) else [f"end the network with nn.Dense({n})"]
        if self._other_targets and (not advice or given == shape):
            advice.append(f"write {self._other_targets}")
        if given != (*rows, n) or (axis is not None and shape != (*rows, axis)):
            raise ValueError(
                f"{self!r} needs outputs (..., {n}) and targets "
                f"{'(...)' if axis is None else f'(..., {axis})'}, got outputs "
                f"{describe(outputs)} for targets {describe(targets)}; "
                f"{', or '.join(advice) or 'write (inputs, targets), with an array of each'}"
            )
        return self._squeezed(outputs)

    def _squeezed(self, outputs: Any) -> jax.Array:
        """Return outputs in at least float32, and (..., 1) as (...) for a single output."""
        outputs = wide(outputs)
        return outputs[..., 0] if self.outputs == 1 and self._axis is None else outputs

    def _labels(self, targets: Any, weights: Any = None) -> WeightedTargets:
        """Return the examples whose targets are labels of this task."""
        assert self.classes is not None
        return WeightedTargets.of_labels(
            repr(self), targets, weights, classes=self.classes, ignore=self.ignored
        )

    def _numbers(self, targets: Any, weights: Any = None) -> WeightedTargets:
        """Return the examples whose targets are numbers."""
        return WeightedTargets.of_numbers(repr(self), targets, weights)


Loss: TypeAlias = Task | Callable[[Any, Any], Any]


def name_of(loss: Any) -> str:
    """Return a task as the code that builds it, a function by its name."""
    return repr(loss) if isinstance(loss, Task) else getattr(loss, "__name__", repr(loss))


def _is_loss(loss: Any) -> bool:
    """Return whether `loss(outputs, targets)` is a call."""
    if isinstance(loss, type | Layer) or not callable(loss):
        return False
    try:
        inspect.signature(loss).bind(None, None)
    except ValueError:  # some builtins have no signature
        pass
    except TypeError:
        return False
    return True


loss_function: Accepts = Accepts(
    "a train.Task or a function loss(outputs, targets)",
    _is_loss,
    TypeError,
    "write train.Classification(10); put what else a loss needs into the outputs of the network, "
    "such as a penalty on its parameters, or bind constants by functools.partial",
)


_measures = Accepts(
    "the loss and metrics by name",
    lambda found: isinstance(found, Mapping) and "loss" in found,
    TypeError,
    "write return {{'loss': train.Ratio(sum, count)}}",
    abstract=True,
)


def measured(task: Loss, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
    """Return the loss and the metrics of a task or a loss function, as metrics of a part.

    Args:
        task: Task, or a function loss(outputs, targets).
        outputs: Outputs of the network.
        targets: Targets.
        weights: As for `Task.measure`. A loss function, and a task that defines `__call__` or
            `metrics`, accepts one per row.

    Raises:
        TypeError, ValueError: A loss that is not a real scalar or `train.Ratio`, a metric with an
            axis, or weights of another shape.
    """
    own, owner = _own_methods(task), name_of(task)
    found: Any = {}
    if isinstance(task, Task) and own != _BOTH:
        found = task.measure(outputs, targets, weights)
        _measures(found, f"the result of {type(task).__name__}.measure")
        check_loss(found["loss"], owner)
        found = {"loss": found["loss"]} if "metrics" in own else dict(found)

    def written(outputs: Any, targets: Any) -> dict[str, Any]:
        """Return what the task's own methods return, by name."""
        loss = {"loss": task(outputs, targets)} if "__call__" in own else {}
        for one in loss.values():
            check_loss(one, owner)
        more = task.metrics(outputs, targets) if "metrics" in own and isinstance(task, Task) else {}
        check_metrics(more, owner)
        return loss | {name: metric for name, metric in more.items() if name != "loss"}

    if own and weights is not None:
        found |= _by_rows(written, outputs, targets, weights, owner)
    elif own:
        found |= written(outputs, targets)
    check_metrics(found, owner)
    stated = {name: one == "maximize" for name, one in directions_of(task).items()}
    return {
        name: directed(metric, stated[name]) if name in stated and name != "loss" else metric
        for name, metric in found.items()
    }


_BOTH = {"__call__", "metrics"}


def _own_methods(task: Loss) -> set[str]:
    """Return which of `__call__` and `metrics` a task defines; both if it has no `measure`."""
    kind: Any = type(task)
    if not isinstance(task, Task) or kind.measure is Task.measure:
        return _BOTH
    return {name for name in _BOTH if getattr(kind, name) is not getattr(Task, name)}


def _by_rows(
    written: Callable[..., dict[str, Any]], outputs: Any, targets: Any, weights: Any, owner: str
) -> dict[str, Any]:
    """Return loss and metrics as ratios: the numbers of each row, weighted."""
    counts = per_target(owner, weights, jnp.shape(jax.tree.leaves(targets)[0])[:1])
    assert counts is not None
    kept = counts != 0
    # Replace rows of weight 0 by a row that counts: 0 times NaN would be NaN in the gradient.
    first = jnp.argmax(kept)

    def shown(leaf: Any) -> jax.Array:
        one = jnp.asarray(leaf)[first]
        instead = jnp.where(kept.any(), one, jnp.zeros_like(one))
        return jnp.where(expand_like(kept, leaf), leaf, instead[None])

    def of_row(outputs: Any, targets: Any) -> dict[str, Any]:
        return written(*jax.tree.map(lambda leaf: leaf[None], (outputs, targets)))

    def total(numbers: Any) -> jax.Array:
        numbers = wide(numbers)
        return jnp.sum(jnp.where(kept, numbers * counts.astype(numbers.dtype), 0))

    rows = jax.vmap(of_row)(*jax.tree.map(shown, (outputs, targets)))
    for name, metric in rows.items():
        if isinstance(metric, Derived | Collected):
            raise TypeError(
                f"{name!r} of {owner} is a train.{type(metric).__name__}, which cannot be weighted "
                "by rows; write def measure(self, outputs, targets, weights=None), and pass the "
                "weights to the metric"
            )
        terms = [Ratio(total(t.sum), total(t.count), t.maximize) for t in terms_of(metric, 1)]
        rows[name] = sum_of(terms)
    return rows


def _are_tasks(tasks: Any) -> bool:
    several = tasks.values() if isinstance(tasks, dict) else tasks
    return isinstance(tasks, dict | tuple) and bool(tasks) and all(map(loss_function.test, several))


class MultiTask(Task):
    """Several tasks by name: the weighted sum of their losses.

    Outputs, targets, and predictions are dicts with the names of the tasks, or tuples of the same
    length. The metrics include those of each task, such as `digit_loss` and `digit_accuracy` for a
    task "digit"; tasks in a tuple are named "0", "1", ... Each loss is the mean over the examples
    that its task does not ignore. Example weights are one array for all tasks, or one array per
    task.

    Args:
        tasks: Tasks or loss functions, a dict by name or a tuple.
        weights: Factors of the losses, a dict by name of the task, or pairs (name, factor).
            Default: (), all factors are 1.

    Raises:
        TypeError, ValueError: There are no tasks, or a weight has the name of an unknown task. When
            the task is called: outputs or targets do not have the names of the tasks.

    >>> import jax.numpy as jnp
    >>> from jaxnn import train
    >>> task = MultiTask({"digit": train.Classification(2), "angle": train.Regression()},
    ...                  weights={"angle": 0.5})
    >>> outputs = {"digit": jnp.zeros((4, 2)), "angle": jnp.zeros((4, 1))}
    >>> targets = {"digit": jnp.zeros(4, int), "angle": jnp.full(4, 2.0)}
    >>> round(float(task(outputs, targets)), 4)  # log 2 + 0.5 * 2**2
    2.6931
    >>> sorted(task.measure(outputs, targets))
    ['angle_loss', 'angle_mae', 'digit_accuracy', 'digit_loss', 'loss']
    """

    tasks: Annotated[
        Any,
        Accepts(
            "a dict of tasks or loss functions by name, or a tuple of them",
            _are_tasks,
            TypeError,
            "write train.MultiTask({{'digit': train.Classification(10)}})",
        ),
    ]
    weights: Any = ()

    def _normalize_fields(self) -> None:
        pairs = self.weights.items() if isinstance(self.weights, Mapping) else self.weights
        object.__setattr__(self, "weights", tuple((name, weight) for name, weight in pairs))
        super()._normalize_fields()

    def __post_init__(self) -> None:
        """Check the names and numbers of the weights."""
        for name, weight in self.weights:
            one_of(*self._named())(name, "the name of a task in MultiTask.weights")
            number()(weight, f"MultiTask.weights[{name!r}]")

    @property
    def outputs(self) -> Any:
        """Number of outputs of each task, in a dict or a tuple."""
        return self._like_tasks({n: getattr(t, "outputs", None) for n, t in self._named().items()})

    @property
    def directions(self) -> dict[str, Direction]:  # type: ignore[override]
        """Directions of the metrics of each task."""
        return {
            f"{name}_{metric}": direction
            for name, task in self._named().items()
            for metric, direction in directions_of(task).items()
        }

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the weighted sum of the losses, and the loss and metrics of each task."""
        parts = [self._parts(outputs, "outputs"), self._parts(targets, "targets")]
        if isinstance(weights, Mapping | tuple | list):
            parts.append(self._parts(weights, "weights"))
        else:
            parts.append(dict.fromkeys(self._named(), weights))
        factors, losses, more = dict(self.weights), [], {}
        for name, task in self._named().items():
            found = measured(task, *(part[name] for part in parts))
            losses.append(found["loss"] * factors.get(name, 1))
            found["loss"] = directed(found["loss"], False)
            more |= {f"{name}_{metric}": one for metric, one in found.items()}
        return {"loss": functools.reduce(operator.add, losses), **more}

    def predict(self, outputs: Any) -> Any:
        """Return the predictions of each task, in a dict or a tuple; outputs for a function."""
        parts = self._parts(outputs, "outputs")
        tasks = self._named().items()
        return self._like_tasks(
            {n: t.predict(parts[n]) if isinstance(t, Task) else parts[n] for n, t in tasks}
        )

    def _named(self) -> dict[str, Any]:
        """Return the tasks by name."""
        if isinstance(self.tasks, dict):
            return dict(self.tasks)
        return {str(i): task for i, task in enumerate(self.tasks)}

    def _like_tasks(self, found: dict[str, Any]) -> Any:
        """Return a dict if the tasks are one, otherwise a tuple."""
        return found if isinstance(self.tasks, dict) else tuple(found.values())

    def _parts(self, tree: Any, what: str) -> dict[str, Any]:
        """Return the outputs, targets, or weights of each task by name."""
        names, by_name = list(self._named()), isinstance(self.tasks, dict)
        write = {
            "outputs": "return such outputs from the network",
            "targets": "write (inputs, targets) with such targets",
            "weights": "write (inputs, targets, weights) with such weights, or with one array for "
            "all tasks",
        }

        kind: Any = Mapping if by_name else tuple | list
        fits = isinstance(tree, kind)
        fits = fits and (tree.keys() >= set(names) if by_name else len(tree) == len(names))
        form = f"{'a dict' if by_name else 'a tuple'} of {', '.join(names)}"
        require(fits, f"{what} of MultiTask", form, tree, write[what], TypeError)
        return {name: tree[name if by_name else i] for i, name in enumerate(names)}
