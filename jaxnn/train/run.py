"""A run: a program stepped over data, with hooks that see what it reaches.

    for event in train.run(program, data, key=key, epochs=10, hooks=[train.Log("metrics.jsonl")]):
        print(event.step, event.metrics["loss"])

The loop knows a program's step and the order of the batches, and no hook by its name. Everything
that decides how it continues is in `Run.progress()`, so a run that is resumed from it has the
numbers of one that was never interrupted.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ..keys import as_key, kept_words
from .agreement import Agreed, watching_peers
from .combining import Tally
from .evaluation import check_count
from .event import Event
from .every import Every, Moment, ends_of
from .hooks.hook import Hook, RollBack, Stop, checked, checked_hooks, named
from .hooks.memory import begun, split
from .loading import loader_of
from .metrics import directions
from .placement import SINGLE_DEVICE
from .program import Program, check_program
from .record import Record
from .signals import Asked
from .state import owned, strong
from .steps import Steps

ENDLESS = 2**31 - 1  # more steps than an epoch or a run has


class Run:
    """A run of a program: what `train.run` steps, and what its hooks see.

    Attributes:
        program, key, batch_size, placement: as given.
        state: the state after `step` steps.
        step: the number of steps that are done.
        rows: the number of rows trained on since the run was started or resumed.
        total: the number of steps of the whole run; None until the end if epochs of unknown
            length decide it.
        steps_per_epoch: None without epochs, or if their length is unknown.
        history: the records so far.
        names: the names of its metrics.
        directions: whether a metric is maximized, by name.
        stop: why the run ended early, None if it did not.
        asked: notes a signal that asks this process to stop.
        signal: the number of a signal that asks the run to stop, as all processes agree.
        stated_every: how often there is a record, as given.
        position: the position of the data source that a resumed run begins at.
        steps: its compiled steps, once the hooks are open.
        recorded_at: when the steps after the last record began, by `time.perf_counter`.
    """

    def __init__(
        self,
        program: Program,
        data: Any,
        key: jax.Array,
        *,
        batch_size: int | None,
        epochs: int | None,
        steps: int | None,
        hooks: Sequence[Any],
        every: Any,
        state: Any,
        placement: Any,
    ) -> None:
        check_program(program, "run")
        self.program, self.data, self.key = program, data, as_key(key)
        self.batch_size = batch_size
        self.placement, self.given = placement, state
        self.hooks = checked_hooks(hooks)
        words = np.asarray(kept_words(self.key))
        self.loader, self._functions = loader_of(program, data, batch_size, words, placement)
        self.steps_per_epoch = self.loader.steps_per_epoch
        self._epochs, self._ended_epochs = epochs, 0
        self.total = _length(epochs, steps, self.loader, data)
        self.every = _every(every, self.loader.has_epochs, self.total)
        self.stated_every = every
        self.state: Any = None
        self.step, self.rows, self.history = 0, 0, []
        self.names: set[str] = set()
        self.directions: dict[str, bool] = {}
        self.stop: str | None = None
        self._stopped, self.asked, self.signal = "", Asked(), None
        self._at_end = True  # of an epoch of unknown length
        self.tally, self._restored = Tally(), {}
        self.memories: list[Any] = [None] * len(self.hooks)
        self.checkpoint: Callable[[], Any] = lambda: None
        self.position, self.steps, self._words = None, None, words
        self._clock = self._before = 0.0
        self._began = self.recorded_at = time.perf_counter()

    @property
    def epoch(self) -> int | None:
        """The number of the epoch of the last step, from 1; None without epochs."""
        if not self.loader.has_epochs:
            return None
        if self.steps_per_epoch is None:
            return self._ended_epochs + (not self._at_end)
        return -(-self.step // self.steps_per_epoch)

    @property
    def is_over(self) -> bool:
        """Whether the last step is done, or a hook stopped the run."""
        if self.stop is not None:
            return True
        if self.total is None:
            return self._ended_epochs == self._epochs
        return self.step >= self.total

    def seconds(self) -> float:
        """The time that the run has taken, also before it was resumed."""
        return self._before + time.perf_counter() - self._began

    def moment(self) -> Moment:
        """The end of the last dispatch, in steps and in time."""
        return Moment(self.step, self.steps_per_epoch or ENDLESS, self._clock)

    def progress(self, event: Event) -> tuple[Any, dict[str, Any]]:
        """All that decides how the run continues after an event: arrays, and numbers as JSON."""
        arrays, numbers = split(dict(zip(self.labels(), self.memories, strict=True)))
        tally = Tally() if event.is_record else self.tally
        progress = {
            "step": self.step,
            "history": [dict(record) for record in self.history],
            "sums": tally.plain(),
            "position": self.loader.position(),
            "seconds": self.seconds(),
            "stop": self.stop and {"hook": self._stopped, "reason": self.stop},
            "memories": numbers,
        }
        return {"state": self.state, "memories": arrays}, progress

    def like(self, progress: Mapping[str, Any]) -> Any:
        """The arrays of `progress()` as shapes and types, where they are to lie.

        Args:
            progress: the numbers that `progress()` returned.
        """
        state = self.given
        if state is None:
            state = jax.eval_shape(
                lambda key, first: jax.tree.map(strong, self.program.init(key, first)),
                self.key,
                self.loader.spec(),
            )
        numbers, arrays = progress["memories"], {}
        for label, hook in zip(self.labels(), self.hooks, strict=True):
            own, _ = split({label: jax.eval_shape(hook.begin, state)}, numbers)
            if all(f"memories/{path}" in progress["arrays"] for path in own):
                arrays |= own  # a hook that the checkpoint does not know begins now
        tree = {"state": state, "memories": arrays}
        return self.placement.like(self.program, self.key, self.loader.spec(), tree)

    def resume(self, arrays: Any, progress: Mapping[str, Any], source: str) -> None:
        """Continue from what `progress()` returned.

        Args:
            arrays, progress: as `progress()` returned them.
            source: the checkpoint that holds them, for errors.
        """
        self.state, self.step = arrays["state"], progress["step"]
        if self.total is not None and self.step > self.total:
            unit, length = "steps", self.step
            if self.steps_per_epoch is not None:
                unit, length = "epochs", -(-self.step // self.steps_per_epoch)
            raise ValueError(
                f"the run in {source} has done {self.step:,} steps, and this one is {self.total:,} "
                f"steps long; write {unit}={length} or more, or name another folder"
            )
        self.history = [Record(record) for record in progress["history"]]
        self.tally = Tally(progress["sums"], source)
        self.position, self._before = progress["position"], progress["seconds"]
        self._clock = self._before
        self._restored = {"arrays": arrays["memories"], "numbers": progress["memories"]}
        stop = progress["stop"]
        if stop is not None and stop["hook"] in map(repr, self.hooks):
            self.stop = stop["reason"]

    def labels(self) -> list[str]:
        """A name for each hook, by which its memory is kept: EarlyStopping/0."""
        kinds = [type(hook).__name__ for hook in self.hooks]
        return [f"{kind}/{kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]

    def events(self) -> Iterator[Event]:
        """The records of the run, each after its hooks have seen it."""
        with contextlib.ExitStack() as opened:
            opened.enter_context(watching_peers(self._where))
            opened.callback(self.loader.close)
            hooks = self._open(opened)
            steps = self.steps = Steps(
                self.program, self.loader, self._functions, self._words, self.placement
            )
            everys = [self.every, *(hook.every for hook in hooks if hook.every is not None)]
            further = tuple(end for hook in hooks for end in hook.ends)
            if not self.is_over:
                # Of the first dispatch, also in a resumed run, whose others have to end alike.
                metrics = steps.check(self.state, self._ahead(everys, further)(0))
                self.names |= metrics.keys()
                self.directions |= directions(metrics)
                for hook in hooks:
                    with named(hook, "check"):
                        hook.check(self)
            ahead = self._ahead(everys, further)
            self.loader.begin(self.step, self.position)
            agreed = Agreed(self.seconds, self.asked)
            recorded = self.moment()
            seen = [recorded] * len(hooks)
            in_flight: deque[Any] = deque()
            self.recorded_at = time.perf_counter()
            while not self.is_over:
                batches = self.loader.take(self.step, ahead(self.step) - self.step)
                self.state, metrics = steps(self.state, self.step, batches)
                self.tally.add(metrics, batches.rows)
                self.step += batches.steps
                self.rows += batches.steps * batches.rows
                del batches  # its memory is needed for the one after the next
                self._at_end = self.loader.ends_epoch()
                self._ended_epochs += self._at_end
                if not self.is_over:
                    self.loader.prepare(self.step)
                # At most two dispatches are in flight, since each holds its batches, and a signal
                # waits for them.
                in_flight.append(jax.tree.leaves(metrics)[:1])
                if not in_flight[-1]:
                    jax.block_until_ready(self.state)
                if len(in_flight) > 2:
                    jax.block_until_ready(in_flight.popleft())
                self._clock = agreed.seconds()
                self.signal = agreed.signal()
                now = self.moment()
                is_record = self.is_over or self.every.due(now, recorded) or self._ends_record()
                due = [
                    is_record or hook.is_due(now, since)
                    for hook, since in zip(hooks, seen, strict=True)
                ]
                if not any(due) and not is_record:
                    continue
                event = self._event(is_record)
                for i in (i for i, is_due in enumerate(due) if is_due):
                    self._see(hooks, i, event)
                    seen[i] = now
                if self.stop is not None and not is_record:  # a run ends with a record
                    is_record, event = True, self._event(True)
                    for i in range(len(hooks)):
                        self._see(hooks, i, event)
                if is_record:
                    recorded, self.tally = now, Tally()
                    yield event
                    self.recorded_at = time.perf_counter()

    def _ends_record(self) -> bool:
        """Whether a record is due at the end of an epoch of unknown length."""
        often = self.every.epochs
        return self._at_end and often is not None and self._ended_epochs % often == 0

    def _open(self, opened: contextlib.ExitStack) -> list[Hook]:
        """The opened hooks, and the memory of each."""
        hooks: list[Hook] = []
        for hook in reversed(self.hooks):
            with named(hook, "open"):
                hooks.insert(0, opened.enter_context(hook.open(self)))
        if self.state is None:
            first = self.loader.first() if self.given is None else self.loader.spec()
            self.state = self.placement.init(self.program, self.key, first, self.given)
        for i, (hook, label) in enumerate(zip(hooks, self.labels(), strict=True)):
            with named(hook, "begin"):
                self.memories[i] = begun(label, hook, self.state, self._restored)
        # The run holds one copy of its state.
        self.given, self._restored = None, {}
        return hooks

    def _see(self, hooks: list[Hook], i: int, event: Event) -> None:
        with named(hooks[i], f"see, after step {event.step:,}"):
            result = hooks[i].see(self.memories[i], event)
            self.memories[i], action = checked(result, self.memories[i])
        if isinstance(action, Stop) and self.stop is None:
            self.stop, self._stopped = action.reason, repr(self.hooks[i])
            event.stop = self.stop
        elif isinstance(action, RollBack):
            self.state = event.state = None  # not a third copy
            self.state = event.state = owned(action.state)
            self.tally = Tally()  # without the steps that failed

    def _event(self, is_record: bool) -> Event:
        where = {} if self.epoch is None else {"epoch": self.epoch}
        record = Record({**where, "step": self.step}, self.tally)
        if is_record:
            if self.history:
                self.history[-1].plain()  # the device has it by now
            self.history.append(record)
        return Event(self, record, is_record)

    def _ahead(self, everys: list[Every], further: tuple[int, ...]) -> Any:
        total = ENDLESS if self.total is None else self.total
        epoch = self.steps_per_epoch or max(total, 1)
        return ends_of(epoch, self.loader.at_once, total, everys, further)

    def _where(self) -> str:
        return f"; they resume from the checkpoint {self.checkpoint()}" if self.checkpoint() else ""


def run(
    program: Program,
    data: Any = None,
    *,
    key: jax.Array,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    hooks: Sequence[Any] = (),
    every: Every | int | None = None,
    state: Any = None,
    placement: Any = SINGLE_DEVICE,
) -> Iterator[Event]:
    """Step a program over data, and yield an event at each record.

    Each epoch visits the rows in a new random order, in batches of `batch_size`; rows that do not
    fill a last batch wait for another epoch. The order follows from the key and the epoch alone.

    Args:
        program: the `train.Program`.
        data: whatever `data.as_source` accepts: a pytree of arrays or frames, whose rows then lie
            on the device; a `data.Source`, a DataLoader, a generator, or a function that returns
            one, which are read ahead; `data.Augmented`; or None for a program that makes its own.
        key: a JAX key, the root of all random numbers.
        epochs: the number of epochs of the whole run. Write either `epochs` or `steps`.
        steps: the number of steps of the whole run.
        batch_size: the rows of a step, 128 by default. Batches of a stream have their own number.
        hooks: `train.Hook` values and functions of an event, called in this order at each record.
            `train.Evaluate` comes first and `train.Checkpoints` last.
        every: how often there is a record, a `train.Every` or a number of steps: by default each
            epoch, or once at the end if there are no epochs. There is one at the end, too.
        state: a state to begin with, in place of `program.init(key, batch)`.
        placement: where the arrays lie: one device by default, or a `parallel.Placement`.

    Yields:
        An `Event`, after the hooks have seen it.

    Raises:
        TypeError, ValueError: parts that do not fit together, when `run` is called or before the
            first step.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import train
    >>> class Halve(train.Program):
    ...     def init(self, key, batch):
    ...         return jnp.float32(1)
    ...     def step(self, state, batch):
    ...         return state / 2, {"loss": state}
    >>> for event in train.run(Halve(), key=jax.random.key(0), steps=4, every=2):
    ...     print(event.step, event.state, event.metrics["loss"])
    2 0.25 0.75
    4 0.0625 0.1875
    """
    more = {"hooks": hooks, "every": every, "state": state, "placement": placement}
    length = {"batch_size": batch_size, "epochs": epochs, "steps": steps}
    return Run(program, data, key, **length, **more).events()


def _length(epochs: Any, steps: Any, loader: Any, data: Any) -> int | None:
    """The number of steps of the run; None if the epochs' lengths are unknown."""
    if (epochs is None) == (steps is None):
        given = "neither" if epochs is None else "both"
        raise ValueError(
            f"the length of a run is epochs= or steps=, got {given}; write epochs=10 or steps=1000"
        )
    if steps is not None:
        return check_count(steps, "steps", least=0)
    check_count(epochs, "epochs", least=0)
    if not loader.has_epochs:
        raise ValueError("there are no epochs without data of known length; write steps=1000")
    if loader.steps_per_epoch is None:
        if isinstance(data, Iterator) and epochs > 1:
            raise ValueError(
                f"{data!r:.80} is read once, so it has one epoch, got epochs={epochs}; write "
                "epochs=1, steps=, or pass a function that returns a new iterator"
            )
        return None
    return epochs * loader.steps_per_epoch


def _every(every: Any, has_epochs: bool, total: int | None) -> Every:
    if isinstance(every, Every):
        if every.epochs is not None and not has_epochs:
            raise ValueError(
                f"there are no epochs without data, got every={every!r}; write every=100"
            )
        return every
    if every is None:
        return Every(epochs=1) if has_epochs else Every(steps=max(total or 1, 1))
    return Every(steps=every)
