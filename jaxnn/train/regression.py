"""Tasks whose targets are numbers, or ordered labels.

Outputs predict the numbers, or parameters of their distribution.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from ..validation import Accepts, above, integer, positive, tuple_of
from .classification import LabelTask, ignored_label
from .examples import WeightedTargets, wide
from .task import Task

LOSSES: dict[str, Callable[[Any, Any], jax.Array]] = {
    "squared_error": optax.squared_error,
    "absolute_error": lambda outputs, targets: jnp.abs(outputs - targets),
    "huber": optax.huber_loss,
    "log_cosh": optax.log_cosh,
}
elementwise_loss: Accepts = Accepts(
    f"{', '.join(map(repr, LOSSES))}, or a function of outputs and targets",
    lambda v: v in LOSSES if isinstance(v, str) else callable(v),
    hint="write loss=optax.huber_loss, or functools.partial(optax.huber_loss, delta=0.5)",
)
deviation: Accepts = above(0).such(
    hint="write train.{owner}(..., mean=float(y.mean()), std=float(y.std()))"
)


class _OfNumbers(Task):
    """Base of the tasks for numbers. Targets have one number per output, unless overridden."""

    @property
    def _axis(self) -> int | None:  # type: ignore[override]
        return self.outputs if self.outputs > 1 else None

    def _scaled(
        self: Any, outputs: Any, targets: Any, weights: Any
    ) -> tuple[jax.Array, WeightedTargets]:
        """Return outputs of the right shape, and the examples with standardized targets."""
        outputs = self._wide(outputs, targets)
        targets = (jnp.asarray(targets, outputs.dtype) - self.mean) / self.std
        return outputs, self._numbers(targets, weights)


class Regression(_OfNumbers):
    """One or several numbers per example: mean squared error, or the mean of another loss.

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
        loss: Loss of each number: "squared_error", "absolute_error", "huber" (squared up to an
            error of 1, then linear), "log_cosh", or a function of outputs and targets that returns
            one number for each, such as optax.huber_loss. Default: "squared_error", (a - b)**2.

    Raises:
        ValueError: `outputs` is less than 1, `std` is not positive, or `loss` is unknown.

    >>> import jax.numpy as jnp
    >>> float(Regression()(jnp.zeros((2, 1)), jnp.array([1.0, 3.0])))
    5.0
    >>> float(Regression(outputs=2)(jnp.zeros((1, 2)), jnp.array([[1.0, 3.0]])))
    5.0
    >>> task = Regression(mean=150.0, std=50.0)
    >>> found = task.measure(jnp.array([[1.0]]), jnp.array([300.0]))
    >>> float(found["loss"]), float(found["mae"]), task.predict(jnp.array([[1.0]])).tolist()
    (4.0, 100.0, [200.0])
    >>> float(Regression(loss="huber")(jnp.zeros((2, 1)), jnp.array([0.5, 3.0])))
    1.3125
    """

    outputs: Annotated[  # type: ignore[override]
        int, positive.such(hint="write train.Regression(outputs=y.shape[-1])")
    ] = 1
    mean: float = 0.0
    std: Annotated[float, deviation] = 1.0
    loss: Annotated[str | Callable[[Any, Any], Any], elementwise_loss] = "squared_error"
    _other_targets = (
        "targets[..., 0] for targets with a last axis of size 1, or "
        "train.Regression(outputs=n) for several numbers per example"
    )

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean loss, and the mean absolute error."""
        outputs, examples = self._scaled(outputs, targets, weights)
        outputs = examples.select(outputs)
        loss: Any = LOSSES[self.loss] if isinstance(self.loss, str) else self.loss
        return {
            "loss": examples.ratio(loss(outputs, examples.targets)),
            "mae": examples.ratio(jnp.abs(outputs - examples.targets) * self.std, maximize=False),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Return outputs * std + mean."""
        return self._squeezed(outputs) * self.std + self.mean


class PoissonRegression(_OfNumbers):
    """Counts: negative log likelihood of a Poisson distribution, exp(z) - y z for output z.

    Outputs z are logarithms of rates, (..., outputs). Targets y are counts, numbers >= 0, of shape
    (...) for one output and (..., outputs) for several. Predictions are the rates exp(z), with the
    shape of the targets. The loss is that of torch.nn.PoissonNLLLoss(); it leaves out log y!, which
    does not depend on the outputs. The metric is `mae`, the mean absolute error of the rates.
    Weights are handled as in `Regression`. A negative target makes loss and metric NaN.

    Args:
        outputs: Number of targets per example. Default: 1.

    >>> import jax.numpy as jnp
    >>> task = PoissonRegression()
    >>> float(task(jnp.zeros((2, 1)), jnp.array([3.0, 5.0])))
    1.0
    """

    outputs: Annotated[  # type: ignore[override]
        int, positive.such(hint="write train.PoissonRegression(outputs=y.shape[-1])")
    ] = 1
    _other_targets = "train.PoissonRegression(outputs=n) for several counts per example"

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean of exp(z) - y z, and the mean absolute error."""
        logs = self._wide(outputs, targets)
        examples = self._numbers(jnp.asarray(targets, logs.dtype), weights)
        examples = examples.valid_where(examples.targets >= 0)
        logs, y = examples.select(logs), examples.targets
        rates = jnp.exp(logs)
        return {
            "loss": examples.ratio(rates - y * logs),
            "mae": examples.ratio(jnp.abs(rates - y), maximize=False),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Return the rates exp(outputs)."""
        return jnp.exp(self._squeezed(outputs))


class GaussianRegression(_OfNumbers):
    """Numbers with their uncertainty: negative log likelihood of a normal distribution.

    The loss is `(log v + (y - m)**2 / v) / 2` for target y, as in torch.nn.GaussianNLLLoss(eps=0).
    For n targets, outputs are (..., 2 n): n means m, then n logarithms of variances, log v.
    Targets are numbers (...) for n = 1 and (..., n) for several. Predictions are a dict of `mean`
    and `std`, arrays with the shape of the targets. The metric is `mae`, the mean absolute error.
    Weights, `mean`, and `std` have the same meaning as in `Regression`.

    Args:
        targets: Number n of targets per example. Default: 1.
        mean: Mean of the targets, in their unit. Default: 0.
        std: Standard deviation of the targets, in their unit. Default: 1.

    Reference: Nix and Weigend, Estimating the mean and variance of the target probability
    distribution, 1994.

    >>> import jax.numpy as jnp
    >>> task = GaussianRegression()
    >>> float(task(jnp.zeros((2, 2)), jnp.array([1.0, 3.0])))
    2.5
    >>> {name: float(x[0]) for name, x in task.predict(jnp.array([[3.0, 0.0]])).items()}
    {'mean': 3.0, 'std': 1.0}
    """

    targets: Annotated[
        int, positive.such(hint="write train.GaussianRegression(targets=y.shape[-1])")
    ] = 1
    mean: float = 0.0
    std: Annotated[float, deviation] = 1.0
    _other_targets = "train.GaussianRegression(targets=y.shape[-1])"

    @property
    def outputs(self) -> int:
        """Two per target: the mean and the logarithm of the variance."""
        return 2 * self.targets

    @property
    def _axis(self) -> int | None:  # type: ignore[override]
        return self.targets if self.targets > 1 else None

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the negative log likelihood, and the mean absolute error."""
        outputs, examples = self._scaled(outputs, targets, weights)
        means, logs = self._parts(outputs)
        errors, logs = examples.select(means) - examples.targets, examples.select(logs)
        return {
            "loss": examples.ratio((logs + jnp.square(errors) * jnp.exp(-logs)) / 2),
            "mae": examples.ratio(jnp.abs(errors) * self.std, maximize=False),
        }

    def predict(self, outputs: Any) -> dict[str, jax.Array]:
        """Return the means and standard deviations, in the unit of the targets."""
        means, logs = self._parts(outputs)
        return {"mean": means * self.std + self.mean, "std": jnp.exp(logs / 2) * self.std}

    def _parts(self, outputs: Any) -> tuple[jax.Array, jax.Array]:
        """Return the means and the logarithms of variances, each with the shape of the targets."""
        means, logs = jnp.split(wide(outputs), 2, -1)
        return (means[..., 0], logs[..., 0]) if self.targets == 1 else (means, logs)


class QuantileRegression(_OfNumbers):
    """Quantiles of a number: the pinball loss, max(q (y - z), (q - 1) (y - z)) for quantile q.

    Outputs z are (..., n) for n quantiles, targets y are numbers (...), and predictions are the
    quantiles (..., n) in the unit of the targets. The loss is the mean over examples and quantiles.
    The metric is `coverage`, the fraction of targets from the first to the last quantile; for one
    quantile, the fraction at or below it. Weights, `mean`, and `std` have the same meaning as in
    `Regression`.

    Args:
        quantiles: Tuple of numbers in (0, 1), in increasing order. Default: (0.1, 0.5, 0.9).
        mean: Mean of the targets, in their unit. Default: 0.
        std: Standard deviation of the targets, in their unit. Default: 1.

    Reference: Koenker and Bassett, Regression quantiles, 1978.

    >>> import jax.numpy as jnp
    >>> task = QuantileRegression((0.25, 0.75))
    >>> float(task(jnp.zeros((1, 2)), jnp.array([4.0])))  # (0.25 * 4 + 0.75 * 4) / 2
    2.0
    """

    quantiles: Annotated[
        tuple[float, ...],
        tuple_of(
            Accepts("", lambda v: above(0).test(v) and v < 1, traced=True),
            "a tuple of numbers between 0 and 1",
        ).such(hint="write quantiles=(0.1, 0.5, 0.9)"),
    ] = (0.1, 0.5, 0.9)
    mean: float = 0.0
    std: Annotated[float, deviation] = 1.0
    _axis = None  # type: ignore[assignment, override]

    @property
    def outputs(self) -> int:
        """One per quantile."""
        return len(self.quantiles)

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the mean pinball loss, and the coverage."""
        found, examples = self._scaled(outputs, targets, weights)
        y = examples.targets
        found = examples.select(found.reshape(*y.shape, self.outputs))
        errors = y[..., None] - found
        q = jnp.asarray(self.quantiles, found.dtype)
        inside = y <= found[..., -1]
        if self.outputs > 1:
            inside &= y >= found[..., 0]
        losses = jnp.mean(jnp.maximum(q * errors, (q - 1) * errors), -1)
        covered = inside.astype(found.dtype)
        return {"loss": examples.ratio(losses), "coverage": examples.ratio(covered)}

    def predict(self, outputs: Any) -> jax.Array:
        """Return the quantiles, in the unit of the targets."""
        return wide(outputs) * self.std + self.mean


class OrdinalRegression(LabelTask):
    """Ordered labels: for each label except the last, predict whether the target is above it.

    Output k of (..., number - 1) is the logit of "the label is greater than k", and the loss is the
    sum of the sigmoid cross entropies of these answers. Targets are integer labels (...) in
    [0, number). Predictions are labels (...), int32: the number of positive logits. Metrics are
    `accuracy` and `mae`, the mean distance between predicted and target labels. Labels out of range
    and weights are handled as in `Classification`.

    Args:
        number: Number of labels, at least 2.
        ignore: Label of examples that are excluded; None excludes none. Default: -100.

    Reference: Niu et al., Ordinal regression with multiple output CNN, 2016.

    >>> import jax.numpy as jnp
    >>> task = OrdinalRegression(4)
    >>> round(float(task(jnp.zeros((1, 3)), jnp.array([2]))), 4)  # 3 log 2
    2.0794
    >>> task.predict(jnp.array([[2.0, 1.0, -1.0]])).tolist()
    [2]
    """

    number: Annotated[int, integer(2).such(hint="write train.OrdinalRegression(5)")]
    ignore: Annotated[int | None, ignored_label] = -100
    _more_classes = "train.OrdinalRegression(n)"

    @property
    def outputs(self) -> int:
        """One logit for each label except the last."""
        return self.number - 1

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.number

    def measure(self, outputs: Any, targets: Any, weights: Any = None) -> dict[str, Any]:
        """Return the cross entropy of all answers, the accuracy, and the mean distance."""
        shown = self._wide(outputs, targets)
        logits = shown[..., None] if self.outputs == 1 else shown
        labels = self._labels(targets, weights)
        logits = labels.select(logits)
        above = labels.targets[..., None] > jnp.arange(self.outputs)
        losses = optax.sigmoid_binary_cross_entropy(logits, above.astype(logits.dtype)).sum(-1)
        ranks = self.predict(logits)
        distances = jnp.abs(ranks - labels.targets).astype(logits.dtype)
        return {
            "loss": labels.ratio(losses),
            "accuracy": labels.accuracy(ranks),
            "mae": labels.ratio(distances, maximize=False),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Return labels: the number of positive logits."""
        return jnp.sum(jnp.asarray(outputs) > 0, -1, dtype=jnp.int32)
