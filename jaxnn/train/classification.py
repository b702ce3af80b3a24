"""Tasks whose targets are labels: classes, tokens, one yes or no, or several per example."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..fields import is_traced
from ..validation import Accepts, fraction, integer, number, tuple_of
from .examples import WeightedTargets, cross_entropy, focal
from .metrics import Ratio
from .task import Task

SEVERAL = (
    "targets[..., 0] for targets with a last axis of size 1, or "
    "train.MultiLabelClassification(n) for several labels per example"
)
exponent: Accepts = number(0).such(hint="write focal_gamma=2.0")
ignored_label: Accepts = None | integer().such(hint="write ignore=-100")
factors: Accepts = None | Accepts(
    "a number >= 0, or a tuple of them",
    lambda v: all(is_traced(n) or number(0).test(n) for n in (v if isinstance(v, tuple) else (v,))),
    hint="write {name}=(1.0, 1.0, 2.0) for three classes",
    traced=True,
)


class LabelTask(Task):
    """Base of the tasks with labels: outputs are one logit per class, or a single logit for yes.

    The number of outputs is the field `number`, unless a subclass overrides `outputs`.
    """

    @property
    def outputs(self: Any) -> int:
        """One output per class, or a single one for yes or no."""
        return self.number

    @property
    def classes(self) -> int:
        """Number of classes of the labels."""
        return max(self.outputs, 2)

    def predict(self, outputs: Any) -> jax.Array:
        """Return probabilities: of each class by softmax, or of yes by sigmoid."""
        logits = self._squeezed(outputs)
        is_yes = self.outputs == 1 or self._axis is not None
        return jax.nn.sigmoid(logits) if is_yes else jax.nn.softmax(logits)


class Classification(LabelTask):
    """One of `number` classes: softmax cross entropy of integer labels, or of probabilities.

    Outputs are logits (..., number). Targets are integer labels (...) in [0, number), or
    probabilities of the classes (..., number), as returned by `data.mixup`. Predictions are
    probabilities (..., number). The metric is `accuracy`, the fraction of correct labels; for
    probabilities, the label is the most probable class.

    A label outside of [0, number) gives a loss, gradient, and accuracy of NaN, and never those of
    another class. `train.fit`, `train.evaluate`, and `nn.checkify` raise an error for such a label.

    Args:
        number: Number of classes, at least 2.
        ignore: Label of examples that are excluded from loss and metrics; None excludes none. If
            all examples are excluded, the loss is 0 (NaN in torch). Default: -100, as in
            torch.nn.CrossEntropyLoss.
        label_smoothing: Fraction s in [0, 1] of each label that is spread over all classes. The
            target probability is 1 - s + s / number for the label and s / number for the other
            classes. Default: 0.
        class_weights: Tuple of `number` weights. As in torch.nn.CrossEntropyLoss, the loss of
            integer labels is divided by the sum of the weights of the labels, and that of
            probabilities by the number of examples. Metrics do not use them. Default: None, 1 each.
        focal_gamma: Exponent g >= 0 of the focal loss, which multiplies each -log p by
            `(1 - p)**g`. Default: 0, cross entropy.

    Raises:
        ValueError: `number` is less than 2, or `class_weights` does not have `number` weights.

    References: Szegedy et al., Rethinking the inception architecture, 2016 (label smoothing); Lin
    et al., Focal loss for dense object detection, 2017.

    >>> import jax.numpy as jnp
    >>> task = Classification(3)
    >>> round(float(task(jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0]))), 4)  # log 3
    1.0986
    >>> round(float(task(jnp.zeros((1, 3)), jnp.array([[0.5, 0.2, 0.3]]))), 4)
    1.0986
    >>> round(float(task(jnp.zeros((4, 3)), jnp.array([0, 1, -100, -100]))), 4)
    1.0986
    >>> Classification(3, label_smoothing=0.1, class_weights=(1.0, 1.0, 2.0))
    Classification(3, label_smoothing=0.1, class_weights=(1.0, 1.0, 2.0))
    """

    number: Annotated[
        int, integer(2).such(hint="write train.BinaryClassification() for one yes-or-no output")
    ]
    ignore: Annotated[int | None, ignored_label] = -100
    label_smoothing: Annotated[float, fraction] = 0.0
    class_weights: Annotated[tuple[float, ...] | None, factors] = None
    focal_gamma: Annotated[float, exponent] = 0.0
    _other_targets = f"{SEVERAL}, or targets.astype('float32') for one-hot targets"

    def __post_init__(self) -> None:
        """Check the number of weights."""
        if self.class_weights is not None:
            _check_length(self, "class_weights", self.class_weights)

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean cross entropy of labels or probabilities, and the accuracy."""
        soft, ignore = None, self.ignore
        given = getattr(targets, "dtype", bool)  # `_wide` reports targets that are not arrays
        if np.shape(targets) == outputs.shape and jnp.issubdtype(given, jnp.floating):
            soft, targets, ignore = targets, jnp.argmax(targets, -1), None
        logits = self._wide(outputs, targets)
        labels = WeightedTargets.of_labels(
            repr(self), targets, weights, classes=self.number, ignore=ignore
        )
        if soft is not None:
            labels = labels.valid_where(jnp.isfinite(soft).all(-1))
        loss = cross_entropy(
            logits, labels, self.label_smoothing, self.class_weights, soft, self.focal_gamma
        )
        return {"loss": loss, "accuracy": labels.accuracy(jnp.argmax(outputs, -1))}


