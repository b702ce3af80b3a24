"""The axes of a network's weights that run over channels and positions of an image together.

torch keeps images as (C, H, W), jaxnn as (H, W, C). A weight that has one axis of each, or one axis
that was flattened from both, is in another order there. To find these weights, the network is
traced on its inputs, and the axes of all arrays in the trace are sorted into classes: an
elementwise product joins the axes of its factors, a reshape makes one axis the product of several.
Layers that torch applies to channels-first arrays mark the axes of their inputs and outputs.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from ..core import paths
from ..core.calls import Call, Next, Outcome
from ..core.declarations import abstract, split_arrays
from ..core.layer import Layer, Primitive
from ..fields import is_array
from ..layers.batch_norm import BatchNorm
from ..layers.blocks import SqueezeExcitation
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.embedding import PatchEmbedding
from ..layers.lstm import ConvLSTMCell
from ..layers.normalization import GroupNorm, InstanceNorm, LocalResponseNorm
from ..layers.patches import ConvTranspose, LocallyConnected
from ..layers.pooling import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    FractionalMaxPool,
    GlobalAvgPool,
    GlobalMaxPool,
    LpPool,
    MaxPool,
    MinPool,
)
from ..layers.shape import Pad, PixelShuffle, PixelUnshuffle, Upsample
from ..tree import intercept
from .trace_rules import follow, mark_of

POSITION, CHANNEL, PART = "position", "channel", "part of a flattened image"

_POOLS = (MaxPool, MinPool, AvgPool, LpPool, FractionalMaxPool)
_KERNELS = (Conv, DepthwiseConv, ConvTranspose, ConvLSTMCell, LocallyConnected, *_POOLS)
_WHOLE = (BatchNorm, GroupNorm, InstanceNorm, LocalResponseNorm, SqueezeExcitation)
_GLOBAL = (GlobalAvgPool, GlobalMaxPool)


class Factor(NamedTuple):
    """A part of a flattened axis: its size and what it runs over, which may be unknown."""

    size: int
    kinds: frozenset[str]


class Trace(NamedTuple):
    """The result of a trace: the factors of each axis of each weight, by root ("params", "state")
    and path, and (path, method) of each call of a layer."""

    factors: dict[paths.Path, list[list[Factor]]]
    methods: set[tuple[paths.Path, str]]


class Classes:
    """Axes in classes: `join` makes two the same axis, `alike` gives two the same kind."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._same: list[int] = []
        self._alike: list[int] = []
        self._kinds: dict[int, set[str]] = {}
        self._parts: dict[int, list[list[int]]] = {}
        self._overlaps: list[tuple[int, int]] = []

    def new(self, shape: Iterable[int]) -> list[int]:
        """Return an axis for each size."""
        first = len(self.sizes)
        self.sizes += shape
        numbers = list(range(first, len(self.sizes)))
        self._same += numbers
        self._alike += numbers
        return numbers

    def join(self, one: int, other: int) -> None:
        """Make both the same axis, unless their sizes differ."""
        if self.sizes[one] != self.sizes[other] or self.sizes[one] == 1:
            return
        one, other = _root(self._same, one), _root(self._same, other)
        if one != other:
            self._same[other] = one
            self.alike(one, other)
            for parts in self._parts.pop(other, []):
                self.product(one, parts)

    def alike(self, one: int, other: int) -> None:
        """Give both the same kind; if sizes differ, one holds a part of the other."""
        if 1 in (self.sizes[one], self.sizes[other]):
            return
        if self.sizes[one] != self.sizes[other]:
            self._overlaps.append((one, other))
        one, other = _root(self._alike, one), _root(self._alike, other)
        if one != other:
            self._alike[other] = one
            self._kinds.setdefault(one, set()).update(self._kinds.pop(other, ()))

    def product(self, whole: int, parts: Sequence[int]) -> None:
        """Record that `whole` is `parts` flattened, the last of them fastest."""
        whole = _root(self._same, whole)
        sizes = [self.sizes[i] for i in parts]
        known = self._parts.setdefault(whole, [])
        for others in known:
            if [self.sizes[i] for i in others] == sizes:
                for one, other in zip(others, parts, strict=True):
                    self.join(one, other)
                return
        known.append(list(parts))

    def mark(self, axis: int, kind: str) -> None:
        """Record that `axis` runs over `kind`."""
        if self.sizes[axis] > 1:
            self._kinds.setdefault(_root(self._alike, axis), set()).add(kind)

    def mark_image(self, axes: Sequence[int], window: int) -> None:
        """Record that the last axis runs over channels, and `window` before it over positions."""
        for axis in axes[len(axes) - 1 - window : -1]:
            self.mark(axis, POSITION)
        if window:
            self.mark(axes[-1], CHANNEL)

    def pass_down(self) -> None:
        """Give the parts of an axis its kind, unless theirs is known."""
        for _ in range(len(self._parts)):
            before = sum(map(len, self._kinds.values()))
            for whole, products in list(self._parts.items()):
                kinds = self._marked(whole)
                below = [i for parts in products for i in parts]
                if kinds and not any(self._marked(i) for i in below):
                    for i in below:
                        for kind in kinds:
                            self.mark(i, kind)
            if sum(map(len, self._kinds.values())) == before:
                return

    def factors(self, axis: int) -> list[Factor]:
        """Return the factors of `axis`, down to the axes whose kind is known."""
        found = self._factors(axis, frozenset(), True)
        if order(found) is None and _root(self._same, axis) in self._partly_mixed:
            return [Factor(self.sizes[axis], frozenset({PART}))]
        return found

    @functools.cached_property
    def _partly_mixed(self) -> set[int]:
        """Axes that hold a part of one over positions and channels, as after a concatenation: the
        parts of such an axis, and all axes that have one of these as a part."""
        parts: dict[int, set[int]] = {}
        wholes: dict[int, set[int]] = {}
        for one, other in self._overlaps:
            part, whole = sorted((one, other), key=lambda axis: self.sizes[axis])
            part, whole = _root(self._same, part), _root(self._same, whole)
            parts.setdefault(whole, set()).add(part)
            wholes.setdefault(part, set()).add(whole)
        mixed = {
            axis
            for axis in parts.keys() | wholes.keys()
            if order(self._factors(axis, frozenset(), True)) is not None
        }
        return _reached(_reached(mixed, parts), wholes)

    def _factors(self, axis: int, above: frozenset[int], top: bool) -> list[Factor]:
        root, kinds = _root(self._same, axis), self._marked(axis)
        products = [] if root in above or (kinds and not top) else self._parts.get(root, [])
        found = [
            [f for part in parts for f in self._factors(part, above | {root}, False)]
            for parts in products
        ]
        return max(found, key=len, default=[Factor(self.sizes[axis], frozenset(kinds))])

    def _marked(self, axis: int) -> set[str]:
        return self._kinds.get(_root(self._alike, axis), set())


