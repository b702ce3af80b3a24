"""Checks of values that are known only when a program runs, such as token ids.

They would cost every dispatch, so a function has them only if it is traced inside `checking()`, as
`nn.checkify` does.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp

from ..core import paths

# The path of the layer that is evaluated, if values are checked; None otherwise.
_PATH: ContextVar[paths.Path | None] = ContextVar("jaxnn_checking", default=None)


@contextlib.contextmanager
def checking() -> Iterator[None]:
    """Trace functions inside with checks, which need `jax.experimental.checkify` around them."""
    from jax.experimental.xla_metadata import set_xla_metadata

    token = _PATH.set(())
    try:
        # Part of JAX's key for traces: a jitted function called inside is traced again, and its
        # trace is not used elsewhere.
        with set_xla_metadata(jaxnn="checked"):
            yield
    finally:
        _PATH.reset(token)


@contextlib.contextmanager
def checking_at(path: paths.Path) -> Iterator[None]:
    """Let errors of checks inside name the layer at `path`."""
    token = _PATH.set(path)
    try:
        yield
    finally:
        _PATH.reset(token)


def check_range(values: jax.Array, size: int, message: str) -> None:
    """Check that integers are in [0, size), if values are checked.

    Args:
        values: integers of any shape.
        size: the size of the range.
        message: the error; `{value}` in it is the first value outside of the range.
    """
    path = _PATH.get()
    if path is None or values.size == 0:
        return
    from jax.experimental import checkify

    flat = jnp.ravel(values)
    wrong = (flat < 0) | (flat >= size)
    where = f"at {paths.text(path)!r}: " if path else ""
    checkify.check(~jnp.any(wrong), where + message, value=flat[jnp.argmax(wrong)])
