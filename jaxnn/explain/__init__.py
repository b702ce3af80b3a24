"""Errors: the texts of `text` and `layer_errors`, and tracebacks without this package's frames.

Tracebacks are filtered as JAX filters its own frames. A public function that calls much of the
package is an `entry`: an error that leaves it keeps the frames of the caller, of the user's layers
and functions, and of libraries other than JAX. JAX's option applies:
`jax.config.update("jax_traceback_filtering", "off")`, or the environment variable
JAX_TRACEBACK_FILTERING=off, shows all frames.

Frames are removed, not only marked as hidden, since IPython shows the last frame of an error in any
case. JAX's own filter is not used, since the function that adds a folder to it is private.
"""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import jax

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
HIDDEN = tuple(
    f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(jax.__file__).parent)
)


def entry(function: F) -> F:
    """Wrap a function so that its errors have no frames of this package or of JAX."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return function(*args, **kwargs)
        except Exception as error:
            filter_frames(error)
            raise

    return cast(F, call)


def entry_iterator(iterator: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator; its errors have no frames of this package or of JAX."""
    __tracebackhide__ = True
    try:
        yield from iterator
    except Exception as error:
        filter_frames(error)
        raise


def filter_frames(error: BaseException) -> None:
    """Remove the frames of this package and of JAX from the traceback of an error and its causes.

    Args:
        error: The error.
    """
    mode: Any = jax.config.jax_traceback_filtering  # type: ignore[attr-defined]
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen and mode != "off":
        seen.add(id(one))
        one.__traceback__ = _without_hidden(one.__traceback__)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _without_hidden(first: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this package or of JAX."""
    kept = []
    while first is not None:
        if not _is_hidden(first.tb_frame):
            kept.append(first)
        first = first.tb_next
    found = None
    for one in reversed(kept):
        found = TracebackType(found, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return found


def _is_hidden(frame: Any) -> bool:
    file = frame.f_code.co_filename
    # Methods that `dataclasses` generates have no file.
    written = file == "<string>" and frame.f_globals.get("__name__", "").startswith("jaxnn.")
    return written or file.startswith(HIDDEN)
