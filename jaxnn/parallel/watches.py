"""Watches: one trace of an `init` records what its layers draw, and another places it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from ..core import paths
from ..watching import Spec
from .whole_state import Drawn, by_path


class Recording:
    """What the layers of a program drew, and which leaves of its state are these arrays."""

    def __init__(self) -> None:
        self.calls: list[tuple[Spec, Mapping[paths.Path, Any]]] = []
        self.leaves: list[dict[paths.Path, int]] = []
        """For each call, the number of the leaf of the state that a parameter is."""
        self._prefixes: dict[tuple[int, paths.Path], paths.Path] = {}

    def places(self, spec: Spec) -> Mapping[paths.Path, Any]:
        """Nothing is placed."""
        return {}

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, jax.Array]) -> None:
        """Record a call."""
        self.calls.append((spec, arrays))

    def find(self, state: Any) -> None:
        """Find the recorded arrays in the state, inside the trace that made both."""
        numbers = {id(leaf): (i, path) for i, (path, leaf) in enumerate(by_path(state))}
        for call, (_, arrays) in enumerate(self.calls):
            found = {}
            for path, array in arrays.items():
                if id(array) in numbers:
                    found[path], whole = numbers[id(array)]
                    self._prefixes[call, path] = whole[: len(whole) - len(path)]
            self.leaves.append(found)
        self.calls = [(spec, {}) for spec, _ in self.calls]  # tracers do not outlive their trace

    def placed(self, places: Sequence[NamedSharding]) -> "Drawing":
        """The watch that places what the same function draws again.

        Args:
            places: a sharding for each leaf of the state.
        """
        return Drawing(
            [
                (spec, {path: places[leaf] for path, leaf in leaves.items()})
                for (spec, _), leaves in zip(self.calls, self.leaves, strict=True)
            ]
        )

    def declared(self) -> list[Drawn]:
        """The parameters that were drawn, each with the path in the state above its own."""
        return [
            Drawn.of(path, param, self._prefixes.get((call, path), ()))
            for call, (spec, _) in enumerate(self.calls)
            for path, param in spec.items()
        ]


class Drawing:
    """Places the parameters of known calls.

    Args:
        calls: for each tree of parameters that is drawn, in order, what it declares and where its
            parameters lie. A call that declares something else is not placed.
    """

    def __init__(self, calls: Sequence[tuple[Spec, Mapping[paths.Path, NamedSharding]]]) -> None:
        self._left = list(calls)

    def places(self, spec: Spec) -> Mapping[paths.Path, NamedSharding]:
        """Where the parameters of the next call lie; nothing if it is not the expected one."""
        expected, places = self._left.pop(0) if self._left else ({}, {})
        return places if expected == spec else {}

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, jax.Array]) -> None:
        """They are pinned already."""
