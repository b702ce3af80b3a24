"""What ends a run early: hooks, a signal, or the death of another process.

    EarlyStopping, Divergence    hooks that stop, roll back, or raise
    Asked, Agreed                a signal that asks the run to stop, known to all processes
    PeerLost                     another process died

All processes of a run have to act on a signal, and on the time, at the same step.
"""

import contextlib
import dataclasses
import math
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ...core.values import Value
from ...data.rows import leaves_by_path
from ...keys import kept_key, kept_words
from ...validation import natural, number, positive
from ..metrics import badness
from ..program import TrainState, is_key, owned
from ..record import Event
from . import MAXIMIZE, Hook, RollBack, Stop, check_metric, is_maximized, warn


class EarlyStopping(Value, Hook):
    """Stop a run when a metric has not improved for `patience` records.

    A value that is not finite never counts as an improvement.

    Args:
        metric: Name of the metric in the records. Default: "validation_loss".
        patience: Number of records without an improvement, at least 1. Default: 5.
        margin: Minimum change that counts as an improvement, at least 0. Default: 0.
        maximize: Whether a larger value is better, as for an accuracy. Default: None, as declared
            by the program.

    Raises:
        TypeError, ValueError: An argument is out of range. Before the first step: the run does not
            have the metric, or its direction is unknown.

    Reference: Prechelt, Early stopping, but when?, 1998.

    >>> EarlyStopping("validation_loss", patience=3)
    EarlyStopping(patience=3)
    """

    metric: str = "validation_loss"
    patience: Annotated[int, positive] = 5
    margin: Annotated[float, number(0)] = 0.0
    maximize: Annotated[bool | None, MAXIMIZE] = None

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run does not have, or that has no direction."""
        is_maximized(self.metric, run, self.maximize, "EarlyStopping({!r})")

    def begin(self, state: Any) -> dict[str, Any]:
        """Return the best score, smaller for better, and the records without a better one."""
        return {"best": math.inf, "waited": 0}

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | None]:
        """Compare the metric with the best one, and stop after `patience` records."""
        maximize = event.directions[self.metric] if self.maximize is None else self.maximize
        score, best = badness(event.metrics[self.metric], maximize), memory["best"]
        if score < best - self.margin:
            return {"best": score, "waited": 0}, None
        memory = {"best": best, "waited": memory["waited"] + 1}
        if memory["waited"] < self.patience:
            return memory, None
        better = f"become better than {-best if maximize else best:.4g}"
        failure = better if best < math.inf else "been finite"
        return memory, Stop(f"{self.metric} has not {failure} for {memory['waited']} records")


class Diverged(ValueError):
    """Raised if a metric of a run, such as its loss, is not finite.

    Args:
        message: The step, the source of the first value that is not finite, and the code to write.
        history: The records before the failure.
    """

    def __init__(self, message: str, history: list[dict[str, float]]) -> None:
        super().__init__(message)
        self.history = history


@dataclasses.dataclass(frozen=True)
class Divergence(Hook):
    """Raise `train.Diverged`, after up to `retries` rollbacks, if a metric is not finite.

    If `retries` > 0, the hook keeps the state of the last record whose metric was finite. After a
    failure, the run continues from this state with the batches that follow the failed steps. The
    number of the attempt is folded into random keys in the state, so that a program without data
    does not repeat the failed steps. The error names the first array of the state that is not
    finite. Use `inspect.first_nonfinite` to find the layer that produces such a value for a batch.

    Args:
        metric: Name of the metric. None means the loss if the program has one. Default: "loss".
        retries: Maximum number of consecutive rollbacks. If it is greater than 0, a second state is
            kept in memory. Default: 0.

    >>> Divergence(retries=3)
    Divergence(metric='loss', retries=3)
    """

    metric: str | None = "loss"
    retries: Annotated[int, natural] = 0

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run does not have."""
        if self.metric is not None:
            check_metric(self.metric, run, "Divergence({!r})")

    def begin(self, state: Any) -> Any:
        """Return the number of failures in a row, and a copy of the state."""
        return {"failed": 0, "good": owned(state) if self.retries else None}

    def see(self, memory: Any, event: Event) -> tuple[Any, RollBack | None]:
        """Keep the state, go back to the last one, or raise."""
        if not event.is_record:
            return memory, None
        name, good, failed = self.metric or "loss", memory["good"], memory["failed"] + 1
        value = event.metrics.get(name, 0.0)
        if math.isfinite(value):
            for leaf in jax.tree.leaves(good):
                leaf.delete()  # before it is copied, so that there are not three
            return self.begin(event.state), None
        leaves = leaves_by_path(event.state).items()
        bad = (path for path, leaf in leaves if not _is_finite(leaf))
        found = f"{next(bad, 'no array')} of the state is the first array that is not finite"
        if failed > self.retries:
            raise Diverged(
                f"{name} is {value} after step {event.step:,}: the run diverged; {found}. "
                "Write a smaller learning rate, clip the gradients by "
                "optax.clip_by_global_norm(1.0), or write hooks=[train.Divergence(retries=3)]",
                [dict(record) for record in event.history[:-1]],
            )
        warn(
            f"{name} is {value} after step {event.step:,} ({found}): rolled back to the "
            f"state of the last record, attempt {failed} of {self.retries}"
        )
        return {"failed": failed, "good": good}, RollBack(_with_other_keys(good, failed))


