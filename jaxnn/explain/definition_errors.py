"""Checks of how layers are written: names, forwards, initializers, and nesting."""

import inspect
import sys
from collections.abc import Iterable
from typing import Any

from ..core import paths
from ..fields import code
from ..validation import Accepts

REQUESTS = frozenset({"key", "train", "state"})
RESERVED_INPUTS = frozenset({"params", "state", "key", "train", "method"})
RESERVED_NAMES = frozenset(
    {"init", "apply", "spec", "init_state", "forward", "parameters", "variables"}
)


def check_forward(cls: type, skip: int, requests: frozenset[str]) -> None:
    """Raise TypeError for a forward that could hide a mistake or has an input of a reserved name.

    Args:
        cls: A class of layers.
        skip: Number of parameters of forward that are not inputs.
        requests: Names that forward may request by keyword.
    """
    forward = cls.__dict__.get("forward")
    for p in [] if forward is None else [*inspect.signature(forward).parameters.values()][skip:]:
        wrong = ""
        if p.kind is inspect.Parameter.VAR_KEYWORD:
            wrong = f"takes **{p.name}, which would hide misspelled inputs; name them"
        elif p.kind is inspect.Parameter.KEYWORD_ONLY and p.name in REQUESTS:
            if p.name not in requests:
                wrong = (
                    f"requests {p.name!r}, but a composite keeps no separate state: declare it in "
                    "`variables` of a Primitive"
                )
        elif p.name in RESERVED_INPUTS:
            wrong = (
                f"has an input called {p.name!r}, which is reserved; rename it, or request key, "
                "train, or state by keyword: def forward(self, x, *, key, train)"
            )
        if wrong:
            raise TypeError(f"{cls.__name__}.forward {wrong}")


def check_reserved_names(names: Iterable[str], owner: str) -> None:
    """Raise TypeError if a field or a named child has the name of a layer's own method."""
    for name in names:
        if name in RESERVED_NAMES:
            raise TypeError(
                f"{owner} has a field or child called {name!r}, which is reserved; rename it"
            )


def is_size(n: Any) -> bool:
    """Return whether `n` is the length of an axis."""
    if isinstance(n, int):
        return n >= 0
    from jax.export import is_symbolic_dim  # only a program with free axes has other lengths

    return is_symbolic_dim(n)


def check_initializer(init: Any) -> None:
    """Raise TypeError unless `init` is a function of (key, shape, dtype)."""
    hint = "nn.normal(stddev) or nn.constant(value)"
    try:
        if callable(init):
            hint = f"{code(init)}(...) if that returns an initializer"
            inspect.signature(init).bind(None, (), None)
            return
    except TypeError:
        pass
    except ValueError:  # a builtin without a signature
        return
    raise TypeError(
        f"an initializer must be a function of (key, shape, dtype), got {code(init)}; write {hint}"
    )


# Python calls for each level of nesting, while it is traced and differentiated.
FRAMES_PER_LEVEL = 24


def check_nesting(layer: Any, where: str) -> None:
    """Raise ValueError for layers that are nested deeper than Python's recursion limit allows."""
    depth, limit = _nesting(layer) + 1, sys.getrecursionlimit()
    if depth > limit // FRAMES_PER_LEVEL:
        raise ValueError(
            f"{where} nests layers {depth} deep, but Python's recursion limit of {limit:,} allows "
            f"{limit // FRAMES_PER_LEVEL}: write nn.Sequential(a, b, c) or nn.Repeat(layer, n), or "
            f"call sys.setrecursionlimit({2 * FRAMES_PER_LEVEL * depth:,}) first"
        )


def _nesting(layer: Any) -> int:
    """Return the number of levels of a layer: 1 without layers inside."""
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
    """Raise ValueError if names of children, at any level, are empty or have equal hashes."""
    if isinstance(children, dict):
        check_child_names(children, owner)
    if isinstance(children, (dict, tuple)):
        for child in children.values() if isinstance(children, dict) else children:
            check_siblings(child, owner)


def check_child_names(names: Iterable[str], owner: str) -> None:
    """Raise ValueError if names of siblings are empty, contain a slash, or have equal hashes."""
    seen: dict[int, str] = {}
    for name in names:
        other = seen.setdefault(paths.segment_hash(name), name)
        if not name or "/" in name or other != name:
            raise ValueError(
                f"{owner} has a child called {name!r}, but a name must be text without a slash"
                if other == name
                else f"{owner} has the children {other!r} and {name!r}, whose names have the same "
                "CRC-32, so they would draw the same numbers; rename one of them"
            )


layer_like: Accepts = Accepts(
    "a layer or a function", lambda v: callable(v) and not isinstance(v, type), TypeError
)
interceptor: Accepts = Accepts(
    "a function of (path, layer, call, next)",
    lambda v: callable(v) and not hasattr(type(v), "_evaluate"),
    TypeError,
    hint="write nn.intercept(net, function)",
)
