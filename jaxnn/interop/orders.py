"""channels_first, channels_last, tied: how a layer's own converter reads the source's arrays.

A `Made` holds the arrays of a weight that is computed from several, by weight normalization or
spectral normalization. A layer without a wrapper takes the weight itself; inside `WeightNorm` it
takes the direction, inside `SpectralNorm` the weight before the division and the state of the power
iteration.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core import paths
from ..layers.attention import MultiHeadAttention
from ..layers.blocks import GatedFeedForward
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.embedding import Embedding, EmbeddingBag, PatchEmbedding
from ..layers.linear import Bilinear, Dense
from ..layers.patches import ConvTranspose
from ..layers.positions import LearnedPositions
from ..layers.recurrence import Cell
from ..validation import Accepts, is_int
from .axes import CHANNEL, PART, POSITION, Factor, order


class Unfit(ValueError):
    """Arrays that a converter cannot take."""


def fitted(array: Any, wanted: tuple[int, ...], name: str) -> Any:
    """Return `array` if it has the required shape in the other library, else raise Unfit."""
    if np.shape(array) != wanted:
        raise Unfit(f"{name} is {np.shape(array)}, and {wanted} for this network")
    return array


class Made(NamedTuple):
    """A weight computed from the arrays `names`, in float64 and in the other library's layout."""

    names: tuple[str, ...]
    weight: Any
    """The factor that the layer multiplies by."""
    direction: Any = None
    """v of g * v / |v|, in weight normalization."""
    original: Any = None
    """The weight before it is divided by its singular value, in spectral normalization."""
    singular: Any = None
    """v of sigma = u^T W v, repeated along the axis of features."""
    state: Any = None
    """u before the next round of power iteration, if the library keeps that."""


def weight_normed(names: tuple[str, ...], g: Any, v: Any) -> Made:
    """Return g * v / |v|, with the length over the axes that g lacks, or along which it is 1."""
    g, v = (np.asarray(a, np.float64) for a in (g, v))
    g = g.reshape((1,) * (v.ndim - g.ndim) + g.shape)
    over = tuple(i for i in range(v.ndim) if g.shape[i] == 1)
    length = np.sqrt(np.square(v).sum(over, keepdims=True))
    return Made(names, g * v / length, direction=v)


def lengths(weight: Any, direction: Any) -> dict[str, Any]:
    """Return v and g, one for each feature of the last axis, so that g * v / |v| is `weight`.

    v is `direction`, or the weight itself if its lengths are over other axes than ours.
    """
    over = tuple(range(weight.ndim - 1))
    norm = np.sqrt(np.square(direction).sum(over))
    norm = np.where(norm == 0, 1, norm)
    g = (weight * direction).sum(over) / norm
    if np.allclose(g * direction / norm, weight, rtol=1e-6, atol=1e-9 * np.abs(weight).max()):
        return {"v": direction, "g": g}
    return {"v": weight, "g": np.sqrt(np.square(weight).sum(over))}


def spectral_normed(names: tuple[str, ...], w: Any, u: Any, v: Any, axis: int = 0) -> Made:
    """Return w / (u^T w v), with w as a matrix of `axis` by all others."""
    w, u, v = (np.asarray(a, np.float64) for a in (w, u, v))
    rows = np.moveaxis(w, axis, 0)
    matrix = rows.reshape(len(rows), -1)
    u, v = (
        fitted(a.ravel(), (n,), name)
        for a, n, name in zip((u, v), matrix.shape, names[1:], strict=True)
    )
    sigma = u @ matrix @ v
    singular = np.broadcast_to(v.reshape(1, *rows.shape[1:]), rows.shape)
    return Made(names, w / sigma, original=w, singular=np.moveaxis(singular, 0, axis))


def state_before(original: Any, singular: Any, weight: Any, steps: int) -> Any:
    """Return a state u from which `steps` rounds give the singular value of the source.

    The source divides by u^T w v of its last vectors, without another round. A round from our u
    gives |w v|, so v is chosen between the source's own and one of a smaller |w v|.

    Raises Unfit if no v fits: then the vectors do not belong to the weight.
    """
    matrix = original.reshape(-1, original.shape[-1])  # v is in its rows, u in its columns
    sigma = np.sqrt(np.square(original).sum() / np.square(weight).sum())
    back = np.linalg.pinv(matrix, rcond=1e-6)
    vectors, _, _ = np.linalg.svd(matrix, full_matrices=False)
    v = _unit(matrix @ (back @ singular.reshape(-1, original.shape[-1])[:, 0]))

    def value(v: Any) -> Any:
        return np.sqrt(np.square(v @ matrix).sum())

    high = v if value(v) >= sigma else vectors[:, 0]
    low = vectors[:, np.linalg.matrix_rank(matrix) - 1]
    low = low if low @ high >= 0 else -low
    for _ in range(60):
        v = _unit(high + low)
        high, low = (v, low) if value(v) >= sigma else (high, v)
    v = high
    for _ in range(steps - 1):
        v = _unit(back.T @ (back @ v))
    u = _unit(back @ v).astype(np.float32)
    now = u.astype(np.float64)
    for _ in range(steps):
        v = _unit(matrix @ now)
        now = _unit(matrix.T @ v)
    if not np.isclose(value(v), sigma, rtol=1e-5):
        raise Unfit(
            "its singular vectors are not those of its weight, which was changed after they were "
            "computed: run the source once in training mode and save it again"
        )
    return u


