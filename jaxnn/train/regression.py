"""Regression: one or several numbers per example."""

from typing import Any

import jax
import jax.numpy as jnp

from .labels import ratio, weights_like
from .task import Task


class Regression(Task):
    """One or several numbers per example: mean squared error.

    Outputs are (..., outputs), targets floats (...) for one output and (..., outputs) for several,
    predictions the outputs in the shape of the targets. The metric is `mae`, the mean absolute
    error, in the targets' units. Both are means over all numbers. A target of NaN that has the
    weight 0 is left out: weights have a number per example or per target.

    Args:
        outputs: how many numbers; 1 by default.

    Raises:
        ValueError: fewer than 1.

    >>> import jax.numpy as jnp
    >>> float(Regression()(jnp.zeros((2, 1)), jnp.array([1.0, 3.0])))
    5.0
    >>> float(Regression(outputs=2)(jnp.zeros((1, 2)), jnp.array([[1.0, 3.0]])))
    5.0
    """

    outputs: int = 1  # type: ignore[override]
    directions = {"mae": "minimize", "rmse": "minimize", "r2": "maximize"}  # noqa: RUF012, no field
    _several = "train.Regression(outputs={})"

    def __post_init__(self) -> None:
        """Check the number of outputs."""
        if not isinstance(self.outputs, int) or isinstance(self.outputs, bool) or self.outputs < 1:
            raise ValueError(
                f"Regression.outputs is an int >= 1, got {self.outputs!r}; write "
                "train.Regression(outputs=y.shape[-1])"
            )

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The means of (output - target)**2 and of |output - target|."""
        wide = self._wide(outputs, targets, labels=False)
        wide = wide if self._per_output else wide[..., 0]
        weights = weights_like(weights, targets.shape, repr(self))
        kept = None if weights is None else weights != 0
        errors = wide - targets.astype(wide.dtype)
        if kept is not None:  # both, since 0 times NaN would be NaN in the gradient
            errors = jnp.where(kept, wide, 0) - jnp.where(kept, targets.astype(wide.dtype), 0)
        return {
            "loss": ratio(jnp.square(errors), kept, weights),
            "mae": ratio(jnp.abs(errors), kept, weights, maximize=False),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """The outputs themselves."""
        return outputs if self._per_output else outputs[..., 0]

    @property
    def _per_output(self) -> bool:  # type: ignore[override]
        return self.outputs > 1
