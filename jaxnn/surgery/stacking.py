"""stack_layers and unstack_layers: equal layers as one `Repeat`, or as a `Sequential`."""

from typing import Any

import jax
import jax.numpy as jnp

from ..combine.sequential import Sequential
from ..combine.transforms import Inference, Remat, Repeat, check_stacked
from ..core.layer import Layer
from ..tree import Edit, check_layer, edit_children, inside


def unstack_layers(net: Layer, params: Any) -> tuple[Layer, Any]:
    """Replace every `Repeat` of a network by a `Sequential` of its copies.

    The outputs are the same, including random numbers: copy i keeps its key. The network takes
    longer to compile, but no scan reads a layer's parameters from a stack, which takes most of the
    time of decoding token by token on a CPU. The arrays are copies, so memory doubles until the
    stacked ones are freed. Repeats inside a wrapper that rearranges parameters, such as
    `Ensemble`, are unchanged.

    Args:
        net: Network.
        params: Its parameters.

    Returns:
        The network without those `Repeat` wrappers, and its parameters.

    Raises:
        TypeError: If `net` is not a layer.
        ValueError: If the parameters are of another number of copies.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Repeat(nn.Dense(4), 2)
    >>> params = net.init(jax.random.key(0), jnp.zeros(4))
    >>> row, row_params = unstack_layers(net, params)
    >>> row, jax.tree.map(jnp.shape, row_params)
    (Sequential(Dense(4), Dense(4)), ({'b': (4,), 'w': (4, 4)}, {'b': (4,), 'w': (4, 4)}))
    """
    check_layer(net, "nn.unstack_layers(net, params)")
    return _unstacked(net, params)


def stack_layers(net: Layer, params: Any) -> tuple[Layer, Any]:
    """Replace every `Sequential` of two or more equal layers by a `Repeat`.

    This is the inverse of `unstack_layers`: the outputs are the same, including random numbers, and
    the network compiles in the time of one layer. A `Sequential` is unchanged if its layers are
    named, differ, or have no parameters or parameters of different shapes.

    Args:
        net: Network.
        params: Its parameters.

    Returns:
        The network with those `Repeat` wrappers, and its parameters.

    Raises:
        TypeError: If `net` is not a layer.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Dense(4), nn.Dense(4))
    >>> params = net.init(jax.random.key(0), jnp.zeros(4))
    >>> once, once_params = stack_layers(net, params)
    >>> once, jax.tree.map(jnp.shape, once_params)
    (Repeat(Dense(4), 2), {'b': (2, 4), 'w': (2, 4, 4)})
    """
    check_layer(net, "nn.stack_layers(net, params)")
    return _stacked(net, params)


def _unstacked(net: Any, params: Any) -> tuple[Any, Any]:
    if not isinstance(net, Repeat):
        return _below(_unstacked, net, params)
    check_stacked(params, net.n)
    copies = [
        _unstacked(net.wrapped, jax.tree.map(lambda a, i=i: a[i], params)) for i in range(net.n)
    ]
    row, row_params = zip(*copies, strict=True)
    return Sequential(*row), row_params


def _stacked(net: Any, params: Any) -> tuple[Any, Any]:
    net, params = _below(_stacked, net, params)
    if type(net) is not Sequential or not isinstance(net.layers, tuple):
        return net, params
    equal = all(layer == net.layers[0] for layer in net.layers)
    if not (equal and len(set(map(_kinds, params))) == 1 < len(net.layers)):
        return net, params
    if not jax.tree.leaves(params):
        return net, params
    return Repeat(net.layers[0], len(net.layers)), jax.tree.map(lambda *a: jnp.stack(a), *params)


def _below(edit: Edit, net: Any, params: Any) -> tuple[Any, Any]:
    # Other wrappers rearrange parameters, or refer to layers by path.
    if inside(net) and not isinstance(net, Inference | Remat):
        return net, params
    return edit_children(edit, net, params)


def _kinds(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(a), jnp.result_type(a)) for a in leaves)
