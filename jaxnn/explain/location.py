"""Where an error began: each level of a network puts its path into what passes through."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ..core import paths


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


NO_KEY = (
    "draws random numbers in training, but no key was given: "
    "write net.apply(params, x, key=key, train=True)"
)


def foreign(what: str) -> str:
    """Why a layer that draws or keeps something is refused inside a user's own transform."""
    return (
        f"{what}, and is called inside a transform of your own, where masks would repeat and state "
        "would be lost: use the wrapper instead (nn.Repeat for lax.scan, nn.Ensemble for jax.vmap, "
        "nn.Remat for jax.checkpoint), or hand child.layer and child.params to the transform"
    )


def read_early(path: paths.Path) -> str:
    """Why parameters cannot be read before the first call of their layer."""
    return (
        f"the parameters of {paths.text(path)!r} are read before it is called, so init cannot know "
        "their shapes: call the child first, or hand child.params to child.layer.apply"
    )
