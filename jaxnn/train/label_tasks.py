"""Tasks for labels with other losses than softmax cross entropy: Dice, hinge, ordinal, and CTC."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from ..explain.text import describe
from ..functional.gradients import picked
from ..validation import Accepts, integer, natural, number, positive
from .classification import SEVERAL, ignored_label
from .examples import WeightedTargets, per_target, wide
from .metrics import Direction, Ratio
from .task import Task

real: Accepts = number()
nonnegative: Accepts = number(0)


class Dice(Task):
    """Segmentation: the Dice loss of each class, or the Tversky loss for other `alpha` and `beta`.

    For each example and class, with sums over the positions of the example, the loss is

        1 - (TP + s) / (TP + alpha FP + beta FN + s)

    TP is the sum of the predicted probabilities of the class over its positions, FP is their sum
    over all other positions, and FN is the number of positions of the class minus TP. The loss is
    the mean over examples and classes. Outputs are logits (n, ..., number): of a softmax, or of a
    sigmoid for number=1. Targets are integer labels (n, ...) in [0, number), 0 or 1 for number=1.
    Predictions are probabilities. The metric is `accuracy`, the fraction of correct labels. Example
    weights per row are factors of the losses of rows, and weights per position are factors of TP,
    FP, and FN.

    Args:
        number: Number of classes. Default: 1, the positions of one class against all others.
        alpha: Factor of false positives. Default: 0.5.
        beta: Factor of false negatives. Default: 0.5; both are 0.5 for Dice, 1 for Jaccard.
        smooth: The number s. Default: 1e-5.
        ignore: Label of positions that are excluded; None excludes none. Default: -100.

    References: Milletari et al., V-Net, 2016; Salehi et al., Tversky loss function, 2017.

    >>> import jax.numpy as jnp
    >>> task = Dice(smooth=0.0)
    >>> f"{task(jnp.zeros((1, 4, 1)), jnp.array([[1, 1, 0, 0]])):.3f}"  # 1 - 1 / (1 + 1/2 + 1/2)
    '0.500'
    """

    number: Annotated[int, positive.such(hint="write train.Dice(3) for three classes")] = 1
    alpha: Annotated[float, nonnegative] = 0.5
    beta: Annotated[float, nonnegative] = 0.5
    smooth: Annotated[float, nonnegative] = 1e-5
    ignore: Annotated[int | None, ignored_label] = -100
    directions: ClassVar[Mapping[str, Direction]] = {"accuracy": "maximize"}
    _other_targets = "train.Dice(n) for integer labels of n classes"

    @property
    def outputs(self) -> int:
        """One logit per class."""
        return self.number

    @property
    def classes(self) -> int:
        """Number of classes of the labels."""
        return max(self.number, 2)

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean of 1 - the index of each example and class, and the accuracy."""
        logits = self._wide(outputs, targets)
        by_row = weights is not None and jnp.ndim(weights) == 1 < jnp.ndim(targets)
        # A factor of all positions of a row would cancel in the ratio, so it multiplies the loss.
        inside = (jnp.asarray(weights) != 0).astype(logits.dtype) if by_row else weights
        labels = self._labels(targets, inside)
        logits = labels.select(logits)
        counts = 1.0 if labels.counts is None else labels.counts[..., None]
        if self.number == 1:
            chosen, predicted = labels.targets[..., None], logits > 0
            probabilities = jax.nn.sigmoid(logits)[..., None]
        else:
            chosen, predicted = jax.nn.one_hot(labels.targets, self.number), jnp.argmax(logits, -1)
            probabilities = jax.nn.softmax(logits)
        chosen = counts * chosen.astype(logits.dtype)
        positions = tuple(range(1, chosen.ndim - 1))
        hits = jnp.sum(probabilities * chosen, positions)
        missed = jnp.sum(chosen, positions) - hits
        wrong = jnp.sum(probabilities * counts, positions) - hits
        divisor = hits + self.alpha * wrong + self.beta * missed + self.smooth
        safe = jnp.where(divisor == 0, 1, divisor)
        losses = 1 - jnp.mean(jnp.where(divisor == 0, 1, (hits + self.smooth) / safe), -1)
        rows = losses.shape
        some = jnp.ones(rows, bool) if labels.kept is None else labels.kept
        some = some.any(axis=tuple(range(1, some.ndim)))
        factor = per_target(repr(self), weights if by_row else jnp.ones(rows), rows)
        factor = some * jnp.asarray(factor, losses.dtype)
        loss = jnp.sum(jnp.where(some, losses, 0) * factor)
        return {"loss": Ratio(loss, jnp.sum(factor)), "accuracy": labels.accuracy(predicted)}

    def predict(self, outputs: Any) -> jax.Array:
        """Return probabilities, of the one class or of each."""
        z = wide(outputs)
        return jax.nn.sigmoid(z[..., 0]) if self.number == 1 else jax.nn.softmax(z)


