"""Declarations: the parameters and state of a layer, before any array exists.

A layer declares a `Param` for every weight and bias, and a `Variable` for every array of state. The
declarations of a network are nested like its parameters, so `net.spec(x)` is a tree of `Param` with
the structure of `net.init(key, x)`.

They follow from an evaluation of the network with inputs that have only a shape and a type, and
with parameters that are `Unknown`: each call of a layer below, or of `parameters`, adds its
declaration to `Declaring`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..arrays import output_shapes
from ..explain.text import check_matches, check_not_read
from ..fields import is_array
from ..initializers import InitFn, zeros
from ..validation import Accepts, is_size, tuple_of
from . import paths
from .calls import Call, Outcome, Unknown, placeholder_key
from .values import Value, is_lasting

# Lengths may be symbolic in an exported program.
_SHAPE = tuple_of(Accepts("", is_size), "a tuple of ints >= 0", range(1000))


class Declared(Value):
    """A declared array: its full shape, its initializer, and its type.

    The last two fields are for wrappers. `stack` contains a pair `(levels, n)` for each leading
    axis that stacks n copies of a layer: copy i has the key `fold_in(key, i)`, folded `levels`
    segments above that of the array. `lift` is the number of last segments of the path that the key
    leaves out, so that several arrays can come from one draw.
    """

    shape: Annotated[tuple[int, ...], _SHAPE]
    init: InitFn = zeros()
    dtype: Any = None
    stack: tuple[tuple[int, int], ...] = ()
    lift: int = 0

    def __post_init__(self) -> None:
        """Replace a type of None by the default floating type."""
        dtype = jax.dtypes.canonicalize_dtype(float if self.dtype is None else self.dtype)
        object.__setattr__(self, "dtype", dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype).size

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def slice_shape(self) -> tuple[int, ...]:
        """Shape that one key draws, without the stacked axes."""
        return self.shape[len(self.stack) :]


class Param(Declared):
    """A declared parameter.

    Args:
        shape: Shape, a tuple of ints >= 0.
        init: Initializer, a function of (key, shape, dtype). Default: `zeros()`.
        dtype: Type. Default: the default floating type.
        stack: Stacked axes; set by wrappers. Default: ().
        lift: Number of last path segments that the key leaves out; set by wrappers. Default: 0.
        frozen: Whether no optimizer receives the parameter; set by `nn.Inference`. Default: False.

    >>> Param((784, 128)).shape
    (784, 128)
    """

    frozen: bool = False


class Variable(Declared):
    """A declared array of state.

    State with constant initial values, such as `nn.zeros()`, needs no key. Any other initializer
    draws from the key of its path, as for a parameter: `net.init_state(x, key=key)`.

    Args:
        shape: Shape, a tuple of ints >= 0.
        init: Initializer, a function of (key, shape, dtype). Default: `zeros()`.
        dtype: Type. Default: the default floating type.
        stack: Stacked axes; set by wrappers. Default: ().
        lift: Number of last path segments that the key leaves out; set by wrappers. Default: 0.

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
    """What a layer declares: parameters, state, and the shapes and types of its output and of
    collected values."""

    params: Any
    state: Any
    output: Any = None
    collected: dict[str, Any] = {}  # noqa: RUF012


def declare_copies(tree: Any, n: int) -> Any:
    """Return the declared parameters or state of n copies of a layer along a new leading axis."""

    def stack(path: paths.Path, one: Declared) -> Declared:
        levels = ((len(path), n), *one.stack)
        return dataclasses.replace(one, shape=(n, *one.shape), stack=levels)

    return paths.map_with_path(stack, tree)


def abstract(tree: Any) -> Any:
    """Return `tree` with a `jax.ShapeDtypeStruct` for each array, in the types used by JAX."""

    def leaf(x: Any) -> Any:
        if not is_array(x):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(leaf, tree)


def placeholder(tree: Any) -> Any:
    """Return arrays of the shapes and types of `tree` for tracing; other leaves are unchanged."""

    def leaf(x: Any) -> Any:
        if not is_array(x):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), x.shape)
        return lax.broadcast(np.zeros((), x.dtype), x.shape)  # faster to trace than jnp.zeros

    return jax.tree.map(leaf, tree)


