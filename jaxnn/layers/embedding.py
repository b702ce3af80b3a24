"""Embedding: a table of vectors, looked up by token."""

from typing import Any

import jax
import jax.numpy as jnp

from ..core.declarations import Param, describe
from ..core.initialisers import Initialiser, variance_scaling
from ..core.primitive import Primitive
from ..functional.linear import linear
from .checks import check_positive


class Embedding(Primitive):
    """y = w[ids].

    ids are integers (...), y is (..., features), w is (vocabulary, features) with variance
    1 / features. A token outside [0, vocabulary) gives NaN. Raises TypeError for ids that are not
    integers. `attend` is the output head that shares the table.

    >>> import jax, jax.numpy as jnp
    >>> net = Embedding(1000, 64)
    >>> params = net.init(jax.random.key(0), jnp.array([3, 7]))
    >>> jax.tree.map(jnp.shape, params)
    {'w': (1000, 64)}
    >>> net.apply(params, jnp.array([3, 7])).shape
    (2, 64)
    """

    vocabulary: int
    features: int
    w_init: Initialiser = variance_scaling(1.0, "fan_out", "normal")

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_positive(self, "vocabulary", "features")

    def parameters(self) -> dict[str, Param]:
        """The table."""
        return {"w": Param((self.vocabulary, self.features), self.w_init)}

    def forward(self, params: Any, ids: jax.Array) -> jax.Array:
        """The rows of the table at `ids`."""
        if not jnp.issubdtype(getattr(ids, "dtype", type(ids)), jnp.integer):
            raise TypeError(
                f"wants an array of integer tokens, got {describe(ids)}; write "
                "jnp.asarray(ids, jnp.int32)"
            )
        rows = params["w"].at[ids]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def attend(self, params: Any, x: jax.Array) -> jax.Array:
        """x @ w.T: logits (..., vocabulary) of features (..., features), by the same table.

        Reference: Press and Wolf, Using the output embedding to improve language models, 2017.
        """
        if x.ndim == 0 or x.shape[-1] != self.features:
            raise ValueError(f"attend wants features (..., {self.features}), got {describe(x)}")
        return linear(x, params["w"].T)
