"""One swept number or option: which values it may take, and how they lie on the unit line.

Every dimension maps the unit line onto its values: `at(u)` is the value at `u` in [0, 1), and
`unit(value, within)` goes back. A value of a discrete dimension owns a stretch of the line, all of
which `at` maps to it, and `within` says which point of the stretch. So a search that knows nothing
but the unit cube, such as a Sobol sequence, can search any space.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

Scalar = float | int | str | bool | None
SCALARS = (bool, int, float, str)


class _Range:
    """What ranges share: two ends, a position between them, and evenly spaced points."""

    low: Any
    high: Any
    log: bool

    def __post_init__(self) -> None:
        """Raise ValueError for a range that is upside down, empty, not finite, or log from 0."""
        name, low, high = type(self).__name__, self.low, self.high
        for end in (low, high):
            if not _is_number(end) or not math.isfinite(end):
                raise ValueError(f"{self!r}: a range is between two finite numbers, got {end!r}")
        if self.log and low <= 0:
            plain = "Int" if isinstance(self, Int) else "Uniform"
            raise ValueError(
                f"{self!r}: a log range is above 0; write {name} from a number above 0, or "
                f"{plain}({low!r}, {high!r})"
            )
        if low > high:
            raise ValueError(f"{self!r} is upside down; write {name}({high!r}, {low!r})")
        if low == high:
            raise ValueError(f"{self!r} has one value only; write Choice({low!r})")

    def has(self, value: Any) -> bool:
        """Whether it is a value of this dimension."""
        whole = type(value) is int or not isinstance(self, Int)
        return whole and _is_number(value) and self.low <= value <= self.high

    def grid(self, points: int) -> list[Scalar]:
        """Both ends and what lies evenly between, in equal ratios on a log scale; the middle for
        one point."""
        if points == 1:
            return [self.at(0.5)]
        inner = [self.at(i / (points - 1)) for i in range(1, points - 1)]
        return [self.low, *inner, self.high]

    def at(self, u: float) -> Any:
        """The value at `u` of the unit line."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}{', log' if self.log else ''}"


