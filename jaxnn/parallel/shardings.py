"""Shardings of a whole state, or of the parameters of a network, by rules on paths."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ..core import paths
from ..train import TrainState
from ..train.state import is_key
from .recording import Drawn, by_path
from .rules import Rules, Split, check_rules, fits, misfits, placed, unused


def shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """A `NamedSharding` for each parameter of a network, in the structure of `tree`.

    Args:
        tree: what `net.spec(x)` returns, in which stacked axes are known; or any tree of arrays.
        mesh: the mesh, from `parallel.mesh`.
        rules: pairs (pattern, spec). A pattern may be a tuple of patterns, one of which has to
            match. A spec is a `PartitionSpec`, whose missing entries are None, or a `Split`.
            Parameters that no rule matches are replicated.

    Raises:
        TypeError: the rules are something else.
        ValueError: a rule whose pattern matches nothing, a spec with more entries than the
            parameter has axes, a mesh axis that does not exist, or is named twice, or does not
            divide the parameter's axis; all are listed.

    >>> import jax, jaxnn as nn
    >>> from jaxnn import parallel
    >>> net, x = nn.Repeat(nn.Dense(4), 3), jax.ShapeDtypeStruct((2, 4), "float32")
    >>> found = parallel.shardings(net.spec(x), parallel.abstract_mesh(data=2), parallel.FSDP)
    >>> tuple(found["w"].spec), tuple(found["b"].spec)
    ((None, None, 'data'), ())
    """
    check_rules(rules, mesh)
    declared = [Drawn.of(path, leaf) for path, leaf in by_path(tree)]
    return shardings_of(tree, declared, mesh, rules, "parameters")


def shardings_of(
    state: Any, declared: Iterable[Drawn], mesh: Mesh, rules: Rules, what: str = "state"
) -> Any:
    """A sharding for each array of a state; see `Placement` for what the rules mean.

    Args:
        state: arrays, or their shapes.
        declared: the arrays that layers draw, most of which are in it.
        mesh: the mesh.
        rules: the rules.
        what: the name of the state in errors.

    Raises:
        ValueError: a rule that matches nothing, and a spec that does not fit; all are listed.
    """
    by_own: dict[paths.Path, list[Drawn]] = {}
    for one in declared:
        by_own.setdefault(one.path, []).append(one)
    is_state = lambda node: isinstance(node, TrainState)  # noqa: E731
    nodes = by_path(jax.tree.map(is_state, state, is_leaf=is_state))
    states = [path for path, found in nodes if found]
    names: dict[str, None] = {}
    lines: dict[Any, list[str]] = {}
    places: list[Any] = []
    for path, leaf in by_path(state):
        shape = tuple(np.shape(leaf))
        above = max((p for p in states if path[: len(p)] == p), key=len, default=path)
        field = path[len(above) : len(above) + 1]
        fixed = not shape or is_key(leaf) or field in (("state",), ("step",), ("key",))
        one = _parameter(path, shape, by_own)
        called = [paths.text(path)]
        if one is not None and not fixed:
            called.append(paths.text(one.path))
        names |= dict.fromkeys(called)
        rule = None if fixed else next((one for one in rules if fits(one, called)), None)
        spec = P() if rule is None else rule[1]
        lead = () if one is None else one.shape[: one.stacked]
        stacked = len(lead) if shape[: len(lead)] == lead else 0
        own = shape[stacked:]
        if isinstance(spec, Split):
            spec = spec.spec(own, mesh.shape)
        wrong = list(misfits(paths.text(path), own, spec, mesh))
        if wrong and one is not None and shape != one.shape:  # as Adafactor keeps for a parameter
            wrong, spec = [], P()
        if wrong:
            # What is kept for a parameter does not fit for the same reason.
            lines.setdefault((rule, path if one is None else one.path, own), wrong)
        places.append(None if wrong else placed(mesh, P(*(None,) * stacked, *spec)))
    found = [*unused(rules, list(names)), *(line for one in lines.values() for line in one)]
    if found:
        raise ValueError(f"the rules do not fit the {what}:\n  " + "\n  ".join(found))
    return jax.tree.unflatten(jax.tree.structure(state), places)


def _parameter(
    path: paths.Path, shape: tuple[int, ...], by_own: dict[paths.Path, list[Drawn]]
) -> Drawn | None:
    """The parameter whose path a path ends with, preferably one of the same shape."""

    def rank(one: Drawn) -> Any:
        # Of parameters of several networks, first that of the network which the path names.
        above = path[: len(path) - len(one.path)]
        return one.shape != shape, -len(one.path), -sum(name in above for name in one.prefix)

    ends = (by_own.get(path[start:], []) for start in range(len(path)))
    return min((one for several in ends for one in several), key=rank, default=None)
