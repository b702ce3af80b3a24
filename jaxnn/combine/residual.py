"""Residual: add the output of a layer to its input."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import Call, Outcome
from ..core.declarations import Declaration, describe
from ..core.layer import declared
from ..core.wrapper import Wrapper


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

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        declaration = declared(self.wrapped, method, inputs, named)
        if method != "forward":
            return declaration
        _check_same(inputs, declaration.output)
        add = functools.partial(jax.tree.map, _add)
        return declaration._replace(output=jax.eval_shape(add, inputs[0], declaration.output))

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        outcome = self.wrapped._evaluate(call, method, inputs, named)
        if method != "forward":
            return outcome
        _check_same(inputs, outcome.output)
        return outcome._replace(output=jax.tree.map(_add, inputs[0], outcome.output))


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
