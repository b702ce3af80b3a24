"""Convolutions over 1 to 3 axes, channels last, and transposed convolutions."""

import contextlib
import functools
import itertools
import math
import operator
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.interpreters import ad, batching, mlir

from ..arrays import widened
from ..explain.text import describe
from .gradients import shared_sum, spread
from .linear import to_compute_type, wider_type
from .windows import MODES, Padding, PerAxis, check_span, entries, fill, padding_lengths, per_axis

# Names of the axes of an input and of a kernel, by the number of spatial axes.
LAYOUTS = {1: ("NWC", "WIO"), 2: ("NHWC", "HWIO"), 3: ("NDHWC", "DHWIO")}


class Places(NamedTuple):
    """The places of a convolution.

    `y[t] = sum_i x[p(t, i)] @ w[i]` with p(t, i) = (t * stride + i * dilation - before) / hole, in
    groups of channels. Terms whose place is not an integer or lies outside x are 0.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    holes: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int


def convolution(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding: Padding = "same",
) -> jax.Array:
    """Convolve: `y[t] = sum_i x[t * stride + i * dilation] @ w[i] + b`, with x padded.

    Along an axis of s elements, padded to p, the output has length
    (p - (window - 1) * dilation - 1) // stride + 1.

    Args:
        x: Array of shape `(..., *axes, n)` with any number of batch axes.
        w: Kernel of shape `(*window, n / groups, m)`, with 1 to 3 axes in `window`.
        b: Bias of shape (m,), or None.
        stride: Step between windows. Default: 1.
        dilation: Step between the elements of a window. Default: 1.
        groups: Number of groups of neighboring channels. Each group of output features is computed
            from its own group of input channels. Default: 1.
        padding: See `functional.windows`. Default: "same".

    Returns:
        Array of shape `(..., *output axes, m)`, in the type of x.

    Raises:
        ValueError: If the window is longer than the padded input.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(4.0)[:, None]
    >>> convolution(x, jnp.ones((3, 1, 1)))[:, 0].tolist()
    [1.0, 3.0, 6.0, 5.0]
    >>> convolution(x, jnp.ones((2, 1, 1)), padding="causal")[:, 0].tolist()
    [0.0, 1.0, 3.0, 5.0]
    """
    axes = w.ndim - 2
    strides, dilations = per_axis(stride, axes), per_axis(dilation, axes)
    x, w = to_compute_type(x, w)
    zeros = []
    for i, entry in enumerate(entries(padding, axes)):
        axis = x.ndim - 1 - axes + i
        span = (w.shape[i] - 1) * dilations[i] + 1
        before, after = padding_lengths(entry, x.shape[axis], span, strides[i])
        check_span(x.shape, axis, w.shape[i], dilations[i], (before, after))
        if isinstance(entry, str) and entry in MODES:
            x = fill(x, axis, entry, before, after)
            before = after = 0
        zeros.append((before, after))
    return _convolve(x, w, b, Places(strides, tuple(zeros), (1,) * axes, dilations, groups))


def transposed_convolution(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: PerAxis = 1,
    dilation: PerAxis = 1,
    groups: int = 1,
    padding: Padding = "same",
    output_padding: PerAxis = 0,
) -> jax.Array:
    """Transposed convolution: `y[t * stride + i * dilation] += x[t] @ w[i]`, plus b.

    Along an axis of s elements the output has length
    (s - 1) * stride + span - before - after + output_padding, with
    span = (window - 1) * dilation + 1, as in torch.

    Args:
        x: Array of shape `(..., *axes, n)` with any number of batch axes.
        w: Kernel of shape `(*window, n / groups, m)`, with 1 to 3 axes in `window`.
        b: Bias of shape (m,), or None.
        stride: Step between the outputs of neighboring inputs. Default: 1.
        dilation: Step between the elements of a window. Default: 1.
        groups: Number of groups of neighboring channels. Default: 1.
        padding: Number of output elements to remove: an int from both ends, a pair (before,
            after), "valid" for none, or "same" for an output of length s * stride, which is the
            transpose of a convolution with the same stride and padding="same". Default: "same".
        output_padding: Number of elements to add at the end. Default: 0.

    Returns:
        Array of shape `(..., *output axes, m)`, in the type of x.

    Raises:
        ValueError: If the output would have no elements.

    >>> import jax.numpy as jnp
    >>> x, w = jnp.array([[1.0], [10.0]]), jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    >>> transposed_convolution(x, w, stride=2, padding="valid")[:, 0].tolist()
    [1.0, 2.0, 13.0, 20.0, 30.0]
    >>> transposed_convolution(x, w, stride=2)[:, 0].tolist()
    [1.0, 2.0, 13.0, 20.0]
    """
    axes = w.ndim - 2
    strides, dilations = per_axis(stride, axes), per_axis(dilation, axes)
    extra = per_axis(output_padding, axes)
    x, w = to_compute_type(x, w)
    edges = []
    for i, entry in enumerate(entries(padding, axes, ("same", "valid"))):
        axis = x.ndim - 1 - axes + i
        span = (w.shape[i] - 1) * dilations[i] + 1
        before, after = _cut(entry, span, strides[i])
        length = (x.shape[axis] - 1) * strides[i] + span - before - after + extra[i]
        if length < 1:
            raise ValueError(
                f"axis {axis} of {describe(x)} would become {length} elements long: {before} "
                f"before and {after} after are removed; use padding='same', or less padding"
            )
        edges.append((span - 1 - before, span - 1 - after + extra[i]))
    # Convolve over the input with `stride - 1` zeros inserted between its elements.
    places = Places((1,) * axes, tuple(edges), strides, dilations, groups)
    return _convolve(x, jnp.flip(w, tuple(range(axes))), b, places)


def _cut(entry: Any, span: int, stride: int) -> tuple[int, int]:
    if entry == "same":
        return max(span - stride, 0) // 2, span - stride - max(span - stride, 0) // 2
    return padding_lengths(entry, 0, span, stride)


def _convolve(x: jax.Array, w: jax.Array, b: jax.Array | None, places: Places) -> jax.Array:
    """Convolve with one batch axis; other numbers of batch axes are reshaped."""
    batch = x.shape[: x.ndim - w.ndim + 1]
    if len(batch) != 1:
        x = x.reshape(math.prod(batch), *x.shape[len(batch) :])
    y = _bilinear(x, w, places) if _is_bilinear(x, w, places) else _xla(x, w, places)
    if b is not None:
        y = shared_sum(y, b)
    return y if len(batch) == 1 else y.reshape(*batch, *y.shape[1:])


def _xla(x: jax.Array, w: jax.Array, places: Places) -> jax.Array:
    image, kernel = LAYOUTS[w.ndim - 2]
    return lax.conv_general_dilated(
        x, w, *places[:4], (image, kernel, image), feature_group_count=places.groups
    )


# Convolutions on a CPU
#
# XLA computes most convolutions fast on a CPU, but these slower by up to two orders of magnitude:
#
# - depthwise convolutions, which are faster as sums of products, and their gradients,
# - the gradients of kernels with other groups, or whose windows do not overlap, such as windows of
#   one element and those of patches, which are faster as one matrix product for each element,
# - the gradients of any convolution in a loop, because of the layouts of their operands.
#
# They are a primitive of two of the arrays x, w, and y of the trilinear form
# `sum_{t, i} x[p(t, i)] w[i] y[t]`. It returns the derivative of the form by the third array: the
# convolution is that by y. A derivative is linear in both arrays, and its transposes are the other
# two derivatives.

PRODUCTS = 64
"""The largest number of elements of a window, or of a row, with one product for each."""

_in_loop: ContextVar[bool] = ContextVar("_in_loop", default=False)


@contextlib.contextmanager
def looped() -> Iterator[None]:
    """Use convolutions whose gradients are fast in a loop, while the body of a loop is traced.

    The gradient of the kernel is then computed by a matrix product for each element of the window,
    and the gradient of the input by a convolution with the usual layout. Devices other than CPUs
    are not affected.
    """
    token = _in_loop.set(True)
    try:
        yield
    finally:
        _in_loop.reset(token)


def _is_depthwise(w: jax.Array, places: Places) -> bool:
    return w.shape[-2] == 1 < places.groups == w.shape[-1]


def _is_bilinear(x: jax.Array, w: jax.Array, places: Places) -> bool:
    """Return whether a convolution or its gradients are some that XLA computes slowly."""
    apart = max(places.holes) == 1 and all(map(operator.ge, places.strides, w.shape))
    return (
        jax.default_backend() == "cpu"
        and jnp.issubdtype(x.dtype, jnp.inexact)  # integers have no gradients, and wrap around
        and (_in_loop.get() or places.groups > 1 or apart)
        and math.prod(w.shape[:-2]) <= PRODUCTS
        # Other types of arrays, in `jax.shard_map` or on a mesh with explicit axes, are XLA's.
        and all(_is_plain(jax.typeof(a)) for a in (x, w))
    )


def _is_plain(kind: Any) -> bool:
    """Return whether the type of an array has no mesh axes."""
    sharding = _unsharded(kind, kind.shape)
    return kind == ShapedArray(kind.shape, kind.dtype, kind.weak_type, sharding=sharding)


def _unsharded(kind: Any, shape: tuple[int, ...]) -> Any:
    """Return the sharding of an array of `shape` on the mesh of another, along no axis."""
    return kind.sharding.update(spec=(None,) * len(shape))


def _bilinear(x: jax.Array, w: jax.Array, places: Places) -> jax.Array:
    several = w.shape[-1] // places.groups
    if w.shape[-2] == 1 < min(places.groups, several):  # several depthwise convolutions
        x_, w_ = widened(x), widened(w).reshape(*w.shape[:-1], places.groups, several)
        parts = [_bilinear(x_, w_[..., j], places) for j in range(several)]
        y = jnp.stack(parts, -1)
        return y.reshape(*y.shape[:-2], w.shape[-1]).astype(x.dtype)
    shape = jax.eval_shape(lambda x, w: _xla(x, w, places), x, w).shape
    return _derivative().bind(x, w, by="y", shape=shape, places=places, lanes=0)


def _computed(
    a: jax.Array,
    b: jax.Array,
    *,
    by: str,
    shape: tuple[int, ...],
    places: Places,
    lanes: int,
    split: bool = False,
) -> jax.Array:
    """Return the derivative by x, w, or y, of `shape`, from the other two in this order.

    All have `lanes` more axes in front. If they may be split over devices, a loop over rows would
    gather them first.
    """
    by_w = _by_w_of_xla if split and shape[-2] == 1 < places.groups else _by_w
    function: Any = {"x": _by_x, "w": by_w, "y": _by_y}[by]
    compute = functools.partial(function, shape=shape, places=places)
    for _ in range(lanes):
        compute = jax.vmap(compute)
    return compute(a, b)


def _by_y(x: jax.Array, w: jax.Array, *, shape: tuple[int, ...], places: Places) -> jax.Array:
    if not _is_depthwise(w, places):
        return _xla(x, w, places)
    x, wide, terms = _padded(x, places), wider_type(x.dtype, jnp.float32), []
    for i in itertools.product(*map(range, w.shape[:-2])):
        part = _seen(x, i, shape[1:-1], places).astype(wide)
        terms.append(part * spread(w[(*i, 0)].astype(wide), part))
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _by_x(w: jax.Array, y: jax.Array, *, shape: tuple[int, ...], places: Places) -> jax.Array:
    axes, groups = w.ndim - 2, places.groups
    *window, n, m = w.shape
    # Swap the input and output features of the kernel within each group.
    w = jnp.flip(w, tuple(range(axes))).reshape(*window, n, groups, m // groups)
    w = jnp.swapaxes(w, -1, -3).reshape(*window, m // groups, groups * n)
    edges = []
    for k, length, count, s, (before, _), hole, d in zip(
        window, shape[1:-1], y.shape[1:-1], *places[:4], strict=True
    ):
        reach = (k - 1) * d
        edges.append((reach - before, (length - 1) * hole - (count - 1) * s + before))
    places = places._replace(strides=places.holes, padding=tuple(edges), holes=places.strides)
    return _by_y(y, w, shape=shape, places=places)


def _by_w(x: jax.Array, y: jax.Array, *, shape: tuple[int, ...], places: Places) -> jax.Array:
    x, wide, groups = _padded(x, places), wider_type(x.dtype, jnp.float32), places.groups
    if shape[-2] == 1 < groups:
        return _by_w_of_rows(x, y, shape, places).reshape(shape).astype(x.dtype)
    rows = y.reshape(-1, groups, shape[-1] // groups)
    found = [
        jnp.einsum(
            "rgn,rgm->ngm",
            _seen(x, i, y.shape[1:-1], places).reshape(-1, groups, shape[-2]),
            rows,
            preferred_element_type=wide,
        )
        for i in itertools.product(*map(range, shape[:-2]))
    ]
    return jnp.stack(found).reshape(shape).astype(x.dtype)


def _by_w_of_xla(x: jax.Array, y: jax.Array, *, shape: Any, places: Places) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda w: _xla(x, w, places), kernel)(y)[0]


def _by_w_of_rows(x: jax.Array, y: jax.Array, shape: tuple[int, ...], places: Places) -> jax.Array:
    """Sum over all places of y, in a loop over rows: for each, its products with a window of x."""
    strides, dilations, wide = places.strides, places.dilations, wider_type(x.dtype, jnp.float32)
    total = jnp.zeros((*shape[:-2], shape[-1]), wide)
    if not x.size or not y.size:
        return total
    *lines, length = y.shape[:-1]
    parts = -(-length // PRODUCTS)
    width = -(-length // parts)
    missing = parts * width - length  # the last row is filled up with zeros
    spans = [(k - 1) * d + 1 for k, d in zip(shape, dilations, strict=False)]
    before = [(0, 0)] * len(lines)
    y = jnp.pad(y, [*before, (0, missing), (0, 0)])
    x = jnp.pad(x, [*before, (0, missing * strides[-1]), (0, 0)])
    # The elements of x that meet those of a row of y.
    met = (1, *spans[:-1], (width - 1) * strides[-1] + spans[-1], shape[-1])

    def row(at: Any) -> tuple[jax.Array, jax.Array]:
        place = []
        for count in (parts, *reversed(lines)):
            place.insert(0, lax.rem(at, count))
            at = lax.div(at, count)
        place[-1] *= width
        starts = [p * s for p, s in zip(place, (1, *strides), strict=True)]
        xs = lax.dynamic_slice(x, (*starts, 0), met)
        ys = lax.dynamic_slice(y, (*place, 0), (*[1] * len(lines), width, shape[-1]))
        xs = lax.slice(xs, (0,) * xs.ndim, xs.shape, (1, *dilations[:-1], 1, 1))
        return xs[0], ys.reshape(width, shape[-1])

    def add(at: Any, held: Any) -> Any:
        total, xs, ys = held
        terms = []
        for i in range(width):
            start = i * strides[-1]
            part = lax.slice_in_dim(xs, start, start + spans[-1], dilations[-1], axis=-2)
            terms.append(part.astype(wide) * spread(ys[i].astype(wide), part))
        # A row that is sliced after it is carried is not sliced again in each of the products.
        return total + functools.reduce(jnp.add, terms), *row(at + 1)

    return lax.fori_loop(0, math.prod(lines) * parts, add, (total, *row(0)))[0]


def _padded(x: jax.Array, places: Places) -> jax.Array:
    edges = [(*pair, hole - 1) for pair, hole in zip(places.padding, places.holes, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _seen(x: jax.Array, i: tuple[int, ...], counts: tuple[int, ...], places: Places) -> jax.Array:
    """Return the elements of a padded x that meet element i of the window."""
    strides = places.strides
    start = [j * d for j, d in zip(i, places.dilations, strict=True)]
    stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, counts, strides, strict=True)]
    return lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))


_STATIC = ("by", "shape", "places", "lanes", "split")
_compiled = jax.jit(_computed, static_argnames=_STATIC)


@functools.cache
def _derivative() -> Any:
    """Return the primitive, whose import is slow."""
    from jax.extend.core import Primitive

    primitive = Primitive("convolution")
    primitive.def_impl(_compiled)
    primitive.def_abstract_eval(_abstract)
    mlir.register_lowering(primitive, _lowered)
    transposes = (functools.partial(_transposed, known) for known in "ba")
    ad.defbilinear(primitive, *transposes)
    batching.primitive_batchers[primitive] = _mapped
    return primitive


def _lowered(context: Any, *operands: Any, **params: Any) -> Any:
    split = getattr(context.module_context.axis_context, "num_devices", 1) > 1
    compute = functools.partial(_compiled, split=split)
    return mlir.lower_fun(compute, multiple_results=False)(context, *operands, **params)


def _abstract(a: Any, b: Any, *, shape: tuple[int, ...], lanes: int, **_: Any) -> Any:
    shape = (*a.shape[:lanes], *shape)
    return a.update(shape=shape, weak_type=False, sharding=_unsharded(a, shape))


def _transposed(known: str, cotangent: jax.Array, a: Any, b: Any, **params: Any) -> jax.Array:
    """Return the derivative by a, if b is known, or by b."""
    by, lanes = params["by"], params["lanes"]
    names = [name for name in "xwy" if name != by]
    wanted, other = names if known == "b" else names[::-1]
    arrays = {by: cotangent, other: b if known == "b" else a}
    shape = (a if known == "b" else b).aval.shape[lanes:]
    operands = [arrays[name] for name in "xwy" if name in arrays]
    return _derivative().bind(*operands, **params | {"by": wanted, "shape": shape})


def _mapped(arrays: Any, axes: Any, *, by: str, shape: Any, places: Places, lanes: int) -> Any:
    """Map one more axis: a batch axis, if all kernels are the same, or an axis of lanes."""
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    kernel = None if by == "w" else "xwy".replace(by, "").index("w")
    if kernel is not None and axes[kernel] is None:
        images, axis = arrays[1 - kernel], axes[1 - kernel]
        images = jnp.moveaxis(images, axis, lanes)
        joined = images.reshape(*images.shape[:lanes], -1, *images.shape[lanes + 2 :])
        operands = [arrays[0], joined] if kernel == 0 else [joined, arrays[1]]
        whole = (size * shape[0], *shape[1:])
        y = _derivative().bind(*operands, by=by, shape=whole, places=places, lanes=lanes)
        return y.reshape(*y.shape[:lanes], size, *shape), lanes
    operands = [
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arrays, axes, strict=True)
    ]
    return _derivative().bind(*operands, by=by, shape=shape, places=places, lanes=lanes + 1), 0
