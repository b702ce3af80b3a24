"""What the fields of a value may hold, in normal form."""

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.core import Tracer


class FrozenDict(dict[str, Any]):
    """A dict that cannot change, hashes, and compares in order. It prints as a plain dict."""

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
    """Whether `item` is a `core.values.Value`."""
    return hasattr(type(item), "_normalize_fields")


def is_traced(value: object) -> bool:
    """Whether `value` is a number known only while a JAX transform traces."""
    return isinstance(value, Tracer)


def normalize(value: Any, where: str) -> Any:
    """The normal form of what a field may hold; `where` names the field in errors.

    Raises TypeError for arrays, lists, sets, dicts of anything but values or functions, classes
    where an instance is wanted, and whatever cannot be hashed.
    """
    if isinstance(value, np.generic):
        return value.item()
    if (
        value is None
        or isinstance(value, (bool, int, float, complex, str, bytes))
        or is_value(value)
    ):
        return value
    if is_traced(value):
        if value.shape != ():
            raise TypeError(_array_refused(value, where))
        return value
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(_array_refused(value, where))
    if isinstance(value, type) and hasattr(value, "_normalize_fields"):
        raise TypeError(
            f"{where} got the class {value.__name__}; an instance is wanted: "
            f"write {value.__name__}(...)"
        )
    if isinstance(value, tuple):
        items = [normalize(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, dict):
        return _normalize_dict(value, where)
    if isinstance(value, (list, set)):
        raise TypeError(
            f"{where} got a {type(value).__name__}, which can change; write a tuple: "
            f"{tuple(value)!r}"
        )
    if isinstance(value, functools.partial):
        args = tuple(normalize(a, f"{where} argument {i}") for i, a in enumerate(value.args))
        named = {k: normalize(v, f"{where} argument {k!r}") for k, v in value.keywords.items()}
        return functools.partial(normalize(value.func, where), *args, **named)
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{where} got {value!r}, which does not hash; a value holds numbers, text, tuples, "
            "functions and other values"
        ) from None
    return value


def _normalize_dict(value: dict[Any, Any], where: str) -> FrozenDict:
    for key, item in value.items():
        if isinstance(item, (jax.Array, np.ndarray)):
            raise TypeError(_array_refused(item, f"{where}[{key!r}]"))
        if not isinstance(key, str) or not (
            item is None or is_value(item) or isinstance(item, (dict, tuple)) or callable(item)
        ):
            raise TypeError(
                f"{where} got a dict with {key!r}: {item!r}; only a dict of layers by name may be "
                f"a field: write a tuple of pairs, {tuple(value.items())!r}, or a frozen value"
            )
    return FrozenDict({k: normalize(v, f"{where}[{k!r}]") for k, v in value.items()})


def _array_refused(value: Any, where: str) -> str:
    return (
        f"{where} got an array of shape {tuple(value.shape)} and type {value.dtype}; a value holds "
        "configuration only: declare learned arrays in `parameters`, pass constants as inputs, "
        "and write float(x) or int(x) for a number, tuple(x.tolist()) for several"
    )
