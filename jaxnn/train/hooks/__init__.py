"""Hooks: a hook is a value that watches a run and may stop it or roll it back.

    with hook.open(run) as hook:                     # its files, threads, and displays
        memory = hook.begin(state)                   # what it remembers: checkpoints save it
        memory, action = hook.see(memory, event)     # None, Stop(reason), or RollBack(state)

A plain function of an event is a hook, too.
"""

import contextlib
import dataclasses
import difflib
import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

import jax
import numpy as np

from ...data.rows import leaves_by_path
from ...explain.text import brief
from ...fields import code
from ...files.reading import listed
from ...validation import Accepts, check_fields, check_none, flag, instance
from ..program import tree_differences
from ..record import Event, Every, Moment

FOLDER = instance((str, os.PathLike), "the path of a folder", "write {owner}('runs/a/{name}')")
MAXIMIZE = None | flag.such(what="True if larger is better, or False")


@dataclasses.dataclass(frozen=True)
class Stop:
    """The action of a hook that ends the run.

    Args:
        reason: The reason in words. `event.stop` and the history of checkpoints contain it.

    >>> Stop("the loss is below 0.1").reason
    'the loss is below 0.1'
    """

    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class RollBack:
    """The action of a hook that continues the run from another state.

    The steps since this state still count toward the length of the run, and the run continues with
    the next batches.

    Args:
        state: The state to continue from, which the run copies.
    """

    state: Any


class Hook:
    """Base of all hooks. A subclass is a frozen dataclass and overrides the methods that it needs.

    `see` is called at each record of the run, and also when `every` is due. A dispatch also ends
    after the steps in `ends`, so that the hook can act between two steps. Fields are checked as
    described in `jaxnn.validation`.

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

    def __post_init__(self) -> None:
        """Check the fields of a dataclass."""
        check_fields(self)

    @property
    def ends(self) -> tuple[int, ...]:
        """Steps after which a dispatch ends."""
        return ()

    def open(self, run: Any) -> AbstractContextManager[Self]:
        """Return a context manager around the run, whose value is the hook to call.

        Hooks are opened from the last to the first, so that `Checkpoints`, which comes last, has
        restored the run before the others see it.

        Args:
            run: The run, with `program`, `key`, `step`, `history`, and `total`.
        """
        return contextlib.nullcontext(self)

    def check(self, run: Any) -> None:
        """Raise an error before the first step if the hook cannot work in this run.

        Args:
            run: The run, whose `names` and `directions` are those of its metrics. A hook that adds
                metrics adds theirs here.
        """

    def begin(self, state: Any) -> Any:
        """Return the memory before the first step: a pytree of numbers and arrays, or None.

        Args:
            state: The state that the run begins with.
        """
        return None

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Return whether `see` is called even without a record.

        Args:
            now: The end of a dispatch.
            since: The last call of `see`.
        """
        return self.every is not None and self.every.due(now, since)

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | RollBack | None]:
        """Return the new memory and an action: `Stop`, `RollBack`, or None to continue.

        Args:
            memory: The memory that `begin` or the previous call of `see` returned.
            event: The progress of the run. Metrics are fetched from the device when they are read.
        """
        return memory, None

    def identity(self) -> Mapping[str, Any]:
        """Return what determines the numbers that the hook adds, as nested dicts of text."""
        return {}


A_HOOK = Accepts(
    "a train.Hook or a function of an event",
    lambda hook: isinstance(hook, Hook) or (callable(hook) and not isinstance(hook, type)),
    TypeError,
    "write hooks=[train.EarlyStopping('loss'), lambda event: print(event.metrics)]",
)


_HOOKS = instance(Sequence, "a list of hooks", "write hooks=[train.EarlyStopping('loss')]")
A_RESULT = Accepts(
    "the memory and an action, which is None, a train.Stop, or a train.RollBack",
    lambda result: (
        isinstance(result, tuple)
        and len(result) == 2
        and isinstance(result[1], Stop | RollBack | None)
    ),
    TypeError,
    "write return memory, None, or return memory, train.Stop('the loss is below 0.1')",
)


