"""Conversion: the weights of another library, by name, as those of a network.

The network is walked with its declaration. At each layer that owns arrays a converter, looked up by
the layer's type, asks a `Source` for arrays by the other library's names; the source knows which
prefix belongs to the layer's path. In the end every declared array has to be there in its shape,
and every array that was given has to be used.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.binding import at
from ..core.layer import Layer
from ..core.primitive import Primitive
from ..core.wrapper import Wrapper
from ..train.weights import Weights

Converter = Callable[[Any, "Source"], dict[str, Any]]
Names = Mapping[str, str | tuple[str, Converter]]


class Library(NamedTuple):
    """How another library names and lays out its arrays: by type of layer, the converters of
    parameters and of state."""

    name: str
    separator: str
    params: Mapping[type, Converter]
    state: Mapping[type, Converter]


class Missing(KeyError):
    """A name that the other library's weights do not have."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What a converter asks for arrays: those of one layer, or of a part of it, by their names."""

    book: "_Book"
    path: paths.Path
    copy: tuple[int, ...]
    declared: Any

    def __call__(self, name: str) -> Any:
        """The array of that name; `""` is the array that the prefix itself names."""
        return self.book.array(self._full(name))

    def has(self, name: str) -> bool:
        """Whether there is an array of that name."""
        return self._full(name) in self.book.weights

    def at(self, segment: str) -> "Source":
        """The same for a part of the layer."""
        return dataclasses.replace(
            self, path=(*self.path, segment), declared=self.declared[segment]
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The declared shape of our array `name`, of one copy."""
        return tuple(self.declared[name].shape[len(self.copy) :])

    def _full(self, name: str) -> str:
        template = self.book.template(self.path)
        if not name:
            template = template.removesuffix(f"{self.book.library.separator}@")
        for number in self.copy:
            template = template.replace("*", str(number), 1)
        return template.replace("@", name)


def converted(
    library: Library,
    net: Layer,
    weights: Mapping[str, Any],
    inputs: Any,
    named: Any,
    names: Names,
    ignore: Iterable[str],
) -> Weights:
    """The parameters and state of `net` from the weights of another library, all of them."""
    book = _Book(library, dict(weights), names)
    spec = net.spec(*inputs, **named)
    slots = jax.eval_shape(lambda: net.init_state(*inputs, **named))
    found: dict[paths.Path, Any] = {}
    for path, layer in _owners(net):
        params, state = _at(spec, path), _at(slots, path)
        copies = max((param.stack for _, param in paths.walk(params)), key=len, default=())
        sizes = tuple(n for _, n in copies)
        for root, tree, table in (
            ("params", params, library.params),
            ("state", state, library.state),
        ):
            if any(True for _ in paths.walk(tree)):
                arrays = book.layer(layer, path, tree, sizes, table)
                found |= {(root, *path, *place): array for place, array in arrays.items()}
    lines = book.problems + [
        f"{paths.text(path)}: wanted {tuple(declared.shape)}, got {np.shape(found[path])}"
        for path, declared in paths.walk({"params": spec, "state": slots})
        if path in found and np.shape(found[path]) != tuple(declared.shape)
    ]
    lines += [f"{name}: given, but no layer takes it" for name in book.unused(ignore)]
    if lines:
        raise ValueError(
            f"the {library.name} weights are not those of this network:\n  "
            + "\n  ".join(lines)
            + '\nWrite names={"path/of/a/layer": "its prefix"} where the two have different names, '
            'and ignore=("name",) for what is not wanted'
        )

    def filled(root: str, tree: Any) -> Any:
        return paths.map_with_path(lambda path, p: jnp.asarray(found[(root, *path)], p.dtype), tree)

    return Weights(filled("params", spec), filled("state", slots))


def _owners(item: Any, path: paths.Path = ()) -> Iterator[tuple[paths.Path, Layer]]:
    """The layers that own arrays, by path."""
    if isinstance(item, Wrapper):
        yield from _owners(item.wrapped, path)
    elif isinstance(item, Primitive):
        yield path, item
    else:
        children = item._children() if isinstance(item, Layer) else item
        named = children.items() if isinstance(children, dict) else enumerate(children or ())
        for name, child in named:
            yield from _owners(child, (*path, str(name)))


def _at(tree: Any, path: paths.Path) -> Any:
    try:
        return at(tree, path)
    except KeyError:
        return {}


class _Book:
    """The weights by name, the prefix of each path, what was used and what was wrong."""

    def __init__(self, library: Library, weights: dict[str, Any], names: Names) -> None:
        for path, rule in names.items():
            prefix = rule[0] if isinstance(rule, tuple) and len(rule) == 2 else rule
            if not isinstance(path, str) or not isinstance(prefix, str):
                raise TypeError(
                    "names maps a path of the network to a prefix, or to a pair of a prefix and a "
                    f"converter; got {path!r}: {rule!r}"
                )
        self.library = library
        self.weights = weights
        self.names = names
        self.used: set[str] = set()
        self.problems: list[str] = []

    def array(self, name: str) -> Any:
        if name not in self.weights:
            raise Missing(name)
        self.used.add(name)
        array = self.weights[name]
        return array if isinstance(array, np.ndarray) else np.asarray(array)

    def unused(self, ignore: Iterable[str]) -> list[str]:
        """The names that no converter asked for, without those that fit a pattern of `ignore`."""
        separator = self.library.separator
        patterns = [pattern.replace(separator, "/") for pattern in ignore]
        return [
            name
            for name in self.weights
            if name not in self.used
            and not any(paths.matches(p, name.replace(separator, "/")) for p in patterns)
        ]

    def template(self, path: paths.Path) -> str:
        """The other library's names at a path: `@` stands for that of an array, and each `*` for
        the number of a copy."""
        separator = self.library.separator
        above = self.template(path[:-1]) if path else "@"
        rule = self._rule(path)
        if rule is None:
            return above.replace("@", f"{path[-1]}{separator}@") if path else above
        prefix = rule[0] if isinstance(rule, tuple) else rule
        if prefix.startswith(separator):
            rest = prefix.removeprefix(separator)
            return above.replace("@", self._with_place(rest)) if rest else above
        return self._with_place(prefix)

    def _with_place(self, prefix: str) -> str:
        return prefix if "@" in prefix else f"{prefix}{self.library.separator}@" if prefix else "@"

    def _rule(self, path: paths.Path) -> Any:
        text = paths.text(path)
        return next((rule for p, rule in self.names.items() if paths.matches(p, text)), None)

    def layer(
        self, layer: Layer, path: paths.Path, tree: Any, sizes: tuple[int, ...], table: Any
    ) -> dict[paths.Path, Any]:
        """The arrays of one layer, all copies stacked; what is wrong goes to the problems."""
        rule, where = self._rule(path), paths.text(path) or "the network"
        kinds = [kind for kind in type(layer).__mro__ if kind in table]
        converter = table[kinds[0]] if kinds else as_they_are
        if isinstance(rule, tuple) and table is self.library.params:
            converter = rule[1]
        stars = self.template(path).count("*")
        if stars != len(sizes):
            self.problems.append(
                f"{where}: has {len(sizes)} axes of copies, and its prefix "
                f"{self.template(path)!r} has {stars} places * for their numbers"
            )
            return {}
        copies = []
        for copy in itertools.product(*map(range, sizes)):
            try:
                copies.append(dict(paths.walk(converter(layer, Source(self, path, copy, tree)))))
            except Missing as error:
                self.problems.append(f"{where}: wanted {error.args[0]!r}, which is not there")
                return {}
            except Unfit as error:
                self.problems.append(f"{where}: {error}")
                return {}
        arrays = {}
        for place, _ in paths.walk(tree):
            if any(place not in one for one in copies):
                self.problems.append(f"{where}: nothing was converted to {paths.text(place)!r}")
                continue
            if len({np.shape(one[place]) for one in copies}) > 1:
                self.problems.append(f"{where}: copies of {paths.text(place)!r} differ in shape")
                continue
            stack = np.stack([np.asarray(one[place]) for one in copies])
            arrays[place] = stack.reshape((*sizes, *stack.shape[1:]))
        return arrays


class Unfit(ValueError):
    """An array of another shape than a converter can take."""


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


__all__ = ["Converter", "Library", "Names", "Source", "Unfit", "as_they_are", "converted", "fitted"]
