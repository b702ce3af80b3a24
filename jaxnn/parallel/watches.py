"""Watches of `program.init`: the first trace records what its layers draw, the second places it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding

from ..core import paths
from ..core.declarations import Param
from .whole_state import Declared, by_path


class Recording:
    """What the layers of a program drew, and which leaves of its state are these arrays."""

    def __init__(self) -> None:
        self.calls: list[tuple[Mapping[paths.Path, Param], Mapping[paths.Path, Any]]] = []
        self.leaves: list[dict[paths.Path, int]] = []
        """For each call, the number of the leaf of the state that a parameter is."""
        self._prefixes: dict[tuple[int, paths.Path], paths.Path] = {}

    def places(self, spec: Mapping[paths.Path, Param]) -> Mapping[paths.Path, Any]:
        """Nothing is placed."""
        return {}

    def drawn(
        self, spec: Mapping[paths.Path, Param], arrays: Mapping[paths.Path, jax.Array]
    ) -> None:
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

    def declared(self) -> list[Declared]:
        """The parameters that were drawn, each with the path in the state above its own."""
        return [
            Declared.of(path, param, self._prefixes.get((call, path), ()))
            for call, (spec, _) in enumerate(self.calls)
            for path, param in spec.items()
        ]


class Drawing:
    """Places the parameters that the same function draws again.

    Args:
        recording: of the first trace.
        places: a sharding for each leaf of the state.
    """

    def __init__(self, recording: Recording, places: Sequence[NamedSharding]) -> None:
        self._recording, self._places, self._call = recording, places, -1

    def places(self, spec: Mapping[paths.Path, Param]) -> Mapping[paths.Path, NamedSharding]:
        """Where the parameters of the next call lie; nothing if it is not the recorded one."""
        self._call += 1
        calls = self._recording.calls
        if self._call >= len(calls) or calls[self._call][0] != spec:
            return {}
        return {p: self._places[leaf] for p, leaf in self._recording.leaves[self._call].items()}

    def drawn(
        self, spec: Mapping[paths.Path, Param], arrays: Mapping[paths.Path, jax.Array]
    ) -> None:
        """They are pinned already."""
