"""Further losses as tasks: of labels (Dice, Hinge, CTC), and of embeddings and pairs of scores.

`Triplet`, `InfoNCE`, and `MarginRanking` compare the outputs of several inputs: metric learning and
ranking.
"""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from ..explain.text import describe
from ..functional.gradients import picked
from ..validation import Accepts, above, integer, natural, number, positive, require
from .classification import SEVERAL, LabelTask, ignored_label
from .examples import WeightedTargets, check_shapes, per_target, wide
from .metrics import Ratio
from .task import Task

real: Accepts = number()
nonnegative: Accepts = number(0)
_SCALAR = Accepts("a number", lambda value: jnp.shape(value) == (), abstract=True)


class Dice(LabelTask):
    """Segmentation: the Dice loss of each class, or the Tversky loss for other `alpha` and `beta`.

    For each example and class, with sums over the positions of the example, the loss is

        1 - (TP + s) / (TP + alpha FP + beta FN + s)

    TP is the sum of the predicted probabilities of the class over its positions, FP is their sum
    over all other positions, and FN is the number of positions of the class minus TP. The loss is
    the mean over examples and classes. Outputs are logits (n, ..., number): of a softmax, or of a
    sigmoid for number=1. Targets are integer labels (n, ...) in [0, number), 0 or 1 for number=1.
    Predictions are probabilities. The metric is `accuracy`, the fraction of correct labels. A
    weight per row multiplies the loss of the row; a weight per position multiplies the terms of the
    position in TP, FP, and FN.

    Args:
        number: Number of classes. Default: 1, the positions of one class against all others.
        alpha: Factor of false positives. Default: 0.5.
        beta: Factor of false negatives. Default: 0.5; both are 0.5 for Dice, 1 for Jaccard.
        smooth: Term s, which keeps the ratio finite without positions. Default: 1e-5.
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
    _other_targets = "train.Dice(n) for integer labels of n classes"

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


class Hinge(LabelTask):
    """Classification by margins: the hinge loss, `max(0, m - s z)**p` for score z and sign s.

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
    _other_targets = SEVERAL

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean hinge loss, and the accuracy."""
        scores, labels = self._wide(outputs, targets), self._labels(targets, weights)
        scores = labels.select(scores)
        if self.number == 1:
            signs = 2 * labels.targets.astype(scores.dtype) - 1
            losses = jnp.maximum(0, self.margin - signs * scores) ** self.power
            predicted = scores > 0
        else:
            own = picked(scores, labels.targets)[..., None]
            terms = jnp.maximum(0, self.margin - own + scores) ** self.power
            others = jnp.arange(self.number) != labels.targets[..., None]
            losses = jnp.sum(jnp.where(others, terms, 0), -1) / self.number
            predicted = jnp.argmax(scores, -1)
        return {"loss": labels.ratio(losses), "accuracy": labels.accuracy(predicted)}

    def predict(self, outputs: Any) -> jax.Array:
        """Return the scores."""
        return self._squeezed(outputs)


class CTC(LabelTask):
    """Sequences of labels without an alignment: connectionist temporal classification.

    The loss is -log of the total probability of all alignments of the labels with the frames.
    Outputs are logits (n, T, number) of T frames; one of the classes is the blank. Targets are
    labels (n, L), padded with `ignore`, or a tuple (labels, frames), whose second array (n,) has
    the number of valid frames of each row. The loss is the mean over the rows, as in keras. It is
    infinite if the labels of a row do not fit into its frames, and NaN if a label is the blank or
    out of range. Example weights have one number per row. Predictions are the labels (n, T) of the
    best path over all T frames, without repetitions and blanks, padded with `ignore`.

    Args:
        number: Number of classes, including the blank, at least 2.
        blank: Class of frames without a label. Default: 0.
        ignore: Padding of the labels, a negative number. Default: -100.

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
        rows = self._numbers(jnp.zeros(n), weights)
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


class _OfRows(Task):
    """Base of the tasks whose outputs are compared with each other: predictions are outputs."""

    def predict(self, outputs: Any) -> Any:
        """Return the outputs."""
        return outputs

    def _several(self, outputs: Any, names: str, axes: int) -> list[jax.Array]:
        """Return the outputs in at least float32; ValueError unless all have one shape."""
        count, shape = len(names.split(", ")), "(n, features)" if axes == 2 else "(n,)"

        fits = isinstance(outputs, tuple | list) and len(outputs) == count
        require(
            fits and len({*map(jnp.shape, outputs)}) == 1 and jnp.ndim(outputs[0]) == axes,
            f"outputs for {self!r}",
            f"({names}), {count} arrays {shape}",
            outputs,
            "return such a tuple from the forward of the network",
        )
        return [wide(one) for one in outputs]


