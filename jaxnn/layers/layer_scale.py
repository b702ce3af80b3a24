"""LayerScale: a small learned factor for each feature of a residual branch."""

from typing import Any

import jax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.gradients import shared_product
from ..functional.linear import along_axis, to_compute_type
from ..initializers import InitFn, constant
from .checks import check_rank


class LayerScale(Primitive):
    """Layer scale: `y = x * scale`, with a small initial scale.

    x and y have shape (..., n). The parameter is scale (n,). A deep network with
    `Residual(Sequential(branch, LayerScale()))` starts near the identity.

    Args:
        scale_init: Initializer of scale. Default: `constant(1e-5)`.

    Raises:
        ValueError: If the input has no axes.

    Reference: Touvron et al., Going deeper with image transformers, 2021 (0.1 up to 18 blocks, 1e-5
    up to 24, 1e-6 beyond).

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LayerScale().init(jax.random.key(0), jnp.zeros((2, 8))))
    {'scale': (8,)}
    """

    scale_init: InitFn = constant(1e-5)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare one factor for each feature."""
        check_rank(x, 1, "(..., features)")
        return {"scale": Param((x.shape[-1],), self.scale_init)}

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x times the factors."""
        x, _ = to_compute_type(x, params["scale"])
        return shared_product(x, along_axis(params["scale"], x.ndim, -1))
