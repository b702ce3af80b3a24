"""Tasks whose targets are labels: one of several classes, tokens, yes or no, several yes or no."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..fields import is_traced
from .labels import (
    Labels,
    accuracy,
    check_ignore,
    cross_entropy,
    soft_cross_entropy,
    weights_like,
    wide,
)
from .metrics import Ratio
from .task import Task


class _OneOfSeveral(Task):
    """Base of the tasks whose outputs are a logit for each of several classes."""

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.outputs

    def predict(self, outputs: Any) -> jax.Array:
        """Softmax: a probability for each class."""
        return jax.nn.softmax(wide(outputs))


class Classification(_OneOfSeveral):
    """One of `number` classes: softmax cross entropy of integer labels, or of probabilities.

    Outputs are logits (..., number), targets integer labels (...) in [0, number), or a probability
    for each class (..., number), as `data.mixup` makes them; predictions are probabilities
    (..., number). The metric is `accuracy`, the fraction of correct labels; for probabilities, the
    label is the most probable class.

    A label outside of [0, number) gives a loss, gradient, and accuracy of NaN, and never those of
    another class. `train.fit` and `train.evaluate` raise ValueError when they meet one, and so does
    `nn.checkify`.

    Args:
        number: the number of classes, at least 2.
        ignore: the label of examples that are excluded from loss and metrics; None excludes none.
            The default is -100, as in torch.nn.CrossEntropyLoss. Without any other example the
            loss is 0 (torch gives NaN).
        label_smoothing: the share s of each label that is spread over all classes: 1 - s is added
            to s / number for the target, and s / number is the target of the others. In [0, 1],
            0 by default.
        class_weights: a tuple of `number` weights, None for 1 each. As in
            torch.nn.CrossEntropyLoss, the loss of integer labels divides by the sum of the weights
            of the labels, and that of probabilities by the number of examples. Metrics do not use
            them.

    Raises:
        ValueError: fewer than 2 classes, or another number of weights.

    References: Szegedy et al., Rethinking the inception architecture, 2016 (label smoothing).

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

    number: int
    ignore: int | None = -100
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    directions = {"accuracy": "maximize"}  # noqa: RUF012, no field
    _with_classes = "train.Classification({})"
    _several = "train.MultiLabelClassification({})"

    def __post_init__(self) -> None:
        """Check the number of classes, the ignored label, the smoothing, and the weights."""
        check_ignore(self)
        if not isinstance(self.number, int) or self.number < 2:
            raise ValueError(
                f"Classification wants at least 2 classes, got {self.number!r}; write "
                "train.BinaryClassification() for one yes-or-no output"
            )
        _check_smoothing(self)
        _check_weights(self, "class_weights", self.class_weights, self.number)

    @property
    def outputs(self) -> int:
        """One logit a class."""
        return self.number

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The mean of -log softmax(outputs)[target], or of its mean by the targets' probabilities;
        and the accuracy."""
        if targets.shape == outputs.shape and jnp.issubdtype(targets.dtype, jnp.floating):
            logits = self._wide(outputs, targets[..., 0], labels=False)
            weights = weights_like(weights, targets.shape[:-1], repr(self))
            labels = Labels.of(jnp.argmax(targets, -1), self.number, None, weights)
            known = jnp.isfinite(targets).all(-1)
            labels = labels._replace(valid=known if labels.kept is None else known | ~labels.kept)
            loss = soft_cross_entropy(
                logits, targets, labels, self.label_smoothing, self.class_weights
            )
        else:
            logits = self._wide(outputs, targets, labels=True)
            labels = self._labels(targets, weights)
            loss = cross_entropy(logits, labels, self.label_smoothing, self.class_weights)
        return {"loss": loss, "accuracy": accuracy(outputs, labels)}

    @property
    def _if_fractions(self) -> str:  # type: ignore[override]
        return f", or a probability for each class, (..., {self.number})"


class NextToken(_OneOfSeveral):
    """The next token: softmax cross entropy at every position of a sequence.

    Outputs are logits (..., T, vocabulary), targets integer tokens (..., T) in [0, vocabulary), the
    token that follows each position; predictions are probabilities (..., T, vocabulary). The
    metrics are `accuracy`, the fraction of tokens with the largest output, and `bits`, the cross
    entropy in bits per token, without smoothing. All are means over the positions whose target is
    not `ignore`. Targets outside of the vocabulary are treated as by `Classification`.

    Args:
        vocabulary: the number of tokens, at least 2.
        ignore: the target of positions that are excluded from loss and metrics, such as padding;
            -100 by default, None excludes none.
        label_smoothing: as in `Classification`; 0 by default.

    Raises:
        ValueError: fewer than 2 tokens.

    Reference: Shannon, Prediction and entropy of printed English, 1951.

    >>> import jax.numpy as jnp
    >>> task = NextToken(32)
    >>> outputs, targets = jnp.zeros((2, 5, 32)), jnp.zeros((2, 5), int)
    >>> round(float(task.metrics(outputs, targets)["bits"]), 5)  # log2 32
    5.0
    """

    vocabulary: int
    ignore: int | None = -100
    label_smoothing: float = 0.0
    directions = {"accuracy": "maximize", "bits": "minimize"}  # noqa: RUF012, no field
    _with_classes = "train.NextToken({})"

    def __post_init__(self) -> None:
        """Check the number of tokens, the ignored label, and the smoothing."""
        check_ignore(self)
        if not isinstance(self.vocabulary, int) or self.vocabulary < 2:
            raise ValueError(
                f"NextToken wants a vocabulary of at least 2 tokens, got {self.vocabulary!r}; "
                "write train.NextToken(len(text.vocabulary))"
            )
        _check_smoothing(self)

    @property
    def outputs(self) -> int:
        """One logit a token."""
        return self.vocabulary

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The mean of -log softmax(outputs)[target], token accuracy, and bits per token."""
        logits = self._wide(outputs, targets, labels=True)
        labels = self._labels(targets, weights)
        plain = cross_entropy(logits, labels)
        return {
            "loss": cross_entropy(logits, labels, self.label_smoothing),
            "accuracy": accuracy(outputs, labels),
            "bits": Ratio(plain.sum / math.log(2), plain.count, maximize=False),
        }


