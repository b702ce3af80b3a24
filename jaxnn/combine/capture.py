"""capture: return intermediate outputs of a network; Tap gives a value a path."""

import dataclasses
from typing import Any

import jax

from ..core import paths
from ..core.calls import Call, Capture, Outcome, output_shapes, placeholder_key
from ..core.declarations import Declaration, split_arrays
from ..core.layer import LayerLike, declared
from ..core.primitive import Primitive
from ..core.wrapper import Wrapper


class capture(Wrapper):
    """Return intermediate outputs of a network: the output becomes `(y, {path: value})`.

    The value at a path is the output of the layer there. A second call of the same layer is stored
    under `path@1`, and another method under `path.method`. Under `Repeat` and `Ensemble`, values
    are stacked.

    Args:
        inner: Network, a layer or a function.
        match: Path pattern of the values to return. `*` matches any text within one segment, and
            `**` matches any number of segments. Default: `"**"`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense, Sequential
    >>> net = capture(Sequential(hidden=Dense(4), act=jax.nn.relu, out=Dense(2)), match="hidden")
    >>> x = jnp.ones((3, 5))
    >>> y, values = net.apply(net.init(jax.random.key(0), x), x)
    >>> y.shape, jax.tree.map(jnp.shape, values)
    ((3, 2), {'hidden': (3, 4)})
    """

    inner: LayerLike
    match: str = "**"

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.match, str):
            raise TypeError(
                f"capture.match must be a path pattern such as 'blocks/**', got {self.match!r}"
            )

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        declaration = declared(self.wrapped, method, inputs, named)
        arrays, join = split_arrays((inputs, named))

        def run(params: Any, state: Any, arrays: Any) -> Any:
            call = Call(params, state, paths.PathKey(placeholder_key()), False)
            return self._evaluate(call, method, *join(arrays)).output

        params, state, _ = declaration
        shapes = jax.tree.map(lambda d: jax.ShapeDtypeStruct(d.shape, d.dtype), (params, state))
        return Declaration(params, state, output_shapes(run, *shapes, arrays))

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        outer = call.capture
        pattern = self.match if outer is None else "**"  # the outer one may need other values
        below = dataclasses.replace(call, capture=Capture(pattern))
        output, state, captured = self.wrapped._evaluate(below, method, inputs, named)
        own = {path: item for path, item in captured.items() if paths.matches(self.match, path)}
        if outer is not None:
            captured = {p: item for p, item in captured.items() if outer.wants((p,))}
        return Outcome((output, own), state, {} if outer is None else captured)


class Tap(Primitive):
    """The identity. It gives a value a path, for `capture`.

    >>> import jax.numpy as jnp
    >>> Tap().apply({}, jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    def forward(self, params: Any, x: Any) -> Any:
        """Return the input."""
        return x
