"""A call of a layer: what is passed down the network, and what is returned.

A `Call` is passed down: each layer sees its own inputs, parameters, state, and key. An `Outcome` is
returned: the output, the new state, and collected values. Nothing else passes between layers, so a
wrapper can put any JAX transform between the two.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax

from ..explain.text import NO_KEY, check_not_read, foreign
from . import paths

State = dict[str, Any]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Unknown:
    """Parameters while only shapes are known: a pytree without leaves.

    They may be passed to `child.layer.apply` and through any transform, but not read. A call with
    them adds the declaration of the layer at `path` to `frame`.
    """

    frame: Any
    path: paths.Path

    def at(self, path: paths.Path) -> "Unknown":
        """Return the parameters at a path below."""
        return Unknown(self.frame, self.path + path)

    @property
    def declared(self) -> Any:
        """The declaration at this path so far; None before the first call."""
        return self.frame.found.get(self.path)

    def __getitem__(self, name: str) -> Any:
        check_not_read([self.path])

    def __getattr__(self, name: str) -> Any:
        check_not_read([self.path], AttributeError)


class Outcome(NamedTuple):
    """The result of a call: the output, the new state, and values that interceptors collect.

    `collected` contains a dict of values for each kind, such as those of `nn.capture`, by the path
    below the layer. Wrappers that scan or map a layer stack them.
    """

    output: Any
    state: State = {}  # noqa: RUF012
    collected: dict[str, dict[str, Any]] = {}  # noqa: RUF012


Next: TypeAlias = Callable[["Call"], Outcome]
Interceptor: TypeAlias = Callable[[paths.Path, Any, "Call", Next], Outcome]


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments with which a layer is called.

    Args:
        params: Parameters of the layer. While `init` infers which exist, a placeholder without
            leaves.
        inputs: Inputs by position.
        named: Inputs by name.
        state: State of the layer, or None if no state was passed to `apply`.
        key: Random key at the layer's path, or None.
        train: Whether this is training.
        method: Name of the method.
        path: Path of the layer, from the layer on which `apply` was called.
        inner: Whether a wrapper around the layer has the same path.
        interceptor: Function that intercepts the calls of the layers below; see `nn.intercept`.
        foreign: Whether a transform of the user is between this call and the one that passed key
            and state; a layer that uses either then raises an error.
        casting: Type in which parameters are used, `casting.cast(params, path)`, for
            `nn.Precision`.
        stopped: Whether an outer wrapper has already stopped the gradients of all parameters under
            `nn.Inference`, so that parameters with gradients may have been added to them.
    """

    params: Any
    inputs: tuple[Any, ...] = ()
    named: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: State | None = None
    key: paths.PathKey | None = None
    train: bool = False
    method: str = "forward"
    path: paths.Path = ()
    inner: bool = False
    interceptor: Interceptor | None = None
    foreign: bool = False
    casting: Any = None
    stopped: bool = False

    def replace(self, **changes: Any) -> "Call":
        """Return the same call with other attributes."""
        return dataclasses.replace(self, **changes)

    @property
    def abstract(self) -> bool:
        """Whether only shapes are known, and the call infers which parameters exist."""
        return isinstance(self.params, Unknown)

    def with_arrays(self, arrays: "Arrays") -> "Call":
        """Return the same call on other parameters, state, and key, as in a wrapper's transform."""
        params, state, key = arrays
        below = None if key is None else paths.PathKey(key)
        return self.replace(params=params, state=state, key=below)

    def intercepted(self, function: Interceptor) -> "Call":
        """Return the same call with `function` as interceptor, which sees paths from here.

        An outer interceptor sees each call first, and calls `function` next.
        """
        start = len(self.path)
        return self.replace(interceptor=partial(_intercepted, function, start, self.interceptor))

    def cast_params(self) -> Any:
        """Return the parameters in the types in which they are used."""
        casting = self.casting
        return self.params if casting is None else casting.cast(self.params, self.path)

    def random_key(self, *path: str) -> jax.Array | None:
        """Return the key at `path` below, for a layer that requests it; None in inference.

        Raises ValueError if training lacks a key, or if a user's transform would repeat it.
        """
        if self.abstract:
            return placeholder_key()
        if self.train if self.key is None else self.foreign:
            raise ValueError(NO_KEY if self.key is None else foreign("draws random numbers"))
        return None if self.key is None else self.key.child(path).value()

    def arrays(self) -> "Arrays":
        """Return parameters, state, and key as plain arrays, to pass to a transform."""
        return Arrays(self.params, self.state, None if self.key is None else self.key.value())


def evaluate_layer(layer: Any, call: Call, step: Next | None = None) -> Outcome:
    """Call a layer. Every layer, child or wrapped, is called by this function.

    Args:
        layer: Layer.
        call: Its arguments.
        step: Function that evaluates the call. Default: the evaluation of the layer itself.
    """
    own = partial(call.params.frame.run, layer) if call.abstract else layer._evaluate
    if call.interceptor is None:
        return (step or own)(call)
    return call.interceptor(call.path, layer, call, step or own)


# The interceptor of every `apply` within the innermost `intercepting`. It is part of the key of
# every `jax.jit` cache, so that the trace of one interceptor is not used under another.
INTERCEPTOR: Any = jax.make_user_context(default_value=None)


def intercepting(function: Interceptor | None) -> Any:
    """Return a context in which a hashable `function` intercepts all layers of all networks; None
    for no function."""
    return INTERCEPTOR(function)


def _intercepted(
    function: Interceptor,
    start: int,
    outer: Interceptor | None,
    path: paths.Path,
    layer: Any,
    call: Call,
    next: Next,
) -> Outcome:
    """Call an interceptor within another one; a partial of this function compares by its parts."""

    def inside(call: Call) -> Outcome:
        return function(path[start:], layer, call, next)

    return inside(call) if outer is None else outer(path, layer, call, inside)


class Arrays(NamedTuple):
    """The parts of a call that may be mapped, scanned, or differentiated."""

    params: Any
    state: State | None
    key: jax.Array | None


def current_trace() -> Any:
    """Return a token that changes when a JAX transform is entered or left."""
    from jax.extend.core import get_opaque_trace_state  # slow to import

    return get_opaque_trace_state(convention="flax")


def placeholder_key() -> jax.Array:
    """Return a key for a forward that is traced to infer shapes; its draws are never computed."""
    return jax.random.key(0)
