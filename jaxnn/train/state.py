"""TrainState: all that a training step changes, in one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import State
from ..core.layer import Layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters, the network's state, the optimizer's state, the step count and the root key.

    The random key of step i is `jax.random.fold_in(key, i)`, so a run that is interrupted and goes
    on has the same numbers as one that never stopped. The key is held as raw words, uint32 (2,),
    which a step dispatches faster than a typed key.
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
            key=jnp.copy(jax.random.key_data(key)),
        )
