"""around: wrap the layers of a network that match a pattern."""

from collections.abc import Callable, Iterator
from typing import Any

from ..core import paths
from ..core.layer import Layer
from ..core.values import copy_with
from ..core.wrapper import Wrapper


def around(net: Layer, pattern: str, wrap: Callable[[Layer], Layer]) -> Layer:
    """Replace each layer whose path matches by `wrap(layer)`, except layers below another match.

    Paths are those of parameters. A wrapper adds no level to them, and remains outside what is
    wrapped around its inner layer.
    """
    return _around(net, pattern, wrap, ())


def places(net: Layer, path: paths.Path = ()) -> Iterator[paths.Path]:
    """Yield the paths of all layers below a network."""
    if isinstance(net, Wrapper):
        yield from places(net.wrapped, path)
        return
    for below, child in paths.walk(net._children()):
        if isinstance(child, Layer):
            yield (*path, *below)
            yield from places(child, (*path, *below))


def _around(layer: Any, pattern: str, wrap: Callable[[Layer], Layer], path: paths.Path) -> Any:
    if not isinstance(layer, Layer):
        return layer
    if path and paths.matches(pattern, paths.text(path)):
        return wrap(layer)
    if isinstance(layer, Wrapper):
        return copy_with(layer, inner=_around(layer.wrapped, pattern, wrap, path))
    children = layer._children()
    if not children:
        return layer
    return layer._with_children(
        paths.map_with_path(
            lambda below, child: _around(child, pattern, wrap, (*path, *below)), children
        )
    )
