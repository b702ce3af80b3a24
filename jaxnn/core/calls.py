"""One call of a layer: what goes down the network, and what comes back up.

`Call` is data going down: each layer sees its own inputs, parameters, state and key. `Outcome` is
data coming up: the output, the new state, collected values. Nothing else passes between layers,
which is why a wrapper can put any JAX transform between the two.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax

from . import paths
from .floating import as_floating

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


def read_early(path: paths.Path) -> str:
    """Why parameters cannot be read before the first call of their layer."""
    return (
        f"the parameters of {paths.text(path)!r} are read before it is called, so init cannot know "
        "their shapes: call the child first, or hand child.params to child.layer.apply"
    )


class Casting(NamedTuple):
    """In which type parameters are used: `compute`, except in and below layers whose path from
    `start` on matches `keep`.

    A primitive casts its parameters itself, at each call: so the gradients of several calls, or of
    the steps of a scan, are added in the type of the parameters.
    """

    compute: str
    keep: str | None = None
    start: int = 0

    def cast(self, params: Any, path: paths.Path) -> Any:
        """The parameters of the layer at `path`, each in the type that it is used in."""
        if self.keep is None:
            return as_floating(params, self.compute)

        def leaf(path: paths.Path, item: Any) -> Any:
            return item if self.keeps(path[:-1]) else as_floating(item, self.compute)

        return paths.map_with_path(leaf, params, path)

    def keeps(self, path: paths.Path) -> bool:
        """Whether the layer at `path` or one above it is kept."""
        below = path[self.start :]
        above = (paths.text(below[:n]) for n in range(1, len(below) + 1))
        return self.keep is not None and any(paths.matches(self.keep, name) for name in above)


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
        casting: in which type parameters are used.
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
    casting: Casting | None = None
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
                raise ValueError(
                    "draws random numbers in training, but no key was given: "
                    "write net.apply(params, x, key=key, train=True)"
                )
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


_DEFAULT: ContextVar[Interceptor | None] = ContextVar("interceptor", default=None)


def default_interceptor() -> Interceptor | None:
    """The interceptor of every `apply` within the innermost `intercepting`, if any."""
    return _DEFAULT.get()


@contextlib.contextmanager
def intercepting(function: Interceptor) -> Iterator[None]:
    """Let `function` see all layers within, whichever network they belong to.

    What is compiled within must not be used outside, nor the other way round: the caller sees to it
    that JAX's key for traces differs.
    """
    token = _DEFAULT.set(function)
    try:
        yield
    finally:
        _DEFAULT.reset(token)


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


def is_outside() -> bool:
    """Whether no JAX transform is under way."""
    return current_trace() == _outside()


@functools.cache
def _outside() -> Any:
    """The token of no transform: that of a thread which has entered none."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(current_trace).result()


class Mismatch(ValueError):
    """Parameters or state that are not those a layer declares."""


UNREACHED = (
    "was not reached by init, so it has no parameters: write params = net.init(key, x) with inputs "
    "for which forward calls it"
)


class Unreached(Mismatch):
    """A child that init never called, so that it has no parameters."""


@contextlib.contextmanager
def located(path: paths.Path, layer: Any) -> Iterator[None]:
    """Put the path of the layer into an error that passes through here.

    Each level adds its segments, so the error that leaves the network names the whole path and the
    layer where it began.
    """
    try:
        yield
    except Exception as error:
        _locate(error, path, layer)
        raise


def place_of(error: Exception) -> paths.Path:
    """The path that `located` has put into an error so far."""
    return error.__dict__.get("_jaxnn_place", {"path": ()})["path"]


@contextlib.contextmanager
def drawing(key: Any) -> Iterator[None]:
    """Turn JAX's complaint about a missing key, in a forward that draws, into what to write."""
    try:
        yield
    except TypeError as error:
        text = str(error)
        if key is not None or "NoneType" not in text or "PRNG key" not in text:
            raise
        raise TypeError(
            "forward draws random numbers, but no key was given, so its key is None: write "
            "net.apply(params, x, key=key); or draw only if key is not None, since "
            "train.evaluate, train.predict, validation, and nn.Inference give no key"
        ) from None


def placeholder_key() -> jax.Array:
    """A key for a forward that is traced to infer shapes: what it draws is never computed."""
    return jax.random.key(0)


def _locate(error: Exception, path: paths.Path, layer: Any) -> None:
    place: dict[str, Any] = error.__dict__.setdefault(
        "_jaxnn_place", {"path": (), "layer": layer, "message": None, "note": None}
    )
    place["path"] = (*path, *place["path"])
    where = f"at {paths.text(place['path'])!r}" if place["path"] else "at the root"
    where = f"{where}, {_shown(place['layer'])}"
    if place["message"] is None and place["note"] is None and _is_plain(error):
        place["message"] = DONATED if _is_donated(error) else error.args[0]
    if place["message"] is not None:
        error.args = (f"{where}: {place['message']}",)
        return
    notes: list[str] = error.__dict__.setdefault("__notes__", [])
    if place["note"] in notes:
        notes.remove(place["note"])
    place["note"] = f"raised {where}"
    notes.append(place["note"])


def _is_plain(error: Exception) -> bool:
    """Whether the error is its text and nothing else, so that the text may be rewritten."""
    kinds = (ValueError, TypeError, Mismatch, Unreached)
    text = len(error.args) == 1 and isinstance(error.args[0], str)
    return text and (type(error) in kinds or _is_donated(error))


DONATED = (
    "an array among the parameters, the state, or the inputs was given to a training step, which "
    "takes the memory of its state: use the state that the step returned, or keep a copy before "
    "it, jax.tree.map(jnp.copy, ts.params)"
)


def _is_donated(error: Exception) -> bool:
    """Whether JAX refuses an array whose memory another call has taken."""
    return isinstance(error, ValueError | RuntimeError) and "been deleted" in str(error)


def _shown(layer: Any) -> str:
    shown = repr(layer)
    return shown if len(shown) <= 80 else f"{type(layer).__name__}(...)"


def foreign(what: str) -> str:
    """Why a layer that draws or keeps something is refused inside a user's own transform."""
    return (
        f"{what}, and is called inside a transform of your own, where masks would repeat and state "
        "would be lost: use the wrapper instead (nn.Repeat for lax.scan, nn.Ensemble for jax.vmap, "
        "nn.Remat for jax.checkpoint), or hand child.layer and child.params to the transform"
    )
