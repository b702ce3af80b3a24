"""Checks of values that are known only when a program runs, such as token ids.

They would cost every dispatch, so they are there only where a function is traced within
`checking()`, as `nn.checkify` does.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp

from ..core import paths

# The path that the evaluation has come to, where values are checked; None elsewhere.
_PATH: ContextVar[paths.Path | None] = ContextVar("jaxnn_checking", default=None)


@contextlib.contextmanager
def checking() -> Iterator[None]:
    """Trace with checks what is traced within; they want `jax.experimental.checkify` around."""
    from jax.experimental.xla_metadata import set_xla_metadata

    token = _PATH.set(())
    try:
        # Part of JAX's key for traces: a jitted function called within is traced anew, and what
        # was traced here is not used elsewhere.
        with set_xla_metadata(jaxnn="checked"):
            yield
    finally:
        _PATH.reset(token)


@contextlib.contextmanager
def checking_at(path: paths.Path) -> Iterator[None]:
    """Values are checked within by the layer at `path`."""
    token = _PATH.set(path)
    try:
        yield
    finally:
        _PATH.reset(token)


def check_range(values: jax.Array, size: int, message: str) -> None:
    """Where values are checked: 0 <= values < size, all integers; `{value}` in the message is the
    first that is not."""
    path = _PATH.get()
    if path is None or values.size == 0:
        return
    from jax.experimental import checkify

    flat = jnp.ravel(values)
    wrong = (flat < 0) | (flat >= size)
    where = f"at {paths.text(path)!r}: " if path else ""
    checkify.check(~jnp.any(wrong), where + message, value=flat[jnp.argmax(wrong)])