class NextToken(LabelTask):
    """The next token: softmax cross entropy at every position of a sequence.

    Outputs are logits (..., T, vocabulary). Targets are integers (..., T) in [0, vocabulary), the
    token that follows each position. Predictions are probabilities (..., T, vocabulary). The
    metrics are `accuracy`, the fraction of targets with the largest logit, and `bits`, the cross
    entropy in bits per token without smoothing. Loss and metrics are means over the positions whose
    target is not `ignore`. Targets outside of the vocabulary are handled as in `Classification`.

    Args:
        vocabulary: Number of tokens, at least 2.
        ignore: Target of positions that are excluded from loss and metrics, such as padding; None
            excludes none. Default: -100.
        label_smoothing: As in `Classification`. Default: 0.

    Raises:
        ValueError: `vocabulary` is less than 2.

    Reference: Shannon, Prediction and entropy of printed English, 1951.

    >>> import jax, jax.numpy as jnp
    >>> task = NextToken(32)
    >>> outputs, targets = jnp.zeros((2, 5, 32)), jnp.zeros((2, 5), int)
    >>> round(float(jax.jit(task.metrics)(outputs, targets)["bits"]), 5)  # log2 32
    5.0
    """

    vocabulary: Annotated[int, integer(2).such(hint="write train.NextToken(len(text.vocabulary))")]
    ignore: Annotated[int | None, ignored_label] = -100
    label_smoothing: Annotated[float, fraction] = 0.0
    _more_classes = "train.NextToken(n)"

    @property
    def outputs(self) -> int:
        """One logit per token."""
        return self.vocabulary

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean of -log softmax(outputs)[target], token accuracy, and bits per token."""
        logits, labels = self._wide(outputs, targets), self._labels(targets, weights)
        plain = loss = cross_entropy(logits, labels)
        if is_traced(self.label_smoothing) or self.label_smoothing:
            loss = cross_entropy(logits, labels, self.label_smoothing)
        return {
            "loss": loss,
            "accuracy": labels.accuracy(jnp.argmax(outputs, -1)),
            "bits": Ratio(plain.sum / math.log(2), plain.count, maximize=False),
        }


class _YesOrNo(LabelTask):
    """Base of the tasks whose outputs are logits of yes, with `pos_weight` and `focal_gamma`."""

    @property
    def classes(self) -> int:
        """Two: no and yes."""
        return 2

    def measure(self: Any, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean sigmoid cross entropy of the logits, and the accuracy."""
        logits = self._wide(outputs, targets)
        if self._axis is not None and jnp.issubdtype(targets.dtype, jnp.floating):
            known = (targets >= 0) & (targets <= 1)
            labels = self._numbers(targets, weights).valid_where(known)
        else:
            labels = self._labels(targets, weights)
        logits = labels.select(logits)
        yes = labels.targets.astype(logits.dtype)
        gamma = self.focal_gamma
        if self.pos_weight is None and not is_traced(gamma) and gamma == 0:
            losses = optax.sigmoid_binary_cross_entropy(logits, yes)
        else:
            given = 1 if self.pos_weight is None else self.pos_weight
            weight = jnp.broadcast_to(jnp.asarray(given, logits.dtype), logits.shape)
            losses = weight * yes * focal(-jax.nn.log_sigmoid(logits), gamma)
            losses += (1 - yes) * focal(-jax.nn.log_sigmoid(-logits), gamma)
        accuracy = labels._replace(targets=yes > 0.5).accuracy(logits > 0)
        return {"loss": labels.ratio(losses), "accuracy": accuracy}