def _distance(difference: jax.Array) -> jax.Array:
    """Return lengths of differences plus 1e-6, as in torch, so that the gradient exists at 0."""
    return jnp.sqrt(jnp.sum(jnp.square(difference + 1e-6), -1))


class Triplet(_OfRows):
    """Embeddings: an anchor is closer to a positive than to a negative, by a margin.

    The loss is max(0, d(a, p) - d(a, n) + margin) with the Euclidean distance d, as in
    torch.nn.TripletMarginLoss. Outputs are either a tuple (anchors, positives, negatives) of three
    arrays (n, features), with None as targets, or embeddings (n, features) with integer labels (n,)
    as targets. With labels, each row is an anchor; its positive is the most distant other row with
    its label, and its negative is the closest row with another label. Rows that lack one of them
    are excluded. The metric is `accuracy`, the fraction of anchors that are closer to the positive.
    Example weights have one number per row; rows with weight 0 are excluded.

    Args:
        margin: Smallest difference of distances for which the loss is 0. Default: 1.

    References: Schroff et al., FaceNet, 2015; Hermans et al., In defense of the triplet loss for
    person re-identification, 2017 (hard triplets by labels).

    >>> import jax.numpy as jnp
    >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]]), jnp.array([[6.0, 8.0]])
    >>> round(float(Triplet(margin=6.0)((a, p, n), None)), 4)  # 5 - 10 + 6
    1.0
    >>> x, labels = jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1])
    >>> round(float(Triplet(margin=2.0)(x, labels)), 4)  # (2 - 5 + 2 -> 0, 2 - 3 + 2) / 2
    0.5
    """

    margin: Annotated[float, number().such(hint="write train.Triplet(margin=0.2)")] = 1.0

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean loss of the triplets, and the fraction of them in order."""
        if targets is None or isinstance(outputs, tuple | list):
            names = "anchors, positives, negatives"
            anchors, positives, negatives = self._several(outputs, names, 2)
            rows = self._numbers(jnp.zeros(len(anchors)), weights)
            near = _distance(rows.select(anchors) - rows.select(positives))
            far = _distance(rows.select(anchors) - rows.select(negatives))
        else:
            rows, near, far = self._hardest(wide(outputs), targets, weights)
        return {
            "loss": rows.ratio(jnp.maximum(0, near - far + self.margin)),
            "accuracy": rows.ratio((near < far).astype(near.dtype), maximize=True),
        }

    def _hardest(
        self, embeddings: jax.Array, labels: Any, weights: Any
    ) -> tuple[WeightedTargets, jax.Array, jax.Array]:
        """Return the anchors, and the distances to their hardest positives and negatives."""
        n = len(embeddings)
        if embeddings.ndim != 2 or jnp.shape(labels) != (n,):
            raise ValueError(
                f"{self!r} needs embeddings (n, features) and labels (n,), got "
                f"{describe(embeddings)} and {describe(labels)}; a network that returns the tuple "
                "(anchors, positives, negatives) has targets None"
            )
        labels = jnp.asarray(labels)
        rows = self._numbers(jnp.zeros(n), weights)
        embeddings = rows.select(embeddings)
        distances = _distance(embeddings[:, None] - embeddings)
        kept = jnp.ones(n, bool) if rows.kept is None else rows.kept
        same = labels[:, None] == labels
        positive = same & kept & ~jnp.eye(n, dtype=bool)
        negative = ~same & kept
        near = jnp.max(jnp.where(positive, distances, 0), -1)
        far = jnp.min(jnp.where(negative, distances, jnp.inf), -1)
        some = positive.any(-1) & negative.any(-1) & kept
        counts = jnp.where(some, jnp.ones(n) if rows.counts is None else rows.counts, 0)
        return WeightedTargets(rows.targets, some, counts), near, jnp.where(some, far, 0)


class InfoNCE(_OfRows):
    """Contrastive learning of pairs: each query finds its key among the keys of the batch.

    Outputs are a tuple (queries, keys) of two arrays (n, features); row i of both is a pair, and
    the other rows are negatives. Targets are None. The loss is the mean of -log softmax(s[i])[i],
    in which the similarity s[i, j] is the cosine of query i and key j, divided by the temperature.
    If outputs are a tuple (queries, keys, scale), as those of `models.CLIP`, the cosine is
    multiplied by this scale instead. If `symmetric`, the loss is averaged with the same loss for
    each key among the queries, as in CLIP. The metric is `accuracy`, the fraction of queries whose
    own key is the most similar. Example weights have one number per row; rows with weight 0 are
    neither pairs nor negatives.

    Args:
        temperature: Divisor of the cosines, unless the network returns a scale. Default: 0.1.
        symmetric: Whether the loss for each key among the queries is included. Default: True.

    References: van den Oord et al., Representation learning with contrastive predictive coding,
    2018; Radford et al., Learning transferable visual models from natural language supervision,
    2021.

    >>> import jax.numpy as jnp
    >>> task = InfoNCE(temperature=1.0)
    >>> round(float(task((jnp.eye(2), jnp.eye(2)), None)), 4)  # log(1 + exp(-1))
    0.3133
    """

    temperature: Annotated[float, above(0).such(hint="write temperature=0.1")] = 0.1
    symmetric: bool = True

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean cross entropy of the pairs, and the accuracy."""
        scale: Any = 1 / self.temperature
        if isinstance(outputs, tuple | list) and len(outputs) == 3:
            *outputs, scale = outputs
            _SCALAR(scale, "the scale of InfoNCE")
        pairs = self._several(outputs, "queries, keys", 2)
        rows = self._numbers(jnp.zeros(len(pairs[0])), weights)
        queries, keys = (_unit(rows.select(a)) for a in pairs)
        similar = jnp.matmul(queries, keys.T, precision="highest")
        similar = similar * jnp.asarray(scale, similar.dtype)
        own = jnp.diagonal(similar)
        if rows.kept is not None:
            similar = jnp.where(rows.kept[:, None] & rows.kept, similar, -jnp.inf)
            similar = jnp.where(jnp.eye(len(own), dtype=bool), own, similar)
        losses = jax.nn.logsumexp(similar, -1) - own
        if self.symmetric:
            losses = (losses + jax.nn.logsumexp(similar, 0) - own) / 2
        found = own >= jnp.max(similar, -1)
        return {
            "loss": rows.ratio(losses),
            "accuracy": rows.ratio(found.astype(own.dtype), maximize=True),
        }


