"""Elementwise layers: PReLU, RReLU, LayerScale, and LearnedArray.

Activations without parameters are plain functions: use `jax.nn.relu` as a layer.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.declarations import Param
from ..core.layer import Primitive
from ..functional.gradients import shared_product
from ..functional.linear import floating_type, to_compute_type
from ..initializers import InitFn, constant, zeros
from ..validation import check_below, number
from .checks import axis_or_axes, check_rank, distinct_axes


class PReLU(Primitive):
    """Parametric ReLU: `y = x` if x >= 0, otherwise `y = alpha * x`, with a learned alpha.

    x and y have any shape. The parameter is alpha, whose shape consists of the sizes of the axes in
    `axis`.

    Args:
        axis: Axis or axes of x along which alpha varies: -1 for one number per feature, (1, 2, 3)
            for one per element of an image, as in keras. Default: None, for a single number.
        alpha_init: Initializer of alpha. Default: `constant(0.25)`.

    Reference: He et al., Delving deep into rectifiers, 2015.

    >>> import jax, jax.numpy as jnp
    >>> net = PReLU()
    >>> net.apply(net.init(jax.random.key(0), jnp.ones(2)), jnp.array([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    axis: Annotated[int | tuple[int, ...] | None, None | axis_or_axes] = None
    alpha_init: InitFn = constant(0.25)

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare the slopes."""
        check_rank(x, 0, "(...)")
        return {"alpha": Param(tuple(x.shape[i] for i in self._axes(x)), self.alpha_init)}

    def forward(self, params: Any, x: jax.Array) -> jax.Array:
        """Return x with its negative part scaled."""
        alpha = params["alpha"]
        x, _ = to_compute_type(x, alpha)
        axes = self._axes(x)
        first = min(axes, default=x.ndim)
        sizes = [x.shape[i] if i in axes else 1 for i in range(first, x.ndim)]
        return jnp.where(x >= 0, x, shared_product(x, alpha.reshape(sizes)))

    def _axes(self, x: Any) -> tuple[int, ...]:
        return () if self.axis is None else tuple(sorted(distinct_axes(x, self.axis)))


class RReLU(Primitive):
    """Randomized ReLU: `y = x` if x >= 0, otherwise `y = slope * x`.

    In training, slope is uniform from `lower` to `upper`, drawn for each element; in inference it
    is (lower + upper) / 2. x and y have any shape. There are no parameters.

    Args:
        lower: Smallest slope; may be traced. Default: 1/8.
        upper: Largest slope; may be traced. Default: 1/3.

    Raises:
        ValueError: If `lower` is not below `upper`, or in training without a key.

    Reference: Xu et al., Empirical evaluation of rectified activations in convolutional network,
    2015.

    >>> import jax, jax.numpy as jnp
    >>> RReLU(0.0, 0.5).apply({}, jnp.array([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    lower: Annotated[float, number()] = 1 / 8
    upper: Annotated[float, number()] = 1 / 3

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_below(self, "lower", "upper")

    def forward(self, params: Any, x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        """Return x with its negative part scaled."""
        check_rank(x, 0, "(...)")
        x = x.astype(floating_type(x))
        lower, upper, middle = (jnp.asarray(a, jnp.float32) for a in (self.lower, self.upper, 0.5))
        at = jax.random.uniform(key, x.shape, jnp.float32) if train else middle
        slope = (lower + at * (upper - lower)).astype(x.dtype)
        return jnp.where(x >= 0, x, slope * x)


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
        return shared_product(x, params["scale"])


class LearnedArray(Primitive):
    """Learned array without inputs: `y = w`.

    Under `Precision`, y and its gradient have the compute type. If many outputs use y, as in x + y,
    use `shared_sum(x, y)` or `shared_product(x, y)` of `jaxnn.functional.gradients`, which compute
    its gradient in float32.

    Args:
        shape: Shape of the array.
        w_init: Initializer of the array. Default: `zeros()`.

    >>> import jax, jax.numpy as jnp
    >>> jax.tree.map(jnp.shape, LearnedArray((3, 4)).init(jax.random.key(0)))
    {'w': (3, 4)}
    """

    shape: tuple[int, ...]
    w_init: InitFn = zeros()

    def parameters(self) -> dict[str, Param]:
        """Declare the array."""
        return {"w": Param(self.shape, self.w_init)}

    def forward(self, params: Any) -> jax.Array:
        """Return the array."""
        return params["w"]