_ACTION = Accepts(
    "None, a train.Stop, or a train.RollBack",
    # Numbers, arrays, and other results are ignored.
    lambda result: not isinstance(result, bool | np.bool_ | str | type),
    TypeError,
    "write return train.Stop('the loss is below 0.1'), or return None to continue",
    abstract=True,
)


@dataclasses.dataclass(frozen=True)
class Callback(Hook):
    """The hook of a plain function of an event.

    Args:
        function: Called with each record's event. It may return a `Stop` or a `RollBack`.
    """

    function: Callable[[Event], Any]

    def see(self, memory: Any, event: Event) -> tuple[Any, Stop | RollBack | None]:
        """Call the function; TypeError for a bool, a str, or a class, which are not actions."""
        action = self.function(event)
        if isinstance(action, Stop | RollBack):
            return memory, action
        if action is not None:
            _ACTION(action, f"the result of {code(self.function)}")
        return memory, None


def as_hooks(hooks: Sequence[Any]) -> list[Hook]:
    """Return the hooks of a run, from hooks and functions of an event, in the order of a run.

    Raises TypeError for anything else, and ValueError for another order.
    """
    _HOOKS(hooks, "hooks")
    given = [A_HOOK(hook, f"hooks[{i}]") for i, hook in enumerate(hooks)]
    found = [hook if isinstance(hook, Hook) else Callback(hook) for hook in given]
    if any(b.leads > a.leads or a.last for a, b in itertools.pairwise(found)):
        raise ValueError(
            "hooks act in the order of their list: train.Throughput has to come first, since it "
            "times the steps alone, and one train.Checkpoints last, since it saves what the others "
            f"remember; write hooks=[{', '.join(map(title, _single_last(found)))}]"
        )
    return found


def _single_last(hooks: Sequence[Hook]) -> list[Hook]:
    """Return hooks in the order of a run, with one hook that comes last."""
    found = ordered(hooks)
    return [hook for hook in found[:-1] if not hook.last] + found[-1:]


def ordered(hooks: Sequence[Hook]) -> list[Hook]:
    """Return hooks in the order of a run: those that lead first, and the last ones last."""
    return sorted(hooks, key=lambda hook: (not hook.leads, hook.last))


def check_result(result: Any, before: Any) -> tuple[Any, Stop | RollBack | None]:
    """Return the memory and the action that `see` returned; TypeError for anything else.

    Args:
        result: The result of `see`.
        before: The memory that it was given, whose structure, shapes, and types the new one has.
    """
    if not A_RESULT.test(result):  # without the work of a message in each record
        A_RESULT(result, "the result of see")
    if result[0] is not before:
        check_memory(result[0], before)
    return result


def check_memory(memory: Any, before: Any) -> Any:
    """Return the memory of a hook; TypeError unless checkpoints can save and restore it.

    Args:
        memory: A pytree of arrays and numbers.
        before: A pytree with the structure, shapes, and types that it must have.
    """
    kinds = bool | int | float | jax.Array | np.ndarray | np.generic
    lines = []
    if not all(isinstance(leaf, kinds) for leaf in jax.tree.leaves(memory)):
        lines = [
            f"{path or 'the memory'} is {brief(leaf)}"
            for path, leaf in leaves_by_path(memory).items()
            if not isinstance(leaf, kinds)
        ]
    check_none(
        (lines or tree_differences(before, memory, "the memory"))[:3],
        "a hook's memory is a pytree of arrays and numbers, which keeps its structure, shapes, and "
        "types, so that checkpoints can restore it",
        "return the whole memory from begin, with zeros for what is not known yet, and keep other "
        "values in the hook that open(run) yields",
        TypeError,
    )
    return memory


