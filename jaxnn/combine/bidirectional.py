"""Bidirectional: a layer that reads a sequence from both ends."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.composite import Composite
from ..core.layer import Layer
from ..core.values import copy_with, fields
from ..explain.text import describe
from ..tree import checked, map_layers


def side_by_side(forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Both along the last axis.

    >>> import jax.numpy as jnp
    >>> side_by_side(jnp.zeros((3, 2)), jnp.zeros((3, 2))).shape
    (3, 4)
    """
    return jnp.concatenate([forward, backward], -1)


class Bidirectional(Composite):
    """y = merge(layer(x), the same layer reading x from its end), each with its own parameters.

    `layer` is a `Recurrent` or `LinearRecurrence`, or a network that holds some: in the backward
    copy the field `reverse` of each is the other way round. Parameters are
    {"forward": ..., "backward": ...}; y is (..., T, 2 features) by default, and merge any function
    of both, such as jnp.add. With `output="last"` inside, y is (..., 2 features): the last output
    of either direction, each of which has seen the whole sequence. Rows of different lengths are
    padded, on whichever side, and marked by `segment_ids`. Layers are stacked by
    `Sequential(Bidirectional(...), Bidirectional(...))`, where each sees both directions of the one
    before.

    `carry` holds one for each direction by name, as does that which `method="unroll"` gives beside
    the output. Raises ValueError where nothing inside can be reversed, and under `nn.with_cache`.

    Reference: Schuster and Paliwal, Bidirectional recurrent neural networks, 1997.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import GRUCell, Recurrent
    >>> net, x = Bidirectional(Recurrent(GRUCell(4))), jnp.ones((2, 5, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> sorted(params), net.apply(params, x).shape
    (['backward', 'forward'], (2, 5, 8))
    """

    layer: Layer
    merge: Callable[..., Any] = side_by_side

    def __post_init__(self) -> None:
        """Check that there is something to reverse."""
        if isinstance(self.merge, Layer) or not callable(self.merge):
            raise TypeError(
                f"Bidirectional.merge is a plain function of two outputs, got {self.merge!r}"
            )
        if reversed_layer(self.layer) == self.layer:
            raise ValueError(
                f"{self.layer!r} has nothing with a field `reverse`; write "
                "Bidirectional(nn.Recurrent(nn.LSTMCell(128))), say"
            )

    def _children(self) -> Any:
        return {"forward": self.layer, "backward": reversed_layer(self.layer)}

    def _with_children(self, children: Any) -> Any:
        ahead, back = children["forward"], children["backward"]
        if not isinstance(ahead, Layer):  # bound
            return copy_with(self, layer=(ahead, back))
        # Both directions are one layer, so a change of either is one of both.
        return copy_with(self, layer=ahead if ahead != self.layer else reversed_layer(back))

    def forward(self, x: Any, carry: Any = None) -> Any:
        """Both outputs, merged."""
        both: Any = self.layer
        if carry is None:
            return self.merge(*(one(x) for one in both))
        return self.merge(*(one(x, carry=begin) for one, begin in self._each(carry)))

    def unroll(self, x: Any, carry: Any = None) -> Any:
        """The last carries by direction, and all outputs, merged."""
        begins = self._each({"forward": None, "backward": None} if carry is None else carry)
        (ahead, y), (back, z) = (one.unroll(x, carry=begin) for one, begin in begins)
        return {"forward": ahead, "backward": back}, self.merge(y, z)

    def _each(self, carry: Any) -> list[tuple[Any, Any]]:
        """Both directions, each with its carry."""
        if not isinstance(carry, dict) or set(carry) != {"forward", "backward"}:
            raise ValueError(
                "Bidirectional takes a carry for each direction, a dict of 'forward' and "
                f"'backward', as unroll gives it; got {describe(carry)}"
            )
        both: Any = self.layer
        return list(zip(both, (carry["forward"], carry["backward"]), strict=True))


def reversed_layer(layer: Layer) -> Layer:
    """The layer that reads from the other end: each field `reverse` in it the other way round."""

    def turned(path: paths.Path, one: Any) -> Any:
        if any(field.name == "reverse" for field in fields(one)):
            return checked(copy_with(one, reverse=not one.reverse))
        return one

    return map_layers(turned, layer)