def _with_other_keys(state: Any, attempt: int) -> Any:
    """Return the state with each random key in it folded with the number of the attempt.

    The key words of a `TrainState` are folded too.
    """

    def leaf(item: Any) -> Any:
        if isinstance(item, TrainState):
            key = jax.random.fold_in(kept_key(item.key), attempt)
            params, state, opt_state, step = jax.tree.map(leaf, item[:-1])
            return TrainState(params, state, opt_state, step, kept_words(key))
        return jax.random.fold_in(item, attempt) if is_key(item) else item

    return jax.tree.map(leaf, state, is_leaf=lambda item: isinstance(item, TrainState))


def _is_finite(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(jnp.isfinite(leaf).all())


# What the libraries that connect processes raise if one does not answer: Gloo on CPUs, NCCL on
# GPUs, and the service that JAX starts in the first process.
_LOST = re.compile(
    r"gloo \w+ failed|gloo.*(connection|peer|timed? ?out)|"
    r"nccl.*(remote|peer|connection|socket|abort|timed? ?out)|"
    r"coordination ?service|heartbeat timeout|tasks? (is|are) unhealthy|barrier (failed|timed out)",
    re.IGNORECASE | re.DOTALL,
)


class Interrupted(KeyboardInterrupt):
    """Raised after a complete step if a signal asked the run to stop.

    Args:
        message: One line with the step at which the run stopped, and how to resume it.
        number: The number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Asked:
    """The number of the received signal, or None."""

    number: int | None = None


@contextlib.contextmanager
def listening(asked: Asked) -> Iterator[None]:
    """Record the first SIGINT or SIGTERM in the context; a second one has its usual effect.

    Only the main thread of a process can listen; in other threads nothing is recorded.

    Args:
        asked: Records the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def note(kind: int, frame: object) -> None:
        asked.number = kind
        restore()

    for kind in before:
        signal.signal(kind, note)
    try:
        yield
    finally:
        restore()


class Agreed:
    """The time, and the received signal or None, equal in all processes of a run.

    If one process acts because of either, all have to do so at the same step. They exchange both
    at every fifth dispatch, since that waits for the device.

    Args:
        clock: Returns the time of this process, in seconds.
        asked: The signal of this process.
    """

    def __init__(self, clock: Callable[[], float], asked: Asked) -> None:
        self._clock, self._asked, self._count = clock, asked, 0
        self._last: tuple[float, int | None] = 0.0, None

    def __call__(self) -> tuple[float, int | None]:
        """Return the time at the end of a dispatch, and the number of the signal."""
        if jax.process_count() == 1:
            return self._clock(), self._asked.number
        self._count += 1
        if self._count % 5 == 0:
            from jax.experimental.multihost_utils import process_allgather

            own = np.array([self._clock(), self._asked.number or 0], np.float32)
            every = np.asarray(process_allgather(own))
            self._last = float(every[0, 0]), int(every[:, 1].max()) or None
        return self._last


class PeerLost(RuntimeError):
    """Another process of the run died, so that this one cannot continue."""


def is_peer_lost(error: BaseException) -> bool:
    """Return whether an error in one of several processes means that another does not answer.

    >>> is_peer_lost(ValueError("Gloo AllReduce failed: Connection closed by peer"))  # alone
    False
    """
    if isinstance(error, PeerLost):
        return True
    library = isinstance(error, RuntimeError | ValueError)  # what JAX raises for XLA's errors
    return library and jax.process_count() > 1 and _LOST.search(str(error)) is not None


def peer_lost(error: BaseException, resume: str = "") -> PeerLost:
    """Return the error as one line: what happened, the cause, and how to resume."""
    if isinstance(error, PeerLost):
        return error
    here, count = jax.process_index(), jax.process_count()
    cause = " ".join(str(error).split())
    return PeerLost(
        f"another process of this run died, and process {here} of {count} cannot continue without "
        f"it ({cause[:200]}{'...' * (len(cause) > 200)}): see what the other processes printed, "
        f"and start all {count} again{resume}"
    )


@contextlib.contextmanager
def watching_peers(resume: Callable[[], str]) -> Iterator[None]:
    """Raise PeerLost, one line, for the errors of libraries that another process caused."""
    try:
        yield
    except Exception as error:
        if not is_peer_lost(error):
            raise
        raise peer_lost(error, resume()) from None
