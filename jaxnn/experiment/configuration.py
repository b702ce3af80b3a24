"""Configurations as JSON and back: what is read is equal to what was written.

A configuration is a frozen dataclass of numbers, strings, tuples, and further dataclasses. In JSON,
a dataclass is an object with the name of its class under "type", which distinguishes the members of
a union:

    {"type": "Config", "optimizer": {"type": "AdamW", "learning_rate": 0.001, ...}, ...}

JSON has no infinity and no NaN; they are written as {"type": "float", "value": "inf"}.
"""

import dataclasses
import math
import types
import typing
from typing import Any

from ..explain.text import suggestion

SCALARS = (bool, int, float, str)
UNFINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_plain(config: Any) -> Any:
    """A configuration as dicts, lists, and scalars, for `json.dumps`.

    >>> from .optimizers import SGD
    >>> to_plain(SGD(learning_rate=0.1))
    {'type': 'SGD', 'learning_rate': 0.1, 'momentum': 0.9}
    """
    if dataclasses.is_dataclass(config):
        items = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        return {"type": type(config).__name__} | {k: to_plain(v) for k, v in items.items()}
    if isinstance(config, tuple):
        return [to_plain(item) for item in config]
    if isinstance(config, float) and not math.isfinite(config):
        return {"type": "float", "value": str(float(config))}
    if config is None or isinstance(config, SCALARS):
        return config
    raise TypeError(
        f"a configuration holds numbers, strings, tuples, and dataclasses, got {config!r}; write a "
        "tuple or a frozen dataclass"
    )


def from_plain(kind: Any, plain: Any, where: str = "config") -> Any:
    """The configuration of type `kind` of which `plain` is the result of `to_plain`.

    Raises ValueError with the path in the configuration for an unknown or missing field, a class
    that the type does not allow, or a value of another type.

    >>> from .optimizers import SGD
    >>> from_plain(SGD, {"type": "SGD", "learning_rate": 0.1, "momentun": 0.9})
    Traceback (most recent call last):
    ValueError: config (SGD) has no field 'momentun'; did you mean 'momentum'?
    """
    if isinstance(plain, dict) and plain.get("type") == "float":
        plain = UNFINITE.get(str(plain.get("value")), plain)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return from_plain(arguments[0], plain, where)
    options = arguments if origin in (typing.Union, types.UnionType) else (kind,)
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if isinstance(plain, dict) and classes:
        return _dataclass(classes, plain, where)
    for option in options:
        if _fits(option, plain):
            return _converted(option, plain, where)
    wanted = " or ".join(_name(option) for option in options)
    raise ValueError(f"{where} is {plain!r:.200}, wanted {wanted}")


def _dataclass(classes: list[Any], plain: dict[str, Any], where: str) -> Any:
    named = {cls.__name__: cls for cls in classes}
    name = plain.get("type")
    if not isinstance(name, str) or name not in named:
        raise ValueError(f"{where} has type {name!r:.80}; {suggestion(str(name), named)}")
    cls = named[str(name)]
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [field.name for field in dataclasses.fields(cls)]
    for field in plain:
        if field != "type" and field not in fields:
            raise ValueError(
                f"{where} ({name}) has no field {field!r}; {suggestion(field, fields)}"
            )
    missing = [field for field in fields if field not in plain]
    if missing:
        raise ValueError(f"{where} ({name}) lacks {', '.join(map(repr, missing))}")
    values = {f: from_plain(hints[f], plain[f], f"{where}.{f}") for f in fields}
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:  # the class checks its own fields
        raise ValueError(f"{where} ({name}): {error}") from error


def _fits(kind: Any, plain: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return any(type(plain) is type(one) and plain == one for one in typing.get_args(kind))
    if origin is tuple:
        return isinstance(plain, list)
    if kind in (None, type(None)):
        return plain is None
    if kind is float:
        return isinstance(plain, int | float) and not isinstance(plain, bool)
    return kind in SCALARS and type(plain) is kind


def _converted(kind: Any, plain: Any, where: str) -> Any:
    if kind is float:
        return float(plain)
    if typing.get_origin(kind) is not tuple:
        return plain
    items = typing.get_args(kind)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(plain)
    if len(items) != len(plain):
        raise ValueError(f"{where} has {len(plain)} items, wanted {len(items)}")
    pairs = enumerate(zip(items, plain, strict=True))
    return tuple(from_plain(one, item, f"{where}[{i}]") for i, (one, item) in pairs)


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return "null" if kind in (None, type(None)) else getattr(kind, "__name__", str(kind))