def _unit(vector: Any) -> Any:
    return vector / np.sqrt(np.square(vector).sum())


# Layers whose axes correspond one by one to axes of the other library's layout, or are of
# different kinds.
_AXIS_BY_AXIS = (
    *(Conv, DepthwiseConv, ConvTranspose, PatchEmbedding, Embedding, EmbeddingBag),
    *(LearnedPositions, MultiHeadAttention, GatedFeedForward, Bilinear, Cell),
)


_sizes = Accepts(
    "the channels and at least one size of an image, ints >= 1",
    lambda sizes: len(sizes) > 1 and all(is_int(n) and n >= 1 for n in sizes),
)


class AxisRange(NamedTuple):
    """Axes `start` to `stop` of an array, which run over the positions and channels of images."""

    start: int
    stop: int
    factors: tuple[Factor, ...]
    shown: bool
    """Whether the shape of the source's array shows its order."""


@dataclasses.dataclass(frozen=True)
class ByType:
    """Convert by the type of the layer, with what is stated about the source's order."""

    channels: int = 0
    window: tuple[int, ...] = ()
    first: bool = False

    def __repr__(self) -> str:
        if not self.channels:
            return "tied"
        sizes = (self.channels, *self.window) if self.first else (*self.window, self.channels)
        return f"channels_{'first' if self.first else 'last'}({', '.join(map(str, sizes))})"

    def __call__(self, layer: Any, source: Any) -> dict[str, Any]:
        """Return the arrays of the layer, converted by its type."""
        return source.by_type(layer)

    def ordered(self, found: dict[paths.Path, Any], source: Any, layer: Any) -> None:
        """Bring the arrays `found` into our order, in place."""
        if not self.channels:
            return
        runs = {place: source.runs(layer, place) for place in found}
        if not any(runs.values()):
            runs = self._likely(source, found)
        wrong = "" if runs or source.root == "state" else "no array has axes of these sizes"
        for place, known in runs.items():
            for run in known:
                declared = source.declared_shape(place)
                split = (*declared[: run.start], self.channels, *self.window, *declared[run.stop :])
                wrong = wrong or self._misfit(run, found[place], declared, split)
                if self.first and not wrong:
                    split = found[place].reshape(split)
                    moved = np.moveaxis(split, run.start, run.start + len(self.window))
                    found[place] = moved.reshape(declared)
        if wrong:
            raise Unfit(f"{self!r} is stated, but {wrong}")

    def _misfit(self, run: AxisRange, array: Any, declared: Any, split: tuple[int, ...]) -> str:
        """Return the reason why an array does not have these axes; "" if it has them."""
        *window, last = [f.size for f in run.factors if f.size > 1]
        if not window or last != self.channels or math.prod(window) != math.prod(self.window):
            return f"an array {said(run)}"
        joined = len(split) == 1 + len(self.window) or array.ndim == len(declared)
        fits = array.size == math.prod(split) and joined
        return "" if fits or not self.first else f"an array is {array.shape}, without these axes"

    def _likely(self, source: Any, found: Any) -> dict[paths.Path, list[AxisRange]]:
        """Return axes of the stated sizes, used if the trace shows none.

        They are axes of the weights of inputs, or of all arrays of a layer without such weights.
        """
        places = [p for p in found if "recurrent" not in p]
        places = [p for p in places if p[-1] == "w"] or places
        factors = (
            *(Factor(n, frozenset({POSITION})) for n in self.window),
            Factor(self.channels, frozenset({CHANNEL})),
        )
        size, chosen = math.prod((self.channels, *self.window)), {}
        for place in places:
            shape = source.declared_shape(place)
            spans = [
                (i, j)
                for i, j in itertools.combinations(range(len(shape) + 1), 2)
                if math.prod(shape[i:j]) == size and (j == i + 1 or shape[j - 1] == self.channels)
            ]
            if spans:
                chosen[place] = [AxisRange(*spans[0], factors, True)]
        return chosen


