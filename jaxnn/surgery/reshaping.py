"""Changes of shape that keep the function of a network: widening, stacking, and unstacking."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..combine.sequential import Sequential
from ..combine.transforms import Inference, Remat, Repeat, check_stacked
from ..core import paths
from ..core.calls import placeholder_key
from ..core.layer import Layer
from ..core.paths import at
from ..explain.text import describe
from ..fields import is_array
from ..keys import as_key
from ..tree import Edit, check_layer, edit_children, inside
from .replacement import check_belong, replace


def widen(
    net: Layer,
    params: Any,
    path: str,
    features: int,
    key: jax.Array,
    *inputs: Any,
    state: Any = None,
    **named: Any,
) -> Any:
    """Increase the number of features at `path`, with parameters that compute the same function.

    New units are copies of units drawn at random. The weights of the layers that use their outputs
    are divided between a unit and its copies, in random proportions, so that they diverge in
    training. The affected arrays follow from the shapes: along an axis that grows, elements are
    copied if it is the last axis of an array (outputs), and divided otherwise (inputs). Both
    networks are run once on random inputs to compare their outputs.

    Args:
        net: Network.
        params: Its parameters.
        path: Path of the setting, as for `nn.replace`: "hidden/features", "blocks/mlp/hidden".
        features: New number of features.
        key: PRNG key.
        *inputs: Inputs of the network, as for `net.init`.
        state: State of the network. Default: None.
        **named: Named inputs.

    Returns:
        (network, parameters), or (network, parameters, state) if `state` is given.

    Raises:
        TypeError: If `net` is not a layer.
        ValueError: If `features` is not larger than before, if the setting changes any other size,
            or if the outputs would change, for example because of a LayerNorm in between.

    Reference: Chen et al., Net2Net: accelerating learning via knowledge transfer, 2016.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net, x = nn.Sequential(nn.Dense(4), jax.nn.relu, nn.Dense(2)), jnp.ones((1, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> wide, more = widen(net, params, "0/features", 6, jax.random.key(1), x)
    >>> wide, jax.tree.map(jnp.shape, more[2])
    (Sequential(Dense(6), jax.nn.relu, Dense(2)), {'b': (2,), 'w': (6, 2)})
    >>> bool(jnp.allclose(wide.apply(more, x), net.apply(params, x), atol=1e-5))
    True
    """
    check_layer(net, "nn.widen(net, params, path, features, key, x)")
    check_belong(net, params, inputs, named)
    key = as_key(key)
    wide = replace(net, path, features)
    before, after = _shapes(net, inputs, named), _shapes(wide, inputs, named)
    units = _units(before, after, features)
    copied = jax.random.randint(key, (features - units,), 0, units)
    source = np.concatenate([np.arange(units), np.asarray(copied)])

    def grown(place: paths.Path, shape: Any) -> jax.Array:
        array = jnp.asarray(at({"params": params, "state": state}, place))
        for axis, (old, new) in enumerate(zip(array.shape, shape.shape, strict=True)):
            if old != new:
                array = jnp.take(array, source, axis)
                if place[0] == "params" and axis < array.ndim - 1:
                    shares = _shares(paths.PathKey(key).child(place).value(), source)
                    array *= jnp.expand_dims(shares, range(1, array.ndim - axis))
        return array

    roots = ("params",) if state is None else ("params", "state")
    new = paths.map_with_path(grown, {root: after[root] for root in roots})
    _check_same(net, wide, (params, state), (new["params"], new.get("state")), key, inputs, named)
    return (wide, *(new[root] for root in roots))


def _shapes(net: Layer, inputs: Any, named: Any) -> dict[str, Any]:
    state = jax.eval_shape(lambda: net.init_state(*inputs, key=placeholder_key(), **named))
    return {"params": net.spec(*inputs, **named), "state": state}


def _units(before: Any, after: Any, features: int) -> int:
    """Return the number of units; raise ValueError unless it alone grows, to `features`."""
    old, new = (
        {paths.text(p): tuple(a.shape) for p, a in paths.walk(tree)} for tree in (before, after)
    )
    pairs = {
        pair
        for place in old
        if place in new
        for pair in zip(old[place], new[place], strict=False)
        if pair[0] != pair[1]
    }
    ranks, after_ranks = ({place: len(s) for place, s in found.items()} for found in (old, new))
    if ranks != after_ranks or len(pairs) != 1 or not min(pairs)[0] < min(pairs)[1] == features:
        found = ", ".join(f"{a} to {b}" for a, b in sorted(pairs)) or "nothing"
        raise ValueError(
            f"one size must grow, to {features} features, and all arrays must keep their axes; "
            f"the changes are: {found}; widen the features of one layer"
        )
    return min(pairs)[0]


def _shares(key: jax.Array, source: Any) -> jax.Array:
    """Return the share of each unit in the unit that it copies; shares of one source sum to 1."""
    weights = jax.random.uniform(key, source.shape, minval=0.5, maxval=1.5)
    return weights / jnp.zeros(len(source)).at[source].add(weights)[source]


def _check_same(
    net: Layer, wide: Layer, old: Any, new: Any, key: jax.Array, inputs: Any, named: Any
) -> None:
    """Raise ValueError if the two networks have different outputs for random inputs."""

    def drawn(x: Any) -> Any:
        """Return random numbers; the given inputs, such as zeros, may hide a difference."""
        if is_array(x) and jnp.issubdtype(x.dtype, jnp.floating):
            return jax.random.normal(key, x.shape, x.dtype)
        return jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x

    inputs, named = jax.tree.map(drawn, (inputs, named))
    outputs = []
    for one, (params, state) in ((net, old), (wide, new)):

        @jax.jit
        def run(params: Any, state: Any, one: Layer = one) -> Any:
            y = one.apply(params, *inputs, state=state, **named)
            return y if state is None else y[0]

        outputs.append(run(params, state))
    for one, other in zip(*map(jax.tree.leaves, outputs), strict=True):
        off = size = math.inf
        if one.shape == other.shape:
            off, size = (float(jnp.max(jnp.abs(a), initial=0)) for a in (one - other, one))
        if not off <= size * float(jnp.finfo(one.dtype).eps) ** 0.5 or off == math.inf:
            raise ValueError(
                f"the outputs of the wider network differ: {describe(other)} instead of "
                f"{describe(one)}, by up to {off:.3g} of {size:.3g}; widen a layer whose outputs "
                "go to other layers, with only functions of single features in between, such as "
                "jax.nn.relu or BatchNorm, but not LayerNorm or a softmax"
            )


def unstack_layers(net: Layer, params: Any) -> tuple[Layer, Any]:
    """Replace every `Repeat` of a network by a `Sequential` of its copies.

    The outputs are the same, including random numbers: copy i keeps its key. The network takes
    longer to compile, but a scan no longer reads each layer's parameters from a stack, which takes
    most of the time of token-by-token decoding on a CPU. The arrays are copies, so memory doubles
    until the stacked ones are freed. `Remat(block, keep="products")` in a `Repeat` becomes the
    block: it spares the scan from copying what it stores, and otherwise only computes it twice. A
    `Repeat` inside a wrapper that rearranges parameters, such as `Ensemble`, is unchanged.

    Args:
        net: Network.
        params: Its parameters.

    Returns:
        The network without those `Repeat` wrappers, and its parameters.

    Raises:
        TypeError: If `net` is not a layer.
        ValueError: If the parameters have a different number of copies.

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

    This is the inverse of `unstack_layers`, except for `Remat(block, keep="products")`: the outputs
    are the same, including random numbers, and each stack compiles in about the time of one layer.
    A `Sequential` is unchanged if its layers are named, differ, or have no parameters or parameters
    of different shapes.

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
    block = net.wrapped
    if isinstance(block, Remat) and block.keep == "products":
        block = block.wrapped
    copies = [_unstacked(block, jax.tree.map(lambda a, i=i: a[i], params)) for i in range(net.n)]
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