def memory_spec(hook: Hook, state: Any) -> Any:
    """Return the first memory of a hook as shapes and types, without a copy of the state in it.

    Types of NumPy arrays are kept, including 64-bit types that JAX would shorten.
    """
    memories: list[Any] = []

    def begin(state: Any) -> Any:
        memories.append(hook.begin(state))
        return memories[0]

    def kept(spec: Any, leaf: Any) -> Any:
        held = isinstance(leaf, np.ndarray | np.generic)
        return jax.ShapeDtypeStruct(spec.shape, leaf.dtype) if held else spec

    return jax.tree.map(kept, jax.eval_shape(begin, state), memories[0])


def begun(label: str, hook: Hook, state: Any, restored: Mapping[str, Any]) -> Any:
    """Return the memory of a hook as a checkpoint kept it, or as it begins without one.

    A memory of another structure in the checkpoint is a warning.

    Args:
        label: The hook's name in checkpoints.
        hook: The hook, opened.
        state: The state that the run begins with.
        restored: The leaves of the memories in the checkpoint, by path.
    """
    found = {path: leaf for path, leaf in restored.items() if f"{path}/".startswith(f"{label}/")}
    if found:
        shapes = memory_spec(hook, state)
        paths = leaves_by_path({label: shapes})
        if found.keys() == paths.keys():
            return jax.tree.unflatten(jax.tree.structure(shapes), [found[path] for path in paths])
        warn(
            f"the checkpoint has {listed(sorted(found))} of the memory of {hook!r:.200}, which "
            f"begins with {listed(sorted(paths)) or 'none'}: it begins again, as in a new run"
        )
    memory = hook.begin(state)
    return check_memory(memory, memory)


def check_metric(metric: str, run: Any, call: str) -> None:
    """Raise ValueError for a metric that a run does not have.

    Args:
        metric: The name.
        run: The run.
        call: The call of the hook that watches the metric, with "{!r}" in place of its name.
    """
    if metric not in run.names:
        close = difflib.get_close_matches(metric, sorted(run.names), 1, 0) or ["loss"]
        raise ValueError(
            f"{call.format(metric)}: {metric!r} is not a metric of this run, which has "
            f"{', '.join(sorted(run.names)) or 'none'}; write {call.format(close[0])}, or, if "
            f"{metric!r} is added by a train.Evaluate or by train.fit(..., validation=data), write "
            "that before it in hooks="
        )


def is_maximized(metric: str, run: Any, maximize: bool | None, call: str) -> bool:
    """Return whether a metric is maximized: as stated, or else as the program declares it.

    Args:
        metric: The name in the records.
        run: The run.
        maximize: The direction that the hook declares, or None.
        call: As for `check_metric`.

    Raises ValueError if the run does not have the metric, or if its direction is not known.
    """
    check_metric(metric, run, call)
    found = run.directions.get(metric) if maximize is None else maximize
    if found is None:
        raise ValueError(
            f"the direction of {metric!r} is unknown: write {call.format(metric)[:-1]}, "
            "maximize=True) or maximize=False, or return train.Mean(value, maximize=True) from the "
            f"program; known are {', '.join(sorted(run.directions)) or 'none'}"
        )
    return found


class named:
    """A context in which errors are noted with the hook that raised them, and when.

    A class, since a generator costs three times as many calls, for each hook at each record.
    """

    def __init__(self, hook: Hook, call: str) -> None:
        self.hook: Hook = hook
        self.call: str = call

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Add the note to an error."""
        if isinstance(error, Exception):
            error.add_note(f"raised by the hook {title(self.hook)} in {self.call}")


def title(value: Any) -> str:
    """Return a hook or a program as the call that makes it, without the numbers of its arrays."""
    if not dataclasses.is_dataclass(value):
        return f"{value!r:.200}"
    fields = [f for f in dataclasses.fields(value) if getattr(value, f.name) is not f.default]
    parts = (f"{field.name}={brief(getattr(value, field.name))}" for field in fields)
    return f"{type(value).__name__}({', '.join(parts)})"


def warn(text: str) -> None:
    """Warn about what a run survives."""
    warnings.warn(text, RuntimeWarning, stacklevel=3)