def split_arrays(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return the arrays of `tree`, and a function that returns the tree with other arrays.

    Other leaves stay Python values, so a transform of the arrays does not trace them.
    """
    leaves, structure = jax.tree.flatten(tree)
    indices = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def join(arrays: Sequence[Any]) -> Any:
        filled = list(leaves)
        for i, array in zip(indices, arrays, strict=True):
            filled[i] = array
        return jax.tree.unflatten(structure, filled)

    return [leaves[i] for i in indices], join


# ---- how declarations follow from evaluation ----


def declared(layer: Any, method: str, inputs: Any, named: Any, casting: Any = None) -> Declaration:
    """Return the declaration of `layer` for abstract inputs, cached by layer and inputs."""
    leaves, structure = jax.tree.flatten((inputs, named))
    typed = tuple((type(leaf), leaf) for leaf in leaves)
    try:
        lasting = is_lasting(layer)
        hash((layer, typed))
    except TypeError:  # a traced number in the layer, or an input without a hash
        lasting = False
    if not lasting:
        return _traced(layer, Call({}, inputs, named, method=method, casting=casting))
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return _remembered(layer, method, structure, typed, wide, casting)


@functools.lru_cache(maxsize=2048)
def _remembered(
    layer: Any, method: str, structure: Any, typed: Any, wide: bool, casting: Any
) -> Declaration:
    inputs, named = jax.tree.unflatten(structure, [leaf for _, leaf in typed])
    return _traced(layer, Call({}, inputs, named, method=method, casting=casting))


def _traced(layer: Any, call: Call) -> Declaration:
    """Return the declaration of `layer`, by an evaluation that shares no trace with a transform
    around it."""
    frame = Declaring()
    arrays, join = split_arrays((call.inputs, call.named))

    def run(arrays: Any) -> Any:
        inputs, named = join(arrays)
        outcome = layer._evaluate(
            call.replace(params=Unknown(frame, ()), inputs=inputs, named=named, foreign=False)
        )
        return outcome.output, outcome.collected

    output, collected = output_shapes(run, arrays)
    check_not_read(sorted(frame.read - frame.found.keys()))
    params, state = layer._declared(frame)
    return Declaration(params, state, output, collected)


class Declaring:
    """The declarations of the calls in one evaluation with shapes only, by path.

    Children are declared at their paths. A primitive is declared at the path `()` of the layer
    itself, and so is the layer inside a wrapper.
    """

    def __init__(self) -> None:
        self.found: dict[paths.Path, Declaration] = {}
        self.state: dict[str, Any] = {}  # that a wrapper itself keeps
        self.read: set[paths.Path] = set()

    def run(self, layer: Any, call: Call) -> Outcome:
        """Keep the declaration of a layer, and return a placeholder for its outcome."""
        path = call.params.path
        before = self.found.get(path)
        if before is not None and call.method != "forward":
            # forward has declared what another method uses, whose inputs may differ.
            with contextlib.suppress(ValueError):  # it may reach layers that forward did not
                return layer._evaluate(on_placeholders(call, before.params, before.state))
        inputs, named = abstract((call.inputs, call.named))
        if call.interceptor is None:
            found = declared(layer, call.method, inputs, named, call.casting)
        else:
            found = _traced(layer, call.replace(inputs=inputs, named=named))
        self.found[path] = _joined(before, found) if before else found
        return Outcome(placeholder(found.output), {}, placeholder(found.collected))


def on_placeholders(call: Call, params: Any, state: Any) -> Call:
    """Return the call on placeholders for declared arrays."""
    params, state = placeholder((params, state))
    key = paths.PathKey(placeholder_key())
    return call.replace(params=params, state=state, key=key, foreign=False)


def _joined(before: Declaration, after: Declaration) -> Declaration:
    """Return the declaration of two calls of a layer, which may reach different children."""
    params = _filled(before.params, after.params)
    what = "called twice with inputs that need different parameters"
    check_matches(params, _filled(after.params, before.params), what)
    return after._replace(params=params, state=_union(before.state, after.state))


def _filled(one: Any, other: Any) -> Any:
    """Return the parameters `one`, with those of `other` in place of empty ones."""
    if isinstance(one, dict) and not one:
        return other
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {name: _filled(item, other[name]) for name, item in one.items()}
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return paths.same_kind(one, [_filled(a, b) for a, b in zip(one, other, strict=True)])
    return one


def _union(one: Any, other: Any) -> Any:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    both = {name: _union(item, other[name]) for name, item in one.items() if name in other}
    return one | other | both
