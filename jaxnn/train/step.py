"""The step of a program: checked, placed on one device, and compiled."""

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax

from ..data.check import saturated_batch
from ..explain import entry
from ..random import is_outside
from ..validation import Accepts, check_none
from .metrics import check_metrics, without_collected
from .program import Program, check_program, code_of, owned, strong, tree_differences


@dataclasses.dataclass(frozen=True)
class SingleDevice:
    """The default placement of the arrays of a program: JAX's default device.

    `parallel.Placement` has the same methods for a mesh. A placement is a hashable value, since
    compiled code depends on it. Its methods `pinned...` and `gathering` are called inside compiled
    code, the others outside.
    """

    def first_state(self, program: Any, key: jax.Array, batch: Any, given: Any = None) -> Any:
        """Return the state before the first step, in memory that a step may take.

        Args:
            program: The program.
            key: A typed key.
            batch: The first batch.
            given: A state to copy instead of `program.init(key, batch)`. Default: None.
        """
        if given is not None:
            return owned(given)
        return owned(jax.tree.map(strong, program.init(key, batch)))

    def like(self, program: Any, key: jax.Array, batch: Any, tree: Any) -> Any:
        """Return shapes and types with the sharding that the arrays will have.

        Args:
            program: The program.
            key: A typed key.
            batch: The first batch.
            tree: `{"state": ..., "memories": ...}`: shapes and types of a state, and of what hooks
                keep of it.
        """
        return tree

    def layout(self, state: Any) -> Any:
        """Return how a state is placed, as a hashable value, for `pinned` and `gathering`."""
        return None

    def pinned(self, state: Any, layout: Any) -> Any:
        """Return the state that a step returns, placed like the state before it."""
        return state

    def gathering(self, program: Any, state: Any, batch: Any, layout: Any) -> Any:
        """Return the program, whose networks gather the parts of weights when they use them."""
        return program

    def pinned_batch(self, batch: Any) -> Any:
        """Return a batch of a step, pinned to its place."""
        return batch

    def pinned_piece(self, piece: Any) -> Any:
        """Return a piece of an evaluation, of any number of rows, pinned to its place."""
        return piece

    def pinned_whole(self, tree: Any) -> Any:
        """Return metrics or predictions, which every device and every process needs."""
        return tree

    def put(self, tree: Any) -> Any:
        """Return arrays of which each device needs all rows."""
        return jax.device_put(tree, may_alias=False)  # `jnp.asarray` compiles for each shape

    def put_batch(self, batch: Any) -> Any:
        """Return a batch of this process that a source returned."""
        return jax.device_put(batch)

    def batch_like(self, batch: Any) -> Any:
        """Return the shapes of a batch, as `put_batch` returns it."""
        return batch

    def put_numbers(self, program: Any) -> list[Any]:
        """Return the leaves of a program, as arguments of its compiled code."""
        leaves = jax.tree.leaves(program)  # a call takes arrays faster than Python floats
        return [jax.device_put(leaf) if isinstance(leaf, float) else leaf for leaf in leaves]


SINGLE_DEVICE = SingleDevice()
valid_placement: Accepts = Accepts(
    "a parallel.Placement",
    lambda one: hasattr(type(one), "put_batch"),
    TypeError,
    "write placement=parallel.Placement(parallel.mesh(data=-1)), or leave it out for one device",
)


KEPT = 8
"""Compiled functions that a process keeps although nothing uses them. Each takes 1 MB or more."""


def make_step(program: Program, *, placement: Any = SINGLE_DEVICE) -> "Step":
    """Return the compiled step of a program: `state, metrics = step(state, batch)`.

    Programs with equal structure share compiled code, whatever their numbers. If a method or helper
    function changes, call `make_step` again. The memory of `state` is donated, so use only the
    returned state afterwards.

    Args:
        program: The `train.Program`.
        placement: Devices of the arrays, a `parallel.Placement`. On a mesh, create the first state
            with `parallel.init`; new states have the same shardings. Default: one device.

    Raises:
        TypeError: `program` is not a `train.Program`. While tracing: the step does not return
            metrics and a state with the structure of the given state.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> program = train.Supervised(nn.Dense(1), train.Regression(), optax.sgd(0.1))
    >>> batch = jnp.ones((4, 2)), jnp.ones(4)
    >>> state = program.init(jax.random.key(0), batch)
    >>> state, metrics = make_step(program)(state, batch)
    >>> int(state.step), sorted(metrics)
    (1, ['loss', 'mae'])
    """
    check_program(program, "make_step")
    valid_placement(placement, "placement")
    return Step(program, placement)


