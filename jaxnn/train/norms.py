"""Norms of gradients and updates, by path."""

from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from .task import Metrics


def norms_by_path(pattern: str, gradients: Any, updates: Any) -> Metrics:
    """`gradient_norm` and `update_norm`, of all together and of each parameter that fits.

    A norm is the square root of the sum of squares, taken in at least float32; those by path are
    called `gradient_norm/PATH` and `update_norm/PATH`. Parameters stacked by `Repeat` count as one;
    parameters under `nn.Inference`, for which the trees have None, do not count.
    Raises ValueError if no path fits the pattern.

    >>> import jax.numpy as jnp
    >>> norms = norms_by_path("*/w", ({"w": jnp.array([3.0, 4.0])},), ({"w": jnp.zeros(2)},))
    >>> {name: float(norm) for name, norm in norms.items()}
    {'gradient_norm': 5.0, 'gradient_norm/0/w': 5.0, 'update_norm': 0.0, 'update_norm/0/w': 0.0}
    """
    found: Metrics = {}
    for name, tree in (("gradient_norm", gradients), ("update_norm", updates)):
        leaves = [(path, leaf) for path, leaf in paths.walk(tree) if leaf is not None]
        squares = {paths.text(path): _sum_of_squares(leaf) for path, leaf in leaves}
        fits = [path for path in squares if paths.matches(pattern, path)]
        if not fits:
            raise ValueError(
                f"log_norms={pattern!r} fits no parameter; there are: "
                f"{', '.join(squares) or 'none'}"
            )
        found[name] = jnp.sqrt(sum(squares.values()))  # type: ignore[arg-type]
        found |= {f"{name}/{path}": jnp.sqrt(squares[path]) for path in fits}
    return found


def _sum_of_squares(leaf: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))))
