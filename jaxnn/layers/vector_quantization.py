"""VectorQuantizer: each vector is replaced by the nearest of a table of learned codes.

VectorQuantizerEMA keeps moving averages as codes.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..functional.gradients import shared_rows
from ..functional.linear import floating_type, wider_type
from ..initializers import InitFn, variance_scaling
from ..validation import number
from . import check_rank, positive_size
from .normalization import padding_marks


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
        wide = x.astype(wider_type(floating_type(x), jnp.float32))
        codes = self.decode(params, self.encode(params, wide)).astype(wide.dtype)
        y, loss = _straight_through(x, codes, self.commitment)
        loss = _mean_square(codes - lax.stop_gradient(wide)) + loss
        return y, loss.astype(y.dtype)

    def encode(self, params: Any, x: jax.Array) -> jax.Array:
        """Return the index of the nearest code of each vector, int32."""
        return _nearest(params["w"], x)

    def decode(self, params: Any, indices: jax.Array) -> jax.Array:
        """Return the codes of indices; NaN for an index that is not in [0, num_codes)."""
        return shared_rows(params["w"], indices)


class VectorQuantizerEMA(Primitive):
    """Vector quantization by codes that are moving averages of the vectors that chose them.

    Input, output, and the methods `encode` and `decode` are those of `VectorQuantizer`. The codes
    have no gradients. In training, for each code i with c_i vectors in the batch, whose sum is s_i:

        loss = commitment * mean((stop(y) - x)**2)
        count_i = decay * count_i + (1 - decay) * c_i
        w_i = w_i + (1 - decay) * (s_i - c_i * w_i) / count_i

    The state is w (num_codes, n), whose initial values are random, and count (num_codes,), which
    starts at 0: the first vectors of a code replace its initial value, and a code without vectors
    stays the same. Vectors that `segment_ids` mark as padding (0) are not counted. On a mesh, the
    averages are those of the whole batch, on all devices.

    Args:
        num_codes: Number of codes.
        decay: Weight of the old averages, in [0, 1]; may be traced. Default: 0.99.
        commitment: Weight of the loss, a number >= 0; may be traced. Default: 0.25.
        w_init: Initializer of the codes. Default: uniform with variance 1 / n.

    Raises:
        ValueError: If `apply` receives no state.

    Reference: van den Oord et al., Neural discrete representation learning, 2017, appendix A.1.

    >>> import jax, jax.numpy as jnp
    >>> net, x = VectorQuantizerEMA(16), jnp.ones((2, 5, 3))
    >>> state = net.init_state(x, key=jax.random.key(0))
    >>> (y, loss), state = net.apply({}, x, state=state, train=True)
    >>> y.shape, loss.shape, jax.tree.map(jnp.shape, state)
    ((2, 5, 3), (2, 5), {'count': (16,), 'w': (16, 3)})
    """

    num_codes: Annotated[int, positive_size]
    decay: Annotated[float, number(0, 1)] = 0.99
    commitment: Annotated[float, number(0)] = 0.25
    w_init: InitFn = variance_scaling(1.0, "fan_in", "uniform", in_axis=-1, out_axis=-2)

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the codes and their counts."""
        check_rank(x, 1, "(..., features)")
        codes = Variable((self.num_codes, x.shape[-1]), self.w_init)
        return {"w": codes, "count": Variable((self.num_codes,))}

    def forward(
        self,
        params: Any,
        x: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        state: State,
        train: bool,
    ) -> tuple[tuple[jax.Array, jax.Array], State]:
        """Return the nearest code of each vector and its loss, and the new averages."""
        wide = lax.stop_gradient(x.astype(wider_type(floating_type(x), jnp.float32)))
        indices = _nearest(state["w"], wide)
        codes = shared_rows(state["w"], indices).astype(wide.dtype)
        y, loss = _straight_through(x, codes, self.commitment)
        if train:
            state = self._averaged(state, wide, indices, segment_ids)
        return (y, loss.astype(y.dtype)), state

    def _averaged(
        self, state: State, x: jax.Array, indices: jax.Array, segment_ids: Any
    ) -> dict[str, jax.Array]:
        """Return the moving averages after a batch."""
        chosen = jax.nn.one_hot(indices, self.num_codes, dtype=x.dtype)
        marks = padding_marks(x, segment_ids, x.ndim)
        if marks is not None:
            real = (marks != 0).reshape(marks.shape + (1,) * (x.ndim - marks.ndim))
            chosen = jnp.where(real, chosen, jnp.zeros_like(chosen))
        # A product instead of a sum by indices, whose order is not fixed on every device.
        sums = jnp.einsum("...k,...n->kn", chosen, x, precision="highest")
        counts = jnp.sum(chosen, tuple(range(x.ndim - 1)))
        w, old = (state[name].astype(x.dtype) for name in ("w", "count"))
        decay = jnp.asarray(self.decay, x.dtype)
        count = decay * old + (1 - decay) * counts
        change = (1 - decay) * (sums - counts[:, None] * w)
        w = w + change / jnp.where(count > 0, count, jnp.ones_like(count))[:, None]
        return {"w": w.astype(state["w"].dtype), "count": count.astype(state["count"].dtype)}

    def encode(self, params: Any, x: jax.Array, *, state: State) -> tuple[jax.Array, State]:
        """Return the index of the nearest code of each vector, int32; and the state."""
        return _nearest(state["w"], x), state

    def decode(self, params: Any, indices: jax.Array, *, state: State) -> tuple[jax.Array, State]:
        """Return the codes of indices, NaN for an index outside [0, num_codes); and the state."""
        return shared_rows(state["w"], indices), state


def _nearest(w: jax.Array, x: jax.Array) -> jax.Array:
    """Return the index of the nearest code of each vector."""
    wide = wider_type(floating_type(x), jnp.float32)
    x, w = x.astype(wide), w.astype(wide)
    # |x - w|**2 without |x|**2, which is equal for all codes.
    products = jnp.einsum("...n,kn->...k", x, w, precision="highest")
    lengths = jnp.sum(jnp.square(w), -1)
    distances = lengths.reshape((1,) * (x.ndim - 1) + lengths.shape) - 2 * products
    return jnp.argmin(distances, -1).astype(jnp.int32)


def _straight_through(
    x: jax.Array, codes: jax.Array, commitment: float
) -> tuple[jax.Array, jax.Array]:
    """Return the codes with the gradient of the identity, and the loss of commitment."""
    dtype, x, fixed = floating_type(x), x.astype(codes.dtype), lax.stop_gradient(codes)
    y = x + lax.stop_gradient(fixed - x)
    return y.astype(dtype), jnp.asarray(commitment, x.dtype) * _mean_square(fixed - x)


def _mean_square(a: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(a), -1)
