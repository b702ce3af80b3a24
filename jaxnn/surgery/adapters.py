"""add_lora and merge_lora: low-rank adapters around a trained network."""

from typing import Any

import jax

from ..combine.lora import LoRA
from ..core import paths
from ..core.layer import Layer
from ..core.paths import at
from ..tree import check_layer, edit_children
from .replacement import check_belong, filled


def add_lora(
    net: Layer,
    params: Any,
    key: jax.Array,
    *inputs: Any,
    rank: int = 8,
    match: str = "**/w",
    scale: float = 1.0,
    **named: Any,
) -> tuple[Layer, Any]:
    """Wrap a trained network in `LoRA`, with new adapters; at first its outputs are the same.

    Each weight w whose path fits `match` becomes {"base": w, "down": (n, rank), "up": (rank, m)},
    which is used as base + scale * down @ up. down is drawn from `key`, and up is 0. Only the
    adapters are trained if `net` is an `nn.Inference`, or with
    `train.partition({"**/down": optimizer, "**/up": optimizer, "**": None})`. `merge_lora` is the
    inverse. The weights are not copied: a step that donates the new parameters also donates
    `params`.

    Args:
        net: Network.
        params: Its parameters.
        key: PRNG key for the adapters.
        *inputs: Inputs of the network, as for `net.init`.
        rank: Number of columns of down, at least 1. Default: 8.
        match: Path pattern of the weights to adapt. Default: `"**/w"`.
        scale: Factor of the product. Default: 1.
        **named: Named inputs.

    Returns:
        The network in a `LoRA`, and its parameters.

    Raises:
        TypeError: If `net` is not a layer.
        ValueError: If nothing matches, or if the parameters are not those of the network.

    Reference: Hu et al., LoRA: low-rank adaptation of large language models, 2021.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net, x = nn.Sequential(nn.Dense(4), nn.Dense(2)), jnp.ones((1, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> tuned, more = nn.add_lora(net, params, jax.random.key(1), x, rank=2, match="0/w")
    >>> tuned
    LoRA(Sequential(Dense(4), Dense(2)), rank=2, match='0/w')
    >>> jax.tree.map(jnp.shape, more[0]["w"])
    {'base': (3, 4), 'down': (3, 2), 'up': (2, 4)}
    >>> bool((tuned.apply(more, x) == net.apply(params, x)).all())
    True
    """
    check_layer(net, "nn.add_lora(net, params, key, x, rank=8)")
    check_belong(net, params, inputs, named)
    around = LoRA(net, rank, match, scale)

    def kept(path: paths.Path) -> Any:
        """Return the weight that is kept; None for an adapter, which is drawn."""
        *above, name = path
        if not paths.matches(match, paths.text(above)):
            return at(params, path)
        return at(params, tuple(above)) if name == "base" else None

    spec = around.spec(*inputs, **named)
    return around, filled(spec, key, {path: kept(path) for path, _ in paths.walk(spec)})


def merge_lora(net: Layer, params: Any) -> tuple[Layer, Any]:
    """Remove the `LoRA` wrappers of a network, and add its adapters to the weights.

    The outputs are bitwise the same: w is computed once as the wrapper computes it in each call.

    Args:
        net: Network with `LoRA` wrappers.
        params: Its parameters.

    Returns:
        The network without the wrappers, and its parameters.

    Raises:
        TypeError: If `net` is not a layer.
        ValueError: If the network has no adapters.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net, x = nn.LoRA(nn.Dense(4), rank=2), jnp.ones((1, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> plain, fewer = nn.merge_lora(net, params)
    >>> plain, jax.tree.map(jnp.shape, fewer)
    (Dense(4), {'b': (4,), 'w': (3, 4)})
    """
    check_layer(net, "nn.merge_lora(net, params)")
    found: list[LoRA] = []

    def edit(net: Any, params: Any) -> tuple[Any, Any]:
        if isinstance(net, LoRA):
            found.append(net)
            return edit(net.wrapped, net.merge(params))
        return edit_children(edit, net, params)

    plain = edit(net, params)
    if not found:
        raise ValueError(
            "no layer is wrapped in LoRA, so there is nothing to merge; write "
            "net, params = nn.add_lora(net, params, key, x, rank=8) to add adapters"
        )
    return plain
