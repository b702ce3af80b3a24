"""Class labels of tasks: which are ignored, which are out of range, and means over the others."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..core.checking import check_range
from ..data.check import wrong_label


class Labels(NamedTuple):
    """Class labels that can be used as indices, and what each of them counts for.

    Args:
        number: int32 (...), in [0, classes) throughout.
        kept: booleans (...), False for ignored labels; None if no label can be ignored.
        valid: booleans (...), True for labels in [0, classes) and ignored ones.
    """

    number: jax.Array
    kept: jax.Array | None
    valid: jax.Array

    @classmethod
    def of(cls, targets: jax.Array, classes: int, ignore: int | None) -> "Labels":
        """Labels of integer targets (...) of any type."""
        info = jnp.iinfo(targets.dtype)
        if info.max <= jnp.iinfo(jnp.int32).max:  # a smaller type may not hold `classes`
            targets = targets.astype(jnp.int32)
        kept = None if ignore is None or (info.min == 0 and ignore < 0) else targets != ignore
        inside = (targets >= 0) & (targets < classes)
        number = jnp.where(inside, targets, 0).astype(jnp.int32)
        real = inside if kept is None else inside | ~kept
        checked = targets if kept is None else jnp.where(kept, targets, 0)
        check_range(checked, classes, f"label {{value}} is outside of [0, {classes})")
        return cls(number, kept, real)

    def select(self, outputs: jax.Array) -> jax.Array:
        """Outputs (..., n) with zeros for ignored labels, so that nothing there has an effect."""
        return outputs if self.kept is None else jnp.where(self.kept[..., None], outputs, 0)

    def mean(self, values: jax.Array) -> jax.Array:
        """The mean of values (...) over the labels that are not ignored, 0 without any.

        It is NaN if a label is out of range, and so is its gradient.
        """
        # The product makes the gradient NaN; XLA turns the product of a boolean and NaN into 0.
        product = values * jnp.where(self.valid, 1, jnp.nan).astype(values.dtype)
        values = jnp.where(self.valid, product, jnp.nan)
        if self.kept is None:
            return jnp.mean(values)
        total = jnp.sum(jnp.where(self.kept, values, 0))
        return total / jnp.maximum(jnp.sum(self.kept, dtype=values.dtype), 1)


def cross_entropy(logits: jax.Array, labels: Labels) -> jax.Array:
    """The mean of -log softmax(logits)[label] over the labels that are not ignored."""
    logits = labels.select(logits)
    return labels.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels.number))


def accuracy(outputs: Any, labels: Labels) -> jax.Array:
    """The fraction of the labels, ignored ones left out, that have the largest output."""
    correct = jnp.argmax(outputs, -1).astype(jnp.int32) == labels.number
    return labels.mean(correct.astype(jnp.float32))


def ignoring(task: Any) -> str:
    """The label to write for examples without one, for an error."""
    if task.ignored is None:
        return f"{type(task).__name__}(..., ignore=-100) and that label"
    return f"the label {task.ignored}"


def check_ignore(task: Any) -> None:
    """Raise TypeError if the ignored label of a task is not an int or None."""
    ignore = task.ignore
    if ignore is not None and (isinstance(ignore, bool) or not isinstance(ignore, int)):
        raise TypeError(
            f"{type(task).__name__}.ignore is a label, an int, or None; got {ignore!r}; write "
            f"ignore=-100"
        )


def label_range(task: Any) -> dict[str, Any]:
    """What `data.check` needs to know about the labels of a task or a plain loss function."""
    return {"classes": getattr(task, "classes", None), "ignore": getattr(task, "ignored", None)}


def check_labels(task: Any, targets: Any, name: str) -> None:
    """Raise ValueError if targets hold labels that the task does not have.

    Args:
        task: a task or a loss function.
        targets: an array of labels; anything else is not looked at.
        name: what errors call the data.
    """
    if getattr(task, "classes", None) is None or not hasattr(targets, "dtype"):
        return
    wrong = wrong_label(np.asarray(targets), task.classes, task.ignored)
    if wrong is not None:
        raise ValueError(
            f"{name}: the targets hold {wrong}, but {task!r} needs labels in [0, {task.classes}); "
            f"write {ignoring(task)} to leave examples out of the loss and the metrics"
        )


def check_batch_labels(task: Any, targets: Any) -> None:
    """Raise ValueError if stacked batches of a source hold labels that the task does not have."""
    if getattr(task, "classes", None) is None or not hasattr(targets, "dtype"):
        return
    for batch in np.asarray(targets):
        wrong = wrong_label(batch, task.classes, task.ignored)
        if wrong is None:
            continue
        raise ValueError(
            f"a batch of the training data holds {wrong}, but {task!r} needs labels in "
            f"[0, {task.classes}); write {ignoring(task)} to leave examples out of the loss and "
            "the metrics"
        )
