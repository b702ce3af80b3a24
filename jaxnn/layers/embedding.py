"""Embeddings of tokens, of bags of tokens, and of the patches of an image."""

import math
from typing import Annotated, Any

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
from ..initializers import InitFn, Initializer, Shape, lecun_normal, variance_scaling, zeros
from ..validation import each, integer, one_of, positive
from .checks import check_multiples, check_rank, positive_size


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

    Raises:
        TypeError: If ids are not integers.
        ValueError: If a concrete token is outside [0, vocabulary). A traced one gives NaN.

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
        return embed(params["w"], ids, self.padding)

    def attend(self, params: Any, x: jax.Array) -> jax.Array:
        """Return logits x @ w.T (..., vocabulary) for features x (..., features).

        Args:
            x: Floating array of shape (..., features).

        Reference: Press and Wolf, Using the output embedding to improve language models, 2017.
        """
        if x.ndim == 0 or x.shape[-1] != self.features:
            raise ValueError(f"attend expects features (..., {self.features}), got {describe(x)}")
        return linear(x, params["w"].T)


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
            concrete token is outside [0, vocabulary). A traced one gives NaN in its bag.

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
    if not jnp.issubdtype(getattr(ids, "dtype", type(ids)), jnp.integer):
        raise TypeError(
            f"expected an array of integer tokens, got {describe(ids)}; use "
            "jnp.asarray(ids, jnp.int32)"
        )


def _check_inside(ids: Any, layer: Any, segment_ids: Any = None) -> None:
    """Raise ValueError if a concrete token in a bag has no row in the table."""
    if not (_is_known(ids) and (segment_ids is None or _is_known(segment_ids))):
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


def _is_known(a: Any) -> bool:
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
