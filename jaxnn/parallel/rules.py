"""Rules: which mesh axis splits which axis of which array, as a table next to the network.

A rule is a pair of a path pattern and a spec. The first rule whose pattern matches the path of a
parameter decides:

    rules = (
        ("head/w", P()),                        # stays whole on every device
        ("**/up/w", P(None, "model")),          # its second axis is split by the mesh axis
        ("**", parallel.Split(largest="data")), # the largest axis of everything else
    )

The axes of a spec are those that the layer declares. Axes that `Repeat` or `Ensemble` stack in
front of them are left out and never split, so one table fits a network with and without `Repeat`.
`parallel.plan` shows the effect of a table on a program. One trace of an `init` records the arrays
that its layers draw, and another one draws them in parts.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..core import paths
from ..random import Spec, Watch
from ..train import TrainState
from ..train.program import is_key
from ..validation import Accepts, check_none


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An array that a layer draws.

    Args:
        path: Its path in the network.
        shape: Its shape.
        stacked: The number of leading axes that stack copies of a layer.
        trained: Whether it is a parameter that an optimizer may receive.
        prefix: The path in the state above `path`, if it is part of the state as it was drawn.
        leaf: Its number among the leaves of the state, likewise.
    """

    path: paths.Path
    shape: tuple[int, ...]
    stacked: int
    trained: bool = False
    prefix: paths.Path = ()
    leaf: int | None = None

    @classmethod
    def of(cls, path: paths.Path, declared: Any, **found: Any) -> "Drawn":
        """Return the array that a layer declares at a path; `found` are further fields."""
        stacked = len(getattr(declared, "stack", ()))
        trained = not getattr(declared, "frozen", True)
        return cls(path, tuple(declared.shape), stacked, trained, **found)


class Recording(Watch):
    """What the layers of a program draw, and which leaves of its state are these arrays."""

    def __init__(self) -> None:
        self.calls: list[tuple[Spec, Any]] = []

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, jax.Array]) -> None:
        """Record a call."""
        self.calls.append((spec, arrays))

    def find(self, state: Any) -> None:
        """Replace the recorded arrays by `Drawn`, inside the trace that made the state."""
        at = {id(leaf): (i, path) for i, (path, leaf) in enumerate(flatten_with_paths(state))}

        def one(path: paths.Path, declared: Any, array: Any) -> Drawn:
            leaf, whole = at.get(id(array), (None, path))
            return Drawn.of(path, declared, prefix=whole[: len(whole) - len(path)], leaf=leaf)

        self.calls = [
            (spec, [one(path, declared, arrays[path]) for path, declared in spec.items()])
            for spec, arrays in self.calls
        ]

    def declared(self) -> list[Drawn]:
        """Return all arrays that were drawn."""
        return [drawn for _, several in self.calls for drawn in several]


class Drawing(Watch):
    """Places what a known function draws again; a call that draws something else is not placed.

    Args:
        recording: What the function drew.
        shardings: A sharding for each leaf of the state.
    """

    def __init__(self, recording: Recording, shardings: Sequence[NamedSharding]) -> None:
        self._left, self._shardings = list(recording.calls), shardings

    def places(self, spec: Spec) -> Mapping[paths.Path, Any]:
        """Return the shardings of the next call."""
        expected, drawn = self._left.pop(0) if self._left else ({}, ())
        if expected != spec:
            return {}
        return {one.path: self._shardings[one.leaf] for one in drawn if one.leaf is not None}


def flatten_with_paths(tree: Any) -> Iterator[tuple[paths.Path, Any]]:
    """Yield the leaves of any pytree with their paths."""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield tuple(jax.tree_util.keystr((key,), simple=True) for key in keys), leaf


@dataclasses.dataclass(frozen=True)
class Split:
    """A spec that depends on the shape: kernels (..., inputs, outputs) or vectors (outputs,).

    An array axis is not split if the size of the mesh axis does not divide it; a `PartitionSpec`
    raises an error instead.

    Args:
        inputs: The mesh axis that splits the second-to-last array axis. Default: None.
        outputs: The mesh axis that splits the last array axis. Default: None.
        largest: The mesh axis that splits the largest of the other array axes, or the last of
            several equally large ones. Vectors are not split, because gathering them costs more
            than it saves. Default: None.

    >>> split = Split(outputs="model", largest="data")
    >>> tuple(split.spec((64, 256), {"data": 2, "model": 4}))
    ('data', 'model')
    >>> tuple(split.spec((10,), {"data": 2, "model": 4}))
    (None,)
    """

    inputs: str | None = None
    outputs: str | None = None
    largest: str | None = None

    def spec(self, shape: tuple[int, ...], sizes: Any) -> P:
        """Return the spec of an array, given the size of each mesh axis."""
        entries: list[str | None] = [None] * len(shape)
        for place, axis in ((-1, self.outputs), (-2, self.inputs)):
            if axis is not None and len(shape) >= -place and shape[place] % sizes[axis] == 0:
                entries[place] = axis
        if self.largest is not None and len(shape) > 1:
            parts = sizes[self.largest]
            free = [(n, i) for i, n in enumerate(shape) if entries[i] is None and n % parts == 0]
            if free:
                entries[max(free)[1]] = self.largest
        return P(*entries)