def _reached(start: set[int], steps: dict[int, set[int]]) -> set[int]:
    """Return `start` with all that can be reached from it."""
    found, todo = set(start), list(start)
    while todo:
        new = steps.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def _root(table: list[int], i: int) -> int:
    while table[i] != i:
        table[i] = table[table[i]]
        i = table[i]
    return i


def traced(net: Layer, inputs: Any, named: Any, spec: Any, slots: Any) -> Trace:
    """Return the factors of the axes of all weights of `net`, by tracing it on its inputs.

    Args:
        net: The network.
        inputs: Its inputs.
        named: Its named inputs.
        spec: Declared parameters.
        slots: Shapes of its state.
    """
    methods: set[tuple[paths.Path, str]] = set()
    arrays, join = split_arrays((inputs, named))
    weights = {"params": spec, "state": slots}

    def run(weights: Any, arrays: Any) -> Any:
        inputs, named = join(arrays)
        return _marked(net, methods).apply(
            weights["params"], *inputs, state=weights["state"], **named
        )

    shapes = jax.tree.map(lambda d: jax.ShapeDtypeStruct(d.shape, d.dtype), weights)
    jaxpr = jax.make_jaxpr(run)(shapes, abstract(arrays)).jaxpr
    classes, axes = Classes(), {}
    for var in jaxpr.invars:
        axes[var] = classes.new(var.aval.shape)
    leaves = [path for path, _ in _in_order(weights)]
    for var in jaxpr.invars[len(leaves) :]:
        _mark_input(classes, var.aval, axes[var])
    follow(jaxpr, axes, classes)
    classes.pass_down()
    return Trace(
        {
            path: [classes.factors(axis) for axis in axes[var]]
            for path, var in zip(leaves, jaxpr.invars, strict=False)
        },
        methods,
    )


