"""Rules: which mesh axis splits which axis of which parameter, as a table beside the network.

A rule is a pair of a path pattern and a spec, and the first whose pattern matches a parameter's
path decides:

    rules = (
        ("head/w", P()),                        # stays whole on every device
        ("**/up/w", P(None, "model")),          # its second axis is split by the mesh axis
        ("**", parallel.Split(largest="data")), # the largest axis of everything else
    )

The axes are those that the layer declares: what `Repeat` or `Ensemble` stacks in front of them is
left out of the spec and never split, so one table fits both forms of a network. `parallel.plan`
says what a table makes of a network.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..core import paths


@dataclasses.dataclass(frozen=True)
class Split:
    """A spec found from the shape: kernels (..., inputs, outputs), and vectors (outputs,).

    `outputs` is the mesh axis that splits the last array axis, `inputs` the one for the axis before
    it, and `largest` that for the largest axis of those left, the last of equal ones, in arrays of
    two axes or more: to gather a vector costs more than it holds. An axis that a mesh axis does not
    divide stays whole; write a `PartitionSpec` for an error instead.

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
        free = [
            (size, place)
            for place, size in enumerate(shape)
            if self.largest is not None
            and entries[place] is None
            and size % sizes[self.largest] == 0
        ]
        if free and len(shape) > 1:
            entries[max(free)[1]] = self.largest
        return P(*entries)


Rule: TypeAlias = tuple[str | tuple[str, ...], P | Split]
Rules: TypeAlias = tuple[Rule, ...]

# Tensor parallelism: of two layers in a row, the first is split by its outputs and the second by
# its inputs, so that what is between them needs no exchange (Shoeybi et al., Megatron-LM, 2019).
# By the names of the models: transformers, ResNet, and the layers of an MLP by their places.
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
"""Every device holds everything and takes its rows of a batch; axis `data`."""

FSDP: Rules = (("**", Split(largest="data")),)
"""Rows of a batch and weights are split by `data`: weights are gathered layer by layer, where they
are used (Rajbhandari et al., ZeRO, 2020; Zhao et al., PyTorch FSDP, 2023)."""

TENSOR_PARALLEL: Rules = _by_role(P())
"""Layers are split by `model`, in pairs; for GPT, ViT, ResNet and MLP, by the names of their
layers (Shoeybi et al., Megatron-LM, 2019)."""

FSDP_TENSOR_PARALLEL: Rules = _by_role(Split(largest="data"), "data")
"""Layers are split by `model`, and what each device then has by `data`, as in FSDP."""


def shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """A `NamedSharding` for each parameter, in the structure of `tree`.

    Args:
        tree: what `net.spec(x)` gives, where stacked axes are known; or any tree of arrays.
        mesh: the mesh, from `parallel.mesh`.
        rules: pairs (pattern, spec). A pattern may be a tuple of patterns, of which one has to
            match. A spec is a `PartitionSpec`, whose missing entries are None, or a `Split`.

    Raises:
        TypeError: the rules are something else.
        ValueError: a rule whose pattern matches nothing, a parameter that no rule matches, a spec
            with more entries than the parameter has axes, a mesh axis that there is not, or that is
            there twice, or that does not divide the parameter's axis; all are listed.

    >>> import jax, jaxnn as nn
    >>> from jaxnn import parallel
    >>> net, x = nn.Repeat(nn.Dense(4), 3), jax.ShapeDtypeStruct((2, 4), "float32")
    >>> found = parallel.shardings(net.spec(x), parallel.abstract_mesh(data=2), parallel.FSDP)
    >>> tuple(found["w"].spec), tuple(found["b"].spec)
    ((None, None, 'data'), ())
    """
    specs = own_specs(tree, mesh, rules)

    def sharding(path: paths.Path, leaf: Any) -> NamedSharding:
        return placed(mesh, P(*(None,) * len(_stack(leaf)), *specs[path]))

    return paths.map_with_path(sharding, tree)


def placed(mesh: Mesh, spec: P) -> NamedSharding:
    """The sharding with the spec written as XLA hands it back: equal ones are then the same.

    Without axes of size 1, which split nothing, and without None at the end.
    """
    entries: list[Any] = []
    for entry in spec:
        axes = tuple(axis for axis in _names(entry) if mesh.shape[axis] > 1)
        entries.append(axes[0] if len(axes) == 1 else axes or None)
    while entries and entries[-1] is None:
        entries.pop()
    return NamedSharding(mesh, P(*entries))


