"""The fields that a space sweeps: dimensions by dotted path, inside of classes, and on conditions.

`swept_fields` checks paths against the classes of a configuration. A `Branch` chooses the class of
a union field, `When` sweeps a dimension only for some values of another one; both become conditions
(name, values) of a `SweptField`. `paths_of` converts the names of dimensions, as in a ledger and on
the command line, back to paths, and `parsed` a text of values.
"""

import dataclasses
import itertools
import re
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..experiment.configuration import class_name, from_plain, is_class, members_of, to_plain
from ..explain.text import check_known, suggestion
from ..fields import is_traced
from ..validation import Accepts, check_none, one_of
from .dimensions import Choice, Dimension, Grid, dimension_of, from_text, to_row
from .ranges import Checked, LogUniform, Uniform
from .tables import frozen

Condition = tuple[str, Dimension]  # the name of a dimension, and the values that it must have

a_value: Accepts = Accepts(
    "PATH=VALUE", lambda text: re.fullmatch(r"(?s)\s*[^\s=][^=]*=.*\S.*", text) is not None
)


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class Branch(Checked):
    """A choice between the classes of a union field, with dimensions inside each class.

    Paths inside a class are relative to it. If the base configuration has a different class in the
    field, the chosen class starts from its defaults. If the field may be None, the name of that
    option is `"None"`: `Branch(Shift={...}, **{"None": {}})`.

    Args:
        **classes: For each class by name, a dict from dotted path to a dimension, `When`, or
            `Branch`.

    >>> from jaxnn.sweep import LogUniform
    >>> Branch(AdamW={"learning_rate": LogUniform(1e-4, 1e-1)}, SGD={})
    Branch(AdamW={'learning_rate': LogUniform(low=0.0001, high=0.1)}, SGD={})
    """

    classes: Mapping[str, Mapping[str, "Dimension | Branch | When"]]

    def __init__(self, **classes: Mapping[str, "Dimension | Branch | When"]) -> None:
        object.__setattr__(self, "classes", {name: dict(inner) for name, inner in classes.items()})
        self._check()

    def _problem(self) -> str:
        return "" if self.classes else "it needs a class; write Branch(AdamW={...}, SGD={...})"

    def __repr__(self) -> str:
        return f"Branch({', '.join(f'{name}={inner!r}' for name, inner in self.classes.items())})"


@dataclasses.dataclass(frozen=True, eq=False)
class When(Checked):
    """A dimension that is swept only if another dimension has certain values.

    All other trials keep the field's value in the base configuration.

    Args:
        name: Name of the other dimension, as in `Space.dimensions`; inside of a `Branch`, it may
            also be a path in the same class.
        among: The values of the other dimension for which this one is swept: a dimension, such as
            `Int(2, 4)` or `Choice("relu", "gelu")`, or a single option.
        then: The dimension, or a `Branch`, or a `When` with a further condition.

    >>> from jaxnn.sweep import Int, Uniform
    >>> When("model.depth", Int(2, 4), Uniform(0.0, 0.5))
    When('model.depth', Int(low=2, high=4, log=False), Uniform(low=0.0, high=0.5))
    """

    name: str
    among: Any
    then: "Dimension | Branch | When"

    def __post_init__(self) -> None:
        if not isinstance(self.among, Dimension):
            object.__setattr__(self, "among", Choice(self.among))
        self._check()

    def _problem(self) -> str:
        example = 'write When("model.depth", Int(2, 4), Uniform(0.0, 0.5))'
        if not isinstance(self.name, str):
            return f"the first argument must be the name of a dimension; {example}"
        if not isinstance(self.then, Dimension | Branch | When):
            return f"the last argument must be a dimension or a Branch; {example}"
        return ""

    def __repr__(self) -> str:
        return f"When({self.name!r}, {self.among!r}, {self.then!r})"


