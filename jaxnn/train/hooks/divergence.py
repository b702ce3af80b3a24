"""Divergence: stop or roll back a run whose loss is no longer finite."""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ...inspect.nonfinite import first_nonfinite
from ...keys import kept_key, kept_words
from ..combining import Tally
from ..directions import check_metric
from ..evaluation import check_count
from ..event import Event
from ..gradient_step import step_key
from ..metrics import value_of
from ..minimize import Minimize
from ..state import TrainState, by_path, is_key, owned
from .hook import Hook, RollBack


class Diverged(ValueError):
    """A metric of a run, such as its loss, is not a finite number.

    Args:
        message: after which step, where the first such value came from, and what to write.
        history: the records before.
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
        """Raise ValueError for a metric that the run does not have."""
        if self.metric is not None:
            check_metric(self.metric, run.names, "Divergence watches")

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """The hook of this run."""
        yield _Watching(self, run)

    def begin(self, state: Any) -> Any:
        """The number of failures in a row, a copy of the state, and its step."""
        return {"failed": 0, "good": owned(state) if self.retries else None, "step": 0}


class _Watching(Hook):
    """The opened `Divergence` of a run."""

    def __init__(self, settings: Divergence, run: Any) -> None:
        self._settings, self._run = settings, run
        self._position: tuple[int, Any] = (run.step, run.position)

    def check(self, run: Any) -> None:
        """As `Divergence.check`."""
        self._settings.check(run)

    def begin(self, state: Any) -> Any:
        """As `Divergence.begin`."""
        return self._settings.begin(state) | {"step": self._run.step}

    def see(self, memory: Any, event: Event) -> tuple[Any, RollBack | None]:
        """Keep the state, go back to the last one, or raise."""
        if not event.is_record:
            return memory, None
        retries = self._settings.retries
        name = "loss" if self._settings.metric is None else self._settings.metric
        value = event.metrics[name] if name in event.run.names else 0.0
        begun, self._position = self._position, (event.step, self._run.loader.position())
        if math.isfinite(value):
            _delete(memory["good"])  # before it is copied, so that there are not three
            good = owned(event.state) if retries else None
            return {"failed": 0, "good": good, "step": event.step}, None
        cause = self._cause(memory, event, name, begun) if retries else cause_of(event.state)
        failed = memory["failed"] + 1
        if failed > retries:
            raise Diverged(
                f"{name} is {value} after step {event.step:,}: the run diverged; {cause}. "
                "Write a smaller learning rate, clip the gradients by "
                "optax.clip_by_global_norm(1.0), or write hooks=[train.Divergence(retries=3)]",
                [dict(record) for record in event.history[:-1]],
            )
        warnings.warn(
            f"{name} is {value} after step {event.step:,} ({cause}): rolled back to the "
            f"state of the last record, attempt {failed} of {retries}",
            RuntimeWarning,
            stacklevel=2,
        )
        action = RollBack(with_other_keys(memory["good"], failed))
        return memory | {"failed": failed, "step": event.step}, action

    def _cause(self, memory: Any, event: Event, metric: str, begun: tuple[int, Any]) -> str:
        """Where the first value that is not finite came from: it takes the steps once more."""
        step = memory["step"]
        position = begun[1] if begun[0] == step else None

        def again() -> Any:
            return self._run.loader.again(step, event.step - step, position)

        if again() is None:
            return cause_of(event.state)
        event.state = self._run.state = None  # the steps below need its memory
        failed = memory["failed"]
        good = with_other_keys(memory["good"], failed) if failed else memory["good"]
        found = origin(self._run, good, step, again, metric)
        if found is None:
            return f"none of the steps {step + 1:,} to {event.step:,} fails when taken once more"
        return f"the first value that is not finite came in step {found[0]:,}, at {found[1]}"


def origin(
    run: Any, good: Any, step: int, again: Callable[[], Iterable[Any]], metric: str
) -> tuple[int, str] | None:
    """The first step that gives something not finite, and what that is; None if all are finite.

    Args:
        run: the run.
        good: the state before these steps.
        step: the number of steps before.
        again: returns the batches of each step, as the loader gives them, at each call.
        metric: the metric that fails.
    """
    well = {path for path, leaf in by_path(good) if _is_finite(leaf)}
    state = owned(good)
    for number, batches in enumerate(again(), step):
        state, metrics = run.steps(state, number, batches)
        tally = Tally()
        tally.add(metrics, batches.rows)
        is_metric = not math.isfinite(tally.metrics().get(metric, 0.0))
        after = next((p for p, leaf in by_path(state) if p in well and not _is_finite(leaf)), None)
        if is_metric or after is not None:
            place = f"{after} of the state" if after is not None else f"the metric {metric!r}"
            del state
            before = owned(good)  # again from there, so that there are two states and not three
            for earlier, given in zip(range(step, number), again(), strict=False):
                before, _ = run.steps(before, earlier, given)
            inside = _inside(run.program, before, run.steps.batch(batches), is_metric)
            return number + 1, inside or place
    return None


def _inside(program: Any, before: Any, batch: Any, is_metric: bool) -> str | None:
    """The layer, the loss, or the gradient of a `Minimize` that is not finite; None if unknown."""
    kind = type(program)
    is_own = isinstance(program, Minimize) and (kind.step, kind.loss) == (
        Minimize.step,
        Minimize.loss,
    )
    if not is_own or not isinstance(before, TrainState):
        return None
    objective, key = program.layer(), step_key(before)
    named = program.named_inputs(before.step)
    given = {"state": before.state, "key": key, "train": True}
    layer = first_nonfinite(objective, before.params, batch, **given, **named)
    if layer is not None:
        return "the loss, of outputs that are finite" if layer == "output" else layer

    def loss(params: Any) -> Any:
        (loss, _), _ = program.loss(
            params, before.state, batch, key=key, step=before.step, train=True
        )
        return value_of(loss)

    if is_metric:
        return None
    gradients = jax.jit(jax.grad(loss))(before.params)
    gradient = _first(gradients)
    return None if gradient is None else f"the gradient of {gradient}"


def with_other_keys(state: Any, attempt: int) -> Any:
    """The state with each random key in it folded with the attempt.

    Args:
        state: any pytree; also the key words of a `TrainState` in it are folded.
        attempt: the number of the attempt, from 1.
    """

    def leaf(item: Any) -> Any:
        if isinstance(item, TrainState):
            key = jax.random.fold_in(kept_key(item.key), attempt)
            moved: Any = jax.tree.map(leaf, dict(enumerate(item[:-1])))
            return TrainState(moved[0], moved[1], moved[2], moved[3], kept_words(key))
        return jax.random.fold_in(item, attempt) if is_key(item) else item

    return jax.tree.map(leaf, state, is_leaf=lambda item: isinstance(item, TrainState))


def cause_of(state: Any) -> str:
    """The first array of a state that is not finite, in words."""
    path = _first(state)
    if path is None:
        return "all arrays of the state are finite"
    return f"{path} is the first array that is not finite"


def _first(tree: Any) -> str | None:
    """The path of the first array that is not finite."""
    return next((path for path, leaf in by_path(tree) if not _is_finite(leaf)), None)


def _is_finite(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(jnp.isfinite(leaf).all())


def _delete(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        leaf.delete()
