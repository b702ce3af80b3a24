"""Floating types of the leaves of a tree: tests and conversions."""

from typing import Any

import jax
import jax.numpy as jnp

from .core.declarations import is_array


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
