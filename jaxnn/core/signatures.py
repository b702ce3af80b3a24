"""What a layer's method takes: its inputs by name, and what it asks for by keyword.

A forward is written as `forward(self, [params,] x, *, key, train)`. The names after `*` among
`key`, `train` and `state` are requests, which the core answers; all other names are inputs.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

REQUESTS = frozenset({"key", "train", "state"})
RESERVED_INPUTS = frozenset({"params", "state", "key", "train", "method"})
RESERVED_NAMES = frozenset(
    {"init", "apply", "spec", "init_state", "forward", "parameters", "variables"}
)


class Signature(NamedTuple):
    """The inputs of a method by name: how many may come by position, whether any number may, which
    must come; and its requests."""

    inputs: tuple[str, ...]
    positional: int
    variadic: bool
    required: frozenset[str]
    requests: frozenset[str]

    def check(self, method: str, inputs: tuple[Any, ...], named: Collection[str]) -> None:
        """Raise TypeError for too many inputs, for one given twice, and for one not given."""
        filled = self.inputs[: min(len(inputs), self.positional)]
        wrong = ""
        if len(inputs) > self.positional and not self.variadic:
            wrong = f"got {len(inputs)} inputs"
        elif twice := [name for name in filled if name in named]:
            wrong = f"got {twice[0]!r} by position and by name"
        elif missing := [n for n in self.inputs if n in self.required - {*filled, *named}]:
            wrong = f"got no {missing[0]!r}"
        if wrong:
            takes = ", ".join(n if n in self.required else f"{n}=..." for n in self.inputs)
            raise TypeError(f"{wrong}; {method} takes {f'({takes})' if takes else 'no input'}")


@functools.lru_cache(maxsize=4096)
def signature(function: Callable[..., Any], skip: int) -> Signature:
    """The signature of a method without its first `skip` parameters (self, or self and params)."""
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    asked = [p.name for p in parameters if p.kind is keyword_only and p.name in REQUESTS]
    variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    inputs = [p for p in parameters if p.name not in asked and p.kind not in several]
    positional = sum(p.kind is not keyword_only for p in inputs)
    required = frozenset(p.name for p in inputs if p.default is inspect.Parameter.empty)
    names = tuple(p.name for p in inputs)
    return Signature(names, positional, variadic, required, frozenset(asked))


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


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint at the closest known name, or at all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(map(repr, known))}" if known else "there are none"
