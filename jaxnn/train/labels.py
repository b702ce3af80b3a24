"""Which examples count, and how much: ignored labels, weights, and means over the others.

Weights have a number per row or per position: their shape is a prefix of that of the targets. An
example with the weight 0 or an ignored label has no effect on values and gradients, even if it is
NaN.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..data.check import saturated, wrong_label
from ..explain.text import describe
from ..fields import is_traced
from ..functional.checking import check_range
from ..functional.gradients import picked
from .metrics import Ratio


class Labels(NamedTuple):
    """Class labels that can be used as indices, and what each of them counts for.

    Args:
        number: int32 (...), in [0, classes) throughout.
        kept: booleans (...), False for labels that are ignored or have the weight 0; None if all
            labels count.
        valid: booleans (...), False for labels that count and are outside of [0, classes).
        weights: numbers (...), or None if all labels count alike.
    """

    number: jax.Array
    kept: jax.Array | None
    valid: jax.Array
    weights: jax.Array | None = None

    @classmethod
    def of(cls, targets: Any, classes: int, ignore: int | None, weights: Any = None) -> "Labels":
        """Labels of integer targets (...) of any type; weights have the same shape."""
        targets = jnp.asarray(saturated(targets))
        if targets.dtype == bool:
            targets = targets.astype(jnp.int32)
        info = jnp.iinfo(targets.dtype)
        if info.max <= jnp.iinfo(jnp.int32).max:  # a smaller type may not hold `classes`
            targets = targets.astype(jnp.int32)
        kept = None if ignore is None or (info.min == 0 and ignore < 0) else targets != ignore
        if weights is not None:
            kept = weights != 0 if kept is None else kept & (weights != 0)
        inside = (targets >= 0) & (targets < classes)
        number = jnp.where(inside, targets, 0).astype(jnp.int32)
        real = inside if kept is None else inside | ~kept
        checked = targets if kept is None else jnp.where(kept, targets, 0)
        check_range(checked, classes, f"label {{value}} is outside of [0, {classes})")
        return cls(number, kept, real, weights)

    def select(self, outputs: jax.Array) -> jax.Array:
        """Outputs (..., n), with zeros for labels that do not count."""
        return outputs if self.kept is None else jnp.where(self.kept[..., None], outputs, 0)

    def ratio(self, values: jax.Array, counts: Any = None, maximize: bool | None = None) -> Ratio:
        """The sum of values (...) over the sum of counts (...), 1 each by default.

        It is NaN if a label is out of range, and so is its gradient.
        """
        # The product makes the gradient NaN; XLA turns the product of a boolean and NaN into 0.
        product = values * jnp.where(self.valid, 1, jnp.nan).astype(values.dtype)
        values = jnp.where(self.valid, product, jnp.nan)
        return ratio(values, self.kept, self.weights, counts, maximize)

    def mean(self, values: jax.Array) -> jax.Array:
        """The mean of values (...) over the labels that count, 0 without any."""
        return self.ratio(values).value


def ratio(
    values: jax.Array,
    kept: jax.Array | None,
    weights: jax.Array | None,
    counts: Any = None,
    maximize: bool | None = None,
) -> Ratio:
    """The weighted sum of values (...) over that of counts (...), both over what is kept.

    Args:
        values: numbers (...). Those that are not kept may be anything.
        kept: booleans (...); None if all are kept.
        weights: numbers (...); None for 1 each.
        counts: numbers (...); None for 1 each.
        maximize: whether larger is better.
    """
    if weights is not None:
        weights = weights.astype(values.dtype)
        values = values * weights
        counts = weights if counts is None else counts * weights
    if counts is None:
        number = (
            jnp.asarray(values.size, values.dtype)
            if kept is None
            else jnp.sum(kept, dtype=values.dtype)
        )
        return Ratio(jnp.sum(_select(kept, values)), number, maximize)
    counts = jnp.broadcast_to(counts, values.shape)
    return Ratio(jnp.sum(_select(kept, values)), jnp.sum(_select(kept, counts)), maximize)


def _select(kept: jax.Array | None, values: jax.Array) -> jax.Array:
    return values if kept is None else jnp.where(kept, values, 0)


def weights_like(weights: Any, shape: tuple[int, ...], owner: str) -> jax.Array | None:
    """Weights per row or per position, as an array of a shape; ValueError if they do not fit.

    Args:
        weights: numbers (n,), (n, T), ..., a prefix of the shape; None for none.
        shape: that of the targets.
        owner: what takes the weights, for the error.
    """
    if weights is None:
        return None
    given = getattr(weights, "shape", ())
    if not given or shape[: len(given)] != given:
        raise ValueError(bad_weights(weights, shape, owner))
    if weights.dtype == bool:
        weights = jnp.asarray(weights, jnp.float32)
    spread = jnp.reshape(weights, given + (1,) * (len(shape) - len(given)))
    return jnp.broadcast_to(spread, shape)


def bad_weights(weights: Any, shape: tuple[int, ...], owner: str, rows_only: bool = False) -> str:
    """The message for weights that do not fit targets of a shape."""
    given = getattr(weights, "shape", ())
    places = [shape[:1]] if rows_only else [shape[:i] for i in range(1, len(shape) + 1)]
    fits = [place for place in places if math.prod(place) == math.prod(given)]
    advice = f"weights of shape {shape[:1]}" if hasattr(weights, "shape") else "np.asarray(weights)"
    if rows_only and len(given) > 1:
        advice += ", or a train.Task with def measure(self, outputs, targets, weights=None)"
    if fits:
        advice = f"weights.reshape{fits[0]}"
    per_position = "" if rows_only or len(shape) == 1 else f", or per position, {shape}"
    return (
        f"weights have one number per row, {shape[:1]}{per_position}, got "
        f"{describe(weights)} for {owner}; write {advice}"
    )


def cross_entropy(
    logits: jax.Array, labels: Labels, label_smoothing: Any = 0.0, class_weights: Any = None
) -> Ratio:
    """-log softmax(logits)[label] over the labels that count.

    With smoothing s and class weights w, as torch.nn.CrossEntropyLoss: the sum of
    (1 - s) w[label] (-log p[label]) + s / C * sum over classes c of w[c] (-log p[c]), over the sum
    of w[label].
    """
    logits = labels.select(logits)
    losses = jax.nn.logsumexp(logits, -1) - picked(logits, labels.number)
    counts = None
    if class_weights is not None:
        counts = jnp.asarray(class_weights, losses.dtype)[labels.number]
        losses = jnp.where(counts == 0, 0, losses) * counts
    if is_traced(label_smoothing) or label_smoothing:
        every = -jnp.mean(weighted(jax.nn.log_softmax(logits), class_weights), -1)
        losses = (1 - label_smoothing) * losses + label_smoothing * every
    return labels.ratio(losses, counts)


def soft_cross_entropy(
    logits: jax.Array, targets: jax.Array, labels: Labels, smoothing: Any, class_weights: Any
) -> Ratio:
    """-sum over classes c of w[c] q[c] log p[c], for probabilities q, by the number of examples."""
    logits, targets = labels.select(logits), labels.select(targets.astype(logits.dtype))
    if is_traced(smoothing) or smoothing:
        targets = optax.smooth_labels(targets, smoothing)
    logs = weighted(jax.nn.log_softmax(logits), class_weights)
    # 0 * log 0 is NaN: a class without probability has no part.
    return labels.ratio(-jnp.sum(targets * jnp.where(targets == 0, 0, logs), -1))


def weighted(logs: jax.Array, class_weights: Any) -> jax.Array:
    """Numbers of classes (..., C) times the weights (C,), 0 for a weight of 0."""
    if class_weights is None:
        return logs
    weights = jnp.asarray(class_weights, logs.dtype).reshape((1,) * (logs.ndim - 1) + (-1,))
    return jnp.where(weights == 0, 0, logs) * weights


def accuracy(outputs: Any, labels: Labels) -> Ratio:
    """The fraction of the labels that count that have the largest output."""
    correct = jnp.argmax(outputs, -1).astype(jnp.int32) == labels.number
    return labels.ratio(correct.astype(jnp.float32), maximize=True)


def _advice(task: Any) -> str:
    """What to write for a label that a task does not have, for an error."""
    excluded = f"the label {task.ignored}"
    if task.ignored is None:
        excluded = f"{type(task).__name__}(..., ignore=-100) and that label"
    more = getattr(task, "_with_classes", "a task with {} classes")
    more = more and f"{more.format('n')} for n classes if it is a class, or "
    return f"write {more}{excluded} to leave the example out of the loss and the metrics"


def check_ignore(task: Any) -> None:
    """Raise TypeError if the ignored label of a task is not an int or None."""
    ignore = task.ignore
    if ignore is not None and (isinstance(ignore, bool) or not isinstance(ignore, int)):
        raise TypeError(
            f"{type(task).__name__}.ignore is a label, an int, or None; got {ignore!r}; write "
            f"ignore=-100"
        )


def check_labels(task: Any, targets: Any, name: str) -> None:
    """Raise ValueError if targets hold labels that the task does not have.

    Args:
        task: a task or a loss function.
        targets: an array of labels, those of each task of a `MultiTask`, or anything else, which
            is not looked at.
        name: what errors call the data.
    """
    tasks = getattr(task, "tasks", None)
    if isinstance(tasks, dict | tuple):
        for part in tasks if isinstance(tasks, dict) else range(len(tasks)):
            check_labels(tasks[part], targets[part], f"{name}/{part}")
    classes = getattr(task, "classes", None)
    if classes is None:  # each of several targets may have classes
        classes = getattr(task, "_classes_per_output", None)
    if classes is None or not hasattr(targets, "dtype"):
        return
    wrong = wrong_label(np.asarray(targets), classes, task.ignored)
    if wrong is not None:
        raise ValueError(
            f"{name}: the targets hold {wrong}, but {task!r} needs labels in [0, {classes}); "
            f"{_advice(task)}"
        )


def wide(outputs: Any) -> jax.Array:
    """Outputs in at least float32."""
    outputs = jnp.asarray(outputs)
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
