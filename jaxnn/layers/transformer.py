"""Encoder and decoder layers of a transformer: attention and a feed-forward network, each with a
norm and a residual connection."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from ..core.composite import Composite
from ..core.layer import Layer, LayerLike
from ..functional.finite import by_row
from ..functional.linear import floating_type
from .normalization import LayerNorm


class EncoderLayer(Composite):
    """Transformer encoder layer: attention and a feed-forward network, each as a residual branch.

        x = x + attention(attention_norm(x))
        y = x + feed_forward(feed_forward_norm(x))

    x and y have shape (..., T, n). With a causal attention it is a layer of a decoder-only network.

    Named inputs: `mask` and `bias` are passed to the attention, and so are other named inputs that
    it takes, such as `segment_ids`. If a mask or bias is given, positions that are hidden may
    contain NaN or inf without effect on other positions or on gradients; `feed_forward` receives
    zeros for them.

    Args:
        attention: Attention layer, such as `nn.MultiHeadAttention(8)`.
        feed_forward: Feed-forward network, from n to n features.
        norm_first: If True, normalize the input of each branch; if False, normalize after it:
            `x = norm(x + attention(x))`. Default: True.
        dropout: Layer applied to the output of each branch, such as `nn.Dropout(0.1)`. Default:
            None.
        attention_norm: Norm of the attention branch. Default: `LayerNorm()`.
        feed_forward_norm: Norm of the feed-forward branch. Default: `LayerNorm()`.

    References: Vaswani et al., Attention is all you need, 2017; Xiong et al., On layer
    normalization in the transformer architecture, 2020 (`norm_first`).

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> feed_forward = nn.Sequential(nn.Dense(32), jax.nn.gelu, nn.Dense(8))
    >>> net = EncoderLayer(nn.MultiHeadAttention(2), feed_forward)
    >>> x = jnp.zeros((3, 5, 8))
    >>> params = net.init(jax.random.key(0), x)
    >>> sorted(params), jax.jit(net.apply)(params, x).shape
    (['attention', 'attention_norm', 'feed_forward', 'feed_forward_norm'], (3, 5, 8))
    """

    attention: Layer
    feed_forward: LayerLike
    _: dataclasses.KW_ONLY
    norm_first: bool = True
    dropout: LayerLike | None = None
    attention_norm: LayerLike = LayerNorm()
    feed_forward_norm: LayerLike = LayerNorm()

    def forward(self, x: jax.Array, *, mask: Any = None, bias: Any = None) -> jax.Array:
        """Apply attention, then the feed-forward network."""
        named = _given(mask=mask, bias=bias)
        branch = functools.partial(_branch, self, hides=bool(named))
        x = branch(x, self.attention_norm, lambda x: self.attention(x, **named))
        return branch(x, self.feed_forward_norm, _by_row(self.feed_forward, bool(named)))


class DecoderLayer(Composite):
    """Transformer decoder layer: an `EncoderLayer` with cross attention to a memory in between.

    x and y have shape (..., T, n), and the memory (..., S, m), such as the output of an encoder.

    Named inputs: `mask` and `bias` are passed to the self-attention, `memory_mask` to the cross
    attention, and `segment_ids` and `memory_segment_ids` to the layers that take them.

    Args:
        attention: Self-attention layer.
        cross_attention: Attention layer from x to the memory.
        feed_forward: Feed-forward network, from n to n features.
        norm_first: If True, normalize the input of each branch; if False, normalize after it.
            Default: True.
        dropout: Layer applied to the output of each branch. Default: None.
        attention_norm: Norm of the self-attention branch. Default: `LayerNorm()`.
        cross_attention_norm: Norm of the cross attention branch. Default: `LayerNorm()`.
        feed_forward_norm: Norm of the feed-forward branch. Default: `LayerNorm()`.

    References: as for `EncoderLayer`.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> feed_forward = nn.Sequential(nn.Dense(32), jax.nn.gelu, nn.Dense(8))
    >>> over_itself = nn.MultiHeadAttention(2, causal=True)
    >>> net = DecoderLayer(over_itself, nn.MultiHeadAttention(2), feed_forward)
    >>> x, memory = jnp.zeros((3, 5, 8)), jnp.zeros((3, 7, 6))
    >>> params = net.init(jax.random.key(0), x, memory)
    >>> jax.jit(net.apply)(params, x, memory).shape
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

    def forward(
        self,
        x: jax.Array,
        memory: jax.Array,
        *,
        mask: Any = None,
        bias: Any = None,
        memory_mask: Any = None,
    ) -> jax.Array:
        """Apply self-attention, cross attention, then the feed-forward network."""
        named = _given(mask=mask, bias=bias)
        # Named inputs reach every child that takes them; `mask` and `bias` are for x only.
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
    """Return x + f(norm(x)), or norm(x + f(x)).

    If a mask `hides` positions, their contents do not affect the gradients of the norm.
    """
    norm = _by_row(norm, hides)
    y = f(norm(x) if layer.norm_first else x)
    y = y if layer.dropout is None else layer.dropout(y)
    y = x.astype(floating_type(x)) + y
    return y if layer.norm_first else norm(y)
