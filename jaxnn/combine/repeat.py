"""Repeat: n copies of a layer in a sequence, traced and compiled once."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.calls import Arrays, Call, Outcome
from ..core.composite import Wrapper
from ..core.declarations import declare_copies
from ..core.layer import LayerLike
from ..explain.location import Mismatch
from ..explain.text import describe
from ..layers.checks import copies


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
    n: Annotated[int, copies]

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Stack parameters and state, one copy after the other."""
        return declare_copies(params, self.n), declare_copies(state, self.n)

    def _evaluate(self, call: Call) -> Outcome:
        if call.method != "forward":
            raise ValueError(f"Repeat applies forward of its copies in sequence, not {call.method}")
        params, state, key = call.arrays()
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)
        check_stacked((params, state), self.n)

        def body(x: Any, copy: Any) -> Any:
            params, state, number = copy
            below = None if key is None else jax.random.fold_in(key, number)
            arrays = Arrays(params, state, below)
            outcome = self._inside(call.with_arrays(arrays).replace(inputs=(x,)))
            _check_kept((x,), outcome.output)
            return outcome.output, (outcome.state, outcome.collected)

        if len(call.inputs) != 1:
            _check_kept(call.inputs, None)
        output, (state, collected) = lax.scan(body, call.inputs[0], (params, state, hashes))
        return Outcome(output, state, collected)


def _check_kept(inputs: tuple[Any, ...], output: Any) -> None:
    """Raise ValueError unless the output has the shapes and types of the one input."""
    if len(inputs) != 1 or _kinds(inputs[0]) != _kinds(output):
        raise ValueError(
            "Repeat passes the output of each copy to the next, so the layer must have one input "
            f"and keep its shape and type; got {', '.join(map(describe, inputs)) or 'none'}"
            + (f", which becomes {describe(output)}" if len(inputs) == 1 else "")
        )


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
