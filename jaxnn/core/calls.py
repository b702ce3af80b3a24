"""One call of a layer: what goes down the network beside the inputs, and what comes back up.

`Call` is data going down: each layer sees its own parameters, state and key. `Outcome` is data
coming up: the output, the new state, the captured values. Nothing else passes between layers, which
is why a wrapper can put any JAX transform between the two.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax

from . import paths
from .floating import as_floating

State = dict[str, Any]


class Capture(NamedTuple):
    """Which paths are captured, and the path that the call has come to."""

    pattern: str
    path: paths.Path = ()

    def child(self, path: paths.Path) -> "Capture":
        """The same pattern, further down."""
        return Capture(self.pattern, self.path + path)

    def wants(self, path: paths.Path) -> bool:
        """Whether the value at `path` below here is captured."""
        return paths.matches(self.pattern, paths.text(self.path + path))


class Casting(NamedTuple):
    """In which type parameters are used: `compute`, except below layers whose path fits `keep`.

    A primitive casts its parameters itself, at each call: so the gradients of several calls, or of
    the steps of a scan, are added in the type of the parameters.
    """

    compute: str
    keep: str | None
    path: paths.Path = ()

    def child(self, path: paths.Path) -> "Casting":
        """The same types, further down."""
        return self._replace(path=self.path + path)

    def cast(self, params: Any) -> Any:
        """The parameters of the layer at the path, each in the type that it is used in."""

        if self.keep is None:
            return as_floating(params, self.compute)

        def leaf(path: paths.Path, item: Any) -> Any:
            return item if self._keeps(path) else as_floating(item, self.compute)

        return paths.map_with_path(leaf, params, self.path)

    def _keeps(self, path: paths.Path) -> bool:
        above = (paths.text(path[:n]) for n in range(1, len(path)))
        return any(paths.matches(self.keep or "", name) for name in above)


class Outcome(NamedTuple):
    """What a call gives: the output, the state after it, and captured values by path."""

    output: Any
    state: State
    captured: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """What a layer is called with, beside its inputs.

    `foreign` says that a transform of the user's own stands between this call and the one that
    brought key and state; a layer that uses either then raises. `stopped` says that a wrapper
    outside has stopped the gradients of all parameters under `nn.Inference`, and that others may
    have been added to them.
    """

    params: Any
    state: State | None
    key: paths.PathKey | None
    train: bool
    capture: Capture | None = None
    foreign: bool = False
    casting: Casting | None = None
    stopped: bool = False

    def with_arrays(self, arrays: "Arrays") -> "Call":
        """The same call on other parameters, state and key: what a wrapper makes in a transform."""
        params, state, key = arrays
        below = None if key is None else paths.PathKey(key)
        return dataclasses.replace(self, params=params, state=state, key=below)

    def cast_params(self) -> Any:
        """The parameters in the types that they are used in."""
        return self.params if self.casting is None else self.casting.cast(self.params)

    def random_key(self, *path: str) -> jax.Array | None:
        """The key at `path` below here, for a layer that asks for one; None in inference without.

        Raises ValueError where training lacks a key, or a user's transform would repeat it.
        """
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


_ONLY_SHAPES: ContextVar[bool] = ContextVar("only_shapes", default=False)


def only_shapes() -> bool:
    """Whether a forward is traced to infer shapes, as by `init`, and is never computed."""
    return _ONLY_SHAPES.get()


def output_shapes(run: Callable[..., Any], *arguments: Any) -> Any:
    """`jax.eval_shape` of a forward, within which `only_shapes()` is True."""
    token = _ONLY_SHAPES.set(True)
    try:
        return jax.eval_shape(run, *arguments)
    finally:
        _ONLY_SHAPES.reset(token)


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
