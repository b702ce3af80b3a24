"""Values: frozen dataclasses that compare, hash, print, and pickle by their fields.

Layers, initializers, declared parameters, and configurations are values. A subclass of `Value` is a
frozen dataclass without a decorator. `fields.normalize` defines what its fields may contain,
`equality_key` defines equality, and `fields.code` defines how it prints.
"""

import dataclasses
import functools
import struct
import types
from typing import Any, dataclass_transform

from ..fields import FrozenDict, arguments, encode_field, is_traced, normalize, public_path, restore
from ..validation import check_fields


@dataclass_transform(frozen_default=True, eq_default=False)
class Value:
    """Base of all values. Subclasses declare fields as a dataclass does and need no decorator.

    Fields are normalized and checked before the subclass's own `__post_init__` runs: NumPy scalars
    become Python numbers, a dict of layers becomes a `FrozenDict`, and arrays, lists, sets, and
    other dicts raise a TypeError.

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
        """Normalize and check the fields; a subclass's own `__post_init__` runs after this."""
        self._normalize_fields()

    def _normalize_fields(self) -> None:
        for field in fields(self):
            where = f"{type(self).__name__}.{field.name}"
            object.__setattr__(self, field.name, normalize(getattr(self, field.name), where))
        check_fields(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return False
        return equality_key(self) == equality_key(other)

    def __hash__(self) -> int:
        return hash(equality_key(self))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(arguments(self, _is_default))})"

    def __copy__(self) -> "Value":
        return self

    def __deepcopy__(self, memo: object) -> "Value":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        names = tuple(field.name for field in fields(self))
        return restore, (type(self), names, tuple(encode_field(getattr(self, n)) for n in names))


def _writes_init(cls: type) -> bool:
    """Return whether the class, or one of its bases, defines `__init__` itself."""
    for base in cls.__mro__[:-1]:
        if "__init__" in base.__dict__:
            made = base.__dict__.get("__dataclass_params__")
            return made is None or not made.init
    return False


def fields(value: Value) -> tuple[dataclasses.Field[Any], ...]:
    """Return the dataclass fields of a value."""
    return dataclasses.fields(value)  # type: ignore[arg-type]


def copy_as(kind: type[Any], value: Any, /, **changes: Any) -> Any:
    """Return a value of a kind with the fields of `value`, some replaced, without checks."""
    copy = object.__new__(kind)
    copy.__dict__.update(value.__dict__, **changes)
    copy.__dict__.pop("_nesting", None)  # cached for the old fields
    return copy


def copy_with(value: Any, /, **changes: Any) -> Any:
    """Return a copy of `value` with some fields replaced, without construction or checks."""
    return copy_as(type(value), value, **changes)


def equality_key(value: Any) -> Any:
    """Return a hashable object that is equal for two values if and only if they are the same.

    Types count (2 is not 2.0), and floats compare by their bits (NaN is NaN, 0.0 is not -0.0).
    Raises TypeError for a traced number, which has no value yet.
    """
    if isinstance(value, Value):
        return type(value), tuple(equality_key(getattr(value, f.name)) for f in fields(value))
    if type(value) is float:
        return float, struct.pack("<d", value)
    if type(value) is complex:
        return complex, struct.pack("<dd", value.real, value.imag)
    if isinstance(value, tuple):
        return type(value), tuple(equality_key(item) for item in value)
    if isinstance(value, FrozenDict):
        return FrozenDict, tuple((key, equality_key(item)) for key, item in value.items())
    if isinstance(value, functools.partial):
        named = tuple(sorted((k, equality_key(v)) for k, v in value.keywords.items()))
        return functools.partial, equality_key(value.func), equality_key(value.args), named
    if is_traced(value):
        raise TypeError(
            f"a value that contains the traced number {value} cannot be compared or hashed: build "
            "the layer in the function that uses it, and pass the number itself through the "
            "transform"
        )
    return type(value), value


def is_lasting(value: Any) -> bool:
    """Return whether `value` may be cached: none of its functions can refer to arrays.

    A function that can be imported refers to none, nor does one without a closure and defaults.
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


def _is_default(item: Any, default: Any) -> bool:
    if default is dataclasses.MISSING or is_traced(item):
        return False
    try:
        return equality_key(item) == equality_key(normalize(default, "default"))
    except TypeError:  # a traced number further down
        return False
