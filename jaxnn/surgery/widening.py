"""widen: add units to a layer of a trained network, which keeps its outputs."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.calls import placeholder_key
from ..core.layer import Layer
from ..core.paths import at
from ..explain.text import describe
from ..fields import is_array
from ..keys import as_key
from ..tree import check_layer
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
    """Raise the number of features at `path`, with parameters for the same function.

    New units are copies of units drawn at random. The weights of the layers that use their outputs
    are divided between a unit and its copies, in random proportions, so that training separates
    them. Which arrays these are follows from the shapes: an axis that grows is copied if it is the
    last axis of an array (outputs), and divided otherwise (inputs). Both networks are run once on
    random inputs to compare their outputs.

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
        ValueError: If `features` is not larger than before, if the setting changes other shapes, or
            if the outputs would change, for example because of a LayerNorm in between.

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
