"""The location of an error: each level of a network adds its path to errors that pass through."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ..core import paths


class Mismatch(ValueError):
    """Parameters or state do not match what a layer declares."""


UNREACHED = (
    "was not reached by init, so it has no parameters: write params = net.init(key, x) with inputs "
    "for which forward calls it"
)


class Unreached(Mismatch):
    """A child has no parameters, because init never called it."""


@contextlib.contextmanager
def located(path: paths.Path, layer: Any) -> Iterator[None]:
    """Add the path of the layer to an error that passes through.

    Each level adds its segments, so the error that leaves the network names the whole path and the
    layer that raised it.
    """
    try:
        yield
    except Exception as error:
        _locate(error, path, layer)
        raise


def place_of(error: Exception) -> paths.Path:
    """Return the path that `located` has added to an error so far."""
    return error.__dict__.get("_jaxnn_place", {"path": ()})["path"]


@contextlib.contextmanager
def drawing(key: Any) -> Iterator[None]:
    """Replace JAX's error for a missing key, in a forward that draws, by the call to write."""
    try:
        yield
    except TypeError as error:
        text = str(error)
        if key is not None or "NoneType" not in text or "PRNG key" not in text:
            raise
        raise TypeError(
            "forward draws random numbers, but no key was given, so its key is None: write "
            "net.apply(params, x, key=key), or draw only if key is not None, because "
            "train.evaluate, train.predict, validation, and nn.Inference pass no key"
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
    """Return whether the error consists of its text, so that the text can be replaced."""
    kinds = (ValueError, TypeError, Mismatch, Unreached)
    text = len(error.args) == 1 and isinstance(error.args[0], str)
    return text and (type(error) in kinds or _is_donated(error))


DONATED = (
    "an array among the parameters, the state, or the inputs was donated to a training step, which "
    "reuses the memory of its state: use the state that the step returned, or make a copy before "
    "the step, jax.tree.map(jnp.copy, ts.params)"
)


def _is_donated(error: Exception) -> bool:
    """Return whether JAX rejects an array whose memory was donated."""
    return isinstance(error, ValueError | RuntimeError) and "been deleted" in str(error)


def _shown(layer: Any) -> str:
    shown = repr(layer)
    return shown if len(shown) <= 80 else f"{type(layer).__name__}(...)"


NO_KEY = (
    "draws random numbers in training, but no key was given: "
    "write net.apply(params, x, key=key, train=True)"
)


def foreign(what: str) -> str:
    """Return the error for a layer that `what`, such as draws, inside a user's own transform."""
    return (
        f"{what}, but is called inside your own transform, in which masks would repeat and state "
        "would be lost: use the wrapper instead (nn.Repeat for lax.scan, nn.Ensemble for jax.vmap, "
        "nn.Remat for jax.checkpoint), or pass child.layer and child.params to the transform"
    )


def read_early(path: paths.Path) -> str:
    """Return the error for parameters that are read before the first call of their layer."""
    return (
        f"the parameters of {paths.text(path)!r} are read before it is called, so init cannot know "
        "their shapes: call the child first, or pass child.params to child.layer.apply"
    )
