"""with_cache: a network that keeps keys, values, carries, and positions from call to call."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..core import paths
from ..core.layer import Layer
from ..core.values import copy_with, fields
from ..tree import check_layer, layers, map_layers, validated
from ..validation import Accepts, positive

Net = TypeVar("Net", bound=Layer)
Fits = Callable[[str, Layer], bool]

_MATCH = None | Accepts(
    "a pattern of layers' paths such as 'decoder', or a function of a path and a layer",
    lambda v: isinstance(v, str) or callable(v),
    TypeError,
)


def with_cache(net: Net, length: int = 256, match: str | Fits | None = None) -> Net:
    """Return `net` with a cache of `length` positions in all layers that can keep one, or in some.

    The network has the same parameters, and takes a sequence in chunks of any length; pass each
    call the state that the previous one returned. The outputs equal those of one call with the
    whole sequence. With `match`, only a part of the network keeps caches, such as the decoder of an
    encoder-decoder network; the other layers must receive their whole input in each call. Attention
    to a `memory` is never cached.

    Cached networks are for inference, and raise an error in training. `init_state` starts all
    caches empty. If the network has other state, such as running statistics, copy it into the new
    state. Writing past the length raises an error if the position is known while tracing, and gives
    NaN otherwise.

    Args:
        net: Network.
        length: Number of positions that each cache holds. Default: 256.
        match: Which layers keep a cache, together with all layers below them: a pattern of layers'
            paths, such as "decoder" or "**/self_attention", or a function of a path and the layer
            there. Layers that do not match stay as they are. Default: all layers.

    Raises:
        TypeError: If `net` is not a layer, or if `match` is neither a string nor a function.
        ValueError: If no layer can keep a cache, if none of those matches, or if length < 1.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> class Translation(nn.Composite):
    ...     encoder: nn.Layer
    ...     decoder: nn.Layer
    ...     def forward(self, source, target):
    ...         return self.decoder(target, self.encoder(source))
    >>> encoder = nn.EncoderLayer(nn.MultiHeadAttention(2), nn.Dense(4))
    >>> decoder = nn.DecoderLayer(
    ...     nn.MultiHeadAttention(2, causal=True), nn.MultiHeadAttention(2), nn.Dense(4)
    ... )
    >>> net = Translation(encoder, decoder)
    >>> source, target = jnp.sin(jnp.arange(24.0)).reshape(2, 3, 4)  # 3 positions each
    >>> params = net.init(jax.random.key(1), source, target)
    >>> one_by_one = with_cache(net, length=8, match="decoder")
    >>> state, run = one_by_one.init_state(source, target[:1]), jax.jit(one_by_one.apply)
    >>> for t in range(3):
    ...     y, state = run(params, source, target[t : t + 1], state=state)
    >>> bool(jnp.allclose(y[0], jax.jit(net.apply)(params, source, target)[2], atol=1e-5))
    True
    """
    check_layer(net, "nn.with_cache(net, length=256)")
    positive(length, "length", hint="write nn.with_cache(net, length=256)")
    _MATCH(match, "match")

    def fits(path: str, layer: Layer) -> bool:
        if match is None or isinstance(match, str):
            return match is None or paths.matches(match, path)
        return match(path, layer)

    found = _cachable(net, fits)
    if not found:
        every = _cachable(net, lambda path, layer: True)
        names = ", ".join(repr(paths.text(path)) for path in every)
        reason = f"fits match={match!r}, or is below a layer that fits" if every else "is in it"
        raise ValueError(
            f"no layer of the network that can keep a cache {reason}; such layers, which look at "
            f"other positions, as nn.MultiHeadAttention does, are at: {names or 'none'}"
        )
    return _set_cache(net, length, found)


def without_cache(net: Net) -> Net:
    """Return `net` without a cache in any layer."""
    return _set_cache(net, 0, _cachable(net, lambda path, layer: True))


def _cachable(net: Layer, fits: Fits) -> list[paths.Path]:
    """Return the paths of layers with a field `cache` that fit or are below a layer that does."""
    tops = [path for path, layer in layers(net) if fits(paths.text(path), layer)]
    return [
        path
        for path, layer in layers(net)
        if _can_keep(layer) and any(path[: len(top)] == top for top in tops)
    ]


def _can_keep(layer: Layer) -> bool:
    return any(field.name == "cache" for field in fields(layer))


def _set_cache(net: Net, length: int, found: list[paths.Path]) -> Net:
    """Return `net` with caches of `length` positions at the paths `found`."""

    def one(path: paths.Path, layer: Any) -> Any:
        chosen = _can_keep(layer) and path in found
        return validated(copy_with(layer, cache=length)) if chosen else layer

    return map_layers(one, net)
