"""Repeat: n layers of one kind in a row, traced and compiled once."""

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
    """Raise where `n` is not a number of copies, an int of at least 1."""
    if is_traced(n) or not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"{owner} wants a number of copies n >= 1, an int; got {n!r}")


class Repeat(Wrapper):
    """`n` copies of a layer in a row, each with its own parameters, as one `lax.scan`.

    The same function and the same numbers as `Sequential(*[layer] * n)`, but the layer is traced
    and compiled once; parameters and state have a leading axis of n, copy i having the key
    `fold_in(key, i)`. The layer takes one input and keeps its shape and type; named inputs go to
    every copy. Raises ValueError where the layer changes the shape.

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
        """Check the number of copies."""
        check_count(self.n, "Repeat")

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Stacked, a copy after the other."""
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
    "Repeat feeds each copy the output of the one before, so one input must keep its shape and "
    "type; got "
)


def _check_forward(method: str) -> None:
    if method != "forward":
        raise ValueError(f"Repeat runs `forward` of its copies in a row, not {method!r}")


def check_stacked(tree: Any, n: int) -> None:
    """Raise Mismatch where parameters or state do not hold n copies."""
    for leaf in jax.tree.leaves(tree):
        if leaf.ndim == 0 or leaf.shape[0] != n:
            raise Mismatch(
                f"the parameters and state of {n} copies have a leading axis of {n}, got "
                f"{describe(leaf)}; write params = net.init(key, x)"
            )


def _kinds(tree: Any) -> Any:
    return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), tree)
