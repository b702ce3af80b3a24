"""Checks of how layers are written: names, forwards, declarations, nesting."""

import inspect
import sys
from collections.abc import Iterable
from typing import Any

from ..core import paths
from ..printing import code

REQUESTS = frozenset({"key", "train", "state"})
RESERVED_INPUTS = frozenset({"params", "state", "key", "train", "method"})
RESERVED_NAMES = frozenset(
    {"init", "apply", "spec", "init_state", "forward", "parameters", "variables"}
)


def check_forward(cls: type, skip: int, requests: frozenset[str]) -> None:
    """Raise TypeError for a forward that could hide a mistake or take a reserved name."""
    forward = cls.__dict__.get("forward")
    if forward is None:
        return
    where = f"{cls.__name__}.forward"
    for p in list(inspect.signature(forward).parameters.values())[skip:]:
        if p.kind is inspect.Parameter.VAR_KEYWORD:
            raise TypeError(
                f"{where} takes **{p.name}, which would hide misspelled inputs; name them"
            )
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name in REQUESTS:
            if p.name not in requests:
                raise TypeError(
                    f"{where} asks for {p.name!r}; a composite keeps no state of its own: "
                    "put it into a Primitive that declares it in `variables`"
                )
        elif p.name in RESERVED_INPUTS:
            raise TypeError(
                f"{where} has an input called {p.name!r}, which is reserved; rename it, or ask for "
                "key, train or state by keyword: def forward(self, x, *, key, train)"
            )


def check_names(names: Iterable[str], owner: str) -> None:
    """Raise TypeError where a field or a named child takes the name of a layer's own method."""
    for name in names:
        if name in RESERVED_NAMES:
            raise TypeError(
                f"{owner} has a field or child called {name!r}, which is reserved; rename it"
            )


def is_size(n: Any) -> bool:
    """Whether `n` is the length of an axis."""
    if isinstance(n, int):
        return n >= 0
    from jax.export import is_symbolic_dim  # here: only a program with free axes has others

    return is_symbolic_dim(n)


def check_initializer(init: Any) -> None:
    """Raise TypeError for what is not a function of (key, shape, dtype)."""
    if not callable(init):
        raise TypeError(
            f"an initializer is a function of (key, shape, dtype), got {init!r}; write "
            "nn.normal(stddev) or nn.constant(value)"
        )
    try:
        inspect.signature(init).bind(None, (), None)
    except TypeError:
        raise TypeError(
            f"an initializer takes (key, shape, dtype), which {code(init)} does not; write "
            f"{code(init)}(...) where that makes one"
        ) from None
    except ValueError:  # a builtin without a signature
        return


# Calls of Python that a level of nesting may take, in tracing and in differentiating it.
FRAMES_PER_LEVEL = 24


def check_nesting(layer: Any, where: str) -> None:
    """Raise ValueError for layers nested deeper than Python can call them."""
    depth, limit = _nesting(layer) + 1, sys.getrecursionlimit()
    if depth > limit // FRAMES_PER_LEVEL:
        raise ValueError(
            f"{where} nests layers {depth} deep, and Python's recursion limit of {limit:,} is "
            f"enough for {limit // FRAMES_PER_LEVEL}: write nn.Sequential(a, b, c) or "
            f"nn.Repeat(layer, n); or call sys.setrecursionlimit({2 * FRAMES_PER_LEVEL * depth:,}) "
            "before"
        )


def _nesting(layer: Any) -> int:
    """The number of levels of a layer: 1 without layers inside."""
    known = layer.__dict__.get("_nesting")
    if known is None:
        held = tuple(getattr(layer, name, None) for name in layer.__dataclass_fields__)
        leaves = (leaf for _, leaf in paths.walk(held))
        known = 1 + max(
            (_nesting(leaf) for leaf in leaves if hasattr(type(leaf), "_evaluate")), default=0
        )
        object.__setattr__(layer, "_nesting", known)
    return known


def check_siblings(children: Any, owner: str) -> None:
    """Raise ValueError for names of children that are empty or share a hash."""
    if isinstance(children, dict):
        check_child_names(children, owner)
    if isinstance(children, (dict, tuple)):
        for child in children.values() if isinstance(children, dict) else children:
            check_siblings(child, owner)


def check_child_names(names: Iterable[str], owner: str) -> None:
    """Raise ValueError where sibling names are empty, hold a slash, or share a hash."""
    seen: dict[int, str] = {}
    for name in names:
        if not name or "/" in name:
            raise ValueError(f"{owner} has a child called {name!r}; a name is text without a slash")
        other = seen.setdefault(paths.segment_hash(name), name)
        if other != name:
            raise ValueError(
                f"{owner} has the children {other!r} and {name!r}, whose names have the same "
                "CRC-32 and would draw the same numbers; rename one of them"
            )


def check_interceptor(function: Any) -> None:
    """Raise TypeError for what is not a plain function."""
    if hasattr(type(function), "_evaluate") or not callable(function):
        raise TypeError(
            f"intercept wants a function of (path, layer, call, next), got {function!r}; write "
            "nn.intercept(net, function)"
        )
