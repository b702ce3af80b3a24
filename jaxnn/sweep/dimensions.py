"""Dimensions of a search space: which values a number or option may take.

Every dimension maps the unit line onto its values: `at(u)` is the value at `u` in [0, 1), and
`unit(value, within)` goes back. A value of a discrete dimension owns a stretch of the line, all of
which `at` maps to it; `within` selects a point of the stretch. So a search that knows only the unit
cube, such as a Sobol sequence, can search any space.
"""

import abc
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..validation import is_int, is_number

Scalar = float | int | str | bool | None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class _Checked(abc.ABC):
    """Base of what is checked as a whole."""

    def _check(self) -> None:
        """Raise ValueError if something is wrong."""
        if problem := self._problem():
            raise ValueError(f"{self!r}: {problem}")

    @abc.abstractmethod
    def _problem(self) -> str:
        """Return what is wrong; "" if nothing is."""


class _Range(_Checked):
    """A range: two ends, a position between them, and evenly spaced points."""

    low: Any
    high: Any
    log: bool

    def __post_init__(self) -> None:
        whole = isinstance(self, Int)
        for end in ("low", "high"):
            value = _plain(getattr(self, end))
            is_float = is_number(value) and not whole
            object.__setattr__(self, end, float(value) if is_float else value)
        self._check()

    def _problem(self) -> str:
        name, whole = type(self).__name__, isinstance(self, Int)
        low, high = self.low, self.high
        accepted = is_int if whole else lambda end: is_number(end) and math.isfinite(end)
        if wrong := [end for end in (low, high) if not accepted(end)]:
            ends = "ints" if whole else "finite numbers"
            return f"the ends of {name} must be {ends}, got {wrong[0]!r}"
        if self.log and low <= 0:
            plain = "Int" if whole else "Uniform"
            return (
                f"the low end on a log scale must be > 0; write {name} from a number > 0, or "
                f"{plain}({low!r}, {high!r})"
            )
        if low > high:
            return f"low must be less than high; write {name}({high!r}, {low!r})"
        return f"there is only one value; write Choice({low!r})" if low == high else ""

    def has(self, value: Any) -> bool:
        """Return whether this dimension has a value."""
        known = type(value) is int if isinstance(self, Int) else is_number(value)
        return known and self.low <= value <= self.high

    def grid(self, points: int) -> list[Scalar]:
        """Return both ends and evenly spaced points between, in equal ratios on a log scale.

        Args:
            points: Number of points; a single one is the middle.
        """
        if points == 1:
            return [self.at(0.5)]
        inner = [self.at(i / (points - 1)) for i in range(1, points - 1)]
        return [self.low, *inner, self.high]

    @abc.abstractmethod
    def at(self, u: float) -> Any:
        """Return the value at `u` of the unit line."""

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}{', log' if self.log else ''}"