@dataclasses.dataclass(frozen=True)
class SweptField:
    """A dimension with the path of the field that it sets.

    Args:
        name: Name of the dimension.
        dimension: The dimension.
        path: Names of the fields from the configuration to the swept one.
        when: The conditions on which a trial has it. Default: none.
        classes: The classes that the options of a branch stand for. Default: none.
    """

    name: str
    dimension: Dimension
    path: tuple[str, ...]
    when: tuple[Condition, ...] = ()
    classes: tuple[type, ...] = ()

    def converted(self, value: Any) -> Any:
        """Return a value as the configuration has it: for an option of a branch, the class."""
        if not self.classes:
            return value
        names = [class_name(cls) for cls in self.classes]
        one_of(*names)(value, self.name)
        return self.classes[names.index(value)]

    def active(self, values: Mapping[str, Any]) -> bool:
        """Return whether a trial with these values has the dimension, as `hold` does."""
        return hold(self.when, values)

    def conditions(self) -> dict[str, Any]:
        """Return the conditions for JSON: the option, or the row of a dimension, by name."""
        return {
            name: among.options[0]
            if isinstance(among, Choice) and len(among.options) == 1
            else to_row(among)
            for name, among in self.when
        }


def hold(conditions: Iterable[Condition], values: Mapping[str, Any]) -> bool:
    """Return whether all conditions hold for some values; traced values always match."""
    return all(name in values and _is_among(values[name], among) for name, among in conditions)


def _is_among(value: Any, among: Dimension) -> bool:
    """Return whether a value is among others; a whole float, such as 2.0, counts as an int."""
    if is_traced(value) or among.has(value):
        return True
    return type(value) is float and value.is_integer() and among.has(int(value))


# Checking paths against classes

a_swept: Accepts = Accepts(
    "Uniform, LogUniform, Int, Normal, LogNormal, Choice, Grid, Branch, or When",
    lambda swept: isinstance(swept, Dimension | Branch),
)


def swept_fields(owner: type, paths: Mapping[str, Any]) -> list[SweptField]:
    """Return the swept fields of a configuration, each after those that its conditions name.

    Args:
        owner: The class of the configuration.
        paths: The dimension, `Branch`, or `When` of each dotted path.

    Raises:
        ValueError: A path or dimension does not fit the class, or a condition cannot hold.
    """
    found = {swept.name: swept for swept in _inside(owner, paths)}
    what = f"the conditions in the space of {owner.__name__} cannot hold"
    problems = [
        f"{swept.name} {problem}"
        for swept in found.values()
        for name, among in swept.when
        if (problem := _condition_problem(swept, name, among, found))
    ]
    check_none(dict.fromkeys(problems), what)
    ordered: dict[str, SweptField] = {}
    while rest := [swept for name, swept in found.items() if name not in ordered]:
        ready = [one for one in rest if all(name in ordered for name, _ in one.when)]
        circle = f"those of {', '.join(one.name for one in rest)} depend on each other"
        check_none([] if ready else [circle], what)
        ordered[ready[0].name] = ready[0]
    return list(ordered.values())


def _condition_problem(
    swept: SweptField, name: str, among: Dimension, found: Mapping[str, SweptField]
) -> str:
    """Return why a condition cannot hold; "" if a dimension has one of its values."""
    if name not in found:
        known = suggestion(name, (one for one in found if one != swept.name))
        return f"is swept when {name!r} has some value, but the space has no {name!r}; {known}"
    other = found[name].dimension
    if [one for one, _ in swept.when].count(name) > 1:
        problem = f"has two conditions on {name}; write one"
    elif isinstance(among, Choice | Grid):
        wrong = [repr(option) for option in among.options if not other.has(option)]
        text = f"is swept when {name} is {', '.join(wrong)}, which is not a value of it"
        problem = text if wrong else ""
    else:
        options = other.options if isinstance(other, Choice | Grid) else other.grid(1024)
        never = not any(among.has(option) for option in options)
        problem = f"is swept when {name} is {among}, which it never is" * never
    return f"{problem}: it is {other}" if problem else ""


def _inside(
    owner: type,
    paths: Mapping[str, Any],
    prefix: str = "",
    above: tuple[str, ...] = (),
    when: tuple[Condition, ...] = (),
) -> Iterator[SweptField]:
    """Yield the swept fields inside of a class.

    Args:
        owner: The class whose fields the paths start at.
        paths: The dimension, `Branch`, or `When` of each dotted path.
        prefix: Prefix of the names.
        above: The path to the owner.
        when: The conditions that the owner depends on.
    """
    for dotted, given in paths.items():
        name, path = f"{prefix}{dotted}", (*above, *dotted.split("."))
        conditions, swept = when, given
        while isinstance(swept, When):
            # inside of a class its own paths come first
            local = f"{prefix}{swept.name}" if swept.name in paths else swept.name
            conditions, swept = (*conditions, (local, swept.among)), swept.then
        a_swept(swept, name)
        for whole in (other for other in paths if dotted.startswith(f"{other}.")):
            raise ValueError(
                f"{prefix}{whole!r} is swept whole and inside, as {dotted!r}; write {whole!r}: "
                "Branch(...) with all that is swept inside"
            )
        kinds = kinds_at(owner, dotted, name)
        if isinstance(swept, Branch):
            classes = _classes(name, kinds, swept)
            yield SweptField(name, Choice(*swept.classes), path, conditions, classes)
            for cls, (option, inside) in zip(classes, swept.classes.items(), strict=True):
                chosen = (*conditions, (name, Choice(option)))
                yield from _inside(cls, inside, f"{name}:{option.lower()}.", path, chosen)
        else:
            _check_fits(name, swept, kinds)
            yield SweptField(name, swept, path, conditions)


