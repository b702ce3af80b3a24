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
...         logits, labels = self._wide(outputs, targets, True), self._labels(targets)
...         soft = optax.smooth_labels(jax.nn.one_hot(labels.number, self.number), self.share)
...         return labels.mean(optax.softmax_cross_entropy(labels.select(logits), soft))
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
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..core.declarations import describe
from ..core.values import Value
from .directions import Direction
from .labels import Labels, accuracy, check_ignore, cross_entropy

Metrics: TypeAlias = dict[str, jax.Array]

# Names of other numbers in the records of a run, which a metric must not replace.
RESERVED = frozenset(
    {"epoch", "step", "skipped", "seconds", "examples_per_second"}
    | {"flops_per_second", "flop_utilisation", "device_bytes"}
)


class Task(Value):
    """Base of the tasks. A subclass gives `outputs`, `__call__`, `metrics` and `predict`.

    Losses and metrics are means over the examples, computed in at least float32. `directions` maps
    the name of each further metric to "maximize" or "minimize", and adds to that of the base class;
    whatever ranks runs or trials by a metric reads it there. The loss is minimized.

    >>> from jaxnn import train
    >>> class Scored(train.Classification):
    ...     directions = {"f1": "maximize"}
    """

    directions: ClassVar[Mapping[str, Direction]] = {"loss": "minimize"}

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

    # A loss for targets of the shape of the outputs, for an error.
    _several = "optax.softmax_cross_entropy(outputs, targets).mean()"

    @property
    def ignored(self) -> int | None:
        """The label that marks examples without one, or None if there is no such label."""
        return None

    def _wide(self, outputs: Any, targets: Any, labels: bool) -> jax.Array:
        """The outputs in at least float32, once their shape fits the targets'."""
        if outputs.ndim == 0 or outputs.shape[-1] != self.outputs:
            advice = f"end the network with nn.Dense({self.outputs})"
            if outputs.shape == targets.shape:  # several targets per example, as intended
                advice = (
                    f"{type(self).__name__} has {self.outputs} per example; for several targets, "
                    f"write the loss as a function: lambda outputs, targets: {self._several}"
                )
            raise ValueError(
                f"{self!r} needs {self.outputs} outputs of shape (..., {self.outputs}), got "
                f"{describe(outputs)} for targets {describe(targets)}; {advice}"
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

    def _labels(self, targets: Any) -> "Labels":
        """The targets as labels of this task."""
        assert self.classes is not None
        if isinstance(targets, np.ndarray) and targets.dtype.itemsize > 4:
            # JAX keeps the lower 32 bits, which may be a class.
            info = np.iinfo(jax.dtypes.canonicalize_dtype(targets.dtype))
            targets = np.clip(targets, info.min, info.max)
        return Labels.of(jnp.asarray(targets), self.classes, self.ignored)


class Classification(Task):
    """One of `number` classes: softmax cross entropy of integer labels, or of probabilities.

    Outputs are logits (..., number), targets integer labels (...) in [0, number), or a probability
    for each class (..., number), as `data.mixup` makes them; predictions are probabilities
    (..., number). The metric is `accuracy`, the fraction of correct labels; for probabilities, the
    label is the most probable class.

    A label outside of [0, number) gives a loss, gradient, and accuracy of NaN, and never those of
    another class. `train.fit` and `train.evaluate` raise ValueError when they meet one, and so does
    `nn.checked`.

    Args:
        number: the number of classes, at least 2.
        ignore: the label of examples that are excluded from loss and metrics; None excludes none.
            The default is -100, as in torch.nn.CrossEntropyLoss. Without any other example the
            loss is 0 (torch gives NaN).

    Raises:
        ValueError: fewer than 2 classes.

    >>> import jax.numpy as jnp
    >>> task = Classification(3)
    >>> round(float(task(jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0]))), 4)  # log 3
    1.0986
    >>> round(float(task(jnp.zeros((1, 3)), jnp.array([[0.5, 0.2, 0.3]]))), 4)
    1.0986
    >>> round(float(task(jnp.zeros((4, 3)), jnp.array([0, 1, -100, -100]))), 4)
    1.0986
    """

    number: int
    ignore: int | None = -100
    directions = {"accuracy": "maximize"}  # noqa: RUF012, no field

    def __post_init__(self) -> None:
        """Check the number of classes and the ignored label."""
        check_ignore(self)
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

    @property
    def ignored(self) -> int | None:
        """The label that is ignored."""
        return self.ignore

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Mean of -log softmax(outputs)[target], or of its mean by the targets' probabilities."""
        if self._soft(outputs, targets):
            logits = self._wide(outputs, targets[..., 0], labels=False)
            # 0 * log 0 is NaN: a class without probability has no part.
            found = jnp.where(targets == 0, 0, jax.nn.log_softmax(logits))
            return -jnp.sum(targets.astype(logits.dtype) * found, -1).mean()
        return cross_entropy(self._wide(outputs, targets, labels=True), self._labels(targets))

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """The fraction of examples whose largest output is the target's."""
        if self._soft(outputs, targets):
            likeliest = Labels.of(jnp.argmax(targets, -1), self.number, None)
            known = jnp.where(jnp.isfinite(targets).all(), 1, jnp.nan)
            return {"accuracy": accuracy(outputs, likeliest) * known}
        return {"accuracy": accuracy(outputs, self._labels(targets))}

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
    metrics are `accuracy`, the fraction of tokens with the largest output, and `bits`, the loss in
    bits per token: loss / log 2. All are means over the positions whose target is not `ignore`.
    Targets outside of the vocabulary are treated as by `Classification`.

    Args:
        vocabulary: the number of tokens, at least 2.
        ignore: the target of positions that are excluded from loss and metrics, such as padding;
            -100 by default, None excludes none.

    Raises:
        ValueError: fewer than 2 tokens.

    Reference: Shannon, Prediction and entropy of printed English, 1951.

    >>> import jax.numpy as jnp
    >>> task = LanguageModel(32)
    >>> outputs, targets = jnp.zeros((2, 5, 32)), jnp.zeros((2, 5), int)
    >>> round(float(task.metrics(outputs, targets)["bits"]), 5)  # log2 32
    5.0
    """

    vocabulary: int
    ignore: int | None = -100
    directions = {"accuracy": "maximize", "bits": "minimize"}  # noqa: RUF012, no field

    def __post_init__(self) -> None:
        """Check the number of tokens and the ignored label."""
        check_ignore(self)
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

    @property
    def ignored(self) -> int | None:
        """The target that is ignored."""
        return self.ignore

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Mean of -log softmax(outputs)[target]."""
        return cross_entropy(self._wide(outputs, targets, labels=True), self._labels(targets))

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """Token accuracy, and the loss in bits."""
        return {
            "accuracy": accuracy(outputs, self._labels(targets)),
            "bits": self(outputs, targets) / math.log(2),
        }

    def predict(self, outputs: Any) -> jax.Array:
        """Softmax: a probability for each token."""
        return jax.nn.softmax(outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)))


