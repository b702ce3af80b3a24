"""The weights of another library by name, the prefix of each path, and the arrays of each layer."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..combine.reparametrization import SpectralNorm, WeightNorm
from ..core import paths
from .axes import Trace
from .orders import (
    AxisRange,
    ByType,
    Made,
    Unfit,
    fitted,
    lengths,
    runs,
    said,
    state_before,
    statements,
    tied,
)
from .source_arrays import Converter, Library, Missing, Names, Owner, SourceArrays, as_numpy


class Book:
    """The weights by name, the prefix of each path, the weights used, and the problems.

    Args:
        library: Names and layouts of the other library.
        weights: Arrays by name.
        names: The prefixes of paths.
        owners: The layers that own arrays.
        trace: The factors of the axes of all weights.
    """

    def __init__(
        self,
        library: Library,
        weights: dict[str, Any],
        names: Names,
        owners: list[Owner],
        trace: Trace,
    ) -> None:
        self.library = library
        self.owners = owners
        self.weights = weights
        self.names = names
        self.trace = trace
        # By name, the paths of the layers that take an array, and of those without a converter.
        self.used: dict[str, dict[paths.Path, None]] = {}
        self.used_by_type: dict[str, dict[paths.Path, None]] = {}
        self.copies: dict[paths.Path, tuple[int, ...]] = {}
        self.problems: list[str] = []
        self.missing: list[str] = []

    # ---- arrays by name ----

    def find(self, source: SourceArrays, name: str) -> str | Made | None:
        """Return the name of an array in the weights, or its parts if it is computed; or None."""
        full = source.full(name)
        made = self.library.made and self.library.made(self, source.owner.layer, full)
        if made:
            return made
        if full in self.weights:
            return full
        if self.library.other_name is not None:
            other = source.full(self.library.other_name(source.owner.layer, name))
            return other if other in self.weights else None
        return None

    def array(self, source: SourceArrays, name: str) -> Any:
        """Return the array that a converter requests, and record its use; NaN for a part that a
        weight does not have."""
        found = self.find(source, name)
        if found is None:
            raise Missing(source.full(name))
        stacked = bool(source.copy) and "*" not in self.template(source.path)
        if isinstance(found, Made):
            part, wrong = getattr(found, source.part), ""
            if stacked:
                wrong = (
                    "made of several stacked arrays: cut them into copies and write * for the "
                    "number of a copy"
                )
            elif (part is None and source.part == "weight") and not source.owner.is_inside(
                SpectralNorm
            ):
                wrong = "divided by its largest singular value there: use nn.SpectralNorm"
            if wrong:
                raise Unfit(f"{source.full(name)} is {wrong}")
            self._note(source, *found.names)
            whole = found.direction if found.original is None else found.original
            return np.full(np.shape(whole), np.nan) if part is None else part
        self._note(source, found)
        array = self.read(found)
        if stacked:
            sizes = self.copies[source.owner.path]
            array = fitted(array, (*sizes, *array.shape[len(sizes) :]), found)[source.copy]
        return array if source.part == "weight" else np.full(array.shape, np.nan)

    def read(self, name: str) -> Any:
        """Return the array of that name as a NumPy array."""
        try:
            return as_numpy(self.weights[name])
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise Unfit(f"{name} is not an array that NumPy can hold: {error}") from None

    def _note(self, source: SourceArrays, *names: str) -> None:
        path = source.owner.path
        by_type = self.converter(path) is None
        for name in names:
            for table in (self.used, self.used_by_type)[: 1 + by_type]:
                table.setdefault(name, {})[path] = None

    def shared(self) -> list[str]:
        """Return a line for each array that two layers take without a converter."""
        lines = []
        for name, users in self.used_by_type.items():
            if len(users) > 1:
                places = " and by ".join(paths.text(path) or "the network" for path in users)
                *_, last = users
                lines.append(
                    f"{name}: taken by {places}; if the source uses one array in both, write "
                    f'names={{"{paths.text(last)}": ("{self.prefix(last)}", interop.tied)}}'
                    f"{self.library.if_not_shared}"
                )
        return lines

    def unused(self, ignore: Iterable[str]) -> list[str]:
        """Return a line for each array that no converter requested, except for those that match a
        pattern of `ignore`, hold nothing learned, or are the table of a tied head."""
        separator = self.library.separator
        patterns = [pattern.replace(separator, "/") for pattern in ignore]
        layers = [owner.layer for owner in self.owners]
        lines = []
        for name, array in self.weights.items():
            if name in self.used:
                continue
            if any(paths.matches(p, name.replace(separator, "/")) for p in patterns):
                continue
            if self.library.is_buffer and self.library.is_buffer(name, array, layers):
                continue
            line = f"{name}: given, but no layer takes it"
            twin = self._equal_table(name)
            if twin is None:
                lines.append(line)
            elif not twin[1]:
                lines.append(f"{line}; it equals {twin[0]}, which the network does not use twice")
        return lines

    def _equal_table(self, spare: str) -> tuple[str, bool] | None:
        """Return the name of a used matrix with the same numbers, and whether the network also uses
        it for its outputs."""
        shape = getattr(self.weights[spare], "shape", ())
        if len(shape) != 2:
            return None
        array = self.read(spare)
        attended = {path for path, method in self.trace.methods if method == "attend"}
        for name, users in self.used.items():
            if getattr(self.weights[name], "shape", None) != shape:
                continue
            table = self.read(name)
            if table.size and table.min() != table.max() and np.array_equal(table, array):
                return name, bool(attended & users.keys())
        return None

    def another_prefix(self) -> list[str]:
        """Return a line with the code to write if all missing arrays exist with another prefix,
        such as `module.` of a wrapped model."""
        separator, given = self.library.separator, list(self.weights)
        if not self.missing or (self.names and self.library.name != "torch"):
            return []

        def first(names: list[str]) -> str:
            heads = {name.split(separator, 1)[0] for name in names}
            return "".join(heads) + separator if len(heads) == 1 else ""

        def there(wanted: list[str], names: list[str]) -> bool:
            return all(
                any(f"{n}{separator}".startswith(f"{w}{separator}") for n in names) for w in wanted
            )

        more, less = first(given), first(self.missing)
        items = "for name, array in state_dict.items()}"
        if more and there(self.missing, [name.removeprefix(more) for name in given]):
            write = f'write names={{"": "{more.removesuffix(separator)}"}}'
            if self.names:
                write = f'pass {{name.removeprefix("{more}"): array {items}'
            return [f"all names that are given begin with {more!r}; {write}"]
        if less and there([name.removeprefix(less) for name in self.missing], given):
            return [
                f'no name that is given begins with {less!r}; pass {{"{less}" + name: array {items}'
            ]
        return []

    # ---- names by path ----

    def template(self, path: paths.Path) -> str:
        """Return the other library's names at a path: `@` stands for that of an array, and each `*`
        for the number of a copy."""
        separator = self.library.separator
        above = self.template(path[:-1]) if path else "@"
        rule = self.rule(path)
        if rule is None:
            return above.replace("@", f"{path[-1]}{separator}@") if path else above
        prefix = rule[0] if isinstance(rule, tuple) else rule
        if prefix.startswith(separator):
            rest = prefix.removeprefix(separator)
            return above.replace("@", self._with_place(rest)) if rest else above
        return self._with_place(prefix)

    def prefix(self, path: paths.Path) -> str:
        """Return the prefix of the names at a path, as `names` states it."""
        return self.template(path).removesuffix("@").removesuffix(self.library.separator)

    def _with_place(self, prefix: str) -> str:
        return prefix if "@" in prefix else f"{prefix}{self.library.separator}@" if prefix else "@"

    def rule(self, path: paths.Path) -> Any:
        """Return the first entry of `names` that matches a path."""
        text = paths.text(path)
        return next((rule for p, rule in self.names.items() if paths.matches(p, text)), None)

    def converter(self, path: paths.Path) -> Converter | None:
        """Return the converter that `names` specifies for a path, or None."""
        rule = self.rule(path)
        return rule[1] if isinstance(rule, tuple) else None

    # ---- layers ----

    def layer(
        self, owner: Owner, declared: dict[str, Any], sizes: tuple[int, ...]
    ) -> dict[paths.Path, Any]:
        """Return the arrays of one layer, all copies stacked, by root and path; add problems to the
        list."""
        where = paths.text(owner.path) or "the network"
        self.copies[owner.path] = sizes
        stars = self.template(owner.path).count("*")
        if stars != len(sizes) and not (self.library.stacked and not stars):
            self.problems.append(
                f"{where}: has {len(sizes)} axes of copies, and its prefix "
                f"{self.template(owner.path)!r} has {stars} places * for their numbers; write * "
                'for the number of a copy, as in names={"blocks": "h.*"}'
            )
            return {}
        try:
            copies = [
                self._copy(owner, declared, copy) for copy in itertools.product(*map(range, sizes))
            ]
        except Missing as error:
            self.missing.append(error.args[0])
            self.problems.append(f"{where}: wanted {error.args[0]!r}, which is not there")
            return {}
        except (ValueError, IndexError) as error:
            self.problems.append(f"{where}: {error}")
            return {}
        self._check_order(owner, declared)
        wanted = dict(paths.walk(declared))
        for place in dict.fromkeys(place for one in copies for place in one if place not in wanted):
            self.problems.append(
                f"{where}: converted to {paths.text(place[1:])!r}, which the layer does not have"
            )
        arrays = {}
        for place in wanted:
            named = paths.text(place[1:])
            if any(place not in one for one in copies):
                self.problems.append(f"{where}: nothing was converted to {named!r}")
                continue
            if len({np.shape(one[place]) for one in copies}) > 1:
                self.problems.append(f"{where}: copies of {named!r} differ in shape")
                continue
            stack = np.stack([np.asarray(one[place]) for one in copies])
            arrays[place[0], *owner.path, *place[1:]] = stack.reshape((*sizes, *stack.shape[1:]))
        return arrays

    def _copy(
        self, owner: Owner, declared: dict[str, Any], copy: tuple[int, ...]
    ) -> dict[paths.Path, Any]:
        """Return the arrays of one copy, as the layer and the wrappers around it declare them."""
        own: dict[paths.Path, Any] = {}
        normed, spectral = [], {}
        for place, leaf in paths.walk(declared):
            above = place[1:-1]
            if place[0] == "params" and above and owner.inside(WeightNorm, above):
                if place[-1] == "v":
                    normed.append(place[:-1])
                    own[place[:-1]] = leaf
                continue
            wrapper = owner.inside(SpectralNorm, above) if place[0] == "state" else None
            if wrapper is None or place[-1] != "u":
                own[place] = leaf
            else:
                spectral["params", *above] = wrapper
        trees: dict[str, Any] = {}
        for place, leaf in own.items():
            trees = paths.nested(trees, place, leaf)
        found = {}
        for root in trees:
            found |= self._converted(owner, root, trees[root], copy, "weight")

        def part(name: str) -> dict[paths.Path, Any]:
            return self._converted(owner, "params", trees["params"], copy, name)

        directions = part("direction") if normed else {}
        for place in normed:
            pair = lengths(found.pop(place), _there(directions[place], place, "WeightNorm"))
            found |= {(*place, name): array for name, array in pair.items()}
        if not spectral:
            return found
        originals, singular, before = part("original"), part("singular"), part("state")
        for place, wrapper in spectral.items():
            weight, found[place] = found[place], _there(originals[place], place, "SpectralNorm")
            u = before[place].reshape(-1, weight.shape[-1])[0]
            if np.isnan(u).any():
                u = state_before(found[place], singular[place], weight, wrapper.steps)
            found["state", *place[1:], "u"] = u
        return found

    def _converted(
        self, owner: Owner, root: str, tree: Any, copy: tuple[int, ...], part: str
    ) -> dict[paths.Path, Any]:
        """Return the result of the layer's converter for a part of each weight."""
        table = self.library.params if root == "params" else self.library.state
        source = SourceArrays(self, owner, owner.path, copy, tree, part, table, root)
        converter = self.converter(owner.path)
        if converter is None or isinstance(converter, ByType) or root == "state":
            found = dict(paths.walk(source.by_type(owner.layer)))
        else:
            found = dict(paths.walk(converter(owner.layer, source)))
        if isinstance(converter, ByType):
            converter.ordered(found, source, owner.layer)
        return {(root, *place): array for place, array in found.items()}

    # ---- channels first ----

    def runs(self, owner: Owner, place: paths.Path) -> list[AxisRange]:
        """Return the axes of an array of a layer that are in another order in the library."""
        root, *rest = place
        path = (root, *owner.path, *rest)
        factors = self.trace.factors.get(path) or self.trace.factors.get((*path, "v"), [])
        return list(runs(owner.layer, factors[len(self.copies[owner.path]) :])) if factors else []

    def _check_order(self, owner: Owner, declared: Any) -> None:
        """Add a problem if the arrays of a layer may be in another order and nothing is stated."""
        where = paths.text(owner.path) or ""
        if self.converter(owner.path) not in (None, tied):
            return
        for place, _ in paths.walk(declared):
            for run in self.runs(owner, place):
                if run.shown:
                    continue
                write = _write(where, self.prefix(owner.path), run)
                self.problems.append(
                    f"{where or 'the network'}: {paths.text(place[1:])} {said(run)}, which the "
                    f"source may have in another order; {write}"
                )
                return

    def hint(self, path: paths.Path) -> str:
        """Return the code to write if an array of another shape is in another order, else ""."""
        for owner in self.owners:
            n = len(owner.path)
            if path[1 : 1 + n] == owner.path:
                for run in self.runs(owner, (path[0], *path[1 + n :])):
                    return f"; {_write(paths.text(owner.path), self.prefix(owner.path), run)}"
        return ""


def _write(path: str, prefix: str, run: AxisRange) -> str:
    """Return the code to write for axes whose order is not known."""
    both = statements(run)
    if both is None:
        return f'write names={{"{path}": ("{prefix}", your converter)}}'
    first, last = both
    sizes = f"({', '.join(['C', *'DHW'[-len(first.window) :]])})"
    return (
        f'write names={{"{path}": ("{prefix}", interop.{first!r})}} if the source flattens '
        f"{sizes}, interop.{last!r} if its channels are last"
    )


def _there(part: Any, place: paths.Path, wrapper: str) -> Any:
    if np.isnan(part).any():
        raise Unfit(
            f"{paths.text(place[1:])} is inside {wrapper}, and the source's weight is not made in "
            f"that way: convert the network without {wrapper}"
        )
    return part
