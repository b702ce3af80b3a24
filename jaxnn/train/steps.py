"""Steps: the compiled steps of a program on the batches of a loader."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..data.augmented import augmented
from ..data.rows import row_count
from ..keys import kept_key
from .dispatch import steps_at_once
from .loading import ArrayLoader, Batches, Loader
from .program import Program, code_of
from .step import placed_step, remembered


class Steps:
    """The compiled steps of a program on the batches of a loader.

    Args:
        program: The program.
        loader: Its batches.
        functions: The augmentations of its batches.
        words: The words of the run's root key.
        placement: The placement of the state and the batches.
    """

    def __init__(
        self, program: Program, loader: Loader, functions: Any, words: Any, placement: Any
    ) -> None:
        structure = jax.tree.structure(program)
        self._numbers = placement.put_numbers(program)
        self._loader, self._words, self._placement = loader, words, placement
        self._gathers = isinstance(loader, ArrayLoader)
        self._static = structure, code_of(program), self._gathers, functions, placement
        self._compiled: Any = None

    def check(self, state: Any, count: int) -> Any:
        """Return the metrics of `count` steps as shapes, and raise for steps that cannot run.

        The compiled steps are traced, which is not repeated when they run.

        Args:
            state: The state before the first step.
            count: The number of steps.
        """
        items = self._loader.spec()
        if self._gathers:
            items = jax.ShapeDtypeStruct((count, row_count(items)), jnp.int32)
        else:
            items = self._placement.batch_like(items)
        numbers = jax.ShapeDtypeStruct((count,), jnp.int32)
        arguments = self._numbers, state, self._words, numbers, items, self._loader.arrays
        traced = self._steps_for(state).trace(*arguments)
        _, metrics = traced.out_info
        for name in {"step", "epoch"} & metrics.keys():
            raise ValueError(
                f"the program reports a metric {name!r}, but that is the name of another number in "
                "the records of a run; return it under another name"
            )
        loader = self._loader
        loader.at_once = steps_at_once(
            traced.jaxpr.jaxpr, count, loader.at_once, loader.steps_per_epoch
        )
        return metrics

    def __call__(self, state: Any, step: int, batches: Batches) -> tuple[Any, dict[str, Any]]:
        """Return the state after the steps, and the metrics of each, stacked.

        Args:
            state: The state before them.
            step: The number of steps before them.
            batches: Their batches.
        """
        numbers = np.arange(step, step + batches.steps, dtype=np.int32)
        items, arrays = batches.items, self._loader.arrays
        return self._steps_for(state)(self._numbers, state, self._words, numbers, items, arrays)

    def _steps_for(self, state: Any) -> Any:
        """Return the compiled steps, which keep states where the first one is."""
        if self._compiled is None:
            self._compiled = _compiled_steps(*self._static, self._placement.layout(state))
        return self._compiled


@remembered
def _compiled_steps(
    structure: Any, code: Any, gathers: bool, functions: Any, placement: Any, layout: Any
) -> Callable[..., Any]:
    """Return the jitted function (numbers, state, words, steps, items, arrays) of steps."""

    def run(
        numbers: Any, state: Any, words: Any, steps: Any, items: Any, arrays: Any
    ) -> tuple[Any, Any]:
        program = jax.tree.unflatten(structure, numbers)

        def step(state: Any, given: Any) -> tuple[Any, Any]:
            number, chosen = given
            batch = items
            if gathers:
                batch = jax.tree.map(lambda leaf: leaf[chosen], arrays)
            if functions:
                key = jax.random.fold_in(jax.random.fold_in(kept_key(words), number), 1)
                batch = augmented(functions, key, placement.pinned_batch(batch))
            return placed_step(program, state, batch, placement, layout)

        given = steps, items if gathers else None
        if steps.shape[0] == 1:  # without a loop
            state, metrics = step(state, jax.tree.map(lambda leaf: leaf[0], given))
            return state, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], metrics)
        state, metrics = lax.scan(step, state, given)
        # Again, since XLA may place the results of a loop differently from its steps.
        return placement.pinned(state, layout), placement.pinned_whole(metrics)

    return jax.jit(run, donate_argnums=1)