class Step:
    """The function that `make_step` returns."""

    def __init__(self, program: Program, placement: Any) -> None:
        self._numbers, self._placement = placement.put_numbers(program), placement
        self._static = jax.tree.structure(program), code_of(program), placement
        self._compiled: Any = None

    @entry
    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        """Return the state after the step, and the metrics of the batch.

        Args:
            state: The state before the step, whose memory is donated.
            batch: A pytree of rows.
        """
        compiled = self._compiled or self._for(state)
        batch = saturated_batch(batch)
        try:
            return compiled(state, batch, *self._numbers)
        except jax.errors.JaxRuntimeError as error:
            # XLA refuses to donate the same buffer twice, for example if a teacher starts with the
            # student's arrays. It raises the error before it donates any buffer.
            if "donate the same buffer twice" not in str(error):
                raise
            return compiled(owned(state), batch, *self._numbers)

    def lower(self, state: Any, batch: Any) -> Any:
        """Return the step lowered for arguments of these shapes, as by `jax.jit(step).lower`."""
        return self._for(state).lower(state, batch, *self._numbers)

    def _for(self, state: Any) -> Any:
        """Return the compiled step, which keeps states where the first one is."""
        if self._compiled is None:
            self._compiled = _compiled_step(*self._static, self._placement.layout(state))
        return self._compiled


def placed_step(
    program: Program, state: Any, batch: Any, placement: Any, layout: Any
) -> tuple[Any, Any]:
    """Take a step of a program as a pure function, with its arrays pinned to their places.

    Args:
        program: The program.
        state: Its state.
        batch: A pytree of rows.
        placement: A `SingleDevice` or a `parallel.Placement`.
        layout: The result of the placement's `layout` for the state.

    Returns:
        The state after the step, and the metrics of the batch. `Collected` metrics are dropped.
    """
    batch = placement.pinned_batch(batch)
    result = placement.gathering(program, state, batch, layout).step(state, batch)
    check_step(result, state, type(program).__name__)
    after, metrics = result
    return placement.pinned(after, layout), placement.pinned_whole(without_collected(metrics))


def check_step(result: Any, before: Any, owner: str) -> None:
    """Raise TypeError or ValueError for anything but a state like the one before, and metrics.

    Args:
        result: The result of a step.
        before: The state that was passed to it.
        owner: The name of the program's class.
    """
    _state_and_metrics(result, f"the result of {owner}.step")
    check_metrics(result[1], f"{owner}.step")
    check_none(
        tree_differences(before, jax.eval_shape(lambda: result[0]), "the state")[:5],
        f"{owner}.step must return a state like the given one, in structure, shapes, and types",
        "write new.astype(old.dtype), or return from init everything that step returns",
    )


_state_and_metrics = Accepts(
    "the new state and metrics",
    lambda result: isinstance(result, tuple) and len(result) == 2,
    TypeError,
    "write return state, {{'loss': loss}}",
    abstract=True,
)


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return `make`, which returns the same function for equal arguments while it is in use.

    The last `KEPT` functions, of all kinds, are kept when nothing uses them, so that equal programs
    in a row are compiled once. Inside a transform nothing is kept: a function created there may
    hold traced numbers, which must not outlive it.

    Args:
        make: Maps hashable arguments to a function.
    """

    @functools.wraps(make)
    def made(*arguments: Any) -> Any:
        return _recent(make, *arguments) if is_outside() else make(*arguments)

    return made


_in_use: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


@functools.lru_cache(maxsize=KEPT)
def _recent(*call: Any) -> Any:
    """Return the function of a call `(make, *arguments)`."""
    function = _in_use.get(call)
    if function is None:
        make, *arguments = call
        _in_use[call] = function = make(*arguments)
    return function


@remembered
def _compiled_step(structure: Any, code: Any, placement: Any, layout: Any) -> Callable[..., Any]:
    def step(state: Any, batch: Any, *numbers: Any) -> tuple[Any, Any]:
        program = jax.tree.unflatten(structure, numbers)
        return placed_step(program, state, batch, placement, layout)

    return jax.jit(step, donate_argnums=0)
