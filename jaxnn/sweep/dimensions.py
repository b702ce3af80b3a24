"""Dimensions of a search space: the values that a number or option may take, and how likely.

Every dimension maps the unit interval onto its values: `at(u)` is the value at `u` in [0, 1), and
`unit(value, within)` is the inverse. Each value of a discrete dimension has a subinterval, which
`at` maps to that value; `within` selects a point of the subinterval. A search that works only on
the unit cube, such as a Sobol sequence, can therefore search any space, and a uniformly distributed
point of the cube has the distribution that the dimensions declare.
"""

import bisect
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from ..validation import is_number
from .ranges import Checked, Int, LogNormal, LogUniform, Normal, Uniform, plain
from .tables import Scalar, frozen

Option = Any  # a Scalar, or a tuple of options
EDGE = 0.05  # within this fraction of the range from its end, a value is at the edge


class _Options(Checked):
    """A tuple of options, each with a subinterval of the unit interval."""

    options: tuple[Option, ...]
    log: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleVariableOverride]

    def _set(self, options: tuple[Any, ...]) -> None:
        object.__setattr__(self, "options", tuple(map(plain, options)))
        self._check()

    @property
    def _edges(self) -> list[float]:
        """The upper end of the subinterval of each option."""
        weights = getattr(self, "weights", None) or (1,) * len(self.options)
        total = math.fsum(weights)
        return [edge / total for edge in itertools.accumulate(weights)]

    def at(self, u: float) -> Option:
        """Return the option whose subinterval contains `u`."""
        return self.options[min(bisect.bisect(self._edges, u), len(self.options) - 1)]

    def unit(self, value: Option, within: float = 0.5) -> float:
        """Return a point of the option's subinterval."""
        index, edges = self.index(value), [0.0, *self._edges]
        return edges[index] + within * (edges[index + 1] - edges[index])

    def grid(self, points: int) -> list[Option]:
        """Return all options."""
        return list(self.options)

    def has(self, value: Any) -> bool:
        """Return whether a value is an option, of the same type: 1 is neither True nor 1.0."""
        return any(same(value, option) for option in self.options)

    def index(self, value: Option) -> int:
        """Return the index of an option."""
        return next(i for i, option in enumerate(self.options) if same(value, option))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.options))})"

    def __str__(self) -> str:
        return ", ".join(map(str, self.options))


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Choice(_Options):
    """A choice between unordered options.

    Args:
        *options: Distinct numbers, strings, True, False, None, or tuples of these.
        weights: Relative frequencies of the options, one positive number per option. Searches that
            learn from scores use them only until they have enough scores. Default: None, equal
            frequencies.

    >>> Choice("relu", "tanh").at(0.7)
    'tanh'
    >>> Choice((64,), (64, 32), weights=(3, 1)).at(0.7)
    (64,)
    """

    options: tuple[Option, ...]
    weights: tuple[float, ...] | None

    def __init__(self, *options: Option, weights: Any = None) -> None:
        listed = tuple(plain(w) for w in weights) if isinstance(weights, tuple | list) else weights
        object.__setattr__(self, "weights", listed)
        self._set(options)

    def _problem(self) -> str:
        for i, option in enumerate(self.options):
            if problem := _option_problem(option):
                return problem
            if any(same(option, other) for other in self.options[:i]):
                return f"the option {option!r} is there twice"
        given = self.weights
        if given is not None and (
            not isinstance(given, tuple)
            or len(given) != len(self.options)
            or not all(is_number(weight) and 0 < weight < math.inf for weight in given)
        ):
            return (
                f"weights must be {len(self.options)} finite numbers > 0, one for each option, got "
                f"{given!r}"
            )
        return "" if self.options else "it needs an option; write Choice(64, 128)"

    def __repr__(self) -> str:
        weights = "" if self.weights is None else f", weights={self.weights!r}"
        return f"{super().__repr__()[:-1]}{weights})"

    def __str__(self) -> str:
        if self.weights is None:
            return super().__str__()
        total = math.fsum(self.weights)
        pairs = zip(self.options, self.weights, strict=True)
        return ", ".join(f"{option} ({weight / total:.3g})" for option, weight in pairs)


