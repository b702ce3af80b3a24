"""The source of a converter: the arrays of a layer, by another library's names.

The converters at the end serve flax and keras, whose weight is a `kernel` with features last.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..combine.transforms import Ensemble, Repeat
from ..core import paths
from ..core.composite import Wrapper
from ..layers.batch_norm import BatchNorm
from ..layers.convolution import Conv
from ..layers.elementwise import LearnedArray
from ..layers.embedding import Embedding, PatchEmbedding
from ..layers.linear import Dense, Einsum
from ..layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from ..layers.positions import LearnedPositions
from .orders import AxisRange, Made, Unfit, fitted

Converter = Callable[[Any, "SourceArrays"], dict[str, Any]]
NORMS = (BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm)
TABLES = (Embedding, LearnedArray, LearnedPositions)
Names = Mapping[str, str | tuple[str, Converter]]


class IfThere(str):
    """A prefix in a table of names whose path may be missing in a network."""

    __slots__ = ()


class Library(NamedTuple):
    """How another library names and lays out its arrays.

    Args:
        name: Name of the library.
        separator: Text between the segments of a name.
        params: A converter of parameters for each type of layer.
        state: A converter of state for each type of layer.
        channels_first: Whether images are (C, H, W). Default: False.
        made: `made(book, layer, name)` returns the weight `name` if it is computed from several
            arrays, else None.
        other_name: `other_name(layer, name)` returns another name for the array `name` of a layer.
        is_buffer: `is_buffer(name, array, layers)` returns whether an array holds nothing learned.
        stacked: Whether a name without a number may hold the arrays of all copies, along its first
            axes. Default: False.
        if_not_shared: Text that errors add about two arrays with one name. Default: "".
    """

    name: str
    separator: str
    params: Mapping[type, Converter]
    state: Mapping[type, Converter]
    channels_first: bool = False
    made: Callable[[Any, Any, str], Made | None] | None = None
    other_name: Callable[[Any, str], str] | None = None
    is_buffer: Callable[[str, Any, list[Any]], bool] | None = None
    stacked: bool = False
    if_not_shared: str = ""


class Missing(KeyError):
    """A name that the other library's weights do not have."""


class Owner(NamedTuple):
    """A layer that owns arrays, its path, and the wrappers around it with their paths."""

    path: paths.Path
    layer: Any
    wrappers: tuple[tuple[paths.Path, Wrapper], ...]

    def copies(self, params: Any) -> tuple[int, ...]:
        """Return the number of copies of the layer, for each wrapper that stacks some."""
        stacks = [param.stack for _, param in paths.walk(params)]
        if stacks:
            return tuple(n for _, n in max(stacks, key=len))
        return tuple(w.n for _, w in self.wrappers if isinstance(w, Repeat | Ensemble))

    def is_inside(self, kind: type) -> bool:
        """Return whether a wrapper of this kind is around the layer."""
        return any(isinstance(wrapper, kind) for _, wrapper in self.wrappers)

    def inside(self, kind: type, place: paths.Path) -> Any:
        """Return the wrapper of this kind whose pattern matches the array at `place`, or None."""
        for path, wrapper in self.wrappers:
            if isinstance(wrapper, kind):
                text = paths.text((*self.path, *place)[len(path) :])
                if paths.matches(wrapper.match, text):  # type: ignore[attr-defined]
                    return wrapper
        return None


