"""Scores of predicted labels: ready-made metrics, equal to those of scikit-learn.

Each is a pure function of outputs and targets, for the metrics of a task or an objective, and has
the same value for any batch size, since it is a `Ratio`, `Derived`, or `Collected`:

    class_scores.py    accuracy, precision, recall, f1, iou; and confusion_matrix, an array
    output_scores.py   top_k_accuracy, auc, perplexity, bits, mae, rmse, r2

The functions of this file accept these outputs:

    (..., C) for targets (...)       a logit for each of C classes: the largest is predicted
    (..., 1) for targets (...)       the logit of yes, which is predicted above `threshold`
    the shape of the targets         floats are logits of yes, with several labels per example
                                     along the last axis; integers and booleans are predictions

`classes=` sets the number of classes of labels and predictions; each target is then the label of
one example or position. Examples with the label `ignore` or with weight 0 are excluded. Weights
have one number per example or per position: their shape is a prefix of that of the targets. A label
out of range gives NaN.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..fields import is_traced
from ..validation import Accepts, number, one_of
from .examples import INT32, WeightedTargets, check_shapes
from .metrics import Derived, Ratio

_THRESHOLD: Accepts = None | number()
_TWO: Accepts = one_of(2).such(
    what="2 for average='binary', the score of one of them",
    hint="write average='macro' or average='micro'",
)
_NO_THRESHOLD: Accepts = Accepts(
    "None for a score of each class and for predictions, which are not compared with it",
    lambda value: value is None,
    abstract=True,
)


class _Decisions(NamedTuple):
    """Predicted classes (...), and the labels that they should be."""

    predicted: jax.Array
    labels: WeightedTargets
    classes: int
    several: bool  # whether the last axis holds several labels per example


def accuracy(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    ignore: int | None = -100,
    threshold: float | None = None,
) -> Ratio:
    """The fraction of labels that are predicted correctly, as in `sklearn.metrics.accuracy_score`.

    For several labels per example, it is the fraction of all labels: 1 - Hamming loss.

    Args:
        outputs: Logits or predictions, as described at the top of the module.
        targets: Integer labels.
        weights: A number per example or position. Default: None, 1 each.
        ignore: Label of examples that are left out; None leaves out none. Default: -100.
        threshold: Output above which yes is predicted, for floats (...) or (..., 1) only: 0 for
            logits, 0.5 for probabilities. Default: None, 0.

    >>> import jax.numpy as jnp
    >>> float(accuracy(jnp.array([[2.0, 1.0], [3.0, 0.0]]), jnp.array([0, 1])))
    0.5
    """
    made = _decisions(
        "accuracy", outputs, targets, weights, ignore, threshold, None, of_predictions=INT32.max
    )
    return made.labels.accuracy(made.predicted)


def _averaged(score: Callable[[Any, Any, Any], tuple[Any, Any]]):
    """Return the metric of a score of counts.

    Args:
        score: Takes the number of true positives, of positive predictions, and of positive labels,
            per class or in all, and returns a numerator and a denominator.
    """

    @functools.wraps(score, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def metric(
        outputs: Any,
        targets: Any,
        weights: Any = None,
        *,
        average: str = "binary",
        ignore: int | None = -100,
        threshold: float | None = None,
        classes: int | None = None,
    ) -> Ratio | Derived:
        name = score.__name__
        kinds = one_of("binary", "macro", "micro")
        kinds(average, f"{name}: average", hint="write average='macro'")
        made = _decisions(name, outputs, targets, weights, ignore, threshold, classes)
        if average == "binary":
            _TWO(made.classes, f"{name}: the number of classes")
        hits, predicted, actual, seen = _counts(made, average)
        numerator, denominator = score(hits, predicted, actual)
        if numerator.ndim == 0:
            return Ratio(numerator, denominator, maximize=True)
        return Derived(mean_of_ratios, (numerator, denominator, seen), maximize=True)

    vars(metric).pop("__wrapped__")  # so that the signature is that of the metric
    return metric


@_averaged
def precision(hits: Any, predicted: Any, actual: Any) -> Any:
    """The fraction of the predictions of a class that are correct: tp / (tp + fp), 0 for 0 / 0.

    Args:
        outputs: Logits or predictions, as described at the top of the module.
        targets: Integer labels.
        weights: A number per example or position. Default: None, 1 each.
        average: "binary", the score of class 1 of two, or of all yes-or-no labels together;
            "macro", the mean over the classes that occur in labels or predictions, or over the
            labels of an example; "micro", the score of all classes or labels together.
            Default: "binary".
        ignore: Label of examples that are left out; None leaves out none. Default: -100.
        threshold: Output above which yes is predicted, for floats (...) or (..., 1) only: 0 for
            logits, 0.5 for probabilities. Default: None, 0.
        classes: Number of classes, required if outputs are predictions of more than two classes.
            Default: None, the size of the last axis of logits, or 2 for other outputs.

    >>> import jax.numpy as jnp
    >>> float(precision(jnp.array([1, 1, 0]), jnp.array([1, 0, 1])))
    0.5
    """
    return hits, predicted


@_averaged
def recall(hits: Any, predicted: Any, actual: Any) -> Any:
    """The fraction of the labels of a class that are predicted: tp / (tp + fn), 0 for 0 / 0.

    Args:
        outputs: Logits or predictions, as described at the top of the module.
        targets: Integer labels.
        weights: A number per example or position. Default: None, 1 each.
        average: "binary", "macro", or "micro", as in `precision`. Default: "binary".
        ignore: Label of examples that are left out; None leaves out none. Default: -100.
        threshold: Output above which yes is predicted, for floats (...) or (..., 1) only: 0 for
            logits, 0.5 for probabilities. Default: None, 0.
        classes: Number of classes, required if outputs are predictions of more than two classes.
            Default: None, the size of the last axis of logits, or 2 for other outputs.

    >>> import jax.numpy as jnp
    >>> float(recall(jnp.array([1, 1, 0, 0]), jnp.array([1, 0, 0, 0])))
    1.0
    """
    return hits, actual


@_averaged
def f1(hits: Any, predicted: Any, actual: Any) -> Any:
    """The harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn), 0 for 0 / 0.

    Args:
        outputs: Logits or predictions, as described at the top of the module.
        targets: Integer labels.
        weights: A number per example or position. Default: None, 1 each.
        average: "binary", "macro", or "micro", as in `precision`. Default: "binary".
        ignore: Label of examples that are left out; None leaves out none. Default: -100.
        threshold: Output above which yes is predicted, for floats (...) or (..., 1) only: 0 for
            logits, 0.5 for probabilities. Default: None, 0.
        classes: Number of classes, required if outputs are predictions of more than two classes.
            Default: None, the size of the last axis of logits, or 2 for other outputs.

    >>> import jax.numpy as jnp
    >>> float(f1(jnp.array([1, 1, 0]), jnp.array([1, 0, 1])))
    0.5
    """
    return 2 * hits, predicted + actual


@_averaged
def iou(hits: Any, predicted: Any, actual: Any) -> Any:
    """Intersection over union, the Jaccard index: tp / (tp + fp + fn), 0 for 0 / 0.

    Args:
        outputs: Logits or predictions, as described at the top of the module;
            for segmentation, (..., height, width, C).
        targets: Integer labels.
        weights: A number per example or position. Default: None, 1 each.
        average: "binary", "macro", or "micro", as in `precision`. Default: "binary".
        ignore: Label of examples that are left out; None leaves out none. Default: -100.
        threshold: Output above which yes is predicted, for floats (...) or (..., 1) only: 0 for
            logits, 0.5 for probabilities. Default: None, 0.
        classes: Number of classes, required if outputs are predictions of more than two classes.
            Default: None, the size of the last axis of logits, or 2 for other outputs.

    >>> import jax.numpy as jnp
    >>> float(iou(jnp.array([1, 1, 0, 0]), jnp.array([1, 0, 0, 0])))
    0.5
    """
    return hits, predicted + actual - hits


def confusion_matrix(
    outputs: Any,
    targets: Any,
    weights: Any = None,
    *,
    classes: int | None = None,
    ignore: int | None = -100,
    threshold: float | None = None,
) -> jax.Array:
    """The number of examples for each label (row) and prediction (column), as in scikit-learn.

    Args:
        outputs: Logits or predictions, as described at the top of the module.
        targets: Integer labels.
        weights: A number per example or position. Default: None, 1 each.
        classes: Number of classes, required if outputs are predictions of more than two classes.
            Default: None, the size of the last axis of logits, or 2 for other outputs.
        ignore: Label of examples that are left out; None leaves out none. Default: -100.
        threshold: Output above which yes is predicted, for floats (...) or (..., 1) only: 0 for
            logits, 0.5 for probabilities. Default: None, 0.

    Returns:
        Integers (classes, classes), or floats with weights.

    Raises:
        ValueError: A label is out of range. Traced labels out of range, as in `jax.jit`, are not
            counted, and `nn.checkify` reports them.

    >>> import jax.numpy as jnp
    >>> confusion_matrix(jnp.array([0, 1, 1]), jnp.array([0, 1, 0])).tolist()
    [[1, 1], [0, 1]]
    """
    made = _decisions("confusion_matrix", outputs, targets, weights, ignore, threshold, classes)
    counts, size = made.labels.counts, made.classes
    invalid = jnp.isnan(counts)
    if not is_traced(invalid) and bool(invalid.any()):
        raise ValueError(
            f"confusion_matrix: a label or prediction is outside of [0, {size}) for {size} classes;"
            f" write classes={int(max(np.max(targets), made.predicted.max())) + 1}, or ignore= for "
            "the label of examples without one"
        )
    cell = made.labels.targets * size + made.predicted
    cell = jnp.where(invalid | (counts == 0), size * size, cell)
    added = jnp.ones(cell.shape, jnp.int32) if weights is None else counts
    flat = jnp.zeros(size * size, added.dtype).at[cell.ravel()].add(added.ravel(), mode="drop")
    return flat.reshape(size, size)


def _decisions(
    name: str,
    outputs: Any,
    targets: Any,
    weights: Any,
    ignore: Any,
    threshold: Any,
    classes: Any,
    of_predictions: int = 2,
) -> _Decisions:
    """Return the predictions of outputs, and the labels of targets.

    Args:
        name: Name of the score, for errors.
        outputs, targets, weights, ignore, threshold, classes: Arguments of the score.
        of_predictions: Number of classes of predictions if `classes` is None. Default: 2.
    """
    outputs, shape, owner = jnp.asarray(outputs), jnp.shape(targets), f"train.{name}"
    fits = shape, (*shape, 1), (*shape, "classes")
    hint = "write logits (..., classes) or predictions (...) for targets (...)"
    fit = check_shapes(owner, outputs, targets, *fits, hint=hint)
    size, is_made = 2, fit == shape and not jnp.issubdtype(outputs.dtype, jnp.floating)
    if fit == (*shape, "classes"):
        size, predicted = outputs.shape[-1], jnp.argmax(outputs, -1).astype(jnp.int32)
        pair = f"write {owner}(jax.nn.softmax(outputs)[..., 1], targets, threshold=0.5)"
        plain = f"write {owner}(outputs, targets), which predicts the largest"
        _NO_THRESHOLD(threshold, f"{owner}: threshold", pair if size == 2 else plain)
    elif is_made:
        size, predicted = of_predictions, outputs
        hint = f"write {owner}(outputs, targets), or pass the logits or probabilities"
        _NO_THRESHOLD(threshold, f"{owner}: threshold", hint)
    else:
        _THRESHOLD(threshold, f"{owner}: threshold", hint="write threshold=0.5")
        above = 0 if threshold is None else threshold
        predicted = (outputs.reshape(shape) > above).astype(jnp.int32)
    size = size if classes is None else classes
    several = fit == shape and len(shape) > 1 and classes is None
    labels = WeightedTargets.of_labels(owner, targets, weights, classes=size, ignore=ignore)
    if is_made or classes is not None:  # predictions may be out of range, too
        found = WeightedTargets.of_labels(owner, predicted, classes=size, ignore=None)
        predicted, labels = found.targets, labels.valid_where(~jnp.isnan(found.counts))
    return _Decisions(predicted, labels, size, several)


def _counts(made: _Decisions, average: str) -> tuple[Any, Any, Any, Any]:
    """Return true positives, predictions, labels, and what is positive for averaged classes."""
    predicted, labels, counts = made.predicted, made.labels.targets, made.labels.counts
    if average != "binary" and not made.several:  # yes or no for each class
        predicted, labels = (jax.nn.one_hot(one, made.classes) for one in (predicted, labels))
        counts = counts[..., None]
    axes = tuple(range(labels.ndim - (average == "macro")))
    yes = predicted * labels, predicted, labels
    hits, found, actual = (jnp.sum(one * counts, axes) for one in yes)
    return hits, found, actual, found + actual + made.several


def mean_of_ratios(numerator: Any, denominator: Any, seen: Any) -> Any:
    """Return the mean of the ratios whose `seen` is not 0; 0 without any. NaN counts as seen."""
    ratios = jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
    present = ~(seen <= 0)
    return jnp.sum(jnp.where(present, ratios, 0)) / jnp.maximum(jnp.sum(present), 1)
