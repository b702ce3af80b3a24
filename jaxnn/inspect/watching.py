"""Watching: a network whose every layer marks its equations and tells its output while traced."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ..core import paths
from ..core.calls import Call, Outcome
from ..core.composite import holds_layer
from ..core.declarations import abstract
from ..core.layer import Layer
from ..core.primitive import Primitive
from ..core.values import FrozenDict, code, copy_with, fields, is_traced
from ..core.wrapper import Wrapper

_SCOPE = "jaxnn_row_{}"


def number_of(scope: str) -> int | None:
    """The number of the innermost watched layer in a name scope."""
    numbers = re.findall(_SCOPE.format(r"(\d+)"), scope)
    return int(numbers[-1]) if numbers else None


def watched(net: Layer, numbers: dict[paths.Path, int], tell: Callable[[int, Any], Any]) -> Layer:
    """`net` with every layer watched: the same value, for one trace.

    The equations of a layer stand in a scope with the number of its path; a number, since a forward
    may open scopes of any name. `tell(number, output)` is called each time a layer is traced.
    """

    def watch(layer: Layer, path: paths.Path) -> Layer:
        def evaluate(call: Call, method: str, inputs: Any, named: Any) -> Outcome:
            with jax.named_scope(_SCOPE.format(numbers[path])):
                outcome = layer._evaluate(call, method, inputs, named)
            tell(numbers[path], abstract(outcome.output))
            return outcome

        return evaluated_by(layer, evaluate)

    return mapped(net, watch)


def evaluated_by(layer: Layer, evaluate: Callable[..., Outcome]) -> Layer:
    """`layer`, evaluated by another function, for one trace."""
    # The instance's attribute goes before the method, so type, fields and methods stay.
    return copy_with(layer, _evaluate=evaluate)


def mapped(net: Layer, function: Callable[[Layer, paths.Path], Layer]) -> Layer:
    """`net` with `function(layer, path)` in the place of every layer, from the leaves up."""

    def one(layer: Layer, path: paths.Path) -> Layer:
        return function(_holding(layer, within(layer._children(), path)), path)

    def within(tree: Any, path: paths.Path) -> Any:
        if isinstance(tree, dict):
            return FrozenDict({name: within(item, (*path, name)) for name, item in tree.items()})
        if isinstance(tree, tuple):
            return tuple(within(item, (*path, str(i))) for i, item in enumerate(tree))
        return one(tree, path) if isinstance(tree, Layer) else tree

    return one(net, ())


def _holding(layer: Layer, children: Any) -> Layer:
    """`layer` with these children, whichever way it makes them: Bidirectional makes two of one."""
    if isinstance(layer, Wrapper):
        return copy_with(layer, inner=_holding(layer.wrapped, children))
    return copy_with(layer, _children=lambda: children) if children else layer


def places(net: Layer) -> Iterator[tuple[paths.Path, str]]:
    """Every path at which there are layers, with what is there in short; parents come first."""

    def walk(item: Any, path: paths.Path) -> Iterator[tuple[paths.Path, str]]:
        if isinstance(item, Layer):
            yield path, short(item)
            children = item._children()
        else:
            yield path, f"{len(item)} layers"
            children = item
        named = children.items() if isinstance(children, dict) else enumerate(children)
        for name, child in named:
            if holds_layer(child):
                yield from walk(child, (*path, str(name)))

    return walk(net, ())


def short(layer: Any) -> str:
    """A layer without its children: `MultiHeadAttention(num_heads=8)`, `Repeat(Block, n=12)`.

    >>> import jaxnn as nn
    >>> short(nn.Repeat(nn.Residual(nn.Sequential(nn.Dense(4))), 3)), short(nn.Dense(4, bias=False))
    ('Repeat(Residual(Sequential), n=3)', 'Dense(4, bias=False)')
    """
    if isinstance(layer, Primitive):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(layer))
    settings = [
        f"{field.name}={code(item)}"
        for field in fields(layer)
        if not holds_layer(item := getattr(layer, field.name))
        and item != ()
        and (is_traced(item) or item != field.default)
    ]
    if isinstance(layer, Wrapper):
        settings = [short(layer.wrapped), *settings]
    name = type(layer).__qualname__.rpartition(".")[2]
    return f"{name}({', '.join(settings)})" if settings else name
