"""Kernels of convolutions and transposed convolutions: sizes, parameters, and validation."""

import math
from typing import Any

from ..core.declarations import Param
from ..explain.text import describe
from ..functional.convolution import per_axis
from ..functional.padding import NAMES, entries
from .checks import AXES, check_flags, check_per_axis, check_rank


def kernel_sizes(layer: Any) -> tuple[int, ...]:
    """Return the size of the kernel along each axis."""
    return per_axis(layer.kernel_size, 1)


def kernel_parameters(layer: Any, x: Any, groups: int, features: int) -> dict[str, Param]:
    """Declare w, and b if there is a bias; raise ValueError if the input does not match."""
    check_image(layer, x)
    channels = x.shape[-1]
    if channels % groups:
        raise ValueError(
            f"the {channels} channels of {describe(x)} are not a multiple of groups={groups}; "
            f"write for example {type(layer).__name__}(..., groups={math.gcd(channels, groups)})"
        )
    declared = {"w": Param((*kernel_sizes(layer), channels // groups, features), layer.w_init)}
    return declared | {"b": Param((features,), layer.b_init)} if layer.bias else declared


def check_kernel(layer: Any, names: tuple[str, ...] = NAMES) -> int:
    """Check sizes, padding, and bias; return the number of axes. `names` are valid paddings."""
    axes = check_per_axis(layer, "kernel_size")
    check_per_axis(layer, "stride", axes)
    check_per_axis(layer, "dilation", axes)
    try:
        entries(layer.padding, axes, names)
    except ValueError as error:
        raise ValueError(f"{type(layer).__name__}.{error}") from None
    check_flags(layer, "bias")
    return axes


def check_groups(layer: Any, number: int, name: str) -> None:
    """Raise ValueError unless a number of channels or features is a multiple of the groups."""
    if number % layer.groups:
        owner = type(layer).__name__
        raise ValueError(
            f"{owner}.{name} must be a multiple of groups={layer.groups}, got {number}; write for "
            f"example {owner}({name}={-(-number // layer.groups) * layer.groups}, ...)"
        )


def check_image(layer: Any, x: Any) -> None:
    """Raise ValueError if an input has fewer axes than the kernel and its channels."""
    axes = len(kernel_sizes(layer))
    check_rank(layer, x, axes + 1, f"(..., {AXES[axes]}, channels)")