@dataclasses.dataclass(frozen=True)
class SourceArrays:
    """The source arrays of one layer or of a part of it, by name: the argument of a converter.

    Args:
        book: The weights of the other library, by name.
        owner: The layer.
        path: The path of the layer or of the part.
        copy: The index of the copy in each wrapper that stacks copies, from the outside in.
        declared: The parameters or variables that the layer or the part declares.
        part: The part of a computed weight to return. Default: "weight".
        table: Converters by layer type. Default: None.
        root: "params" or "state". Default: "params".
    """

    book: Any
    owner: Owner
    path: paths.Path
    copy: tuple[int, ...]
    declared: Any
    part: str = "weight"
    table: Any = None
    root: str = "params"

    def __call__(self, name: str) -> Any:
        """Return the array of that name; `""` is the array whose name is the prefix.

        Args:
            name: The name without its prefix.
        """
        return self.book.array(self, name)

    def has(self, name: str) -> bool:
        """Return whether there is an array of that name."""
        return self.book.find(self, name) is not None

    def has_itself(self, name: str) -> bool:
        """Return whether there is an array of exactly that name, neither numbered nor computed."""
        return self.full(name) in self.book.weights

    def at(self, segment: str) -> "SourceArrays":
        """Return the source arrays of a part of the layer."""
        return dataclasses.replace(
            self, path=(*self.path, segment), declared=self.declared[segment]
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the declared shape of our array `name`, of one copy."""
        declared = self.declared[name]
        if isinstance(declared, dict):
            wrappers = ", ".join(type(wrapper).__name__ for _, wrapper in self.owner.wrappers)
            raise Unfit(
                f"{name} is made of {', '.join(declared)} by a wrapper around it ({wrappers}): "
                "convert the network without it, and wrap that with its parameters"
            )
        return tuple(declared.shape[len(self.copy) :])

    def declared_shape(self, place: paths.Path) -> tuple[int, ...]:
        """Return the declared shape of our array at `place`, of one copy."""
        return tuple(dict(paths.walk(self.declared))[place].shape[len(self.copy) :])

    def runs(self, layer: Any, place: paths.Path) -> list[AxisRange]:
        """Return the axes of our array at `place` that are in another order in the library."""
        return self.book.runs(self.owner, (self.root, *place))

    def by_type(self, layer: Any) -> dict[str, Any]:
        """Return the arrays of the layer, converted by its type."""
        kinds = [kind for kind in type(layer).__mro__ if kind in self.table]
        return (self.table[kinds[0]] if kinds else as_they_are)(layer, self)

    def full(self, name: str) -> str:
        """Return the name with its prefix."""
        template = self.book.template(self.path)
        if not name:
            template = template.removesuffix(f"{self.book.library.separator}@")
        for number in self.copy:
            template = template.replace("*", str(number), 1)
        return template.replace("@", name)


def as_numpy(array: Any) -> np.ndarray:
    """Return an array of any library as a NumPy array with the same numbers.

    A tensor of torch may require gradients, be on another device, or have a type that NumPy lacks:
    bfloat16 and float8 become float32, which holds all their numbers.
    """
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        try:
            return array.numpy()
        except TypeError:
            return array.float().numpy()
    return array if isinstance(array, np.ndarray) else np.asarray(array)


def as_they_are(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """Return arrays of our names and layout, the default for a type without a converter."""
    return {
        name: as_they_are(layer, source.at(name)) if isinstance(item, dict) else source(name)
        for name, item in source.declared.items()
    }


def renamed(**names: str) -> Converter:
    """Return a converter for arrays in our layout, by the library's name of each declared one.

    Args:
        **names: The library's name of each of our arrays.
    """

    def convert(layer: Any, source: SourceArrays) -> dict[str, Any]:
        return {ours: source(name) for ours, name in names.items() if ours in source.declared}

    return convert


def single_array(name: str) -> Converter:
    """Return a converter for one array, whose name is `name`, or the prefix itself.

    Args:
        name: The library's name of the array.
    """

    def convert(layer: Any, source: SourceArrays) -> dict[str, Any]:
        if source.has(name):
            return {"w": source(name)}
        return {"w": without_ones(source(""), source.shape("w"))}

    return convert


def without_ones(array: Any, wanted: tuple[int, ...]) -> Any:
    """Return `array` without the leading axes of size 1 that `wanted` does not have."""
    while np.ndim(array) > len(wanted) and np.shape(array)[0] == 1:
        array = array[0]
    return np.reshape(array, wanted) if _no_ones(np.shape(array)) == _no_ones(wanted) else array


def _no_ones(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


def kernel_dense(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """kernel (inputs, features), with more axes if there are several of either."""
    return {"w": shaped(source("kernel"), source.shape("w"), "kernel")} | bias(source)


def kernel_convolution(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """kernel `(*window, inputs / groups, features)`."""
    return {"w": source("kernel")} | bias(source)


def bias(source: SourceArrays) -> dict[str, Any]:
    """bias (features), if the layer has one."""
    if "b" not in source.declared:
        return {}
    return {"b": shaped(source("bias"), source.shape("b"), "bias")}


def kernel_attention(out: str) -> Any:
    """query, key and value (n, heads, d), and `out` (heads, d, features)."""

    def convert(layer: Any, source: SourceArrays) -> dict[str, Any]:
        names = {"query": "query", "key": "key", "value": "value", "out": out}
        found = {}
        for ours, theirs in names.items():
            heads = layer.num_heads
            if ours in ("key", "value"):
                heads = layer.num_kv_heads or heads
            part = {"w": f"{theirs}/kernel", "b": f"{theirs}/bias"}
            found[ours] = {
                name: _by_head(source(there), source.at(ours).shape(name), heads, ours, there)
                for name, there in part.items()
                if name in source.declared[ours]
            }
        return found

    return convert


def cell_arrays(
    source: SourceArrays, w: Any, u: Any, b: Any = None, c: Any = None, apart: int = 0
) -> dict[str, Any]:
    """Return the arrays of a cell, without biases of zeros that it does not declare.

    Args:
        source: The source arrays.
        w: Weights (inputs, gates) of the input, with the gates side by side in our order.
        u: Weights (features, gates) of the hidden state.
        b: Biases (gates) of the input. Default: None, zeros.
        c: Biases (gates) of the hidden state, which are added to b. Default: None, zeros.
        apart: Number of last biases of the hidden state that are not added. Default: 0.
    """
    none = np.zeros(w.shape[-1], w.dtype)
    b, c = (none if one is None else one for one in (b, c))
    n = w.shape[-1] - apart
    recurrent = {"w": u} | ({"b": c[n:]} if apart else {})
    found = {"input": {"w": w, "b": b + np.append(c[:n], none[n:])}, "recurrent": recurrent}
    return {
        part: {k: a for k, a in arrays.items() if k in source.declared[part] or k != "b" or a.any()}
        for part, arrays in found.items()
    }


def _by_head(array: Any, shape: tuple[int, ...], heads: int, ours: str, name: str) -> Any:
    """Return `array` with the features of all heads in one axis; Unfit for another number."""
    axis = 0 if ours == "out" else len(shape) - 1
    split = (*shape[:axis], heads, shape[axis] // heads, *shape[axis + 1 :])
    if ours == "out" and len(shape) == 1:
        split = shape
    return np.reshape(array if np.shape(array) == shape else fitted(array, split, name), shape)


def shaped(array: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return `array` with axes split or joined; Unfit if the shape requires more than that.

    >>> shaped(np.zeros((4, 2, 3)), (4, 6), "kernel").shape
    (4, 6)
    """
    return np.reshape(
        array if _joins(np.shape(array), shape) else fitted(array, shape, name), shape
    )


def _joins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether the first or last axis is the same in both, and each axis of either is one
    axis, or several in a row, of the other."""
    if math.prod(one) != math.prod(other):
        return False
    same_end = bool(one) and bool(other) and (one[0] == other[0] or one[-1] == other[-1])
    if not (same_end or len(one) == 1 or len(other) == 1):
        return False
    left, right = [[n for n in shape if n != 1] for shape in (one, other)]
    while left and right:
        m, n, parts = left.pop(0), right.pop(0), [1, 1]
        while m != n:
            k = int(m > n)
            parts[k] += 1
            m, n = (m * left.pop(0), n) if m < n else (m, n * right.pop(0))
        if min(parts) > 1:
            return False
    return True


KERNELS: dict[type, Converter] = {
    Dense: kernel_dense,
    Einsum: kernel_dense,
    Conv: kernel_convolution,
    PatchEmbedding: kernel_convolution,
}
