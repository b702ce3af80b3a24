"""Repeat: n copies of a layer in a sequence, traced and compiled once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.calls import Arrays, Call, Mismatch, Outcome
from ..core.declarations import Declaration, describe, stacked
from ..core.layer import LayerLike, declared
from ..core.values import is_traced
from ..core.wrapper import Wrapper


def check_count(n: Any, owner: str) -> None:
    """Raise ValueError unless `n` is a number of copies, an int >= 1."""
    if is_traced(n) or not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"{owner} expects a number of copies, an int n >= 1; got {n!r}")


class Repeat(Wrapper):
    """Repeat a layer `n` times in sequence, with separate parameters, as one `lax.scan`.

    The result equals that of `Sequential(*[layer] * n)` with the same parameters, but the layer is
    traced and compiled once. Parameters and state have a leading axis of size n; copy i is
    initialized with the key `fold_in(key, i)`. Named inputs are passed to every copy.

    Args:
        inner: Layer or function with one input, whose shape and type it keeps.
        n: Number of copies, at least 1.

    Raises:
        ValueError: If the layer changes the shape or type of its input.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Repeat(Dense(4), 3)
    >>> x = jnp.ones((2, 4))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), x))
    {'b': (3, 4), 'w': (3, 4, 4)}
    """

    inner: LayerLike
    n: int

    def __post_init__(self) -> None:
        """Check the fields."""
        check_count(self.n, "Repeat")

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        _check_forward(method)
        declaration = declared(self.wrapped, method, inputs, named)
        if len(inputs) != 1 or _kinds(inputs[0]) != _kinds(declaration.output):
            raise ValueError(
                "Repeat passes the output of each copy to the next, so the layer must have one "
                "input and keep its shape and type; got "
                f"{', '.join(map(describe, inputs))}, which becomes {describe(declaration.output)}"
            )
        params, state = stacked(declaration, self.n)
        return Declaration(params, state, declaration.output)

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        _check_forward(method)
        params, state, key = call.arrays()
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)
        check_stacked((params, state), self.n)

        def body(x: Any, copy: Any) -> Any:
            params, state, number = copy
            below = None if key is None else jax.random.fold_in(key, number)
            arrays = call.with_arrays(Arrays(params, state, below))
            outcome = self.wrapped._evaluate(arrays, method, (x,), named)
            return outcome.output, (outcome.state, outcome.captured)

        if len(inputs) != 1:
            raise ValueError(f"Repeat takes one input, got {len(inputs)}")
        output, (state, captured) = lax.scan(body, inputs[0], (params, state, hashes))
        return Outcome(output, state, captured)


def _check_forward(method: str) -> None:
    if method != "forward":
        raise ValueError(f"Repeat applies `forward` of its copies in sequence, not {method!r}")


def check_stacked(tree: Any, n: int) -> None:
    """Raise Mismatch unless parameters or state contain n copies."""
    for leaf in jax.tree.leaves(tree):
        if leaf.ndim == 0 or leaf.shape[0] != n:
            raise Mismatch(
                f"parameters and state of {n} copies must have a leading axis of {n}, got "
                f"{describe(leaf)}; write params = net.init(key, x)"
            )


def _kinds(tree: Any) -> Any:
    return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), tree)
