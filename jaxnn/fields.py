"""What the fields of a value may contain, in normal form, and how values print and pickle.

Values are printed and pickled as the code that builds them. A function is written as the public
path under which it can be imported, and a `functools.partial` by its parts.
"""

import dataclasses
import enum
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.core import Tracer


class FrozenDict(dict[str, Any]):
    """An immutable dict with a hash, which compares in order. It prints as a plain dict."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the children of a layer cannot change: write nn.replace(net, path, value)")

    if not TYPE_CHECKING:  # type checkers see the methods of dict
        __setitem__ = __delitem__ = __ior__ = update = clear = pop = popitem = setdefault = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenDict) and list(self.items()) == list(other.items())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


def is_value(item: object) -> bool:
    """Return whether `item` is a `core.values.Value`."""
    return hasattr(type(item), "_normalize_fields")


def is_layer(item: object) -> bool:
    """Return whether `item` is a `core.layer.Layer`."""
    return hasattr(type(item), "_evaluate")


def is_traced(value: object) -> bool:
    """Return whether `value` is traced by a JAX transform, so that its number is not known."""
    return isinstance(value, Tracer)


def is_array(leaf: object) -> bool:
    """Return whether an input is an array, or the shape of one; others stay Python values."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


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
    if type(tree) is list:
        return "[" + ", ".join(map(describe, tree)) + "]"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in tree.items()) + "}"
    if is_array(tree):
        return f"{tree.dtype}[{','.join(map(str, tree.shape))}]"
    return repr(tree)


def normalize(value: Any, where: str) -> Any:
    """Return the normal form of a field.

    Raises TypeError for arrays, lists, sets, dicts of anything but values or functions, classes
    instead of instances, and anything without a hash.

    Args:
        value: Content of the field.
        where: Name of the field, for errors.
    """
    if isinstance(value, np.generic):
        return value.item()
    if (
        value is None
        or isinstance(value, (bool, int, float, complex, str, bytes))
        or is_value(value)
        or (is_traced(value) and value.shape == ())
    ):
        return value
    if isinstance(value, tuple):
        items = [normalize(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, functools.partial):
        args = tuple(normalize(a, f"{where} argument {i}") for i, a in enumerate(value.args))
        named = {k: normalize(v, f"{where} argument {k!r}") for k, v in value.keywords.items()}
        return functools.partial(normalize(value.func, where), *args, **named)
    if wrong := _refusal(value):
        raise TypeError(f"{where} got {wrong}")
    if isinstance(value, dict):
        return FrozenDict({k: normalize(v, f"{where}[{k!r}]") for k, v in value.items()})
    return value


def _refusal(value: Any) -> str:
    """Return the reason why a field may not contain `value`, with the code to write, or ""."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return (
            f"an array of shape {tuple(value.shape)} and type {value.dtype}; a value contains "
            "configuration only: declare learned arrays in `parameters`, pass constants as inputs, "
            "and write float(x) or int(x) for a number, tuple(x.tolist()) for several"
        )
    if isinstance(value, type) and hasattr(value, "_normalize_fields"):
        return f"the class {value.__name__}; write an instance, {value.__name__}(...)"
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (jax.Array, np.ndarray)):
                return f"a dict with {key!r}: {_refusal(item)}"
            layer = item is None or is_value(item) or isinstance(item, (dict, tuple))
            if not isinstance(key, str) or not (layer or callable(item)):
                return (
                    f"a dict with {key!r}: {item!r}; only a dict of layers by name may be a field: "
                    f"write a tuple of pairs, {tuple(value.items())!r}, or a frozen value"
                )
        return ""
    if isinstance(value, (list, set)):
        kind = type(value).__name__
        return f"a {kind}, which can change; write a tuple: {tuple(value)!r}"
    try:
        hash(value)
    except TypeError:
        return (
            f"{value!r}, which has no hash; a value contains numbers, text, tuples, functions, and "
            "other values"
        )
    return ""


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
        named = tuple((key, encode_field(item)) for key, item in value.keywords.items())
        self.parts = (encode_field(value.func), encode_field(value.args), named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _partial, self.parts


def encode_field(value: Any) -> Any:
    """Return a field in a form that pickles: functions by their public paths."""
    if isinstance(value, functools.partial):
        return _Parts(value)
    if type(value) is tuple:
        return tuple(map(encode_field, value))
    if isinstance(value, dict):
        return type(value)({key: encode_field(item) for key, item in value.items()})
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