class BinaryClassification(Task):
    """Yes or no: sigmoid cross entropy of one output.

    Outputs are logits (..., 1), targets integers 0 or 1 (...), predictions the probability of 1
    (...). The metric is `accuracy`. Targets other than 0 and 1 are treated as labels out of range
    by `Classification`.

    Args:
        ignore: the target of examples that are excluded from loss and metrics; -100 by default,
            None excludes none.
        pos_weight: a factor on the loss of examples with target 1, as in
            torch.nn.BCEWithLogitsLoss; None for 1. The loss divides by the number of examples.

    >>> import jax.numpy as jnp
    >>> BinaryClassification().predict(jnp.zeros((1, 1))).tolist()
    [0.5]
    """

    ignore: int | None = -100
    pos_weight: float | None = None

    directions = {"accuracy": "maximize"}  # noqa: RUF012, no field
    _with_classes = "train.Classification({})"
    _several = "train.MultiLabelClassification({})"

    def __post_init__(self) -> None:
        """Check the ignored label and the weight."""
        check_ignore(self)
        _check_weights(self, "pos_weight", self.pos_weight, 0)

    @property
    def outputs(self) -> int:
        """One logit."""
        return 1

    @property
    def classes(self) -> int:
        """Two: no and yes."""
        return 2

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The mean of log(1 + exp(-s z)) for logit z and s = 1 or -1, and the accuracy."""
        logits = self._wide(outputs, targets, labels=True)
        labels = self._labels(targets, weights)
        return _yes_or_no(logits[..., 0], labels.number, labels, self.pos_weight)

    def predict(self, outputs: Any) -> jax.Array:
        """Sigmoid: the probability of 1."""
        return jax.nn.sigmoid(wide(outputs)[..., 0])

    _if_fractions = ", or train.MultiLabelClassification(1) with targets y[..., None] if they are "
    _if_fractions += "probabilities"


class MultiLabelClassification(Task):
    """Several yes-or-no labels per example: sigmoid cross entropy of each.

    Outputs are logits (..., number), targets 0 or 1 (..., number), integers or booleans, or floats,
    which are probabilities in [0, 1]; predictions are probabilities (..., number). The metric is
    `accuracy`, the fraction of all labels on the right side, which is 1 - hamming loss. Loss and
    metrics are means over all labels of all examples. Other targets give NaN, as in
    `Classification`. Weights have a number per example or per label.

    Args:
        number: the number of labels per example, at least 1.
        ignore: the target of labels that are excluded, such as unknown ones; -100 by default, None
            excludes none. Floats have no such target: write weights.
        pos_weight: a factor on the loss of labels with target 1, or a tuple of `number` factors, as
            in torch.nn.BCEWithLogitsLoss; None for 1.

    >>> import jax.numpy as jnp
    >>> task = MultiLabelClassification(3)
    >>> found = task.measure(jnp.array([[2.0, -1.0, 0.5]]), jnp.array([[1, 0, 0]]))
    >>> f"{found['accuracy']:.3f}"
    '0.667'
    """

    number: int
    ignore: int | None = -100
    pos_weight: float | tuple[float, ...] | None = None
    directions = {"accuracy": "maximize"}  # noqa: RUF012, no field
    _with_classes = ""
    _several = "train.MultiLabelClassification({})"
    _classes_per_output = 2
    _per_output = True

    def __post_init__(self) -> None:
        """Check the number of labels, the ignored one, and the weights."""
        check_ignore(self)
        if not isinstance(self.number, int) or self.number < 1:
            raise ValueError(
                f"MultiLabelClassification has at least 1 label per example, got {self.number!r}; "
                "write train.MultiLabelClassification(y.shape[-1])"
            )
        several = self.number if isinstance(self.pos_weight, tuple) else 0
        _check_weights(self, "pos_weight", self.pos_weight, several)

    @property
    def outputs(self) -> int:
        """One logit a label."""
        return self.number

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The mean of log(1 + exp(-s z)) for logit z and s = 1 or -1, and the accuracy."""
        logits = self._wide(outputs, targets, labels=False)
        weights = weights_like(weights, targets.shape, repr(self))
        if not jnp.issubdtype(targets.dtype, jnp.floating):
            labels = Labels.of(targets, 2, self.ignore, weights)
            return _yes_or_no(logits, labels.number, labels, self.pos_weight)
        kept = None if weights is None else weights != 0
        known = (targets >= 0) & (targets <= 1)
        labels = Labels(
            (targets > 0.5).astype(jnp.int32),
            kept,
            known if kept is None else known | ~kept,
            weights,
        )
        shown = targets if kept is None else jnp.where(kept, targets, 0)
        return _yes_or_no(logits, shown, labels, self.pos_weight)

    def predict(self, outputs: Any) -> jax.Array:
        """Sigmoid: the probability of each label."""
        return jax.nn.sigmoid(wide(outputs))


