"""Ensemble: n networks of one kind, side by side."""

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
    """`n` members of one network on the same inputs, by `jax.vmap`; outputs are stacked.

    Parameters, state and output have a leading axis of n. Member i is the network at
    `fold_in(key, i)`, for its parameters and for its random numbers.

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
        """Check the number of members."""
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
            # Other generators draw from the first key only under vmap: every mask would be equal.
            return lax.map(member, members)
        return jax.vmap(member)(members)
