"""What a converter asks for: the arrays of a layer, by another library's names."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..combine.transforms import Ensemble, Repeat
from ..core import paths
from ..core.composite import Wrapper
from .orders import Run
from .reparametrized import Made, Unfit

Converter = Callable[[Any, "Source"], dict[str, Any]]
Names = Mapping[str, str | tuple[str, Converter]]


class IfThere(str):
    """A prefix in a table of names whose path some networks of the kind do not have."""

    __slots__ = ()


class Library(NamedTuple):
    """How another library names and lays out its arrays.

    `params` and `state` hold a converter for each type of layer. `channels_first` says that images
    are (C, H, W). `made(book, layer, name)` is the weight `name` if it is made from several arrays,
    else None; `other_name(layer, name)` another name that the library has for the array `name` of a
    layer. `is_buffer(name, array, layers)` says that an array holds nothing learned. If `stacked`,
    a name without a number may hold the arrays of all copies, along its first axes.
    `if_not_shared` is what an error adds about two arrays that have one name.
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
    """A layer that owns arrays, its path, and the wrappers around it with theirs."""

    path: paths.Path
    layer: Any
    wrappers: tuple[tuple[paths.Path, Wrapper], ...]

    def copies(self, params: Any) -> tuple[int, ...]:
        """The number of copies of the layer, for each wrapper that stacks some."""
        stacks = [param.stack for _, param in paths.walk(params)]
        if stacks:
            return tuple(n for _, n in max(stacks, key=len))
        return tuple(w.n for _, w in self.wrappers if isinstance(w, Repeat | Ensemble))

    def is_inside(self, kind: type) -> bool:
        """Whether a wrapper of this kind is around the layer."""
        return any(isinstance(wrapper, kind) for _, wrapper in self.wrappers)

    def inside(self, kind: type, place: paths.Path) -> Any:
        """The wrapper of this kind whose pattern fits the array at `place` of the layer, or
        None."""
        for path, wrapper in self.wrappers:
            if isinstance(wrapper, kind):
                text = paths.text((*self.path, *place)[len(path) :])
                if paths.matches(wrapper.match, text):  # type: ignore[attr-defined]
                    return wrapper
        return None


@dataclasses.dataclass(frozen=True)
class Source:
    """What a converter asks for arrays: those of one layer, or of a part of it, by their names."""

    book: Any
    owner: Owner
    path: paths.Path
    copy: tuple[int, ...]
    declared: Any
    part: str = "weight"
    table: Any = None
    root: str = "params"

    def __call__(self, name: str) -> Any:
        """The array of that name; `""` is the array that the prefix itself names."""
        return self.book.array(self, name)

    def has(self, name: str) -> bool:
        """Whether there is an array of that name."""
        return self.book.find(self, name) is not None

    def has_itself(self, name: str) -> bool:
        """Whether there is an array of exactly that name, by no number and not made of others."""
        return self.full(name) in self.book.weights

    def at(self, segment: str) -> "Source":
        """The same for a part of the layer."""
        return dataclasses.replace(
            self, path=(*self.path, segment), declared=self.declared[segment]
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The declared shape of our array `name`, of one copy."""
        declared = self.declared[name]
        if isinstance(declared, dict):
            wrappers = ", ".join(type(wrapper).__name__ for _, wrapper in self.owner.wrappers)
            raise Unfit(
                f"{name} is made of {', '.join(declared)} by a wrapper around it ({wrappers}): "
                "convert the network without it, and wrap that with its parameters"
            )
        return tuple(declared.shape[len(self.copy) :])

    def declared_shape(self, place: paths.Path) -> tuple[int, ...]:
        """The declared shape of our array at `place`, of one copy."""
        return tuple(dict(paths.walk(self.declared))[place].shape[len(self.copy) :])

    def runs(self, layer: Any, place: paths.Path) -> list[Run]:
        """The axes of our array at `place` that are in another order in the library."""
        return self.book.runs(self.owner, (self.root, *place))

    def by_type(self, layer: Any) -> dict[str, Any]:
        """The arrays of the layer, as its type is converted."""
        kinds = [kind for kind in type(layer).__mro__ if kind in self.table]
        return (self.table[kinds[0]] if kinds else as_they_are)(layer, self)

    def full(self, name: str) -> str:
        """The name with its prefix."""
        template = self.book.template(self.path)
        if not name:
            template = template.removesuffix(f"{self.book.library.separator}@")
        for number in self.copy:
            template = template.replace("*", str(number), 1)
        return template.replace("@", name)


def as_numpy(array: Any) -> np.ndarray:
    """An array of any library as NumPy's, holding the same numbers.

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


def as_they_are(layer: Any, source: Source) -> dict[str, Any]:
    """Arrays of our own names and layout, which a type without a converter is taken to have."""
    return {
        name: as_they_are(layer, source.at(name)) if isinstance(item, dict) else source(name)
        for name, item in source.declared.items()
    }


def fitted(array: Any, wanted: tuple[int, ...], name: str) -> Any:
    """`array`, of the shape that it has to have in the other library; Unfit else."""
    if np.shape(array) != wanted:
        raise Unfit(f"{name} is {np.shape(array)}, and {wanted} for this network")
    return array


def without_ones(array: Any, wanted: tuple[int, ...]) -> Any:
    """`array` without the axes of 1 in front that `wanted` does not have."""
    while np.ndim(array) > len(wanted) and np.shape(array)[0] == 1:
        array = array[0]
    return np.reshape(array, wanted) if _no_ones(np.shape(array)) == _no_ones(wanted) else array


def _no_ones(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]
