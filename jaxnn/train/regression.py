"""Regression: one or several numbers per example."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ..validation import above, positive
from .directions import Direction
from .examples import Examples
from .task import Task


class Regression(Task):
    """One or several numbers per example: mean squared error.

    Outputs have shape (..., outputs). Targets are floats of shape (...) for one output and
    (..., outputs) for several. Predictions have the shape of the targets. The metric is `mae`, the
    mean absolute error in the unit of the targets. Loss and metric are means over all numbers.
    Example weights have one number per example or per target; targets with the weight 0 are
    excluded, even if they are NaN.

    Targets should be standardized. If their mean and standard deviation are given, the network
    predicts (target - mean) / std, and the loss is computed on this scale; predictions and `mae`
    are in the unit of the targets.

    Args:
        outputs: Number of targets per example. Default: 1.
        mean: Mean of the targets, in their unit. Default: 0.
        std: Standard deviation of the targets, in their unit. Default: 1.

    Raises:
        ValueError: `outputs` is less than 1, or `std` is not positive.

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

    outputs: Annotated[  # type: ignore[override]
        int, positive.such(hint="write train.Regression(outputs=y.shape[-1])")
    ] = 1
    mean: float = 0.0
    std: Annotated[
        float,
        above(0).such(hint="write train.Regression(mean=float(y.mean()), std=float(y.std()))"),
    ] = 1.0
    directions: ClassVar[Mapping[str, Direction]] = {
        "mae": "minimize",
        "rmse": "minimize",
        "r2": "maximize",
    }
    _other_targets = (
        ", and write targets[..., 0] for targets with a last axis of size 1, or "
        "train.Regression(outputs=n) for several numbers per example"
    )

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean squared error and the mean absolute error."""
        wide = self._wide(outputs, targets)
        targets = (targets.astype(wide.dtype) - self.mean) / self.std
        examples = Examples.of_numbers(repr(self), targets, weights)
        errors = examples.select(wide) - examples.targets
        return {
            "loss": examples.ratio(jnp.square(errors)),
            "mae": examples.ratio(jnp.abs(errors) * self.std, maximize=False),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Return outputs * std + mean."""
        return self._squeezed(outputs) * self.std + self.mean

    @property
    def _per_output(self) -> bool:  # type: ignore[override]
        return self.outputs > 1