def _yes_or_no(logits: jax.Array, targets: jax.Array, labels: Labels, pos_weight: Any) -> Any:
    """Loss and accuracy of logits (...) and of the probabilities of yes."""
    logits = labels.select(logits[..., None])[..., 0]
    targets = targets.astype(logits.dtype)
    if pos_weight is None:
        losses = optax.sigmoid_binary_cross_entropy(logits, targets)
    else:
        factor = jnp.broadcast_to(jnp.asarray(pos_weight, logits.dtype), logits.shape)
        yes, no = -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)
        losses = factor * targets * yes + (1 - targets) * no
    correct = ((logits > 0) == (labels.number == 1)).astype(jnp.float32)
    return {"loss": labels.ratio(losses), "accuracy": labels.ratio(correct, maximize=True)}


def _check_smoothing(task: Any) -> None:
    share = task.label_smoothing
    if not is_traced(share) and (not isinstance(share, int | float) or not 0 <= share <= 1):
        raise ValueError(
            f"{type(task).__name__}.label_smoothing is a share in [0, 1], got {share!r}; write "
            "label_smoothing=0.1"
        )


def _check_weights(task: Any, name: str, weights: Any, number: int) -> None:
    """Raise for weights that are not `number` numbers >= 0, or one number if `number` is 0."""
    if weights is None:
        return
    given = weights if number else (weights,)
    example = f"({', '.join(['1.0'] * min(number, 3))}{', ...' if number > 3 else ''})"
    if not isinstance(given, tuple) or len(given) != (number or 1):
        raise ValueError(
            f"{type(task).__name__}.{name} is a tuple of {number} numbers, got "
            f"{weights!r}; write {name}={example}"
        )
    for one in given:
        if not is_traced(one) and (not isinstance(one, int | float) or not one >= 0):
            raise ValueError(
                f"{type(task).__name__}.{name} holds {one!r}, expected numbers >= 0; write "
                f"{name}={example if number else '2.0'}"
            )
