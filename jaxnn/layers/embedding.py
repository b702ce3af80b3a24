"""Embeddings: a table of vectors, looked up by token, one by one or in bags."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..fields import is_traced
from ..functional.checking import check_range
from ..functional.embedding import MODES, embed, embedding_bag
from ..functional.linear import linear
from ..functional.segments import check_segments
from ..initializers import InitFn, Initializer, Shape, variance_scaling
from .checks import check_positive


class zero_row(Initializer):
    """What `init` draws for a table, but for its row `row`, which is zeros.

    >>> from jaxnn.initializers import ones
    >>> zero_row(ones(), 1)(None, (3, 2))[:, 0].tolist()
    [1.0, 0.0, 1.0]
    """

    init: InitFn
    row: int

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """An array with a row of zeros."""
        drawn = self.init(key, shape, dtype)
        return jnp.where(np.arange(shape[0])[:, None] == self.row, 0, drawn)


class Embedding(Primitive):
    """y = w[ids].

    ids are integers (...), y is (..., features), w is (vocabulary, features) with variance
    1 / features. A token outside [0, vocabulary) raises ValueError where it is known while tracing,
    and gives NaN where it is not. Row `padding` of the table begins as zeros and, looked up, has no
    gradient, as in torch.nn.Embedding. Raises TypeError for ids that are not integers. `attend` is
    the output head that shares the table.

    >>> import jax, jax.numpy as jnp
    >>> net = Embedding(1000, 64)
    >>> params = net.init(jax.random.key(0), jnp.array([3, 7]))
    >>> jax.tree.map(jnp.shape, params)
    {'w': (1000, 64)}
    >>> net.apply(params, jnp.array([3, 7])).shape
    (2, 64)
    """

    vocabulary: int
    features: int
    padding: int | None = None
    w_init: InitFn = variance_scaling(1.0, "fan_out", "normal")

    def __post_init__(self) -> None:
        """Check the sizes and the token."""
        _check_table(self)

    def parameters(self) -> dict[str, Param]:
        """The table."""
        return {"w": _table(self)}

    def forward(self, params: Any, ids: jax.Array) -> jax.Array:
        """The rows of the table at `ids`."""
        _check_tokens(ids)
        _check_inside(ids, self)
        return embed(params["w"], ids, self.padding)

    def attend(self, params: Any, x: jax.Array) -> jax.Array:
        """x @ w.T: logits (..., vocabulary) of features (..., features), by the same table.

        Reference: Press and Wolf, Using the output embedding to improve language models, 2017.
        """
        if x.ndim == 0 or x.shape[-1] != self.features:
            raise ValueError(f"attend wants features (..., {self.features}), got {describe(x)}")
        return linear(x, params["w"].T)


class EmbeddingBag(Primitive):
    """y is the sum, mean or maximum of the rows w[ids] of a bag of tokens.

    ids are integers (..., n), y is (..., features), w is (vocabulary, features) with variance
    1 / features. `mode` is "mean", "sum" or "max". With `mode="sum"`, `weights` (..., n) multiply
    the rows. Tokens equal to `padding` are in no bag, nor are those where `segment_ids` (..., n) is
    0; a bag without any token gives zeros. With `bags`, a row holds as many bags, bag i being the
    tokens whose segment is i + 1, and y is (..., bags, features). Row `padding` of the table begins
    as zeros. Sums are taken in at least float32; y is in the type of the weights where that is
    floating, and of w elsewhere. As torch.nn.EmbeddingBag, whose offsets are segment_ids here; of
    equal maxima the first has the gradient.

    Raises TypeError for ids or segment_ids that are not integers, and ValueError for weights or
    segment_ids of another shape than ids, for weights in another mode than "sum", and for bags
    without segment_ids. A token outside [0, vocabulary) raises ValueError where it is known while
    tracing, and where it is not, gives NaN in its bag.

    >>> import jax, jax.numpy as jnp
    >>> net, ids = EmbeddingBag(1000, 64, padding=0), jnp.array([[3, 7, 9], [5, 0, 0]])
    >>> params = net.init(jax.random.key(0), ids)
    >>> jax.tree.map(jnp.shape, params)
    {'w': (1000, 64)}
    >>> net.apply(params, ids).shape
    (2, 64)
    """

    vocabulary: int
    features: int
    mode: str = "mean"
    padding: int | None = None
    bags: int | None = None
    w_init: InitFn = variance_scaling(1.0, "fan_out", "normal")

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_table(self)
        if self.mode not in MODES:
            raise ValueError(
                f"EmbeddingBag.mode is {', '.join(map(repr, MODES))}; got {self.mode!r}"
            )
        if self.bags is not None:
            check_positive(self, "bags")

    def parameters(self) -> dict[str, Param]:
        """The table."""
        return {"w": _table(self)}

    def forward(
        self,
        params: Any,
        ids: jax.Array,
        weights: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """One row for each bag."""
        _check_tokens(ids)
        if ids.ndim == 0:
            raise ValueError(f"wants tokens (..., n), got {describe(ids)}; write Embedding for one")
        if weights is not None and weights.shape != ids.shape:
            raise ValueError(
                f"wants weights of the shape of ids, {ids.shape}; got {describe(weights)}"
            )
        if segment_ids is not None:
            check_segments(segment_ids, ids.shape)
        if weights is not None and self.mode != "sum":
            raise ValueError(
                f"weighs the rows of a sum alone, but its mode is {self.mode!r}; write "
                "EmbeddingBag(..., mode='sum'), or leave out the weights"
            )
        if self.bags is not None and segment_ids is None:
            raise ValueError(
                f"packs {self.bags} bags in a row, but got no segment_ids; write "
                "net.apply(params, ids, segment_ids=segment_ids), integers from 1 on, 0 for no bag"
            )
        _check_inside(ids, self, segment_ids)
        return embedding_bag(
            params["w"], ids, weights, segment_ids, self.mode, self.padding, self.bags
        )


def _check_table(layer: Any) -> None:
    check_positive(layer, "vocabulary", "features")
    token, owner = layer.padding, type(layer).__name__
    if token is None or is_traced(token):
        return
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < layer.vocabulary:
        raise ValueError(
            f"{owner}.padding is a token, an int in [0, {layer.vocabulary}), or None; got {token!r}"
        )


def _table(layer: Any) -> Param:
    init = layer.w_init if layer.padding is None else zero_row(layer.w_init, layer.padding)
    return Param((layer.vocabulary, layer.features), init)


def _check_tokens(ids: Any) -> None:
    if not jnp.issubdtype(getattr(ids, "dtype", type(ids)), jnp.integer):
        raise TypeError(
            f"wants an array of integer tokens, got {describe(ids)}; write "
            "jnp.asarray(ids, jnp.int32)"
        )


def _check_inside(ids: Any, layer: Any, segment_ids: Any = None) -> None:
    """Raise ValueError for a known token that the table has no row for, and that is in a bag."""
    if not (_is_known(ids) and (segment_ids is None or _is_known(segment_ids))):
        inside = ids if segment_ids is None else jnp.where(segment_ids != 0, ids, 0)
        check_range(
            inside,
            layer.vocabulary,
            f"token {{value}} is outside of a vocabulary of {layer.vocabulary}",
        )
        return
    tokens = np.asarray(ids)
    wrong = (tokens < 0) | (tokens >= layer.vocabulary)
    if segment_ids is not None:
        wrong &= np.asarray(segment_ids) != 0
    if wrong.any():
        token, owner = int(tokens[wrong][0]), type(layer).__name__
        write = (
            f"write {owner}({token + 1}, {layer.features}), say"
            if token > 0
            else "write another token for what is missing, padding=0, say"
        )
        raise ValueError(
            f"has rows for the tokens 0 .. {layer.vocabulary - 1}, and got the token {token}: "
            f"{write}"
        )


def _is_known(a: Any) -> bool:
    return not is_traced(a) and getattr(a, "is_fully_addressable", True)
