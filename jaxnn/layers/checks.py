"""Validation shared by layers. Only concrete numbers are checked; traced ones pass."""

from typing import Any

import numpy as np

from ..core.layer import Layer
from ..explain.text import describe
from ..fields import is_traced
from ..functional.convolution import per_axis

# Names of the axes that a window slides over, by their number.
AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}


def check_positive(layer: Layer, *names: str) -> None:
    """Raise ValueError unless each field is an int >= 1."""
    for name in names:
        number = getattr(layer, name)
        if is_traced(number):
            raise TypeError(
                f"{type(layer).__name__}.{name} is the traced number {number}, but sets a shape: "
                "pass a Python int, for example by static_argnums of jax.jit"
            )
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"{type(layer).__name__}.{name} must be an int >= 1, got {number!r}; write for "
                f"example {type(layer).__name__}({name}=128)"
            )


def check_per_axis(layer: Layer, name: str, axes: int | None = None, least: int = 1) -> int:
    """Check that a field is an int >= `least`, or a tuple with one for each axis.

    Returns the number of axes: `axes` if given, otherwise the length of the field. Raises
    ValueError if the field is invalid.
    """
    where, sizes = f"{type(layer).__name__}.{name}", getattr(layer, name)
    numbers = per_axis(sizes, axes or 1)
    for n in numbers:
        if is_traced(n):
            raise TypeError(
                f"{where} holds the traced number {n}, but it sets a shape: pass a Python int, for "
                "example by static_argnums of jax.jit"
            )
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= least for n in numbers)
    if not whole or len(numbers) not in (AXES if axes is None else (axes,)):
        each = "1 to 3 axes" if axes is None else f"the {axes} axes of the kernel"
        raise ValueError(
            f"{where} must be an int >= {least}, or a tuple with one for each of {each}; got "
            f"{sizes!r}"
        )
    return len(numbers)


def check_flags(layer: Layer, *names: str) -> None:
    """Raise TypeError unless each field is True or False (rather than a number of features)."""
    for name in names:
        flag = getattr(layer, name)
        if not isinstance(flag, bool):
            raise TypeError(
                f"{type(layer).__name__}.{name} must be True or False, got {flag!r}; the number of "
                "input features is inferred from the input"
            )


def check_rank(layer: Layer, x: Any, least: int, wanted: str) -> None:
    """Raise if the input is not an array of at least `least` axes; `wanted` is the shape."""
    if not hasattr(x, "shape"):
        raise TypeError(f"expected an array of shape {wanted}, got {x!r}; use jnp.asarray(x)")
    if len(x.shape) < least:
        raise ValueError(f"expected an input of shape {wanted}, got {describe(x)}")


def check_not_training(layer: Layer, train: bool) -> None:
    """Raise ValueError if a layer that keeps a cache is trained."""
    if train:
        raise ValueError(
            f"{type(layer).__name__} keeps a cache of {layer.cache} positions, which is for "
            "inference only: train the network that was passed to nn.with_cache; the parameters "
            "are the same"
        )


def check_activation(layer: Layer, name: str) -> None:
    """Raise TypeError unless a field is a plain function of an array."""
    function = getattr(layer, name)
    if isinstance(function, Layer) or not callable(function):
        raise TypeError(
            f"{type(layer).__name__}.{name} must be a plain function such as jax.nn.gelu, got "
            f"{function!r}"
        )


def check_share(layer: Layer, name: str) -> None:
    """Raise ValueError unless a field is a dropout rate in [0, 1)."""
    rate = getattr(layer, name)
    if is_traced(rate):
        return
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not number or not 0.0 <= rate < 1.0:
        raise ValueError(
            f"{type(layer).__name__}.{name} must be a dropout rate in [0, 1); got {rate!r}"
        )
    if np.float32(rate) == 1:  # rates are converted to float32
        raise ValueError(
            f"{type(layer).__name__}.{name} must be a dropout rate in [0, 1); got {rate!r}, which "
            f"is 1 in float32: write {type(layer).__name__}({name}=0.999), or a lower rate"
        )


def check_cache(layer: Layer) -> None:
    """Raise ValueError unless the field `cache` is an int >= 0, a number of positions."""
    if not isinstance(layer.cache, int) or isinstance(layer.cache, bool) or layer.cache < 0:
        raise ValueError(
            f"{type(layer).__name__}.cache must be a number of positions, 0 for none; got "
            f"{layer.cache!r}; write for example nn.with_cache(net, length=256)"
        )
