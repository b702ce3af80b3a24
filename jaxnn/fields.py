"""The normal form of the fields of a value, and the objects that they may contain."""

import functools
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


def is_traced(value: object) -> bool:
    """Return whether `value` is traced by a JAX transform, so that its number is not known."""
    return isinstance(value, Tracer)


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
