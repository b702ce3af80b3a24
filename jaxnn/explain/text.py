"""Descriptions of arrays and trees in errors, and the location of an error.

Each level of a network adds its path to errors that pass through.
"""

import contextlib
import difflib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from ..core import paths
from ..fields import describe, is_array, is_value
from ..validation import check_none


def brief(tree: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(tree, (dict, tuple, list)):
        return f"a {type(tree).__name__} of {len(tree)}"
    return describe(tree) if is_array(tree) else f"{tree!r:.80}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint: the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(map(repr, known))}" if known else "there are none"


def check_known(
    name: str,
    known: Collection[str],
    unknown: str,
    more: str = "",
    error: type[Exception] = ValueError,
) -> None:
    """Raise an error that suggests a known name, unless `name` is one.

    Args:
        name: The name.
        known: The known names.
        unknown: What is wrong if it is not one of them, as in "no example is called 'digit'".
        more: Text that follows the suggestion. Default: "", none.
        error: Type of the error. Default: ValueError.
    """
    if name not in known:
        raise error(f"{unknown}; {suggestion(name, known)}{more}")


def mismatches(declared: Any, given: Any, path: paths.Path = ()) -> list[str]:
    """Return a line for each difference between declared and given arrays: path, both shapes."""
    where = paths.text(path) or "the whole"
    if isinstance(declared, dict):
        if not isinstance(given, dict):
            return [f"{where}: declared {_kind(declared)}, got {_kind(given)}"]
        lines = [
            f"{paths.text((*path, name))}: declared {_kind(item)}, missing"
            for name, item in declared.items()
            if name not in given and _has_leaves(item)
        ]
        lines += [
            f"{paths.text((*path, name))}: not declared, got {_kind(item)}"
            for name, item in given.items()
            if name not in declared
        ]
        for name, item in declared.items():
            if name in given:
                lines += mismatches(item, given[name], (*path, name))
        return lines
    if isinstance(declared, (tuple, list)):
        if not isinstance(given, type(declared)) or len(given) != len(declared):
            hint = "; write a tuple" if isinstance(given, list) else ""
            return [f"{where}: declared {_kind(declared)}, got {_kind(given)}{hint}"]
        pairs = enumerate(zip(declared, given, strict=True))
        return [
            line for i, (one, other) in pairs for line in mismatches(one, other, (*path, str(i)))
        ]
    if not is_array(given):
        return [f"{where}: declared {_kind(declared)}, got {_kind(given)}"]
    if tuple(given.shape) != declared.shape:
        return [f"{where}: declared {declared.shape}, got {tuple(given.shape)}"]
    return []


def check_matches(
    declared: Any, given: Any, what: str, hint: str = "", error: type[Exception] = ValueError
) -> None:
    """Raise with a line for each difference between declared and given arrays.

    Args:
        declared: A tree of `nn.Param` or `nn.Variable`.
        given: A tree of arrays.
        what: What is wrong if they differ, as in "the state does not match the network".
        hint: The call to write. Default: "", none.
        error: Type of the error. Default: ValueError.
    """
    check_none(mismatches(declared, given), what, hint, error)


def _has_leaves(tree: Any) -> bool:
    return next(paths.walk(tree), None) is not None


def _kind(item: Any) -> str:
    if is_array(item):
        return str(tuple(item.shape)) if is_value(item) else describe(item)
    if isinstance(item, dict):
        return f"a dict {sorted(map(str, item))}" if item else "{}"
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    return "None" if item is None else f"{type(item).__name__} {item!r:.80}"


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
    where = f"{where}, {in_short(place['layer'])}"
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


def in_short(layer: Any) -> str:
    """Return the code of a layer, or only its type if that is long."""
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


def check_not_read(early: Iterable[paths.Path], error: type[Exception] = ValueError) -> None:
    """Raise an error for parameters that are read before the first call of their layer."""
    check_none(
        (repr(paths.text(path)) for path in early),
        "parameters are read before their layer is called, so init cannot know their shapes",
        "call the child first, or pass child.params to child.layer.apply",
        error,
    )
