"""The checks that layers share. Only concrete numbers are looked at: traced ones pass."""

from typing import Any

import numpy as np

from ..core.layer import Layer
from ..explain.text import describe
from ..fields import is_traced
from ..functional.convolution import per_axis

# The axes that a window slides over, by their number.
AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}


def check_positive(layer: Layer, *names: str) -> None:
    """Raise ValueError where a field is not an int of at least 1."""
    for name in names:
        number = getattr(layer, name)
        if is_traced(number):
            raise TypeError(
                f"{type(layer).__name__}.{name} is the traced number {number}, but gives a shape: "
                "pass a Python int, under jax.jit by static_argnums"
            )
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"{type(layer).__name__}.{name} is an int >= 1, got {number!r}; write "
                f"{type(layer).__name__}({name}=128), say"
            )


def check_per_axis(layer: Layer, name: str, axes: int | None = None, least: int = 1) -> int:
    """The number of axes that the field's sizes are for: `axes`, or else as many as it has.

    Raises ValueError where it is neither an int of at least `least` nor a tuple with one for each.
    """
    where, sizes = f"{type(layer).__name__}.{name}", getattr(layer, name)
    numbers = per_axis(sizes, axes or 1)
    for n in numbers:
        if is_traced(n):
            raise TypeError(
                f"{where} holds the traced number {n}, but gives a shape: pass a Python int, under "
                "jax.jit by static_argnums"
            )
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= least for n in numbers)
    if not whole or len(numbers) not in (AXES if axes is None else (axes,)):
        each = "1 to 3 axes" if axes is None else f"the {axes} axes of the kernel"
        raise ValueError(
            f"{where} is an int >= {least}, or a tuple with one for each of {each}; got {sizes!r}"
        )
    return len(numbers)


def check_flags(layer: Layer, *names: str) -> None:
    """Raise TypeError where a field is neither True nor False, such as a number of features."""
    for name in names:
        flag = getattr(layer, name)
        if not isinstance(flag, bool):
            raise TypeError(
                f"{type(layer).__name__}.{name} is True or False, got {flag!r}; the sizes of the "
                "input are taken from it"
            )


def check_rank(layer: Layer, x: Any, least: int, wanted: str) -> None:
    """Raise ValueError where the input has fewer axes than `least`."""
    if not hasattr(x, "shape"):
        raise TypeError(f"wants an array of shape {wanted}, got {x!r}; write jnp.asarray(x)")
    if len(x.shape) < least:
        raise ValueError(f"wants an input of shape {wanted}, got {describe(x)}")


def check_not_training(layer: Layer, train: bool) -> None:
    """Raise ValueError where a layer that keeps a cache is trained."""
    if train:
        raise ValueError(
            f"{type(layer).__name__} keeps a cache of {layer.cache} positions, which is for "
            "inference: train the network that nn.with_cache received; the parameters are "
            "the same"
        )


def check_activation(layer: Layer, name: str) -> None:
    """Raise TypeError where a field is no plain function of an array."""
    function = getattr(layer, name)
    if isinstance(function, Layer) or not callable(function):
        raise TypeError(
            f"{type(layer).__name__}.{name} is a plain function such as jax.nn.gelu, got "
            f"{function!r}"
        )


def check_share(layer: Layer, name: str) -> None:
    """Raise ValueError where a field is not the share of something dropped, in [0, 1)."""
    rate = getattr(layer, name)
    if is_traced(rate):
        return
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not number or not 0.0 <= rate < 1.0:
        raise ValueError(
            f"{type(layer).__name__}.{name} is the share dropped, in [0, 1); got {rate!r}"
        )
    if np.float32(rate) == 1:  # the type in which it is computed with
        raise ValueError(
            f"{type(layer).__name__}.{name} is the share dropped, in [0, 1); got {rate!r}, which "
            f"is 1 in float32: write {type(layer).__name__}({name}=0.999), or a lower rate"
        )


def check_cache(layer: Layer) -> None:
    """Raise where the field `cache` is not a number of positions, an int of at least 0."""
    if not isinstance(layer.cache, int) or isinstance(layer.cache, bool) or layer.cache < 0:
        raise ValueError(
            f"{type(layer).__name__}.cache is a number of positions, 0 for none; got "
            f"{layer.cache!r}; write nn.with_cache(net, length=256), say"
        )
