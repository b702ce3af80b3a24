"""Padding of inputs: positions with segment 0 are replaced by zeros before a layer sees them."""

from typing import Any

import jax
import jax.numpy as jnp


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
