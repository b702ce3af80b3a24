"""Divergence: what is done about a loss that is no longer finite."""

import dataclasses
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from ...core import paths
from ...core.signatures import suggestion
from ..divergence import Diverged
from ..evaluation import check_count
from ..event import Event
from ..state import TrainState, is_key
from .hook import Hook, RollBack


@dataclasses.dataclass(frozen=True)
class Divergence(Hook):
    """Raise `train.Diverged` if a metric is not finite at a record, or roll back a few times first.

    With `retries`, the state of the last record whose metric was finite is kept, and the run
    continues from it with the batches after the failed steps. Random keys in the state are folded
    with the attempt, so that a program without data does not repeat them.

    Args:
        metric: the metric, "loss" by default; None is the loss if the program has one.
        retries: how many times in a row the run is rolled back, 0 by default. More than 0 needs
            memory for a second state.

    >>> Divergence(retries=3)
    Divergence(metric='loss', retries=3)
    """

    metric: str | None = "loss"
    retries: int = 0

    def __post_init__(self) -> None:
        """Check the number."""
        check_count(self.retries, "Divergence.retries", least=0)

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run has not."""
        if self.metric is not None and self.metric not in run.names:
            raise ValueError(
                f"Divergence watches {self.metric!r}, which is not among the metrics; "
                f"{suggestion(self.metric, run.names)}"
            )

    def begin(self, state: Any) -> Any:
        """The number of failures in a row, and a copy of the state."""
        return {"failed": 0, "good": self._copy(state)}

    def see(self, memory: Any, event: Event) -> tuple[Any, RollBack | None]:
        """Keep the state, go back to the last one, or raise."""
        name = "loss" if self.metric is None else self.metric
        value = event.metrics[name] if name in event.run.names else 0.0
        if math.isfinite(value):
            return {"failed": 0, "good": self._copy(event.state)}, None
        failed = memory["failed"] + 1
        cause = cause_of(event.state)
        if failed > self.retries:
            raise Diverged(
                f"{name} is {value} after step {event.step:,}: the run diverged; {cause}. "
                "Write a smaller learning rate, clip the gradients by "
                "optax.clip_by_global_norm(1.0), or write hooks=[train.Divergence(retries=3)]",
                [dict(record) for record in event.history[:-1]],
            )
        warnings.warn(
            f"{name} is {value} after step {event.step:,} ({cause}): rolled back to the "
            f"state of the last record, attempt {failed} of {self.retries}",
            RuntimeWarning,
            stacklevel=2,
        )
        return memory | {"failed": failed}, RollBack(with_other_keys(memory["good"], failed))

    def _copy(self, state: Any) -> Any:
        return jax.tree.map(jnp.copy, state) if self.retries else None


def with_other_keys(state: Any, attempt: int) -> Any:
    """The state with each random key in it folded with the attempt.

    Args:
        state: any pytree; also the key words of a `TrainState` in it are folded.
        attempt: the number of the attempt, from 1.
    """

    def leaf(item: Any) -> Any:
        if isinstance(item, TrainState):
            key = jax.random.fold_in(paths.kept_key(item.key), attempt)
            moved: Any = jax.tree.map(leaf, dict(enumerate(item[:-1])))
            return TrainState(moved[0], moved[1], moved[2], moved[3], paths.kept_words(key))
        return jax.random.fold_in(item, attempt) if is_key(item) else item

    return jax.tree.map(leaf, state, is_leaf=lambda item: isinstance(item, TrainState))


def cause_of(state: Any) -> str:
    """The first array of a state that is not finite, in words."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all()):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            return f"{where} is the first array that is not finite"
    return "all arrays of the state are finite"
