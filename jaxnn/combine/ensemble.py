"""Ensemble: n copies of a network in parallel."""

from collections.abc import Callable
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
from ..layers.checks import copies
from .repeat import check_stacked


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
    n: Annotated[int, copies]

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Stack parameters and state, one member after the other."""
        return declare_copies(params, self.n), declare_copies(state, self.n)

    def _evaluate(self, call: Call) -> Outcome:
        return self._members(call, (), lambda call, _: call)

    def _members(self, call: Call, mapped: Any, given: Callable[[Call, Any], Call]) -> Outcome:
        """Return the stacked outcomes of all members; member i receives element i of `mapped`."""
        params, state, key = call.arrays()
        check_stacked((params, state), self.n)
        hashes = np.array([paths.segment_hash(i) for i in range(self.n)], np.uint32)

        def member(arrays: Any) -> Outcome:
            params, state, number, each = arrays
            below = None if key is None else jax.random.fold_in(key, number)
            return self._inside(given(call.with_arrays(Arrays(params, state, below)), each))

        members = (params, state, jnp.asarray(hashes), mapped)
        if key is not None and "threefry" not in str(jax.random.key_impl(key)):
            # Under vmap other generators use the first key only, so all masks would be equal.
            return lax.map(member, members)
        return jax.vmap(member)(members)
