"""The training loop: compiled steps, a record now and then, checkpoints, and when to stop.

It is a loop over pure functions, which can also be written by hand from the same parts. What a step
computes depends on the key, the step and the data alone, so a run that goes on repeats what it
would have done: the dispatches of a run end at the same steps whether it was interrupted or not.
"""

import contextlib
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..combine.precision import Precision
from ..core.layer import Layer
from ..explain.text import brief
from .agreement import Agreed, watching_peers
from .apply_if_finite import apply_if_finite
from .checkpoint import CheckpointFolder, Checkpoints, left
from .checkpoint_files import Progress
from .device import Meter
from .divergence import Diverged, Good, cause, told
from .ema import evaluation_params
from .evaluation import check_count, compiled_evaluation
from .every import Every, Moment, ends_of
from .feed import Augment, Steps, checked, feed_of
from .hooks.early_stopping import EarlyStopping
from .identity import identity
from .learning_rate import rate_at
from .logging import Logger, logged
from .placement import HERE, Placement
from .profile import Profile, tracing_of
from .signals import Asked, Interrupted, listening
from .state import TrainState
from .step import check_options, check_parts
from .tally import Tally
from .task import Loss

Record: TypeAlias = dict[str, float]
Policy: TypeAlias = Literal["stop", "skip", "roll back"]

