"""why_recompiled: what differed in each call for which JAX compiled a function again.

JAX reports each compilation to listeners. At every call, the kinds of its arguments are recorded:
everything that a compiled program depends on, without the values of arrays. If a call compiles, its
kinds are compared with those of previous calls.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ..core.values import Value, equality_key, fields
from ..explain.text import describe
from ..validation import function as a_function

_COMPILED = "/jax/core/compile/backend_compile_duration"
_NUMBERS = (bool, int, float, complex)


class Explained:
    """A function that records why it was recompiled: `reasons` has one text per recompilation.

    Args:
        function: A jitted function, or one that calls it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.reasons: list[str] = []
        self._function = function
        self._calls = 0
        self._seen: list[tuple[int, dict[str, _Kind]]] = []  # the calls that compiled

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Call the function."""
        kinds = dict(_kinds_of_call(self._function, args, named))  # first: memory may be donated
        self._calls += 1
        compiled: list[str] = []
        thread = threading.get_ident()

        def listen(event: str, *_: Any, **__: Any) -> None:
            if event == _COMPILED and threading.get_ident() == thread:
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            return self._function(*args, **named)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
            if compiled and self._seen:
                self.reasons.append(self._reason(kinds))
            if compiled:
                self._seen.append((self._calls, kinds))

    def _reason(self, kinds: dict[str, "_Kind"]) -> str:
        found = [(call, _differences(before, kinds)) for call, before in reversed(self._seen)]
        call, lines = min(found, key=lambda pair: len(pair[1]))
        head = f"call {self._calls} was compiled again"
        if not lines:
            return (
                f"{head}, with arguments like those of call {call}: what the function closes over "
                "or a setting of JAX is different, or the function makes another jitted function "
                "in each call; write jax.jit outside of it"
            )
        return f"{head}; what differs from call {call}:\n  " + "\n  ".join(lines)


def why_recompiled(function: Callable[..., Any]) -> Explained:
    """Wrap a function to record in `.reasons` why calls of it were recompiled.

    Each reason compares the call with the most similar previous call that was compiled. It lists
    every difference in shapes, types, weak types, and placement of arrays, in the structure of
    pytrees, in the settings of layers, and in static values. Values of Python numbers are listed
    only if nothing else differs, because only static numbers cause a recompilation. Programs that
    are read from the persistent compilation cache count as compiled.

    Args:
        function: A jitted function, or a function that calls one.

    Returns:
        An `Explained`, which is called like `function`.

    Raises:
        TypeError: `function` is not a function.

    >>> import jax, jax.numpy as jnp
    >>> double = why_recompiled(jax.jit(lambda x: 2 * x))
    >>> for x in (jnp.ones(3), jnp.zeros(3), jnp.ones((4, 3)), 1.0):
    ...     y = double(x)
    >>> print(*double.reasons, sep="\\n")
    call 3 was compiled again; what differs from call 1:
      x: was float32[3], is float32[4,3]
    call 4 was compiled again; what differs from call 3:
      x: was float32[4,3], is a Python float
    """
    a_function(
        function,
        "why_recompiled.function",
        "write step = inspect.why_recompiled(step), call it, and print(step.reasons)",
    )
    return Explained(function)


class _Kind(NamedTuple):
    """What a program depends on at one place of the arguments: a text to compare and show, and the
    value if it may be static, which is not known of a number."""

    text: str
    value: Any = None
    is_number: bool = False


def _kinds_of_call(function: Any, args: Any, named: Any) -> Iterator[tuple[str, _Kind]]:
    try:
        bound = inspect.signature(function).bind(*args, **named)
        arguments = dict(bound.arguments)
    except (TypeError, ValueError):  # no signature, or the call is about to raise
        arguments = {f"args[{i}]": item for i, item in enumerate(args)} | named
    for name, item in arguments.items():
        yield from _kinds(name, item)


def _kinds(place: str, item: Any) -> Iterator[tuple[str, _Kind]]:
    """Yield the kinds in `item`, each after that of its container."""
    if isinstance(item, (jax.Array, np.ndarray, np.generic)):
        yield place, _Kind(_array(item))
    elif isinstance(item, _NUMBERS):
        yield place, _Kind(f"a Python {type(item).__name__}", item, True)
    elif isinstance(item, dict):
        yield place, _Kind(f"a {type(item).__name__} of {sorted(map(str, item))}")
        for name, one in item.items():
            yield from _kinds(f"{place}[{name!r}]", one)
    elif isinstance(item, (tuple, list)):
        yield place, _Kind(f"a {type(item).__name__} of {len(item)}")
        names = getattr(item, "_fields", None)
        for i, one in enumerate(item):
            yield from _kinds(f"{place}.{names[i]}" if names else f"{place}[{i}]", one)
    elif isinstance(item, Value):
        yield place, _Kind(f"a {type(item).__qualname__}")
        for field in fields(item):
            yield from _settings(f"{place}.{field.name}", getattr(item, field.name))
    else:
        leaves, structure = jax.tree_util.tree_flatten_with_path(item)
        if jax.tree_util.treedef_is_leaf(structure) or not leaves:
            yield place, _Kind(_text(item), item)
            return
        yield place, _Kind(f"a {type(item).__name__}", structure)
        for keys, leaf in leaves:
            yield from _kinds(place + jax.tree_util.keystr(keys), leaf)


def _settings(place: str, item: Any) -> Iterator[tuple[str, _Kind]]:
    """Yield the kinds in a layer, in which everything is static, numbers too."""
    if isinstance(item, Value):
        yield from _kinds(place, item)
    elif isinstance(item, (dict, tuple)):
        yield place, _Kind(f"a {type(item).__name__} of {len(item)}")
        named = item.items() if isinstance(item, dict) else enumerate(item)
        for name, one in named:
            yield from _settings(f"{place}[{name!r}]", one)
    else:
        yield place, _Kind(_text(item), item)


def _array(array: Any) -> str:
    text = describe(array)
    if getattr(array, "weak_type", False):
        text += ", weakly typed"
    if getattr(array, "committed", False):
        text += f", on {array.sharding}"
    return text


def _text(item: Any) -> str:
    return f"{item!r:.80}"


def _differences(before: dict[str, _Kind], after: dict[str, _Kind]) -> list[str]:
    """Return a line for each place that differs, without the places inside of it."""
    lines: dict[str, str] = {}
    numbers = []
    for place in [*before, *(place for place in after if place not in before)]:
        if any(place.startswith((f"{one}.", f"{one}[")) for one in lines):
            continue
        one, other = before.get(place), after.get(place)
        if one is None or other is None or one.text != other.text:
            was, now = (kind.text if kind else "not there" for kind in (one, other))
            lines[place] = f"{place}: was {was}, is {now}"
        elif _same(one.value, other.value):
            continue
        elif one.is_number:
            numbers.append(f"{place}: was {one.value!r}, is {other.value!r}, if that is static")
        else:
            lines[place] = f"{place}: was {one.text}, is another that is not equal to it"
    return [*lines.values()] or numbers


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(equality_key(one) == equality_key(other))
    except Exception:  # whatever a comparison of foreign objects raises
        return False
