"""Declarations: what a layer says of its parameters and state before any number exists.

A layer declares a `Param` for every weight and bias and a `Variable` for every piece of state. The
declarations of a whole network are nested as its parameters are, so `net.spec(x)` is a tree of
`Param` that has the structure of `net.init(key, x)`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..explain.definitions import check_initializer, is_size
from ..initializers import InitFn, Initializer, zeros
from . import paths
from .values import Value


class Declared(Value):
    """A declared array: its full shape, how it starts, and its type (the default float type when
    None is given).

    The last two fields are for wrappers. `stack` holds a pair `(levels, n)` for each leading axis
    that stacks n copies of a layer: copy i has the key `fold_in(key, i)`, folded `levels` segments
    above the array's own. `lift` is the number of the path's last segments that its key leaves out,
    so that several arrays can come from one draw.
    """

    shape: tuple[int, ...]
    init: InitFn = zeros()
    dtype: Any = None
    stack: tuple[tuple[int, int], ...] = ()
    lift: int = 0

    def __post_init__(self) -> None:
        """Check the shape and resolve the type."""
        if not isinstance(self.shape, tuple) or not all(map(is_size, self.shape)):
            raise ValueError(f"a declared shape is a tuple of ints >= 0, got {self.shape!r}")
        if not isinstance(self.init, Initializer):
            check_initializer(self.init)
        dtype = jax.dtypes.canonicalize_dtype(float if self.dtype is None else self.dtype)
        object.__setattr__(self, "dtype", dtype)

    @property
    def size(self) -> int:
        """The number of elements."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype).size

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def slice_shape(self) -> tuple[int, ...]:
        """The shape that one key draws: without the stacked axes."""
        return self.shape[len(self.stack) :]


class Param(Declared):
    """A declared parameter: `Param(shape, init, dtype)`.

    `frozen` is set by `nn.Inference`: no optimizer receives the parameter.

    >>> Param((784, 128)).shape
    (784, 128)
    """

    frozen: bool = False


class Variable(Declared):
    """A declared piece of state: `Variable(shape, init, dtype)`.

    State that starts constant, as with `nn.zeros()`, needs no key. Any other initializer draws from
    the key of its path, as for a parameter: `net.init_state(x, key=key)`.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> class Codebook(nn.Primitive):
    ...     def variables(self, x):
    ...         return {"codes": Variable((16, x.shape[-1]), nn.normal(1.0))}
    ...     def forward(self, params, x, *, state):
    ...         distances = jnp.sum((x[..., None, :] - state["codes"]) ** 2, -1)
    ...         return state["codes"][jnp.argmin(distances, -1)], state
    >>> state = Codebook().init_state(jnp.ones((2, 3)), key=jax.random.key(0))
    >>> jax.tree.map(jnp.shape, state)
    {'codes': (16, 3)}
    """


class Declaration(NamedTuple):
    """All that a layer says before it runs: parameters, state, and the shapes and types of its
    output and of collected values."""

    params: Any
    state: Any
    output: Any = None
    collected: dict[str, Any] = {}  # noqa: RUF012


def stacked(tree: Any, n: int) -> Any:
    """The declared parameters or state of n copies of a layer along a new leading axis."""

    def stack(path: paths.Path, one: Declared) -> Declared:
        levels = ((len(path), n), *one.stack)
        return dataclasses.replace(one, shape=(n, *one.shape), stack=levels)

    return paths.map_with_path(stack, tree)


def is_array(leaf: Any) -> bool:
    """Whether an input is an array or stands for one; anything else stays a Python value."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def abstract(tree: Any) -> Any:
    """`tree` with a `jax.ShapeDtypeStruct` for each array, in the types JAX will give them."""

    def leaf(x: Any) -> Any:
        if not is_array(x):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(leaf, tree)


def placeholder(tree: Any) -> Any:
    """Arrays of the shapes and types of `tree`, to trace with; other leaves stay as they are."""

    def leaf(x: Any) -> Any:
        if not is_array(x):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), x.shape)
        return lax.broadcast(np.zeros((), x.dtype), x.shape)  # traced in less time than jnp.zeros

    return jax.tree.map(leaf, tree)


def split_arrays(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The arrays of `tree`, and the function that puts others in their place.

    What is not an array stays a Python value, so it is never traced by a transform that is given
    the arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def join(arrays: Sequence[Any]) -> Any:
        filled = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            filled[i] = array
        return jax.tree.unflatten(structure, filled)

    return [leaves[i] for i in places], join
