"""Values: frozen dataclasses that compare, hash, print and pickle by what they hold.

Layers, initializers, declared parameters and configurations are values. A subclass of `Value`
becomes a frozen dataclass by being written. What its fields may hold is decided once, in
`normalize`; what equality means once, in `identity`; how it prints once, in `code`.
"""

import dataclasses
import enum
import functools
import importlib
import struct
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer

FUNCTION_HOMES = ("jax.nn", "jax.numpy", "jax.lax")


@dataclass_transform(frozen_default=True, eq_default=False)
class Value:
    """Base of all values. Subclasses declare fields as a dataclass does and need no decorator.

    Fields are brought to normal form before the subclass's own `__post_init__` runs: numpy scalars
    become Python numbers, a dict of layers becomes a `FrozenDict`; arrays, lists, sets and other
    dicts raise a TypeError.

    >>> class Scale(Value):
    ...     by: float
    >>> Scale(2.0), Scale(2.0) == Scale(2.0), Scale(2) == Scale(2.0)
    (Scale(2.0), True, False)
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def post_init(self: Value) -> None:
                self._normalize_fields()
                own(self)

            cls.__post_init__ = post_init
        init = not _writes_init(cls)
        dataclasses.dataclass(frozen=True, eq=False, repr=False, init=init)(cls)

    def __post_init__(self) -> None:
        """Bring the fields to normal form; a subclass's own `__post_init__` runs after this."""
        self._normalize_fields()

    def _normalize_fields(self) -> None:
        for field in fields(self):
            where = f"{type(self).__name__}.{field.name}"
            object.__setattr__(self, field.name, normalize(getattr(self, field.name), where))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return False
        return identity(self) == identity(other)

    def __hash__(self) -> int:
        return hash(identity(self))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(_arguments(self))})"

    def __copy__(self) -> "Value":
        return self

    def __deepcopy__(self, memo: object) -> "Value":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        names = tuple(field.name for field in fields(self))
        return _restore, (type(self), names, tuple(_encode(getattr(self, n)) for n in names))


class FrozenDict(dict[str, Any]):
    """A dict that cannot change, hashes, and compares in order. It prints as a plain dict."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the children of a layer cannot change: write nn.replace(net, path, value)")

    __setitem__ = __delitem__ = __ior__ = update = clear = pop = popitem = setdefault = _refuse  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenDict) and list(self.items()) == list(other.items())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


def _writes_init(cls: type) -> bool:
    """Whether the class or one it inherits from has an `__init__` of its own."""
    for base in cls.__mro__[:-1]:
        if "__init__" in base.__dict__:
            made = base.__dict__.get("__dataclass_params__")
            return made is None or not made.init
    return False


def fields(value: Value) -> tuple[dataclasses.Field[Any], ...]:
    """The dataclass fields of a value."""
    return dataclasses.fields(value)  # type: ignore[arg-type]


def is_traced(value: object) -> bool:
    """Whether `value` is a number known only while a JAX transform traces."""
    return isinstance(value, Tracer)


def copy_with(value: Any, /, **changes: Any) -> Any:
    """A copy of `value` with some fields replaced as they are, without construction or checks."""
    copy = object.__new__(type(value))
    copy.__dict__.update(value.__dict__, **changes)
    copy.__dict__.pop("_nesting", None)  # remembered of what the fields were
    return copy


def normalize(value: Any, where: str) -> Any:
    """The normal form of what a field may hold; `where` names the field in errors.

    Raises TypeError for arrays, lists, sets, dicts of anything but values or functions, classes
    where an instance is wanted, and whatever cannot be hashed.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, Value)):
        return value
    if is_traced(value):
        if value.shape != ():
            raise TypeError(_array_refused(value, where))
        return value
    if isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(_array_refused(value, where))
    if isinstance(value, type) and issubclass(value, Value):
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
            item is None or isinstance(item, (Value, dict, tuple)) or callable(item)
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
        "and write float(x) or int(x) for a number"
    )


