"""The layers of a network: iteration over them, networks with other layers, and their calls.

A layer has children. A wrapper has one layer inside it, with the same path. Paths are those of the
parameters.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

from .core import paths
from .core.calls import Call, Interceptor, Outcome, evaluate_layer
from .core.composite import Wrapper
from .core.layer import Layer, LayerLike
from .explain.layer_errors import interceptor
from .explain.text import in_short
from .validation import Accepts, instance

Net = TypeVar("Net", bound=Layer)
Edit = Callable[[Any, Any], tuple[Any, Any]]


def layers(net: Layer) -> Iterator[tuple[paths.Path, Layer]]:
    """Yield every layer of a network with its path, a tuple of segments.

    The network itself is first. A layer precedes the layers below it, and a wrapper precedes the
    layer inside it, which has the same path.

    Args:
        net: Network.

    Raises:
        TypeError: If `net` is not a layer.

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
    """Return the network with `function(path, layer)` in place of every layer.

    The layers below a layer are replaced first, and the layer is checked again as by its
    constructor. `net` does not change; layers in which nothing is replaced are the same objects.

    Args:
        function: Function of the path, a tuple of segments, and the layer there, in which layers
            are already replaced. It returns that layer or another one.
        net: Network.

    Returns:
        The new network.

    Raises:
        TypeError: If `net` is not a layer.

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
    """Return a layer with `function(path, child)` in place of each child, or of the inner layer.

    Paths start at the layer. If nothing changes, the result is the same object.
    """
    changed = []

    def one(below: paths.Path, child: Any) -> Any:
        new = child if child is None else function(below, child)
        changed.append(new is not child)
        return new

    children = paths.map_with_path(one, layer._children())
    return validated(layer._with_children(children)) if any(changed) else layer


class intercept(Wrapper):
    """Return the network with every call of a layer passed through a function.

    The function is called as `function(path, layer, call, next)`, and returns an outcome:

    - `path` is the path of the layer, a tuple of segments, `()` for the network itself;
    - `layer` is the layer that is called. A wrapper and the layer inside it are two layers at one
      path; `call.inner` is True for the second;
    - `call` contains its arguments: `call.inputs`, `call.named`, `call.params`, `call.state`,
      `call.train`, and `call.method`. `call.replace(inputs=...)` is another call;
    - `next(call)` calls the layer and returns the outcome: `outcome.output` and `outcome.state`.
      `outcome._replace(output=...)` is another outcome.

    The function is called for each call of a layer while the network is traced: once for the layer
    of a `Repeat`, whose `n` copies are one `lax.scan`, and once, with the whole sequence, for a
    cell of this library inside a `Recurrent`. It is called in every wrapper and transform, and
    while `init` infers which parameters exist; `call.params` is then a placeholder without leaves.
    Of several functions, the one of the outer `intercept` is called first.

    The parameters are those of `inner`. The network is not equal to `inner`, and two intercepted
    networks are equal if their functions are equal.

    Args:
        inner: Network.
        function: Plain function. To pickle the network, it must be possible to import the function.

    Raises:
        TypeError: If `function` is not a plain function.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> def clipped(path, layer, call, next):
    ...     outcome = next(call)
    ...     if not isinstance(layer, nn.Dense):
    ...         return outcome
    ...     return outcome._replace(output=jnp.clip(outcome.output, -1, 1))
    >>> net, x = nn.Sequential(nn.Dense(2, w_init=nn.ones()), nn.Dense(3)), jnp.ones((1, 4))
    >>> params = net.init(jax.random.key(0), x)
    >>> nn.capture(intercept(net, clipped), "0").apply(params, x)[1]["0"].tolist()
    [[1.0, 1.0]]
    """

    inner: LayerLike
    function: Annotated[Interceptor, interceptor]

    def _evaluate(self, call: Call) -> Outcome:
        return evaluate_layer(self.wrapped, call.intercepted(self.function).replace(inner=False))


def edit_children(edit: Edit, layer: Any, params: Any) -> tuple[Any, Any]:
    """Return a layer and its parameters with `edit(child, params)` in place of each child, or of
    the inner layer, and its parameters; for a layer whose parameters are those of its children."""
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
        below, parts = [a for a, _ in both], [b for _, b in both]
        return paths.same_kind(children, below), paths.same_kind(params, parts)
    return (children, params) if children is None else edit(children, params)


def unwrapped(layer: Layer) -> tuple[Layer, ...]:
    """Return the layers at the path of a layer: wrappers, the outer ones first, then the inner."""
    inner = inside(layer)
    return (layer,) if inner is None else (layer, *unwrapped(inner))


def inside(layer: Layer) -> Layer | None:
    """Return the layer inside a wrapper; None for other layers."""
    inner = layer._children()
    return inner if isinstance(inner, Layer) else None


def validated(layer: Any) -> Any:
    """Normalize and check the fields of a copied layer, as its constructor does."""
    layer.__post_init__()
    return layer


def check_found(found: Any, net: Layer, what: str, hint: str) -> None:
    """Raise ValueError if nothing was found: "no layer of NET WHAT; HINT".

    Args:
        found: What was found in the network.
        net: The network.
        what: What no layer of it does, as in "can be quantized".
        hint: The layers that could be meant, or the call to write.
    """
    if not found:
        raise ValueError(f"no layer of {in_short(net)} {what}; {hint}")


def check_layer(net: Any, call: str) -> None:
    """Raise TypeError unless `net` is a layer; `call` is the call to write."""
    a_layer(net, f"{call.partition('(')[0]}.net", f"write {call}")


a_layer: Accepts = instance(Layer, "a layer")