def _option_problem(option: Any) -> str:
    """Return why a value cannot be an option; "" if it can."""
    if isinstance(option, tuple):
        return next(filter(None, map(_option_problem, option)), "")
    if not isinstance(option, Scalar) or option != option:
        return (
            "an option must be a number, a text, True, False, None, or a tuple of these, got "
            f"{option!r}"
        )
    if isinstance(option, str) and re.search("[\ud800-\udfff]", option):
        return f"the option {option!r} has a lone surrogate, which no file can hold"
    return ""


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Grid(_Options):
    """A choice between ordered numbers.

    Args:
        *numbers: Finite numbers in increasing order.

    >>> Grid(1, 3, 10, 30).grid(points=2)
    [1, 3, 10, 30]
    """

    options: tuple[Option, ...]

    def __init__(self, *numbers: float) -> None:
        self._set(numbers)

    def _problem(self) -> str:
        for number in self.options:
            if not is_number(number) or not math.isfinite(number):
                return f"the numbers must be finite, got {number!r}; write Choice for other options"
        ordered = sorted(set(self.options))
        if list(self.options) != ordered:
            return f"the numbers must increase; write {Grid(*ordered)!r}"
        return "" if self.options else "it needs an option; write Grid(0.1, 0.3, 1.0)"


Dimension = Uniform | LogUniform | Int | Normal | LogNormal | Choice | Grid
KINDS: dict[str, type[Any]] = {
    kind.__name__.lower(): kind
    for kind in (Uniform, LogUniform, Int, Normal, LogNormal, Choice, Grid)
}


def to_row(dimension: Dimension) -> dict[str, Any]:
    """Return a dimension as plain data for JSON: its kind, its arguments, and `log`.

    Args:
        dimension: The dimension.

    >>> to_row(Uniform(0.5, 0.9))
    {'kind': 'uniform', 'low': 0.5, 'high': 0.9, 'log': False}
    """
    arguments = {
        field.name: getattr(dimension, field.name) for field in dataclasses.fields(dimension)
    }
    row = {"kind": type(dimension).__name__.lower()} | {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
        if value is not None and (name, value) != ("step", 1)
    }
    return row | {"log": dimension.log}


def dimension_of(row: Any) -> Dimension:
    """Return the dimension that a row of `to_row` or of `Space.to_plain` describes.

    Args:
        row: The row, a dict.

    >>> dimension_of({"name": "width", "kind": "choice", "options": [64, 128], "log": False})
    Choice(64, 128)
    """
    kind = KINDS[row["kind"]]
    names = [field.name for field in dataclasses.fields(kind)]
    arguments = {name: frozen(row[name]) for name in names if name in row}
    return kind(*arguments.pop("options", ()), **arguments)


def same(a: Any, b: Any) -> bool:
    """Return whether two options are equal in type and value."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def at_edge(dimension: Dimension, value: Any) -> str | None:
    """Return the edge of its range that a value is at, "lower" or "upper"; None if at no edge.

    Options and priors have no edges.

    >>> from jaxnn.sweep import LogUniform
    >>> at_edge(LogUniform(1e-4, 1e-1), 0.09), at_edge(LogUniform(1e-4, 1e-1), 0.01)
    ('upper', None)
    """
    if isinstance(dimension, Choice | Normal | LogNormal):
        return None
    if isinstance(dimension, Grid):
        last = len(dimension.options) - 1
        return {0: "lower", last: "upper"}.get(dimension.index(value)) if last else None
    if isinstance(dimension, Int):
        return {dimension.low: "lower", dimension.last: "upper"}.get(value)
    share = dimension.unit(value)
    return "lower" if share < EDGE else "upper" if share > 1 - EDGE else None


def as_option(value: Any, options: Sequence[Option]) -> Any:
    """Return the option that equals a value, 1 and 1.0 alike, but not True; else the value."""
    alike = [
        one for one in options if one == value and isinstance(one, bool) is (type(value) is bool)
    ]
    return next((one for one in alike if type(one) is type(value)), alike[0] if alike else value)


def from_text(dimension: Dimension, text: str) -> Any:
    """Return a text as a value of a dimension, or the text if it is not one.

    >>> from_text(Grid(0.5, 0.9), "9e-1"), from_text(Int(1, 3), "2"), from_text(Int(1, 3), "few")
    (0.9, 2, 'few')
    """
    try:
        number: Any = int(text) if isinstance(dimension, Int) else float(text)
    except ValueError:
        number = text
    options = getattr(dimension, "options", ())
    written = (one for one in options if text.lower() in (str(one).lower(), repr(one).lower()))
    return next(written, as_option(number, options) if options else number)
