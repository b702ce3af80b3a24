"""Arrays on their way through a network: floating types, padding, shapes, and checked values.

Positions with segment 0 are replaced by zeros before a layer receives them. Shapes are inferred by
a forward that is traced by `init` and never computed. Values that are known only when a program
runs, such as token ids, are checked inside `checking()`.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

from .core import paths
from .fields import is_array


def is_floating(leaf: Any) -> bool:
    """Return whether a leaf is an array of a floating type, or the shape of one."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_narrow(dtype: Any) -> bool:
    """Return whether a type is floating and narrower than float32.

    >>> import jax.numpy as jnp
    >>> is_narrow(jnp.bfloat16), is_narrow(jnp.float32), is_narrow(jnp.int8)
    (True, False, False)
    """
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def as_floating(tree: Any, dtype: Any) -> Any:
    """Convert the floating arrays, and shapes of floating arrays, of a tree to `dtype`."""

    def leaf(x: Any) -> Any:
        if not is_floating(x):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
        return x.astype(dtype)

    return jax.tree.map(leaf, tree)


def widened(tree: Any) -> Any:
    """Convert the arrays of narrow types of a tree to float32, which changes no number.

    >>> import jax.numpy as jnp
    >>> [a.dtype.name for a in widened((jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.int8)))]
    ['float32', 'int8']
    """
    return jax.tree.map(
        lambda x: x.astype(jnp.float32) if is_floating(x) and is_narrow(x.dtype) else x, tree
    )


def narrowed(wide: Any, tree: Any) -> Any:
    """Convert `widened(tree)` back to the types of `tree`."""
    return jax.tree.map(
        lambda w, x: w.astype(x.dtype) if is_floating(x) and is_narrow(x.dtype) else w, wide, tree
    )


def visible(
    layer: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs, with zeros at the positions that segment_ids passed by name mark.

    `segment_ids` mark the first input, and `memory_segment_ids` the input `memory`. An input
    without the axes of its segment_ids is unchanged. The zeros keep NaN and invalid tokens out of
    every layer: the gradient of a weight sums over padding too, and 0 * NaN is NaN.

    Args:
        layer: Layer.
        method: Name of its method.
        inputs: Inputs by position.
        named: Inputs by name.
    """
    names = layer._signature(method).inputs
    marked = {"segment_ids": 0}
    if "memory" in names:
        marked["memory_segment_ids"] = names.index("memory")
    for marks, place in marked.items():
        segment_ids: Any = named.get(marks)
        if not jnp.issubdtype(getattr(segment_ids, "dtype", bool), jnp.integer):
            continue
        if place < len(inputs):
            real = without_padding(inputs[place], segment_ids)
            inputs = (*inputs[:place], real, *inputs[place + 1 :])
        elif place < len(names) and names[place] in named and names[place] != marks:
            real = without_padding(named[names[place]], segment_ids)
            named = named | {names[place]: real}
    return inputs, named


def without_padding(item: Any, segment_ids: jax.Array) -> Any:
    """Return arrays with zeros where segment_ids are 0, if they have the axes of segment_ids."""

    def leaf(x: Any) -> Any:
        shape = tuple(getattr(x, "shape", ()))
        if shape[: segment_ids.ndim] != segment_ids.shape or not jnp.issubdtype(
            x.dtype, jnp.number
        ):
            return x
        real = jnp.reshape(
            segment_ids != 0, (*segment_ids.shape, *(1,) * (len(shape) - segment_ids.ndim))
        )
        return jnp.where(real, x, jnp.zeros_like(x))

    return jax.tree.map(leaf, item)


_ONLY_SHAPES: ContextVar[bool] = ContextVar("only_shapes", default=False)


def only_shapes() -> bool:
    """Return whether a forward is traced to infer shapes, as by `init`, and never computed."""
    return _ONLY_SHAPES.get()


def output_shapes(run: Callable[..., Any], *arguments: Any) -> Any:
    """Call `jax.eval_shape` on a forward, in which `only_shapes()` is True."""
    token = _ONLY_SHAPES.set(True)
    try:
        return jax.eval_shape(run, *arguments)
    finally:
        _ONLY_SHAPES.reset(token)


# ---- values that are known only when a program runs ----

# The path of the layer that is evaluated, if values are checked; None otherwise. Checks would cost
# every dispatch, so a function has them only if it is traced inside `checking()`, as by `checkify`.
_PATH: ContextVar[paths.Path | None] = ContextVar("jaxnn_checking", default=None)


@contextlib.contextmanager
def checking() -> Iterator[None]:
    """Trace functions inside with checks, which need `jax.experimental.checkify` around them."""
    from jax.experimental.xla_metadata import set_xla_metadata

    token = _PATH.set(())
    try:
        # Part of JAX's key for traces: a jitted function called inside is traced again, and its
        # trace is not used elsewhere.
        with set_xla_metadata(jaxnn="checked"):
            yield
    finally:
        _PATH.reset(token)


@contextlib.contextmanager
def checking_at(path: paths.Path) -> Iterator[None]:
    """Let errors of checks inside name the layer at `path`."""
    token = _PATH.set(path)
    try:
        yield
    finally:
        _PATH.reset(token)


def check_range(values: jax.Array, size: int, message: str) -> None:
    """Check that integers are in [0, size), if values are checked.

    Args:
        values: integers of any shape.
        size: the size of the range.
        message: the error; `{value}` in it is the first value outside of the range.
    """
    path = _PATH.get()
    if path is None or values.size == 0:
        return
    from jax.experimental import checkify

    flat = jnp.ravel(values)
    wrong = (flat < 0) | (flat >= size)
    where = f"at {paths.text(path)!r}: " if path else ""
    checkify.check(~jnp.any(wrong), where + message, value=flat[jnp.argmax(wrong)])
