"""The search space of an experiment: a dimension for each dotted path into its configuration.

    Space(Config, {
        "optimizer": Branch(AdamW={"learning_rate": LogUniform(1e-4, 1e-1)}, SGD={}),
        "model.dropout": Uniform(0.0, 0.5),
    })

A trial's `Values` are a dict by the name of the dimension, which is the path. What a branch sweeps
inside of a class is named as on the command line, `optimizer:adamw.learning_rate`, and only trials
of that class have it. A space is checked when it is created: an experiment with a misspelled path
does not import.
"""

import dataclasses
import itertools
import types
import typing
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from ..experiment.configuration import from_plain
from ..explain.text import suggestion
from ..validation import Accepts, check_fields, one_of, positive
from .dimensions import Branch, Choice, Dimension, Grid, LogUniform, Uniform

Values = dict[str, Any]  # of scalars, by dimension
EXAMPLE = 'write Space(Config, {{"optimizer.learning_rate": LogUniform(1e-4, 1e-1)}})'
a_dataclass = Accepts(
    "a dataclass", lambda v: dataclasses.is_dataclass(v) and isinstance(v, type), hint=EXAMPLE
)
some_paths = Accepts("a dimension for each path, at least one", bool, hint=EXAMPLE)


@dataclasses.dataclass(frozen=True)
class SweptField:
    """A dimension with the path of the field that it sets.

    Args:
        name: Name of the dimension.
        dimension: The dimension.
        path: Names of the fields from the configuration to the swept one.
        when: The choices of class (name, option) that it depends on.
        classes: The classes that the options of a branch stand for. Default: none.
    """

    name: str
    dimension: Dimension
    path: tuple[str, ...]
    when: tuple[tuple[str, str], ...] = ()
    classes: tuple[type, ...] = ()

    def converted(self, value: Any) -> Any:
        """Return what the configuration holds for a value: a class for the option of a branch."""
        if not self.classes:
            return value
        names = [_class_name(cls) for cls in self.classes]
        one_of(*names)(value, self.name)
        return self.classes[names.index(value)]

    def active(self, values: Mapping[str, Any]) -> bool:
        """Return whether a trial with these values has the dimension."""
        return all(values.get(choice) == option for choice, option in self.when)


