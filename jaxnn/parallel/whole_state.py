"""Shardings of the whole state of a program, by rules on its paths."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..core import paths
from ..train import TrainState
from ..train.state import is_key
from .rules import Rules, Split, first_rule, misfits, placed, unused


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An array that a layer draws, as the layer declares it.

    Args:
        path: its path in the network.
        shape: its shape.
        stacked: how many leading axes stack copies of a layer.
        prefix: the path in the state above `path`, if it is known.
    """

    path: paths.Path
    shape: tuple[int, ...]
    stacked: int
    prefix: paths.Path

    @classmethod
    def of(cls, path: paths.Path, param: Any, prefix: paths.Path) -> "Drawn":
        """The declaration at a path of a network."""
        return cls(path, tuple(param.shape), len(param.stack), prefix)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """An array of a state: its path, what rules may call it, and its stacked axes.

    `of` is the path of the network's parameter for which it is kept. It `follows` the parameter if
    it has the shape of it.
    """

    path: paths.Path
    shape: tuple[int, ...]
    names: tuple[str, ...]
    stacked: int
    of: paths.Path | None
    follows: bool
    fixed: bool


def by_path(tree: Any) -> Iterator[tuple[paths.Path, Any]]:
    """The leaves of any pytree with their paths."""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield tuple(jax.tree_util.keystr((key,), simple=True) for key in keys), leaf


def shardings_of(state: Any, declared: Sequence[Drawn], mesh: Mesh, rules: Rules) -> Any:
    """A sharding for each array of a state; see `Placement` for what the rules mean.

    Args:
        state: arrays, or their shapes.
        declared: the parameters of the layers in it.
        mesh: the mesh.
        rules: the rules.

    Raises:
        ValueError: a rule that matches nothing, and a spec that does not fit; all are listed.
    """
    leaves = list(_leaves(state, declared))
    lines: dict[Any, list[str]] = {}
    names = list(dict.fromkeys(name for leaf in leaves for name in leaf.names))
    lines[()] = list(unused(rules, names, "paths of the state"))
    places: list[NamedSharding] = []
    for leaf in leaves:
        rule = None if leaf.fixed else first_rule(rules, leaf.names)
        spec = P() if rule is None else rule[1]
        own = leaf.shape[leaf.stacked :]
        if isinstance(spec, Split):
            spec = spec.spec(own, mesh.shape)
        wrong = list(misfits(paths.text(leaf.path), own, spec, mesh))
        if wrong and leaf.of is not None and not leaf.follows:
            wrong, spec = [], P()
        if wrong:
            # What is kept for a parameter does not fit for the same reason.
            lines.setdefault((rule, leaf.of or leaf.path, own), wrong)
        places.append(placed(mesh, P(*(None,) * leaf.stacked, *spec)) if not wrong else None)  # type: ignore[arg-type]
    if found := [line for several in lines.values() for line in several]:
        raise ValueError("the rules do not fit the state:\n  " + "\n  ".join(found))
    return jax.tree.unflatten(jax.tree.structure(state), places)


def _leaves(state: Any, declared: Sequence[Drawn]) -> Iterator[_Leaf]:
    by_own: dict[paths.Path, list[Drawn]] = {}
    for one in declared:
        by_own.setdefault(one.path, []).append(one)
    states = [path for path, node in _nodes(state) if isinstance(node, TrainState)]
    for path, leaf in by_path(state):
        shape = tuple(jax.numpy.shape(leaf))
        inside = max((p for p in states if path[: len(p)] == p), key=len, default=None)
        field = None if inside is None else path[len(inside)]
        fixed = not shape or is_key(leaf) or field in ("state", "step", "key")
        one, follows = _parameter(path, shape, by_own)
        of = None if one is None else one.path
        names = [paths.text(path)]
        if inside is not None and field == "params":
            names.append(paths.text(path[len(inside) + 1 :]))
        elif inside is not None and of is not None and not fixed:
            names.append(paths.text(of))
        stacked = 0 if one is None else one.stacked
        if one is not None and shape[:stacked] != one.shape[:stacked]:
            stacked = 0
        yield _Leaf(path, shape, tuple(names), stacked, of, follows, fixed)


def _parameter(
    path: paths.Path, shape: tuple[int, ...], by_own: dict[paths.Path, list[Drawn]]
) -> tuple[Drawn | None, bool]:
    """The parameter at the end of a path, if there is one, and whether it has the shape."""
    other = None
    for start in range(len(path)):
        above = path[:start]
        # Of parameters of several networks, first that of the network which the path names.
        candidates = sorted(
            by_own.get(path[start:], []), key=lambda d: -sum(s in above for s in d.prefix)
        )
        same = [one for one in candidates if one.shape == shape]
        if same:
            return same[0], True
        other = other or next(iter(candidates), None)
    return other, False


def _nodes(state: Any) -> Iterator[tuple[paths.Path, Any]]:
    """The train states in a state, and its leaves, by path."""
    is_state = lambda node: isinstance(node, TrainState)  # noqa: E731
    for keys, node in jax.tree_util.tree_flatten_with_path(state, is_leaf=is_state)[0]:
        yield tuple(jax.tree_util.keystr((key,), simple=True) for key in keys), node
