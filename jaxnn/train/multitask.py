"""MultiTask: a task for each of several outputs of a network."""

import functools
import operator
from collections.abc import Mapping
from typing import Annotated, Any

from ..explain.text import describe
from ..fields import is_traced
from ..validation import Accepts, is_number
from .metrics import Direction, directed, directions_of
from .task import Task, loss_function, measured


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
            if name not in self._named() or not (is_traced(weight) or is_number(weight)):
                raise ValueError(
                    f"MultiTask.weights must have numbers by the names of tasks, got {weight!r} "
                    f"for {name!r}; the tasks are {', '.join(self._named())}"
                )

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
        names = list(self._named())
        if isinstance(self.tasks, dict):
            if isinstance(tree, Mapping) and tree.keys() >= set(names):
                return {name: tree[name] for name in names}
        elif isinstance(tree, tuple | list) and len(tree) == len(names):
            return dict(zip(names, tree, strict=True))
        form = "a dict" if isinstance(self.tasks, dict) else "a tuple"
        raise TypeError(
            f"MultiTask needs {what} as {form} of {', '.join(names)}, got {describe(tree)}; return "
            "such outputs from the network, and write (inputs, targets) with such targets"
        )
