"""Residual: add the output of a layer to its input."""

from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import Call, Outcome
from ..core.composite import Wrapper
from ..explain.text import describe


class Residual(Wrapper):
    """Residual connection: `y = x + f(x)`.

    Args:
        inner: Layer or function f with one input, whose shape it keeps.

    Raises:
        ValueError: If f changes the shape.

    Reference: He et al., Deep residual learning for image recognition, 2016.

    >>> import jax.numpy as jnp
    >>> Residual(jnp.sin).apply({}, jnp.zeros(3)).tolist()
    [0.0, 0.0, 0.0]
    """

    def _evaluate(self, call: Call) -> Outcome:
        outcome = self._inside(call)
        if call.method != "forward":
            return outcome
        _check_same(call.inputs, outcome.output)
        return outcome._replace(output=jax.tree.map(_add, call.inputs[0], outcome.output))


def _add(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else y.dtype
    return x.astype(dtype) + y.astype(dtype)


def _check_same(inputs: tuple[Any, ...], output: Any) -> None:
    shapes = [jax.tree.map(lambda a: tuple(a.shape), tree) for tree in (inputs, (output,))]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Residual adds the output to its one input, but got "
            f"{', '.join(map(describe, inputs))} and the output {describe(output)}; make the "
            "shapes equal, or add them in the forward of a Composite"
        )
