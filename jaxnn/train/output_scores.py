"""Scores of the outputs themselves: their order, the likelihood of labels, and errors of numbers.

    top_k_accuracy, auc        the order of the classes, and of the examples
    perplexity, bits           the likelihood of the labels
    mae, rmse, r2              errors of numbers, and the coefficient of determination

Weights have a number per example or position: their shape is a prefix of that of the targets. An
example with the weight 0 is left out, even if it is NaN.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..validation import positive
from .class_scores import mean_of_ratios
from .examples import WeightedTargets, check_shapes, cross_entropy, wide
from .metrics import Collected, Derived, Ratio


def top_k_accuracy(
    outputs: Any, targets: Any, weights: Any = None, *, k: int = 5, ignore: int | None = -100
) -> Ratio:
    """The fraction of labels among the k largest outputs, as in `sklearn.metrics`.

    Among equal outputs, the class with the largest index ranks first, as in scikit-learn.

    Args:
        outputs: Logits or probabilities (..., C).
        targets: Integer labels (...).
        weights: A number per example or position. Default: None, 1 each.
        k: Int >= 1. Default: 5.
        ignore: Label of examples that are left out; None leaves out none. Default: -100.

    >>> import jax.numpy as jnp
    >>> float(top_k_accuracy(jnp.array([[3.0, 2.0, 1.0]]), jnp.array([1]), k=2))
    1.0
    """
    positive(k, "top_k_accuracy: k", hint="write k=5")
    outputs, labels = _labels_of("top_k_accuracy", outputs, targets, weights, ignore)
    label = labels.targets[..., None]
    chosen = jnp.take_along_axis(outputs, label, -1)
    later = jnp.arange(outputs.shape[-1]).reshape((1,) * (label.ndim - 1) + (-1,)) > label
    before = jnp.sum((outputs > chosen) | ((outputs == chosen) & later), -1)
    found = (before < k) & ~jnp.isnan(chosen[..., 0])
    return labels.ratio(found.astype(jnp.float32), maximize=True)


def auc(outputs: Any, targets: Any, weights: Any = None, *, ignore: int | None = -100) -> Collected:
    """The area under the ROC curve of class 1, as in `sklearn.metrics.roc_auc_score`.

    It needs the scores of all rows, so training steps omit it. For several labels per example, it
    is the mean over the labels. It is NaN if all targets are equal.

    Args:
        outputs: Scores of any scale: (..., 1) or (..., 2) for targets (...), or the shape of the
            targets.
        targets: Integer labels 0 or 1.
        weights: A number per example or position. Default: None, 1 each.
        ignore: Label of examples that are left out; None leaves out none. Default: -100.

    >>> import jax.numpy as jnp
    >>> float(auc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])))
    0.75
    """
    outputs, shape = wide(outputs), jnp.shape(targets)
    hint = (
        "for one class of several, write train.auc(outputs[..., i], (targets == i).astype('int32'))"
    )
    fit = check_shapes("train.auc", outputs, targets, (*shape, 1), (*shape, 2), shape, hint=hint)
    if fit == (*shape, 2):
        outputs = outputs[..., 1] - outputs[..., 0]
    labels = WeightedTargets.of_labels("train.auc", targets, weights, classes=2, ignore=ignore)
    last = shape[-1] if fit == shape and len(shape) > 1 else 1
    columns = outputs, labels.targets, labels.counts
    return Collected(_roc_auc, tuple(c.reshape(-1, last) for c in columns), maximize=True)


def perplexity(
    outputs: Any, targets: Any, weights: Any = None, *, ignore: int | None = -100
) -> Derived:
    """exp of the mean cross entropy of integer labels.

    Args:
        outputs: Logits (..., C).
        targets: Integer labels (...), such as tokens.
        weights: A number per example or position. Default: None, 1 each.
        ignore: Label of examples that are left out; None leaves out none. Default: -100.

    >>> import jax.numpy as jnp
    >>> f"{perplexity(jnp.zeros((2, 8)), jnp.array([0, 1])):.2f}"
    '8.00'
    """
    outputs, labels = _labels_of("perplexity", outputs, targets, weights, ignore)
    found = cross_entropy(wide(outputs), labels)
    return Derived(_exponential, (found.sum, found.count), maximize=False)


def bits(outputs: Any, targets: Any, weights: Any = None, *, ignore: int | None = -100) -> Ratio:
    """The mean cross entropy of integer labels in bits: nats / log 2.

    Args:
        outputs: Logits (..., C).
        targets: Integer labels (...), such as tokens.
        weights: A number per example or position. Default: None, 1 each.
        ignore: Label of examples that are left out; None leaves out none. Default: -100.

    >>> import jax.numpy as jnp
    >>> f"{bits(jnp.zeros((2, 8)), jnp.array([0, 1])):.2f}"
    '3.00'
    """
    outputs, labels = _labels_of("bits", outputs, targets, weights, ignore)
    found = cross_entropy(wide(outputs), labels)
    return Ratio(found.sum / math.log(2), found.count, maximize=False)


def _labels_of(
    name: str, outputs: Any, targets: Any, weights: Any, ignore: int | None
) -> tuple[jax.Array, WeightedTargets]:
    """Return logits (..., C), and their weighted labels."""
    outputs, owner, shape = jnp.asarray(outputs), f"train.{name}", (*jnp.shape(targets), "classes")
    check_shapes(owner, outputs, targets, shape, hint=f"write outputs of shape {shape}")
    classes = outputs.shape[-1]
    return outputs, WeightedTargets.of_labels(
        owner, targets, weights, classes=classes, ignore=ignore
    )


def _roc_auc(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    """Return the mean over the last axis of the areas under the ROC curves."""
    several = (a.reshape(-1, a.shape[-1]).T for a in (scores, labels, counts))
    return float(np.mean([_area(*column) for column in zip(*several, strict=True)]))


def _area(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    """Return the fraction of pairs in the right order, weighted; ties count half."""
    shown = counts != 0
    scores, labels, counts = scores[shown], labels[shown], counts[shown].astype(np.float64)
    if np.isnan(scores).any():
        return math.nan
    _, place = np.unique(scores, return_inverse=True)
    yes, no = (np.bincount(place, counts * (labels == one)) for one in (1, 0))
    pairs = yes.sum() * no.sum()
    below = np.cumsum(no) - no
    return float((yes * (below + no / 2)).sum() / pairs) if pairs else math.nan


def _exponential(total: Any, count: Any) -> Any:
    return jnp.exp(Ratio(total, count).value)


def mae(outputs: Any, targets: Any, weights: Any = None) -> Ratio:
    """The mean absolute error, as in `sklearn.metrics.mean_absolute_error`.

    Args:
        outputs: Numbers (..., 1) for targets (...), or of the shape of the targets.
        targets: Numbers.
        weights: A number per example or position. Default: None, 1 each.

    >>> import jax.numpy as jnp
    >>> float(mae(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    1.0
    """
    outputs, examples = _numbers("mae", outputs, targets, weights)
    return examples.ratio(jnp.abs(outputs - examples.targets), maximize=False)


def rmse(outputs: Any, targets: Any, weights: Any = None) -> Derived:
    """The root of the mean squared error, as in `sklearn.metrics.root_mean_squared_error`.

    For several numbers per example, it is the mean of their roots over the last axis.

    Args:
        outputs: Numbers (..., 1) for targets (...), or of the shape of the targets.
        targets: Numbers.
        weights: A number per example or position. Default: None, 1 each.

    >>> import jax.numpy as jnp
    >>> f"{rmse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])):.4f}"
    '1.4142'
    """
    outputs, examples = _numbers("rmse", outputs, targets, weights)
    count = _weights_of(examples)
    squares = _over_rows(count * jnp.square(outputs - examples.targets))
    return Derived(_root, (squares, _over_rows(count)), maximize=False)


def r2(outputs: Any, targets: Any, weights: Any = None) -> Derived:
    """The coefficient of determination: 1 - squared errors / squared deviations from the mean.

    As in `sklearn.metrics.r2_score`, it is the mean over the last axis for several numbers per
    example; for equal targets it is 1 if there are no errors, and 0 otherwise.

    Args:
        outputs: Numbers (..., 1) for targets (...), or of the shape of the targets.
        targets: Numbers.
        weights: A number per example or position. Default: None, 1 each.

    >>> import jax.numpy as jnp
    >>> f"{r2(jnp.array([2.5, 0.0, 2.0, 8.0]), jnp.array([3.0, -0.5, 2.0, 7.0])):.4f}"
    '0.9486'
    """
    outputs, examples = _numbers("r2", outputs, targets, weights)
    count, targets = _weights_of(examples), examples.targets
    errors = _over_rows(count * jnp.square(outputs - targets))
    count, targets = (a.reshape(-1, a.shape[-1]) for a in (count, targets))
    moments = _moments(count, targets, jnp.zeros_like(count), jnp.zeros_like(count))
    return Derived(_determination, (errors, *moments), maximize=True, merge=_merged)


def _numbers(
    name: str, outputs: Any, targets: Any, weights: Any
) -> tuple[jax.Array, WeightedTargets]:
    """Return outputs (..., L), 0 if left out, and weighted targets (..., L)."""
    outputs, targets, owner = wide(outputs), wide(targets), f"train.{name}"
    examples = WeightedTargets.of_numbers(owner, targets, weights)
    one = (*targets.shape, 1)
    fit = check_shapes(
        owner, outputs, targets, targets.shape, one, hint=f"write outputs of shape {targets.shape}"
    )
    if fit == one or targets.ndim < 2:
        outputs, examples = jax.tree.map(lambda a: a.reshape(one), (outputs, examples))
    return examples.select(outputs), examples


def _weights_of(examples: WeightedTargets) -> jax.Array:
    """Return the weights (..., L), 1 each by default."""
    targets = examples.targets
    return (
        jnp.ones_like(targets) if examples.counts is None else examples.counts.astype(targets.dtype)
    )


def _over_rows(values: jax.Array) -> jax.Array:
    """Return the sums (L,) of values (..., L)."""
    return jnp.sum(values, tuple(range(values.ndim - 1)))


def _root(squares: Any, count: Any) -> Any:
    mean = squares / jnp.where(count == 0, 1, count)
    return mean_of_ratios(jnp.sqrt(mean), jnp.ones_like(mean), count)


def _moments(count: Any, origin: Any, shift: Any, deviations: Any) -> tuple[Any, Any, Any, Any]:
    """Return the count, mean, and squared deviations of parts along the leading axis.

    Two passes are made, since sums of squares would cancel in float32 if the mean is larger than
    the deviations. For the same reason a mean is two numbers: one of the values, the origin, and a
    shift from it.
    """
    whole = count.sum(0)
    start = jnp.take_along_axis(origin, jnp.argmax(count > 0, 0)[None], 0)
    apart = (origin - start) + shift
    mean = (count * apart).sum(0) / jnp.where(whole == 0, 1, whole)
    return whole, start[0], mean, (deviations + count * (apart - mean[None]) ** 2).sum(0)


def _merged(errors: Any, *moments: Any) -> tuple[Any, ...]:
    return (errors.sum(0), *_moments(*moments))


def _determination(errors: Any, count: Any, origin: Any, shift: Any, deviations: Any) -> Any:
    del origin, shift
    equal = deviations == 0
    found = 1 - errors / jnp.where(equal, 1, deviations)
    found = jnp.where(equal, jnp.where(errors == 0, 1, 0), found)
    return mean_of_ratios(found, jnp.ones_like(found), count)
