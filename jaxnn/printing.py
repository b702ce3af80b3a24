"""Printing and pickling of values: as the code that builds them.

A function is written as the public path under which it can be imported, and a `functools.partial`
by its parts.
"""

import dataclasses
import enum
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.core import Tracer

FUNCTION_HOMES = ("jax.nn", "jax.numpy", "jax.lax")


def public_path(function: Any) -> tuple[str, str] | None:
    """Return the module and the qualified name of a function or class, None if not importable."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(name, str):
        return None
    homes = (*FUNCTION_HOMES, getattr(function, "__module__", None) or "builtins")
    for home in homes:
        module = sys.modules.get(home)
        if module is not None and _attribute(module, name) is function:
            return home, name
    return None


def _attribute(owner: Any, qualified_name: str) -> Any:
    for part in qualified_name.split("."):
        owner = getattr(owner, part, None)
    return owner


def code(value: Any) -> str:
    """Return the code that builds `value`, if such code exists."""
    if isinstance(value, Tracer):
        return f"<traced {value.aval.str_short()}>"
    if isinstance(value, enum.Enum):
        return f"{code(type(value))}.{value.name}"
    if isinstance(value, float) and value != value:
        return "float('nan')"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f"float('{value}')"
    if type(value) is tuple:
        return f"({', '.join(map(code, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {code(item)}" for key, item in value.items()) + "}"
    if isinstance(value, functools.partial):
        named = [f"{key}={code(item)}" for key, item in value.keywords.items()]
        parts = [code(value.func), *map(code, value.args), *named]
        return f"functools.partial({', '.join(parts)})"
    if isinstance(value, np.dtype):
        return f"numpy.dtype({value.name!r})"
    if callable(value):
        path = public_path(value)
        if path is not None:
            module, name = path
            return name if module in ("builtins", "__main__") else f"{module}.{name}"
    return repr(value)


def arguments(value: Any, is_default: Callable[[Any, Any], bool]) -> Iterator[str]:
    """Yield the constructor's arguments: required fields by position, others if not default."""
    positional = True
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if field.default is dataclasses.MISSING and not field.kw_only and positional:
            yield code(item)
        elif not is_default(item, field.default):
            positional = False
            yield f"{field.name}={code(item)}"
        else:
            positional = False


class _Reference:
    """An importable function while a value is pickled; unpickles as the function."""

    def __init__(self, module: str, name: str) -> None:
        self.place = (module, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _import, self.place


class _Parts:
    """A `functools.partial` while a value is pickled; unpickles as the partial."""

    def __init__(self, value: "functools.partial[Any]") -> None:
        named = tuple((key, encode(item)) for key, item in value.keywords.items())
        self.parts = (encode(value.func), encode(value.args), named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _partial, self.parts


def encode(value: Any) -> Any:
    """Return a field in a form that pickles: functions by their public paths."""
    if isinstance(value, functools.partial):
        return _Parts(value)
    if type(value) is tuple:
        return tuple(map(encode, value))
    if isinstance(value, dict):
        return type(value)({key: encode(item) for key, item in value.items()})
    if callable(value):
        path = public_path(value)
        if path is not None:
            return _Reference(*path)
    return value


def _import(module: str, name: str) -> Any:
    return _attribute(importlib.import_module(module), name)


def _partial(function: Callable[..., Any], args: tuple[Any, ...], named: Any) -> Any:
    return functools.partial(function, *args, **dict(named))


def restore(cls: type[Any], names: tuple[str, ...], items: tuple[Any, ...]) -> Any:
    """Return a value with these fields, without construction or checks."""
    value = object.__new__(cls)
    value.__dict__.update(zip(names, items, strict=True))
    return value
