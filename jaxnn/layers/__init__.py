"""Layers: each owns its parameters and leaves the mathematics to `jaxnn.functional`.

Here are the validators of their fields and the checks of their inputs that several layers share.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..core.layer import Layer
from ..explain.text import describe
from ..functional.windows import NAMES, entries, per_axis
from ..validation import Accepts, each, instance, integer, is_number, natural, positive

# Names of the axes that a window slides over, by their number.
AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}

positive_size: Accepts = positive.such(hint="write for example {owner}({name}=128)")
axis_or_axes: Accepts = each(integer(), "an axis or a tuple of axes, such as -1 or (-2, -1)")
dropout_rate: Accepts = Accepts(
    "a dropout rate in [0, 1)",
    # Rates are converted to float32, in which 0.99999999 is 1.
    lambda v: is_number(v) and v >= 0 and bool(np.float32(v) < 1),
    hint="write for example {owner}({name}=0.1); rates are rounded to float32",
    traced=True,
)
plain_function: Accepts = Accepts(
    "a plain function such as jax.nn.gelu",
    lambda v: callable(v) and not isinstance(v, Layer),
    TypeError,
)
cache_length: Accepts = natural.such(
    what="a number of positions, an int >= 0 (0 for no cache)",
    hint="write for example nn.with_cache(net, length=256)",
)
path_pattern: Accepts = instance(str, "a path pattern such as '**/w'")
copies: Accepts = positive.such(what="a number of copies, an int >= 1")


@functools.cache
def sizes(axes: int | None = None, least: int = 1) -> Accepts:
    """Accept an int >= `least`, or a tuple with one for each axis; 1 to 3 axes by default."""
    which = "1 to 3 axes" if axes is None else f"the {axes} axes of the kernel"
    what = f"an int >= {least}, or a tuple with one for each of {which}"
    return each(integer(least), what, tuple(AXES) if axes is None else (axes,))


def check_window(layer: Any, paddings: tuple[str, ...] = NAMES) -> int:
    """Return the number of axes of a kernel; raise unless the window's other fields have them.

    Args:
        layer: Layer with `kernel_size`, and some of `stride`, `dilation`, and `padding`.
        paddings: Names of paddings that it accepts.
    """
    axes, owner = len(per_axis(layer.kernel_size, 1)), type(layer).__name__
    for name in ("stride", "dilation"):
        if getattr(layer, name, None) is not None:
            sizes(axes)(getattr(layer, name), f"{owner}.{name}")
    entries(getattr(layer, "padding", "valid"), axes, paddings, f"{owner}.padding")
    return axes


def check_divides(config: Any, divisor: str, whole: str) -> None:
    """Raise ValueError unless one field divides another.

    Args:
        config: Layer or configuration.
        divisor: Name of the field that must divide the other.
        whole: Name of the other field.
    """
    total = getattr(config, whole)
    divides = Accepts(f"a divisor of {whole}={total}", lambda part: total % part == 0)
    divides(getattr(config, divisor), f"{type(config).__name__}.{divisor}")


def check_rank(x: Any, least: int, wanted: str) -> None:
    """Raise unless the input is an array of at least `least` axes; `wanted` is the shape."""
    shape = getattr(x, "shape", None)
    if shape is None or len(shape) < least:
        kind, what, hint = ValueError, "input", ""
        if shape is None:
            kind, what, hint = TypeError, "array", "; use jnp.asarray(x)"
        raise kind(f"expected an {what} of shape {wanted}, got {describe(x)}{hint}")


def distinct_axes(x: Any, axis: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return axes of x counted from 0; raise ValueError unless x has them, each one once."""
    check_rank(x, 0, "(...)")
    axes, ndim = axis if isinstance(axis, tuple) else (axis,), len(x.shape)
    found = tuple(i % ndim for i in axes if -ndim <= i < ndim)
    if len(set(found)) < len(axes):
        raise ValueError(f"axis={axis!r} must name distinct axes that {describe(x)} has")
    return found


def check_sequence(x: Any, axes: int = 1, wanted: str = "(..., T, features)") -> None:
    """Raise unless x is an array of at least one step, with `axes` axes after that of time."""
    check_rank(x, axes + 1, wanted)
    check_not_empty(x, (-1 - axes,), "a sequence of at least one step")


def check_not_empty(x: Any, axes: Iterable[int], what: str) -> None:
    """Raise ValueError if an axis of x has no elements; `what` is expected."""
    if any(x.shape[axis] == 0 for axis in axes):
        raise ValueError(f"expected {what}, got {describe(x)}")


def check_multiples(
    x: Any, what: str, sizes: tuple[int, ...], divisors: tuple[int, ...], hint: str
) -> None:
    """Raise ValueError unless sizes are multiples of divisors.

    Args:
        x: Array with these sizes.
        what: What they are, such as "channels".
        sizes: Sizes of some axes.
        divisors: A divisor for each size.
        hint: What to change.
    """
    if any(n % divisor for n, divisor in zip(sizes, divisors, strict=True)):
        shown = (sizes[0], divisors[0]) if len(sizes) == 1 else (tuple(sizes), divisors)
        raise ValueError(
            f"the {what} of {describe(x)}, {shown[0]}, must be a multiple of {shown[1]}: {hint}"
        )


def check_direction(layer: Any) -> None:
    """Raise ValueError if a layer that processes a sequence from its end keeps a cache."""
    if layer.cache and layer.reverse:
        raise ValueError(
            f"{type(layer).__name__}(reverse=True) processes a sequence from its end, so it cannot "
            "receive one in chunks; exclude it from nn.with_cache(net, match=...)"
        )


def check_not_training(
    layer: Layer,
    train: bool,
    what: str = "keeps a cache of {layer.cache} positions",
    maker: str = "nn.with_cache, which has the same parameters",
) -> None:
    """Raise ValueError if a layer that is for inference only is trained.

    Args:
        layer: The layer.
        train: Whether this is training.
        what: The reason why it cannot be trained. Default: its cache.
        maker: The function that made it from a network. Default: `nn.with_cache`.
    """
    if train:
        raise ValueError(
            f"{type(layer).__name__} {what.format(layer=layer)}, which is for inference only: "
            f"train the network that was passed to {maker}"
        )