def _classes(name: str, kinds: list[Any], branch: Branch) -> tuple[type, ...]:
    """Return the classes that the options of a branch stand for."""
    members = members_of(kinds)
    known = {class_name(cls): cls for cls in members if is_class(cls)}
    short = Counter(option.lower() for option in map(class_name, filter(is_class, members)))
    for option in branch.classes:
        unknown = f"{name} is {_described(members)}, but Branch names {option!r}"
        check_known(option, known, unknown)
    problems = [
        f"two of {_described(members)} are {name}:{one} in the names of dimensions: rename one"
        for one, count in short.items()
        if count > 1
    ]
    problems += [
        f"{class_name(cls)} starts from its defaults, and {field.name!r} has none: write one"
        for cls in map(known.get, branch.classes)
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        if field.init and field.default is field.default_factory is dataclasses.MISSING
    ]
    check_none(problems, f"Branch cannot choose between the classes of {name}")
    return tuple(known[option] for option in branch.classes)


def kinds_at(owner: type, dotted: str, name: str) -> list[Any]:
    """Return the types of the field at a dotted path: one for each class of a union on the way."""
    owners: list[Any] = [owner]
    kinds: list[Any] = []
    parts = dotted.split(".")
    for index, part in enumerate(parts):
        here, inner = ".".join(parts[:index]), ".".join(parts[index:])
        has = [cls for cls in owners if part in _fields(cls)]
        lacks = [cls for cls in owners if cls not in has]
        if lacks:
            other = class_name(lacks[0])
            fields = [field for cls in owners for field in _fields(cls)]
            what = f"{here} ({_described(owners)})" if here else owner.__name__
            problem = (
                f"{what} has no field {part!r}, which the space sweeps as {name!r}; "
                f"{suggestion(part, fields)}"
            )
            if has:
                rest = '**{"None": {}}' if other == "None" else f"{other}={{}}"
                problem = (
                    f"{here} is {_described(owners)}, and {other} has no {part!r}; write "
                    f'"{here}": Branch({class_name(has[0])}={{"{inner}": ...}}, {rest})'
                )
            raise ValueError(problem)
        kinds = [_fields(cls)[part] for cls in has]
        owners = members_of(kinds)
    return kinds


