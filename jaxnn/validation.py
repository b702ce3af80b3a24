"""Declarative checks: what fields and arguments accept, stated with their declaration.

    class Dropout(Primitive):
        rate: Annotated[float, fraction]

    positive(epochs, "epochs", hint="write train.fit(..., epochs=10)")

An `Accepts` is a test and its description. A `Value` checks every field whose annotation holds one
(and every field annotated `bool` or `Literal`) when it is created, any other dataclass by
`check_fields`; a function calls it on an argument. Both raise the same error: what was expected,
and what was passed.
"""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import numpy as np

from .fields import code, describe, is_array, is_traced


@dataclasses.dataclass(frozen=True)
class Accepts:
    """A test of a value, and its description in errors. `None | accepts` accepts None too.

    Args:
        what: What is accepted, as in "an int >= 1"; errors say "NAME must be WHAT, got ...".
        test: Returns True if a value is accepted.
        error: Type of the error for any other value. Default: ValueError.
        hint: Text that follows in errors, such as the call to write; `{owner}` and `{name}` stand
            for the two parts of the name of a field. Default: "", none.
        traced: Whether traced numbers and arrays are accepted, without a test. Default: False.
        abstract: Whether the test reads shapes and types only, so that it is applied to traced
            arrays, too. Default: False.

    >>> positive(3, "Dense.features")
    3
    >>> positive(0, "Dense.features")
    Traceback (most recent call last):
    ValueError: Dense.features must be an int >= 1, got 0
    """

    what: str
    test: Callable[[Any], bool]
    error: type[Exception] = ValueError
    hint: str = ""
    traced: bool = False
    abstract: bool = False

    def __call__(self, value: Any, where: str, hint: str = "") -> Any:
        """Return `value` if it is accepted, otherwise raise.

        Args:
            value: The value to test.
            where: Name of the field or argument, as in "Dense.features".
            hint: Text that follows in the error. Default: that of this `Accepts`.
        """
        if self.passes(value):
            return value
        owner, _, name = where.rpartition(".")
        hint = hint or self.hint.format(owner=owner, name=name)
        text = f"{where} must be {self.what}, got {_shown(value)}" + (f"; {hint}" if hint else "")
        error = self.error
        for item in value if isinstance(value, tuple) else (value,):
            if is_traced(item) and not self.traced and not self.abstract:
                error = TypeError
                text = (
                    f"{where} {'holds' if isinstance(value, tuple) else 'is'} the traced number "
                    f"{item}, but must be {self.what}, known before tracing: pass a Python number, "
                    "for example by static_argnums of jax.jit"
                )
        raise error(text)

    def __repr__(self) -> str:
        return f"<{self.what}>"

    def __ror__(self, none: None) -> "Accepts":
        return dataclasses.replace(
            self, what=f"None or {self.what}", test=lambda v: v is None or self.test(v)
        )

    def passes(self, value: Any) -> bool:
        """Return whether `value` is accepted."""
        if self.abstract:
            return self.test(value)
        if is_traced(value) or (self.traced and isinstance(value, jax.Array | np.ndarray)):
            return self.traced
        return self.test(value)

    def such(self, **changes: Any) -> "Accepts":
        """Return this `Accepts` with another description, error, or hint."""
        return dataclasses.replace(self, **changes)


def _shown(value: Any) -> str:
    """Return a value as text of about 200 characters: arrays by type, functions by public path."""
    text = describe(value) if _has_arrays(value) else repr(value)
    text = code(value) if callable(value) and not isinstance(value, type) else text
    return text if len(text) <= 200 else f"{text:.200}..."


def _has_arrays(value: Any, levels: int = 20) -> bool:  # a list may contain itself
    if isinstance(value, tuple | list | dict):
        items = value.values() if isinstance(value, dict) else value
        return levels > 0 and any(_has_arrays(item, levels - 1) for item in items)
    return is_array(value) and not isinstance(value, np.generic)