@dataclasses.dataclass(frozen=True)
class Space:
    """The search space of a configuration class. Equal spaces compare and hash equal.

    Args:
        config: The class of the configuration, a frozen dataclass.
        paths: Dict of a dimension or a `Branch` by dotted path.

    Raises:
        ValueError: The class lacks a path, a path is swept twice, a field does not accept a value,
            or only some classes of a union have the path.

    >>> from jaxnn.experiment import SGD, AdamW
    >>> from jaxnn.sweep import Int
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
    """

    config: Annotated[type, a_dataclass]
    paths: Annotated[Mapping[str, Dimension | Branch], some_paths] = dataclasses.field(
        compare=False
    )
    _swept: tuple[SweptField, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "paths", dict(self.paths))
        object.__setattr__(self, "_swept", tuple(_swept_fields(self.config, self.paths)))

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """All dimensions by name. The choice of a branch precedes the dimensions inside it."""
        return {swept.name: swept.dimension for swept in self._swept}

    @property
    def fields(self) -> set[str]:
        """The dotted paths of all swept fields, the same for each class of a branch."""
        return {".".join(swept.path) for swept in self._swept}

    @property
    def swept(self) -> tuple[SweptField, ...]:
        """The swept fields in the order of `dimensions`, each with its path and conditions."""
        return self._swept

    def active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Return whether a trial has a dimension: whether all branches around it are chosen.

        Args:
            name: Name of the dimension.
            values: Values of the trial.
        """
        return self._named(name).active(values)

    def sample(self, rng: np.random.Generator) -> Values:
        """Return a random trial, with each dimension drawn independently from its distribution.

        The number of random numbers drawn does not depend on the chosen branches.

        Args:
            rng: The random generator.
        """
        return self.from_unit(rng.random(len(self._swept)))

    def from_unit(self, u: Any) -> Values:
        """Return the trial at a point of the unit cube.

        Args:
            u: Coordinates in [0, 1), one for each dimension; those of dimensions that the trial
                does not have are ignored.

        Raises:
            ValueError: The point has another number of coordinates.
        """
        n = len(self._swept)
        Accepts(f"{n} numbers, one for each dimension", lambda u: len(u) == n)(u, "from_unit.u")
        values: Values = {}
        for swept, at in zip(self._swept, u, strict=True):
            if swept.active(values):
                values[swept.name] = swept.dimension.at(float(at))
        return values

    def to_unit(self, values: Values, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return a random one of the points that `from_unit` maps to these values.

        The coordinate of an option or an integer is random within its interval. The coordinate of a
        dimension that the trial does not have is random in [0, 1).

        Args:
            values: Values of the trial.
            rng: The random generator.
        """
        within = 0.001 + 0.998 * rng.random(len(self._swept))  # off the edges, because of rounding
        return np.array(
            [
                swept.dimension.unit(values[swept.name], share) if swept.name in values else share
                for swept, share in zip(self._swept, within, strict=True)
            ]
        )

    def grid(self, points: int) -> Iterator[Values]:
        """Return the product of the grids of all dimensions. The last dimension varies fastest.

        Args:
            points: Maximum number of points of each range; a `Choice` contributes all its options.
        """
        positive(points, "points")
        return self._product({}, self._swept, points)

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
        """Return the number of trials that `grid` returns.

        Args:
            points: Maximum number of points of each range.
            names: Count only trials that differ in these dimensions, which must include all choices
                of classes. Default: None, all dimensions.

        >>> from jaxnn.experiment import SGD
        >>> space = {"momentum": Uniform(0.5, 0.9), "learning_rate": Grid(0.1, 1.0)}
        >>> Space(SGD, space).grid_size(5), Space(SGD, space).grid_size(5, ["learning_rate"])
        (10, 2)
        """
        fields = [swept for swept in self._swept if names is None or swept.name in names]
        return self._size({}, fields, points)

    def _size(self, values: Values, fields: Sequence[SweptField], points: int) -> int:
        if not fields:
            return 1
        swept, *rest = fields
        if not swept.active(values):
            return self._size(values, rest, points)
        grid = swept.dimension.grid(points)
        if swept.classes:  # what comes later depends on the option
            return sum(self._size({**values, swept.name: one}, rest, points) for one in grid)
        return len(grid) * self._size(values, rest, points)

    def configured(self, config: Any, values: Mapping[str, Any]) -> Any:
        """Return the configuration with the values set at their paths.

        Each dataclass along a path is replaced once by `dataclasses.replace`, so its checks run.
        The values are not converted and may be traced by JAX. If a branch chose another class than
        `config` has in the field, that class starts from its defaults.

        Args:
            config: The base configuration, which is not modified.
            values: Values by dimension.
        """
        for swept in map(self._named, values):
            if not swept.active(values):
                needed = " and ".join(f"{choice} is {option}" for choice, option in swept.when)
                raise ValueError(f"{swept.name} is swept only if {needed}; got {dict(values)}")
        pairs = [(s.path, s.converted(values[s.name])) for s in self._swept if s.name in values]
        return _changed(config, pairs)

    def to_plain(self) -> list[dict[str, Any]]:
        """Return a dict per dimension for JSON: name, kind, range or options, log, and condition.

        >>> from jaxnn.experiment import SGD
        >>> Space(SGD, {"momentum": Uniform(0.5, 0.9)}).to_plain()
        [{'name': 'momentum', 'kind': 'uniform', 'low': 0.5, 'high': 0.9, 'log': False, 'when': {}}]
        """
        rows = []
        for swept in self._swept:
            plain = dataclasses.asdict(swept.dimension)
            if "options" in plain:
                plain["options"] = list(plain["options"])
            kind = {"name": swept.name, "kind": type(swept.dimension).__name__.lower()}
            rows.append(kind | plain | {"log": swept.dimension.log, "when": dict(swept.when)})
        return rows

    def __str__(self) -> str:
        width = max(len(swept.name) for swept in self._swept)
        return "\n".join(f"{swept.name:{width}}  {swept.dimension}" for swept in self._swept)

    def _named(self, name: str) -> SweptField:
        for swept in self._swept:
            if swept.name == name:
                return swept
        raise ValueError(
            f"the space of {self.config.__name__} has no {name!r}; "
            f"{suggestion(name, self.dimensions)}"
        )


def _changed(config: Any, changes: list[tuple[tuple[str, ...], Any]]) -> Any:
    """Return the dataclass with each change at its path; a class changes before what is inside."""
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


# The fields that dotted paths name, checked against the classes.


def _swept_fields(
    owner: type,
    paths: Mapping[str, Any],
    prefix: str = "",
    above: tuple[str, ...] = (),
    when: tuple[tuple[str, str], ...] = (),
) -> Iterator[SweptField]:
    """Yield the swept fields; raise ValueError for what does not fit the class.

    Args:
        owner: The class whose fields the paths start at.
        paths: The dimension, or `Branch`, of each dotted path.
        prefix: Prefix of the names.
        above: The path to the owner.
        when: The choices of class that the owner depends on.
    """
    for dotted, swept in paths.items():
        name, path = f"{prefix}{dotted}", (*above, *dotted.split("."))
        whole = [other for other in paths if dotted.startswith(f"{other}.")]
        if whole or not isinstance(swept, Dimension | Branch):
            problem = (
                f"{prefix}{whole[0]!r} is swept whole and inside, as {dotted!r}; write "
                f"{whole[0]!r}: Branch(...) with all that is swept inside"
                if whole
                else f"{name} must be Uniform, LogUniform, Int, Choice, Grid, or Branch, got "
                f"{swept!r}"
            )
            raise ValueError(problem)
        kinds = _kinds(owner, dotted, name)
        if isinstance(swept, Branch):
            classes = _classes(name, kinds, swept)
            yield SweptField(name, Choice(*swept.classes), path, when, classes)
            for cls, (option, inside) in zip(classes, swept.classes.items(), strict=True):
                inner = f"{name}:{option.lower()}."
                yield from _swept_fields(cls, inside, inner, path, (*when, (name, option)))
        else:
            _check_fits(name, swept, kinds)
            yield SweptField(name, swept, path, when)


