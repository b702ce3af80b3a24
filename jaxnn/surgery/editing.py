"""Editing a network and its parameters together: what the pieces of surgery share."""

from collections.abc import Callable
from typing import Any

import jax

from ..core import paths
from ..core.binding import at
from ..core.declarations import mismatches
from ..core.drawing import draw
from ..core.layer import Layer
from ..core.values import copy_with
from ..core.wrapper import Wrapper

Edit = Callable[[Any, Any], tuple[Any, Any]]


def edit_below(edit: Edit, net: Any, params: Any) -> tuple[Any, Any]:
    """The layer with `edit` made to each of its children, or to what it wraps."""
    if not isinstance(net, Layer):
        return net, params
    if isinstance(net, Wrapper):
        inner, params = edit(net.wrapped, params)
        return checked(copy_with(net, inner=inner)), params
    children = net._children()
    if not children:
        return net, params
    children, params = _in_tree(edit, children, params)
    return checked(net._with_children(children)), params


def _in_tree(edit: Edit, children: Any, params: Any) -> tuple[Any, Any]:
    if isinstance(children, dict):
        pairs = {name: _in_tree(edit, child, params[name]) for name, child in children.items()}
        new = {name: child for name, (child, _) in pairs.items()}
        return new, {name: below for name, (_, below) in pairs.items()}
    if isinstance(children, (tuple, list)):
        pairs = [_in_tree(edit, *both) for both in zip(children, params, strict=True)]
        return paths.like(children, [a for a, _ in pairs]), paths.like(
            params, [b for _, b in pairs]
        )
    return edit(children, params)


def checked(layer: Any) -> Any:
    """A fresh copy of a layer, brought to normal form and validated as its constructor does."""
    layer.__post_init__()
    return layer


def filled(spec: Any, key: jax.Array, kept: dict[paths.Path, Any]) -> Any:
    """The parameters that `spec` declares: those kept by path, and fresh ones in place of None."""
    wanted = paths.map_with_path(lambda path, p: p if kept[path] is None else {}, spec)
    drawn = draw(wanted, paths.as_key(key))
    return paths.map_with_path(
        lambda path, _: at(drawn, path) if kept[path] is None else kept[path], spec
    )


def check_params(net: Layer, params: Any, inputs: Any, named: Any) -> None:
    """Raise ValueError, with every difference, for parameters of another network."""
    lines = mismatches(net.spec(*inputs, **named), params)
    if lines:
        raise ValueError(
            "the parameters are not those of this network for these inputs:\n  "
            + "\n  ".join(lines)
        )


def check_net(net: Any, call: str) -> None:
    """Raise TypeError where `net` is no layer; `call` is what to write."""
    if not isinstance(net, Layer):
        name = call.partition("(")[0].removeprefix("nn.")
        raise TypeError(f"{name} wants a layer, got {net!r}; write {call}")
