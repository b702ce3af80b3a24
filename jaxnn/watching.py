"""Watches, which record or place the parameters that layers draw inside any function.

`Layer.init` may be called anywhere inside a function, such as the `init` of a program. `jax.jit`
inside the function traces again for each watch.
"""

from collections.abc import Mapping
from typing import Any

import jax

from .core import paths
from .core.declarations import Declared

Spec = Mapping[paths.Path, Declared]


class Watch:
    """Base of the watches, hashable values whose methods are called inside `watching`."""

    def places(self, spec: Spec) -> Mapping[paths.Path, Any]:
        """Return the sharding of each array that is drawn, or {}.

        Args:
            spec: Declared parameters or state by path.
        """
        return {}

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, Any]) -> None:
        """Record the arrays.

        Args:
            spec: Declared parameters or state by path.
            arrays: Array of each path.
        """


# Part of the key of every `jax.jit` cache, so that a trace of one watch is not used under another.
_WATCH = jax.make_user_context(default_value=None)


def current_watch() -> Watch | None:
    """Return the watch of the innermost `watching`, if any."""
    return _WATCH.value


def watching(watch: Watch | None) -> Any:
    """Return a context in which the methods of a watch are called; None for no watch."""
    return _WATCH(watch)
