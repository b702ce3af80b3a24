"""checkify: a function whose values are checked while it runs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import checkify as jax_checkify

from ..core import paths
from ..core.calls import Call, Next, Outcome, intercepting
from ..functional.checking import checking, checking_at
from ..validation import Accepts

_plain = Accepts(
    "a function that is not jitted",
    lambda value: callable(value) and not hasattr(value, "lower"),
    TypeError,
    "write nn.checkify(net.apply), which compiles it",
)


def checkify(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function that raises errors for invalid values found during its execution.

    In a compiled program, a token outside the vocabulary and a position past a table or a cache
    give NaN. In the returned function they raise ValueError with the path of the layer and the
    value. Use it for debugging only: the checks take time, and each call waits for its result.

    Args:
        function: A function of arrays or pytrees of arrays. Bind all other arguments with
            `functools.partial`. It must not be jitted, because `checkify` compiles it.

    Raises:
        TypeError: `function` is not a function, or is jitted.

    Reference: `jax.experimental.checkify`.

    >>> import jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Embedding(5, 2), nn.Dense(3))
    >>> params = net.init(jax.random.key(0), jnp.array([1]))
    >>> checkify(net.apply)(params, jnp.array([1, 7]))
    Traceback (most recent call last):
    ValueError: at '0': token 7 is outside a vocabulary of 5
    """
    _plain(function, "checkify.function")

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
    """Run a layer so that errors name its path."""
    with checking_at(path):
        return next(call)