def _in_order(tree: Any) -> list[tuple[paths.Path, Any]]:
    """Return the leaves with their paths, in the order in which JAX flattens the tree."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(tuple(str(getattr(k, "key", getattr(k, "idx", k))) for k in p), x) for p, x in found]


def _mark_input(classes: Classes, aval: Any, axes: list[int]) -> None:
    """Mark an input (N, H, W, C), or with more axes, as an image; one with fewer may be a sequence,
    whose features are last in torch as well."""
    if len(axes) >= 4 and (aval.dtype.kind in "fV" or aval.dtype == "uint8"):
        classes.mark_image(axes, len(axes) - 2)


def _window(layer: Layer, x: Any) -> int:
    """Return the number of axes of positions of an input that is channels-first in torch."""
    ndim = len(x.shape)
    if isinstance(layer, _KERNELS):
        return len(layer.kernel_size) if isinstance(layer.kernel_size, tuple) else 1
    if isinstance(layer, AdaptiveAvgPool | AdaptiveMaxPool):
        return len(layer.output_size) if isinstance(layer.output_size, tuple) else 1
    if isinstance(layer, PixelShuffle | PixelUnshuffle):
        return len(layer.factor)
    if isinstance(layer, Upsample):
        return len(layer.factor or layer.size or ())
    if isinstance(layer, Pad):
        return len(layer.padding) if isinstance(layer.padding, tuple) else 1
    if isinstance(layer, PatchEmbedding):
        return len(layer._window())
    if isinstance(layer, _GLOBAL):
        return max(ndim - 1 - layer.start, 0)
    if isinstance(layer, _WHOLE) and getattr(layer, "axis", -1) in (-1, ndim - 1):
        spatial = getattr(layer, "spatial", None)
        return max(ndim - 2, 0) if spatial is None else spatial
    return 0


def _marked(net: Layer, methods: set[tuple[paths.Path, str]]) -> Layer:
    """Return `net` so that channels-first layers of torch mark their inputs and outputs."""

    def mark(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
        if not isinstance(layer, Primitive):
            return next(call)
        methods.add((path, call.method))
        if not call.inputs or not is_array(call.inputs[0]):
            return next(call)
        window = _window(layer, call.inputs[0])
        outcome = next(call.replace(inputs=(_with_mark(call.inputs[0], window), *call.inputs[1:])))
        if isinstance(layer, _GLOBAL) or not is_array(outcome.output):
            return outcome
        if isinstance(layer, PatchEmbedding):
            window = 1  # of patches, in a row
        return outcome._replace(output=_with_mark(outcome.output, window))

    return intercept(net, mark)


def _with_mark(x: Any, window: int) -> Any:
    return checkpoint_name(x, mark_of(window)) if 0 < window < len(x.shape) else x


def order(factors: Sequence[Factor]) -> tuple[int, ...] | None:
    """Return the factors in the order of torch, channels before positions.

    Args:
        factors: The factors of an axis.

    Returns:
        Their numbers; None if that is the order already, or if nothing is known.
    """
    if any(PART in f.kinds for f in factors):
        return tuple(range(len(factors)))
    channel = [i for i, f in enumerate(factors) if f.size > 1 and CHANNEL in f.kinds]
    place = [i for i, f in enumerate(factors) if f.size > 1 and POSITION in f.kinds]
    if not any(i < j for i in place for j in channel if i != j):
        return None
    return (*channel, *(i for i in range(len(factors)) if i not in channel))
