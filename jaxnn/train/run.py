"""A run: the training steps of a program on data, observed by hooks.

    for event in train.run(program, data, key=key, epochs=10, hooks=[train.Log("metrics.jsonl")]):
        print(event.step, event.metrics["loss"])

The loop depends on the program's step and on the order of the batches, but not on any particular
hook. `Run.progress()` contains everything that determines how the run continues, so a resumed run
has the same results as an uninterrupted one.
"""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..data.rows import leaves_by_path
from ..explain import entry, entry_iterator
from ..keys import as_key, kept_words
from ..validation import natural
from .hooks import Hook, RollBack, Stop, as_hooks, begun, check_result, memory_spec, named
from .hooks.stopping import Agreed, Asked, watching_peers
from .metrics import directions
from .program import Program, check_program, owned, strong
from .record import Event, Every, Moment, Record, Tally, ends_of
from .step import SINGLE_DEVICE, valid_placement
from .steps import Loader, Steps, loader_of

ENDLESS = 2**31 - 1  # more steps than any epoch or run has


@dataclasses.dataclass
class _Opened:
    """An opened hook of a run, with its memory and the moment at which it last saw the run."""

    hook: Hook
    given: Hook
    label: str
    memory: Any
    seen: Moment


@dataclasses.dataclass(eq=False, repr=False)
class Run:
    """A run of a program: the state of the loop of `train.run`, which hooks can read.

    Args:
        program: As for `train.run`.
        data: As for `train.run`.
        key: As for `train.run`.
        batch_size: As for `train.run`.
        epochs: As for `train.run`.
        length: The number of steps, or None.
        hooks: As for `train.run`.
        stated_every: The interval between records, as for `train.run`.
        given: The initial state until the hooks are open, or None.
        placement: As for `train.run`.

    Attributes:
        state: The state after `step` steps.
        step: The number of completed steps.
        rows: The number of rows trained on since the run was started or resumed.
        total: The number of steps of the whole run; None until the end if epochs of unknown
            length decide it.
        steps_per_epoch: None without epochs, or if their length is unknown.
        history: The records so far.
        names: The names of its metrics.
        directions: Whether a metric is maximized, by name.
        stop: Why the run ended early, None if it did not.
        asked: Records a signal that asks this process to stop.
        signal: The number of a signal that asks the run to stop, the same in all processes.
        position: The position of the data source at which a resumed run begins.
        checkpoint: Returns the newest checkpoint, or None.
        recorded_at: When the steps after the last record began, by `time.perf_counter`.
    """

    program: Program
    data: Any
    key: jax.Array
    batch_size: int | None
    epochs: int | None
    length: int | None
    hooks: Any
    stated_every: Any
    given: Any
    placement: Any

    def __post_init__(self) -> None:
        """Check that the parts fit together; nothing is computed."""
        check_program(self.program, "run")
        valid_placement(self.placement, "placement")
        self.key, self.hooks = as_key(self.key), as_hooks(self.hooks)
        self._words = np.asarray(kept_words(self.key))
        parts = self.program, self.data, self.batch_size, self._words, self.placement
        self.loader: Loader
        self.loader, self._functions = loader_of(*parts)
        self.steps_per_epoch: int | None = self.loader.steps_per_epoch
        self.total: int | None
        self.every: Every
        self.total, self.every = self._lengths()
        kinds = [type(hook).__name__ for hook in self.hooks]
        self._labels = [f"{kind}/{kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]
        self.state: Any = None
        self.step: int = 0
        self.rows: int = 0
        self._ended_epochs, self._at_end = 0, True  # used if the length of an epoch is unknown
        self.history: list[Record] = []
        self.names: set[str] = set()
        self.directions: dict[str, bool] = {}
        self.stop: str | None = None
        self.asked: Asked = Asked()
        self.signal: int | None = None
        self.tally: Tally = Tally()
        self.position: Any = None
        self._stopped_by, self._restored, self._opened = "", dict[str, Any](), list[_Opened]()
        self.checkpoint: Callable[[], Path | None] = lambda: None
        self._clock = self._before = 0.0
        self.recorded_at: float = time.perf_counter()
        self._began = self.recorded_at

    def _lengths(self) -> tuple[int | None, Every]:
        """Return the number of steps, None if it is unknown, and the interval between records."""
        epochs, loader, every = self.epochs, self.loader, self.stated_every
        every = every if every is None or isinstance(every, Every) else Every(steps=every)
        for name, length in (("epochs", epochs), ("steps", self.length)):
            if length is not None:
                natural(length, name)
        problem = ""
        if (epochs is None) == (self.length is None):
            given = "neither" if epochs is None else "both"
            problem = (
                f"the length of a run is epochs= or steps=, got {given}; write epochs=10 or "
                "steps=1000"
            )
        elif not loader.has_epochs and (epochs is not None or (every and every.epochs)):
            problem = (
                "there are no epochs without data of known length; write steps=1000, and every=100"
            )
        elif (
            loader.steps_per_epoch is None
            and isinstance(self.data, Iterator)
            and epochs not in (None, 0, 1)
        ):
            problem = (
                f"{self.data!r:.80} is read once, so it has one epoch, got epochs={epochs}; "
                "write epochs=1, steps=, or pass a function that returns a new iterator"
            )
        if problem:
            raise ValueError(problem)
        if epochs is None:
            total = self.length
        else:
            known = loader.steps_per_epoch
            total = None if known is None else epochs * known
        by_default = Every(epochs=1) if loader.has_epochs else Every(steps=max(total or 1, 1))
        return total, every or by_default

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
        """Whether the last step is completed, or a hook stopped the run."""
        if self.stop is not None:
            return True
        if self.total is None:
            return self._ended_epochs == self.epochs
        return self.step >= self.total

    def seconds(self) -> float:
        """Return the duration of the run, including the time before it was resumed."""
        return self._before + time.perf_counter() - self._began

    def moment(self) -> Moment:
        """Return the end of the last dispatch, in steps and in time."""
        return Moment(self.step, self.steps_per_epoch or ENDLESS, self._clock)

    def progress(self, event: Event) -> tuple[Any, dict[str, Any]]:
        """Return everything that determines how the run continues: arrays, and JSON."""
        memories = leaves_by_path({one.label: one.memory for one in self._opened})
        numbers = {path: leaf for path, leaf in memories.items() if isinstance(leaf, int | float)}
        arrays = {path: leaf for path, leaf in memories.items() if path not in numbers}
        progress = {
            "step": self.step,
            "history": [dict(record) for record in self.history],
            "sums": {} if event.is_record else self.tally.plain(),
            "position": self.loader.position(),
            "seconds": self.seconds(),
            "stop": [] if self.stop is None else [self._stopped_by, self.stop],
            "memories": numbers,
        }
        return {"state": self.state, "memories": arrays}, progress

    def like(self, progress: Mapping[str, Any]) -> Any:
        """Return the arrays of `progress()` as shapes and types, with their shardings.

        Args:
            progress: What a checkpoint has besides its arrays.
        """
        state, spec = self.given, self.loader.spec()
        if state is None:
            state = jax.eval_shape(
                lambda key, first: jax.tree.map(strong, self.program.init(key, first)),
                self.key,
                spec,
            )
        memories = {
            label: memory_spec(hook, state)
            for label, hook in zip(self._labels, self.hooks, strict=True)
        }
        # A hook without a memory in the checkpoint begins with a new one.
        known = {
            path: leaf
            for path, leaf in leaves_by_path(memories).items()
            if f"memories/{path}" in progress["arrays"]
        }
        tree = {"state": state, "memories": known}
        return self.placement.like(self.program, self.key, spec, tree)

    def resume(self, arrays: Any, progress: Mapping[str, Any], source: str) -> None:
        """Continue from what `progress()` returned.

        Args:
            arrays: The arrays that it returned.
            progress: The rest of what it returned.
            source: The checkpoint that holds them, for errors.
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
        self._restored = arrays["memories"] | progress["memories"]
        if progress["stop"] and progress["stop"][0] in map(repr, self.hooks):
            self.stop = progress["stop"][1]

    def events(self) -> Iterator[Event]:
        """Yield the records of the run, each after its hooks have seen it."""
        with contextlib.ExitStack() as opened:
            opened.enter_context(watching_peers(self._where))
            opened.callback(self.loader.close)
            self._open(opened)
            ends = self._check()
            self.loader.begin(self.step, self.position)
            agreed = Agreed(self.seconds, self.asked)
            recorded, in_flight = self.moment(), deque[Any]()
            self.recorded_at = time.perf_counter()
            while not self.is_over:
                in_flight.append(self._dispatch(ends(self.step)))
                if len(in_flight) > 2:
                    jax.block_until_ready(in_flight.popleft())
                self._clock, self.signal = agreed()
                now = self.moment()
                is_record = self.is_over or self.every.due(now, recorded) or self._ends_record()
                due = [o for o in self._opened if is_record or o.hook.is_due(now, o.seen)]
                if not due and not is_record:
                    continue
                event = self._event(is_record)
                for one in due:
                    self._see(one, event)
                    one.seen = now
                if self.stop is not None and not is_record:  # a run ends with a record
                    is_record, event = True, self._event(True)
                    for one in self._opened:
                        self._see(one, event)
                if is_record:
                    recorded, self.tally = now, Tally()
                    yield event
                    self.recorded_at = time.perf_counter()

    def _where(self) -> str:
        """Return how to resume, for an error."""
        checkpoint = self.checkpoint()
        return f"; they resume from the checkpoint {checkpoint}" if checkpoint else ""

    def _open(self, opened: contextlib.ExitStack) -> None:
        """Open the hooks, make the state, and begin the memory of each hook."""
        hooks: list[Hook] = []
        for hook in reversed(self.hooks):
            with named(hook, "open"):
                hooks.insert(0, opened.enter_context(hook.open(self)))
        if self.state is None:
            first = self.loader.first() if self.given is None else self.loader.spec()
            self.state = self.placement.first_state(self.program, self.key, first, self.given)
        for hook, given, label in zip(hooks, self.hooks, self._labels, strict=True):
            with named(given, "begin"):
                memory = begun(label, hook, self.state, self._restored)
            self._opened.append(_Opened(hook, given, label, memory, self.moment()))
        # The run holds one copy of its state.
        self.given, self._restored = None, {}

    def _check(self) -> Callable[[int], int]:
        """Trace the steps, check the hooks, and return the result of `ends_of`."""
        self._steps = Steps(self.program, self.loader, self._functions, self._words, self.placement)
        hooks = [one.hook for one in self._opened]
        everys = [self.every, *(hook.every for hook in hooks if hook.every is not None)]
        further = tuple(end for hook in hooks for end in hook.ends)
        total = ENDLESS if self.total is None else self.total
        epoch = self.steps_per_epoch or max(total, 1)

        def ends() -> Callable[[int], int]:
            return ends_of(epoch, self.loader.at_once, total, everys, further)

        if not self.is_over:
            # Trace the first dispatch of the whole run: a resumed run has the same dispatches.
            metrics = self._steps.check(self.state, ends()(0))
            self.names |= metrics.keys()
            self.directions |= directions(metrics)
            for one in self._opened:
                with named(one.given, "check"):
                    one.hook.check(self)
        return ends()

    def _dispatch(self, end: int) -> Any:
        """Take the steps until `end`, or fewer, and return arrays that are ready after them."""
        batches = self.loader.take(self.step, end - self.step)
        self.state, metrics = self._steps(self.state, self.step, batches)
        self.tally.add(metrics, batches.rows)
        self.step += batches.steps
        self.rows += batches.steps * batches.rows
        del batches  # free its memory for the batches of a later dispatch
        self._at_end = self.loader.ends_epoch()
        self._ended_epochs += self._at_end
        if not self.is_over:
            self.loader.prepare(self.step)
        # At most two dispatches are in flight, because each holds its batches and delays the
        # response to a signal.
        if not metrics:
            jax.block_until_ready(self.state)
        return jax.tree.leaves(metrics)[:1]

    def _ends_record(self) -> bool:
        """Return whether a record is due at the end of an epoch of unknown length."""
        often = self.every.epochs
        return self._at_end and often is not None and self._ended_epochs % often == 0

    def _see(self, one: _Opened, event: Event) -> None:
        with named(one.given, f"see, after step {event.step:,}"):
            one.memory, action = check_result(one.hook.see(one.memory, event), one.memory)
        if isinstance(action, Stop) and self.stop is None:
            self.stop = event.stop = action.reason
            self._stopped_by = repr(one.given)
        elif isinstance(action, RollBack):
            self.state = event._state = None  # the copy must not be a third state
            self.state = event._state = owned(action.state)
            self.tally = Tally()  # omit the failed steps

    def _event(self, is_record: bool) -> Event:
        epoch = {} if self.epoch is None else {"epoch": self.epoch}
        record = Record({**epoch, "step": self.step}, self.tally)
        if is_record:
            if self.history:
                self.history[-1].plain()  # its values are ready on the device
            self.history.append(record)
        return Event(self, record, is_record)


@entry
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
    """Train a program on data, and yield an event at each record.

    Each epoch visits the rows in a new random order, in batches of `batch_size`. Rows that do not
    fill a last batch are omitted in this epoch. The order depends only on the key and the epoch.

    Args:
        program: The `train.Program`.
        data: Data in any form that `data.as_source` accepts: a pytree of arrays or data frames,
            which are copied to the device; a `data.Source`, a DataLoader, a generator, or a
            function that returns one, which are read ahead; or `data.Augmented`. Default: None, for
            a program that generates its data.
        key: A JAX key, the root of all random numbers.
        epochs: The number of epochs of the whole run. Write either `epochs` or `steps`.
        steps: The number of steps of the whole run.
        batch_size: Number of rows of a step. The batches of a stream have a fixed size, which this
            number must equal. Default: 128, or the fixed size.
        hooks: `train.Hook` values and functions of an event, called in this order at each record.
            `train.Throughput` comes first, `train.Evaluate` before hooks that read its metrics, and
            `train.Checkpoints` last. Default: ().
        every: The interval between records, a `train.Every` or a number of steps. The end of the
            run is also a record. Default: None, each epoch, or only the end if there are no epochs.
        state: The initial state. Default: None, `program.init(key, batch)`.
        placement: Devices of the arrays, a `parallel.Placement`. Default: one device.

    Yields:
        An `Event`, after all hooks have processed it.

    Raises:
        TypeError, ValueError: Arguments are invalid or do not fit together. Raised when `run` is
            called or before the first step.

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
    length = batch_size, epochs, steps
    events = Run(program, data, key, *length, hooks, every, state, placement).events()
    return entry_iterator(events)
