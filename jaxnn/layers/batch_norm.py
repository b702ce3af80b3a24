"""Batch normalization: statistics of the batch in training, and running ones in inference."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..functional import normalization as norm
from ..functional.gradients import gradient_once
from ..functional.linear import along_axis, floating_type
from ..initializers import InitFn, ones, zeros
from ..validation import integer, number, require
from . import check_not_empty
from .normalization import momentum_of, padding_marks, running_statistics, scale_and_bias, scaled

_AXIS = integer().such(what="the axis of the features, an int")


class BatchNorm(Primitive):
    """Batch normalization: `y = (x - mean) / sqrt(var + eps) * scale + b`.

    In training, the mean and the biased variance are those of the batch over all axes but `axis`,
    and each running statistic becomes momentum * running + (1 - momentum) * batch. In inference
    they are the running statistics. Parameters are scale and b (n,). The state is `mean` and `var`,
    float32 of shape (n,), which start at 0 and 1, and `count`, the number of batches, if the
    momentum is None.

    With `renorm`, batch renormalization, training normalizes by statistics that are close to those
    of inference, which helps if batches are small:

        y = ((x - mean) / std * r + d) * scale + b
        r = std / running_std                  limited to [1 / r_max, r_max]
        d = (mean - running_mean) / running_std      limited to [-d_max, d_max]

    std is sqrt(var + eps), of the batch or of the state. The running average is then taken of std
    instead of var, and `var` is updated to match it. r and d are constants of the gradient.

    Positions that `segment_ids` mark as padding (0) have no effect on the statistics. They are
    integers for the leading axes of x, such as (..., T) for x (..., T, n), and are ignored if x
    does not have these axes, as after pooling.

    On a mesh, the statistics are those of the whole batch, on all devices.

    Args:
        momentum: Weight of the old running statistics, in [0, 1]. None gives all batches so far
            equal weights, a cumulative mean. Default: 0.9.
        scale: Whether to multiply by a learned scale. Default: True.
        bias: Whether to add b. Default: True.
        eps: Added to the variance, a number >= 0. Default: 1e-5.
        axis: Axis of the features. Default: -1.
        axis_name: Name or names of mapped axes (of `jax.vmap`, `jax.pmap`, or `shard_map`) over
            which the batch statistics are also taken. Default: None.
        renorm: Whether to correct training by the running statistics. Default: False.
        r_max: Largest factor r, a number >= 1; may be traced. Default: 3.
        d_max: Largest shift d, a number >= 0; may be traced. Default: 5.
        scale_init: Initializer of scale. Default: `ones()`.
        b_init: Initializer of b. Default: `zeros()`.

    Raises:
        ValueError: If `apply` receives no state, or if a training batch is empty.

    References: Ioffe and Szegedy, Batch normalization, 2015; Ioffe, Batch renormalization, 2017.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.ones((4, 8))
    >>> jax.tree.map(jnp.shape, BatchNorm().init_state(x))
    {'mean': (8,), 'var': (8,)}
    """

    momentum: Annotated[float | None, None | momentum_of] = 0.9
    scale: bool = True
    bias: bool = True
    eps: Annotated[float, number(0)] = 1e-5
    axis: Annotated[int, _AXIS] = -1
    axis_name: str | tuple[str, ...] | None = None
    renorm: bool = False
    r_max: Annotated[float, number(1)] = 3.0
    d_max: Annotated[float, number(0)] = 5.0
    scale_init: InitFn = ones()
    b_init: InitFn = zeros()

    def parameters(self, x: Any) -> dict[str, Param]:
        """Declare scale and b, as requested."""
        return scale_and_bias(self, x, self.axis, self.scale, self.bias)

    def variables(self, x: Any) -> dict[str, Variable]:
        """Declare the running statistics."""
        return running_statistics(x.shape[self.axis], self.momentum)

    def forward(
        self,
        params: Any,
        x: jax.Array,
        *,
        segment_ids: jax.Array | None = None,
        state: State,
        train: bool,
    ) -> tuple[jax.Array, State]:
        """Return x normalized, and the new running statistics."""
        real, marks = None, padding_marks(x, segment_ids, x.ndim)
        if marks is not None:
            ahead = f"an axis behind those of segment_ids {marks.shape}"
            require(self.axis % x.ndim >= marks.ndim, "BatchNorm.axis", ahead, self.axis)
            real = (marks != 0).reshape(marks.shape + (1,) * (x.ndim - marks.ndim))
        if not train:
            mean, var = (along_axis(state[name], x.ndim, self.axis) for name in ("mean", "var"))
            return self._normalized(params, x, mean, var), state
        others = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
        check_not_empty(x, others, "a batch of at least one element, to compute statistics")
        x = gradient_once(x)
        mean, var = norm.moments(x, others, self.axis_name, real)
        batch = {"mean": mean.reshape(-1), "var": var.reshape(-1)}
        if not self.renorm:
            y = self._normalized(params, x, mean, var)
            return y, norm.running(state, batch, self.momentum)
        # Standard deviations are averaged; the state has the square of their mean, less eps.
        eps = jnp.asarray(self.eps, var.dtype)
        old, batch = (
            a | {"var": jnp.sqrt(a["var"].astype(var.dtype) + eps)} for a in (state, batch)
        )
        y = self._corrected(params, x, mean, var, batch, old)
        new = norm.running(old, batch, self.momentum)
        square = jnp.maximum(jnp.square(new["var"]) - eps, 0)
        return y, new | {"var": square.astype(state["var"].dtype)}

    def _normalized(self, params: Any, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        """Return x standardized, times scale, plus b."""
        rest = dict(params)
        scale = rest.pop("scale", None)
        scale = None if scale is None else along_axis(scale, x.ndim, self.axis)
        y = norm.standardize(x, mean, var, self.eps, scale)
        return scaled(y, rest, self.axis).astype(floating_type(x))

    def _corrected(
        self, params: Any, x: jax.Array, mean: jax.Array, var: jax.Array, batch: Any, old: Any
    ) -> jax.Array:
        """Return x standardized and corrected by the running statistics, times scale, plus b.

        In `batch` and `old`, `var` is the standard deviation.
        """
        high, most = (jnp.asarray(a, var.dtype) for a in (self.r_max, self.d_max))
        r = jnp.clip(batch["var"] / old["var"], 1 / high, high)
        d = jnp.clip((batch["mean"] - old["mean"].astype(var.dtype)) / old["var"], -most, most)
        r, d = (lax.stop_gradient(along_axis(a, x.ndim, self.axis)) for a in (r, d))
        y = norm.standardize(x, mean, var, self.eps, r) + d
        return scaled(y, params, self.axis).astype(floating_type(x))
