"""The search space of an experiment: a dimension for each dotted path into its configuration.

    Space(Config, {
        "optimizer": Branch(AdamW={"learning_rate": LogUniform(1e-4, 1e-1)}, SGD={}),
        "model.dropout": Uniform(0.0, 0.5),
    })

A trial's *values* are a dict by dimension name, which is the path; what a branch sweeps inside of a
class is called as on the command line, `optimizer:adamw.learning_rate`, and is there only in trials
of that class. A space is checked when it is made: an experiment with a misspelled path does not
import.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..explain.text import suggestion
from .dimensions import Branch, Choice, Dimension, Grid, Int, LogUniform, Scalar, Uniform
from .places import Place, laid_out

__all__ = [
    "Branch",
    "Choice",
    "Dimension",
    "Grid",
    "Int",
    "LogUniform",
    "Space",
    "Uniform",
    "Values",
]

Values = dict[str, Any]  # of scalars, by dimension


@dataclasses.dataclass(frozen=True)
class Space:
    """What is swept of a configuration. A value: hashable, and equal where the parts are.

    Args:
        config: the class of the configuration.
        paths: the dimension, or `Branch`, for each dotted path.

    Raises ValueError for a path that the class does not have, one that is swept twice, a value that
    its field does not take, and a field of a union where only some classes have the path.

    >>> from jaxnn.experiment import SGD, AdamW
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

    config: type
    paths: Mapping[str, Dimension | Branch] = dataclasses.field(compare=False)
    _places: tuple[Place, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not dataclasses.is_dataclass(self.config) or not isinstance(self.config, type):
            raise ValueError(
                "a Space is of a configuration's class, a dataclass, and its paths: "
                f"Space(Config, {{...}}); got {self.config!r}"
            )
        object.__setattr__(self, "paths", dict(self.paths))
        object.__setattr__(self, "_places", tuple(laid_out(self.config, self.paths)))
        if not self.dimensions:
            raise ValueError(
                f"the space of {self.config.__name__} sweeps nothing; write "
                'Space(Config, {"optimizer.learning_rate": LogUniform(1e-4, 1e-1)})'
            )

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """All dimensions by name, a branch's choice of class before what it sweeps inside."""
        return {place.name: place.dimension for place in self._places}

    @property
    def fields(self) -> set[str]:
        """The dotted paths of all that is swept, the same for each class of a branch."""
        return {".".join(place.path) for place in self._places}

    def active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a trial with these values has the dimension: it is in the branches chosen."""
        return _reached(self._place(name), values)

    def names(self, values: Mapping[str, Any]) -> list[str]:
        """The dimensions that a trial with these values has, in order."""
        return [place.name for place in self._places if _reached(place, values)]

    def sample(self, rng: np.random.Generator) -> Values:
        """A random trial: each dimension by its own law, independent of the others.

        Draws as many numbers whichever branches come out.
        """
        return self.from_unit(rng.random(len(self._places)))

    def from_unit(self, u: Any) -> Values:
        """The trial at a point of the unit cube [0, 1)^n, n the number of dimensions.

        The coordinates of dimensions that the trial does not have are not looked at.
        """
        if np.shape(u) != (len(self._places),):
            raise ValueError(
                f"a point of this space has shape ({len(self._places)},), got {np.shape(u)}"
            )
        values: Values = {}
        for place, at in zip(self._places, u, strict=True):
            if _reached(place, values):
                values[place.name] = place.dimension.at(float(at))
        return values

    def to_unit(self, values: Values, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """A random one of the points that `from_unit` maps to these values.

        For an option or a whole number any point of its share of the line; anywhere for a dimension
        that the trial does not have.
        """
        within = 0.001 + 0.998 * rng.random(len(self._places))  # off the edges, by rounding's sake
        return np.array(
            [
                place.dimension.unit(values[place.name], share) if place.name in values else share
                for place, share in zip(self._places, within, strict=True)
            ]
        )

    def grid(self, points: int) -> Iterator[Values]:
        """The product of all dimensions' grids, the last dimension fastest.

        Ranges have `points` points each (an `Int` no more than it has numbers), options all.
        """
        if points < 1:
            raise ValueError(f"a grid has at least 1 point a range, got {points}")
        return self._product({}, self._places, points)

    def _product(self, values: Values, places: Sequence[Place], points: int) -> Iterator[Values]:
        if not places:
            yield values
            return
        place, *rest = places
        reached = _reached(place, values)
        for value in place.dimension.grid(points) if reached else (None,):
            more = {place.name: value} if reached else {}
            yield from self._product(values | more, rest, points)

    def grid_size(self, points: int, names: Collection[str] | None = None) -> int:
        """How many points `grid` lists, without making them.

        Args:
            points: of each range.
            names: the dimensions that tell points apart, and all choices of classes among them; all
                by default.

        >>> from jaxnn.experiment import SGD
        >>> space = {"momentum": Uniform(0.5, 0.9), "learning_rate": Grid(0.1, 1.0)}
        >>> Space(SGD, space).grid_size(5), Space(SGD, space).grid_size(5, ["learning_rate"])
        (10, 2)
        """
        # Only the options that say whether a later dimension is there tell points apart.
        deciding = {choice for place in self._places for choice, _ in place.when}
        counts: dict[tuple[tuple[str, Scalar], ...], int] = {(): 1}
        for place in self._places:
            if names is not None and place.name not in names:
                continue
            grid, found = place.dimension.grid(points), dict[Any, int]()
            for chosen, count in counts.items():
                if not _reached(place, dict(chosen)):
                    found[chosen] = found.get(chosen, 0) + count
                elif place.name in deciding:
                    found |= {(*chosen, (place.name, option)): count for option in grid}
                else:
                    found[chosen] = found.get(chosen, 0) + count * len(grid)
            counts = found
        return sum(counts.values())

    def configured(self, config: Any, values: Mapping[str, Any]) -> Any:
        """The configuration with these values in their places, all else as it is.

        Dataclasses on the way are made again by `dataclasses.replace`, once each, so that their own
        checks run. The values stay what they are and may be traced by JAX. A class that a branch
        chose and `config` does not have there starts from its defaults.

        Raises ValueError for a name that the space, or the branch, does not have.
        """
        self._check_names(values)
        return _changed(config, [(p.path, p.put(values[p.name])) for p in self._of(values)])

    def to_plain(self) -> list[dict[str, Any]]:
        """A row a dimension, for JSON: name, kind, its range or options, log, and when it is there.

        >>> from jaxnn.experiment import SGD
        >>> Space(SGD, {"momentum": Uniform(0.5, 0.9)}).to_plain()
        [{'name': 'momentum', 'kind': 'uniform', 'low': 0.5, 'high': 0.9, 'log': False, 'when': {}}]
        """
        rows = []
        for place in self._places:
            plain = dataclasses.asdict(place.dimension)
            if "options" in plain:
                plain["options"] = list(plain["options"])
            kind = {"name": place.name, "kind": type(place.dimension).__name__.lower()}
            log = {"log": place.dimension.log, "when": dict(place.when)}
            rows.append(kind | plain | log)
        return rows

    def __str__(self) -> str:
        width = max(len(place.name) for place in self._places)
        return "\n".join(f"{place.name:{width}}  {place.dimension}" for place in self._places)

    def _place(self, name: str) -> Place:
        for place in self._places:
            if place.name == name:
                return place
        raise ValueError(
            f"the space of {self.config.__name__} has no {name!r}; "
            f"{suggestion(name, self.dimensions)}"
        )

    def _of(self, values: Mapping[str, Any]) -> list[Place]:
        return [place for place in self._places if place.name in values]

    def _check_names(self, values: Iterable[str]) -> None:
        for name in values:
            place = self._place(name)
            if isinstance(values, Mapping) and not _reached(place, values):
                told = " and ".join(f"{choice} is {option}" for choice, option in place.when)
                raise ValueError(f"{name} is swept only where {told}; got {dict(values)}")


def _reached(place: Place, values: Mapping[str, Any]) -> bool:
    return all(values.get(choice) == option for choice, option in place.when)


def _changed(config: Any, changes: list[tuple[tuple[str, ...], Any]]) -> Any:
    """The dataclass with each change at its path; a class is changed before what is inside."""
    fields = {}
    for field, inner in itertools.groupby(sorted(changes, key=_first), key=_first):
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


def _first(change: tuple[tuple[str, ...], Any]) -> str:
    return change[0][0]
