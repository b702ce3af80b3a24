"""Bidirectional: process a sequence in both directions."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.composite import Composite
from ..core.layer import Layer
from ..core.values import copy_with, fields
from ..explain.text import describe
from ..layers.checks import plain_function
from ..tree import map_layers, validated


def side_by_side(forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Concatenate both outputs along the last axis.

    >>> import jax.numpy as jnp
    >>> side_by_side(jnp.zeros((3, 2)), jnp.zeros((3, 2))).shape
    (3, 4)
    """
    return jnp.concatenate([forward, backward], -1)


class Bidirectional(Composite):
    """Process a sequence in both directions: `y = merge(forward(x), backward(x))`.

    `backward` is the same layer with separate parameters, in which each field `reverse` is
    inverted. x has shape (..., T, n) and y, by default, (..., T, 2 * features). With
    `output="last"` in the layer, y is (..., 2 * features): the last output of each direction, each
    of which depends on the whole sequence. Parameters are {"forward": ..., "backward": ...}.

    Rows of different lengths are padded on either side and marked by `segment_ids`. The named input
    `carry` is a dict of a carry for each direction, and so is the carry that `method="unroll"`
    returns. In `Sequential(Bidirectional(...), Bidirectional(...))` each layer receives both
    directions of the previous one.

    Args:
        layer: A `Recurrent` or `LinearRecurrence`, or a network that contains some.
        merge: Function of both outputs, such as `jnp.add`. Default: concatenation along the last
            axis.

    Raises:
        ValueError: If nothing in the layer can be reversed, or under `nn.with_cache`.

    Reference: Schuster and Paliwal, Bidirectional recurrent neural networks, 1997.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import GRUCell, Recurrent
    >>> net, x = Bidirectional(Recurrent(GRUCell(4))), jnp.ones((2, 5, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> sorted(params), net.apply(params, x).shape
    (['backward', 'forward'], (2, 5, 8))
    """

    layer: Layer
    merge: Annotated[Callable[..., Any], plain_function] = side_by_side

    def __post_init__(self) -> None:
        """Check that the layer can be reversed."""
        if reversed_layer(self.layer) == self.layer:
            raise ValueError(
                f"{self.layer!r} contains no layer with a field `reverse`; write for example "
                "Bidirectional(nn.Recurrent(nn.LSTMCell(128)))"
            )

    def _children(self) -> Any:
        return {"forward": self.layer, "backward": reversed_layer(self.layer)}

    def _with_children(self, children: Any) -> Any:
        ahead, back = children["forward"], children["backward"]
        if not isinstance(ahead, Layer):  # bound
            return copy_with(self, layer=(ahead, back))
        # Both directions are one layer, so a change of one changes the other.
        return copy_with(self, layer=ahead if ahead != self.layer else reversed_layer(back))

    def forward(self, x: Any, carry: Any = None) -> Any:
        """Return both outputs, merged."""
        both: Any = self.layer
        if carry is None:
            return self.merge(*(one(x) for one in both))
        return self.merge(*(one(x, carry=begin) for one, begin in self._each(carry)))

    def unroll(self, x: Any, carry: Any = None) -> Any:
        """Return the last carries by direction, and all outputs, merged."""
        begins = self._each({"forward": None, "backward": None} if carry is None else carry)
        (ahead, y), (back, z) = (one.unroll(x, carry=begin) for one, begin in begins)
        return {"forward": ahead, "backward": back}, self.merge(y, z)

    def _each(self, carry: Any) -> list[tuple[Any, Any]]:
        """Return both directions, each with its carry."""
        if not isinstance(carry, dict) or set(carry) != {"forward", "backward"}:
            raise ValueError(
                "Bidirectional expects a carry for each direction, a dict of 'forward' and "
                f"'backward' as unroll returns it; got {describe(carry)}"
            )
        both: Any = self.layer
        return list(zip(both, (carry["forward"], carry["backward"]), strict=True))


def reversed_layer(layer: Layer) -> Layer:
    """Return the layer with each field `reverse` in it inverted."""

    def turned(path: paths.Path, one: Any) -> Any:
        if any(field.name == "reverse" for field in fields(one)):
            return validated(copy_with(one, reverse=not one.reverse))
        return one

    return map_layers(turned, layer)