Rule: TypeAlias = tuple[str | tuple[str, ...], P | Split]
Rules: TypeAlias = tuple[Rule, ...]

# Tensor parallelism: of two layers in a row, the first is split by its outputs and the second by
# its inputs, so that nothing is exchanged between them (Shoeybi et al., Megatron-LM, 2019). The
# names are those of transformers and ResNet, and the positions of the layers of an MLP.
_FIRST = (
    ("**/query/*", "**/key/*", "**/value/*", "**/up/*", "**/gate/*", "**/head/*"),
    ("**/branch/first/**", "**/branch/middle/**"),
    ("0/*", "6/*", "12/*"),
)
_SECOND = (
    ("**/out/w", "**/down/w", "**/embedding/w"),
    ("**/branch/second/conv/w", "**/branch/wide/conv/w"),
    ("3/w", "9/w", "15/w"),
)


def _by_role(rest: P | Split, largest: str | None = None) -> Rules:
    return (
        (sum(_FIRST, ()), Split(outputs="model", largest=largest)),
        (sum(_SECOND, ()), Split(inputs="model", largest=largest)),
        ("**", rest),
    )


DATA_PARALLEL: Rules = (("**", P()),)
"""Every device holds the whole state; the mesh axis `data` splits the rows of a batch."""

FSDP: Rules = (("**", Split(largest="data")),)
"""The mesh axis `data` splits the rows of a batch and the weights. Each layer gathers its weights
when it uses them (Rajbhandari et al., ZeRO, 2020; Zhao et al., PyTorch FSDP, 2023)."""

TENSOR_PARALLEL: Rules = _by_role(P())
"""The mesh axis `model` splits pairs of layers, which are matched by their names in the models
(Shoeybi et al., Megatron-LM, 2019)."""

FSDP_TENSOR_PARALLEL: Rules = _by_role(Split(largest="data"), "data")
"""The mesh axis `model` splits layers as in `TENSOR_PARALLEL`, and `data` weights as in `FSDP`."""


def _are_rules(rules: Any) -> bool:
    if not isinstance(rules, tuple):
        return False
    pairs = [rule for rule in rules if isinstance(rule, tuple) and len(rule) == 2]
    patterns = [(one,) if isinstance(one, str) else one for one, _ in pairs]
    texts = (isinstance(p, tuple) and p and all(isinstance(t, str) for t in p) for p in patterns)
    return (
        len(pairs) == len(rules) and all(texts) and all(isinstance(s, P | Split) for _, s in pairs)
    )


RULES = Accepts(
    "a tuple of pairs (pattern, spec): a path pattern, or a tuple of several, and a PartitionSpec "
    "or parallel.Split",
    _are_rules,
    TypeError,
    'write (("**/up/w", P(None, "model")), ("**", P()))',
)


def shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """Return a `NamedSharding` for each parameter of a network, in the structure of `tree`.

    Args:
        tree: The tree from `net.spec(x)`, which marks stacked axes, or any tree of arrays.
        mesh: The mesh, from `parallel.mesh`.
        rules: Pairs (pattern, spec). A pattern may be a tuple of patterns, one of which has to
            match. A spec is a `PartitionSpec`, whose missing entries are None, or a `Split`.
            Parameters that no rule matches are replicated.

    Raises:
        TypeError: The rules are not such pairs.
        ValueError: A pattern matches nothing, a spec has more entries than the parameter has axes,
            or a mesh axis does not exist, is used twice, or does not divide the parameter's axis.
            The message lists all problems.

    >>> import jax, jaxnn as nn
    >>> from jaxnn import parallel
    >>> net, x = nn.Repeat(nn.Dense(4), 3), jax.ShapeDtypeStruct((2, 4), "float32")
    >>> found = parallel.shardings(net.spec(x), parallel.abstract_mesh(data=2), parallel.FSDP)
    >>> tuple(found["w"].spec), tuple(found["b"].spec)
    ((None, None, 'data'), ())
    """
    check_rules(RULES(rules, "rules"), mesh)
    declared = [Drawn.of(path, leaf) for path, leaf in flatten_with_paths(tree)]
    return shardings_of(tree, declared, mesh, rules, "parameters")