def identity(value: Any) -> Any:
    """A hashable that two values share exactly when they are the same value.

    Types count (2 is not 2.0), floats compare by their bits (nan is nan, 0.0 is not -0.0).
    Raises TypeError for a traced number, which has no value yet.
    """
    if isinstance(value, Value):
        return type(value), tuple(identity(getattr(value, f.name)) for f in fields(value))
    if type(value) is float:
        return float, struct.pack("<d", value)
    if type(value) is complex:
        return complex, struct.pack("<dd", value.real, value.imag)
    if isinstance(value, tuple):
        return type(value), tuple(identity(item) for item in value)
    if isinstance(value, FrozenDict):
        return FrozenDict, tuple((key, identity(item)) for key, item in value.items())
    if isinstance(value, functools.partial):
        named = tuple(sorted((k, identity(v)) for k, v in value.keywords.items()))
        return functools.partial, identity(value.func), identity(value.args), named
    if is_traced(value):
        raise TypeError(
            f"a value that holds the traced number {value} cannot be compared or hashed: build the "
            "layer where it is used and close over it, and pass the number itself through the "
            "transform"
        )
    return type(value), value


def is_lasting(value: Any) -> bool:
    """Whether `value` may be kept: none of its functions can hold arrays, traced or not.

    A function that can be imported holds none, nor does one without a closure and defaults.
    """
    if isinstance(value, Value):
        return all(is_lasting(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, (tuple, FrozenDict)):
        return all(map(is_lasting, value.values() if isinstance(value, dict) else value))
    if isinstance(value, functools.partial):
        return is_lasting((value.func, *value.args, *value.keywords.values()))
    if not callable(value) or public_path(value) is not None:
        return True
    held = ("__closure__", "__defaults__", "__kwdefaults__")
    return isinstance(value, types.FunctionType) and not any(getattr(value, n) for n in held)


def public_path(function: Any) -> tuple[str, str] | None:
    """Module and qualified name under which a function or class can be imported, or None."""
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
    """The code that builds `value`, as far as there is such code."""
    if is_traced(value):
        return f"<traced {value.aval.str_short()}>"
    if isinstance(value, enum.Enum):
        return f"{code(type(value))}.{value.name}"
    if isinstance(value, float) and value != value:
        return "float('nan')"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f"float('{value}')"
    if type(value) is tuple:
        return f"({', '.join(map(code, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, FrozenDict):
        return "{" + ", ".join(f"{key!r}: {code(item)}" for key, item in value.items()) + "}"
    if isinstance(value, functools.partial):
        named = [f"{key}={code(item)}" for key, item in value.keywords.items()]
        parts = [code(value.func), *map(code, value.args), *named]
        return f"functools.partial({', '.join(parts)})"
    if isinstance(value, np.dtype):
        return f"numpy.dtype({value.name!r})"
    if callable(value) and not isinstance(value, Value):
        path = public_path(value)
        if path is not None:
            module, name = path
            return name if module in ("builtins", "__main__") else f"{module}.{name}"
    return repr(value)


def _arguments(value: Value) -> Iterator[str]:
    """The constructor's arguments: required fields by position, others where they differ."""
    positional = True
    for field in fields(value):
        item = getattr(value, field.name)
        if field.default is dataclasses.MISSING and not field.kw_only and positional:
            yield code(item)
        elif not _is_default(item, field.default):
            positional = False
            yield f"{field.name}={code(item)}"
        else:
            positional = False


def _is_default(item: Any, default: Any) -> bool:
    if default is dataclasses.MISSING or is_traced(item):
        return False
    try:
        return identity(item) == identity(normalize(default, "default"))
    except TypeError:  # a traced number further down
        return False


class _Reference:
    """Stands for an importable function while a value is pickled; unpickles as the function."""

    def __init__(self, module: str, name: str) -> None:
        self.place = (module, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _import, self.place


class _Parts:
    """Stands for a `functools.partial` while a value is pickled; unpickles as the partial."""

    def __init__(self, value: "functools.partial[Any]") -> None:
        named = tuple((key, _encode(item)) for key, item in value.keywords.items())
        self.parts = (_encode(value.func), _encode(value.args), named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _partial, self.parts


def _encode(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return _Parts(value)
    if type(value) is tuple:
        return tuple(map(_encode, value))
    if isinstance(value, FrozenDict):
        return FrozenDict({key: _encode(item) for key, item in value.items()})
    if callable(value) and not isinstance(value, Value):
        path = public_path(value)
        if path is not None:
            return _Reference(*path)
    return value


def _import(module: str, name: str) -> Any:
    return _attribute(importlib.import_module(module), name)


def _partial(function: Callable[..., Any], args: tuple[Any, ...], named: Any) -> Any:
    return functools.partial(function, *args, **dict(named))


def _restore(cls: type[Value], names: tuple[str, ...], items: tuple[Any, ...]) -> Value:
    value = object.__new__(cls)
    value.__dict__.update(zip(names, items, strict=True))
    return value