def _fields(cls: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass by name; {} for anything else."""
    if not dataclasses.is_dataclass(cls) or not isinstance(cls, type):
        return {}
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _check_fits(name: str, dimension: Dimension, kinds: list[Any]) -> None:
    """Raise ValueError unless the field accepts the values of the dimension."""
    options = dimension.options if isinstance(dimension, Choice | Grid) else (dimension.low,)
    for kind, value in itertools.product(kinds, options):
        try:
            from_plain(kind, to_plain(value), name)
        except ValueError as error:
            instead = ""
            if any(map(is_class, members_of([kind]))):
                instead = "; write Branch(...) for a choice of classes"
            elif isinstance(dimension, Uniform | LogUniform) and int in members_of([kind]):
                instead = f"; write Int({dimension.low:.0f}, {dimension.high:.0f})"
            raise ValueError(f"{dimension!r} does not fit: {error}{instead}") from None


def _described(kinds: list[Any]) -> str:
    return " | ".join(map(class_name, kinds))


# Names of dimensions, back to paths


def paths_of(owner: type, named: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the paths of a space whose dimensions have these names.

    Args:
        owner: The class that the names start at.
        named: A dimension, or a `When` of one, by name; that of a union field is a `Choice` of the
            names of its classes.
        above: The name of the owner, for errors. Default: "", the configuration.

    Raises:
        ValueError: A name is inside of a class that is not swept.

    >>> from jaxnn.experiment import SGD, AdamW
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     optimizer: AdamW | SGD = AdamW()
    >>> rate = {"optimizer:sgd.learning_rate": Choice(0.1, 0.3)}
    >>> paths_of(Config, {"optimizer": Choice("SGD", "AdamW"), **rate})
    {'optimizer': Branch(SGD={'learning_rate': Choice(0.1, 0.3)}, AdamW={})}
    """
    paths = {name: given for name, given in named.items() if ":" not in name}
    inside: dict[str, dict[str, dict[str, Any]]] = {}
    for name, given in named.items():
        field, colon, rest = name.partition(":")
        if colon:
            option, _, path = rest.partition(".")
            inside.setdefault(field, {}).setdefault(option, {})[path] = given
    for field in dict.fromkeys((*paths, *inside)):
        whole = f"{above}{field}"
        classes = {
            class_name(one): one
            for one in members_of(kinds_at(owner, field, whole))
            if is_class(one)
        }
        conditions, given = [], paths.get(field)
        while isinstance(given, When):
            conditions, given = [*conditions, given], given.then
        options = given.options if isinstance(given, Choice) else ()
        within = inside.get(field, {})
        chosen = {option.lower() for option in options if isinstance(option, str)}
        branches = set(classes) - {"None"} and options and set(options) <= set(classes)
        problem = ""
        if missing := [option for option in within if option not in chosen]:
            names = ",".join(classes) or "A,B"
            name = f"{whole}:{missing[0]}.{next(iter(within[missing[0]]))}"
            problem = (
                f"{name} is swept, but not the class {missing[0]} of {whole}: sweep "
                f"{whole}={names}, too"
            )
        elif branches and getattr(given, "weights", None) is not None:
            problem = f"the classes of {whole} are equally likely: leave out weights"
        if problem:
            raise ValueError(problem)
        if branches:
            inner = {option: (option.lower(), classes[option]) for option in options}
            swept: Any = Branch(**{
                option: paths_of(cls, within.get(low, {}), f"{whole}:{low}.")
                for option, (low, cls) in inner.items()
            })  # fmt: skip
            for one in reversed(conditions):
                swept = When(one.name, one.among, swept)
            paths[field] = swept
    return paths


def named_of(rows: Any) -> dict[str, Any]:
    """Return the dimensions by name of the rows of `Space.to_plain`, with their own conditions.

    Args:
        rows: The rows, plain data.
    """
    conditions = {row["name"]: dict(row["when"]) for row in rows}
    named: dict[str, Any] = {}
    for row in rows:
        swept: Any = dimension_of(row)
        field = row["name"].rpartition(":")[0]  # of the branch around it, which has conditions, too
        around = {field, *conditions.get(field, {})} if field else set()
        for name, among in conditions[row["name"]].items():
            if name not in around:
                one = dimension_of(among) if isinstance(among, dict) else Choice(frozen(among))
                swept = When(name, one, swept)
        named[row["name"]] = swept
    return named


def parsed(swept: Sequence[SweptField], text: str) -> dict[str, Any]:
    """Return the values that a text such as "model.width=64,rate=0.1" gives, by dotted path.

    Args:
        swept: The swept fields, whose dimensions determine the types.
        text: The text: PATH=VALUE, separated by commas.

    Raises:
        ValueError: The text has a different form.

    >>> from jaxnn.experiment import SGD
    >>> swept = swept_fields(SGD, {"learning_rate": Uniform(0.0, 0.5), "momentum": Grid(0.5, 0.9)})
    >>> parsed(swept, "momentum=0.9,learning_rate=1e-2")
    {'momentum': 0.9, 'learning_rate': 0.01}
    """
    found = {}
    hint = f"write for example --try {swept[0].name}=..., and commas between several"
    for part in re.split(r",(?=\s*[\w.:]+=)", text):
        name, _, word = (one.strip() for one in a_value(part, "--try", hint).partition("="))
        name = name.replace("-", "_")
        fields = [one.dimension for one in swept if name in (one.name, ".".join(one.path))]
        pairs = [(dimension, from_text(dimension, word)) for dimension in fields]
        fitting = [value for dimension, value in pairs if dimension.has(value)]
        found[name] = next(iter(fitting or [value for _, value in pairs]), word)
    return found
