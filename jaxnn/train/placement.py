"""The default placement of the arrays of a run, one device; a mesh has `parallel.Placement`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .state import owned, strong


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
        """Return the state that a step returns, where the one before it was."""
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
        return jax.tree.map(jnp.asarray, tree)

    def put_batch(self, batch: Any) -> Any:
        """Return a batch of this process that a source returned."""
        return jax.device_put(batch)

    def batch_like(self, batch: Any) -> Any:
        """Return the shapes of a batch, as `put_batch` returns it."""
        return batch

    def put_numbers(self, program: Any) -> list[Any]:
        """Return the leaves of a program, as arguments of its compiled code."""
        leaves = jax.tree.leaves(program)  # a call takes arrays faster than Python floats
        return [jnp.asarray(leaf) if isinstance(leaf, float) else leaf for leaf in leaves]


SINGLE_DEVICE = SingleDevice()
