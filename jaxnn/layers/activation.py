"""Activations with parameters. Others are plain functions: use `jax.nn.relu` as a layer."""

from typing import Any

import jax
import jax.numpy as jnp

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.gradients import shared_product
from ..functional.linear import to_compute_type
from ..initializers import InitFn, constant
from .checks import check_rank


class PReLU(Primitive):
    """Parametric ReLU: `y = x` if x >= 0, otherwise `y = alpha * x`, with a learned alpha.

    x and y have any shape. The parameter is alpha, of shape () or (n,).

    Args:
        per_feature: Whether alpha has one number for each of the n features of the last axis.
            Default: False.
        alpha_init: Initializer of alpha. Default: `constant(0.25)`.

    Reference: He et al., Delving deep into rectifiers, 2015.

    >>> import jax, jax.numpy as jnp
    >>> net = PReLU()
    >>> net.apply(net.init(jax.random.key(0), jnp.ones(2)), jnp.array([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    per_feature: bool = False
    alpha_init: InitFn = constant(0.25)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare the slopes."""
        check_rank(x, int(self.per_feature), "(..., features)")
        return {"alpha": Param(x.shape[-1:] if self.per_feature else (), self.alpha_init)}

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its negative part scaled."""
        alpha = params["alpha"]
        x, _ = to_compute_type(x, alpha)
        shape = (1,) * (x.ndim - alpha.ndim) + alpha.shape
        return jnp.where(x >= 0, x, shared_product(x, alpha.reshape(shape)))
