"""Numeric dimensions: ranges, and normal priors over all real numbers.

All follow the protocol of `dimensions`: `at(u)`, `unit(value, within)`, `grid(points)`,
`has(value)`, and `nearest(value)`.
"""

import abc
import dataclasses
import math
from decimal import Decimal
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from ..validation import check_none, is_int, is_number
from .tables import Scalar


def plain(value: Any) -> Any:
    """Return NumPy scalars, including those in tuples, as Python numbers."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


class Checked(abc.ABC):
    """Base of dimensions whose arguments are checked together."""

    def _check(self) -> None:
        """Raise ValueError if `_problem` finds a problem."""
        check_none(filter(None, [self._problem()]), repr(self))

    @abc.abstractmethod
    def _problem(self) -> str:
        """Return a description of what is wrong; "" if nothing is."""


class _Numeric(Checked):
    """A dimension of numbers, which are floats unless it is an `Int`."""

    def __post_init__(self) -> None:
        for name in {field.name for field in dataclasses.fields(self)} - {"log"}:  # type: ignore[arg-type]
            value = plain(getattr(self, name))
            is_float = is_number(value) and not isinstance(self, Int)
            object.__setattr__(self, name, float(value) if is_float else value)
        self._check()


class _Range(_Numeric):
    """A range: two ends, a position between them, and evenly spaced points.

    With a step its values are low, low + step, low + 2 * step, ..., up to `high`.
    """

    low: Any
    high: Any
    log: bool
    step: Any

    def _problem(self) -> str:
        name, whole = type(self).__name__, isinstance(self, Int)
        low, high, step = self.low, self.high, self.step
        accepted = is_int if whole else lambda end: is_number(end) and math.isfinite(end)
        if wrong := [end for end in (low, high) if not accepted(end)]:
            ends = "ints" if whole else "finite numbers"
            return f"the ends of {name} must be {ends}, got {wrong[0]!r}"
        if step is not None and (not accepted(step) or step <= 0):
            return f"the step must be {'an int' if whole else 'a number'} > 0, got {step!r}"
        if self.log and low <= 0:
            plain = "Int" if whole else "Uniform"
            return (
                f"the low end on a log scale must be > 0; write {name} from a number > 0, or "
                f"{plain}({low!r}, {high!r})"
            )
        if low > high:
            return f"low must be less than high; write {name}({high!r}, {low!r})"
        if step is not None and low < high and self.size < 2:
            return f"the step leaves only one value; write a step of at most {high - low!r}"
        return f"there is only one value; write Choice({low!r})" if low == high else ""

    @property
    def size(self) -> int:
        """The number of values of a range with a step."""
        if isinstance(self, Int):
            return (self.high - self.low) // self.step + 1
        return math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1  # 0.3 / 0.1 < 3

    @property
    def last(self) -> Any:
        """The largest value."""
        return self.high if self.step is None else self._nth(self.size - 1)

    def _nth(self, n: int) -> Any:
        """Return the n-th value of a range with a step, in decimals: 0.1 * 3 is 0.3."""
        if isinstance(self, Int):
            return self.low + n * self.step
        value = float(Decimal(repr(self.low)) + n * Decimal(repr(self.step)))
        return min(value, self.high)  # which the user may have rounded

    def nearest(self, value: float) -> Any:
        """Return the nearest value of this dimension."""
        if self.step is None:
            return min(max(value, self.low), self.high)
        n = round((min(max(value, self.low), self.high) - self.low) / self.step)
        return self._nth(min(n, self.size - 1))

    def has(self, value: Any) -> bool:
        """Return whether a value belongs to this dimension."""
        if isinstance(self, Int):
            return type(value) is int and value in range(self.low, self.high + 1, self.step)
        return is_number(value) and self.low <= value <= self.high and self.nearest(value) == value

    def grid(self, points: int) -> list[Scalar]:
        """Return both ends and evenly spaced points between them, on the scale of the range.

        Args:
            points: Number of points; 1 gives only the middle. A range with steps returns at most
                its number of values.
        """
        if self.step is not None and points >= self.size:
            return [self._nth(n) for n in range(self.size)]
        if points == 1:
            return [self.at(0.5)]
        scale = (LogUniform if self.log else Uniform)(self.low, self.last)
        inner = [scale.at(i / (points - 1)) for i in range(1, points - 1)]
        return list(dict.fromkeys([self.low, *map(self.nearest, inner), self.last]))

    @abc.abstractmethod
    def at(self, u: float) -> Any:
        """Return the value at `u` in the unit interval."""

    def __repr__(self) -> str:
        log = f", log={self.log}" * isinstance(self, Int)
        step = "" if self.step in (None, 1) else f", step={self.step!r}"
        return f"{type(self).__name__}(low={self.low!r}, high={self.high!r}{log}{step})"

    def __str__(self) -> str:
        steps = "" if self.step in (None, 1) else f", steps of {self.step:g}"
        return f"{self.low:g} .. {self.high:g}{', log' if self.log else ''}{steps}"


@dataclasses.dataclass(frozen=True, repr=False)
class Uniform(_Range):
    """A uniformly distributed float.

    Args:
        low: Lower bound.
        high: Upper bound, greater than `low`.
        step: Distance between neighboring values, starting at `low`; all are equally likely.
            Default: None, every number of the range.

    >>> Uniform(0.0, 0.5).at(0.5)
    0.25
    >>> Uniform(0.0, 0.5, step=0.1).grid(6)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    """

    low: float
    high: float
    step: float | None = None
    log: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]

    def at(self, u: float) -> float:
        """Return the value at `u` in the unit interval: low + u * (high - low) without steps."""
        if self.step is not None:
            return self._nth(min(math.floor(u * self.size), self.size - 1))
        return min(max(self.low * (1 - u) + self.high * u, self.low), self.high)

    def unit(self, value: float, within: float = 0.5) -> float:
        """Return where on the unit line a value is."""
        low, high = self.low, self.high
        if self.step is not None:
            return (round((value - low) / self.step) + within) / self.size
        if abs(low) > 1 or abs(high) > 1:  # of halves, so that no difference overflows
            low, high, value = low / 2, high / 2, value / 2
        return min(max((value - low) / (high - low), 0.0), 1.0)


@dataclasses.dataclass(frozen=True, repr=False)
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
    step: ClassVar[None] = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def at(self, u: float) -> float:
        """Return the value at `u` in the unit interval: low ** (1 - u) * high ** u."""
        return min(max(self.low ** (1 - u) * self.high**u, self.low), self.high)

    def unit(self, value: float, within: float = 0.5) -> float:
        """Return where on the unit line a value is."""
        low, high = math.log(self.low), math.log(self.high)
        return min(max((math.log(value) - low) / (high - low), 0.0), 1.0)


@dataclasses.dataclass(frozen=True, repr=False)
class Int(_Range):
    """An integer between `low` and `high`, both inclusive.

    With `log`, the probability of n is proportional to the length of the interval [n - step/2, n +
    step/2] on a log scale.

    Args:
        low: Lower bound; greater than 0 with `log`.
        high: Upper bound, greater than `low`.
        log: Whether the scale is logarithmic. Default: False.
        step: Distance between neighboring values, starting at `low`; less than 2 * `low` with
            `log`. Default: 1.

    >>> [Int(1, 3).at(u) for u in (0.0, 0.3, 0.5, 0.9)]
    [1, 1, 2, 3]
    >>> Int(8, 128, log=True).grid(5)
    [8, 16, 32, 64, 128]
    >>> Int(32, 128, step=32).grid(5)
    [32, 64, 96, 128]
    """

    low: int
    high: int
    log: bool = False
    step: int = 1

    def _problem(self) -> str:
        problem = super()._problem()
        if not problem and self.log and self.step >= 2 * self.low:
            problem = (
                f"on a log scale the step must be less than 2 * low = {2 * self.low}; write a "
                f"smaller step, or Int({self.low}, {self.high}, step={self.step})"
            )
        return problem

    def at(self, u: float) -> int:
        """Return the number whose subinterval contains `u`."""
        if not self.log:
            return self._nth(min(math.floor(u * self.size), self.size - 1))
        low, high = self._logs
        return self.nearest(math.exp(low * (1 - u) + high * u))

    def unit(self, value: int, within: float = 0.5) -> float:
        """Return a point of the number's subinterval of the unit interval."""
        if not self.log:
            return ((value - self.low) // self.step + within) / self.size
        low, high = self._logs
        start, stop = math.log(value - self.step / 2), math.log(value + self.step / 2)
        return (start + within * (stop - start) - low) / (high - low)

    @property
    def _logs(self) -> tuple[float, float]:
        """The ends of the log scale."""
        return math.log(self.low - self.step / 2), math.log(self.last + self.step / 2)

    def __str__(self) -> str:
        log, steps = ", log" * self.log, f", steps of {self.step}" * (self.step > 1)
        return f"{self.low} .. {self.high}, whole numbers{log}{steps}"


class _Prior(_Numeric):
    """A normal distribution of a number, or of its logarithm; every number is possible."""

    mean: float
    std: float
    log: bool
    step: ClassVar[None] = None
    MOST: ClassVar[float] = 1 - 2.0**-53  # the largest coordinate of the unit line

    def _problem(self) -> str:
        mean, std = self.mean, self.std
        if wrong := [n for n in (mean, std) if not is_number(n) or not math.isfinite(n)]:
            return f"mean and std must be finite numbers, got {wrong[0]!r}"
        if std <= 0:
            return f"std must be > 0; write Choice({mean!r}) for one value"
        if self.log and not abs(mean) + 9 * std < 700:
            logs = "mean and std are those of the natural logarithm"
            return f"some values overflow: {logs}; write LogNormal(math.log(1e-3), 1.0)"
        return ""

    @property
    def low(self) -> float:
        """The low end of plots: four standard deviations below the mean."""
        return self._scaled(self.mean - 4 * self.std)

    @property
    def high(self) -> float:
        """The high end of plots: four standard deviations above the mean."""
        return self._scaled(self.mean + 4 * self.std)

    def _scaled(self, z: float) -> float:
        return math.exp(z) if self.log else z

    def at(self, u: float) -> float:
        """Return the quantile of probability `u`."""
        u = min(max(u, 1 - self.MOST), self.MOST)
        return self._scaled(NormalDist(self.mean, self.std).inv_cdf(u))

    def unit(self, value: float, within: float = 0.5) -> float:
        """Return the cumulative probability of a value."""
        z = math.log(value) if self.log else value
        return min(max(NormalDist(self.mean, self.std).cdf(z), 0.0), self.MOST)

    def grid(self, points: int) -> list[Scalar]:
        """Return the medians of `points` equally likely parts."""
        return [self.at((i + 0.5) / points) for i in range(points)]

    def has(self, value: Any) -> bool:
        """Return whether a value is a finite number; above 0 if the scale is logarithmic."""
        return is_number(value) and math.isfinite(value) and (not self.log or value > 0)

    def nearest(self, value: float) -> float:
        """Return the value itself."""
        return value

    def __str__(self) -> str:
        if self.log:
            return f"about {math.exp(self.mean):.3g}, log-normal with std {self.std:g}"
        return f"{self.mean:g} ± {self.std:g}, normal"


@dataclasses.dataclass(frozen=True)
class Normal(_Prior):
    """A normally distributed float.

    Args:
        mean: Mean.
        std: Standard deviation, greater than 0.

    >>> [round(x, 3) for x in Normal(1.0, 0.5).grid(3)]
    [0.516, 1.0, 1.484]
    """

    mean: float
    std: float
    log: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclasses.dataclass(frozen=True)
class LogNormal(_Prior):
    """A positive float whose natural logarithm is normally distributed.

    Args:
        mean: Mean of the natural logarithm; for example, `math.log(1e-3)` for values around 0.001.
        std: Standard deviation of the natural logarithm, greater than 0; 2.3 for a factor of ten.

    >>> round(LogNormal(math.log(1e-3), 1.0).at(0.5), 6)
    0.001
    """

    mean: float
    std: float
    log: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]
