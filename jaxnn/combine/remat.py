"""Remat: a layer whose activations are computed again in the backward pass."""

from typing import Any, Literal

import jax

from ..core.calls import Arrays, Call, Outcome
from ..core.composite import Wrapper
from ..core.declarations import split_arrays
from ..core.layer import LayerLike
from ..functional.gradients import dear

POLICIES = {"nothing": None, "products": dear}


class Remat(Wrapper):
    """The same layer, run under `jax.checkpoint`: less memory for a second forward pass.

    Only inputs and parameters are kept for the backward pass; everything between is computed again.
    With `keep="products"`, matrix products, convolutions and random bits are kept too, so that what
    is computed again is cheap. For a layer within `Repeat`, whose scan copies all that is kept,
    that takes less time on a CPU than keeping everything. Numbers do not change. Raises ValueError
    for another word.

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> nn.Repeat(Remat(nn.Sequential(nn.Dense(4), jax.nn.gelu), keep="products"), 6)
    Repeat(Remat(Sequential(Dense(4), jax.nn.gelu), keep='products'), 6)
    """

    inner: LayerLike
    keep: Literal["nothing", "products"] = "nothing"

    def __post_init__(self) -> None:
        """Check the word."""
        if self.keep not in POLICIES:
            raise ValueError(f"Remat.keep is 'nothing' or 'products', got {self.keep!r}")

    def _evaluate(self, call: Call) -> Outcome:
        if call.abstract:  # there is nothing to keep
            return self._inside(call)
        given, join = split_arrays((call.inputs, call.named))

        def run(arrays: Arrays, given: Any) -> Outcome:
            inputs, named = join(given)
            return self._inside(call.with_arrays(arrays).replace(inputs=inputs, named=named))

        # Key and state are arguments: a closure over them would repeat or leak.
        return jax.checkpoint(run, policy=POLICIES[self.keep])(call.arrays(), given)