class Hinge(Task):
    """Classification by margins: the hinge loss, `max(0, m - s z)**p` for score z and s = 1 or -1.

    Outputs are scores (..., number). For number=1, targets are 0 (s = -1) or 1 (s = 1). For several
    classes, targets are labels in [0, number), and the loss of label y is the sum over the other
    classes c of `max(0, m - z[y] + z[c])**p / number`, as in torch.nn.MultiMarginLoss. Predictions
    are the scores. The metric is `accuracy`. Labels out of range and weights are handled as in
    `Classification`.

    Args:
        number: Number of classes. Default: 1, yes or no.
        margin: The margin m. Default: 1.
        power: The exponent p, 1 or 2. Default: 1.
        ignore: Label of examples that are excluded; None excludes none. Default: -100.

    Reference: Crammer and Singer, On the algorithmic implementation of multiclass kernel-based
    vector machines, 2001.

    >>> import jax.numpy as jnp
    >>> float(Hinge()(jnp.array([[0.5], [-3.0]]), jnp.array([1, 0])))  # (0.5 + 0) / 2
    0.25
    """

    number: Annotated[int, positive.such(hint="write train.Hinge(3) for three classes")] = 1
    margin: Annotated[float, real] = 1.0
    power: Literal[1, 2] = 1
    ignore: Annotated[int | None, ignored_label] = -100
    directions: ClassVar[Mapping[str, Direction]] = {"accuracy": "maximize"}
    _other_targets = SEVERAL

    @property
    def outputs(self) -> int:
        """One score per class, or one for yes."""
        return self.number

    @property
    def classes(self) -> int:
        """Number of classes of the labels."""
        return max(self.number, 2)

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean hinge loss, and the accuracy."""
        scores, labels = self._wide(outputs, targets), self._labels(targets, weights)
        scores = labels.select(scores)
        if self.number == 1:
            signs = 2 * labels.targets.astype(scores.dtype) - 1
            losses = jnp.maximum(0, self.margin - signs * scores) ** self.power
            return {"loss": labels.ratio(losses), "accuracy": labels.accuracy(scores > 0)}
        own = picked(scores, labels.targets)[..., None]
        terms = jnp.maximum(0, self.margin - own + scores) ** self.power
        others = jnp.arange(self.number) != labels.targets[..., None]
        losses = jnp.sum(jnp.where(others, terms, 0), -1) / self.number
        return {
            "loss": labels.ratio(losses),
            "accuracy": labels.accuracy(jnp.argmax(scores, -1)),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Return the scores."""
        return self._squeezed(wide(outputs))


class OrdinalRegression(Task):
    """Ordered labels: for each label except the last, predict whether the target is above it.

    Output k of (..., number - 1) is the logit of "the label is greater than k", and the loss is the
    sum of the sigmoid cross entropies of these answers. Targets are integer labels (...) in
    [0, number). Predictions are labels (...), int32: the number of positive logits. Metrics are
    `accuracy` and `mae`, the mean distance between predicted and target labels. Labels out of range
    and weights are handled as in `Classification`.

    Args:
        number: Number of labels, at least 2.
        ignore: Label of examples that are excluded; None excludes none. Default: -100.

    Reference: Niu et al., Ordinal regression with multiple output CNN, 2016.

    >>> import jax.numpy as jnp
    >>> task = OrdinalRegression(4)
    >>> round(float(task(jnp.zeros((1, 3)), jnp.array([2]))), 4)  # 3 log 2
    2.0794
    >>> task.predict(jnp.array([[2.0, 1.0, -1.0]])).tolist()
    [2]
    """

    number: Annotated[int, integer(2).such(hint="write train.OrdinalRegression(5)")]
    ignore: Annotated[int | None, ignored_label] = -100
    directions: ClassVar[Mapping[str, Direction]] = {"accuracy": "maximize", "mae": "minimize"}
    _more_classes = "train.OrdinalRegression(n)"

    @property
    def outputs(self) -> int:
        """One logit for each label except the last."""
        return self.number - 1

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.number

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the cross entropy of all answers, the accuracy, and the mean distance."""
        shown = self._wide(outputs, targets)
        logits = shown[..., None] if self.outputs == 1 else shown
        labels = self._labels(targets, weights)
        logits = labels.select(logits)
        above = labels.targets[..., None] > jnp.arange(self.outputs)
        losses = optax.sigmoid_binary_cross_entropy(logits, above.astype(logits.dtype)).sum(-1)
        ranks = self.predict(logits)
        distances = jnp.abs(ranks - labels.targets).astype(logits.dtype)
        return {
            "loss": labels.ratio(losses),
            "accuracy": labels.accuracy(ranks),
            "mae": labels.ratio(distances, maximize=False),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Return labels: the number of positive logits."""
        return jnp.sum(jnp.asarray(outputs) > 0, -1, dtype=jnp.int32)


