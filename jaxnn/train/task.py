"""Tasks: what belongs together when a network is trained for a purpose.

A task is a value that holds the loss, the metrics, how many outputs a network needs, and the map
from outputs to predictions. Called with outputs and targets it gives the loss, so a plain function
`loss(outputs, targets)` may stand for one where only a loss is wanted.

Losses come from optax. A task with another one is a subclass, which keeps metrics and predictions;
label smoothing, and the focal loss by `optax.sigmoid_focal_loss` likewise:

>>> import jax, optax
>>> from jaxnn import train
>>> class Smoothed(train.Classification):
...     share: float = 0.1
...     def __call__(self, outputs, targets):
...         labels = optax.smooth_labels(jax.nn.one_hot(targets, self.number), self.share)
...         return optax.softmax_cross_entropy(self._wide(outputs, targets, True), labels).mean()
>>> Smoothed(3)
Smoothed(3)

What has no predictions of that kind is a function. Targets may be any tuple or dict of arrays. CTC,
for frames (batch, T, classes) with class 0 the blank, and contrastive learning of pairs:

>>> def ctc(logits, targets):
...     frames, labels, padding = targets  # paddings are 1 where there is nothing
...     return optax.ctc_loss(logits, frames, labels, padding).mean()
>>> def contrastive(embeddings, labels):
...     return optax.ntxent(embeddings, labels, temperature=0.1)
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from ..core.declarations import describe
from ..core.values import Value

Metrics: TypeAlias = dict[str, jax.Array]


class Task(Value):
    """Base of the tasks. A subclass gives `outputs`, `__call__`, `metrics` and `predict`.

    Losses and metrics are means over the examples, computed in at least float32.
    """

    @property
    def outputs(self) -> int:
        """The number of outputs that a network needs: the features of its last layer."""
        raise NotImplementedError

    @property
    def classes(self) -> int | None:
        """The number of classes that targets name, or None where they are no labels."""
        return None

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """The loss, a scalar: the mean over all examples."""
        raise NotImplementedError

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """Further scalars by name, each a mean over all examples."""
        return {}

    def predict(self, outputs: Any) -> jax.Array:
        """Predictions from outputs."""
        raise NotImplementedError

    def _wide(self, outputs: Any, targets: Any, labels: bool) -> jax.Array:
        """The outputs in at least float32, once their shape fits the targets'."""
        if outputs.ndim == 0 or outputs.shape[-1] != self.outputs:
            raise ValueError(
                f"{self!r} needs {self.outputs} outputs of shape (..., {self.outputs}), got "
                f"{describe(outputs)}; end the network with nn.Dense({self.outputs})"
            )
        if targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"{self!r} needs targets of shape {outputs.shape[:-1]} for outputs "
                f"{describe(outputs)}, got {describe(targets)}"
            )
        if labels and not jnp.issubdtype(targets.dtype, jnp.integer):
            raise TypeError(
                f"{self!r} needs integer class labels, got {describe(targets)}; write "
                "y.astype('int32')"
            )
        return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


class Classification(Task):
    """One of `number` classes: softmax cross entropy of integer labels, or of probabilities.

    Outputs are logits (..., number), targets integer labels (...) in [0, number), or a probability
    for each class (..., number), as `data.mixup` makes them; predictions are probabilities
    (..., number). The metric is `accuracy`, the share of right labels, that of the most probable
    class where there are several. Raises ValueError for fewer than 2 classes.

    >>> import jax.numpy as jnp
    >>> task = Classification(3)
    >>> round(float(task(jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0]))), 4)  # log 3
    1.0986
    >>> round(float(task(jnp.zeros((1, 3)), jnp.array([[0.5, 0.2, 0.3]]))), 4)
    1.0986
    """

    number: int

    def __post_init__(self) -> None:
        """Check the number of classes."""
        if not isinstance(self.number, int) or self.number < 2:
            raise ValueError(
                f"Classification wants at least 2 classes, got {self.number!r}; write "
                "train.Binary() for one yes-or-no output"
            )

    @property
    def outputs(self) -> int:
        """One logit a class."""
        return self.number

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.number

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Mean of -log softmax(outputs)[target], or of its mean by the targets' probabilities."""
        if self._soft(outputs, targets):
            logits = self._wide(outputs, targets[..., 0], labels=False)
            # 0 * log 0 is NaN: a class without probability has no part.
            found = jnp.where(targets == 0, 0, jax.nn.log_softmax(logits))
            return -jnp.sum(targets.astype(logits.dtype) * found, -1).mean()
        logits = self._wide(outputs, targets, labels=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """The share of examples whose largest output is the target's."""
        if self._soft(outputs, targets):
            targets = jnp.argmax(targets, -1)
        right = jnp.argmax(outputs, -1).astype(targets.dtype) == targets
        return {"accuracy": jnp.mean(right, dtype=jnp.float32)}

    def predict(self, outputs: Any) -> jax.Array:
        """Softmax: a probability for each class."""
        return jax.nn.softmax(outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)))

    def _soft(self, outputs: Any, targets: Any) -> bool:
        """Whether targets are probabilities."""
        return targets.shape == outputs.shape and jnp.issubdtype(targets.dtype, jnp.floating)


