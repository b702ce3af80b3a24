"""Watching what layers draw: to learn which parameters a function draws, or to place them.

`Layer.init` may be called anywhere inside a function, such as the `init` of a program. A watch is
asked where the parameters of each call are to lie, and sees the arrays.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from .core import paths
from .core.declarations import Declared

Spec = Mapping[paths.Path, Declared]


class Watch(Protocol):
    """What is called for each tree of parameters that is drawn."""

    def places(self, spec: Spec) -> Mapping[paths.Path, Any]:
        """A sharding for each array, or none at all. Equal ones are drawn together.

        Args:
            spec: the declared parameters or state by path.
        """
        ...

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, Any]) -> None:
        """Take note of the arrays.

        Args:
            spec: the declared parameters or state by path.
            arrays: the array of each.
        """
        ...


_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


def current_watch() -> Watch | None:
    """The watch of the innermost `watching`, if any."""
    return _WATCH.get()


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Call a watch for everything that layers draw inside."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)
