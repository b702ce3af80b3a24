"""Divergence: stop or roll back a run whose loss is no longer finite."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ...inspect.nonfinite import first_nonfinite
from ...keys import kept_key, kept_words
from ...validation import natural
from ..combining import Tally
from ..gradient_step import step_key
from ..metrics import value_of
from ..minimize import Minimize
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
    continues from it with the batches after the failed steps. The failed steps are taken once more,
    one by one, to report which one gave the first value that is not finite, and in a
    `train.Minimize` the layer or the gradient. Random keys in the state are folded
    with the attempt, so that a program without data does not repeat them.

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

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """Return the hook of this run."""
        yield _Watching(self, run)

    def begin(self, state: Any) -> Any:
        """Return the number of failures in a row, a copy of the state, and its step."""
        return {"failed": 0, "good": owned(state) if self.retries else None, "step": 0}


class _Watching(Hook):
    """The opened `Divergence` of a run."""

    def __init__(self, settings: Divergence, run: Any) -> None:
        self._settings, self._run = settings, run
        self._position: tuple[int, Any] = (run.step, run.position)
        self.check = settings.check  # type: ignore[method-assign]

    def begin(self, state: Any) -> Any:
        """As `Divergence.begin`."""
        return self._settings.begin(state) | {"step": self._run.step}

    def see(self, memory: Any, event: Event) -> tuple[Any, RollBack | None]:
        """Keep the state, go back to the last one, or raise."""
        if not event.is_record:
            return memory, None
        retries, name = self._settings.retries, self._settings.metric or "loss"
        value = event.metrics.get(name, 0.0)
        begun, self._position = self._position, (event.step, self._run.loader.position())
        if math.isfinite(value):
            for leaf in jax.tree.leaves(memory["good"]):
                leaf.delete()  # before it is copied, so that there are not three
            good = owned(event.state) if retries else None
            return {"failed": 0, "good": good, "step": event.step}, None
        cause = self._cause(memory, event, name, begun) if retries else _cause_of(event.state)
        failed = memory["failed"] + 1
        if failed > retries:
            raise Diverged(
                f"{name} is {value} after step {event.step:,}: the run diverged; {cause}. "
                "Write a smaller learning rate, clip the gradients by "
                "optax.clip_by_global_norm(1.0), or write hooks=[train.Divergence(retries=3)]",
                [dict(record) for record in event.history[:-1]],
            )
        warn(
            f"{name} is {value} after step {event.step:,} ({cause}): rolled back to the "
            f"state of the last record, attempt {failed} of {retries}"
        )
        action = RollBack(_with_other_keys(memory["good"], failed))
        return memory | {"failed": failed, "step": event.step}, action

    def _cause(self, memory: Any, event: Event, metric: str, begun: tuple[int, Any]) -> str:
        """Return where the first value that is not finite came from: take the steps once more."""
        run, step, failed = self._run, memory["step"], memory["failed"]

        def again() -> Any:
            position = begun[1] if begun[0] == step else None
            return run.loader.again(step, event.step - step, position)

        if again() is None:
            return _cause_of(event.state)
        event.state = run.state = None  # the steps below need its memory
        good = _with_other_keys(memory["good"], failed) if failed else memory["good"]
        finite = {path for path, leaf in by_path(good) if _is_finite(leaf)}
        state = owned(good)
        for number, batches in enumerate(again(), step):
            state, metrics = run.steps(state, number, batches)
            tally = Tally()
            tally.add(metrics, batches.rows)
            is_metric = not math.isfinite(tally.metrics().get(metric, 0.0))
            bad = (p for p, leaf in by_path(state) if p in finite and not _is_finite(leaf))
            after = next(bad, None)
            if is_metric or after is not None:
                place = f"the metric {metric!r}" if after is None else f"{after} of the state"
                del state, bad
                before = owned(good)  # again from there, so that there are two states, not three
                for earlier, given in zip(range(step, number), again(), strict=False):
                    before, _ = run.steps(before, earlier, given)
                batch = run.steps.batch(batches)
                place = _inside(run.program, before, batch, is_metric) or place
                return f"the first value that is not finite came in step {number + 1:,}, at {place}"
        return f"none of the steps {step + 1:,} to {event.step:,} fails when taken once more"


def _inside(program: Any, before: Any, batch: Any, is_metric: bool) -> str | None:
    """Return the layer, loss, or gradient of a `Minimize` that is not finite; None if unknown."""
    kind, base = type(program), Minimize
    is_own = isinstance(program, base) and (kind.step, kind.loss) == (base.step, base.loss)
    if not is_own or not isinstance(before, TrainState):
        return None
    objective, key = program.layer(), step_key(before)
    given = {"state": before.state, "key": key, "train": True}
    given |= program.named_inputs(before.step)
    layer = first_nonfinite(objective, before.params, batch, **given)
    if layer is not None:
        return "the loss, of outputs that are finite" if layer == "output" else layer
    if is_metric:
        return None

    def loss(params: Any) -> Any:
        more = {"key": key, "step": before.step, "train": True}
        (loss, _), _ = program.loss(params, before.state, batch, **more)
        return value_of(loss)

    gradient = _first(jax.jit(jax.grad(loss))(before.params))
    return None if gradient is None else f"the gradient of {gradient}"


def _with_other_keys(state: Any, attempt: int) -> Any:
    """Return the state with each random key in it folded with the number of the attempt.

    The key words of a `TrainState` are folded too.
    """

    def leaf(item: Any) -> Any:
        if isinstance(item, TrainState):
            key = jax.random.fold_in(kept_key(item.key), attempt)
            return TrainState(*jax.tree.map(leaf, item[:-1]), kept_words(key))
        return jax.random.fold_in(item, attempt) if is_key(item) else item

    return jax.tree.map(leaf, state, is_leaf=lambda item: isinstance(item, TrainState))


def _cause_of(state: Any) -> str:
    """Return which array of a state is the first that is not finite, in words."""
    path = _first(state)
    if path is None:
        return "all arrays of the state are finite"
    return f"{path} is the first array that is not finite"


def _first(tree: Any) -> str | None:
    """Return the path of the first array that is not finite."""
    return next((path for path, leaf in by_path(tree) if not _is_finite(leaf)), None)


def _is_finite(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(jnp.isfinite(leaf).all())