def _unit(rows: jax.Array) -> jax.Array:
    """Return rows scaled to length 1; a row of zeros stays zero, and its gradient is zero."""
    squares = jnp.sum(jnp.square(rows), -1, keepdims=True)
    some = squares > 0
    return jnp.where(some, rows * jax.lax.rsqrt(jnp.where(some, squares, 1)), 0)


class MarginRanking(_OfRows):
    """Ranking of pairs: max(0, -y (a - b) + margin) for scores a and b, and y = 1 or -1.

    Outputs are a tuple (first, second) of two arrays of scores (n,). Targets y are 1 if the first
    should be ranked higher, and -1 otherwise. The metric is `accuracy`, the fraction of pairs in
    this order. The loss is that of torch.nn.MarginRankingLoss. A target other than 1 and -1 makes
    loss and metric NaN. Example weights have one number per row.

    Args:
        margin: Smallest difference of scores for which the loss is 0. Default: 0.

    Reference: Herbrich et al., Large margin rank boundaries for ordinal regression, 2000.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([1.0, 0.0]), jnp.array([0.5, 2.0])
    >>> float(MarginRanking(margin=1.0)(scores, jnp.array([1, -1])))  # (0.5 + 0) / 2
    0.25
    """

    margin: Annotated[float, number().such(hint="write margin=1.0")] = 0.0

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean loss of the pairs, and the fraction of them in order."""
        first, second = self._several(outputs, "first, second", 1)
        hint = "write targets.reshape(-1), 1 or -1 for each pair"
        check_shapes(repr(self), first, targets, jnp.shape(targets), hint=hint)
        pairs = self._numbers(jnp.asarray(targets, first.dtype), weights)
        pairs = pairs.valid_where(jnp.abs(pairs.targets) == 1)
        gains = pairs.targets * (pairs.select(first) - pairs.select(second))
        return {
            "loss": pairs.ratio(jnp.maximum(0, self.margin - gains)),
            "accuracy": pairs.ratio((gains > 0).astype(gains.dtype), maximize=True),
        }
