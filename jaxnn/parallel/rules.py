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
`parallel.plan` reports what a table does to a program.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..core import paths


@dataclasses.dataclass(frozen=True)
class Split:
    """A spec that depends on the shape: of kernels (..., inputs, outputs) or vectors (outputs,).

    An array axis that the mesh axis does not divide stays whole; a `PartitionSpec` raises instead.

    Args:
        inputs: the mesh axis that splits the array axis before the last one; None by default.
        outputs: the mesh axis that splits the last array axis; None by default.
        largest: the mesh axis that splits the largest of the other array axes, the last one of
            equal ones, in arrays of two axes or more, since to gather a vector costs more than it
            saves; None by default.

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
        """The spec of an array, given the size of each mesh axis."""
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
    ("**/query/*", "**/key/*", "**/value/*", "**/up/*", "**/gate/*", "head/*"),
    ("**/branch/first/**", "**/branch/middle/**"),
    ("0/*", "6/*", "12/*"),
)
_SECOND = (
    ("**/out/w", "**/down/w", "embedding/w"),
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
"""Every device holds the whole state and takes its rows of a batch, by the axis `data`."""

FSDP: Rules = (("**", Split(largest="data")),)
"""Rows of a batch and weights are split by `data`: weights are gathered layer by layer, where they
are used (Rajbhandari et al., ZeRO, 2020; Zhao et al., PyTorch FSDP, 2023)."""

TENSOR_PARALLEL: Rules = _by_role(P())
"""Layers are split by `model`, in pairs; for GPT, ViT, ResNet and MLP, by the names of their
layers (Shoeybi et al., Megatron-LM, 2019)."""

FSDP_TENSOR_PARALLEL: Rules = _by_role(Split(largest="data"), "data")
"""Layers are split by `model`, and what each device then has by `data`, as in FSDP."""


def placed(mesh: Mesh, spec: P) -> NamedSharding:
    """The sharding with the spec as XLA returns it, so that equal shardings compare equal.

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
    """Whether a pattern of a rule matches one of several paths."""
    return any(paths.matches(pattern, name) for name in names for pattern in _patterns(rule))


def check_rules(rules: Any, mesh: Mesh) -> None:
    """Raise TypeError for anything but rules, and ValueError for rules that do not fit a mesh."""
    example = 'write (("**/up/w", P(None, "model")), ("**", P()))'
    if not isinstance(rules, tuple):
        raise TypeError(f"rules are a tuple of pairs (pattern, spec), got {rules!r}; {example}")
    lines: list[str] = []
    for rule in rules:
        pair = isinstance(rule, tuple) and len(rule) == 2
        patterns = _patterns(rule) if pair else ()
        texts = isinstance(patterns, tuple) and all(isinstance(one, str) for one in patterns)
        if not patterns or not texts or not isinstance(rule[1], P | Split):
            raise TypeError(
                f"a rule is a pair of a path pattern and a PartitionSpec or parallel.Split, got "
                f"{rule!r}; {example}"
            )
        axes = axes_of(rule[1])
        if unknown := [axis for axis in axes if axis not in mesh.axis_names]:
            lines.append(
                f"the rule {rule!r} splits by the mesh axis {unknown[0]!r}, but the mesh has "
                f"{', '.join(map(repr, mesh.axis_names))}; write parallel.mesh({unknown[0]}=...)"
            )
        if len(axes) > len(set(axes)):
            lines.append(f"the rule {rule!r} names a mesh axis twice")
    if lines:
        raise ValueError("the rules do not fit the mesh:\n  " + "\n  ".join(lines))


def unused(rules: Rules, texts: list[str]) -> Iterator[str]:
    """A line for each rule that matches none of several paths."""
    for rule in rules:
        if not fits(rule, texts):
            close = [c for p in _patterns(rule) for c in difflib.get_close_matches(p, texts, 1, 0)]
            near = f"; the closest is {close[0]!r}" if close else ""
            yield f"the rule {rule!r} matches none of the {len(texts)} paths{near}"


def axes_of(spec: Any) -> tuple[str, ...]:
    """The mesh axes that a spec names, in order."""
    if isinstance(spec, Split):
        spec = spec.inputs, spec.outputs, spec.largest
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in spec)
    return tuple(axis for entry in entries for axis in entry if axis is not None)


def misfits(text: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> Iterator[str]:
    """A line for each reason why an array cannot lie by a spec.

    Args:
        text: the path of the array.
        shape: its own axes.
        spec: the spec.
        mesh: the mesh.
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
