"""Configurations as JSON and back, equal to what was written; and optimizers as configurations.

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
from typing import Annotated, Any

import optax

from ..explain.text import suggestion
from ..files.reading import FileError, listed
from ..train import Cosine, Optimizer
from ..validation import check_fields, number

SCALARS = (bool, int, float, str)
NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_plain(config: Any) -> Any:
    """Return a configuration as dicts, lists, and scalars, for `json.dumps`.

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


def to_record(config: Any) -> Any:
    """Return `to_plain` of a configuration that a folder records, from which it can be read again.

    Raises:
        TypeError: a field holds what JSON does not.
        ValueError: a value is not of the annotated type, so that `from_plain` would reject it.
    """
    plain = to_plain(config)
    try:
        from_plain(type(config), plain)
    except FileError as error:
        raise ValueError(
            f"{error}: what is recorded here could not be read again; annotate the field with the "
            "type of its value"
        ) from None
    return plain


def from_plain(kind: Any, plain: Any, where: str = "config") -> Any:
    """Return the configuration of type `kind` that `to_plain` wrote as `plain`.

    Args:
        kind: a dataclass, or the type of a field.
        plain: dicts, lists, and scalars.
        where: the path of `plain`, for errors. Default: "config".

    Raises:
        FileError: an unknown or missing field, a class that the type does not allow, or a value of
            another type, with its path.

    >>> from_plain(SGD, {"type": "SGD", "learning_rate": 0.1})
    Traceback (most recent call last):
    jaxnn.files.reading.FileError: config (SGD) lacks 'momentum'
    """
    if isinstance(plain, dict) and plain.get("type") == "float":
        plain = NOT_FINITE.get(str(plain.get("value")), plain)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return from_plain(arguments[0], plain, where)
    options = arguments if origin in (typing.Union, types.UnionType) else (kind,)
    classes = {class_name(one): one for one in options if is_class(one) and one is not type(None)}
    if isinstance(plain, dict) and classes:
        return _dataclass(classes, plain, where)
    for option in options:
        if option is tuple or (option is Any and isinstance(plain, list)):
            option = tuple[Any, ...]
        origin, items = typing.get_origin(option), typing.get_args(option)
        if origin is tuple and isinstance(plain, list):
            items = items[:1] * len(plain) if items[-1:] == (Ellipsis,) else items
            if len(items) == len(plain):
                pairs = enumerate(zip(items, plain, strict=True))
                return tuple(from_plain(one, item, f"{where}[{i}]") for i, (one, item) in pairs)
        if option is float and isinstance(plain, int | float) and not isinstance(plain, bool):
            return float(plain)
        allowed = items if origin is typing.Literal else ()
        if (
            any(type(plain) is type(one) and plain == one for one in allowed)
            or (option in SCALARS and type(plain) is option)
            or (option is Any and isinstance(plain, SCALARS))
            or (option in (None, type(None), Any) and plain is None)
        ):
            return plain
    raise FileError(f"{where} is {plain!r:.200}, expected {' or '.join(map(_name, options))}")


def _dataclass(classes: dict[str, Any], plain: dict[str, Any], where: str) -> Any:
    """Return the dataclass of several that `plain` names."""
    name = str(plain.get("type"))
    if name not in classes:
        raise FileError(f"{where} has type {name!r:.80}; {suggestion(name, classes)}")
    kind, where_ = classes[name], f"{where} ({name})"
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [field.name for field in dataclasses.fields(kind)]
    unknown = [field for field in plain if field not in ("type", *fields)]
    missing = [repr(field) for field in fields if field not in plain]
    problems = [f"lacks {', '.join(missing)}"] if missing else []
    problems += [f"has no field {one!r}; {suggestion(one, fields)}" for one in unknown]
    if problems:
        raise FileError(f"{where_} {listed(problems, ', and ')}")
    values = {f: from_plain(hints[f], plain[f], f"{where}.{f}") for f in fields}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:  # the class checks its own fields
        raise FileError(f"{where_}: {error}") from error


def members_of(kinds: list[Any]) -> list[Any]:
    """Return the types that these allow: those of each union, without annotations, each once."""
    members: list[Any] = []
    for kind in kinds:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            members += members_of([arguments[0]])
        elif origin in (typing.Union, types.UnionType):
            members += members_of(list(arguments))
        else:
            members.append(kind)
    return list(dict.fromkeys(members))


def is_class(kind: Any) -> bool:
    """Return whether a type is a dataclass, or that of None: an option of a `Branch`."""
    return kind is type(None) or (isinstance(kind, type) and dataclasses.is_dataclass(kind))


def class_name(kind: Any) -> str:
    """Return the name by which a `Branch` chooses a class."""
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    named = isinstance(kind, type) and not typing.get_args(kind)
    return "null" if kind in (None, type(None)) else kind.__name__ if named else str(kind)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""

    learning_rate: Annotated[float, number(0)] = 1e-3
    """The initial learning rate, which decays to zero over the run along half a cosine."""
    weight_decay: Annotated[float, number(0)] = 1e-4
    """A step subtracts this fraction of each weight, times the learning rate."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self)

    def build(self, steps: int) -> Optimizer:
        """Return the optimizer of a run; its hyperparameters change without recompiling.

        Args:
            steps: Number of steps of the run.

        Reference: Loshchilov and Hutter, Decoupled weight decay regularization, 2019.

        >>> AdamW(learning_rate=1e-3).build(steps=100).numbers
        {'learning_rate': Cosine(peak=0.001, steps=100.0, end=0.0), 'weight_decay': 0.0001}
        """
        rate = Cosine(self.learning_rate, float(steps))  # a leaf of programs
        return Optimizer(optax.adamw, learning_rate=rate, weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    learning_rate: Annotated[float, number(0)] = 0.1
    """The initial learning rate, which decays to zero over the run along half a cosine."""
    momentum: Annotated[float, number(0, 1)] = 0.9
    """The fraction of the last update that is added to the next one, in [0, 1]."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self)

    def build(self, steps: int) -> Optimizer:
        """Return the optimizer of a run; its hyperparameters change without recompiling.

        Args:
            steps: Number of steps of the run.

        Reference: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts,
        2017.

        >>> SGD(learning_rate=0.1).build(steps=100).numbers
        {'learning_rate': Cosine(peak=0.1, steps=100.0, end=0.0), 'momentum': 0.9}
        """
        rate = Cosine(self.learning_rate, float(steps))  # a leaf of programs
        return Optimizer(optax.sgd, learning_rate=rate, momentum=self.momentum)
