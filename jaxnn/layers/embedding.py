"""Embeddings of tokens, of bags of tokens, and of the patches of an image, by lookup in a table."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..arrays import check_range
from ..core.declarations import Param
from ..core.layer import Primitive
from ..explain.text import describe
from ..fields import is_traced
from ..functional.gradients import shared_rows
from ..functional.linear import Int8Weight, linear, product, wider_type
from ..functional.segments import check_segments
from ..functional.windows import larger, reduce_pairs
from ..initializers import InitFn, Initializer, Shape, lecun_normal, variance_scaling, zeros
from ..validation import Accepts, above, check_shape, each, integer, one_of, positive
from . import check_multiples, check_rank, positive_size

MODES = ("sum", "mean", "max")


class zero_row(Initializer):
    """Draw a table by `init`, with zeros in row `row`.

    >>> from jaxnn.initializers import ones
    >>> zero_row(ones(), 1)(None, (3, 2))[:, 0].tolist()
    [1.0, 0.0, 1.0]
    """

    init: InitFn
    row: int

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array with a row of zeros."""
        drawn = self.init(key, shape, dtype)
        return jnp.where(np.arange(shape[0])[:, None] == self.row, 0, drawn)


class Embedding(Primitive):
    """Embedding: `y = w[ids]`.

    ids are integers (...), and y has shape (..., features). The parameter is w
    (vocabulary, features). The method `attend` is the output head that shares the table.

    Args:
        vocabulary: Number of tokens.
        features: Number of features of each token.
        padding: Token whose row starts as zeros and receives no gradient from lookups, as in
            torch.nn.Embedding. Default: None.
        w_init: Initializer of w. Default: normal with variance 1 / features.
        max_norm: Maximum norm of a row: longer rows are scaled down to it when they are looked up.
            torch changes the table itself, with the same outputs. Default: None, no limit.

    Raises:
        TypeError: If ids are not integers.
        ValueError: If a concrete token is outside [0, vocabulary). A traced token outside gives
            NaN.

    >>> import jax, jax.numpy as jnp
    >>> net = Embedding(1000, 64)
    >>> params = net.init(jax.random.key(0), jnp.array([3, 7]))
    >>> jax.tree.map(jnp.shape, params)
    {'w': (1000, 64)}
    >>> net.apply(params, jnp.array([3, 7])).shape
    (2, 64)
    """

    vocabulary: Annotated[int, positive_size]
    features: Annotated[int, positive_size]
    padding: int | None = None
    w_init: InitFn = variance_scaling(1.0, "fan_out", "normal")
    max_norm: Annotated[float | None, None | above(0)] = None

    def __post_init__(self) -> None:
        """Check that the table has a row for the padding."""
        _check_padding(self)

    def parameters(self) -> dict[str, Param]:
        """Declare the table."""
        return {"w": _table(self)}

    def forward(self, params: Any, ids: jax.Array) -> jax.Array:
        """Return the rows of the table at `ids`."""
        _check_tokens(ids)
        _check_inside(ids, self)
        rows = embed(params["w"], ids, self.padding)
        return rows if self.max_norm is None else _shortened(rows, self.max_norm)

    def attend(self, params: Any, x: jax.Array) -> jax.Array:
        """Return logits x @ w.T (..., vocabulary) for features x (..., features).

        Args:
            x: Floating array of shape (..., features).

        Reference: Press and Wolf, Using the output embedding to improve language models, 2017.
        """
        check_shape(x, (*x.shape[:-1], self.features), "the input of attend")
        return product(x, params["w"], axis=1)


def _shortened(rows: jax.Array, most: Any) -> jax.Array:
    """Return rows (..., n) scaled to a length of at most `most`; the factor has no gradient."""
    wide = rows.astype(wider_type(rows.dtype, jnp.float32))
    length = jnp.sqrt(jnp.sum(jnp.square(lax.stop_gradient(wide)), -1, keepdims=True))
    most = jnp.asarray(most, wide.dtype)
    return (wide * jnp.where(length > most, most / (length + 1e-7), 1)).astype(rows.dtype)