class LanguageModel(Task):
    """The next token: softmax cross entropy at every position of a sequence.

    Outputs are logits (..., T, vocabulary), targets integer tokens (..., T) in [0, vocabulary), the
    token that follows each position; predictions are probabilities (..., T, vocabulary). The
    metrics are `accuracy`, the share of tokens that got the largest output, and `bits`, the loss in
    bits a token: loss / log 2. All are means over all positions. Raises ValueError for fewer than 2
    tokens.

    Reference: Shannon, Prediction and entropy of printed English, 1951.

    >>> import jax.numpy as jnp
    >>> task = LanguageModel(32)
    >>> outputs, targets = jnp.zeros((2, 5, 32)), jnp.zeros((2, 5), int)
    >>> round(float(task.metrics(outputs, targets)["bits"]), 5)  # log2 32
    5.0
    """

    vocabulary: int

    def __post_init__(self) -> None:
        """Check the number of tokens."""
        if not isinstance(self.vocabulary, int) or self.vocabulary < 2:
            raise ValueError(
                f"LanguageModel wants a vocabulary of at least 2 tokens, got {self.vocabulary!r}; "
                "write train.LanguageModel(len(text.vocabulary)), say"
            )

    @property
    def outputs(self) -> int:
        """One logit a token."""
        return self.vocabulary

    @property
    def classes(self) -> int:
        """The number of tokens."""
        return self.vocabulary

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Mean of -log softmax(outputs)[target]."""
        logits = self._wide(outputs, targets, labels=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """The share of tokens foretold, and the loss in bits."""
        right = jnp.argmax(outputs, -1).astype(targets.dtype) == targets
        return {
            "accuracy": jnp.mean(right, dtype=jnp.float32),
            "bits": self(outputs, targets) / math.log(2),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Softmax: a probability for each token."""
        return jax.nn.softmax(outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)))


class Binary(Task):
    """Yes or no: sigmoid cross entropy of one output.

    Outputs are logits (..., 1), targets integers 0 or 1 (...), predictions the probability of 1
    (...). The metric is `accuracy`.

    >>> import jax.numpy as jnp
    >>> Binary().predict(jnp.zeros((1, 1))).tolist()
    [0.5]
    """

    @property
    def outputs(self) -> int:
        """One logit."""
        return 1

    @property
    def classes(self) -> int:
        """Two: no and yes."""
        return 2

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Mean of log(1 + exp(-s z)) for logit z and s = 1 or -1."""
        logits = self._wide(outputs, targets, labels=True)[..., 0]
        return optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype)).mean()

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """The share of examples on the right side of 0."""
        right = (outputs[..., 0] > 0).astype(targets.dtype) == targets
        return {"accuracy": jnp.mean(right, dtype=jnp.float32)}

    def predict(self, outputs: Any) -> jax.Array:
        """Sigmoid: the probability of 1."""
        wide = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        return jax.nn.sigmoid(wide[..., 0])


class Regression(Task):
    """A number: mean squared error.

    Outputs are (..., 1), targets floats (...), predictions the outputs (...). The metric is `mae`,
    the mean absolute error, in the targets' units.

    >>> import jax.numpy as jnp
    >>> float(Regression()(jnp.zeros((2, 1)), jnp.array([1.0, 3.0])))
    5.0
    """

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Mean of (output - target)**2."""
        return jnp.mean(jnp.square(self._errors(outputs, targets)))

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """Mean of |output - target|."""
        return {"mae": jnp.mean(jnp.abs(self._errors(outputs, targets)))}

    def predict(self, outputs: Any) -> jax.Array:
        """The outputs themselves."""
        return outputs[..., 0]

    def _errors(self, outputs: Any, targets: Any) -> jax.Array:
        wide = self._wide(outputs, targets, labels=False)[..., 0]
        return wide - targets.astype(wide.dtype)


Loss: TypeAlias = Task | Callable[[Any, Any], jax.Array]


def losses_and_metrics(task: Loss, outputs: Any, targets: Any) -> tuple[jax.Array, Metrics]:
    """The loss, and all metrics with the loss among them; ValueError for a loss with axes."""
    loss = task(outputs, targets)
    if jnp.shape(loss) != ():
        raise ValueError(
            f"a loss is a scalar, got {describe(loss)} from {task!r}; write "
            "loss(outputs, targets).mean()"
        )
    more = task.metrics(outputs, targets) if isinstance(task, Task) else {}
    return loss, {"loss": loss, **more}
