"""SupervisedLoss: the objective of a network and a task."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..arrays import visible
from ..core.calls import Call, Outcome
from ..core.composite import Wrapper
from ..core.layer import Layer, Signature
from ..data.rows import check_finite
from ..explain.call_errors import check_named
from ..explain.text import brief
from ..validation import Accepts, instance
from .examples import check_labels, expand_like
from .task import Task, loss_function, measured

network: Accepts = instance(Layer, "a layer", "write nn.Sequential(...)")


class SupervisedLoss(Wrapper):
    """The objective of a network and a task: the loss of the task on (inputs, targets).

    It adds no level to paths. A batch is (inputs, targets) or (inputs, targets, weights), with a
    weight per row or per position. Inputs are one array, a tuple (positional inputs), or a dict
    (named inputs).

    Args:
        inner: Network.
        task: `train.Task`, or a function loss(outputs, targets).
    """

    inner: Layer
    task: Any

    def _signature(self, method: str) -> Signature:
        return Signature(("batch",), 1, False, frozenset({"batch"}), frozenset())

    def _takes(self, method: str) -> set[str]:
        return {"batch"}

    def _has_method(self, name: str) -> bool:
        return name == "forward" or name in self._methods()

    def _methods(self) -> list[str]:
        return ["predict"] if isinstance(self.task, Task) else []

    def _evaluate(self, call: Call) -> Outcome:
        (batch,) = call.inputs
        if call.method == "forward" and not call.abstract:
            batch = _without_hidden(batch)
        inputs, named = visible(self.wrapped, "forward", *self._given(call.method, batch))
        outcome = self._inside(call.replace(inputs=inputs, named=named, method="forward"))
        if call.abstract:
            return outcome._replace(output=None)
        if call.method == "predict":
            return outcome._replace(output=self.task.predict(outcome.output))
        metrics = measured(self.task, outcome.output, *batch[1:])
        return outcome._replace(output=(metrics.pop("loss"), metrics))

    def check_data(self, data: Any, name: str) -> None:
        """Raise ValueError or TypeError for rows that cannot be trained on.

        Args:
            data: Tuple (inputs, targets) or (inputs, targets, weights).
            name: Name of the data in errors.
        """
        inputs = _inputs_of(data)
        if len(data) == 2:  # a weight of zero hides what is not finite
            check_finite(inputs, f"{name}: inputs")
            check_finite(data[1], f"{name}: targets")
        check_labels(self.task, data[1], name)

    def _given(self, method: str, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the named inputs of the network."""
        given = batch if method == "predict" else _inputs_of(batch)
        if not isinstance(given, dict):
            return (given if isinstance(given, tuple) else (given,)), {}
        check_named(self.wrapped, "forward", given)
        return (), dict(given)


def _inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch; TypeError for a batch of another structure."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise TypeError(
            "a batch of train.Supervised must be (inputs, targets) or (inputs, targets, weights), "
            f"got {brief(batch)}; write a train.Minimize objective for other batches"
        )
    return batch[0]


def _without_hidden(batch: Any) -> Any:
    """Return the batch, with zeros for NaN and infinity in inputs of rows whose weights are all 0.

    The gradient of a parameter sums the inputs times those of the outputs, and 0 times NaN is NaN.
    """
    if len(batch) == 2 or batch[2] is None:
        return batch
    weights = map(jnp.asarray, jax.tree.leaves(batch[2]))
    rows = [(w != 0).any(axis=tuple(range(1, w.ndim))) for w in weights]
    if len({row.shape for row in rows}) != 1 or rows[0].ndim == 0:
        return batch  # the task reports them
    kept = functools.reduce(jnp.logical_or, rows)

    def cleaned(leaf: Any) -> Any:
        if jnp.shape(leaf)[:1] != kept.shape or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(expand_like(kept, leaf) | jnp.isfinite(leaf), leaf, 0)

    return (jax.tree.map(cleaned, batch[0]), *batch[1:])


def check_parts(net: Any, task: Any) -> None:
    """Raise TypeError for anything but a network and a task, or a loss function in its place."""
    network(net, "Supervised.net")
    loss_function(task, "Supervised.task")
