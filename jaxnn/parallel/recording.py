"""Recording: one trace of an `init` records what its layers draw, and another draws it in parts."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from ..core import paths
from ..random import Spec, Watch


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An array that a layer draws.

    Args:
        path: Its path in the network.
        shape: Its shape.
        stacked: The number of leading axes that stack copies of a layer.
        trained: Whether it is a parameter that an optimizer may receive.
        prefix: The path in the state above `path`, if it is part of the state as it was drawn.
        leaf: Its number among the leaves of the state, likewise.
    """

    path: paths.Path
    shape: tuple[int, ...]
    stacked: int
    trained: bool = False
    prefix: paths.Path = ()
    leaf: int | None = None

    @classmethod
    def of(cls, path: paths.Path, declared: Any, **found: Any) -> "Drawn":
        """Return the array that a layer declares at a path; `found` are further fields."""
        stacked = len(getattr(declared, "stack", ()))
        trained = not getattr(declared, "frozen", True)
        return cls(path, tuple(declared.shape), stacked, trained, **found)


class Recording(Watch):
    """What the layers of a program draw, and which leaves of its state are these arrays."""

    def __init__(self) -> None:
        self.calls: list[tuple[Spec, Any]] = []

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, jax.Array]) -> None:
        """Record a call."""
        self.calls.append((spec, arrays))

    def find(self, state: Any) -> None:
        """Replace the recorded arrays by `Drawn`, inside the trace that made the state."""
        at = {id(leaf): (i, path) for i, (path, leaf) in enumerate(flatten_with_paths(state))}

        def one(path: paths.Path, declared: Any, array: Any) -> Drawn:
            leaf, whole = at.get(id(array), (None, path))
            return Drawn.of(path, declared, prefix=whole[: len(whole) - len(path)], leaf=leaf)

        self.calls = [
            (spec, [one(path, declared, arrays[path]) for path, declared in spec.items()])
            for spec, arrays in self.calls
        ]

    def declared(self) -> list[Drawn]:
        """Return all arrays that were drawn."""
        return [drawn for _, several in self.calls for drawn in several]


class Drawing(Watch):
    """Places what a known function draws again; a call that draws something else is not placed.

    Args:
        recording: What the function drew.
        shardings: A sharding for each leaf of the state.
    """

    def __init__(self, recording: Recording, shardings: Sequence[NamedSharding]) -> None:
        self._left, self._shardings = list(recording.calls), shardings

    def places(self, spec: Spec) -> Mapping[paths.Path, Any]:
        """Return the shardings of the next call."""
        expected, drawn = self._left.pop(0) if self._left else ({}, ())
        if expected != spec:
            return {}
        return {one.path: self._shardings[one.leaf] for one in drawn if one.leaf is not None}


def flatten_with_paths(tree: Any) -> Iterator[tuple[paths.Path, Any]]:
    """Yield the leaves of any pytree with their paths."""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield tuple(jax.tree_util.keystr((key,), simple=True) for key in keys), leaf
