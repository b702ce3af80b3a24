"""checkify: a function whose values are checked as it runs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import checkify as jax_checkify

from ..core import paths
from ..core.calls import Call, Next, Outcome, intercepting
from ..functional.checking import checking, checking_at


def checkify(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled, raising ValueError for wrong values that only the run brings to light.

    A token id outside the vocabulary, a position past a table or a cache give NaN in a compiled
    program; here they are an error with the path of the layer and the value. It is a tool for
    finding faults: the checks cost time, and each call waits for its result. All arguments are
    arrays, or pytrees of them; bind others by `functools.partial`. Raises TypeError for a function
    that is jitted, since compiling is done here.

    Reference: `jax.experimental.checkify`.

    >>> import jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Embedding(5, 2), nn.Dense(3))
    >>> params = net.init(jax.random.key(0), jnp.array([1]))
    >>> checkify(net.apply)(params, jnp.array([1, 7]))
    Traceback (most recent call last):
    ValueError: at '0': token 7 is outside a vocabulary of 5
    """
    if not callable(function) or hasattr(function, "lower"):
        raise TypeError(
            f"checkify wants a plain function, got {function!r}; write nn.checkify(net.apply), "
            "without jax.jit, which it does by itself"
        )

    def run(*args: Any, **named: Any) -> Any:
        with checking(), intercepting(_at):
            return function(*args, **named)

    compiled = jax.jit(jax_checkify.checkify(run))

    @functools.wraps(function)
    def wrapped(*args: Any, **named: Any) -> Any:
        error, output = compiled(*args, **named)
        message = error.get()
        if message is not None:
            raise ValueError(message.removesuffix(" (`check` failed)"))
        return output

    return wrapped


def _at(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
    """Let errors name the layer."""
    with checking_at(path):
        return next(call)