def shardings_of(
    state: Any, declared: Iterable[Drawn], mesh: Mesh, rules: Rules, what: str = "state"
) -> Any:
    """Return a sharding for each array of a state; see `Placement` for what the rules mean.

    Args:
        state: Arrays, or their shapes.
        declared: The arrays that layers draw, most of which are in it.
        mesh: The mesh.
        rules: The rules.
        what: The name of the state in errors.

    Raises:
        ValueError: A rule that matches nothing, and a spec that does not fit; all are listed.
    """
    by_own: dict[paths.Path, list[Drawn]] = {}
    for one in declared:
        by_own.setdefault(one.path, []).append(one)
    is_state = lambda node: isinstance(node, TrainState)  # noqa: E731
    nodes = flatten_with_paths(jax.tree.map(is_state, state, is_leaf=is_state))
    states = [path for path, found in nodes if found]
    names: dict[str, None] = {}
    lines: dict[Any, list[str]] = {}
    places: list[Any] = []
    for path, leaf in flatten_with_paths(state):
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
            # Report a parameter once, and not also the arrays that an optimizer keeps for it.
            lines.setdefault((rule, path if one is None else one.path, own), wrong)
        places.append(None if wrong else placed(mesh, P(*(None,) * stacked, *spec)))
    found = [*unused(rules, list(names)), *(line for one in lines.values() for line in one)]
    check_none(found, f"the rules do not fit the {what}")
    return jax.tree.unflatten(jax.tree.structure(state), places)


def _parameter(
    path: paths.Path, shape: tuple[int, ...], by_own: dict[paths.Path, list[Drawn]]
) -> Drawn | None:
    """Return the parameter whose path a path ends with, preferably one of the same shape."""

    def rank(one: Drawn) -> Any:
        # Among parameters of several networks, prefer the network that is named in the path.
        above = path[: len(path) - len(one.path)]
        return one.shape != shape, -len(one.path), -sum(name in above for name in one.prefix)

    ends = (by_own.get(path[start:], []) for start in range(len(path)))
    return min((one for several in ends for one in several), key=rank, default=None)


def placed(mesh: Mesh, spec: P) -> NamedSharding:
    """Return the sharding with the spec as XLA returns it, so that equal shardings compare equal.

    It has no mesh axes of size 1, which split nothing, and no None at the end.
    """
    entries: list[Any] = []
    for entry in spec:
        axes = tuple(axis for axis in axes_of((entry,)) if mesh.shape[axis] > 1)
        entries.append(axes[0] if len(axes) == 1 else axes or None)
    while entries and entries[-1] is None:
        entries.pop()
    return NamedSharding(mesh, P(*entries))


def _patterns(rule: Rule) -> tuple[str, ...]:
    return (rule[0],) if isinstance(rule[0], str) else rule[0]


def fits(rule: Rule, names: Iterable[str]) -> bool:
    """Return whether a pattern of a rule matches one of several paths."""
    return any(paths.matches(pattern, name) for name in names for pattern in _patterns(rule))


def check_rules(rules: Rules, mesh: Mesh) -> None:
    """Raise ValueError for rules that do not fit a mesh."""
    lines: list[str] = []
    for rule in rules:
        axes = axes_of(rule[1])
        if unknown := [axis for axis in axes if axis not in mesh.axis_names]:
            lines.append(
                f"the rule {rule!r} splits by the mesh axis {unknown[0]!r}, but the mesh has "
                f"{', '.join(map(repr, mesh.axis_names))}; write parallel.mesh({unknown[0]}=...)"
            )
        if len(axes) > len(set(axes)):
            lines.append(f"the rule {rule!r} names a mesh axis twice")
    check_none(lines, "the rules do not fit the mesh")


def unused(rules: Rules, texts: list[str]) -> Iterator[str]:
    """Yield a line for each rule that matches none of several paths."""
    for rule in rules:
        if not fits(rule, texts):
            close = [c for p in _patterns(rule) for c in difflib.get_close_matches(p, texts, 1, 0)]
            near = f"; the closest is {close[0]!r}" if close else ""
            yield f"the rule {rule!r} matches none of the {len(texts)} paths{near}"


def axes_of(spec: Any) -> tuple[str, ...]:
    """Return the mesh axes that a spec names, in order."""
    if isinstance(spec, Split):
        spec = spec.inputs, spec.outputs, spec.largest
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in spec)
    return tuple(axis for entry in entries for axis in entry if axis is not None)


def misfits(text: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> Iterator[str]:
    """Yield a line for each reason why an array cannot be split by a spec.

    Args:
        text: The path of the array.
        shape: Its axes, without those that are stacked.
        spec: The spec.
        mesh: The mesh.
    """
    if len(spec) > len(shape):
        yield f"{text}: {spec} has {len(spec)} entries, for the shape {shape}"
        return
    for size, entry in zip(shape, spec, strict=False):
        parts = math.prod(mesh.shape[axis] for axis in axes_of((entry,)))
        if size % parts:
            yield (
                f"{text}: {spec} splits the axis of {size} of the shape {shape} in {parts}, which "
                "does not divide it; write None there, or parallel.Split, which leaves it whole"
            )
