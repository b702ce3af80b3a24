"""Scores of logits: the order of the classes, and the likelihood of the labels."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..validation import positive
from .examples import Examples, check_shapes, cross_entropy, wide
from .metrics import Collected, Derived, Ratio


def top_k_accuracy(
    outputs: Any, targets: Any, weights: Any = None, *, k: int = 5, ignore: int | None = -100
) -> Ratio:
    """The fraction of labels among the k largest outputs, as `sklearn.metrics`' function.

    Of equal outputs, the last class comes first, as in scikit-learn.

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
    labels = _labels_of("top_k_accuracy", outputs, targets, weights, ignore)
    label = labels.targets[..., None]
    chosen = jnp.take_along_axis(jnp.asarray(outputs), label, -1)
    later = jnp.arange(outputs.shape[-1]).reshape((1,) * (label.ndim - 1) + (-1,)) > label
    before = jnp.sum((outputs > chosen) | ((outputs == chosen) & later), -1)
    found = (before < k) & ~jnp.isnan(chosen[..., 0])
    return labels.ratio(found.astype(jnp.float32), maximize=True)


def auc(outputs: Any, targets: Any, weights: Any = None, *, ignore: int | None = -100) -> Collected:
    """The area under the ROC curve of class 1, as `sklearn.metrics.roc_auc_score`.

    It needs the scores of all rows, so training steps leave it out. For several labels per example,
    it is the mean over the labels. It is NaN if all targets are equal.

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
    labels = Examples.of_labels("train.auc", targets, weights, classes=2, ignore=ignore)
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
    labels = _labels_of("perplexity", outputs, targets, weights, ignore)
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
    labels = _labels_of("bits", outputs, targets, weights, ignore)
    found = cross_entropy(wide(outputs), labels)
    return Ratio(found.sum / math.log(2), found.count, maximize=False)


def _labels_of(name: str, outputs: Any, targets: Any, weights: Any, ignore: int | None) -> Examples:
    """Return the labels of logits (..., C)."""
    owner, shape = f"train.{name}", (*jnp.shape(targets), "classes")
    check_shapes(owner, outputs, targets, shape, hint=f"write outputs of shape {shape}")
    classes = outputs.shape[-1]
    return Examples.of_labels(owner, targets, weights, classes=classes, ignore=ignore)


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