@dataclasses.dataclass(frozen=True)
class Uniform(_Range):
    """A uniformly distributed float.

    Args:
        low: Lower bound.
        high: Upper bound, greater than `low`.

    >>> Uniform(0.0, 0.5).at(0.5)
    0.25
    """

    low: float
    high: float
    log: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]

    def at(self, u: float) -> float:
        """Return the value at `u` of the unit line: low + u * (high - low)."""
        return min(max(self.low * (1 - u) + self.high * u, self.low), self.high)

    def unit(self, value: float, within: float = 0.5) -> float:
        """Return where on the unit line a value is."""
        low, high = self.low, self.high
        if abs(low) > 1 or abs(high) > 1:  # of halves, so that no difference overflows
            low, high, value = low / 2, high / 2, value / 2
        return min(max((value - low) / (high - low), 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class LogUniform(_Range):
    """A positive float whose logarithm is uniformly distributed.

    Args:
        low: Lower bound, greater than 0.
        high: Upper bound, greater than `low`.

    >>> LogUniform(1e-4, 1e-2).grid(3)
    [0.0001, 0.001, 0.01]
    """

    low: float
    high: float
    log: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]

    def at(self, u: float) -> float:
        """Return the value at `u` of the unit line: low ** (1 - u) * high ** u."""
        return min(max(self.low ** (1 - u) * self.high**u, self.low), self.high)

    def unit(self, value: float, within: float = 0.5) -> float:
        """Return where on the unit line a value is."""
        low, high = math.log(self.low), math.log(self.high)
        return min(max((math.log(value) - low) / (high - low), 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class Int(_Range):
    """An integer between `low` and `high`, both inclusive.

    With `log`, the probability of n is proportional to the length of the interval [n - 1/2, n +
    1/2] on a log scale.

    Args:
        low: Lower bound; greater than 0 with `log`.
        high: Upper bound, greater than `low`.
        log: Whether the scale is logarithmic. Default: False.

    >>> [Int(1, 3).at(u) for u in (0.0, 0.3, 0.5, 0.9)]
    [1, 1, 2, 3]
    >>> Int(8, 128, log=True).grid(5)
    [8, 16, 32, 64, 128]
    """

    low: int
    high: int
    log: bool = False

    def at(self, u: float) -> int:
        """Return the number whose stretch of the unit line `u` is in."""
        if not self.log:
            value = self.low + math.floor(u * (self.high - self.low + 1))
        else:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = round(math.exp(low * (1 - u) + high * u))
        return min(max(value, self.low), self.high)

    def unit(self, value: int, within: float = 0.5) -> float:
        """Return a point of the number's stretch of the unit line."""
        if not self.log:
            return (value - self.low + within) / (self.high - self.low + 1)
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        start, stop = math.log(value - 0.5), math.log(value + 0.5)
        return (start + within * (stop - start) - low) / (high - low)

    def grid(self, points: int) -> list[Scalar]:
        """Return at most `points` numbers, evenly from end to end; in equal ratios with `log`."""
        if points > self.high - self.low:
            return list(range(self.low, self.high + 1))
        scale = (LogUniform if self.log else Uniform)(self.low, self.high)
        return list(dict.fromkeys(round(value) for value in scale.grid(points)))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}, whole numbers{', log' if self.log else ''}"


class _Options(_Checked):
    """A tuple of options, each with an equal share of the unit line."""

    options: tuple[Scalar, ...]
    log: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]

    def _set(self, options: tuple[Any, ...]) -> None:
        object.__setattr__(self, "options", tuple(map(_plain, options)))
        self._check()

    def at(self, u: float) -> Scalar:
        """Return the option whose share of the unit line `u` is in."""
        return self.options[min(math.floor(u * len(self.options)), len(self.options) - 1)]

    def unit(self, value: Scalar, within: float = 0.5) -> float:
        """Return a point of the option's share of the unit line."""
        return (self.index(value) + within) / len(self.options)

    def grid(self, points: int) -> list[Scalar]:
        """Return all options."""
        return list(self.options)

    def has(self, value: Any) -> bool:
        """Return whether a value is an option, of the same type: 1 is neither True nor 1.0."""
        return any(_same(value, option) for option in self.options)

    def index(self, value: Scalar) -> int:
        """Return the index of an option."""
        return next(i for i, option in enumerate(self.options) if _same(value, option))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.options))})"

    def __str__(self) -> str:
        return ", ".join(map(str, self.options))


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Choice(_Options):
    """A choice between unordered options.

    Args:
        *options: Distinct numbers, strings, True, False, or None.

    >>> Choice("relu", "tanh").at(0.7)
    'tanh'
    """

    options: tuple[Scalar, ...]

    def __init__(self, *options: Scalar) -> None:
        self._set(options)

    def _problem(self) -> str:
        for i, option in enumerate(self.options):
            if not isinstance(option, Scalar) or option != option:
                return f"an option must be a number, a text, True, False, or None, got {option!r}"
            if isinstance(option, str) and re.search("[\ud800-\udfff]", option):
                return f"the option {option!r} has a lone surrogate, which no file can hold"
            if any(_same(option, other) for other in self.options[:i]):
                return f"the option {option!r} is there twice"
        return "" if self.options else "it needs an option; write Choice(64, 128)"


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Grid(_Options):
    """A choice between ordered numbers.

    Args:
        *numbers: Finite numbers in increasing order.

    >>> Grid(1, 3, 10, 30).grid(points=2)
    [1, 3, 10, 30]
    """

    options: tuple[Scalar, ...]

    def __init__(self, *numbers: float) -> None:
        self._set(numbers)

    def _problem(self) -> str:
        for number in self.options:
            if not is_number(number) or not math.isfinite(number):  # type: ignore[arg-type]
                return f"the numbers must be finite, got {number!r}; write Choice for other options"
        ordered = sorted(set(self.options))  # type: ignore[type-var]
        if list(self.options) != ordered:
            return f"the numbers must increase; write {Grid(*ordered)!r}"  # type: ignore[arg-type]
        return "" if self.options else "it needs an option; write Grid(0.1, 0.3, 1.0)"


Dimension = Uniform | LogUniform | Int | Choice | Grid


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class Branch(_Checked):
    """A choice between the classes of a union field, with dimensions inside each class.

    Paths inside a class begin at its fields. If the base configuration has another class in the
    field, the chosen class starts from its defaults. If the field may be None, write the class
    `"None"`: `Branch(Shift={...}, **{"None": {}})`.

    Args:
        **classes: For each class by name, a dict of a dimension or a `Branch` by dotted path.

    >>> Branch(AdamW={"learning_rate": LogUniform(1e-4, 1e-1)}, SGD={})
    Branch(AdamW={'learning_rate': LogUniform(low=0.0001, high=0.1)}, SGD={})
    """

    classes: Mapping[str, Mapping[str, "Dimension | Branch"]]

    def __init__(self, **classes: Mapping[str, "Dimension | Branch"]) -> None:
        object.__setattr__(self, "classes", {name: dict(inner) for name, inner in classes.items()})
        self._check()

    def _problem(self) -> str:
        return "" if self.classes else "it needs a class; write Branch(AdamW={...}, SGD={...})"

    def __repr__(self) -> str:
        return f"Branch({', '.join(f'{name}={inner!r}' for name, inner in self.classes.items())})"


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b