class Binary(Task):
    """Yes or no: sigmoid cross entropy of one output.

    Outputs are logits (..., 1), targets integers 0 or 1 (...), predictions the probability of 1
    (...). The metric is `accuracy`. Targets other than 0 and 1 are treated as labels out of range
    by `Classification`.

    Args:
        ignore: the target of examples that are excluded from loss and metrics; -100 by default,
            None excludes none.

    >>> import jax.numpy as jnp
    >>> Binary().predict(jnp.zeros((1, 1))).tolist()
    [0.5]
    """

    ignore: int | None = -100

    directions = {"accuracy": "maximize"}  # noqa: RUF012, no field
    _several = "optax.sigmoid_binary_cross_entropy(outputs, targets).mean()"

    def __post_init__(self) -> None:
        """Check the ignored label."""
        check_ignore(self)

    @property
    def outputs(self) -> int:
        """One logit."""
        return 1

    @property
    def ignored(self) -> int | None:
        """The target that is ignored."""
        return self.ignore

    @property
    def classes(self) -> int:
        """Two: no and yes."""
        return 2

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        """Mean of log(1 + exp(-s z)) for logit z and s = 1 or -1."""
        logits, labels = self._wide(outputs, targets, labels=True), self._labels(targets)
        logits = labels.select(logits)[..., 0]
        return labels.mean(
            optax.sigmoid_binary_cross_entropy(logits, labels.number.astype(logits.dtype))
        )

    def metrics(self, outputs: Any, targets: Any) -> Metrics:
        """The fraction of examples on the right side of 0."""
        labels = self._labels(targets)
        correct = (outputs[..., 0] > 0) == (labels.number == 1)
        return {"accuracy": labels.mean(correct.astype(jnp.float32))}

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

    _several = "((outputs - targets) ** 2).mean()"
    directions = {"mae": "minimize", "rmse": "minimize", "r2": "maximize"}  # noqa: RUF012, no field

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


def name_of(loss: Any) -> str:
    """A task as the code that builds it, a function by its name."""
    return repr(loss) if isinstance(loss, Task) else getattr(loss, "__name__", repr(loss))


def losses_and_metrics(task: Loss, outputs: Any, targets: Any) -> tuple[jax.Array, Metrics]:
    """The loss, and all metrics with the loss among them; ValueError for a loss with axes."""
    loss = task(outputs, targets)
    if isinstance(loss, tuple | list | dict):
        raise TypeError(
            f"a loss is a scalar, got {describe(loss)} from {name_of(task)}; to report metrics, "
            "write a train.Task whose __call__ returns the loss and whose `metrics` returns them"
        )
    if jnp.shape(loss) != ():
        raise ValueError(
            f"a loss is a scalar, got {describe(loss)} from {name_of(task)}; write "
            "loss(outputs, targets).mean()"
        )
    if jnp.iscomplexobj(loss):
        raise TypeError(
            f"a loss is a real number, got {describe(loss)} from {name_of(task)}; write its real "
            "part or its absolute value"
        )
    more = task.metrics(outputs, targets) if isinstance(task, Task) else {}
    for name, value in more.items():
        if name in RESERVED or name.removeprefix("validation_") in {"loss", *more} - {name}:
            raise ValueError(
                f"{task!r} reports a metric {name!r}, but that is the name of another number in "
                "the records of a run; return it under another name"
            )
        if jnp.shape(value) != ():
            raise ValueError(
                f"a metric is a scalar, but {name!r} of {task!r} is {describe(value)}; write its "
                "mean, or one metric per element"
            )
    return loss, {"loss": loss, **more}