class CTC(Task):
    """Sequences of labels without an alignment: connectionist temporal classification.

    The loss is -log of the total probability of all alignments of the labels with the frames.
    Outputs are logits (n, T, number) for T frames, one of whose classes is the blank. Targets are
    labels (n, L), padded with `ignore`, or a tuple (labels, frames), whose second array (n,) has
    the number of valid frames of each row. The loss is the mean over the rows, as in keras, and is
    infinite if the labels of a row do not fit into its frames. Weights are numbers per row.
    Predictions are the labels (n, T) of the best path, without repetitions and blanks, padded with
    `ignore`.

    Args:
        number: Number of classes, including the blank.
        blank: Class of frames without a label. Default: 0.
        ignore: Padding of the labels. Default: -100.

    Reference: Graves et al., Connectionist temporal classification, 2006.

    >>> import jax.numpy as jnp
    >>> task = CTC(2)
    >>> round(float(task(jnp.zeros((1, 2, 2)), jnp.array([[1]]))), 4)  # -log(3 / 4)
    0.2877
    >>> task.predict(jnp.array([[[0.0, 9], [0, 9], [9, 0], [0, 9]]])).tolist()
    [[1, 1, -100, -100]]
    """

    number: Annotated[int, integer(2).such(hint="write train.CTC(len(letters) + 1)")]
    blank: Annotated[int, natural] = 0
    ignore: Annotated[int, integer(high=-1).such(hint="write ignore=-100")] = -100

    @property
    def outputs(self) -> int:
        """One logit per class, including the blank."""
        return self.number

    @property
    def classes(self) -> int:
        """Number of classes of the labels."""
        return self.number

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean of -log p(labels) over the rows."""
        labels, frames = targets if isinstance(targets, tuple | list) else (targets, None)
        logits, shape = wide(outputs), jnp.shape(labels)
        n, steps = logits.shape[0], logits.shape[-2]
        if len(shape) != 2 or logits.shape != (shape[0], steps, self.number):
            raise ValueError(
                f"{self!r} needs outputs (n, T, {self.number}) and labels (n, L), got outputs "
                f"{describe(outputs)} for labels {describe(labels)}; end the network with "
                f"nn.Dense({self.number})"
            )
        found = self._labels(labels)
        found = found.valid_where(found.targets != self.blank)
        assert found.kept is not None
        # optax accepts padding only at the end.
        order = jnp.argsort(~found.kept, axis=-1, stable=True)
        kept, tokens = (jnp.take_along_axis(a, order, -1) for a in (found.kept, found.targets))
        lengths = jnp.full(n, steps) if frames is None else jnp.asarray(frames)
        hidden = jnp.arange(steps) >= lengths[:, None]
        rows = WeightedTargets.of_numbers(repr(self), jnp.zeros(n), weights)
        rows = rows.valid_where(jnp.isfinite(found.counts).all(-1))
        logits = rows.select(jnp.where(hidden[..., None], 0, logits))
        padding = [a.astype(logits.dtype) for a in (hidden, ~kept)]
        losses = optax.ctc_loss(logits, padding[0], tokens, padding[1], blank_id=self.blank)
        repeated = (tokens[:, 1:] == tokens[:, :-1]) & kept[:, 1:]
        fits = kept.sum(-1) + repeated.sum(-1) <= lengths
        return {"loss": rows.ratio(jnp.where(fits, losses, jnp.inf))}

    def predict(self, outputs: Any) -> jax.Array:
        """Return the labels of the best path, (n, T)."""
        best = jnp.argmax(outputs, -1).astype(jnp.int32)
        before = jnp.pad(best[..., :-1], [(0, 0)] * (best.ndim - 1) + [(1, 0)], constant_values=-1)
        kept = (best != self.blank) & (best != before)
        order = jnp.argsort(~kept, axis=-1, stable=True)
        return jnp.take_along_axis(jnp.where(kept, best, self.ignore), order, -1)
