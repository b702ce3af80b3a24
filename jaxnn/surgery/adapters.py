"""add_lora and merge_lora: low-rank adapters around a trained network, and added to its weights."""

from typing import Any

import jax

from ..combine.lora import LoRA
from ..core import paths
from ..core.layer import Layer
from ..core.paths import at
from ..tree import check_layer, edit_children
from .editing import check_params, filled


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
    """`net` in a `LoRA`, and its parameters with fresh adapters: the same function at first.

    Each weight w whose path fits `match` becomes {"base": w, "down": (n, rank), "up": (rank, m)}
    and stands for base + scale * down @ up; down is drawn from `key`, up is 0. Inputs are as for
    `net.init`. The adapters train alone if `net` is an `nn.Inference`, or with
    `train.partition({"**/down": optimizer, "**/up": optimizer, "**": None})`, and `merge_lora` is
    the way back. The weights are not copied: a step that takes the memory of the new parameters
    takes that of `params` too. Raises ValueError where nothing fits `match`, and for parameters of
    another network.

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
    check_params(net, params, inputs, named)
    around = LoRA(net, rank, match, scale)

    def kept(path: paths.Path) -> Any:
        """The weight that stays; None for an adapter, which is to be drawn."""
        *above, name = path
        if not paths.matches(match, paths.text(above)):
            return at(params, path)
        return at(params, tuple(above)) if name == "base" else None

    spec = around.spec(*inputs, **named)
    return around, filled(spec, key, {path: kept(path) for path, _ in paths.walk(spec)})


def merge_lora(net: Layer, params: Any) -> tuple[Layer, Any]:
    """`net` without its `LoRA` wrappers, and its parameters with the adapters added in.

    The same function, to the bit: w is computed once as the wrapper computes it in each call.
    Raises ValueError for a network without adapters.

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
