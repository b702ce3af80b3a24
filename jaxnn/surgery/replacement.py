"""replace: change layers or settings of a network; add_lora, merge_lora: add and merge adapters.

Each returns the new network and its parameters.
"""

from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar, overload

import jax

from ..combine.reparametrization import LoRA
from ..core import paths
from ..core.declarations import Param
from ..core.layer import Layer, holds_layer
from ..core.paths import at
from ..core.values import copy_with, fields
from ..explain.text import check_matches, describe, in_short, suggestion
from ..fields import is_array
from ..keys import as_key
from ..random import draw
from ..tree import check_found, check_layer, edit_children, layers, unwrapped, validated
from ..validation import Accepts, check_none

Net = TypeVar("Net", bound=Layer)

_PATH = Accepts(
    "text such as 'blocks/3/mlp'",
    lambda v: isinstance(v, str) and bool(v),
    hint="the path '' is the network itself: use the new network instead",
)


@overload
def replace(net: Net, path: str, value: Any) -> Net: ...
@overload
def replace(
    net: Net, path: str, value: Any, params: Any, key: jax.Array, *inputs: Any, **named: Any
) -> tuple[Net, Any]: ...
def replace(
    net: Layer,
    path: str,
    value: Any,
    params: Any = None,
    key: Any = None,
    *inputs: Any,
    **named: Any,
) -> Any:
    """Return `net` with `value` at `path`, and its parameters if those of `net` are given.

    A path leads from child to child, as in the parameters: `"blocks/3/mlp"`. The layer there is
    replaced as a whole, with its wrappers. The last segment of a path can also be

    - a setting of that layer or of one of its wrappers: `"hidden/features"`, or `"blocks/n"` for
      `blocks=Repeat(block, n)`. A child of the same name takes precedence;
    - `inner`, the layer inside all wrappers, which are kept: `"blocks/inner"` is the block.

    A pattern such as `"**/norm*"` replaces every layer whose path matches: `*` matches any text in
    one segment, `**` any segments. If one matching layer contains another, the outer one is
    replaced. If no layer matches, the pattern selects settings: `"**/attention/dropout"`.

    With `params`, parameters at and below the replaced paths are drawn from `key`, as
    `init(key, *inputs)` of the new network draws them; all others are taken from `params`.

    Args:
        net: Network, which does not change.
        path: Path or pattern.
        value: New layer, function, or setting. Every layer on the path is checked again, so a
            wrong value raises as the constructor does.
        params: Parameters of `net`. By default only the network is returned.
        key: PRNG key for the new parameters; needed with `params`.
        *inputs: Inputs of the network, as for `net.init`.
        **named: Named inputs.

    Returns:
        The network, or `(network, parameters)` if `params` are given.

    Raises:
        TypeError: If `net` is not a layer, if the path is not a string, or if one of `params` and
            `key` is missing.
        ValueError: If a path does not exist, belongs to two wrappers, or is empty (the network
            itself), if nothing matches a pattern, or if parameters elsewhere do not fit the new
            network, such as the weights after a layer that is wider now (see `nn.widen`).

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))
    >>> replace(replace(net, "1", jax.nn.gelu), "0/features", 64)
    Sequential(Dense(64), jax.nn.gelu, Dense(10))
    >>> replace(net, "**/bias", False)
    Sequential(Dense(128, bias=False), jax.nn.relu, Dense(10, bias=False))
    >>> x = jnp.ones((1, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> new, both = replace(net, "2", nn.Dense(100), params, jax.random.key(1), x)
    >>> both[0]["w"] is params[0]["w"], both[2]["w"].shape
    (True, (128, 100))
    """
    check_layer(net, "nn.replace(net, path, value)")
    _PATH(path, "path")
    if (params is None) != (key is None):
        raise TypeError(
            "parameters require a key, and a key requires parameters; write "
            "nn.replace(net, path, value, params, jax.random.key(0), x)"
        )
    new = net
    for found in _fitting(net, path):
        new = _in_layer(new, found, value, ())
    if params is None:
        return new
    return new, _carried(net, new, path, params, key, inputs, named)


def _carried(
    net: Layer, new: Layer, path: str, params: Any, key: jax.Array, inputs: Any, named: Any
) -> Any:
    """Return the parameters of the new network: `params`, and new ones at and below `path`."""
    check_belong(net, params, inputs, named)
    places = {path for path, _ in layers(net)}
    whole, settings = [], []
    for place in _fitting(net, path):
        if place in places or place[-1] == "inner":
            whole.append(place if place in places else place[:-1])
        else:
            settings.append(place[:-1])
    lines = []

    def kept(place: paths.Path, param: Param) -> Any:
        """Return the array that is kept, or None if a new one must be drawn."""
        if _is_below(place, whole):
            return None
        try:
            old = at(params, place)
        except (KeyError, ValueError):  # a name where there was a tuple
            old = None
        if old is not None and is_array(old) and tuple(old.shape) == param.shape:
            return old
        if not _is_below(place, settings):
            got = "nothing" if old is None else describe(old)
            lines.append(f"{paths.text(place)}: now {param.shape}, the parameters have {got}")
        return None

    spec = new.spec(*inputs, **named)
    old = {place: kept(place, param) for place, param in paths.walk(spec)}
    what = f"with {path!r} replaced, parameters elsewhere no longer fit"
    check_none(lines, what, "replace these layers too, or write nn.widen(net, params, ...)")
    return filled(spec, key, old)


def _is_below(place: paths.Path, tops: list[paths.Path]) -> bool:
    return any(place[: len(top)] == top for top in tops)


