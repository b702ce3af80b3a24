"""The training loop: epochs of compiled steps over data that stay on the device.

An epoch is one `lax.scan` over a table of row numbers; each step gathers its rows. The order of an
epoch is drawn on the host while the device works, and depends on the key and the epoch alone, so a
run that goes on repeats what it would have done.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.layer import Layer
from ..core.values import is_traced
from ..data import check
from .evaluation import check_count, compiled_evaluation
from .optimizer import as_pytree
from .state import TrainState
from .step import check_parts, pure_step, remembered, step_key
from .task import Loss, Metrics, Task

Record: TypeAlias = dict[str, float]
Augment: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def fit(
    net: Layer,
    task: Loss,
    optimizer: Any,
    data: Any,
    *,
    key: jax.Array,
    validation: Any = None,
    batch_size: int = 128,
    epochs: int = 10,
    augment: Augment | None = None,
    steps_per_dispatch: int | None = None,
    report: Callable[[Record], None] | None = None,
    start: TrainState | None = None,
) -> tuple[TrainState, list[Record]]:
    """Train a network on data that fit on the device, and return its state and a history.

    Each epoch visits the rows in a new random order, in batches of `batch_size`; rows that do not
    fill a last batch wait for another epoch. It is a loop over the parts that `make_step` and
    `evaluate` are made of, which can also be written by hand.

    Args:
        net: the network; its forward takes x as its one input.
        task: a `Task`, or any function loss(outputs, targets) that gives a scalar.
        optimizer: an optax optimizer or a `train.Optimizer`.
        data: (x, y), arrays with one row an example.
        key: the root of all random numbers: parameters, order, dropout, augmentation.
        validation: (x, y) to evaluate after each epoch.
        batch_size: rows a step.
        epochs: how many epochs the run has in all, those before `start` among them.
        augment: a pure function of (key, x) applied to each training batch.
        steps_per_dispatch: steps compiled into one program; a whole epoch by default. With 1 there
            is no loop around the step, in which a CPU takes ten times as long for the gradients of
            convolutions.
        report: called after each dispatch that ends an epoch with that epoch's record.
        start: a state to go on from, of a run with the same data, key and batch size.

    Returns:
        The final `TrainState`, and a list of records, one an epoch, with `epoch`, `step`, the mean
        training metrics (`loss`, ...), those on the validation data (`validation_loss`, ...), and
        `seconds` since the call.

    Raises:
        ValueError, TypeError: data that cannot be trained on (no rows, NaN, labels out of range), a
        batch larger than the data, parts that do not fit together.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> ts, history = train.fit(nn.Dense(1), train.Regression(), optax.adam(0.1), (x, 3 * x[:, 0]),
    ...                         batch_size=16, epochs=50, key=jax.random.key(0))
    >>> history[-1]["loss"] < 1e-3
    True
    """
    check_parts(net, task, optimizer)
    x, y = _checked(task, data, "training data")
    size = check_count(batch_size, "batch_size")
    check_count(epochs, "epochs", least=0)
    if size > x.shape[0]:
        raise ValueError(
            f"batch_size is {size}, but the training data have {x.shape[0]} rows; write "
            f"batch_size={x.shape[0]} or less"
        )
    steps = x.shape[0] // size
    at_once = steps
    if steps_per_dispatch is not None:
        at_once = check_count(steps_per_dispatch, "steps_per_dispatch")
    held = None if validation is None else _checked(task, validation, "validation data")
    if start is None:
        ts = TrainState.create(
            net, optimizer, key, jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        )
    else:
        ts = jax.tree.map(jnp.copy, start)  # the steps take the memory of what they are given
    numbers, structure = jax.tree.flatten(as_pytree(optimizer))
    run = functools.partial(_compiled_steps(net, task, structure, augment), numbers)
    evaluation = None if held is None else compiled_evaluation(net, task)
    history: list[Record] = []
    began = time.perf_counter()
    done = int(ts.step)
    root = np.asarray(ts.key)  # on the host, once
    order = epoch_order(root, done // steps, x.shape[0])
    while done < epochs * steps:
        epoch, position = divmod(done, steps)
        batches = order[: steps * size].reshape(steps, size)[position:]
        sums: Metrics | None = None
        for piece in _pieces(batches, at_once):
            ts, new = run(ts, x, y, piece)
            sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
        # The device is at work; the next order is drawn meanwhile.
        order = epoch_order(root, epoch + 1, x.shape[0])
        count = len(batches)
        done += count
        record: Record = {"epoch": epoch + 1, "step": done}
        record |= {name: float(total) / count for name, total in (sums or {}).items()}
        if evaluation is not None and held is not None:
            metrics = evaluation(ts.params, ts.state, *held, min(1024, held[0].shape[0]))
            record |= {f"validation_{name}": float(item) for name, item in metrics.items()}
        record["seconds"] = time.perf_counter() - began
        history.append(record)
        if report is not None:
            report(record)
    return ts, history


def epoch_order(key: Any, epoch: int, rows: int) -> np.ndarray[Any, Any]:
    """The order in which an epoch visits the rows, int32 (rows,): a permutation.

    It sorts the raw words of a Philox generator keyed by `key`, a random key or its words as a
    numpy array, and `epoch`, so it is the same wherever and whenever it is drawn.

    >>> import jax
    >>> sorted(epoch_order(jax.random.key(0), 3, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    if not isinstance(key, np.ndarray):
        key = np.asarray(jax.random.key_data(paths.as_key(key)))
    words = key.astype(np.uint64)
    seed = [int(words[::2].sum()) % 2**64, int(words[1::2].sum()) % 2**64]
    generator = np.random.Philox(key=np.array(seed, np.uint64), counter=[0, 0, 0, epoch])
    return np.argsort(generator.random_raw(rows), kind="stable").astype(np.int32)


def _pieces(order: np.ndarray[Any, Any], size: int) -> Iterator[np.ndarray[Any, Any]]:
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def _checked(task: Loss, data: Any, name: str) -> tuple[jax.Array, jax.Array]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{name}: wanted a pair (x, y) of arrays, got {type(data).__name__}")
    x, y = data
    if not is_traced(x) and not is_traced(y):
        check(x, y, classes=task.classes if isinstance(task, Task) else None, name=name)
    return jnp.asarray(x), jnp.asarray(y)


@remembered
def _compiled_steps(
    net: Layer, task: Loss, structure: Any, augment: Augment | None
) -> Callable[..., Any]:
    """The jitted function `(numbers, ts, x, y, order)` of `pure_steps`."""

    def run(numbers: Any, ts: TrainState, x: Any, y: Any, order: Any) -> tuple[TrainState, Metrics]:
        return pure_steps(
            net, task, jax.tree.unflatten(structure, numbers), augment, ts, x, y, order
        )

    return jax.jit(run, donate_argnums=1)


def pure_steps(
    net: Layer,
    task: Loss,
    optimizer: Any,
    augment: Augment | None,
    ts: TrainState,
    x: jax.Array,
    y: jax.Array,
    order: jax.Array,
) -> tuple[TrainState, Metrics]:
    """A step for each row of `order`, int32 (steps, batch), on those rows of the data.

    Returns the state after them, and the sum of each metric over them: a plain pure function.
    """

    def step(ts: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        batch = x[rows]
        if augment is not None:
            # Beside the key of the step, which the network has.
            batch = augment(jax.random.fold_in(step_key(ts), 1), batch)
        return pure_step(net, task, optimizer, ts, (batch, y[rows]))

    if order.shape[0] == 1:  # no loop, in which XLA's convolutions are ten times slower on a CPU
        return step(ts, order[0])
    ts, metrics = lax.scan(step, ts, order)
    return ts, jax.tree.map(jnp.sum, metrics)
