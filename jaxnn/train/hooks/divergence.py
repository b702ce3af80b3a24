"""Divergence: stop or roll back a run whose loss is no longer finite."""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ...keys import kept_key, kept_words
from ...validation import natural
from ..record import Event
from ..state import TrainState, by_path, is_key, owned
from .hook import Hook, RollBack, check_metric, warn


class Diverged(ValueError):
    """A metric of a run, such as its loss, is not a finite number.

    Args:
        message: After which step, where the first such value came from, and what to write.
        history: The records before.
    """

    def __init__(self, message: str, history: list[dict[str, float]]) -> None:
        super().__init__(message)
        self.history = history


@dataclasses.dataclass(frozen=True)
class Divergence(Hook):
    """Raise `train.Diverged` if a metric is not finite at a record, or roll back a few times first.

    With `retries`, the state of the last record whose metric was finite is kept, and the run
    continues from it with the batches after the failed steps. Random keys in the state are folded
    with the attempt, so that a program without data does not repeat the failed steps. The error
    names the first array of the state that is not finite; `inspect.first_nonfinite` finds the layer
    that gives such a value for a batch.

    Args:
        metric: The metric, "loss" by default; None is the loss if the program has one.
        retries: How many times in a row the run is rolled back, 0 by default. More than 0 needs
            memory for a second state.

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
        bad = (path for path, leaf in by_path(event.state) if not _is_finite(leaf))
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
