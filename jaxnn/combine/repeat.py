"""Repeat: n copies of a layer in a sequence, traced and compiled once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.calls import Arrays, Call, Outcome
from ..core.composite import Wrapper
from ..core.declarations import stacked
from ..core.layer import LayerLike
from ..explain.location import Mismatch
from ..explain.text import describe
from ..fields import is_traced


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

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Stack parameters and state, one copy after the other."""
        return stacked(params, self.n), stacked(state, self.n)

    def _evaluate(self, call: Call) -> Outcome:
        _check_forward(call.method)
        params, state, key = call.arrays()
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)
        check_stacked((params, state), self.n)

        def body(x: Any, copy: Any) -> Any:
            params, state, number = copy
            below = None if key is None else jax.random.fold_in(key, number)
            arrays = Arrays(params, state, below)
            outcome = self._inside(call.with_arrays(arrays).replace(inputs=(x,)))
            if _kinds(x) != _kinds(outcome.output):
                raise ValueError(
                    f"{_CHANGED}{describe(x)}, which becomes {describe(outcome.output)}"
                )
            return outcome.output, (outcome.state, outcome.collected)

        if len(call.inputs) != 1:
            raise ValueError(f"{_CHANGED}{', '.join(map(describe, call.inputs)) or 'none'}")
        output, (state, collected) = lax.scan(body, call.inputs[0], (params, state, hashes))
        return Outcome(output, state, collected)


_CHANGED = (
    "Repeat passes the output of each copy to the next, so the layer must have one input and keep "
    "its shape and type; got "
)


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
