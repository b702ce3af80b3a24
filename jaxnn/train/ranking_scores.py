"""Scores of logits: the order of the classes, and the likelihood of the labels."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..explain.text import describe
from .class_scores import integers, spread_weights
from .labels import Labels, cross_entropy, wide
from .metrics import Collected, Derived, Ratio


def top_k_accuracy(
    outputs: Any, targets: Any, weights: Any = None, *, k: int = 5, ignore: int | None = -100
) -> Ratio:
    """The fraction of labels among the k largest outputs, as `sklearn.metrics`' function.

    Of equal outputs, the last class comes first, as in scikit-learn.

    Args:
        outputs: logits or probabilities (..., C).
        targets: integer labels (...).
        weights: a number per example or position; None for 1 each.
        k: an int >= 1; 5 by default.
        ignore: the label of examples that are left out; None leaves out none.

    >>> import jax.numpy as jnp
    >>> float(top_k_accuracy(jnp.array([[3.0, 2.0, 1.0]]), jnp.array([1]), k=2))
    1.0
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"top_k_accuracy: k is an int >= 1, got {k!r}; write k=5")
    labels = _labels_of("top_k_accuracy", outputs, targets, weights, ignore)
    place = labels.number[..., None]
    chosen = jnp.take_along_axis(jnp.asarray(outputs), place, -1)
    later = jnp.arange(outputs.shape[-1]).reshape((1,) * place[..., 0].ndim + (-1,)) > place
    before = jnp.sum((outputs > chosen) | ((outputs == chosen) & later), -1)
    found = (before < k) & ~jnp.isnan(chosen[..., 0])
    return labels.ratio(found.astype(jnp.float32), maximize=True)


def auc(outputs: Any, targets: Any, weights: Any = None, *, ignore: int | None = -100) -> Collected:
    """The area under the ROC curve of class 1, as `sklearn.metrics.roc_auc_score`.

    It needs the scores of all rows, so training steps leave it out. For several labels per example,
    it is the mean over the labels. It is NaN if all targets are equal.

    Args:
        outputs: scores of any scale: (..., 1) or (..., 2) for targets (...), or the shape of the
            targets.
        targets: integer labels 0 or 1.
        weights: a number per example or position; None for 1 each.
        ignore: the label of examples that are left out; None leaves out none.

    >>> import jax.numpy as jnp
    >>> float(auc(jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])))
    0.75
    """
    outputs = wide(outputs)
    several = outputs.shape == jnp.shape(targets) and outputs.ndim > 1
    if outputs.shape[:-1] == jnp.shape(targets) and outputs.shape[-1] in (1, 2):
        outputs = outputs[..., 0] if outputs.shape[-1] == 1 else outputs[..., 1] - outputs[..., 0]
    if outputs.shape != jnp.shape(targets):
        raise ValueError(
            f"auc needs one score per label, got {describe(outputs)} for targets "
            f"{describe(targets)}; for one class of several, write train.auc(outputs[..., i], "
            "(targets == i).astype('int32'))"
        )
    labels = Labels.of(integers("auc", targets), 2, ignore, spread_weights("auc", weights, targets))
    counts = jnp.ones(outputs.shape) if labels.weights is None else labels.weights
    counts = counts if labels.kept is None else jnp.where(labels.kept, counts, 0)
    columns = (outputs, labels.number, jnp.where(labels.valid, counts, jnp.nan))
    last = outputs.shape[-1] if several else 1
    return Collected(_roc_auc, tuple(c.reshape(-1, last) for c in columns), maximize=True)


def perplexity(
    outputs: Any, targets: Any, weights: Any = None, *, ignore: int | None = -100
) -> Derived:
    """exp of the mean cross entropy of integer labels.

    Args:
        outputs: logits (..., C).
        targets: integer labels (...), such as tokens.
        weights: a number per example or position; None for 1 each.
        ignore: the label of examples that are left out; None leaves out none.

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
        outputs: logits (..., C).
        targets: integer labels (...), such as tokens.
        weights: a number per example or position; None for 1 each.
        ignore: the label of examples that are left out; None leaves out none.

    >>> import jax.numpy as jnp
    >>> f"{bits(jnp.zeros((2, 8)), jnp.array([0, 1])):.2f}"
    '3.00'
    """
    labels = _labels_of("bits", outputs, targets, weights, ignore)
    found = cross_entropy(wide(outputs), labels)
    return Ratio(found.sum / math.log(2), found.count, maximize=False)


def _labels_of(name: str, outputs: Any, targets: Any, weights: Any, ignore: int | None) -> Labels:
    """The labels of logits (..., C)."""
    if jnp.shape(outputs)[:-1] != jnp.shape(targets) or not jnp.ndim(outputs):
        raise ValueError(
            f"{name} needs outputs (..., classes) for targets (...), got {describe(outputs)} for "
            f"{describe(targets)}; write outputs of shape {(*jnp.shape(targets), 'classes')}"
        )
    spread = spread_weights(name, weights, targets)
    return Labels.of(integers(name, targets), outputs.shape[-1], ignore, spread)


def _roc_auc(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    """The mean over the last axis of the fraction of pairs in the right order; ties are a half."""
    several = (a.reshape(-1, a.shape[-1]).T for a in (scores, labels, counts))
    return float(np.mean([_area(*column) for column in zip(*several, strict=True)]))


def _area(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
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