def own_specs(tree: Any, mesh: Mesh, rules: Rules) -> dict[paths.Path, P]:
    """The spec of each parameter's own axes, an entry for each, by path; raises as `shardings`."""
    check_rules(rules)
    leaves = dict(paths.walk(tree))
    texts = {path: paths.text(path) for path in leaves}
    lines = [*unused(rules, list(texts.values()), "parameters"), *unknown_axes(rules, mesh)]
    specs: dict[paths.Path, P] = {}
    for path, leaf in leaves.items() if not lines else ():
        found = first_rule(rules, (texts[path],))
        if found is None:
            lines.append(f"no rule matches {texts[path]!r}; end the rules with ('**', P())")
            continue
        shape = tuple(leaf.shape)[len(_stack(leaf)) :]
        spec = found[1]
        if isinstance(spec, Split):
            spec = spec.spec(shape, mesh.shape)
        lines += misfits(texts[path], shape, spec, mesh)
        specs[path] = P(*spec, *(None,) * (len(shape) - len(spec)))
    if lines:
        raise ValueError("the rules do not fit the parameters:\n  " + "\n  ".join(lines))
    return specs


def _stack(leaf: Any) -> tuple[Any, ...]:
    return getattr(leaf, "stack", ())


def _patterns(rule: Rule) -> tuple[str, ...]:
    return (rule[0],) if isinstance(rule[0], str) else rule[0]


def first_rule(rules: Rules, names: tuple[str, ...]) -> Rule | None:
    """The first rule of which a pattern matches one of the paths."""
    return next((rule for rule in rules if any(_fits(rule, name) for name in names)), None)


def _fits(rule: Rule, path: str) -> bool:
    return any(paths.matches(pattern, path) for pattern in _patterns(rule))


def check_rules(rules: Any) -> None:
    """Raise TypeError for anything but a tuple of pairs (pattern, spec)."""
    example = 'write (("**/up/w", P(None, "model")), ("**", P()))'
    if not isinstance(rules, tuple):
        raise TypeError(f"rules are a tuple of pairs (pattern, spec), got {rules!r}; {example}")
    for rule in rules:
        pair = isinstance(rule, tuple) and len(rule) == 2
        patterns = rule[0] if pair and isinstance(rule[0], tuple) else rule[:1] if pair else ()
        texts = bool(patterns) and all(isinstance(pattern, str) for pattern in patterns)
        if not texts or not isinstance(rule[1], P | Split):
            raise TypeError(
                f"a rule is a pair of a path pattern and a PartitionSpec or parallel.Split, got "
                f"{rule!r}; {example}"
            )


def unused(rules: Rules, texts: list[str], what: str) -> Iterator[str]:
    """A line for each rule that matches nothing.

    Args:
        rules: the rules.
        texts: the paths.
        what: what lies at them, for the line.
    """
    for rule in rules:
        if not any(_fits(rule, text) for text in texts):
            close = [c for p in _patterns(rule) for c in difflib.get_close_matches(p, texts, 1, 0)]
            near = f"; the closest is {close[0]!r}" if close else ""
            yield f"the rule {rule!r} matches none of the {len(texts)} {what}{near}"


def _axes(spec: P | Split) -> list[str]:
    if isinstance(spec, Split):
        return [axis for axis in (spec.inputs, spec.outputs, spec.largest) if axis is not None]
    return [axis for entry in spec for axis in _names(entry)]


def _names(entry: Any) -> tuple[str, ...]:
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def unknown_axes(rules: Rules, mesh: Mesh) -> Iterator[str]:
    """A line for each axis that a rule names and the mesh has not, or that is there twice."""
    for rule in rules:
        axes = _axes(rule[1])
        for axis in dict.fromkeys(axes):
            if axis not in mesh.axis_names:
                yield (
                    f"the rule {rule!r} splits by the mesh axis {axis!r}, but the mesh has "
                    f"{', '.join(map(repr, mesh.axis_names))}; write parallel.mesh({axis}=...)"
                )
        if len(axes) > len(set(axes)):
            yield f"the rule {rule!r} has a mesh axis twice"


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
        parts = math.prod(mesh.shape[axis] for axis in _names(entry))
        if size % parts:
            yield (
                f"{text}: {spec} splits the axis of {size} of the shape {shape} in {parts}, which "
                "does not divide it; write None there, or parallel.Split, which leaves it whole"
            )
