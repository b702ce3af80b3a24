"""widen: a trained network with more units in a layer, which computes the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.calls import placeholder_key
from ..core.declarations import is_array
from ..core.layer import Layer
from ..core.paths import at
from ..keys import as_key
from ..tree import check_layer
from .editing import check_params
from .replacement import replace


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
    """`net` with the setting at `path` raised to `features`, and parameters for the same function.

    New units are copies of ones drawn at random. What takes their outputs has the weights of a unit
    divided among it and its copies, in random shares, so that training tells them apart. Which
    arrays these are follows from the shapes: an axis that grows is copied where it is an array's
    last one, outputs, and divided elsewhere, inputs.

    Path and setting are as in `nn.replace`: `"hidden/features"`, `"blocks/mlp/hidden"`. Inputs are
    as for `net.init`. With `state` the result is (net, params, state), else (net, params).

    Raises ValueError for a number of features that is not larger, for settings that change shapes
    in another way, and where the function would not be the same, as where a LayerNorm stands
    between: both networks are run once on random inputs to see it.

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
    check_params(net, params, inputs, named)
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
    """How many units there were; ValueError where what grows is not that, everywhere."""
    old, new = (
        {paths.text(p): tuple(a.shape) for p, a in paths.walk(tree)} for tree in (before, after)
    )
    pairs = {
        pair
        for place in old
        if len(old[place]) == len(new.get(place, ()))
        for pair in zip(old[place], new[place], strict=True)
        if pair[0] != pair[1]
    }
    ranks = {place: len(shape) for place, shape in old.items()}
    if ranks != {place: len(shape) for place, shape in new.items()} or len(pairs) != 1:
        found = ", ".join(f"{a} to {b}" for a, b in sorted(pairs)) or "nothing"
        raise ValueError(
            f"one size is to grow to {features} features, and all arrays to stay where they are; "
            f"what changes is {found}: widen the features of one layer"
        )
    ((units, grown),) = pairs
    if not units < grown == features:
        raise ValueError(f"there are {units} features, which cannot grow to {features}")
    return units


def _shares(key: jax.Array, source: Any) -> jax.Array:
    """For each unit a share of what it is a copy of; those of one source add up to 1."""
    weights = jax.random.uniform(key, source.shape, minval=0.5, maxval=1.5)
    return weights / jnp.zeros(len(source)).at[source].add(weights)[source]


def _check_same(
    net: Layer, wide: Layer, old: Any, new: Any, key: jax.Array, inputs: Any, named: Any
) -> None:
    """Raise ValueError where the two give different outputs for random inputs."""

    def drawn(x: Any) -> Any:
        """Random numbers, since at those that are given, as zeros, less might show."""
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
        if one.shape != other.shape:
            raise ValueError(
                f"the outputs have another shape then, {other.shape} and not {one.shape}: widen a "
                "layer whose outputs other layers take"
            )
        off, size = (float(jnp.max(jnp.abs(a), initial=0)) for a in (one - other, one))
        if not off <= size * float(jnp.finfo(one.dtype).eps) ** 0.5:
            raise ValueError(
                f"the wider network computes something else: outputs of up to {size:.3g} differ by "
                f"{off:.3g}. Between a layer that is widened and those that take what it gives may "
                "stand what works on each feature alone, as jax.nn.relu or BatchNorm, and nothing "
                "that mixes them, as LayerNorm or a softmax"
            )
