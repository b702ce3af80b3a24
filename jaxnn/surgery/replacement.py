"""replace: a network with one layer, or one setting of a layer, exchanged."""

from collections.abc import Iterable
from typing import Any, TypeVar

from ..core import paths
from ..core.composite import holds_layer
from ..core.layer import Layer
from ..core.signatures import suggestion
from ..core.values import copy_with, fields
from ..core.wrapper import Wrapper

Net = TypeVar("Net", bound=Layer)


def replace(net: Net, path: str, value: Any) -> Net:
    """`net` with `value` at `path`; `net` itself stays as it is.

    A path leads from child to child, as in the parameters: `"blocks/3/mlp"`. What stands there is
    replaced as a whole, its wrappers included. The last segment may also name

    - a setting of the layer there or of one of its wrappers: `"hidden/features"`, and `"blocks/n"`
      for `blocks=Repeat(block, n)`; a child of that name goes first;
    - `inner`, what is inside all the wrappers, which stay: `"blocks/inner"` is the block.

    Every layer on the way is checked again, so a wrong value raises as the constructor does.
    Raises ValueError for a path that leads nowhere, that two of the wrappers could mean, or that is
    empty (the network itself).

    >>> import jax, jaxnn as nn
    >>> net = nn.Serial(nn.Dense(128), jax.nn.relu, nn.Dense(10))
    >>> replace(replace(net, "1", jax.nn.gelu), "0/features", 64)
    Serial(Dense(64), jax.nn.gelu, Dense(10))
    >>> replace(nn.Repeat(nn.Residual(nn.Dense(8)), 3), "n", 6)
    Repeat(Residual(Dense(8)), 6)
    """
    if not isinstance(net, Layer):
        raise TypeError(f"replace wants a layer, got {net!r}; write nn.replace(net, path, value)")
    if not isinstance(path, str):
        raise TypeError(f"a path is text such as 'blocks/3/mlp', got {path!r}")
    if not path:
        raise ValueError("the path '' is the network itself: write the new network in its place")
    return _in_layer(net, tuple(path.split("/")), value, ())


def _in_layer(layer: Layer, segments: paths.Path, value: Any, above: paths.Path) -> Any:
    """`layer`, which stands at `above`, with `value` at `segments` below it."""
    stack = _stack(layer)
    name, last = segments[0], len(segments) == 1
    children = stack[-1]._children()
    if name in _names(children):
        new = stack[-1]._with_children(_in_tree(children, segments, value, above))
        return _rewrapped(stack[:-1], _checked(new))
    if last and name == "inner" and len(stack) > 1:
        return _rewrapped(stack[:-1], value)
    owners = [number for number, one in enumerate(stack) if name in _settings(one)]
    if last and len(owners) == 1:
        number = owners[0]
        return _rewrapped(stack[:number], _checked(copy_with(stack[number], **{name: value})))
    if last and owners:
        kinds = " and ".join(type(stack[number]).__name__ for number in owners)
        raise ValueError(
            f"{paths.text((*above, name))!r} could be a setting of {kinds}, which stand at one "
            "path: replace the layer there as a whole"
        )
    if owners:
        found = getattr(stack[owners[0]], name)
        raise _nowhere(segments[1:], (*above, name), f"{found!r}, a setting", ())
    known = {*_names(children), *(field for one in stack for field in _settings(one))}
    raise _nowhere(segments, above, _brief(layer), known | {"inner"} if len(stack) > 1 else known)


def _in_tree(tree: Any, segments: paths.Path, value: Any, above: paths.Path) -> Any:
    """Children in nested dicts and tuples, with `value` at `segments`."""
    if not segments:
        return value
    if isinstance(tree, Layer):
        return _in_layer(tree, segments, value, above)
    name, below = segments[0], (*above, segments[0])
    if name not in _names(tree):
        raise _nowhere(segments, above, _brief(tree), _names(tree))
    if isinstance(tree, dict):
        return {**tree, name: _in_tree(tree[name], segments[1:], value, below)}
    number = int(name)
    return (*tree[:number], _in_tree(tree[number], segments[1:], value, below), *tree[number + 1 :])


def _names(tree: Any) -> tuple[str, ...]:
    if isinstance(tree, dict):
        return tuple(tree)
    return tuple(map(str, range(len(tree)))) if isinstance(tree, tuple) else ()


def _stack(layer: Layer) -> tuple[Layer, ...]:
    """The wrappers from the outside in, and at the end the layer inside them all."""
    return (layer, *_stack(layer.wrapped)) if isinstance(layer, Wrapper) else (layer,)


def _rewrapped(wrappers: tuple[Layer, ...], inner: Any) -> Any:
    for wrapper in reversed(wrappers):
        inner = _checked(copy_with(wrapper, inner=inner))
    return inner


def _checked(layer: Any) -> Any:
    """A fresh copy, brought to normal form and validated as its constructor does."""
    layer.__post_init__()
    return layer


def _settings(layer: Layer) -> list[str]:
    """The fields that hold no layers."""
    return [field.name for field in fields(layer) if not holds_layer(getattr(layer, field.name))]


def _nowhere(
    segments: paths.Path, above: paths.Path, found: str, known: Iterable[str]
) -> ValueError:
    path = paths.text((*above, *segments))
    where = repr(paths.text(above)) if above else "the network"
    return ValueError(
        f"there is no {path!r}: {where} is {found}, which has no {segments[0]!r}; "
        f"{suggestion(segments[0], known)}"
    )


def _brief(item: Any) -> str:
    if isinstance(item, (tuple, dict)):
        return f"a {'dict' if isinstance(item, dict) else 'tuple'} of {len(item)}"
    shown = repr(item)
    return shown if len(shown) <= 80 else f"{type(item).__name__}(...)"
