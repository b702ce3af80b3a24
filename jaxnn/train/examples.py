"""The examples of a batch: their targets and weights, and which of them count.

Weights have a number per row or per position: their shape is a prefix of that of the targets. An
example with the weight 0 or an ignored label has no effect on values and gradients, even if it is
NaN. An example with an invalid target, such as a label out of range, makes them NaN.
"""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays import check_range
from ..data.check import saturated, wrong_label
from ..explain.text import describe
from ..fields import is_traced
from ..functional.gradients import picked
from ..validation import Accepts, require
from .metrics import Ratio

INT32 = np.iinfo(np.int32)


class WeightedTargets(NamedTuple):
    """Targets, and what each of them counts for.

    Args:
        targets: Class labels, int32 (...) in [0, classes) throughout, or numbers (...).
        kept: Booleans (...), False for ignored labels and the weight 0; None if all count.
        counts: Numbers (...): the weight of what is kept, NaN if its target is invalid, and 0 for
            the others; None for 1 each.
    """

    targets: jax.Array
    kept: jax.Array | None
    counts: Any

    @classmethod
    def of_numbers(cls, owner: str, targets: Any, weights: Any = None) -> "WeightedTargets":
        """Return weighted targets of numbers (...); `owner` names what takes them in an error."""
        counts = per_target(owner, weights, jnp.shape(targets))
        kept = None if counts is None else counts != 0
        examples = cls(jnp.asarray(targets), kept, counts)
        return examples._replace(targets=examples.select(examples.targets))

    @classmethod
    def of_labels(
        cls, owner: str, targets: Any, weights: Any = None, *, classes: int, ignore: int | None
    ) -> "WeightedTargets":
        """Return weighted targets of integer labels (...) of any type; TypeError for floats."""
        targets = targets if hasattr(targets, "dtype") else np.asarray(targets)
        _integers(targets, f"the targets of {owner}")
        counts = per_target(owner, weights, jnp.shape(targets))
        labels = jnp.asarray(saturated(targets))
        if labels.dtype != bool and jnp.iinfo(labels.dtype).max > INT32.max:
            labels = jnp.clip(labels, max(jnp.iinfo(labels.dtype).min, INT32.min), INT32.max)
        labels = labels.astype(jnp.int32)
        kept = None if ignore is None else labels != ignore
        if counts is not None:
            kept = counts != 0 if kept is None else kept & (counts != 0)
        inside = (labels >= 0) & (labels < classes)
        shown = labels if kept is None else jnp.where(kept, labels, 0)
        check_range(shown, classes, f"label {{value}} is outside of [0, {classes})")
        return cls(jnp.where(inside, labels, 0), kept, counts).valid_where(inside)

    def valid_where(self, valid: jax.Array) -> "WeightedTargets":
        """Return the examples, with NaN for the counts of those that are kept and not valid."""
        counts = jnp.where(valid, 1.0 if self.counts is None else self.counts, jnp.nan)
        return self._replace(counts=self.select(counts))

    def select(self, values: jax.Array) -> jax.Array:
        """Return values (...) or (..., n), with zeros for examples that do not count."""
        return values if self.kept is None else jnp.where(expand_like(self.kept, values), values, 0)

    def ratio(self, values: jax.Array, factors: Any = 1, maximize: bool | None = None) -> Ratio:
        """Return the weighted sum of values (...) over that of `factors`, 1 each by default.

        Both are NaN if a target is invalid. Values of examples that do not count may be anything.
        """
        counts = 1 if self.counts is None else self.counts.astype(values.dtype)
        total = jnp.broadcast_to(jnp.asarray(factors * counts, values.dtype), values.shape)
        return Ratio(jnp.sum(self.select(values * counts)), jnp.sum(total), maximize)

    def accuracy(self, predicted: Any) -> Ratio:
        """Return the fraction of examples that count whose predicted labels (...) are right."""
        return self.ratio((predicted == self.targets).astype(jnp.float32), maximize=True)


_integers = Accepts(
    "integer class labels",
    lambda targets: not jnp.issubdtype(jnp.result_type(targets), jnp.floating),
    TypeError,
    "write targets.astype('int32') if they are whole numbers. Probabilities are targets of "
    "train.Classification(n), (..., n), and of train.MultiLabelClassification",
    abstract=True,
)


def expand_like(kept: jax.Array, array: Any) -> jax.Array:
    """Return booleans (...) with the number of axes of an array (..., n, m)."""
    return kept.reshape(kept.shape + (1,) * (jnp.ndim(array) - kept.ndim))


