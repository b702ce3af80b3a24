"""TrainState: all that a training step changes, in one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import State
from ..core.layer import Layer


class TrainState(NamedTuple):
    """Parameters, the network's state, the optimizer's state, the step count and the root key.

    The random key of step i is `jax.random.fold_in(key, i)`, so a run that is interrupted and goes
    on has the same numbers as one that never stopped.

    A named tuple and raw key words, uint32 (2,), because a jitted call takes these faster than a
    dataclass and a typed key; `ts._replace(...)` gives a state with something changed. The words of
    an `rbg` key have the shape (4,), those of an `unsafe_rbg` key (1, 4).
    """

    params: Any
    state: State
    opt_state: Any
    step: jax.Array
    key: jax.Array

    @classmethod
    def create(
        cls, net: Layer, optimizer: Any, key: jax.Array, *inputs: Any, **named: Any
    ) -> "TrainState":
        """The state before the first step: `net.init(key, *inputs)`, and fresh everything else.

        `inputs` are arrays or `jax.ShapeDtypeStruct`, a batch or any part of one.
        """
        key = paths.as_key(key)
        params = net.init(key, *inputs, **named)
        return cls(
            params=params,
            state=net.init_state(*inputs, **named),
            opt_state=optimizer.init(params),
            step=jnp.zeros((), jnp.int32),
            # A copy: a step takes the memory of its argument, and the caller keeps the key.
            key=jnp.copy(paths.kept_words(key)),
        )
