"""Where the arrays of a run lie: on one device; `parallel.Placement` is the one of a mesh."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .state import owned, strong


@dataclasses.dataclass(frozen=True)
class SingleDevice:
    """Where the arrays of a program lie by default: on JAX's default device.

    `parallel.Placement` has the same methods for a mesh. A placement is a hashable value, since
    compiled code depends on it. Its methods `pinned...` and `gathering` are called inside compiled
    code, the others outside.
    """

    def first_state(self, program: Any, key: jax.Array, batch: Any, given: Any = None) -> Any:
        """The state before the first step, in memory that a step may take.

        Args:
            program: the program.
            key: a typed key.
            batch: the first batch.
            given: a state to begin with instead of `program.init(key, batch)`, which is copied.
        """
        if given is not None:
            return owned(given)
        return owned(jax.tree.map(strong, program.init(key, batch)))

    def like(self, program: Any, key: jax.Array, batch: Any, tree: Any) -> Any:
        """Shapes and types with the sharding that the arrays are to have.

        Args:
            program, key, batch: as for `first_state`.
            tree: `{"state": ..., "memories": ...}`: shapes and types of a state, and of what hooks
                keep of it.
        """
        return tree

    def layout(self, state: Any) -> Any:
        """How a state lies, as a hashable value, for `pinned` and `gathering`."""
        return None

    def pinned(self, state: Any, layout: Any) -> Any:
        """The state that a step returns, where the one before it lay."""
        return state

    def gathering(self, program: Any, state: Any, batch: Any, layout: Any) -> Any:
        """The program, whose networks gather the parts of their weights where they use them."""
        return program

    def pinned_batch(self, batch: Any) -> Any:
        """A batch of a step, where it is to lie."""
        return batch

    def pinned_piece(self, piece: Any) -> Any:
        """A piece of an evaluation, of any number of rows, where it is to lie."""
        return piece

    def pinned_whole(self, tree: Any) -> Any:
        """Metrics and predictions, which every device and every process needs."""
        return tree

    def put(self, tree: Any) -> Any:
        """Arrays of which each device needs all rows."""
        return jax.tree.map(jnp.asarray, tree)

    def put_batch(self, batch: Any) -> Any:
        """A batch that a source gave, of this process."""
        return jax.device_put(batch)

    def batch_like(self, batch: Any) -> Any:
        """The shapes of a batch, as `put_batch` returns it."""
        return batch

    def put_numbers(self, program: Any) -> list[Any]:
        """The leaves of a program, as arguments of its compiled code."""
        return jax.tree.leaves(program)


SINGLE_DEVICE = SingleDevice()
