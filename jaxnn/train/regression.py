"""Regression: one or several numbers per example."""

from typing import Any

import jax
import jax.numpy as jnp

from ..fields import is_traced
from .labels import ratio, weights_like
from .task import Task


class Regression(Task):
    """One or several numbers per example: mean squared error.

    Outputs are (..., outputs), targets floats (...) for one output and (..., outputs) for several,
    predictions the outputs in the shape of the targets. The metric is `mae`, the mean absolute
    error, in the targets' units. Both are means over all numbers. A target of NaN that has the
    weight 0 is left out: weights have a number per example or per target.

    Targets in units of their own are learned better if they are standardized. With their mean and
    standard deviation, the loss is that of (target - mean) / std, and the network's outputs are in
    standard deviations; predictions and `mae` are in the targets' units.

    Args:
        outputs: how many numbers; 1 by default.
        mean: that of the targets, in their units; 0 by default.
        std: the standard deviation of the targets, in their units; 1 by default.

    Raises:
        ValueError: fewer than 1 output, or a standard deviation that is not positive.

    >>> import jax.numpy as jnp
    >>> float(Regression()(jnp.zeros((2, 1)), jnp.array([1.0, 3.0])))
    5.0
    >>> float(Regression(outputs=2)(jnp.zeros((1, 2)), jnp.array([[1.0, 3.0]])))
    5.0
    >>> task = Regression(mean=150.0, std=50.0)
    >>> found = task.measure(jnp.array([[1.0]]), jnp.array([300.0]))
    >>> float(found["loss"]), float(found["mae"]), task.predict(jnp.array([[1.0]])).tolist()
    (4.0, 100.0, [200.0])
    """

    outputs: int = 1  # type: ignore[override]
    mean: float = 0.0
    std: float = 1.0
    directions = {"mae": "minimize", "rmse": "minimize", "r2": "maximize"}  # noqa: RUF012, no field
    _several = "train.Regression(outputs={})"

    def __post_init__(self) -> None:
        """Check the number of outputs."""
        if not isinstance(self.outputs, int) or isinstance(self.outputs, bool) or self.outputs < 1:
            raise ValueError(
                f"Regression.outputs is an int >= 1, got {self.outputs!r}; write "
                "train.Regression(outputs=y.shape[-1])"
            )
        if not is_traced(self.std) and not self.std > 0:
            raise ValueError(
                f"Regression.std is a number > 0, got {self.std!r}; write "
                "train.Regression(mean=float(y.mean()), std=float(y.std()))"
            )

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """The means of (output - target)**2 and of |output - target|, see above for their units."""
        wide = self._wide(outputs, targets, labels=False)
        wide = wide if self._per_output else wide[..., 0]
        weights = weights_like(weights, targets.shape, repr(self))
        kept = None if weights is None else weights != 0
        targets = (targets.astype(wide.dtype) - self.mean) / self.std
        errors = wide - targets
        if kept is not None:  # both, since 0 times NaN would be NaN in the gradient
            errors = jnp.where(kept, wide, 0) - jnp.where(kept, targets, 0)
        return {
            "loss": ratio(jnp.square(errors), kept, weights),
            "mae": ratio(jnp.abs(errors) * self.std, kept, weights, maximize=False),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """outputs * std + mean."""
        outputs = outputs if self._per_output else outputs[..., 0]
        return outputs * self.std + self.mean

    @property
    def _per_output(self) -> bool:  # type: ignore[override]
        return self.outputs > 1