class BinaryClassification(_YesOrNo):
    """Yes or no: sigmoid cross entropy of one output.

    Outputs are logits (..., 1), targets are integers 0 or 1 (...), and predictions are the
    probability of 1 (...). The metric is `accuracy`. Targets other than 0 and 1 are handled like
    labels out of range in `Classification`.

    Args:
        ignore: Target of examples that are excluded from loss and metrics; None excludes none.
            Default: -100.
        pos_weight: Factor of the loss of examples with target 1, as in torch.nn.BCEWithLogitsLoss.
            The loss is divided by the number of examples. Default: None, 1.
        focal_gamma: Exponent g >= 0 of the focal loss, which multiplies each -log p by
            `(1 - p)**g`. The factors alpha and 1 - alpha of torchvision's focal loss correspond to
            pos_weight=alpha / (1 - alpha) and a factor 1 - alpha of the whole loss. Default: 0,
            cross entropy.

    >>> import jax.numpy as jnp
    >>> BinaryClassification().predict(jnp.zeros((1, 1))).tolist()
    [0.5]
    """

    ignore: Annotated[int | None, ignored_label] = -100
    pos_weight: Annotated[float | None, None | number(0).such(hint="write pos_weight=2.0")] = None
    focal_gamma: Annotated[float, exponent] = 0.0
    _other_targets = SEVERAL

    @property
    def outputs(self) -> int:
        """One logit."""
        return 1


class MultiLabelClassification(_YesOrNo):
    """Several yes-or-no labels per example: sigmoid cross entropy of each.

    Outputs are logits (..., number). Targets are integers or booleans, 0 or 1, or floating-point
    probabilities in [0, 1], of shape (..., number). Predictions are probabilities (..., number).
    The metric is `accuracy`, the fraction of all labels that are predicted correctly, which equals
    1 - Hamming loss. Loss and metrics are means over all labels of all examples. Other targets give
    NaN, as in `Classification`. Example weights have one number per example or per label.

    Args:
        number: Number of labels per example, at least 1.
        ignore: Target of labels that are excluded, such as unknown labels; None excludes none. It
            does not apply to floating-point targets; use example weights instead. Default: -100.
        pos_weight: Factor of the loss of labels with target 1, or a tuple of `number` factors, as
            in torch.nn.BCEWithLogitsLoss. Default: None, 1.
        focal_gamma: Exponent g >= 0 of the focal loss, which multiplies each -log p by
            `(1 - p)**g`. Default: 0, cross entropy.

    >>> import jax.numpy as jnp
    >>> task = MultiLabelClassification(3)
    >>> found = task.measure(jnp.array([[2.0, -1.0, 0.5]]), jnp.array([[1, 0, 0]]))
    >>> f"{found['accuracy']:.3f}"
    '0.667'
    """

    number: Annotated[
        int, integer(1).such(hint="write train.MultiLabelClassification(y.shape[-1])")
    ]
    ignore: Annotated[int | None, ignored_label] = -100
    pos_weight: Annotated[float | tuple[float, ...] | None, factors] = None
    focal_gamma: Annotated[float, exponent] = 0.0
    _other_targets = "train.MultiLabelClassification(targets.shape[-1])"

    def __post_init__(self) -> None:
        """Check the number of weights."""
        if isinstance(self.pos_weight, tuple):
            _check_length(self, "pos_weight", self.pos_weight)

    @property
    def _axis(self) -> int:  # type: ignore[override]
        return self.number


def _check_length(task: Task, name: str, weights: Any) -> None:
    """Raise ValueError unless `weights` is a tuple with one number per output."""
    count = task.outputs
    several = tuple_of(number(), f"a tuple of {count} numbers", (count,))
    several(weights, f"{type(task).__name__}.{name}", f"write {name}=(1.0,) * {count}")
