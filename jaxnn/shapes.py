"""Shape inference: a forward that is traced by `init`, and never computed."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax

_ONLY_SHAPES: ContextVar[bool] = ContextVar("only_shapes", default=False)


def only_shapes() -> bool:
    """Return whether a forward is traced to infer shapes, as by `init`, and never computed."""
    return _ONLY_SHAPES.get()


def output_shapes(run: Callable[..., Any], *arguments: Any) -> Any:
    """Call `jax.eval_shape` on a forward, in which `only_shapes()` is True."""
    token = _ONLY_SHAPES.set(True)
    try:
        return jax.eval_shape(run, *arguments)
    finally:
        _ONLY_SHAPES.reset(token)
