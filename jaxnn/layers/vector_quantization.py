"""VectorQuantizer: each vector is replaced by the nearest of a table of learned codes."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.gradients import shared_rows
from ..functional.linear import floating_type, wider_type
from ..initializers import InitFn, variance_scaling
from ..validation import number
from .checks import check_rank, positive_size


class VectorQuantizer(Primitive):
    """Vector quantization, the bottleneck of VQ-VAE: `y = w[argmin_i |x - w_i|]`, and its loss.

    x and y have shape (..., n), and y has the type of x. The output is the tuple (y, loss), with a
    loss for each vector, (...), whose mean is added to the objective:

        loss = mean((y - stop(x))**2) + commitment * mean((stop(y) - x)**2)

    Its first term trains the codes, and its second one keeps x near them. The parameter is w
    (num_codes, n). Distances and losses are computed in at least float32, and the first of several
    nearest codes is chosen.

    The gradient of y with respect to x is straight-through, that of the identity: the choice of a
    code has no derivative. w has gradients from the loss only.

    The method `encode` returns the indices of the codes, integers (...), and `decode` returns the
    codes of indices.

    Args:
        num_codes: Number of codes.
        commitment: Weight of the second term of the loss, a number >= 0; may be traced. Default:
            0.25.
        w_init: Initializer of the codes. Default: uniform with variance 1 / n.

    Reference: van den Oord et al., Neural discrete representation learning, 2017.

    >>> import jax, jax.numpy as jnp
    >>> net, x = VectorQuantizer(16), jnp.ones((2, 5, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> y, loss = net.apply(params, x)
    >>> codes = net.apply(params, x, method="encode")
    >>> y.shape, loss.shape, codes.shape
    ((2, 5, 3), (2, 5), (2, 5))
    >>> bool(jnp.allclose(y, net.apply(params, codes, method="decode")))
    True
    """

    num_codes: Annotated[int, positive_size]
    commitment: Annotated[float, number(0)] = 0.25
    w_init: InitFn = variance_scaling(1.0, "fan_in", "uniform", in_axis=-1, out_axis=-2)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare the codes."""
        check_rank(x, 1, "(..., features)")
        return {"w": Param((self.num_codes, x.shape[-1]), self.w_init)}

    def forward(self, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the nearest code of each vector, and its loss."""
        dtype = floating_type(x)
        x = x.astype(wider_type(dtype, jnp.float32))
        codes = self.decode(params, self.encode(params, x)).astype(x.dtype)
        fixed = lax.stop_gradient(codes)
        weight = jnp.asarray(self.commitment, x.dtype)
        loss = _mean_square(codes - lax.stop_gradient(x)) + weight * _mean_square(fixed - x)
        return (x + lax.stop_gradient(fixed - x)).astype(dtype), loss.astype(dtype)

    def encode(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the index of the nearest code of each vector, int32."""
        wide = wider_type(floating_type(x), jnp.float32)
        x, w = x.astype(wide), params["w"].astype(wide)
        # |x - w|**2 without |x|**2, which is equal for all codes.
        products = jnp.einsum("...n,kn->...k", x, w, precision="highest")
        lengths = jnp.sum(jnp.square(w), -1)
        distances = lengths.reshape((1,) * (x.ndim - 1) + lengths.shape) - 2 * products
        return jnp.argmin(distances, -1).astype(jnp.int32)

    def decode(self, params: Any, indices: jax.Array) -> jax.Array:
        """Return the codes of indices; NaN for an index that is not in [0, num_codes)."""
        return shared_rows(params["w"], indices)


def _mean_square(a: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(a), -1)
