"""The search space of an experiment: a dimension for each dotted path into its configuration.

    Space(Config, {
        "optimizer": Branch(AdamW={"learning_rate": LogUniform(1e-4, 1e-1)}, SGD={}),
        "model.dropout": Uniform(0.0, 0.5),
    })

A trial's `Values` are a dict by the name of the dimension, which is usually its path. A dimension
inside of a class of a branch is named as on the command line, `optimizer:adamw.learning_rate`, and
only trials of that class have it. `When` makes a dimension depend on another one, and `where`
determines which configurations are allowed. A space is checked when it is created, so importing an
experiment with a misspelled path raises an error.
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np

from ..explain.text import check_known, suggestion
from ..validation import Accepts, check_fields, instance, positive, require
from .dimensions import Dimension, as_option, to_row
from .ranges import Int
from .swept import Branch, SweptField, When, hold, named_of, paths_of, swept_fields
from .tables import Values, frozen

EXAMPLE = 'write Space(Config, {{"optimizer.learning_rate": LogUniform(1e-4, 1e-1)}})'
a_dataclass: Accepts = Accepts(
    "a dataclass", lambda v: dataclasses.is_dataclass(v) and isinstance(v, type), hint=EXAMPLE
)
some_paths: Accepts = Accepts("a dimension for each path, at least one", bool, hint=EXAMPLE)
functions: Accepts = Accepts(
    "a function of the configuration, or a tuple of them",
    lambda v: isinstance(v, tuple) and all(map(callable, v)),
    TypeError,
    "write Space(Config, {{...}}, where=lambda config: config.model.width < 512)",
)
a_bool: Accepts = instance((bool, np.bool_), "True or False")
MOST_DRAWS = 10_000
"""Number of consecutive draws that `where` forbids before giving up."""


@dataclasses.dataclass(frozen=True)
class Space:
    """The search space of a configuration class. Equal spaces compare and hash equal.

    Args:
        config: The class of the configuration, a frozen dataclass.
        paths: Dict from dotted path to a dimension, a `Branch`, or a `When`.
        where: A function that returns whether a configuration is allowed, or a tuple of such
            functions, all of which must return True. They are called with Python numbers, outside
            of any trace, so a number that they read can still be traced. Default: (), all are
            allowed.

    Attributes:
        swept: The swept fields in the order of `dimensions`, each with its path and conditions.

    Raises:
        ValueError: The class lacks a path, a path is swept twice, a field does not accept a value,
            only some classes of a union have the path, or a condition cannot hold.

    >>> from jaxnn.experiment import SGD, AdamW
    >>> from jaxnn.sweep import Branch, Int, LogUniform
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     optimizer: AdamW | SGD = AdamW()
    ...     epochs: int = 10
    >>> rates = {"learning_rate": LogUniform(1e-4, 1e-1)}
    >>> space = Space(Config, {"optimizer": Branch(AdamW=rates, SGD={}), "epochs": Int(1, 9)})
    >>> list(space.dimensions)
    ['optimizer', 'optimizer:adamw.learning_rate', 'epochs']
    >>> space.configured(Config(), {"optimizer": "SGD", "epochs": 3})
    Config(optimizer=SGD(learning_rate=0.1, momentum=0.9), epochs=3)
    >>> few = Space(Config, {"epochs": Int(1, 9)}, where=lambda config: config.epochs % 4 == 0)
    >>> list(few.grid(9))
    [{'epochs': 4}, {'epochs': 8}]
    """

    config: Annotated[type, a_dataclass]
    paths: Annotated[Mapping[str, Dimension | Branch | When], some_paths] = dataclasses.field(
        compare=False
    )
    where: Annotated[Any, functions] = ()
    swept: tuple[SweptField, ...] = dataclasses.field(init=False, repr=False)
    _base: Any = dataclasses.field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if callable(self.where):
            object.__setattr__(self, "where", (self.where,))
        check_fields(self)
        object.__setattr__(self, "paths", dict(self.paths))
        object.__setattr__(self, "swept", tuple(swept_fields(self.config, self.paths)))

    @classmethod
    def from_plain(cls, config: type, rows: Iterable[Mapping[str, Any]], where: Any = ()) -> Self:
        """Return the space that rows of `to_plain` describe.

        Args:
            config: The class of the configuration.
            rows: The rows, plain data.
            where: As for `Space`; the rows do not contain it. Default: ().
        """
        return cls(config, paths_of(config, named_of(list(rows))), where)

    def around(self, config: Any) -> Self:
        """Return this space with a base configuration, from which `where` gets the other values.

        Args:
            config: The configuration that trials change. A new space has the defaults of its class.
        """
        changed = copy.copy(self)
        object.__setattr__(changed, "_base", config)
        return changed

    def allows(self, values: Values) -> bool:
        """Return whether `where` allows a trial.

        If creating the configuration raises an error, it is allowed, so that the trial fails with
        that error.

        Args:
            values: Values of the trial.
        """
        if not self.where:
            return True
        try:
            config = self.configured(self.config() if self._base is None else self._base, values)
        except Exception:  # whatever a configuration raises
            return True
        names = [getattr(one, "__name__", repr(one)) for one in self.where]
        results = zip(self.where, names, strict=True)
        return all(a_bool(one(config), f"the result of where={name}") for one, name in results)

    def allowed(self, trials: Iterable[Values]) -> Iterator[Values]:
        """Yield the trials that `where` allows.

        Args:
            trials: Values of trials.

        Raises:
            ValueError: `MOST_DRAWS` trials in a row are not allowed.
        """
        refused = 0
        for values in trials:
            if self.allows(values):
                refused = 0
                yield values
            elif (refused := refused + 1) == MOST_DRAWS:
                names = ", ".join(getattr(one, "__name__", repr(one)) for one in self.where)
                raise ValueError(
                    f"where={names} allows none of {MOST_DRAWS} configurations drawn from the "
                    "space; allow more, or sweep narrower ranges"
                )

    def allowed_or(
        self, propose: Callable[[], Values], tries: int, instead: Callable[[], Values]
    ) -> Values:
        """Return the first proposal that `where` allows, or else a fallback.

        Args:
            propose: Returns another proposal at each call.
            tries: Maximum number of proposals.
            instead: Returns the fallback, called if no proposal is allowed.
        """
        proposals = (propose() for _ in range(tries))
        found = next((values for values in proposals if self.allows(values)), None)
        return instead() if found is None else found

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """All dimensions by name. The choice of a branch precedes the dimensions inside it."""
        return {swept.name: swept.dimension for swept in self.swept}

    @property
    def fields(self) -> set[str]:
        """The dotted paths of all swept fields, without the names of the classes of branches."""
        return {".".join(swept.path) for swept in self.swept}

    def active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Return whether a trial has a dimension: whether all its conditions hold.

        Args:
            name: Name of the dimension.
            values: Values of the trial.
        """
        return self._named(name).active(values)

    def sample(self, rng: np.random.Generator) -> Values:
        """Return a random trial, with each dimension drawn independently from its distribution.

        Without `where`, the number of random numbers drawn does not depend on the trial. With it,
        trials are drawn until one is allowed.

        Args:
            rng: The random generator.
        """
        draws = (self.from_unit(rng.random(len(self.swept))) for _ in itertools.count())
        return next(self.allowed(draws))

    def from_unit(self, u: Any) -> Values:
        """Return the trial at a point of the unit cube.

        Args:
            u: Coordinates in [0, 1), one for each dimension; those of dimensions that the trial
                does not have are ignored.

        Raises:
            ValueError: The point has the wrong number of coordinates.
        """
        n = len(self.swept)
        require(len(u) == n, "from_unit.u", f"{n} numbers, one for each dimension", u)
        return self.built(lambda swept, at: swept.dimension.at(float(at)), u)

    def built(self, choose: Callable[..., Any], *each: Iterable[Any]) -> Values:
        """Return a trial whose values a function chooses, one dimension after the other.

        Args:
            choose: Returns the value of a swept field, called for those that the trial has.
            *each: Further arguments of `choose`, one for each dimension, active or not.
        """
        values: Values = {}
        for swept, *arguments in zip(self.swept, *each, strict=True):
            if swept.active(values):
                values[swept.name] = choose(swept, *arguments)
        return values

    def to_unit(self, values: Values, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return a random one of the points that `from_unit` maps to these values.

        The coordinate of an option or an integer is random within its interval. The coordinate of a
        dimension that the trial does not have is random in [0, 1).

        Args:
            values: Values of the trial.
            rng: The random generator.
        """
        within = 0.001 + 0.998 * rng.random(len(self.swept))  # off the edges, because of rounding
        return np.array(
            [
                swept.dimension.unit(values[swept.name], share) if swept.name in values else share
                for swept, share in zip(self.swept, within, strict=True)
            ]
        )

    def grid(self, points: int) -> Iterator[Values]:
        """Return the product of the grids of all dimensions. The last dimension varies fastest.

        Trials that `where` does not allow are omitted.

        Args:
            points: Maximum number of points of each range; a `Choice` contributes all its options.
        """
        positive(points, "points")
        return filter(self.allows, self._product({}, self.swept, points))

    def _product(
        self, values: Values, fields: Sequence[SweptField], points: int
    ) -> Iterator[Values]:
        if not fields:
            yield values
            return
        swept, *rest = fields
        active = swept.active(values)
        for value in swept.dimension.grid(points) if active else (None,):
            yield from self._product(values | ({swept.name: value} if active else {}), rest, points)

    def grid_size(self, points: int, names: Collection[str] | None = None) -> int:
        """Return the number of trials that `grid` returns without `where`.

        Args:
            points: Maximum number of points of each range.
            names: Count only the combinations of these dimensions. If one depends on a dimension
                that is not among them, trials with and without it count. Default: None, all
                dimensions.

        >>> from jaxnn.experiment import SGD
        >>> from jaxnn.sweep import Grid, Uniform
        >>> space = {"momentum": Uniform(0.5, 0.9), "learning_rate": Grid(0.1, 1.0)}
        >>> Space(SGD, space).grid_size(5), Space(SGD, space).grid_size(5, ["learning_rate"])
        (10, 2)
        """
        fields = [swept for swept in self.swept if names is None or swept.name in names]
        return self._size({}, fields, points)

    def _size(self, values: Values, fields: Sequence[SweptField], points: int) -> int:
        if not fields:
            return 1
        swept, *rest = fields
        decides = any(name == swept.name for one in rest for name, _ in one.when)
        known = tuple(one for one in swept.when if one[0] in values)  # `...` for a missing one
        without = self._size({**values, swept.name: ...} if decides else values, rest, points)
        if not hold(known, values):
            return without
        grid = swept.dimension.grid(points)
        if decides:
            size = sum(self._size({**values, swept.name: one}, rest, points) for one in grid)
        else:
            size = len(grid) * without
        return size if known == swept.when else size + without

    def configured(self, config: Any, values: Mapping[str, Any]) -> Any:
        """Return the configuration with the values set at their paths.

        Each dataclass along a path is replaced once by `dataclasses.replace`, so its checks run.
        The values are not converted and may be traced by JAX. If a branch chose a class that
        differs from that of `config`, it starts from its defaults.

        Args:
            config: The base configuration, which is not modified.
            values: Values by dimension.
        """
        choices = {swept.name for swept in self.swept if swept.classes}
        for swept in map(self._named, values):
            # the base of a trial has no traced values, on which others may depend
            stated = (one for one in swept.when if one[0] in values or one[0] in choices)
            if not hold(stated, values):
                needed = " and ".join(f"{name} is {among}" for name, among in swept.when)
                raise ValueError(f"{swept.name} is swept only if {needed}; got {dict(values)}")
        pairs = [(s.path, s.converted(values[s.name])) for s in self.swept if s.name in values]
        return _changed(config, pairs)

    def to_plain(self) -> list[dict[str, Any]]:
        """Return a dict per dimension for JSON: name, kind, range or options, log, and condition.

        >>> from jaxnn.experiment import SGD
        >>> from jaxnn.sweep import Uniform
        >>> Space(SGD, {"momentum": Uniform(0.5, 0.9)}).to_plain()
        [{'name': 'momentum', 'kind': 'uniform', 'low': 0.5, 'high': 0.9, 'log': False, 'when': {}}]
        """
        return [
            {"name": swept.name, **to_row(swept.dimension), "when": swept.conditions()}
            for swept in self.swept
        ]

    def __str__(self) -> str:
        width = max(len(swept.name) for swept in self.swept)
        return "\n".join(f"{swept.name:{width}}  {swept.dimension}" for swept in self.swept)

    def _named(self, name: str) -> SweptField:
        named = {swept.name: swept for swept in self.swept}
        check_known(name, named, f"the space of {self.config.__name__} has no {name!r}")
        return named[name]


def _changed(config: Any, changes: list[tuple[tuple[str, ...], Any]]) -> Any:
    """Return the dataclass with each change at its path; a class is set before its fields."""
    first = lambda change: change[0][0]  # noqa: E731
    fields = {}
    for field, inner in itertools.groupby(sorted(changes, key=first), key=first):
        now, within = getattr(config, field), []
        for path, value in inner:
            if len(path) > 1:
                within.append((path[1:], value))
            elif isinstance(value, type):
                now = now if type(now) is value else value()
            else:
                now = value
        fields[field] = _changed(now, within) if within else now
    return dataclasses.replace(config, **fields)


def valued(space: Space, given: Mapping[str, Any], where: str, base: Any = None) -> Values:
    """Return the values of a trial.

    Args:
        space: The search space.
        given: Values by the name of the dimension, or by dotted path; a class by its name.
        where: Their source, for error messages.
        base: The configuration that supplies missing values. Default: None, no value may be
            missing.

    Raises:
        ValueError: A value is missing or not in the space, or a path is not swept.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import Grid, Uniform
    >>> space = Space(SGD, {"learning_rate": Uniform(0.0, 0.5), "momentum": Grid(0.5, 0.9)})
    >>> valued(space, {"momentum": 0.5}, "tries[0]", SGD(learning_rate=0.1))
    {'learning_rate': 0.1, 'momentum': 0.5}
    """
    left, values, problem = dict(given), {}, ""
    for swept in space.swept:
        if problem or not swept.active(values):
            continue
        name = swept.name if swept.name in left else ".".join(swept.path)
        if name in left:
            value = left.pop(name)
        elif base is None:
            problem = f"has no value for {swept.name}, got {dict(given)}"
            continue
        else:
            value = functools.reduce(getattr, swept.path, space.configured(base, values))
        values[swept.name] = value = converted(swept, value)
        if not swept.dimension.has(value):
            problem = f"sets {swept.name} to {value!r}, which is not in {swept.dimension}"
    if left and not problem:
        name = next(iter(left))
        problem = f"sets {name}, which a trial with {values} does not sweep; "
        problem += suggestion(name, [*values])
    elif not problem and not (space if base is None else space.around(base)).allows(values):
        problem = f"is {values}, which the `where` of the space does not allow"
    if problem:
        raise ValueError(f"{where} {problem}")
    return values


def converted(swept: SweptField, value: Any) -> Any:
    """Return a value in the type of the dimension, even if it is outside of the dimension."""
    dimension = swept.dimension
    if swept.classes:
        kind = value if isinstance(value, type) else type(value)
        value = value if isinstance(value, str) else "None" if value is None else kind.__name__
        value = next((one for one in dimension.grid(1) if str(one).lower() == value.lower()), value)
    value = value.item() if isinstance(value, np.generic) else frozen(value)
    found = as_option(value, dimension.options) if hasattr(dimension, "options") else value  # type: ignore[union-attr]
    if type(found) is int and not hasattr(dimension, "options") and not isinstance(dimension, Int):
        return float(found)
    return found