class EmbeddingBag(Primitive):
    """Embedding of bags of tokens: the sum, mean, or maximum of their rows w[ids].

    ids are integers (..., n). y has shape (..., features), with one bag for each row of ids, or
    (..., bags, features), with bag i consisting of the tokens of segment i + 1. The parameter is w
    (vocabulary, features). Sums are computed in at least float32. An empty bag gives zeros. Of
    several equal maxima, the first one receives the gradient. y has the type of the weights if that
    is floating, otherwise of w.

    Further inputs: `weights` (..., n) multiply the rows if the mode is "sum". `segment_ids`
    (..., n) are integers; tokens of segment 0 are in no bag. They replace the offsets of
    torch.nn.EmbeddingBag.

    Args:
        vocabulary: Number of tokens.
        features: Number of features of each token.
        mode: "mean", "sum", or "max". Default: "mean".
        padding: Token that is in no bag; its row starts as zeros. Default: None.
        bags: Number of bags in each row of ids. Default: None, for one bag and no axis for bags.
        w_init: Initializer of w. Default: normal with variance 1 / features.

    Raises:
        TypeError: If ids or segment_ids are not integers.
        ValueError: If weights or segment_ids have another shape than ids, if weights are given in
            another mode than "sum", if `bags` is set and segment_ids are not given, or if a
            concrete token is outside [0, vocabulary). A traced token outside gives NaN in its bag.

    >>> import jax, jax.numpy as jnp
    >>> net, ids = EmbeddingBag(1000, 64, padding=0), jnp.array([[3, 7, 9], [5, 0, 0]])
    >>> params = net.init(jax.random.key(0), ids)
    >>> jax.tree.map(jnp.shape, params)
    {'w': (1000, 64)}
    >>> jax.jit(net.apply)(params, ids).shape
    (2, 64)
    """

    vocabulary: Annotated[int, positive_size]
    features: Annotated[int, positive_size]
    mode: Annotated[str, one_of(*MODES)] = "mean"
    padding: int | None = None
    bags: Annotated[int | None, None | positive_size] = None
    w_init: InitFn = variance_scaling(1.0, "fan_out", "normal")

    def __post_init__(self) -> None:
        """Check that the table has a row for the padding."""
        _check_padding(self)

    def parameters(self) -> dict[str, Param]:
        """Declare the table."""
        return {"w": _table(self)}

    def forward(
        self,
        params: Any,
        ids: jax.Array,
        weights: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Return one row for each bag."""
        _check_tokens(ids)
        check_rank(ids, 1, "(..., n), or use nn.Embedding")
        if segment_ids is not None:
            check_segments(segment_ids, ids.shape)
        wrong = ""
        if weights is not None and (self.mode != "sum" or weights.shape != ids.shape):
            wrong = (
                "weights must have the shape of ids, in EmbeddingBag(..., mode='sum'); got "
                f"{describe(weights)} for ids of shape {ids.shape} and the mode {self.mode!r}"
            )
        elif self.bags is not None and segment_ids is None:
            wrong = (
                f"EmbeddingBag(bags={self.bags}) needs segment_ids; write net.apply(params, ids, "
                "segment_ids=segment_ids) with integers from 1 on, and 0 for no bag"
            )
        if wrong:
            raise ValueError(wrong)
        _check_inside(ids, self, segment_ids)
        return embedding_bag(
            params["w"], ids, weights, segment_ids, self.mode, self.padding, self.bags
        )


def _check_padding(layer: Any) -> None:
    token = None | integer(0, layer.vocabulary - 1)
    if not is_traced(layer.padding):
        token(layer.padding, f"{type(layer).__name__}.padding")


def _table(layer: Any) -> Param:
    init = layer.w_init if layer.padding is None else zero_row(layer.w_init, layer.padding)
    return Param((layer.vocabulary, layer.features), init)


def _check_tokens(ids: Any) -> None:
    _integers(ids, "the input")


_integers = Accepts(
    "an array of integer tokens",
    lambda ids: jnp.issubdtype(getattr(ids, "dtype", type(ids)), jnp.integer),
    TypeError,
    hint="use jnp.asarray(ids, jnp.int32)",
    abstract=True,
)


def _check_inside(ids: Any, layer: Any, segment_ids: Any = None) -> None:
    """Raise ValueError if a concrete token in a bag has no row in the table."""
    if not (is_known(ids) and (segment_ids is None or is_known(segment_ids))):
        inside = ids if segment_ids is None else jnp.where(segment_ids != 0, ids, 0)
        check_range(
            inside,
            layer.vocabulary,
            f"token {{value}} is outside a vocabulary of {layer.vocabulary}",
        )
        return
    tokens = np.asarray(ids)
    wrong = (tokens < 0) | (tokens >= layer.vocabulary)
    if segment_ids is not None:
        wrong &= np.asarray(segment_ids) != 0
    if wrong.any():
        token, owner = int(tokens[wrong][0]), type(layer).__name__
        write = (
            f"write {owner}({token + 1}, {layer.features}) for a larger vocabulary"
            if token > 0
            else "use another token for missing ones, such as padding=0"
        )
        raise ValueError(
            f"expected tokens in 0 .. {layer.vocabulary - 1}, got the token {token}: {write}"
        )


def is_known(a: Any) -> bool:
    """Return whether the values of an array can be read: it is not traced, and on this host."""
    return not is_traced(a) and getattr(a, "is_fully_addressable", True)


_PATCH = each(positive, "an int >= 1, or a tuple of one for each axis")


class PatchEmbedding(Primitive):
    """Embed patches of an image: `y = patches(x) @ w + b`.

    This is a convolution whose stride equals its window. x has shape (..., H, W, C) and y
    (..., N, features) with N = (H / patch) * (W / patch), in row-major order. Parameters are w
    (patch, patch, C, features) and b (features,).

    Args:
        features: Number of features of each vector.
        patch: Size of a patch: an int for square patches, or a tuple with one size for each axis,
            such as (16, 8), or (2, 16, 16) for video.
        bias: Whether to add b. Default: True.
        w_init: Initializer of w. Default: `lecun_normal()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If the size of the image is not a multiple of the patch size.

    Reference: Dosovitskiy et al., An image is worth 16x16 words, 2021.

    >>> import jax, jax.numpy as jnp
    >>> net, x = PatchEmbedding(192, patch=16), jnp.zeros((2, 224, 224, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (192,), 'w': (16, 16, 3, 192)}
    >>> net.apply(params, x).shape
    (2, 196, 192)
    """

    features: Annotated[int, positive_size]
    patch: Annotated[int | tuple[int, ...], _PATCH]
    bias: bool = True
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare w, in the shape of a convolution kernel, and b if there is a bias."""
        window = self._window()
        check_rank(x, len(window) + 1, f"(..., {len(window)} spatial axes, channels)")
        sizes = x.shape[-len(window) - 1 : -1]
        hint = "pad or crop the image first, for example by jnp.pad"
        check_multiples(x, "axes", sizes, window, hint)
        shapes = {"w": Param((*window, x.shape[-1], self.features), self.w_init)}
        return shapes | {"b": Param((self.features,), self.b_init)} if self.bias else shapes

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return one vector for each patch."""
        window = self._window()
        k = len(window)
        batch, sizes, channels = x.shape[: -k - 1], x.shape[-k - 1 : -1], x.shape[-1]
        counts = [n // size for n, size in zip(sizes, window, strict=True)]
        split = [n for pair in zip(counts, window, strict=True) for n in pair]
        x = x.reshape(*batch, *split, channels)
        first = len(batch)
        order = [
            *range(first),
            *range(first, first + 2 * k, 2),
            *range(first + 1, first + 2 * k, 2),
        ]
        x = x.transpose(*order, first + 2 * k)
        x = x.reshape(*batch, math.prod(counts), math.prod(window) * channels)
        w = params["w"].reshape(x.shape[-1], self.features)
        return linear(x, w, params["b"] if self.bias else None)

    def _window(self) -> tuple[int, ...]:
        return self.patch if isinstance(self.patch, tuple) else (self.patch, self.patch)


def embed(table: jax.Array | Int8Weight, ids: jax.Array, padding: int | None = None) -> jax.Array:
    """Look up rows: `y = table[ids]`.

    Args:
        table: Floating array of shape (vocabulary, features).
        ids: Integers of any shape. A token outside [0, vocabulary) gives NaN.
        padding: Token whose row receives no gradient. Default: None.

    Returns:
        Array of shape (..., features).

    >>> import jax.numpy as jnp
    >>> embed(jnp.array([[1.0], [2.0]]), jnp.array([1, 0, 2]))[:, 0].tolist()
    [2.0, 1.0, nan]
    """
    rows = table.rows(ids) if isinstance(table, Int8Weight) else shared_rows(table, ids)
    if padding is None:
        return rows
    return jnp.where(_is(ids, padding)[..., None], lax.stop_gradient(rows), rows)


def embedding_bag(
    table: jax.Array,
    ids: jax.Array,
    weights: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    mode: str = "mean",
    padding: int | None = None,
    bags: int | None = None,
) -> jax.Array:
    """Combine the rows of the tokens in a bag by their sum, mean, or maximum.

    Args:
        table: Floating array of shape (vocabulary, features).
        ids: Integers of shape (..., n). A token outside [0, vocabulary) gives NaN.
        weights: Array of shape (..., n) by which rows are multiplied first. Default: None.
        segment_ids: Integers of shape (..., n). Segment 0 is in no bag. If `bags` is given, bag i
            consists of the tokens of segment i + 1; otherwise all others form one bag. Default:
            all tokens are in one bag.
        mode: "sum", "mean", or "max". Sums are computed in at least float32. Of several equal
            maxima, the first one receives the gradient. Default: "mean".
        padding: Token that is in no bag. Default: None.
        bags: Number of bags in a row. Default: one bag, and no axis for bags.

    Returns:
        Array of shape (..., features) or (..., bags, features), in the type of the weights if that
        is floating, otherwise of the table. An empty bag gives zeros.

    >>> import jax.numpy as jnp
    >>> table, ids = jnp.array([[1.0], [2.0], [6.0]]), jnp.array([0, 1, 2])
    >>> embedding_bag(table, ids)[0].item()
    3.0
    >>> embedding_bag(table, ids, segment_ids=jnp.array([1, 1, 2]), bags=2)[:, 0].tolist()
    [1.5, 6.0]
    """
    dtype = table.dtype
    if weights is not None and jnp.issubdtype(weights.dtype, jnp.floating):
        dtype = weights.dtype
    rows = embed(table, ids)
    wide = wider_type(rows.dtype, jnp.float32)
    bag = jnp.ones(ids.shape, jnp.int32) if segment_ids is None else segment_ids.astype(jnp.int32)
    bag = jnp.where(bag == 0, 0, 1) if bags is None else jnp.where(bag > bags, 0, bag)
    if padding is not None:
        bag = jnp.where(_is(ids, padding), 0, bag)
    rows = jnp.where((bag > 0)[..., None], rows.astype(wide), 0)
    if weights is not None:
        weights = jnp.where(bag > 0, weights.astype(wide), 0)[..., None]
        # 0 * NaN is NaN. The gradient of a weight of 0 is kept if the row is finite.
        rows = jnp.where((weights == 0) & ~jnp.isfinite(rows), 0, rows) * weights
    if bags is None:
        return _of_rows(rows, bag > 0, mode).astype(dtype)
    n = math.prod(ids.shape[:-1])
    flat = rows.reshape(n, *rows.shape[-2:]), bag.reshape(n, ids.shape[-1])
    y = jax.vmap(lambda rows, bag: _packed(rows, bag, mode, bags))(*flat)
    return y.reshape(*ids.shape[:-1], *y.shape[1:]).astype(dtype)


def _of_rows(rows: jax.Array, inside: jax.Array, mode: str) -> jax.Array:
    """Reduce rows (..., n, features), one bag each, to (..., features)."""
    count = jnp.sum(inside, -1, dtype=jnp.int32)[..., None]
    if mode == "max" and rows.shape[-2]:
        y = reduce_pairs(jnp.where(inside[..., None], rows, -jnp.inf), -2, larger)
        return jnp.where(count > 0, y, 0)
    y = jnp.sum(rows, -2)
    return y / jnp.maximum(count, 1).astype(y.dtype) if mode == "mean" else y


def _packed(rows: jax.Array, bag: jax.Array, mode: str, bags: int) -> jax.Array:
    """Several bags per row: rows (n, features) to (bags, features); bags (n,) count from 1."""
    n = bags + 1  # index 0 collects the tokens in no bag, and is dropped
    count = jax.ops.segment_sum(jnp.ones_like(bag), bag, n)[1:, None]
    if mode == "max" and len(rows):
        largest = jax.ops.segment_max(lax.stop_gradient(rows), bag, n)
        place = lax.broadcasted_iota(jnp.int32, rows.shape, 0)
        place = jnp.where((rows == largest[bag]) | jnp.isnan(rows), place, len(rows) - 1)
        first = jnp.minimum(jax.ops.segment_min(place, bag, n)[1:], len(rows) - 1)
        return jnp.where(count > 0, jnp.take_along_axis(rows, first, 0), 0)
    y = jax.ops.segment_sum(rows, bag, n)[1:]
    return y / jnp.maximum(count, 1).astype(y.dtype) if mode == "mean" else y


def _is(ids: jax.Array, padding: int) -> jax.Array:
    return ids.astype(jnp.int32) == padding  # `padding` may not fit a narrower type
