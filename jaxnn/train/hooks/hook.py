"""What a hook is: a value that watches a run and may stop it or roll it back.

    with hook.open(run) as hook:                     # its files, threads, and displays
        memory = hook.begin(state)                   # what it remembers: checkpoints save it
        memory, action = hook.see(memory, event)     # None, Stop(reason), or RollBack(state)

A plain function of an event is a hook, too.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

from ...explain.text import brief
from ..event import Event
from ..every import Every, Moment
from .memory import check_like


@dataclasses.dataclass(frozen=True)
class Stop:
    """The action of a hook that ends the run.

    Args:
        reason: why, as a sentence; `event.stop` and the history of checkpoints keep it.

    >>> Stop("the loss is below 0.1").reason
    'the loss is below 0.1'
    """

    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class RollBack:
    """The action of a hook that continues the run from another state.

    The steps that led away from it count toward the length of the run, and the batches that follow
    are those after them.

    Args:
        state: the state to continue from. The run copies it.
    """

    state: Any


class Hook:
    """Base of all hooks. A subclass is a frozen value and overrides what it needs.

    `every` is when `see` is called besides at each record of the run, and `ends` are steps after
    which a dispatch ends, so that the hook can act between two steps.

    >>> class Below(Hook):
    ...     def see(self, memory, event):
    ...         low = event.metrics["loss"] < 0.1
    ...         return memory, Stop("the loss is below 0.1") if low else None
    """

    every: Every | None = None
    leads: ClassVar[bool] = False
    """Whether the hook has to come before all others."""
    last: ClassVar[bool] = False
    """Whether the hook has to come after all others."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Steps after which a dispatch ends."""
        return ()

    def open(self, run: Any) -> AbstractContextManager[Self]:
        """A context manager around the run, whose value is the hook to call.

        Hooks are opened from the last to the first, so that `Checkpoints`, which comes last, has
        restored the run before the others see it.

        Args:
            run: the run, with `program`, `key`, `step`, `history`, and `total`.
        """
        return contextlib.nullcontext(self)

    def check(self, run: Any) -> None:
        """Raise before the first step if the hook cannot work.

        Args:
            run: the run, whose `names` and `directions` are those of its metrics. A hook that adds
                metrics adds theirs here.
        """

    def begin(self, state: Any) -> Any:
        """The memory before the first step: a pytree of numbers and arrays, None if none is kept.

        Args:
            state: the state that the run begins with.
        """
        return None

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Whether `see` is called although there is no record.

        Args:
            now: the end of a dispatch.
            since: when `see` was called last.
        """
        return self.every is not None and self.every.due(now, since)

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | RollBack | None]:
        """The new memory, and what the run shall do: None to continue.

        Args:
            memory: as `begin` or the last `see` returned it.
            event: where the run is. Metrics are fetched from the device when they are read.
        """
        return memory, None

    def identity(self) -> Mapping[str, Any]:
        """What determines the numbers that the hook adds, as nested dicts of text."""
        return {}


@dataclasses.dataclass(frozen=True)
class Callback(Hook):
    """The hook of a plain function of an event.

    Args:
        function: called with each record's event. It may return a `Stop` or a `RollBack`.
    """

    function: Callable[[Event], Any]

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | RollBack | None]:
        """Call the function."""
        action = self.function(event)
        return memory, action if isinstance(action, Stop | RollBack) else None


def as_hook(hook: Any) -> Hook:
    """The hook, or that of a plain function; TypeError for anything else."""
    if isinstance(hook, Hook):
        return hook
    if isinstance(hook, type) or not callable(hook):
        raise TypeError(
            f"a hook is a train.Hook or a function of an event, got {hook!r}; write "
            "hooks=[train.EarlyStopping('validation_loss'), lambda event: print(event.metrics)]"
        )
    return Callback(hook)


def checked(result: Any, before: Any) -> tuple[Any, Stop | RollBack | None]:
    """What `see` returned: a memory like the one before, and an action. TypeError otherwise.

    Args:
        result: what it returned.
        before: the memory that it was given.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"see returns the memory and an action, got {brief(result)}; write return memory, None"
        )
    memory, action = result
    if action is not None and not isinstance(action, Stop | RollBack):
        raise TypeError(
            f"the action of a hook is None, a train.Stop, or a train.RollBack, got {brief(action)};"
            " write return memory, train.Stop('the loss is below 0.1')"
        )
    if memory is not before:
        check_like(memory, before)
    return memory, action


def checked_hooks(hooks: Any) -> list[Hook]:
    """The hooks of a run; TypeError or ValueError for others, or for hooks out of order."""
    if isinstance(hooks, Hook) or not isinstance(hooks, Sequence):
        raise TypeError(f"hooks are a list, got {brief(hooks)}; write hooks=[hook]")
    found = [as_hook(hook) for hook in hooks]
    for before, hook in itertools.pairwise(found):
        if hook.leads and not before.leads:
            raise ValueError(
                f"{type(hook).__name__} has to be the first hook, since it times the steps alone, "
                f"but {title(before)} comes before it; write hooks=[{hook!r}, ...]"
            )
    for hook, after in itertools.pairwise(found):
        if hook.last:
            raise ValueError(
                f"{type(hook).__name__} has to be the last hook, since it saves what the others "
                f"remember, but {title(after)} comes after it; write hooks=[..., {hook!r}]"
            )
    return found


@contextlib.contextmanager
def named(hook: Hook, call: str) -> Iterator[None]:
    """Add to an error which hook raised it, and when."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised by the hook {title(hook)} in {call}")
        raise


def title(value: Any) -> str:
    """A hook or a program as the call that makes it, without the numbers of its arrays."""
    if not dataclasses.is_dataclass(value):
        return f"{value!r:.200}"
    fields = [f for f in dataclasses.fields(value) if getattr(value, f.name) is not f.default]
    parts = (f"{field.name}={brief(getattr(value, field.name))}" for field in fields)
    return f"{type(value).__name__}({', '.join(parts)})"
