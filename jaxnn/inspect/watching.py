"""Watching: a network whose every layer marks its equations and reports its output while traced."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ..core import paths
from ..core.calls import Call, Next, Outcome
from ..core.composite import holds_layer, intercept
from ..core.declarations import abstract
from ..core.layer import Layer, Primitive
from ..core.values import fields
from ..fields import is_traced
from ..printing import code
from ..tree import inside, layers

_SCOPE = "jaxnn_row_{}"


def number_of(scope: str) -> int | None:
    """The number of the innermost watched layer in a name scope."""
    numbers = re.findall(_SCOPE.format(r"(\d+)"), scope)
    return int(numbers[-1]) if numbers else None


def watched(net: Layer, numbers: dict[paths.Path, int], tell: Callable[[int, Any], Any]) -> Layer:
    """`net` with every layer watched, for one trace.

    The equations of a layer are in a scope with the number of its path; a number, since a forward
    may open scopes of any name. `tell(number, output)` is called each time a layer is traced.
    """

    def watch(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
        if call.inner:
            return next(call)
        with jax.named_scope(_SCOPE.format(numbers[path])):
            outcome = next(call)
        tell(numbers[path], abstract(outcome.output))
        return outcome

    return intercept(net, watch)


def places(net: Layer) -> Iterator[tuple[paths.Path, str]]:
    """Every path at which there are layers, with what is there in short; parents come first."""
    found: dict[paths.Path, str] = {}
    for path, layer in layers(net):
        for n in range(1, len(path)):  # a tuple or a dict of layers
            found.setdefault(path[:n], "")
        found.setdefault(path, short(layer))
    for path, shown in found.items():
        below = {one[: len(path) + 1] for one in found if one[: len(path)] == path != one}
        yield path, shown or f"{len(below)} layers"


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
    if inner := inside(layer):
        settings = [short(inner), *settings]
    name = type(layer).__qualname__.rpartition(".")[2]
    return f"{name}({', '.join(settings)})" if settings else name
