"""Evaluation and prediction: a trained network over a whole data set, in pieces."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.layer import Layer
from ..data import check
from ..data.source import Source
from ..explain.text import brief, describe
from .ema import evaluation_params
from .labels import check_labels, label_range
from .state import Trained
from .step import remembered
from .task import Loss, Metrics, Task, losses_and_metrics
from .weights import check_trained


def evaluate(
    net: Layer, task: Loss, trained: Trained, data: Any, *, batch_size: int = 1024
) -> dict[str, float]:
    """The loss and metrics over all examples of `data = (x, y)`, in inference mode.

    Each is the mean over the examples, however they fall into batches. A `TrainState` is evaluated
    with `train.evaluation_params`. Raises ValueError or TypeError for data that cannot be
    evaluated: no rows, NaN, labels out of range.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> net, x = nn.Dense(1), jnp.ones((5, 2))
    >>> ts = train.TrainState.create(net, optax.sgd(0.1), jax.random.key(0), x)
    >>> sorted(train.evaluate(net, train.Regression(), ts, (x, jnp.zeros(5))))
    ['loss', 'mae']
    """
    check_trained(trained, "evaluate")
    x, y = pair_of(data, "data")
    check(x, y, name="data", **label_range(task))
    check_labels(task, y, "data")
    size = check_count(batch_size, "batch_size")
    metrics = compiled_evaluation(net, task)(
        evaluation_params(trained), trained.state, jnp.asarray(x), jnp.asarray(y), size
    )
    return {name: float(value) for name, value in metrics.items()}


def predict(
    net: Layer, task: Task, trained: Trained, x: Any, *, batch_size: int = 1024
) -> jax.Array:
    """The task's predictions for all examples of `x`: probabilities, or numbers.

    A `TrainState` predicts with `train.evaluation_params`.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> net, x = nn.Dense(3), jnp.ones((5, 2))
    >>> ts = train.TrainState.create(net, optax.sgd(0.1), jax.random.key(0), x)
    >>> train.predict(net, train.Classification(3), ts, x).shape
    (5, 3)
    """
    if not isinstance(task, Task):
        raise TypeError(
            f"predict needs a train.Task, which maps outputs to predictions; got {task!r}; write "
            "net.apply(params, x) for the outputs themselves"
        )
    check_trained(trained, "predict")
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"predict wants at least one example, got {describe(x)}")
    size = check_count(batch_size, "batch_size")
    return _compiled_prediction(net, task)(evaluation_params(trained), trained.state, x, size)


def pair_of(data: Any, name: str) -> tuple[Any, Any]:
    """The arrays (x, y) of `data`; TypeError for anything else, with what to write instead."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        kinds = "a pair (x, y) of arrays"
        if name == "training data":
            kinds += ", or a data.Source such as data.HostArrays(x, y)"
        raise TypeError(f"{name}: wanted {kinds}, got {brief(data)}{_advice(data)}")
    if data[1] is None:
        raise TypeError(f"{name}: y is None; {_NO_TARGETS}")
    return data[0], data[1]


_NO_TARGETS = (
    "if the inputs are the targets too, write (x, x); if there are none, write any array with a "
    "row for each example, and a loss that does not read it"
)


def _advice(data: Any) -> str:
    if isinstance(data, Source):
        return "; a data.Source is for training only: write the arrays (x, y) to evaluate on"
    if isinstance(data, dict):
        return "; for several sets, call train.evaluate on each, in fit by callbacks="
    one = hasattr(data, "shape") or (isinstance(data, tuple | list) and len(data) == 1)
    return f"; {_NO_TARGETS}" if one else ""


def check_count(number: Any, name: str, least: int = 1) -> int:
    """The number, an int of at least `least`; ValueError for anything else."""
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{name} is an int >= {least}, got {number!r}")
    return number


def pure_evaluation(
    net: Layer, task: Loss, params: Any, state: Any, x: jax.Array, y: jax.Array, size: int
) -> Metrics:
    """Mean metrics over all examples, in pieces of `size`, as a plain pure function."""

    def piece(x: jax.Array, y: jax.Array) -> Metrics:
        outputs, _ = net.apply(params, x, state=state)
        _, metrics = losses_and_metrics(task, outputs, y)
        return {name: item * x.shape[0] for name, item in metrics.items()}

    sums = _in_pieces(piece, (x, y), size, join=lambda piles: jax.tree.map(jnp.sum, piles))
    totals: dict[str, Any] = {name: sum(parts) for name, parts in _transposed(sums).items()}
    return {name: total / x.shape[0] for name, total in totals.items()}


@remembered
def compiled_evaluation(net: Layer, task: Loss) -> Callable[..., Metrics]:
    """The jitted function `(params, state, x, y, batch_size)` that gives mean metrics."""
    return jax.jit(functools.partial(pure_evaluation, net, task), static_argnums=4)


@remembered
def _compiled_prediction(net: Layer, task: Task) -> Callable[..., jax.Array]:
    def run(params: Any, state: Any, x: jax.Array, size: int) -> Any:
        def piece(x: jax.Array) -> jax.Array:
            return task.predict(net.apply(params, x, state=state)[0])

        rows = _in_pieces(piece, (x,), size, join=lambda pile: pile.reshape(-1, *pile.shape[2:]))
        return jnp.concatenate(rows)

    return jax.jit(run, static_argnums=3)


def _in_pieces(
    piece: Callable[..., Any], arrays: tuple[jax.Array, ...], size: int, join: Callable[[Any], Any]
) -> list[Any]:
    """`piece` of every `size` rows, joined, and of the rows that are left, if any."""
    rows = arrays[0].shape[0]
    whole = rows - rows % size
    parts = []
    if whole:
        piles = tuple(a[:whole].reshape(-1, size, *a.shape[1:]) for a in arrays)
        parts.append(join(lax.map(lambda pile: piece(*pile), piles)))
    if whole < rows:
        parts.append(piece(*(a[whole:] for a in arrays)))
    return parts


def _transposed(parts: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [part[name] for part in parts] for name in parts[0]}