# Of these a run tells other numbers each time; all else in a record follows from its key and data.
TIMINGS = ("seconds", "examples_per_second", "flops_per_second", "mfu", "device_bytes")
# How often in a row a run is rolled back before it counts as diverged.
PATIENCE = 3


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
    accumulate: int = 1,
    norms: str | None = None,
    precision: Precision | None = None,
    steps_per_dispatch: int | None = None,
    every: Every = Every(epochs=1),  # noqa: B008
    report: Callable[[Record], None] | None = None,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callable[[TrainState, Record], Any]] = (),
    stop: Callable[[Sequence[Record]], str | None] | None = None,
    on_divergence: Policy = "stop",
    checkpoints: Checkpoints | None = None,
    profile: Profile | None = None,
    start: TrainState | None = None,
    placement: Placement = HERE,
) -> tuple[TrainState, list[Record]]:
    """Train a network, and return its state and a history.

    Each epoch visits the rows in a new random order, in batches of `batch_size`; rows that do not
    fill a last batch wait for another epoch. It is a loop over the parts that `make_step` and
    `evaluate` are made of, which can also be written by hand.

    Args:
        net: the network; its forward takes x as its one input.
        task: a `Task`, or any function loss(outputs, targets) that gives a scalar.
        optimizer: an optax optimizer or a `train.Optimizer`.
        data: (x, y), arrays with one row an example, which stay on the device; or a `data.Source`,
            such as `data.HostArrays(x, y)`, which is read ahead of the training.
        key: the root of all random numbers: parameters, order, dropout, augmentation.
        validation: (x, y) to evaluate for each record, with `train.evaluation_params`.
        batch_size: rows a step.
        epochs: how many epochs the run has in all, those before `start` among them.
        augment: a pure function of (key, x) applied to each training batch; or one of (key, x, y)
            that gives both, such as `data.mixup`; `data.Augmentation` makes one of several.
        accumulate, norms, precision: as for `make_step`; `precision` is the validation's too.
        steps_per_dispatch: steps compiled into one program; by default a whole epoch of data on the
            device, and one of a source. With 1 there is no loop around the step, in which a CPU
            takes ten times as long for the gradients of convolutions.
        every: how often there is a record; there is one at the end too.
        report: called with each record.
        loggers: where the records go besides: `train.JsonLines("metrics.jsonl")`, say. When a run
            goes on, what they have of later steps is dropped.
        callbacks: plain functions called with the state and each record; the state is theirs until
            they return.
        stop: a pure function of the history that gives the reason to stop, or None:
            `train.EarlyStopping("validation_loss", patience=5)`.
        on_divergence: what is done where the loss is not finite at a record: "stop" raises
            `Diverged` and names the first value that is not finite; "skip" leaves out each step
            whose gradients are not finite; "roll back" goes back to the state of the last record
            and on with the batches after the failed ones, three times in a row at most.
        checkpoints: where and how often the run is saved. It resumes from the newest one there, if
            all arguments but `epochs` give the same numbers as those of the run that saved it.
            SIGINT and SIGTERM then end the dispatch, save, and raise `Interrupted`.
        profile: steps of which a trace is written for a profiler.
        start: a state to go on from, of a run with the same data, key and batch size.
        placement: where the arrays lie; `parallel.fit` gives that of a mesh.

    Returns:
        The final `TrainState`, and a list of records with `epoch`, `step`, the mean training
        metrics (`loss`, ...) since the record before, the `learning_rate` of the last step where a
        `train.Optimizer` has one, the metrics on the validation data (`validation_loss`, ...), and
        what the run took: `seconds` since it began,
        `examples_per_second` since the last record without the validation, and where the device
        tells them `flops_per_second`, `mfu` (of the device's peak) and `device_bytes`.

    Raises:
        ValueError, TypeError: data that cannot be trained on (no rows, NaN, labels out of range), a
            batch larger than the data, parts that do not fit together, checkpoints of another run.
        Diverged: the loss is not finite.
        Interrupted: a signal asked the run to stop.
        OSError: checkpoints cannot be kept there.
        RuntimeError: another process of the run died.

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
    if start is not None and not isinstance(start, TrainState):
        raise TypeError(
            f"start is a TrainState, got {brief(start)}; to start from given parameters write "
            "train.TrainState.create(net, optimizer, key, x)._replace(params=params)"
        )
    check_count(epochs, "epochs", least=0)
    if on_divergence not in ("stop", "skip", "roll back"):
        raise ValueError(
            f"on_divergence is {on_divergence!r}, wanted 'stop', 'skip' or 'roll back'"
        )
    check_options(accumulate, norms, precision)
    checkpoints = None if checkpoints is None else checkpoints.directed(task)
    stop = stop.directed(task) if isinstance(stop, EarlyStopping) else stop
    net = net if precision is None else dataclasses.replace(precision, inner=net)
    if on_divergence == "skip":
        optimizer = apply_if_finite(optimizer)
    options = {"accumulate": accumulate, "norms": norms}
    steps = Steps(net, task, optimizer, augment, placement, tuple(options.items()))
    feed = feed_of(data, steps, task, batch_size)
    at_once = feed.at_once
    if steps_per_dispatch is not None:
        at_once = check_count(steps_per_dispatch, "steps_per_dispatch")
    evaluate = None if validation is None else _evaluation(net, task, validation, placement)
    total = epochs * feed.steps_per_epoch
    ahead = ends_of(
        feed.steps_per_epoch,
        at_once,
        total,
        [every, *([] if checkpoints is None else [checkpoints.every])],
        () if profile is None else profile.ends,
    )
    folder = None
    with contextlib.ExitStack() as held:
        held.enter_context(watching_peers(lambda: _resume(folder)))
        held.callback(feed.close)
        if checkpoints is not None:
            parts = {"network": net, "task": task, "optimizer": optimizer, "augment": augment}
            numbers = {"batch_size": batch_size, **options, "every": every}
            numbers["steps_per_dispatch"] = at_once
            whole = identity(
                {**parts, "start": start}, {"data": data, "validation": validation}, key, numbers
            )
            folder = held.enter_context(CheckpointFolder(checkpoints, net, whole))
        asked = Asked() if folder is None else held.enter_context(listening())
        # A copy of what is given: the steps take its memory.
        ts = (
            placement.create(net, optimizer, key, feed.batch[0])
            if start is None
            else jax.tree.map(jnp.copy, start)
        )
        found = None if folder is None else folder.restore(ts)
        ts, progress = (ts, Progress([], {}, 0, None, 0.0)) if found is None else found
        history, done = list(progress.history), int(ts.step)
        if found is not None and done > total:
            raise ValueError(
                f"the run to resume has {done:,} steps behind it, and epochs={epochs} are "
                f"{total:,} steps: write epochs={-(-done // feed.steps_per_epoch)} or more, or "
                "another folder"
            )
        feed.begin(np.asarray(ts.key), done, progress.position, ahead)
        log = held.enter_context(logged(loggers, None if folder is None else done))
        tracing = held.enter_context(tracing_of(profile))
        clock = _clock(progress.seconds)
        agreed = Agreed(clock, asked)
        kept = "" if folder is None else str(folder.folder / str(folder.saved))
        tally = Tally(progress.sums, progress.count, kept)
        meter = Meter(net, task, optimizer, ts, feed.batch, batch_size)
        good = Good(ts, done, feed.position()) if on_divergence == "roll back" else None
        failures = 0
        recorded = saved = Moment(done, feed.steps_per_epoch, progress.seconds)
        reason = stop(history) if stop is not None and history else None
        while done < total and reason is None:
            end = ahead(done)
            tracing.at(done)
            ts, sums = feed.advance(ts, done, end - done)
            tally.add(sums, end - done)
            done = end
            tracing.at(done, ts)
            now = Moment(done, feed.steps_per_epoch, agreed.seconds())
            score = None
            if done == total or every.due(now, recorded):
                recorded = now
                means = tally.means()
                if not math.isfinite(means["loss"]):
                    why = cause(net, task, optimizer, augment, feed, good, ts, done, options)
                    failures += 1
                    if good is None or failures > PATIENCE:
                        raise Diverged(told(means["loss"], done, why), history)
                    warnings.warn(
                        f"{why}: rolled back to the state of the last record, and on with the "
                        f"batches after step {done:,}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    ts = good.back(done)
                    good = Good(ts, done, feed.position())
                else:
                    record: Record = {"epoch": -(-done // feed.steps_per_epoch), "step": done}
                    record |= means | rate_at(optimizer, done - 1)
                    timings = meter.read(done)
                    if evaluate is not None:
                        record |= evaluate(ts)
                    record |= {"seconds": clock(), **timings}
                    history.append(record)
                    log(record)
                    if report is not None:
                        report(record)
                    for callback in callbacks:
                        callback(ts, record)
                    meter.begin(done)
                    score = None if checkpoints is None else checkpoints.score(history)
                    reason = None if stop is None else stop(history)
                    failures = 0
                    if good is not None:
                        good = Good(ts, done, feed.position())
                tally = Tally()
            if folder is None or checkpoints is None:
                continue
            signalled = agreed.signal()
            ended = checkpoints.at_end and (done == total or reason is not None)
            stopped = signalled is not None
            if ended or stopped or score is not None or checkpoints.every.due(now, saved):
                saved = now
                if tally.is_finite():
                    progress = Progress(
                        list(history), tally.plain(), tally.count, feed.position(), clock()
                    )
                    folder.save(ts, progress, score)
            if signalled is not None and done < total and reason is None:
                folder.wait()
                raise Interrupted(left(folder, signalled, done, total), signalled)
    return ts, history


def _evaluation(
    net: Layer, task: Loss, validation: Any, placement: Placement
) -> Callable[[TrainState], dict[str, float]]:
    x, y = checked(task, validation, "validation data", placement)
    compiled = compiled_evaluation(net, task)

    def evaluate(ts: TrainState) -> dict[str, float]:
        metrics = compiled(evaluation_params(ts), ts.state, x, y, min(1024, x.shape[0]))
        return {f"validation_{name}": float(item) for name, item in metrics.items()}

    return evaluate


def _clock(seconds: float) -> Callable[[], float]:
    """The seconds that a run has gone on, those before it went on among them."""
    began = time.perf_counter() - seconds
    return lambda: time.perf_counter() - began


def _resume(folder: CheckpointFolder | None) -> str:
    """What a run whose other process died resumes from."""
    if folder is None or folder.saved is None:
        return ""
    return f"; they resume from the checkpoint after step {folder.saved:,} in {folder.folder}"
