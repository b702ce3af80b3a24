"""Padding at the entrance of a layer: positions that `segment_ids` mark count as zeros."""

from typing import Any

import jax
import jax.numpy as jnp


def visible(
    layer: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs, with zeros at the positions that segment_ids given by name mark as padding.

    `segment_ids` mark the first input and `memory_segment_ids` the input `memory`. An input without
    the axes of its segment_ids stays as it is. Zeros at the entrance keep NaN and invalid tokens
    out of every layer: the gradient of a weight sums over padding too, and 0 * NaN is NaN.
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
    """An input with zeros where segment_ids are 0; arrays without the axes of segment_ids stay."""

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
