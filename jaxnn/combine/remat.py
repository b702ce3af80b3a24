"""Remat: a layer whose activations are computed again in the backward pass."""

from typing import Any

import jax

from ..core.calls import Arrays, Call, Outcome
from ..core.declarations import split_arrays
from ..core.wrapper import Wrapper


class Remat(Wrapper):
    """The same layer, run under `jax.checkpoint`: less memory for a second forward pass.

    Only inputs and parameters are kept for the backward pass; everything between is computed again.
    Numbers do not change.

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016.

    >>> import jax.numpy as jnp
    >>> Remat(jnp.tanh).apply({}, jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        given, join = split_arrays((inputs, named))

        def run(arrays: Arrays, given: Any) -> Outcome:
            inputs, named = join(given)
            return self.wrapped._evaluate(call.with_arrays(arrays), method, inputs, named)

        # Key and state are arguments: a closure over them would repeat or leak.
        return jax.checkpoint(run)(call.arrays(), given)
