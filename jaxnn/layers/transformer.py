"""The layers of a transformer's encoder and decoder: attention and a feed-forward network, each
with a norm and a residual connection."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from ..core.composite import Composite
from ..core.layer import Layer, LayerLike
from ..functional.finite import by_row
from ..functional.linear import floating_type
from .checks import check_flags
from .normalization import LayerNorm


class EncoderLayer(Composite):
    """x = x + attention(norm(x)); y = x + feed_forward(norm(x)), each with a norm of its own.

    With `norm_first=False` the norm comes after: x = norm(x + attention(x)). Both branches go
    through `dropout`, a layer such as `nn.Dropout(0.1)`, where it is given. x and y are
    (..., T, n). `mask` and `bias` go to the attention, as do the named inputs it takes,
    `segment_ids`. If they are given, a position of NaN or inf that they hide has no effect on
    others or on the gradients of the parameters, and `feed_forward` gets zeros in its place.
    With a causal attention it is the layer of a decoder-only network.

    References: Vaswani et al., Attention is all you need, 2017; Xiong et al., On layer
    normalization in the transformer architecture, 2020 (norm first).

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> feed_forward = nn.Sequential(nn.Dense(32), jax.nn.gelu, nn.Dense(8))
    >>> net = EncoderLayer(nn.MultiHeadAttention(2), feed_forward)
    >>> x = jnp.zeros((3, 5, 8))
    >>> params = net.init(jax.random.key(0), x)
    >>> sorted(params), net.apply(params, x).shape
    (['attention', 'attention_norm', 'feed_forward', 'feed_forward_norm'], (3, 5, 8))
    """

    attention: Layer
    feed_forward: LayerLike
    _: dataclasses.KW_ONLY
    norm_first: bool = True
    dropout: LayerLike | None = None
    attention_norm: LayerLike = LayerNorm()
    feed_forward_norm: LayerLike = LayerNorm()

    def __post_init__(self) -> None:
        """Check the flag."""
        check_flags(self, "norm_first")

    def forward(self, x: jax.Array, *, mask: Any = None, bias: Any = None) -> jax.Array:
        """Attention, then the feed-forward network."""
        named = _given(mask=mask, bias=bias)
        branch = functools.partial(_branch, self, hides=bool(named))
        x = branch(x, self.attention_norm, lambda x: self.attention(x, **named))
        return branch(x, self.feed_forward_norm, _by_row(self.feed_forward, bool(named)))


class DecoderLayer(Composite):
    """An encoder's layer with attention to a memory in between: attention, cross_attention,
    feed_forward, each with a norm of its own.

    x and y are (..., T, n), the memory is (..., S, m), what an encoder gave. `mask` and `bias` go
    to the attention, `memory_mask` to the attention to the memory; `segment_ids` and
    `memory_segment_ids` to those that take them. `norm_first` and `dropout` as in `EncoderLayer`.

    References: as `EncoderLayer`.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> feed_forward = nn.Sequential(nn.Dense(32), jax.nn.gelu, nn.Dense(8))
    >>> over_itself = nn.MultiHeadAttention(2, causal=True)
    >>> net = DecoderLayer(over_itself, nn.MultiHeadAttention(2), feed_forward)
    >>> x, memory = jnp.zeros((3, 5, 8)), jnp.zeros((3, 7, 6))
    >>> net.apply(net.init(jax.random.key(0), x, memory), x, memory).shape
    (3, 5, 8)
    """

    attention: Layer
    cross_attention: Layer
    feed_forward: LayerLike
    _: dataclasses.KW_ONLY
    norm_first: bool = True
    dropout: LayerLike | None = None
    attention_norm: LayerLike = LayerNorm()
    cross_attention_norm: LayerLike = LayerNorm()
    feed_forward_norm: LayerLike = LayerNorm()

    def __post_init__(self) -> None:
        """Check the flag."""
        check_flags(self, "norm_first")

    def forward(
        self,
        x: jax.Array,
        memory: jax.Array,
        *,
        mask: Any = None,
        bias: Any = None,
        memory_mask: Any = None,
    ) -> jax.Array:
        """Attention, attention to the memory, then the feed-forward network."""
        named = _given(mask=mask, bias=bias)
        # `mask` and `bias` are those of the attention to x, but would reach this one by name too.
        taken = self.cross_attention.layer._takes("forward")
        across = {name: None for name in named if name in taken} | _given(mask=memory_mask)
        hides = bool(named or across)
        branch = functools.partial(_branch, self, hides=hides)
        x = branch(x, self.attention_norm, lambda x: self.attention(x, **named))

        def cross(x: jax.Array) -> jax.Array:
            return self.cross_attention(x, memory, **across)

        x = branch(x, self.cross_attention_norm, _by_row(cross, hides))
        return branch(x, self.feed_forward_norm, _by_row(self.feed_forward, hides))


def _given(**named: Any) -> dict[str, Any]:
    return {name: item for name, item in named.items() if item is not None}


def _by_row(f: Callable[..., Any], hides: bool) -> Callable[..., Any]:
    return functools.partial(by_row, f, checks=hides)


def _branch(
    layer: EncoderLayer | DecoderLayer,
    x: jax.Array,
    norm: Callable[..., Any],
    f: Callable[..., Any],
    *,
    hides: bool,
) -> jax.Array:
    """x + f(norm(x)), or norm(x + f(x)).

    If a mask `hides` positions, what they hold stays out of the gradients of the norm.
    """
    norm = _by_row(norm, hides)
    y = f(norm(x) if layer.norm_first else x)
    y = y if layer.dropout is None else layer.dropout(y)
    y = x.astype(floating_type(x)) + y
    return y if layer.norm_first else norm(y)
