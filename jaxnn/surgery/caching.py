"""with_cache: the same network, keeping keys, carries and positions from call to call."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..core import paths
from ..core.layer import Layer
from ..core.values import copy_with, fields
from ..tree import check_layer, checked, layers, map_layers

Net = TypeVar("Net", bound=Layer)
Fits = Callable[[str, Layer], bool]


def with_cache(net: Net, length: int = 256, match: str | Fits | None = None) -> Net:
    """Return `net` with a cache of `length` positions in every layer, or in a part of the layers.

    The network has the same parameters, and takes a sequence in pieces of any length, each call
    with the state that the last one returned. The outputs equal those of one call with the whole
    sequence. With `match`, only a part of the network keeps caches, such as the decoder of an
    encoder and a decoder: the other layers receive their whole input in each call. Attention to a
    `memory` keeps nothing in either case.

    Cached networks are for inference; training raises. `init_state` starts all caches empty. If the
    network has other state, such as running statistics, put that in its place. Writing past the
    length raises if the position is known while tracing, and gives NaN otherwise.

    Args:
        net: the network.
        length: the number of positions that each cache holds. Default: 256.
        match: which layers keep a cache, together with all layers below them: a pattern of layers'
            paths, such as "decoder" or "**/self_attention", or a function of a path and the layer
            there. Layers that do not match stay as they are. Default: all layers.

    Raises:
        TypeError: `net` is not a layer, or `match` is neither text nor a function.
        ValueError: no layer keeps a cache, or none that does fits `match`; a length < 1.

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
    >>> source, target = jax.random.normal(jax.random.key(0), (2, 3, 4))  # 3 positions each
    >>> params = net.init(jax.random.key(1), source, target)
    >>> one_by_one = with_cache(net, length=8, match="decoder")
    >>> state = one_by_one.init_state(source, target[:1])
    >>> for t in range(3):
    ...     y, state = one_by_one.apply(params, source, target[t : t + 1], state=state)
    >>> bool(jnp.allclose(y[0], net.apply(params, source, target)[2], atol=1e-5))
    True
    """
    check_layer(net, "nn.with_cache(net, length=256)")
    _check_length(net, length)
    if match is not None and not isinstance(match, str) and not callable(match):
        raise TypeError(
            "match is a pattern of layers' paths such as 'decoder', or a function of a path and a "
            f"layer; got {match!r}"
        )

    def fits(path: str, layer: Layer) -> bool:
        if isinstance(match, str):
            return paths.matches(match, path)
        return match is None or bool(match(path, layer))

    found: list[str] = []
    new = _with_cache(net, length, fits, found)
    if not found:
        every: list[str] = []
        _with_cache(net, length, lambda path, layer: True, every)
        names = ", ".join(repr(name) if name else "the network itself" for name in every)
        raise ValueError(
            f"no layer that can keep a cache fits match={match!r}, nor is it below one that fits; "
            f"the layers that can are at {names}"
        )
    return new


def uncached(net: Net) -> Net:
    """`net` without a cache in any layer."""
    return _with_cache(net, 0)


def _check_length(net: Layer, length: Any) -> None:
    """Raise ValueError for a length < 1, and for a network that can keep nothing."""
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise ValueError(f"a cache has a length of at least 1 position, an int; got {length!r}")
    if not any(_can_keep(layer) for _, layer in layers(net)):
        shown = repr(net)
        raise ValueError(
            f"no layer of {shown if len(shown) <= 80 else type(net).__name__ + '(...)'} has a "
            "field `cache`: only layers that look at other positions of a sequence, such as "
            "nn.MultiHeadAttention, keep any"
        )


def _can_keep(layer: Layer) -> bool:
    """Whether the layer has a field `cache`."""
    return any(field.name == "cache" for field in fields(layer))


def _with_cache(
    net: Net, length: int, fits: Fits | None = None, found: list[str] | None = None
) -> Net:
    """`net` with caches in and below the layers that fit, whose paths are added to `found`.

    Without `fits`, that is every layer.
    """
    tops = [path for path, layer in layers(net) if fits is None or fits(paths.text(path), layer)]

    def one(path: paths.Path, layer: Any) -> Any:
        if not _can_keep(layer) or not any(path[: len(top)] == top for top in tops):
            return layer
        if found is not None:
            found.append(paths.text(path))
        return checked(copy_with(layer, cache=length))

    return map_layers(one, net)
