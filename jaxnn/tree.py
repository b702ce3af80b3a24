"""The layers of a network: walking through them, and building the network again.

A layer has children, and a wrapper one layer inside it, which has the wrapper's own path. Paths are
those of the parameters.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .core import paths
from .core.layer import Layer

Net = TypeVar("Net", bound=Layer)
Edit = Callable[[Any, Any], tuple[Any, Any]]


def layers(net: Layer) -> Iterator[tuple[paths.Path, Layer]]:
    """Every layer of a network with its path, a tuple of segments; the network itself comes first.

    A layer comes before the layers below it, and a wrapper before the layer inside it, which has
    the same path.

    Args:
        net: the network.

    Raises:
        TypeError: `net` is not a layer.

    >>> import jaxnn as nn
    >>> net = nn.Sequential(body=nn.Repeat(nn.Dense(4), 3), head=nn.Dense(2))
    >>> for path, layer in layers(net):
    ...     print("/".join(path), layer)
     Sequential(body=Repeat(Dense(4), 3), head=Dense(2))
    body Repeat(Dense(4), 3)
    body Dense(4)
    head Dense(2)
    """
    check_layer(net, "nn.layers(net)")
    return _layers(net, ())


def _layers(layer: Layer, path: paths.Path) -> Iterator[tuple[paths.Path, Layer]]:
    yield path, layer
    for below, child in paths.walk(layer._children()):
        if child is not None:
            yield from _layers(child, (*path, *below))


def map_layers(function: Callable[[paths.Path, Any], Any], net: Net) -> Net:
    """The network with `function(path, layer)` in the place of every layer.

    The layers below a layer are replaced before it, and it is checked again as its constructor
    does. `net` does not change; layers in which nothing is replaced are the same objects.

    Args:
        function: it gets the path, a tuple of segments, and the layer there, whose own layers are
            replaced already, and returns the layer itself or another one.
        net: the network.

    Raises:
        TypeError: `net` is not a layer.

    >>> import dataclasses, jaxnn as nn
    >>> net = nn.Sequential(nn.Repeat(nn.Dropout(0.5), 3), nn.Dense(2))
    >>> def without_dropout(path, layer):
    ...     return dataclasses.replace(layer, rate=0.1) if isinstance(layer, nn.Dropout) else layer
    >>> map_layers(without_dropout, net)
    Sequential(Repeat(Dropout(0.1), 3), Dense(2))
    """
    check_layer(net, "nn.map_layers(function, net)")
    return _mapped(function, net, ())


def _mapped(function: Callable[[paths.Path, Any], Any], layer: Any, path: paths.Path) -> Any:
    new = map_children(lambda below, child: _mapped(function, child, (*path, *below)), layer)
    return function(path, new)


def map_children(function: Callable[[paths.Path, Any], Any], layer: Any) -> Any:
    """A layer with `function(path, child)` in the place of each child, or of what it wraps.

    Paths are from the layer on. If nothing changes, it is the same object.
    """
    changed = []

    def one(below: paths.Path, child: Any) -> Any:
        new = child if child is None else function(below, child)
        changed.append(new is not child)
        return new

    children = paths.map_with_path(one, layer._children())
    return validated(layer._with_children(children)) if any(changed) else layer


def edit_children(edit: Edit, layer: Any, params: Any) -> tuple[Any, Any]:
    """A layer and its parameters, with `edit(child, params)` in the place of each child and its
    parameters, or of what it wraps; for a layer whose parameters are those of its children."""
    children = layer._children()
    if isinstance(children, dict) and not children:
        return layer, params
    children, params = _edited(edit, children, params)
    return validated(layer._with_children(children)), params


def _edited(edit: Edit, children: Any, params: Any) -> tuple[Any, Any]:
    if isinstance(children, dict):
        pairs = {name: _edited(edit, child, params[name]) for name, child in children.items()}
        new = {name: child for name, (child, _) in pairs.items()}
        return new, {name: below for name, (_, below) in pairs.items()}
    if isinstance(children, tuple | list):
        both = [_edited(edit, *pair) for pair in zip(children, params, strict=True)]
        return paths.like(children, [a for a, _ in both]), paths.like(params, [b for _, b in both])
    return (children, params) if children is None else edit(children, params)


def unwrapped(layer: Layer) -> tuple[Layer, ...]:
    """The layers at the path of a layer: the wrappers from the outside in, and what they wrap."""
    inner = inside(layer)
    return (layer,) if inner is None else (layer, *unwrapped(inner))


def inside(layer: Layer) -> Layer | None:
    """The layer inside a wrapper; None for other layers."""
    inner = layer._children()
    return inner if isinstance(inner, Layer) else None


def validated(layer: Any) -> Any:
    """A fresh copy of a layer, brought to normal form and validated as its constructor does."""
    layer.__post_init__()
    return layer


def check_layer(net: Any, call: str) -> None:
    """Raise TypeError where `net` is not a layer; `call` is what to write."""
    if not isinstance(net, Layer):
        name = call.partition("(")[0].removeprefix("nn.")
        raise TypeError(f"{name} expects a layer, got {net!r}; write {call}")