def _fitting(net: Layer, path: str) -> list[paths.Path]:
    """Return the paths that a path or a pattern matches."""
    if not set("*?") & set(path):
        return [tuple(path.split("/"))]
    found = dict(reversed([*layers(net)]))  # the outermost layer of each path
    places = [*dict.fromkeys(path for path, _ in layers(net))]
    fit = [place for place in places if place and paths.matches(path, paths.text(place))]
    if fit:
        return [place for place in fit if not any(place[:n] in fit for n in range(len(place)))]
    names = [
        (*place, name)
        for place in places
        for one in unwrapped(found[place])
        for name in _settings(one)
    ]
    fit = [place for place in dict.fromkeys(names) if paths.matches(path, paths.text(place))]
    known = ", ".join(paths.text(place) for place in places if place) or "none"
    what = f"and no setting of a layer fits the pattern {path!r}"
    check_found(fit, net, what, f"the paths of layers are: {known}")
    return fit


def _in_layer(layer: Layer, segments: paths.Path, value: Any, above: paths.Path) -> Any:
    """Return `layer`, whose path is `above`, with `value` at `segments` below it."""
    stack = unwrapped(layer)
    name, last = segments[0], len(segments) == 1
    children = stack[-1]._children()
    if name in _names(children):
        new = stack[-1]._with_children(_in_tree(children, segments, value, above))
        return _rewrapped(stack[:-1], validated(new))
    if last and name == "inner" and len(stack) > 1:
        return _rewrapped(stack[:-1], value)
    owners = [number for number, one in enumerate(stack) if name in _settings(one)]
    if last and len(owners) == 1:
        number = owners[0]
        return _rewrapped(stack[:number], validated(copy_with(stack[number], **{name: value})))
    if last and owners:
        kinds = " and ".join(type(stack[number]).__name__ for number in owners)
        raise ValueError(
            f"{paths.text((*above, name))!r} could be a setting of {kinds}, which have the same "
            "path: replace the whole layer there"
        )
    if owners:
        found = getattr(stack[owners[0]], name)
        _missing(segments[1:], (*above, name), f"{found!r}, a setting", ())
    known = {*_names(children), *(field for one in stack for field in _settings(one))}
    _missing(segments, above, _brief(layer), known | {"inner"} if len(stack) > 1 else known)


def _in_tree(tree: Any, segments: paths.Path, value: Any, above: paths.Path) -> Any:
    """Return children in nested dicts and tuples, with `value` at `segments`."""
    if not segments:
        return value
    if isinstance(tree, Layer):
        return _in_layer(tree, segments, value, above)
    name, below = segments[0], (*above, segments[0])
    if name not in _names(tree):
        _missing(segments, above, _brief(tree), _names(tree))
    if isinstance(tree, dict):
        return {**tree, name: _in_tree(tree[name], segments[1:], value, below)}
    number = int(name)
    return (*tree[:number], _in_tree(tree[number], segments[1:], value, below), *tree[number + 1 :])


def _names(tree: Any) -> tuple[str, ...]:
    if isinstance(tree, dict):
        return tuple(tree)
    return tuple(map(str, range(len(tree)))) if isinstance(tree, tuple) else ()


def _rewrapped(wrappers: tuple[Layer, ...], inner: Any) -> Any:
    for wrapper in reversed(wrappers):
        inner = validated(copy_with(wrapper, inner=inner))
    return inner


def _settings(layer: Layer) -> list[str]:
    """Return the names of the fields that hold no layers."""
    return [field.name for field in fields(layer) if not holds_layer(getattr(layer, field.name))]


def _missing(segments: paths.Path, above: paths.Path, found: str, known: Iterable[str]) -> NoReturn:
    """Raise ValueError: `found`, at the path `above`, does not have the first of `segments`."""
    path = paths.text((*above, *segments))
    where = repr(paths.text(above)) if above else "the network"
    raise ValueError(
        f"there is no {path!r}: {where} is {found}, which does not have {segments[0]!r}; "
        f"{suggestion(segments[0], known)}"
    )


def _brief(item: Any) -> str:
    if isinstance(item, (tuple, dict)):
        return f"a {'dict' if isinstance(item, dict) else 'tuple'} of {len(item)}"
    return in_short(item)


# ---- parameters, shared by the functions that edit a network and its parameters ----


def filled(spec: Any, key: jax.Array, kept: dict[paths.Path, Any]) -> Any:
    """Return the parameters that `spec` declares: those kept by path, and new ones for None."""
    wanted = paths.map_with_path(lambda path, p: p if kept[path] is None else {}, spec)
    drawn = draw(wanted, as_key(key))
    return paths.map_with_path(
        lambda path, _: at(drawn, path) if kept[path] is None else kept[path], spec
    )


def check_belong(net: Layer, params: Any, inputs: Any, named: Any) -> None:
    """Raise ValueError, with every difference, for parameters of another network."""
    what = "the parameters are not those of this network for these inputs"
    check_matches(net.spec(*inputs, **named), params, what)


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
    """Wrap a trained network in `LoRA`, with new adapters that do not change its outputs at first.

    Each weight w whose path fits `match` becomes {"base": w, "down": (n, rank), "up": (rank, m)},
    which is used as base + scale * down @ up. down is drawn from `key`, and up is 0. To train only
    the adapters, pass an `nn.Inference` as `net`, or use
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

    The outputs are bitwise identical: w is computed once, as the wrapper computes it in each call.

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
    what = "is wrapped in LoRA, so there is nothing to merge"
    check_found(
        found,
        net,
        what,
        "write net, params = nn.add_lora(net, params, key, x, rank=8) to add adapters",
    )
    return plain
