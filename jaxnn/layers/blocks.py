"""Blocks of several layers: gated ones, and encoder and decoder layers of a transformer.

GatedFeedForward and SqueezeExcitation multiply features by gates. EncoderLayer and DecoderLayer are
attention and a feed-forward network, each with a norm and a residual connection.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.composite import Composite
from ..core.declarations import Param
from ..core.layer import Layer, LayerLike, Primitive
from ..functional.gradients import by_row
from ..functional.linear import floating_type, linear, wider_type
from ..initializers import InitFn, he_normal, lecun_normal, zeros
from . import check_rank, plain_function, positive_size
from .normalization import LayerNorm, window_axes, window_rank


class GatedFeedForward(Primitive):
    """Gated feed-forward block: `y = (activation(x @ gate) * (x @ up)) @ down`.

    x and y have shape (..., n). Parameters are gate/w and up/w (n, hidden), down/w (hidden, n), and
    for each one a bias b if `bias` is True.

    Args:
        hidden: Number of hidden features.
        activation: Activation of the gate: `jax.nn.silu` for SwiGLU, `jax.nn.gelu` for GeGLU,
            `jax.nn.sigmoid` for GLU. Default: `jax.nn.silu`.
        bias: Whether to add biases. Default: False.
        w_init: Initializer of the weights. Default: `lecun_normal()`.
        b_init: Initializer of the biases. Default: `zeros()`.
        down_init: Initializer of down/w. Default: `w_init`.

    Raises:
        ValueError: If `hidden` is below 1, or if the input has no axes.

    Reference: Shazeer, GLU variants improve transformer, 2020.

    >>> import jax, jax.numpy as jnp
    >>> params = GatedFeedForward(12).init(jax.random.key(0), jnp.zeros((2, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'down': {'w': (12, 4)}, 'gate': {'w': (4, 12)}, 'up': {'w': (4, 12)}}
    """

    hidden: Annotated[int, positive_size]
    activation: Annotated[Callable[[jax.Array], jax.Array], plain_function] = jax.nn.silu
    bias: bool = False
    w_init: InitFn = lecun_normal()
    b_init: InitFn = zeros()
    down_init: InitFn | None = None

    def parameters(self, x: Any) -> dict[str, dict[str, Param]]:
        """Declare three weights, and biases if `bias` is True."""
        check_rank(x, 1, "(..., features)")
        n = x.shape[-1]
        sizes = {"gate": (n, self.hidden), "up": (n, self.hidden), "down": (self.hidden, n)}
        inits = {"down": self.down_init or self.w_init}
        return {
            name: {"w": Param(shape, inits.get(name, self.w_init))}
            | ({"b": Param(shape[1:], self.b_init)} if self.bias else {})
            for name, shape in sizes.items()
        }

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the gated hidden features, mapped to the input's features."""

        def mapped(name: str, x: jax.Array) -> jax.Array:
            return linear(x, params[name]["w"], params[name].get("b"))

        return mapped("down", self.activation(mapped("gate", x)) * mapped("up", x))


class SqueezeExcitation(Primitive):
    """Squeeze and excitation: `y = x * sigmoid(activation(mean(x) @ reduce + b) @ expand + b)`.

    x and y have shape `(..., *window, n)`. The mean is taken over the window, in at least float32.
    Parameters are reduce/w (n, m) and expand/w (m, n), with m = max(1, n // reduction), and
    reduce/b (m,) and expand/b (n,).

    Args:
        reduction: Ratio of the number of channels to that of hidden features. Default: 16.
        activation: Activation of the hidden features. Default: `jax.nn.relu`.
        spatial: Number of axes of the window, which precede the last axis. None means all axes
            between the first and the last. Default: None.
        w_init: Initializer of both weights. Default: `he_normal()`.
        b_init: Initializer of both biases. Default: `zeros()`.

    Raises:
        ValueError: If `reduction` is below 1.

    Reference: Hu et al., Squeeze-and-excitation networks, 2018.

    >>> import jax, jax.numpy as jnp
    >>> net, x = SqueezeExcitation(4), jnp.zeros((2, 5, 5, 8))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), x))
    {'expand': {'b': (8,), 'w': (2, 8)}, 'reduce': {'b': (2,), 'w': (8, 2)}}
    """

    reduction: Annotated[int, positive_size] = 16
    activation: Annotated[Callable[[jax.Array], jax.Array], plain_function] = jax.nn.relu
    spatial: Annotated[int | None, window_rank] = None
    w_init: InitFn = he_normal()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, dict[str, Param]]:
        """Declare two weights and their biases."""
        window_axes(x, self.spatial)
        n = x.shape[-1]
        m = max(1, n // self.reduction)
        return {
            name: {"w": Param(shape, self.w_init), "b": Param(shape[1:], self.b_init)}
            for name, shape in {"reduce": (n, m), "expand": (m, n)}.items()
        }

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with each feature weighted."""
        axes = tuple(range(x.ndim - 1 - window_axes(x, self.spatial), x.ndim - 1))
        x = x.astype(floating_type(x))
        wide = wider_type(x.dtype, jnp.float32)
        squeezed = jnp.mean(x, axes, dtype=wide, keepdims=True).astype(x.dtype)
        hidden = self.activation(linear(squeezed, params["reduce"]["w"], params["reduce"]["b"]))
        weights = linear(hidden, params["expand"]["w"], params["expand"]["b"])
        return x * jnp.broadcast_to(jax.nn.sigmoid(weights), x.shape)


class EncoderLayer(Composite):
    """Transformer encoder layer: attention and a feed-forward network, each as a residual branch.

        x = x + attention(attention_norm(x))
        y = x + feed_forward(feed_forward_norm(x))

    x and y have shape (..., T, n). With causal attention, it is a layer of a decoder-only network.

    Named inputs: `mask` and `bias` are passed to the attention, and so are other named inputs that
    it takes, such as `segment_ids`. If a mask or bias is given, hidden positions may contain NaN or
    inf without affecting other positions or gradients; `feed_forward` receives zeros for them.

    Args:
        attention: Attention layer, such as `nn.MultiHeadAttention(8)`.
        feed_forward: Feed-forward network, from n to n features.
        norm_first: If True, normalize the input of each branch; if False, normalize after it:
            `x = norm(x + attention(x))`. Default: True.
        dropout: Layer applied to the output of each branch, such as `nn.Dropout(0.1)`. Default:
            None.
        attention_norm: Norm of the attention branch. Default: `LayerNorm()`.
        feed_forward_norm: Norm of the feed-forward branch. Default: `LayerNorm()`.
        attention_scale: Layer applied to the output of the attention, such as `nn.LayerScale()`.
            Default: None.
        feed_forward_scale: The same for the feed-forward network. Default: None.

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
    attention_scale: LayerLike | None = None
    feed_forward_scale: LayerLike | None = None

    def forward(self, x: jax.Array, *, mask: Any = None, bias: Any = None) -> jax.Array:
        """Apply attention, then the feed-forward network."""
        named = _given(mask=mask, bias=bias)

        def by_attention(x: jax.Array) -> jax.Array:
            return self.attention(x, **named)

        hides = _hides(mask, bias)
        branch = functools.partial(_branch, self, hides=hides)
        x = branch(x, self.attention_norm, _scaled(by_attention, self.attention_scale))
        f = _by_row(self.feed_forward, hides)
        return branch(x, self.feed_forward_norm, _scaled(f, self.feed_forward_scale))


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
        hides = _hides(mask, bias) or bool(across)
        branch = functools.partial(_branch, self, hides=hides)
        x = branch(x, self.attention_norm, lambda x: self.attention(x, **named))

        def cross(x: jax.Array) -> jax.Array:
            return self.cross_attention(x, memory, **across)

        x = branch(x, self.cross_attention_norm, _by_row(cross, hides))
        return branch(x, self.feed_forward_norm, _by_row(self.feed_forward, hides))


def _given(**named: Any) -> dict[str, Any]:
    return {name: item for name, item in named.items() if item is not None}


def _hides(mask: Any, bias: Any) -> bool:
    """Return whether positions may be hidden; a bias that is a function of positions hides none."""
    return mask is not None or (bias is not None and not callable(bias))


def _scaled(f: Callable[..., Any], scale: Callable[..., Any] | None) -> Callable[..., Any]:
    return f if scale is None else lambda x: scale(f(x))


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
