"""Remat: a layer whose activations are recomputed in the backward pass."""

from typing import Any, Literal

import jax

from ..core.calls import Arrays, Call, Outcome
from ..core.composite import Wrapper
from ..core.declarations import split_arrays
from ..core.layer import LayerLike
from ..functional.gradients import dear

POLICIES: dict[str, Any] = {"nothing": None, "products": dear}


class Remat(Wrapper):
    """Run a layer under `jax.checkpoint`: less memory for a second forward pass.

    The backward pass recomputes activations instead of storing them. The results are unchanged.

    Args:
        inner: Layer or function.
        keep: What is stored besides inputs and parameters. "nothing" recomputes everything.
            "products" stores matrix products, convolutions, and random bits, so that only cheap
            operations are recomputed; for a layer in `Repeat`, whose scan copies all that is
            stored, this is faster on a CPU than storing everything. Default: "nothing".

    Raises:
        ValueError: If `keep` has another value.

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> nn.Repeat(Remat(nn.Sequential(nn.Dense(4), jax.nn.gelu), keep="products"), 6)
    Repeat(Remat(Sequential(Dense(4), jax.nn.gelu), keep='products'), 6)
    """

    inner: LayerLike
    keep: Literal["nothing", "products"] = "nothing"

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.keep not in POLICIES:
            raise ValueError(f"Remat.keep must be 'nothing' or 'products', got {self.keep!r}")

    def _evaluate(self, call: Call) -> Outcome:
        if call.abstract:  # there is nothing to keep
            return self._inside(call)
        given, join = split_arrays((call.inputs, call.named))

        def run(arrays: Arrays, given: Any) -> Outcome:
            inputs, named = join(given)
            return self._inside(call.with_arrays(arrays).replace(inputs=inputs, named=named))

        # Key and state are arguments: in a closure, keys would repeat and state would leak.
        return jax.checkpoint(run, policy=POLICIES[self.keep])(call.arrays(), given)
