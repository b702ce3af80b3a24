"""summary: a network as a table, a row for each path, from shapes alone.

Parameters and state are those the network declares. For outputs and FLOPs it is traced once, each
of its layers watched: while it is traced, a layer tells its output; after that, the scope of an
equation says which row its FLOPs belong to.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from ..core import paths
from ..core.calls import placeholder_key
from ..core.declarations import abstract, describe, split_arrays
from ..core.layer import Layer
from . import table
from .flops import costs
from .watching import number_of, places, watched


@dataclasses.dataclass(frozen=True)
class Row:
    """What is at a path and below it.

    `layer` is the layer in short, `output` what its first call gives, as shapes and types (None
    where it is not called). `parameters` and `state` count elements.
    """

    layer: str
    output: Any
    parameters: int = 0
    parameter_bytes: int = 0
    state: int = 0
    state_bytes: int = 0
    flops: int = 0


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """A table: its text is for a terminal, and a notebook shows it as HTML.

    `rows` are by path, in the order of the network; `total` is the network itself, and `inputs`
    the text of what it was given.
    """

    rows: dict[str, Row]
    total: Row
    inputs: str

    def __str__(self) -> str:
        return table.text(*self._table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return table.html(*self._table())

    def _table(self) -> tuple[list[table.Line], list[table.Line]]:
        """The lines, from the head to the total, and what stands under them."""
        rows = [*self.rows.items(), ("total", self.total)]
        lines = [
            ("Path", "Layer", "Output", "Parameters", "Bytes", "State", "FLOPs"),
            *((path, *_cells(row)) for path, row in rows),
        ]
        if not self.total.state:
            lines = [(*line[:5], line[6]) for line in lines]
        size, state_size = self.total.parameter_bytes, self.total.state_bytes
        return lines, [
            ("parameters", f"{self.total.parameters:,} ({table.binary(size).strip()})"),
            ("state", f"{self.total.state:,} ({table.binary(state_size).strip()})"),
            ("FLOPs", f"{self.total.flops:,} in one forward pass of {self.inputs}"),
        ]


def summary(net: Layer, *inputs: Any, depth: int | None = None, **named: Any) -> Summary:
    """A row for every layer of `net`: output, parameters, state and FLOPs for these inputs.

    Inputs are arrays or `jax.ShapeDtypeStruct`; nothing is computed or allocated, so the network
    may be larger than the memory. A row counts all that is at its path and below; `depth` keeps the
    paths of at most so many segments, 0 only the total. A wrapper adds no row: the n copies of a
    `Repeat` or an `Ensemble` share their rows, which count all n and show the output of one. A
    layer called twice counts its parameters once, and the FLOPs of each call. FLOPs are those of a
    forward pass with `train=False`, as `jaxnn.inspect.flops` counts them.

    Raises TypeError for what is not a layer, and ValueError, with the path of the layer concerned,
    for inputs that do not fit.

    >>> import jax
    >>> import jaxnn as nn
    >>> net = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))
    >>> print(nn.summary(net, jax.ShapeDtypeStruct((32, 784), "float32")))
    Path   Layer        Output       Parameters      Bytes   FLOPs
    ──────────────────────────────────────────────────────────────
    0      Dense(128)   f32[32,128]     100,480  392.5 KiB   6.4 M
    1      jax.nn.relu  f32[32,128]           0      0 B     4.1 k
    2      Dense(10)    f32[32,10]        1,290    5.0 KiB  82.2 k
    ──────────────────────────────────────────────────────────────
    total  Sequential   f32[32,10]      101,770  397.5 KiB   6.5 M
    ──────────────────────────────────────────────────────────────
    parameters  101,770 (397.5 KiB)
    state       0 (0 B)
    FLOPs       6,512,960 in one forward pass of float32[32,784]
    """
    if not isinstance(net, Layer):
        raise TypeError(f"summary wants a layer, got {net!r}; write nn.summary(net, x)")
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
        raise ValueError(f"depth is a number of path segments, an int >= 0, or None; got {depth!r}")
    shown = dict(places(net))
    outputs, amounts = _traced(net, list(shown), inputs, named)
    counts = {path: dict.fromkeys(_COUNTS, 0) for path in shown}
    for path, name, amount in amounts:
        for end in range(len(path) + 1):
            if path[:end] in counts:
                counts[path[:end]][name] += amount
    rows = {
        paths.text(path): Row(layer, outputs.get(path), **counts[path])
        for path, layer in shown.items()
        if depth is None or len(path) <= depth
    }
    given = [*map(describe, inputs), *(f"{name}={describe(x)}" for name, x in named.items())]
    return Summary(rows, rows.pop(""), ", ".join(given))


_COUNTS: list[str] = ["parameters", "parameter_bytes", "state", "state_bytes", "flops"]
_Amounts = list[tuple[paths.Path, str, int]]


def _traced(
    net: Layer, rows: list[paths.Path], inputs: Any, named: Any
) -> tuple[dict[paths.Path, Any], _Amounts]:
    """The outputs by path, and all that is to be counted: at which path, as what, how much."""
    state = jax.eval_shape(lambda: net.init_state(*inputs, key=placeholder_key(), **named))
    params, state = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (net.spec(*inputs, **named), state)
    )
    outputs: dict[int, Any] = {}
    numbers = {path: number for number, path in enumerate(rows)}
    observed = watched(net, numbers, outputs.setdefault)
    arrays, join = split_arrays(abstract((inputs, named)))

    def forward(params: Any, state: Any, arrays: Any) -> Any:
        inputs, named = join(arrays)
        key = jax.random.key(0)  # for a forward that draws in inference, such as an objective
        output, state = observed.apply(params, *inputs, state=state, key=key, **named)
        return split_arrays(output)[0], state

    jaxpr = jax.make_jaxpr(forward)(params, state, arrays).jaxpr
    amounts = [*_sizes(params, "parameters", "parameter_bytes")]
    amounts += _sizes(state, "state", "state_bytes")
    amounts += [(rows[number_of(scope) or 0], "flops", cost) for scope, cost in costs(jaxpr)]
    return {rows[number]: output for number, output in outputs.items()}, amounts


def _sizes(tree: Any, elements: str, size: str) -> Iterator[tuple[paths.Path, str, int]]:
    for path, leaf in paths.walk(tree):
        yield path, elements, leaf.size
        yield path, size, leaf.size * leaf.dtype.itemsize


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.layer,
        "-" if row.output is None else table.shape(describe(row.output)),
        f"{row.parameters:,}",
        table.binary(row.parameter_bytes),
        f"{row.state:,}",
        table.decimal(row.flops),
    )