tied: ByType = ByType()
"""Convert by the type of the layer, and allow another layer to use the same arrays."""


def channels_first(channels: int, *window: int) -> ByType:
    """Return a converter for the layer after a flattened image that the source keeps as (C, H, W).

    The converter for the layer's type is applied first. Each axis that runs over a flattened image
    is then reordered from (C, H, W) to (H, W, C), the order of jaxnn.

    Args:
        channels: Number of channels of the flattened image, at least 1.
        *window: Height and width of the image, or the length of a sequence.

    Raises:
        ValueError: A size is not an int >= 1, or, during a conversion, no axis of the layer has
            this size.

    >>> import jax.numpy as jnp, jaxnn as nn
    >>> from jaxnn import interop
    >>> net = nn.Sequential(nn.Conv(2, 1), nn.Flatten(), nn.Dense(1, bias=False))
    >>> state_dict = {
    ...     "0.weight": np.ones((2, 1, 1)), "0.bias": np.zeros(2),
    ...     "2.weight": np.arange(6.0).reshape(1, 6),
    ... }
    >>> names = {"2": ("2", interop.channels_first(2, 3))}
    >>> x = jnp.ones((1, 3, 1))
    >>> interop.from_torch(net, state_dict, x, names=names).params[2]["w"][:, 0].tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    return _stated(channels, window, True)


def channels_last(*sizes: int) -> ByType:
    """Return a converter for the layer after a flattened image that the source keeps as (H, W, C).

    This is also the order of jaxnn. Torch models use it if they permute an image to channels last
    before they flatten it.

    Args:
        *sizes: Height, width, and channels of the image, or length and channels of a sequence.

    Raises:
        ValueError: A size is not an int >= 1, or, during a conversion, no axis of the layer has
            this size.

    >>> channels_last(5, 4, 3)
    channels_last(5, 4, 3)
    """
    return _stated(sizes[-1] if sizes else 0, sizes[:-1], False)


def _stated(channels: Any, window: tuple[Any, ...], first: bool) -> ByType:
    sizes = (channels, *window)
    name = "channels_first(C, H, W)" if first else "channels_last(H, W, C)"
    _sizes(sizes, f"the sizes in {name}")
    return ByType(channels, tuple(window), first)


def runs(layer: Any, factors: Sequence[Sequence[Factor]]) -> Iterator[AxisRange]:
    """Yield the axes of an array that are in another order in a library with channels first.

    Args:
        layer: The layer that owns the array.
        factors: The factors of each axis.
    """
    for i, one in enumerate(factors):
        if order(one) is not None:
            yield AxisRange(i, i + 1, tuple(one), False)
    for start, stop in _groups(layer, len(factors)):
        known = [i for i in range(start, stop) if any(f.kinds for f in factors[i])]
        if len(known) < 2 or any(order(factors[i]) is not None for i in known):
            continue
        start, stop = known[0], known[-1] + 1
        together = tuple(f for one in factors[start:stop] for f in one)
        moved = order(together)
        if moved is not None:
            sizes = [f.size for f in together]
            shown = not isinstance(layer, Dense) and [sizes[i] for i in moved] != sizes
            yield AxisRange(start, stop, together, shown)


def _groups(layer: Any, ndim: int) -> list[tuple[int, int]]:
    """Return the axes of an array that the source may flatten or reorder together."""
    if isinstance(layer, _AXIS_BY_AXIS):
        return []
    if isinstance(layer, Dense):
        features = len(layer.features) if isinstance(layer.features, tuple) else 1
        return [(0, ndim - features), (ndim - features, ndim)]
    return [(0, ndim)]


def said(run: AxisRange) -> str:
    """Return the known kinds of the axes, for an error.

    Args:
        run: The axes.
    """
    one = run.stop == run.start + 1
    axes = f"has axis {run.start}" if one else f"has axes {run.start} to {run.stop - 1}"
    if any(PART in f.kinds for f in run.factors):
        return f"{axes} partly over the positions and channels of an image"
    words = [
        f"{f.size} {' or '.join(sorted(f'{k}s' for k in f.kinds)) or '?'}" for f in run.factors
    ]
    return f"{axes} over {' x '.join(words)} of an image"


def statements(run: AxisRange) -> tuple[ByType, ByType] | None:
    """Return the two converters for these axes; None if they are not positions, then channels.

    Args:
        run: The axes.
    """
    *window, last = [f for f in run.factors if f.size > 1]
    if not window or CHANNEL not in last.kinds or any(POSITION not in f.kinds for f in window):
        return None
    sizes = tuple(f.size for f in window)
    return ByType(last.size, sizes, True), ByType(last.size, sizes, False)
