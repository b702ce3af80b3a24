"""Ensemble: n copies of a network in parallel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.calls import Arrays, Call, Outcome
from ..core.declarations import Declaration, stacked
from ..core.layer import LayerLike, declared
from ..core.wrapper import Wrapper
from .repeat import check_count, check_stacked


class Ensemble(Wrapper):
    """Apply `n` copies of a network to the same inputs by `jax.vmap`, and stack their outputs.

    Parameters, state, and outputs have a leading axis of size n. Member i uses the key
    `fold_in(key, i)` for initialization and for random numbers.

    Args:
        inner: Network, a layer or a function.
        n: Number of members, at least 1.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Ensemble(Dense(4), 5)
    >>> x = jnp.ones((2, 3))
    >>> net.apply(net.init(jax.random.key(0), x), x).shape
    (5, 2, 4)
    """

    inner: LayerLike
    n: int

    def __post_init__(self) -> None:
        """Check the fields."""
        check_count(self.n, "Ensemble")

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        declaration = declared(self.wrapped, method, inputs, named)
        params, state = stacked(declaration, self.n)
        output = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((self.n, *a.shape), a.dtype), declaration.output
        )
        return Declaration(params, state, output)

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        params, state, key = call.arrays()
        check_stacked((params, state), self.n)
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)

        def member(arrays: Any) -> Outcome:
            params, state, number = arrays
            below = None if key is None else jax.random.fold_in(key, number)
            call_below = call.with_arrays(Arrays(params, state, below))
            return self.wrapped._evaluate(call_below, method, inputs, named)

        members = (params, state, jnp.asarray(hashes))
        if key is not None and "threefry" not in str(jax.random.key_impl(key)):
            # Under vmap other generators use the first key only, so all masks would be equal.
            return lax.map(member, members)
        return jax.vmap(member)(members)
