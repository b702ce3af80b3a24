"""Networks that compute the same function: with caches, wider, stacked, and unstacked."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..combine import Sequential
from ..combine.transforms import Inference, Remat, Repeat, check_stacked
from ..core import paths
from ..core.calls import placeholder_key
from ..core.layer import Layer
from ..core.paths import at
from ..core.values import copy_with, fields
from ..explain.text import describe
from ..fields import is_array
from ..keys import as_key
from ..tree import (
    Edit,
    check_found,
    check_layer,
    edit_children,
    inside,
    layers,
    map_layers,
    validated,
)
from ..validation import Accepts, positive
from .replacement import check_belong, replace

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
    every = found or _cachable(net, lambda path, layer: True)
    names = ", ".join(repr(paths.text(path)) for path in every) or "none"
    fit = f"that can keep a cache fits match={match!r}, or is below a layer that fits"
    hint = f"layers that look at other positions, as nn.MultiHeadAttention does, are at: {names}"
    check_found(found, net, fit if every else "can keep a cache", hint)
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
