"""Where in a configuration each dimension of a space goes, checked against the classes' fields."""

import dataclasses
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ..experiment.configuration import from_plain
from ..explain.text import suggestion
from .dimensions import Branch, Choice, Dimension, Grid, Int, LogUniform, Uniform

DIMENSIONS = (Uniform, LogUniform, Int, Choice, Grid)


@dataclasses.dataclass(frozen=True)
class Place:
    """A dimension's name, its path of fields, and the choices of class that it hangs on.

    `classes` is for a branch's own choice: the classes that its options stand for.
    """

    name: str
    dimension: Dimension
    path: tuple[str, ...]
    when: tuple[tuple[str, str], ...] = ()
    classes: tuple[type, ...] = ()

    def put(self, value: Any) -> Any:
        """What goes into the configuration for the value."""
        if not self.classes:
            return value
        if not self.dimension.has(value):
            raise ValueError(f"{self.name} is {value!r}, wanted one of {self.dimension}")
        names = [_class_name(cls) for cls in self.classes]
        return self.classes[names.index(value)]


def laid_out(
    owner: type,
    paths: Mapping[str, Any],
    prefix: str = "",
    above: tuple[str, ...] = (),
    when: tuple[tuple[str, str], ...] = (),
) -> Iterator[Place]:
    """The places of all dimensions; raises ValueError for what does not fit the class.

    Args:
        owner: the class whose fields the paths start at.
        paths: the dimension, or `Branch`, for each dotted path.
        prefix: of the names of the places.
        above: the path to the owner.
        when: the choices of class that the owner depends on.
    """
    for dotted, swept in paths.items():
        for other in paths:
            if dotted.startswith(f"{other}."):
                raise ValueError(
                    f"{prefix}{other!r} is swept whole and inside, as {dotted!r}; write "
                    f"{other!r}: Branch(...) with all that is swept inside"
                )
        name, path = f"{prefix}{dotted}", (*above, *dotted.split("."))
        kinds = _kinds(owner, dotted, name)
        if isinstance(swept, Branch):
            yield from _branch(name, path, when, kinds, swept)
        elif isinstance(swept, DIMENSIONS):
            for kind in kinds:
                _check_fits(name, swept, kind)
            yield Place(name, swept, path, when)
        else:
            raise ValueError(
                f"{name} is swept by Uniform, LogUniform, Int, Choice, Grid or Branch; "
                f"got {swept!r}"
            )


def _branch(
    name: str,
    path: tuple[str, ...],
    when: tuple[tuple[str, str], ...],
    kinds: list[Any],
    branch: Branch,
) -> Iterator[Place]:
    members = _members(kinds)
    known = {_class_name(cls): cls for cls in members if _is_class(cls)}
    short = Counter(_class_name(cls).lower() for cls in members if _is_class(cls))
    if twice := [one for one, count in short.items() if count > 1]:
        raise ValueError(
            f"{name} is {_described(members)}, two of which would be {name}:{twice[0]} in the "
            "names of dimensions; give one of the classes another name"
        )
    if wrong := [option for option in branch.classes if option not in known]:
        raise ValueError(
            f"{name} is {_described(members)}, of which Branch names {wrong[0]!r}; "
            f"{suggestion(wrong[0], known)}"
        )
    classes = [known[option] for option in branch.classes]
    absent = dataclasses.MISSING
    for cls in classes:
        for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
            if field.init and field.default is field.default_factory is absent:
                raise ValueError(
                    f"{name}: a trial's {_class_name(cls)} starts from its defaults, and "
                    f"{field.name!r} has none; give it one in the class"
                )
    yield Place(name, Choice(*branch.classes), path, when, tuple(classes))
    for cls, (option, paths) in zip(classes, branch.classes.items(), strict=True):
        prefix = f"{name}:{option.lower()}."
        yield from laid_out(cls, paths, prefix, path, (*when, (name, option)))


def _kinds(owner: type, dotted: str, name: str) -> list[Any]:
    """The types of the field at a dotted path: one for each class of a union on the way."""
    owners: list[Any] = [owner]
    kinds: list[Any] = []
    way: list[str] = []
    for part in dotted.split("."):
        here = ".".join(way)
        has = [cls for cls in owners if part in _fields(cls)]
        lacks = [cls for cls in owners if part not in _fields(cls)]
        if has and lacks:
            inner, other = dotted.removeprefix(f"{here}."), _class_name(lacks[0])
            rest = '**{"None": {}}' if other == "None" else f"{other}={{}}"
            raise ValueError(
                f"{here} is {_described(owners)}, and {other} has no {part!r}; write "
                f'"{here}": Branch({_class_name(has[0])}={{"{inner}": ...}}, {rest})'
            )
        if lacks:
            fields = [field for cls in owners for field in _fields(cls)]
            what = f"{here} ({_described(owners)})" if here else owner.__name__
            raise ValueError(
                f"{what} has no field {part!r}, which the space sweeps as {name!r}; "
                f"{suggestion(part, fields)}"
            )
        kinds = [_fields(cls)[part] for cls in has]
        owners = _members(kinds)
        way.append(part)
    return kinds


def _fields(cls: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls) or not isinstance(cls, type):
        return {}
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _members(kinds: list[Any]) -> list[Any]:
    """The types that these allow: those of each union, without annotations and twins."""
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


def _check_fits(name: str, dimension: Dimension, kind: Any) -> None:
    """Raise ValueError unless the field takes what the dimension gives."""
    for value in dimension.options if isinstance(dimension, Choice | Grid) else (dimension.low,):
        try:
            from_plain(kind, value, name)
        except ValueError as error:
            instead = ""
            if any(_is_class(member) for member in _members([kind])):
                instead = "; write Branch(...) for a choice of classes"
            elif isinstance(dimension, Uniform | LogUniform) and kind is int:
                instead = f"; write Int({dimension.low:.0f}, {dimension.high:.0f})"
            raise ValueError(f"{error}, which {dimension!r} does not give{instead}") from None


def _is_class(kind: Any) -> bool:
    return kind is type(None) or (isinstance(kind, type) and dataclasses.is_dataclass(kind))


def _class_name(kind: Any) -> str:
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _described(kinds: list[Any]) -> str:
    return " | ".join(_class_name(kind) for kind in kinds)
