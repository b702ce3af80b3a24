"""Ensemble: n networks of one kind, side by side."""

from collections.abc import Callable
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

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Stacked, a member after the other."""
        return stacked(params, self.n), stacked(state, self.n)

    def _evaluate(self, call: Call) -> Outcome:
        return self._members(call, (), lambda call, _: call)

    def _members(self, call: Call, mapped: Any, given: Callable[[Call, Any], Call]) -> Outcome:
        """The outcomes of all members, stacked; member i gets element i of what is `mapped`."""
        params, state, key = call.arrays()
        check_stacked((params, state), self.n)
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)

        def member(arrays: Any) -> Outcome:
            params, state, number, each = arrays
            below = None if key is None else jax.random.fold_in(key, number)
            return self._inside(given(call.with_arrays(Arrays(params, state, below)), each))

        members = (params, state, jnp.asarray(hashes), mapped)
        if key is not None and "threefry" not in str(jax.random.key_impl(key)):
            # Other generators draw from the first key only under vmap: every mask would be equal.
            return lax.map(member, members)
        return jax.vmap(member)(members)