def _classes(name: str, kinds: list[Any], branch: Branch) -> tuple[type, ...]:
    """Return the classes that the options of a branch stand for."""
    members = _members(kinds)
    known = {_class_name(cls): cls for cls in members if _is_class(cls)}
    short = Counter(option.lower() for option in map(_class_name, filter(_is_class, members)))
    twice = [one for one, count in short.items() if count > 1]
    wrong = [option for option in branch.classes if option not in known]
    bare = [
        f"{_class_name(cls)}, a class of {name}, starts from its defaults, and {field.name!r} has "
        "none; write one in the class"
        for cls in map(known.get, branch.classes)
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        if field.init and field.default is field.default_factory is dataclasses.MISSING
    ]
    if twice:
        problem = (
            f"two classes of {name} ({_described(members)}) are {name}:{twice[0]} in the names of "
            "dimensions; rename one of the classes"
        )
    elif wrong:
        problem = (
            f"{name} is {_described(members)}, but Branch names {wrong[0]!r}; "
            f"{suggestion(wrong[0], known)}"
        )
    elif bare:
        problem = bare[0]
    else:
        return tuple(known[option] for option in branch.classes)
    raise ValueError(problem)


def _kinds(owner: type, dotted: str, name: str) -> list[Any]:
    """Return the types of the field at a dotted path: one for each class of a union on the way."""
    owners: list[Any] = [owner]
    kinds: list[Any] = []
    parts = dotted.split(".")
    for index, part in enumerate(parts):
        here, inner = ".".join(parts[:index]), ".".join(parts[index:])
        has = [cls for cls in owners if part in _fields(cls)]
        lacks = [cls for cls in owners if cls not in has]
        if lacks:
            other, fields = (
                _class_name(lacks[0]),
                [field for cls in owners for field in _fields(cls)],
            )
            what = f"{here} ({_described(owners)})" if here else owner.__name__
            problem = (
                f"{what} has no field {part!r}, which the space sweeps as {name!r}; "
                f"{suggestion(part, fields)}"
            )
            if has:
                rest = '**{"None": {}}' if other == "None" else f"{other}={{}}"
                problem = (
                    f"{here} is {_described(owners)}, and {other} has no {part!r}; write "
                    f'"{here}": Branch({_class_name(has[0])}={{"{inner}": ...}}, {rest})'
                )
            raise ValueError(problem)
        kinds = [_fields(cls)[part] for cls in has]
        owners = _members(kinds)
    return kinds


def _fields(cls: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass by name; {} for anything else."""
    if not dataclasses.is_dataclass(cls) or not isinstance(cls, type):
        return {}
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _members(kinds: list[Any]) -> list[Any]:
    """Return the types that these allow: those of each union, without annotations, each once."""
    members: list[Any] = []
    for kind in kinds:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            members += _members([arguments[0]])
        elif origin in (typing.Union, types.UnionType):
            members += _members(list(arguments))
        else:
            members.append(kind)
    return list(dict.fromkeys(members))


def _check_fits(name: str, dimension: Dimension, kinds: list[Any]) -> None:
    """Raise ValueError unless the field accepts the values of the dimension."""
    options = dimension.options if isinstance(dimension, Choice | Grid) else (dimension.low,)
    for kind, value in itertools.product(kinds, options):
        try:
            from_plain(kind, value, name)
        except ValueError as error:
            instead = ""
            if any(map(_is_class, _members([kind]))):
                instead = "; write Branch(...) for a choice of classes"
            elif isinstance(dimension, Uniform | LogUniform) and int in _members([kind]):
                instead = f"; write Int({dimension.low:.0f}, {dimension.high:.0f})"
            raise ValueError(f"{dimension!r} does not fit: {error}{instead}") from None


def _is_class(kind: Any) -> bool:
    return kind is type(None) or (isinstance(kind, type) and dataclasses.is_dataclass(kind))


def _class_name(kind: Any) -> str:
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _described(kinds: list[Any]) -> str:
    return " | ".join(map(_class_name, kinds))
