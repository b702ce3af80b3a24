"""The step of a program, compiled: `make_step`, and what compiled functions are remembered by."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from ..data.check import saturated_batch
from ..random import is_outside
from .placed_step import placed_step
from .placement import SINGLE_DEVICE
from .program import Program, check_program, code_of
from .state import separate

KEPT = 32
"""Compiled functions that a process keeps. Each takes 2 MB of memory or more, even a small one."""


def make_step(program: Program, *, placement: Any = SINGLE_DEVICE) -> "Step":
    """The compiled step of a program: `state, metrics = step(state, batch)`.

    Programs with equal structure share compiled code, whatever their numbers, and a changed method
    or helper function of yours takes effect when `make_step` is called again. The memory of `state`
    is donated: use the one returned.

    Args:
        program: the `train.Program`.
        placement: where its arrays lie: one device by default. On a mesh, the state comes from
            `parallel.Placement.init`, and the new state lies as the first one did.

    Raises:
        TypeError: something other than a program; while tracing, a step that returns something else
            than a state like the one it is given, and metrics.

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
    return Step(program, placement)


class Step:
    """What `make_step` returns."""

    def __init__(self, program: Program, placement: Any) -> None:
        self._numbers, self._placement = placement.put_numbers(program), placement
        self._static = jax.tree.structure(program), code_of(program), placement
        self._compiled: Any = None

    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        """The state after the step, and the metrics of the batch."""
        compiled = self._compiled or self._for(state)
        batch = saturated_batch(batch)
        try:
            return compiled(state, batch, *self._numbers)
        except jax.errors.JaxRuntimeError as error:
            # XLA refuses to take the same memory twice, for example of a teacher that starts as the
            # student's own arrays. It does so before it takes any.
            if "donate the same buffer twice" not in str(error):
                raise
            return compiled(separate(state), batch, *self._numbers)

    def lower(self, state: Any, batch: Any) -> Any:
        """The step lowered for arguments of these shapes, as by `jax.jit(step).lower`."""
        return self._for(state).lower(state, batch, *self._numbers)

    def _for(self, state: Any) -> Any:
        """The compiled step, which keeps states where the first one lies."""
        if self._compiled is None:
            self._compiled = _compiled_step(*self._static, self._placement.layout(state))
        return self._compiled


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, with what it made for equal arguments kept, so that they share one program.

    All functions share one cache of `KEPT` entries. Inside a transform nothing is kept: what is
    made there may hold traced numbers, which must not outlive it.
    """

    @functools.wraps(make)
    def made(*arguments: Any) -> Any:
        return _kept(make, *arguments) if is_outside() else make(*arguments)

    return made


@functools.lru_cache(maxsize=KEPT)
def _kept(make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)


@remembered
def _compiled_step(structure: Any, code: Any, placement: Any, layout: Any) -> Callable[..., Any]:
    def step(state: Any, batch: Any, *numbers: Any) -> tuple[Any, Any]:
        program = jax.tree.unflatten(structure, numbers)
        return placed_step(program, state, batch, placement, layout)

    return jax.jit(step, donate_argnums=0)
