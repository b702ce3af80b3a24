"""TrainState: all that a training step changes, in one pytree."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import State
from ..core.layer import Layer
from ..fields import is_traced
from ..keys import as_key, kept_words
from .blocks import for_network
from .optimizer import as_pytree


class Trained(Protocol):
    """What holds a network's parameters and state: a `TrainState`, or what a run folder gives."""

    @property
    def params(self) -> Any:
        """The parameters."""
        ...

    @property
    def state(self) -> Any:
        """The state, `{}` where the network keeps none."""
        ...


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

        `inputs` are arrays or `jax.ShapeDtypeStruct`, a batch or any part of one. The optimizer
        sees the blocks of stacked parameters as separate arrays, and no parameter under
        `nn.Inference`, by `train.for_network`. State that starts random is drawn from
        `nn.fold_in(key, "variables")`.
        """
        if "params" in named:
            raise TypeError(
                "TrainState.create draws the parameters; to start from given ones write "
                "train.TrainState.create(net, optimizer, key, x)._replace(params=params), or "
                "with opt_state=train.for_network(optimizer, net, x).init(params) too"
            )
        key = as_key(key)
        params = net.init(key, *inputs, **named)
        ts = cls(
            params=params,
            state=net.init_state(*inputs, key=state_key(key), **named),
            opt_state=for_network(as_pytree(optimizer), net, *inputs, **named).init(params),
            step=jnp.zeros((), jnp.int32),
            key=kept_words(key),
        )
        return owned(ts)


def state_key(key: jax.Array) -> jax.Array:
    """The key from which state that starts random is drawn, given the key of a run.

    No layer is called `variables`, so it is the key of no parameter.
    """
    return paths.fold_in(key, "variables")


def owned(tree: Any) -> Any:
    """The tree, with a copy of each array.

    A step donates the memory of its state. XLA refuses that if two leaves are one buffer, as those
    of optimizers that begin with the parameters as their state are, and the caller would lose an
    array that the optimizer or an initializer also holds, such as the key of `optax.add_noise`.
    """

    def leaf(array: Any) -> Any:
        if not isinstance(array, jax.Array) or is_traced(array):
            return array
        return jax.device_put(array, may_alias=False)  # unlike `jnp.copy`, it compiles nothing

    return jax.tree.map(leaf, tree)


def separate(tree: Any) -> Any:
    """The tree, with a copy of each array that shares its memory with an earlier one.

    A step donates the memory of its state, which XLA refuses if two leaves are one buffer.
    """
    seen: set[Any] = set()

    def leaf(array: Any) -> Any:
        if not isinstance(array, jax.Array) or is_traced(array):
            return array
        if is_key(array) or len(array.devices()) > 1:
            place: Any = id(array)
        else:
            place = array.unsafe_buffer_pointer()
        if place in seen:
            return jnp.copy(array)
        seen.add(place)
        return array

    return jax.tree.map(leaf, tree)


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys, as the state of `optax.add_noise` does, and not numbers."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def strong(leaf: Any) -> Any:
    """The leaf as an array that is not weakly typed, as a step would return it."""
    if hasattr(leaf, "dtype") and is_key(leaf):
        return leaf
    return jnp.asarray(leaf, jnp.result_type(leaf))


def without_keys(tree: Any) -> Any:
    """The tree with the words of keys, uint32, instead of the keys: it can leave the device."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def with_keys(tree: Any, like: Any) -> Any:
    """The tree that `without_keys` was given, of which `like` has the shapes and types."""

    def leaf(one: Any, like: Any) -> Any:
        if not is_key(like):
            return one
        return jax.random.wrap_key_data(one, impl=jax.random.key_impl(jnp.empty((), like.dtype)))

    return jax.tree.map(leaf, tree, like)
