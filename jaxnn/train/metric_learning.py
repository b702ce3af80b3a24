"""Metric learning and ranking: losses that compare the outputs of several inputs."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ..explain.text import describe
from ..validation import above, number, require
from .examples import WeightedTargets, wide
from .metrics import Direction
from .task import Task


class _OfRows(Task):
    """Base of the tasks whose outputs are compared with each other: predictions are outputs."""

    def predict(self, outputs: Any) -> Any:
        """Return the outputs."""
        return outputs

    def _several(self, outputs: Any, names: str, axes: int) -> list[jax.Array]:
        """Return a tuple of outputs of one shape in at least float32; otherwise ValueError."""
        count = len(names.split(", "))
        if isinstance(outputs, tuple | list) and len(outputs) == count:
            arrays = [wide(one) for one in outputs]
            if len({a.shape for a in arrays}) == 1 and arrays[0].ndim == axes:
                return arrays
        shape = "(n, features)" if axes == 2 else "(n,)"
        raise ValueError(
            f"{self!r} needs outputs ({names}), {count} arrays {shape}, got {describe(outputs)}; "
            f"return such a tuple from the forward of the network"
        )


def _distance(difference: jax.Array) -> jax.Array:
    """Return the length of differences, 1e-6 added as by torch: it has a gradient at 0."""
    return jnp.sqrt(jnp.sum(jnp.square(difference + 1e-6), -1))


class Triplet(_OfRows):
    """Embeddings: an anchor is closer to a positive than to a negative, by a margin.

    The loss is max(0, d(a, p) - d(a, n) + margin) with the Euclidean distance d, as in
    torch.nn.TripletMarginLoss. Outputs are either a tuple (anchors, positives, negatives) of three
    arrays (n, features), with None as targets, or embeddings (n, features) with integer labels (n,)
    as targets. With labels, each row is an anchor; its positive is the most distant row with
    its label, and its negative is the closest row with another label. Rows without either are
    excluded.
    The metric is `accuracy`, the fraction of anchors that are closer to the positive. Weights are
    numbers per row; rows with the weight 0 are excluded.

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
    directions: ClassVar[Mapping[str, Direction]] = {"accuracy": "maximize"}

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean loss of the triplets, and the fraction of them in order."""
        if targets is None or isinstance(outputs, tuple | list):
            names = "anchors, positives, negatives"
            anchors, positives, negatives = self._several(outputs, names, 2)
            rows = WeightedTargets.of_numbers(repr(self), jnp.zeros(len(anchors)), weights)
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
        """Return the rows that are anchors, and their hardest distances by labels."""
        n = len(embeddings)
        if embeddings.ndim != 2 or jnp.shape(labels) != (n,):
            raise ValueError(
                f"{self!r} needs embeddings (n, features) and labels (n,), got "
                f"{describe(embeddings)} and {describe(labels)}; a network that returns the tuple "
                "(anchors, positives, negatives) has targets None"
            )
        labels = jnp.asarray(labels)
        rows = WeightedTargets.of_numbers(repr(self), jnp.zeros(n), weights)
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
    the other rows are negatives. Targets are None. With similarities s[i, j], the cosine of query i
    and key j divided by the temperature, or times a learned `scale` if outputs are a tuple
    (queries, keys, scale) as those of `models.CLIP`, the loss is the mean of -log softmax(s[i])[i]. If
    `symmetric`, it is averaged with the same loss for each key among the queries, as in CLIP. The
    metric is `accuracy`, the fraction of queries whose own key is the most similar. Weights are
    numbers per row; rows with the weight 0 are neither pairs nor negatives.

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
    directions: ClassVar[Mapping[str, Direction]] = {"accuracy": "maximize"}

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean cross entropy of the pairs, and the fraction of them found."""
        scale: Any = 1 / self.temperature
        if isinstance(outputs, tuple | list) and len(outputs) == 3:
            *outputs, scale = outputs
            require(jnp.shape(scale) == (), "the scale of InfoNCE", "a number", scale)
        pairs = self._several(outputs, "queries, keys", 2)
        rows = WeightedTargets.of_numbers(repr(self), jnp.zeros(len(pairs[0])), weights)
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
    """Return rows of length 1; a row of zeros remains, with the gradient zero."""
    squares = jnp.sum(jnp.square(rows), -1, keepdims=True)
    some = squares > 0
    return jnp.where(some, rows * jax.lax.rsqrt(jnp.where(some, squares, 1)), 0)


class MarginRanking(_OfRows):
    """Ranking of pairs: max(0, -y (a - b) + margin) for scores a and b, and y = 1 or -1.

    Outputs are a tuple (first, second) of two arrays of scores (n,). Targets y are 1 if the first
    is to be ranked higher, and -1 otherwise. The metric is `accuracy`, the fraction of pairs in
    this order. The loss is that of torch.nn.MarginRankingLoss. A target other than 1 and -1 makes
    loss and metric NaN. Weights are numbers per row.

    Args:
        margin: Smallest difference of scores for which the loss is 0. Default: 0.

    Reference: Herbrich et al., Large margin rank boundaries for ordinal regression, 2000.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([1.0, 0.0]), jnp.array([0.5, 2.0])
    >>> float(MarginRanking(margin=1.0)(scores, jnp.array([1, -1])))  # (0.5 + 0) / 2
    0.25
    """

    margin: Annotated[float, number().such(hint="write margin=1.0")] = 0.0
    directions: ClassVar[Mapping[str, Direction]] = {"accuracy": "maximize"}

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean loss of the pairs, and the fraction of them in order."""
        first, second = self._several(outputs, "first, second", 1)
        if jnp.shape(targets) != first.shape:
            raise ValueError(
                f"{self!r} needs targets of shape {first.shape}, 1 or -1 for each pair, got "
                f"{describe(targets)}; write targets.reshape(-1)"
            )
        pairs = WeightedTargets.of_numbers(repr(self), jnp.asarray(targets, first.dtype), weights)
        pairs = pairs.valid_where(jnp.abs(pairs.targets) == 1)
        gains = pairs.targets * (pairs.select(first) - pairs.select(second))
        return {
            "loss": pairs.ratio(jnp.maximum(0, self.margin - gains)),
            "accuracy": pairs.ratio((gains > 0).astype(gains.dtype), maximize=True),
        }
