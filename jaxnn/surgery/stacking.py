"""unstack_layers and stacked: rows of equal layers as `Sequential`, and as `Repeat`."""

from typing import Any

import jax
import jax.numpy as jnp

from ..combine.inference import Inference
from ..combine.remat import Remat
from ..combine.repeat import Repeat, check_stacked
from ..combine.sequential import Sequential
from ..core.layer import Layer
from ..tree import Edit, check_layer, edit_children, inside


def unstack_layers(net: Layer, params: Any) -> tuple[Layer, Any]:
    """`net` with every `Repeat` as a row of its copies, a `Sequential`, and the parameters for it.

    The same function, random numbers included: copy i has the key it had. It compiles longer, but
    no scan has to take a layer's parameters out of a stack, which on a CPU is most of the time of
    decoding token by token. The arrays are copies: memory is doubled until the stacked ones are let
    go.

    Repeats inside a wrapper with parameters of its own, such as an `Ensemble`, stay. Raises
    Mismatch for parameters of another number of copies.

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
    """`net` with every `Sequential` of two or more equal layers as a `Repeat`, and its parameters.

    The inverse of `unstack_layers`: the same function, random numbers included, compiled in the
    time of one layer. A row stays as it is where its layers have names, differ, or have parameters
    of different shapes or none.

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
    # Other wrappers arrange parameters in their own way, or take layers by path.
    if inside(net) and not isinstance(net, Inference | Remat):
        return net, params
    return edit_children(edit, net, params)


def _kinds(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(a), jnp.result_type(a)) for a in leaves)
