"""Declarations: what a layer says of its parameters and state before any number exists.

A layer declares a `Param` for every weight and bias and a `Variable` for every piece of state. The
declarations of a whole network are nested as its parameters are, so `net.spec(x)` is a tree of
`Param` that has the structure of `net.init(key, x)`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import paths
from .initializers import InitFn, Initializer, zeros
from .values import Value, code


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
        if not isinstance(self.shape, tuple) or not all(map(_is_size, self.shape)):
            raise ValueError(f"a declared shape is a tuple of ints >= 0, got {self.shape!r}")
        if not isinstance(self.init, Initializer):
            _check_initializer(self.init)
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


def _is_size(n: Any) -> bool:
    if isinstance(n, int):
        return n >= 0
    from jax.export import is_symbolic_dim  # here: only a program with free axes has others

    return is_symbolic_dim(n)


def _check_initializer(init: Any) -> None:
    if not callable(init):
        raise TypeError(
            f"an initializer is a function of (key, shape, dtype), got {init!r}; write "
            "nn.normal(stddev) or nn.constant(value), say"
        )
    try:
        inspect.signature(init).bind(None, (), None)
    except TypeError:
        raise TypeError(
            f"an initializer takes (key, shape, dtype), which {code(init)} does not; write "
            f"{code(init)}(...) where that makes one"
        ) from None
    except ValueError:  # a builtin that does not tell what it takes
        return


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
        return jnp.zeros(x.shape, x.dtype)

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


def describe(tree: Any) -> str:
    """Shapes and types for an error: `float32[8,16]`, nested as the inputs are.

    >>> import jax.numpy as jnp
    >>> describe((jnp.zeros((8, 16)), 3))
    '(float32[8,16], 3)'
    """
    if isinstance(tree, tuple):
        return "(" + ", ".join(map(describe, tree)) + ")"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in tree.items()) + "}"
    if is_array(tree):
        return f"{tree.dtype}[{','.join(map(str, tree.shape))}]"
    return repr(tree)


def brief(tree: Any) -> str:
    """What came, in a few words for an error."""
    if isinstance(tree, (dict, tuple, list)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return describe(tree) if is_array(tree) else f"{tree!r:.80}"


def mismatches(declared: Any, given: Any, path: paths.Path = ()) -> list[str]:
    """Every difference between declared and given arrays, a line each: path, declared, given."""
    where = paths.text(path) or "the whole"
    if isinstance(declared, dict):
        if not isinstance(given, dict):
            return [f"{where}: declared {_kind(declared)}, got {_kind(given)}"]
        lines = [
            f"{paths.text((*path, name))}: declared {_kind(item)}, missing"
            for name, item in declared.items()
            if name not in given and _has_leaves(item)
        ]
        lines += [
            f"{paths.text((*path, name))}: not declared, got {_kind(item)}"
            for name, item in given.items()
            if name not in declared
        ]
        for name, item in declared.items():
            if name in given:
                lines += mismatches(item, given[name], (*path, name))
        return lines
    if isinstance(declared, (tuple, list)):
        if not isinstance(given, type(declared)) or len(given) != len(declared):
            hint = "; write a tuple" if isinstance(given, list) else ""
            return [f"{where}: declared {_kind(declared)}, got {_kind(given)}{hint}"]
        pairs = enumerate(zip(declared, given, strict=True))
        return [
            line for i, (one, other) in pairs for line in mismatches(one, other, (*path, str(i)))
        ]
    if not is_array(given):
        return [f"{where}: declared {_kind(declared)}, got {_kind(given)}"]
    if tuple(given.shape) != declared.shape:
        return [f"{where}: declared {declared.shape}, got {tuple(given.shape)}"]
    return []


def _has_leaves(tree: Any) -> bool:
    return next(paths.walk(tree), None) is not None


def _kind(item: Any) -> str:
    if is_array(item):
        return str(tuple(item.shape)) if isinstance(item, Declared) else describe(item)
    if isinstance(item, dict):
        return f"a dict {sorted(map(str, item))}" if item else "{}"
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    return "None" if item is None else f"{type(item).__name__} {item!r:.80}"