@dataclasses.dataclass(frozen=True)
class Uniform(_Range):
    """A float between two numbers, each stretch as likely as another of the same length.

    Raises ValueError for a range that is upside down, empty or not finite.

    >>> Uniform(0.0, 0.5).at(0.5)
    0.25
    """

    low: float
    high: float
    log: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        _make_floats(self)
        super().__post_init__()

    def at(self, u: float) -> float:
        """The value at `u` of the unit line: low + u * (high - low)."""
        return min(max(self.low * (1 - u) + self.high * u, self.low), self.high)

    def unit(self, value: float, within: float = 0.5) -> float:
        """Where on the unit line the value is."""
        low, high = self.low, self.high
        if abs(low) > 1 or abs(high) > 1:  # of halves, so that no difference overflows
            low, high, value = low / 2, high / 2, value / 2
        return min(max((value - low) / (high - low), 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class LogUniform(_Range):
    """A float between two numbers above 0, each ratio as likely as another of the same size.

    Raises ValueError for a range that is upside down, empty or not finite, or not above 0.

    >>> LogUniform(1e-4, 1e-2).grid(3)
    [0.0001, 0.001, 0.01]
    """

    low: float
    high: float
    log: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        _make_floats(self)
        super().__post_init__()

    def at(self, u: float) -> float:
        """The value at `u` of the unit line: low ** (1 - u) * high ** u."""
        return min(max(self.low ** (1 - u) * self.high**u, self.low), self.high)

    def unit(self, value: float, within: float = 0.5) -> float:
        """Where on the unit line the value is."""
        low, high = math.log(self.low), math.log(self.high)
        return min(max((math.log(value) - low) / (high - low), 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class Int(_Range):
    """A whole number from `low` to `high`, both included.

    With `log`, a number is as likely as its stretch [n - 1/2, n + 1/2] is long on a log scale.
    Raises ValueError for a range that is upside down or of one number, or for a log range from 0.

    >>> [Int(1, 3).at(u) for u in (0.0, 0.3, 0.5, 0.9)]
    [1, 1, 2, 3]
    >>> Int(8, 128, log=True).grid(5)
    [8, 16, 32, 64, 128]
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int):
                raise ValueError(f"{self!r}: an Int is between two whole numbers, got {end!r}")
        super().__post_init__()

    def at(self, u: float) -> int:
        """The number whose stretch of the unit line `u` is in."""
        if not self.log:
            value = self.low + math.floor(u * (self.high - self.low + 1))
        else:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value = round(math.exp(low * (1 - u) + high * u))
        return min(max(value, self.low), self.high)

    def unit(self, value: int, within: float = 0.5) -> float:
        """The point `within` the stretch of the unit line that is the number's."""
        if not self.log:
            return (value - self.low + within) / (self.high - self.low + 1)
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        start, stop = math.log(value - 0.5), math.log(value + 0.5)
        return (start + within * (stop - start) - low) / (high - low)

    def grid(self, points: int) -> list[Scalar]:
        """At most `points` numbers, evenly from end to end; in equal ratios with `log`."""
        if points > self.high - self.low:
            return list(range(self.low, self.high + 1))
        scale = (LogUniform if self.log else Uniform)(self.low, self.high)
        return list(dict.fromkeys(round(value) for value in scale.grid(points)))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.low} .. {self.high}, whole numbers{', log' if self.log else ''}"


class _Options:
    """What Choice and Grid share: a tuple of options, each with an equal share of the line."""

    options: tuple[Scalar, ...]
    log: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]

    def at(self, u: float) -> Scalar:
        """The option whose share of the unit line `u` is in."""
        return self.options[min(math.floor(u * len(self.options)), len(self.options) - 1)]

    def unit(self, value: Scalar, within: float = 0.5) -> float:
        """The point `within` the share of the unit line that is the option's."""
        return (self.index(value) + within) / len(self.options)

    def grid(self, points: int) -> list[Scalar]:
        """All options."""
        return list(self.options)

    def has(self, value: Any) -> bool:
        """Whether it is one of the options, of the same type: 1 is neither True nor 1.0."""
        return any(_same(value, option) for option in self.options)

    def index(self, value: Scalar) -> int:
        """The number of the option."""
        return next(i for i, option in enumerate(self.options) if _same(value, option))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.options))})"

    def __str__(self) -> str:
        return ", ".join(map(str, self.options))


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Choice(_Options):
    """One of some options without order: numbers, texts, True, False, None.

    Raises ValueError for no option, for one given twice, and for what is none of these.

    >>> Choice("relu", "tanh").at(0.7)
    'tanh'
    """

    options: tuple[Scalar, ...]

    def __init__(self, *options: Scalar) -> None:
        if not options:
            raise ValueError("Choice() has no option; write Choice(64, 128)")
        plain = tuple(o.item() if isinstance(o, np.generic) else o for o in options)
        object.__setattr__(self, "options", plain)
        for i, option in enumerate(plain):
            if not (option is None or isinstance(option, SCALARS)) or option != option:
                raise ValueError(
                    f"{self!r}: an option is a number, a text, True, False or None, got {option!r}"
                )
            if isinstance(option, str) and re.search("[\ud800-\udfff]", option):
                raise ValueError(
                    f"{self!r}: the option {option!r} has a lone surrogate, which no file can hold"
                )
            if any(_same(option, other) for other in plain[:i]):
                raise ValueError(f"{self!r} has the option {option!r} twice")


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Grid(_Options):
    """One of some numbers, which are in order and not all of a range.

    Raises ValueError for no number, for anything but finite numbers, and for numbers that do not
    increase.

    >>> Grid(1, 3, 10, 30).grid(points=2)
    [1, 3, 10, 30]
    """

    options: tuple[Scalar, ...]

    def __init__(self, *numbers: float) -> None:
        if not numbers:
            raise ValueError("Grid() has no number; write Grid(0.1, 0.3, 1.0)")
        plain = tuple(n.item() if isinstance(n, np.generic) else n for n in numbers)
        object.__setattr__(self, "options", plain)
        for number in plain:
            if not _is_number(number) or not math.isfinite(number):
                raise ValueError(f"{self!r} is of finite numbers, got {number!r}; see Choice")
        ordered = sorted(set(plain))
        if list(plain) != ordered:
            raise ValueError(f"{self!r}: the numbers increase; write {Grid(*ordered)!r}")


Dimension = Uniform | LogUniform | Int | Choice | Grid


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class Branch:
    """Which class a field of several gets, and what is swept inside of each.

    The paths of a class start at its own fields. A class that the configuration does not have at
    that place starts from its defaults. Where None is allowed, it is the class `"None"`:
    `Branch(Shift={...}, **{"None": {}})`.

    >>> Branch(AdamW={"learning_rate": LogUniform(1e-4, 1e-1)}, SGD={})
    Branch(AdamW={'learning_rate': LogUniform(low=0.0001, high=0.1)}, SGD={})
    """

    classes: Mapping[str, Mapping[str, "Dimension | Branch"]]

    def __init__(self, **classes: Mapping[str, "Dimension | Branch"]) -> None:
        if not classes:
            raise ValueError("Branch() has no class; write Branch(AdamW={...}, SGD={...})")
        object.__setattr__(self, "classes", {name: dict(inner) for name, inner in classes.items()})

    def __repr__(self) -> str:
        return f"Branch({', '.join(f'{name}={inner!r}' for name, inner in self.classes.items())})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _make_floats(dimension: Uniform | LogUniform) -> None:
    for name in ("low", "high"):
        end = getattr(dimension, name)
        end = end.item() if isinstance(end, np.generic) else end
        object.__setattr__(dimension, name, float(end) if _is_number(end) else end)
