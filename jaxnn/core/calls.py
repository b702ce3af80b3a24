"""One call of a layer: what goes down the network, and what comes back up.

`Call` is data going down: each layer sees its own inputs, parameters, state and key. `Outcome` is
data coming up: the output, the new state, collected values. Nothing else passes between layers,
which is why a wrapper can put any JAX transform between the two.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax

from ..explain.location import NO_KEY, foreign, read_early
from . import paths

State = dict[str, Any]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Unknown:
    """Parameters while only shapes are known: a pytree without leaves.

    They may be handed to `child.layer.apply` and through any transform, not looked into. A call
    with them leaves in `frame` what the layer at `path` declares.
    """

    frame: Any
    path: paths.Path

    def at(self, path: paths.Path) -> "Unknown":
        """The parameters at a path below."""
        return Unknown(self.frame, self.path + path)

    @property
    def declared(self) -> Any:
        """What has been declared here so far; None before the first call."""
        return self.frame.found.get(self.path)

    def __getitem__(self, name: str) -> Any:
        raise ValueError(read_early(self.path))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(read_early(self.path))


class Outcome(NamedTuple):
    """What a call gives: the output, the state after it, and values that interceptors collect.

    `collected` holds a dict of values for each kind, by the path below the layer: those of
    `nn.capture`, for example. Wrappers that scan or map a layer stack them.
    """

    output: Any
    state: State = {}  # noqa: RUF012
    collected: dict[str, dict[str, Any]] = {}  # noqa: RUF012


Next: TypeAlias = Callable[["Call"], Outcome]
Interceptor: TypeAlias = Callable[[paths.Path, Any, "Call", Next], Outcome]


@dataclasses.dataclass(frozen=True)
class Call:
    """What a layer is called with.

    Attributes:
        params: the parameters of the layer. While `init` finds out which there are, a placeholder
            without leaves.
        inputs: the inputs by position.
        named: the inputs by name.
        state: the state of the layer, or None if no state was passed to `apply`.
        key: the random key at the layer's path, or None.
        train: whether this is training.
        method: the name of the method.
        path: the path of the layer, from the layer on which `apply` was called.
        inner: whether a wrapper around the layer has the same path.
        interceptor: the function through which the calls below go: see `nn.intercept`.
        foreign: whether a transform of the user's own stands between this call and the one that
            brought key and state; a layer that uses either then raises.
        casting: in which type parameters are used: `casting.cast(params, path)`, by `nn.Precision`.
        stopped: whether a wrapper outside has stopped the gradients of all parameters under
            `nn.Inference`, and others may have been added to them.
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
        """The same call with other attributes."""
        return dataclasses.replace(self, **changes)

    @property
    def abstract(self) -> bool:
        """Whether only shapes are known, and the call finds out which parameters there are."""
        return isinstance(self.params, Unknown)

    def with_arrays(self, arrays: "Arrays") -> "Call":
        """The same call on other parameters, state and key: what a wrapper makes in a transform."""
        params, state, key = arrays
        below = None if key is None else paths.PathKey(key)
        return self.replace(params=params, state=state, key=below)

    def intercepted(self, function: Interceptor) -> "Call":
        """The same call, in which `function` sees every layer from here on, with paths from here.

        An interceptor outside sees the call first, and `function` is what it calls next.
        """
        start = len(self.path)
        return self.replace(interceptor=partial(_intercepted, function, start, self.interceptor))

    def cast_params(self) -> Any:
        """The parameters in the types that they are used in."""
        casting = self.casting
        return self.params if casting is None else casting.cast(self.params, self.path)

    def random_key(self, *path: str) -> jax.Array | None:
        """The key at `path` below here, for a layer that asks for one; None in inference without.

        Raises ValueError where training lacks a key, or a user's transform would repeat it.
        """
        if self.abstract:
            return placeholder_key()
        if self.key is None:
            if self.train:
                raise ValueError(NO_KEY)
            return None
        if self.foreign:
            raise ValueError(foreign("draws random numbers"))
        return self.key.child(path).value()

    def arrays(self) -> "Arrays":
        """Parameters, state and key as plain arrays, to hand to a transform."""
        return Arrays(self.params, self.state, None if self.key is None else self.key.value())


def evaluate(layer: Any, call: Call, step: Next | None = None) -> Outcome:
    """Call a layer: the one way by which every layer, child or wrapped, is called.

    Args:
        layer: the layer.
        call: what it is called with.
        step: how it is evaluated. Default: as the layer itself does.
    """
    own = partial(call.params.frame.run, layer) if call.abstract else layer._evaluate
    if call.interceptor is None:
        return (step or own)(call)
    return call.interceptor(call.path, layer, call, step or own)


# The interceptor of every `apply` within the innermost `intercepting`. It is part of the key of
# every `jax.jit` cache, so that no trace of one interceptor is used under another.
INTERCEPTOR: Any = jax.make_user_context(default_value=None)


def intercepting(function: Interceptor | None) -> Any:
    """A context in which a hashable `function` sees all layers, whichever network they belong to;
    None for no function."""
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
    """An interceptor within another one; a partial of it compares by its parts."""

    def inside(call: Call) -> Outcome:
        return function(path[start:], layer, call, next)

    return inside(call) if outer is None else outer(path, layer, call, inside)


class Arrays(NamedTuple):
    """What of a call may be mapped, scanned or differentiated."""

    params: Any
    state: State | None
    key: jax.Array | None


def current_trace() -> Any:
    """A token that changes when a JAX transform is entered or left."""
    from jax.extend.core import get_opaque_trace_state  # here: slow to import

    return get_opaque_trace_state(convention="flax")


def placeholder_key() -> jax.Array:
    """A key for a forward that is traced to infer shapes: what it draws is never computed."""
    return jax.random.key(0)