def wide(outputs: Any) -> jax.Array:
    """Return outputs in at least float32."""
    outputs = jnp.asarray(outputs)
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def per_target(owner: str, weights: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """Return weights per row or per position as floats of a shape; None for None.

    Args:
        owner: Name of what takes the weights, for the error.
        weights: Array (n,), (n, T), ..., whose shape is a prefix of `shape`.
        shape: Shape of the targets.
    """
    if weights is None:
        return None
    given = getattr(weights, "shape", ())
    per_position = f", or per position, {shape}" if len(shape) > 1 else ""
    require(
        given and shape[: len(given)] == given and not _is_complex(weights),
        f"weights for {owner}",
        f"an array of one real number per row, {shape[:1]}{per_position}",
        weights,
        "write np.asarray(weights).reshape(...), or weights.real",
    )
    weights = jnp.asarray(weights)
    if not jnp.issubdtype(weights.dtype, jnp.floating):
        weights = weights.astype(jnp.float32)
    return jnp.broadcast_to(weights.reshape(given + (1,) * (len(shape) - len(given))), shape)


def _is_complex(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.complexfloating)


def check_shapes(
    owner: str, outputs: Any, targets: Any, *fits: tuple[Any, ...], hint: str
) -> tuple[Any, ...]:
    """Return the shape that outputs have of several; ValueError for any other shape.

    Args:
        owner: Name of what takes the outputs, for the error.
        outputs: Array.
        targets: Array, for the error.
        fits: Shapes that are accepted; the name of an axis stands for any size.
        hint: Call to write, for the error.
    """
    given = jnp.shape(outputs)
    for shape in fits:
        if len(shape) == len(given) and all(
            isinstance(n, str) or n == size for n, size in zip(shape, given, strict=True)
        ):
            return shape
    shapes = " or ".join(f"({', '.join(map(str, shape))})" for shape in fits)
    raise ValueError(
        f"{owner} needs outputs of shape {shapes} for targets {describe(targets)}, got "
        f"{describe(outputs)}; {hint}"
    )


def cross_entropy(
    logits: jax.Array,
    examples: WeightedTargets,
    label_smoothing: Any = 0.0,
    class_weights: Any = None,
    probabilities: Any = None,
    focal_gamma: Any = 0.0,
) -> Ratio:
    """Return the ratio of -log softmax(logits)[label] over the examples that count.

    With smoothing s and class weights w, it is that of torch.nn.CrossEntropyLoss: the sum of
    (1 - s) w[label] (-log p[label]) + s / C * sum over classes c of w[c] (-log p[c]), over the sum
    of w[label]. For probabilities q (..., C) of the classes, the first term is the sum over classes
    of w[c] q[c] (-log p[c]), and the divisor is the number of examples. With g = `focal_gamma`,
    every -log p is `(1 - p)**g (-log p)`.
    """
    logits = examples.select(logits)
    factors: Any = 1
    is_focal = is_traced(focal_gamma) or focal_gamma != 0

    def surprise(class_weights: Any = class_weights) -> jax.Array:
        """Return w[c] (-log p[c]), 0 for a weight of 0."""
        logs = focal(-jax.nn.log_softmax(logits), focal_gamma)
        if class_weights is None:
            return logs
        weights = jnp.asarray(class_weights, logs.dtype)
        weights = weights.reshape((1,) * (logs.ndim - 1) + weights.shape)
        return jnp.where(weights == 0, 0, logs) * weights

    if probabilities is not None:
        # 0 * log 0 is NaN, so a class with probability 0 is left out.
        shown = examples.select(probabilities.astype(logits.dtype))
        losses = jnp.sum(shown * jnp.where(shown == 0, 0, surprise()), -1)
    else:
        if is_focal:
            losses = picked(surprise(None), examples.targets)
        else:
            losses = jax.nn.logsumexp(logits, -1) - picked(logits, examples.targets)
        if class_weights is not None:
            factors = jnp.asarray(class_weights, losses.dtype)[examples.targets]
            losses = jnp.where(factors == 0, 0, losses) * factors
    if is_traced(label_smoothing) or label_smoothing:
        losses = (1 - label_smoothing) * losses + label_smoothing * jnp.mean(surprise(), -1)
    return examples.ratio(losses, factors)


def focal(losses: jax.Array, gamma: Any) -> jax.Array:
    """Return `(1 - p)**gamma (-log p)` from -log p; the gradient is finite for p = 0 and p = 1."""
    if not is_traced(gamma) and gamma == 0:
        return losses
    missed = -jnp.expm1(-losses)
    some = missed > 0
    return losses * jnp.where(some, jnp.exp(gamma * jnp.log(jnp.where(some, missed, 1))), 0)


def check_labels(task: Any, targets: Any, name: str) -> None:
    """Raise ValueError if targets hold labels that the task does not have.

    Args:
        task: Task or loss function.
        targets: Array of labels, those of each task of a `MultiTask`, or anything else, which is
            not checked.
        name: Name of the data, for the error.
    """
    tasks = getattr(task, "tasks", None)
    if isinstance(tasks, dict | tuple):
        for part in tasks if isinstance(tasks, dict) else range(len(tasks)):
            found = None
            with contextlib.suppress(KeyError, IndexError, TypeError):  # `measure` reports them
                found = targets[part]
            check_labels(tasks[part], found, f"{name}/{part}")
    classes = getattr(task, "classes", None)
    if classes is None or not hasattr(targets, "dtype"):
        return
    if wrong := wrong_label(np.asarray(targets), classes, task.ignored):
        ignored = -100 if task.ignored is None else task.ignored
        raise ValueError(
            f"{name}: the targets hold {wrong}, but {task!r} needs labels in [0, {classes}); write "
            f"{getattr(task, '_more_classes', 'a task with n classes')} if it is one of n classes, "
            f"or the label {ignored} and ignore={ignored} to leave the example out"
        )
