"""Descriptions of arrays and trees in errors, and the differences between two trees."""

import difflib
from collections.abc import Iterable
from typing import Any

from ..core import paths
from ..core.declarations import Declared, is_array


def describe(tree: Any) -> str:
    """Describe shapes and types in an error: `float32[8,16]`, nested as the inputs are.

    Args:
        tree: Tuples and dicts of arrays and other values.

    >>> import jax.numpy as jnp
    >>> describe((jnp.zeros((8, 16)), 3))
    '(float32[8,16], 3)'
    """
    if isinstance(tree, tuple):
        return "(" + ", ".join(map(describe, tree)) + ")"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in tree.items()) + "}"
    if is_array(tree):
        return f"{tree.dtype}[{','.join(map(str, tree.shape))}]"
    return repr(tree)


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


def _has_leaves(tree: Any) -> bool:
    return next(paths.walk(tree), None) is not None


def _kind(item: Any) -> str:
    if is_array(item):
        return str(tuple(item.shape)) if isinstance(item, Declared) else describe(item)
    if isinstance(item, dict):
        return f"a dict {sorted(map(str, item))}" if item else "{}"
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    return "None" if item is None else f"{type(item).__name__} {item!r:.80}"
