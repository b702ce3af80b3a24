"""MultiTask: a task for each of several outputs of a network."""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from ..explain.text import describe
from ..fields import is_traced
from .directions import Direction, directions_of
from .metrics import directed
from .task import Loss, Task, measured


class MultiTask(Task):
    """Several tasks by name: the weighted sum of their losses.

    Outputs, targets, and predictions are dicts with the names of the tasks, or tuples of the same
    length. The metrics are those of each task, `digit_loss` and `digit_accuracy` for a task
    "digit"; tasks in a tuple are called "0", "1", ... Each loss is the mean over the examples that
    count for its task. Example weights are one array for all tasks, or one for each.

    Args:
        tasks: tasks or loss functions, a dict by name or a tuple.
        weights: the factor of a task's loss by name; 1 for all others.

    Raises:
        TypeError, ValueError: no tasks, or a weight of an unknown task; later, outputs or targets
            without these names.

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

    tasks: Any
    weights: tuple[tuple[str, float], ...] = ()

    def __init__(
        self,
        tasks: Mapping[str, Loss] | tuple[Loss, ...],
        weights: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> None:
        pairs = weights.items() if isinstance(weights, Mapping) else weights
        object.__setattr__(self, "tasks", tasks)
        object.__setattr__(self, "weights", tuple((name, weight) for name, weight in pairs))
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the tasks and the names and numbers of the weights."""
        if not isinstance(self.tasks, dict | tuple) or not self.tasks:
            raise TypeError(
                f"MultiTask.tasks is a dict of tasks by name, or a tuple, got {self.tasks!r}; "
                "write train.MultiTask({'digit': train.Classification(10)})"
            )
        for name, task in self._named().items():
            if not callable(task) or isinstance(task, type):
                raise TypeError(
                    f"MultiTask.tasks[{name!r}] is a train.Task or a function loss(outputs, "
                    f"targets), got {task!r}; write train.Classification(10)"
                )
        for name, weight in self.weights:
            if name not in self._named():
                raise ValueError(
                    f"MultiTask.weights has {name!r}, which is not a task; the tasks are "
                    f"{', '.join(self._named())}"
                )
            if not is_traced(weight) and not isinstance(weight, int | float):
                raise TypeError(
                    f"MultiTask.weights[{name!r}] is a number, got {weight!r}; write "
                    f"weights={{{name!r}: 0.5}}"
                )

    @property
    def outputs(self) -> Any:
        """The number of outputs of each task, in a dict or a tuple."""
        found = {name: getattr(task, "outputs", None) for name, task in self._named().items()}
        return found if isinstance(self.tasks, dict) else tuple(found.values())

    @property
    def directions(self) -> dict[str, Direction]:  # type: ignore[override]
        """Those of each task's metrics."""
        return {
            f"{name}_{metric}": direction
            for name, task in self._named().items()
            for metric, direction in directions_of(task).items()
        }

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The weighted sum of the losses, and the loss and metrics of each task."""
        apart = isinstance(weights, Mapping | tuple | list)
        each = {
            name: measured(
                task,
                self._part(outputs, name, "outputs"),
                self._part(targets, name, "targets"),
                self._part(weights, name, "weights") if apart else weights,
            )
            for name, task in self._named().items()
        }
        factors = dict(self.weights)
        losses = [found["loss"] * factors.get(name, 1) for name, found in each.items()]
        loss = functools.reduce(operator.add, losses)
        more = {
            f"{name}_{metric}": directed(one, False) if metric == "loss" else one
            for name, found in each.items()
            for metric, one in found.items()
        }
        return {"loss": loss, **more}

    def predict(self, outputs: Any) -> Any:
        """The predictions of each task, in a dict or a tuple; outputs for a loss function."""
        found = {}
        for name, task in self._named().items():
            part = self._part(outputs, name, "outputs")
            found[name] = task.predict(part) if isinstance(task, Task) else part
        return found if isinstance(self.tasks, dict) else tuple(found.values())

    def _named(self) -> dict[str, Any]:
        if isinstance(self.tasks, dict):
            return dict(self.tasks)
        return {str(i): task for i, task in enumerate(self.tasks)}

    def _part(self, tree: Any, name: str, what: str) -> Any:
        """The part of outputs, targets, or weights that belongs to a task."""
        names = list(self._named())
        if isinstance(self.tasks, dict):
            if isinstance(tree, Mapping) and name in tree:
                return tree[name]
            expected = f"a dict with the names {', '.join(names)}"
        else:
            if isinstance(tree, tuple | list) and len(tree) == len(names):
                return tree[int(name)]
            expected = f"a tuple of {len(names)}"
        advice = {
            "outputs": "return them so from the network",
            "targets": "write (inputs, targets) with such targets",
            "weights": "write one array for all tasks, or one for each",
        }[what]
        raise TypeError(f"MultiTask needs {what} as {expected}, got {describe(tree)}; {advice}")
