"""Scores: ready-made metrics under their usual names, which equal scikit-learn's.

Each is a pure function of outputs and targets, for the metrics of a task or an objective, and has
the same value for any batch size, since it is a `Ratio`, `Derived`, or `Collected`:

    class_scores.py       accuracy, precision, recall, f1, iou; and confusion_matrix, an array
    ranking_scores.py     top_k_accuracy, auc, perplexity, bits: of the logits themselves
    regression_scores.py  mae, rmse, r2

The functions of this file accept these outputs:

    (..., C) for targets (...)       a logit for each of C classes: the largest is predicted
    (..., 1) for targets (...)       the logit of yes, which is predicted above `threshold`
    the shape of the targets         floats: a logit of yes for each label, of which the last axis
                                     has several per example; integers and booleans: predictions

Examples with the label `ignore`, or the weight 0, are left out. Weights have a number per example,
or per position: their shape is a prefix of that of the targets. A label out of range gives NaN.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..explain.text import describe
from ..fields import is_traced
from .labels import Labels, weights_like
from .metrics import Derived, Ratio

AVERAGES = ("binary", "macro", "micro")


class _Decisions(NamedTuple):
    """Predicted classes (...), and the labels that they should be."""

    predicted: jax.Array
    labels: Labels
    classes: int
    several: bool  # whether the last axis holds several labels per example


def accuracy(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    ignore: int | None = -100,
    threshold: float = 0.0,
) -> Ratio:
    """The fraction of labels that are predicted, as `sklearn.metrics.accuracy_score`.

    For several labels per example, it is the fraction of all labels: 1 - hamming loss.

    Args:
        outputs: logits or predictions, as described at the top of the module.
        targets: integer labels.
        weights: a number per example or position; None for 1 each.
        ignore: the label of examples that are left out; None leaves out none.
        threshold: the output above which the answer is yes: 0 for logits, 0.5 for probabilities.

    >>> import jax.numpy as jnp
    >>> float(accuracy(jnp.array([[2.0, 1.0], [3.0, 0.0]]), jnp.array([0, 1])))
    0.5
    """
    made = _decisions("accuracy", outputs, targets, weights, ignore, threshold, None)
    correct = (made.predicted == made.labels.number).astype(jnp.float32)
    return made.labels.ratio(correct, maximize=True)


def precision(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    average: str = "binary",
    ignore: int | None = -100,
    threshold: float = 0.0,
    classes: int | None = None,
) -> Ratio | Derived:
    """The fraction of the predictions of a class that are right: tp / (tp + fp), 0 for 0 / 0.

    Args:
        outputs: logits or predictions, as described at the top of the module.
        targets: integer labels.
        weights: a number per example or position; None for 1 each.
        average: "binary", the score of class 1 of two, or of all yes-or-no labels together;
            "macro", the mean over the classes that occur in labels or predictions, or over the
            labels of an example; "micro", the score of all classes or labels together.
        ignore: the label of examples that are left out; None leaves out none.
        threshold: the output above which the answer is yes: 0 for logits, 0.5 for probabilities.
        classes: the number of classes; needed for predictions of more than two.

    >>> import jax.numpy as jnp
    >>> float(precision(jnp.array([1, 1, 0]), jnp.array([1, 0, 1])))
    0.5
    """
    hits, predicted, _, seen = _sums(
        "precision", outputs, targets, weights, average, ignore, threshold, classes
    )
    return _score(hits, predicted, seen)


def recall(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    average: str = "binary",
    ignore: int | None = -100,
    threshold: float = 0.0,
    classes: int | None = None,
) -> Ratio | Derived:
    """The fraction of the labels of a class that are predicted: tp / (tp + fn), 0 for 0 / 0.

    Args:
        outputs: logits or predictions, as described at the top of the module.
        targets: integer labels.
        weights: a number per example or position; None for 1 each.
        average: "binary", "macro", or "micro", as in `precision`.
        ignore: the label of examples that are left out; None leaves out none.
        threshold: the output above which the answer is yes: 0 for logits, 0.5 for probabilities.
        classes: the number of classes; needed for predictions of more than two.

    >>> import jax.numpy as jnp
    >>> float(recall(jnp.array([1, 1, 0, 0]), jnp.array([1, 0, 0, 0])))
    1.0
    """
    hits, _, actual, seen = _sums(
        "recall", outputs, targets, weights, average, ignore, threshold, classes
    )
    return _score(hits, actual, seen)


def f1(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    average: str = "binary",
    ignore: int | None = -100,
    threshold: float = 0.0,
    classes: int | None = None,
) -> Ratio | Derived:
    """The harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn), 0 for 0 / 0.

    Args:
        outputs: logits or predictions, as described at the top of the module.
        targets: integer labels.
        weights: a number per example or position; None for 1 each.
        average: "binary", "macro", or "micro", as in `precision`.
        ignore: the label of examples that are left out; None leaves out none.
        threshold: the output above which the answer is yes: 0 for logits, 0.5 for probabilities.
        classes: the number of classes; needed for predictions of more than two.

    >>> import jax.numpy as jnp
    >>> float(f1(jnp.array([1, 1, 0]), jnp.array([1, 0, 1])))
    0.5
    """
    hits, predicted, actual, seen = _sums(
        "f1", outputs, targets, weights, average, ignore, threshold, classes
    )
    return _score(2 * hits, predicted + actual, seen)


def iou(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    average: str = "binary",
    ignore: int | None = -100,
    threshold: float = 0.0,
    classes: int | None = None,
) -> Ratio | Derived:
    """Intersection over union, the Jaccard index: tp / (tp + fp + fn), 0 for 0 / 0.

    Args:
        outputs: logits or predictions, as described at the top of the module; for segmentation,
            (..., height, width, C).
        targets: integer labels.
        weights: a number per example or position; None for 1 each.
        average: "binary", "macro" (mean IoU), or "micro", as in `precision`.
        ignore: the label of examples that are left out; None leaves out none.
        threshold: the output above which the answer is yes: 0 for logits, 0.5 for probabilities.
        classes: the number of classes; needed for predictions of more than two.

    >>> import jax.numpy as jnp
    >>> float(iou(jnp.array([1, 1, 0, 0]), jnp.array([1, 0, 0, 0])))
    0.5
    """
    hits, predicted, actual, seen = _sums(
        "iou", outputs, targets, weights, average, ignore, threshold, classes
    )
    return _score(hits, predicted + actual - hits, seen)


def confusion_matrix(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    classes: int | None = None,
    ignore: int | None = -100,
    threshold: float = 0.0,
) -> jax.Array:
    """How often each label (row) has each prediction (column), as scikit-learn's function.

    Args:
        outputs: logits or predictions, as described at the top of the module.
        targets: integer labels.
        weights: a number per example or position; None for 1 each.
        classes: the number of classes; needed for predictions of more than two.
        ignore: the label of examples that are left out; None leaves out none.
        threshold: the output above which the answer is yes: 0 for logits, 0.5 for probabilities.

    Returns:
        Integers (classes, classes), or floats with weights.

    Raises:
        ValueError: a label out of range. Traced ones, as in `jax.jit`, are left out, and
            `nn.checkify` reports them.

    >>> import jax.numpy as jnp
    >>> confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 1, 0])).tolist()
    [[1, 1], [0, 1]]
    """
    made = _decisions("confusion_matrix", outputs, targets, weights, ignore, threshold, classes)
    labels, size = made.labels, made.classes
    if not is_traced(labels.valid) and not bool(labels.valid.all()):
        raise ValueError(
            f"confusion_matrix: a label or prediction is outside of [0, {size}) for {size} classes;"
            f" write classes={int(max(np.max(targets), made.predicted.max())) + 1}, or ignore= for "
            "the label of examples without one"
        )
    kept = labels.valid if labels.kept is None else labels.valid & labels.kept
    one = jnp.ones(kept.shape, jnp.int32) if labels.weights is None else labels.weights
    cell = jnp.where(kept, labels.number * size + made.predicted, size * size)
    flat = jnp.zeros(size * size, one.dtype).at[cell.ravel()].add(one.ravel(), mode="drop")
    return flat.reshape(size, size)


# ---- classes ----


def _decisions(
    name: str,
    outputs: Any,
    targets: Any,
    weights: Any,
    ignore: int | None,
    threshold: Any,
    classes: int | None,
) -> _Decisions:
    outputs, shape = jnp.asarray(outputs), jnp.shape(targets)
    several = outputs.shape == shape and len(shape) > 1
    targets, spread = integers(name, targets), spread_weights(name, weights, targets)
    whole = not jnp.issubdtype(outputs.dtype, jnp.floating)
    if outputs.shape == shape and whole:  # predicted labels
        size = 2 if classes is None else classes
        found = Labels.of(outputs, size, None)
        labels = Labels.of(targets, size, ignore, spread)
        right = found.valid if labels.kept is None else found.valid | ~labels.kept
        labels = labels._replace(valid=labels.valid & right)
        return _Decisions(found.number, labels, size, several and classes is None)
    if outputs.shape == (*shape, 1):
        outputs = outputs[..., 0]
    elif outputs.shape[:-1] == shape and outputs.ndim:
        size = outputs.shape[-1]
        predicted = jnp.argmax(outputs, -1).astype(jnp.int32)
        return _Decisions(predicted, Labels.of(targets, size, ignore, spread), size, False)
    elif outputs.shape != shape:
        raise ValueError(
            f"{name} needs outputs (..., classes) or predictions (...) for targets (...), got "
            f"{describe(outputs)} for {describe(targets)}; write outputs of shape "
            f"{(*shape, 'classes')}"
        )
    labels = Labels.of(targets, 2, ignore, spread)
    return _Decisions((outputs > threshold).astype(jnp.int32), labels, 2, several)


def _sums(
    name: str,
    outputs: Any,
    targets: Any,
    weights: Any,
    average: str,
    ignore: int | None,
    threshold: Any,
    classes: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """True positives, predictions, labels, and what is positive for classes that are averaged."""
    if average not in AVERAGES:
        raise ValueError(
            f"{name}: average is one of {', '.join(map(repr, AVERAGES))}, got {average!r}; write "
            "average='macro'"
        )
    made = _decisions(name, outputs, targets, weights, ignore, threshold, classes)
    if average == "binary" and made.classes != 2:
        raise ValueError(
            f"{name}: average='binary' is the score of one of 2 classes, got {made.classes} "
            "classes; write average='macro' or average='micro'"
        )
    labels = made.labels
    counts = jnp.where(labels.valid, 1, jnp.nan).astype(jnp.float32)
    if labels.weights is not None:
        counts = counts * labels.weights.astype(jnp.float32)
    if labels.kept is not None:
        counts = jnp.where(labels.kept, counts, 0)
    if average == "micro" and not made.several:
        hits = jnp.sum(jnp.where(made.predicted == labels.number, counts, counts * 0))
        whole = jnp.sum(counts)
        return hits, whole, whole, whole
    if average == "macro" and not made.several:

        def per_class(number: jax.Array, counts: jax.Array) -> jax.Array:
            return jnp.zeros(made.classes).at[number.ravel()].add(counts.ravel())

        right = jnp.where(made.predicted == labels.number, counts, counts * 0)
        hits = per_class(labels.number, right)
        predicted, actual = per_class(made.predicted, counts), per_class(labels.number, counts)
        return hits, predicted, actual, predicted + actual
    axes = tuple(range(labels.number.ndim - (average == "macro")))
    yes = made.predicted * counts, labels.number * counts
    hits = jnp.sum(yes[0] * labels.number, axes)
    predicted, actual = (jnp.sum(each, axes) for each in yes)
    return hits, predicted, actual, jnp.sum(counts, axes) + 1


def _score(numerator: jax.Array, denominator: jax.Array, seen: jax.Array) -> Ratio | Derived:
    if numerator.ndim == 0:
        return Ratio(numerator, denominator, maximize=True)
    return Derived(mean_of_ratios, (numerator, denominator, seen), maximize=True)


def mean_of_ratios(numerator: Any, denominator: Any, seen: Any) -> Any:
    """The mean of the ratios that are seen; 0 without any. NaN counts as seen."""
    ratios = jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
    present = ~(seen <= 0)
    return jnp.sum(jnp.where(present, ratios, 0)) / jnp.maximum(jnp.sum(present), 1)


def integers(name: str, targets: Any) -> Any:
    """Integer targets as an array; TypeError for floats."""
    if jnp.issubdtype(jnp.result_type(targets), jnp.floating):
        raise TypeError(
            f"{name} needs integer labels, got {describe(targets)}; write targets.astype('int32') "
            "if they are whole numbers, and for probabilities of yes, (targets > 0.5)"
        )
    return targets if isinstance(targets, np.ndarray) else jnp.asarray(targets)


def spread_weights(name: str, weights: Any, targets: Any) -> jax.Array | None:
    """Weights in the shape of the targets; None for none."""
    return weights_like(weights, jnp.shape(targets), f"train.{name}")
