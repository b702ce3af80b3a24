"""Watches: how a part of the library sees or places what layers draw inside any function.

`Layer.init` may be called anywhere inside a function, such as the `init` of a program. A watch
records or places the parameters that are drawn there. `jax.jit` inside the function traces again
for each watch.
"""

from collections.abc import Mapping
from typing import Any

import jax

from .core import paths
from .core.declarations import Declared

Spec = Mapping[paths.Path, Declared]


class Watch:
    """What is called inside `watching`, a hashable value; this class changes nothing."""

    def places(self, spec: Spec) -> Mapping[paths.Path, Any]:
        """The sharding of each array that is drawn, or none at all. Equal ones are drawn together.

        Args:
            spec: the declared parameters or state by path.
        """
        return {}

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, Any]) -> None:
        """Take note of the arrays.

        Args:
            spec: the declared parameters or state by path.
            arrays: the array of each.
        """


# Part of the key of every `jax.jit` cache, so that no trace of one watch is used under another.
_WATCH = jax.make_user_context(default_value=None)


def current_watch() -> Watch | None:
    """The watch of the innermost `watching`, if any."""
    return _WATCH.value


def watching(watch: Watch | None) -> Any:
    """A context in which the methods of a watch are called; None for no watch."""
    return _WATCH(watch)
