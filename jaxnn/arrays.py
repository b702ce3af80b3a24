"""Arrays on their way through a network: floating types, zeros in place of padding, and shapes.

Positions with segment 0 are replaced by zeros before a layer receives them. Shapes are inferred by
a forward that is traced by `init` and never computed.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

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
