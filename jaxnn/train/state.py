"""TrainState: all that a training step changes, in one pytree."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import State
from ..explain.text import brief
from ..fields import is_traced
from ..validation import Accepts


class Trained(Protocol):
    """A network's parameters and state: a `TrainState`, or what is read from a run folder."""

    @property
    def params(self) -> Any:
        """The parameters."""
        ...

    @property
    def state(self) -> Any:
        """The state, `{}` if the network keeps none."""
        ...


trained_like: Accepts = Accepts(
    "a train.TrainState or a train.Weights",
    lambda value: hasattr(value, "params") and hasattr(value, "state"),
    TypeError,
    hint="write train.Weights(params, net.init_state(x)) for plain parameters",
    abstract=True,
)


class TrainState(NamedTuple):
    """Parameters, the network's state, the optimizer's state, the step count and the root key.

    The random key of step i is `jax.random.fold_in(key, i)`, so an interrupted and resumed run
    draws the same random numbers as an uninterrupted run. `ts._replace(...)` returns a modified
    state.

    Args:
        params: The parameters.
        state: The network's state, `{}` if it keeps none.
        opt_state: The optimizer's state.
        step: The number of completed steps, int32.
        key: The words of the root key: uint32 (2,), (4,) for `rbg`, and (1, 4) for `unsafe_rbg`.
    """

    # A named tuple and raw words, since a jitted call takes them faster than a dataclass and a key.

    params: Any
    state: State
    opt_state: Any
    step: jax.Array
    key: jax.Array


def state_key(key: jax.Array) -> jax.Array:
    """Return the key from which random initial state is drawn, given the key of a run.

    No layer is called `variables`, so no parameter has the same key.
    """
    return paths.fold_in(key, "variables")


def owned(tree: Any) -> Any:
    """Return the tree with a copy of each array.

    A step donates the memory of its state. XLA refuses that if two leaves are one buffer, as in
    optimizers whose state begins with the parameters, and the caller would lose an array that the
    optimizer or an initializer also holds, such as the key of `optax.add_noise`.
    """
    leaves, structure = jax.tree.flatten(tree)
    del tree  # each array is freed once it is copied, unless the caller holds it
    for i, leaf in enumerate(leaves):
        if is_traced(leaf):
            continue
        if isinstance(leaf, jax.Array) and (is_key(leaf) or not leaf.is_fully_addressable):
            leaves[i] = jnp.copy(leaf)  # `device_put` moves keys, and rejects parts elsewhere
        else:  # `jnp.copy` would compile
            leaves[i] = jax.device_put(leaf, may_alias=False)
    return jax.tree.unflatten(structure, leaves)


def by_path(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of any pytree with paths such as `opt_state/0/mu/0/w`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def tree_differences(before: Any, after: Any, whole: str) -> list[str]:
    """Return where two trees differ in structure, shapes, or types, as lines.

    Args:
        before: A pytree of arrays and Python numbers.
        after: Another one.
        whole: What the root is called.
    """
    one, other = jax.tree.structure(before), jax.tree.structure(after)
    if one == other and all(map(_are_alike, jax.tree.leaves(before), jax.tree.leaves(after))):
        return []
    given, found = dict(by_path(before)), dict(by_path(after))

    def text(leaves: dict[str, Any], path: str, absent: str) -> str:
        leaf = leaves.get(path, absent)
        if leaf is absent:
            return absent
        return "a number" if isinstance(leaf, bool | int | float) else brief(leaf)

    lines = [
        f"{path or whole} is {text(found, path, 'missing')} instead of "
        f"{text(given, path, 'nothing')}"
        for path in {**given, **found}
        if path not in given or path not in found or not _are_alike(given[path], found[path])
    ]
    return lines or [f"it is {other} instead of {one}"]


def _are_alike(one: Any, other: Any) -> bool:
    """Return whether both are Python numbers, or arrays of the same shape and type."""

    def kind(leaf: Any) -> Any:
        is_number = isinstance(leaf, bool | int | float)
        return None if is_number else (getattr(leaf, "shape", None), getattr(leaf, "dtype", None))

    return kind(one) == kind(other)


def is_key(leaf: Any) -> bool:
    """Return whether an array holds keys, as the state of `optax.add_noise` does."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def strong(leaf: Any) -> Any:
    """Return the leaf as an array that is not weakly typed, as a step would return it."""
    if hasattr(leaf, "dtype") and is_key(leaf):
        return leaf
    return jnp.asarray(leaf, jnp.result_type(leaf))


def without_keys(tree: Any) -> Any:
    """Return the tree with the words of keys, uint32, in place of keys."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def with_keys(tree: Any, like: Any) -> Any:
    """Return the tree that `without_keys` was given, with the types of `like`."""

    def leaf(one: Any, like: Any) -> Any:
        if not is_key(like):
            return one
        return jax.random.wrap_key_data(one, impl=jax.random.key_impl(jnp.empty((), like.dtype)))

    return jax.tree.map(leaf, tree, like)