def is_int(value: Any) -> bool:
    """Return whether `value` is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_size(value: Any) -> bool:
    """Return whether `value` is the length of an axis: an int >= 0, or a symbolic one."""
    if isinstance(value, int):
        return value >= 0
    from jax.export import is_symbolic_dim  # only a program with free axes has other lengths

    return is_symbolic_dim(value)


def is_number(value: Any) -> bool:
    """Return whether `value` is an int, a float, or a NumPy scalar, and neither a bool nor NaN."""
    return (
        isinstance(value, int | float | np.number)
        and not isinstance(value, bool)
        and value == value
    )


def _described(kind: str, low: Any, high: Any) -> str:
    if high is None:
        return kind if low is None else f"{kind} >= {low}"
    return f"{kind} <= {high}" if low is None else f"{kind} from {low} to {high}"


def _within(value: Any, low: Any, high: Any) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def integer(low: int | None = None, high: int | None = None) -> Accepts:
    """Accept ints from `low` to `high`, both included; None means no bound.

    >>> integer(2, 5).what, integer(0).what, integer().what
    ('an int from 2 to 5', 'an int >= 0', 'an int')
    """
    return Accepts(_described("an int", low, high), lambda v: is_int(v) and _within(v, low, high))


def number(low: float | None = None, high: float | None = None) -> Accepts:
    """Accept numbers from `low` to `high`, both included, and traced numbers; None means no bound.

    >>> number(0).what, number(0, 1).what
    ('a number >= 0', 'a number from 0 to 1')
    """
    what = _described("a number", low, high)
    return Accepts(what, lambda v: is_number(v) and _within(v, low, high), traced=True)


def above(low: float) -> Accepts:
    """Accept numbers greater than `low`, and traced numbers.

    >>> above(0).what
    'a number > 0'
    """
    return Accepts(f"a number > {low}", lambda v: is_number(v) and v > low, traced=True)


def one_of(*options: Any) -> Accepts:
    """Accept the given options, compared by type and value.

    >>> one_of("same", "valid", None).what
    "'same', 'valid', or None"
    """
    *head, last = map(repr, options)
    what = f"{', '.join(head)}{',' * (len(head) > 1)} or {last}" if head else last
    return Accepts(what, lambda v: any(type(v) is type(o) and v == o for o in options))


def instance(kinds: type | tuple[type, ...], what: str, hint: str = "") -> Accepts:
    """Accept instances of a class, or of one of several; a TypeError describes them as `what`.

    Traced arrays are instances of `jax.Array` alone, so that the error describes them, too.
    """
    return Accepts(what, lambda v: isinstance(v, kinds), TypeError, hint, abstract=True)


def each(accepts: Accepts, what: str, lengths: Collection[int] | None = None) -> Accepts:
    """Accept one value that `accepts` accepts, or a tuple of them.

    Args:
        accepts: The validator of each value.
        what: The description of both, as in "an int >= 1 or a tuple of them".
        lengths: Lengths of a tuple. Default: all but 0.

    >>> sizes = each(positive, "an int >= 1, or a tuple of 2 or 3", (2, 3))
    >>> sizes.test(5), sizes.test((5, 5)), sizes.test((5, 0)), sizes.test((5,))
    (True, True, False, False)
    """
    whole = tuple_of(accepts, what, lengths)
    return whole.such(test=lambda v: whole.test(v) if isinstance(v, tuple) else accepts.passes(v))


def tuple_of(accepts: Accepts, what: str, lengths: Collection[int] | None = None) -> Accepts:
    """Accept a tuple of values that `accepts` accepts, described as `what`; see `each`."""

    def test(value: Any) -> bool:
        if not isinstance(value, tuple):
            return False
        fits = bool(value) if lengths is None else len(value) in lengths
        return fits and all(map(accepts.passes, value))

    return accepts.such(what=what, test=test)


def require(
    holds: Any,
    where: str,
    what: str,
    value: Any,
    hint: str = "",
    error: type[Exception] = ValueError,
) -> None:
    """Raise unless a condition holds, which relates `value` to something else.

    Args:
        holds: The condition.
        where: Name of what is checked.
        what: What it must be.
        value: What it is; arrays are shown by type and shape.
        hint: Text that follows in the error, such as the call to write. Default: none.
        error: Type of the error. Default: ValueError.

    >>> require(3 in (4, 5), "images", "of 4 or 5 axes", 3, "write images[None]")
    Traceback (most recent call last):
    ValueError: images must be of 4 or 5 axes, got 3; write images[None]
    """
    if not holds:
        Accepts(what, lambda _: False, error, abstract=True)(value, where, hint)


def check_none(
    problems: Iterable[str], what: str, hint: str = "", error: type[Exception] = ValueError
) -> None:
    """Raise an error that lists all problems, if there are any.

    Args:
        problems: The problems, each in one line.
        what: What is wrong if there are any, as in "the state does not match the network".
        hint: The call to write. Default: "", none.
        error: Type of the error. Default: ValueError.

    >>> check_none(["w: missing", "b: missing"], "the weights do not fit", "write names={...}")
    Traceback (most recent call last):
    ValueError: the weights do not fit:
      w: missing
      b: missing
    Write names={...}
    """
    lines = list(problems)
    if lines:
        several = len(lines) > 1
        text = "\n  ".join([f"{what}:", *lines]) if several else f"{what}: {lines[0]}"
        ends = f"\n{hint[:1].upper()}{hint[1:]}" if several else f"; {hint}"
        raise error(text + ends if hint else text)


positive: Accepts = integer(1)
natural: Accepts = integer(0)
fraction: Accepts = number(0, 1)
flag: Accepts = Accepts("True or False", lambda v: isinstance(v, bool), TypeError)
function: Accepts = Accepts("a function", callable, TypeError)


def unwritten(missing: str, error: type[Exception] = NotImplementedError) -> Callable[[Any], Any]:
    """Return a decorator of a method that subclasses define: a call raises, and shows its form.

    Args:
        missing: What a class without the method lacks, and what to write.
        error: Type of the error. Default: NotImplementedError.

    >>> class Shape:
    ...     @unwritten("no area; write def area(self): ... return number")
    ...     def area(self): ...
    >>> Shape().area()
    Traceback (most recent call last):
    NotImplementedError: Shape has no area; write def area(self): ... return number
    """

    def mark(method: Any) -> Any:
        @functools.wraps(method)
        def call(self: Any, *_: Any, **__: Any) -> Any:
            raise error(f"{type(self).__name__} has {missing}")

        return call

    return mark


def check_fields(value: Any) -> None:
    """Raise unless every field of a dataclass holds what its annotation accepts.

    Args:
        value: An instance of a dataclass.
    """
    kind = type(value)
    for name, accepts in _accepted(kind).items():
        item = getattr(value, name)
        if not accepts.passes(item):
            accepts(item, f"{kind.__name__}.{name}")  # raises


def check_below(config: Any, lower: str, upper: str) -> None:
    """Raise ValueError unless one field is below another; traced numbers pass.

    Args:
        config: A layer or another value.
        lower: Name of the field that must be below the other.
        upper: Name of the other field.
    """
    low, high = getattr(config, lower), getattr(config, upper)
    below = Accepts(
        f"below {upper}={high!r}", lambda low: is_traced(high) or low < high, traced=True
    )
    below(low, f"{type(config).__name__}.{lower}")


def check_shape(array: Any, shape: tuple[int, ...], where: str, hint: str = "") -> None:
    """Raise ValueError unless an array has the expected shape.

    Args:
        array: The array.
        shape: The expected shape.
        where: Name of the array, for the error.
        hint: Text that follows in the error. Default: "", none.

    >>> check_shape(np.ones(3), (2, 3), "the output")
    Traceback (most recent call last):
    ValueError: the output must be of shape (2, 3), got float64[3]
    """
    has = Accepts(
        f"of shape {shape}", lambda x: getattr(x, "shape", None) == tuple(shape), abstract=True
    )
    has(array, where, hint)


@functools.cache
def _accepted(kind: type) -> dict[str, Accepts]:
    """Return what the fields of a class accept, by name, the fields of its bases first.

    A class states what its fields annotated `bool` accept by its attribute `_flag`.
    """
    found: dict[str, Accepts] = {}
    for base in reversed(kind.__mro__):
        for name, annotation in inspect.get_annotations(base).items():
            found.pop(name, None)
            if annotation is bool:
                found[name] = getattr(kind, "_flag", flag).such(traced=True)
            elif typing.get_origin(annotation) is typing.Literal:
                found[name] = one_of(*typing.get_args(annotation))
            elif typing.get_origin(annotation) is typing.Annotated:
                found.update((name, a) for a in annotation.__metadata__ if isinstance(a, Accepts))
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: accepts for name, accepts in found.items() if name in names}


UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float | None:
    """Return a duration such as "90s", "2h", or "1h30m" in seconds; None if it is not one.

    >>> seconds("1h30m"), seconds("90"), seconds("soon")
    (5400.0, 90.0, None)
    """
    words = "".join(text.split()).lower()
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(min|[smhd]?)", words)
    if not parts or "".join(number + unit for number, unit in parts) != words:
        return None
    return sum(float(number) * UNITS[unit or "s"] for number, unit in parts)


a_duration: Accepts = Accepts(
    "a number of seconds > 0, or a text such as '90s', '2h', or '1h30m'",
    lambda v: bool(seconds(v)) if isinstance(v, str) else above(0).passes(v),
)
