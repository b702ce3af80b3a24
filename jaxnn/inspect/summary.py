"""summary: a table of a network, with a row for each path, from shapes alone; and flops.

`flops` is the sum of `costs`, which walks the equations of a jaxpr with the number of times that
each one runs and with the name scopes around it.

Parameters and state are those that the network declares. For outputs and FLOPs, the network is
traced once with an interceptor: each layer reports its output, and the name scope of an equation
determines the row to which its FLOPs belong.
"""

import dataclasses
import html
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import Call, Next, Outcome, placeholder_key
from ..core.declarations import abstract, split_arrays
from ..core.layer import Layer
from ..explain import entry, notebook
from ..explain.notebook import short
from ..explain.text import describe
from ..html import count
from ..tree import a_layer, intercept, layers
from ..validation import natural

# fmt: off
ELEMENTWISE = frozenset([
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "cos", "cosh", "digamma", "div", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "igamma", "igamma_grad_a", "igammac",
    "integer_pow", "lgamma", "log", "log1p", "logistic", "max", "min", "mul", "neg", "polygamma",
    "pow", "regularized_incomplete_beta", "rem", "round", "rsqrt", "sign", "sin", "sinh", "sqrt",
    "square", "sub", "tan", "tanh", "zeta",
])
REDUCTIONS = frozenset([
    "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce", "reduce_max", "reduce_min",
    "reduce_prod", "reduce_sum",
])
WINDOWS = frozenset([
    "reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum",
])
SCATTERS = frozenset([
    "scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub",
])
# fmt: on


def flops(function: Callable[..., Any], *args: Any, **named: Any) -> int:
    """Return the number of floating-point operations in the jaxpr of `function(*args, **named)`.

    Nothing is computed or allocated. A multiplication and an addition count as two operations, as
    in the usual 2mnk for a matrix product; published "MACs" are half of this count.

    - A matrix product (m, k) @ (k, n): 2mnk times the batch size. Einsums and grouped products are
      counted in the same way.
    - A convolution: 2 * output elements * kernel window * input features / groups. Padding counts
      as data. For a transposed convolution, which has holes between its inputs, the count is 2 *
      input elements * kernel window * output features / groups, before any cropping of the output.
      If the window is longer than the output along an axis, the length of the output is used
      instead of the length of the window.
    - Arithmetic, `max`, `min`, and transcendental functions (`exp`, `tanh`, ...): 1 per output
      element.
    - Reductions, cumulative reductions, and scatters that add: 1 per input element. Sums over
      sliding windows, as in average pooling: 1 per element of each window.
    - Max and min pooling process one axis after another, from the last to the first: k - 1 per
      window of k elements along the axis. Windows of more than 8 elements are computed by doubling,
      which takes about log2(k) per element of the axis.
    - A Fourier transform of n points: 5 n log2(n), and half of that from or to real numbers.
    - `scan`: its body times its length. `cond`: its most expensive branch. `shard_map`: its body
      times the number of devices. A Pallas kernel: its body times the size of the grid. `while`:
      its body once, because its length is not in the jaxpr.
    - Not counted: comparisons, selections, casts, gathers and other data movement, integer
      arithmetic (except integer matrix products), random bits, sorting, communication, matrix
      decompositions, and custom calls. A complex operation counts as one.

    Args:
        function: A function that JAX can trace.
        *args: Positional arguments, pytrees of arrays or `jax.ShapeDtypeStruct`.
        **named: Keyword arguments, as `*args`.

    >>> import jax, jax.numpy as jnp
    >>> flops(jnp.dot, jax.ShapeDtypeStruct((8, 16), "float32"), jnp.zeros((16, 4)))
    1024
    """
    jaxpr = jax.make_jaxpr(function)(*args, **named).jaxpr
    return sum(cost for _, cost in costs(jaxpr))


def costs(jaxpr: Any, times: int = 1, scope: str = "") -> Iterator[tuple[str, int]]:
    """Yield the name scopes around each equation and its FLOPs.

    Args:
        jaxpr: The equations.
        times: The number of times that they run. Default: 1.
        scope: The name scopes around all of them. Default: "".
    """
    from jax.extend.core import jaxprs_in_params  # here: its import is slow

    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        place = f"{scope}/{equation.source_info.name_stack}"
        own = _own(name, params, [v.aval for v in equation.invars], equation.outvars)
        if own is not None:
            yield place, times * own
        elif name == "cond":
            branches = [list(costs(branch, times, place)) for branch in jaxprs_in_params(params)]
            yield from max(branches, key=lambda branch: sum(cost for _, cost in branch))
        else:
            held = {"jaxpr": params["jaxprs"].solve} if name == "custom_linear_solve" else params
            for body in jaxprs_in_params(held):
                yield from costs(body, times * _runs(name, params), place)


def _runs(name: str, params: Any) -> int:
    """Return how often an equation runs the jaxprs that it holds."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    return 1


def _own(name: str, params: Any, inputs: list[Any], outputs: list[Any]) -> int | None:
    """Return the FLOPs of an equation without those of its jaxprs; None if it has only these."""
    if name == "dot_general":
        return _product(inputs[0], inputs[1], params["dimension_numbers"])
    if name == "ragged_dot_general":
        numbers = params["ragged_dot_dimension_numbers"]
        groups = numbers.rhs_group_dimensions
        return _product(inputs[0], inputs[1], numbers.dot_dimension_numbers, groups)
    if name == "select_and_scatter_add":
        return inputs[0].size * math.prod(params["window_dimensions"])
    if not outputs:
        return None
    out = outputs[0].aval
    if name == "conv_general_dilated":
        return _convolution(inputs[0], inputs[1], out, params)
    if name == "convolution":  # on a CPU, with its gradients
        arrays = dict(
            zip(params["by"] + "xwy".replace(params["by"], ""), [out, *inputs], strict=True)
        )
        x, w, y = (arrays[each] for each in "xwy")
        places = params["places"]
        if max(places.holes) > 1:  # each element of x meets each of the window
            return 2 * x.size * w.size // (w.shape[-2] * places.groups)
        return 2 * y.size * w.size // w.shape[-1]
    if name == "fft":
        real = [a for a in (inputs[0], out) if not jnp.issubdtype(a.dtype, jnp.complexfloating)]
        points = (real or [out])[0].size * math.log2(math.prod(params["fft_lengths"]))
        return round(5 * points / (2 if real else 1))
    if name in ELEMENTWISE:
        size = out.size
    elif name in REDUCTIONS:
        size = inputs[0].size
    elif name in WINDOWS:
        size = out.size * math.prod(params["window_dimensions"])
    elif name in SCATTERS:
        size = inputs[2].size
    else:
        return None
    return size if jnp.issubdtype(out.dtype, jnp.inexact) else 0


def _convolution(lhs: Any, rhs: Any, out: Any, params: Any) -> int:
    """2 for each image, output feature, input feature of its group, and pair along each axis.

    A pair is a place of the output and one of the window. If the input has holes, most of these
    meet nothing, and a pair is a place of the input and one of the window, or of the output if that
    is shorter: in the gradient of a transposed convolution by its kernel, the long output is the
    window.
    """
    numbers = params["dimension_numbers"]
    images, features, *output = (out.shape[axis] for axis in numbers.out_spec)
    _, terms, *window = (rhs.shape[axis] for axis in numbers.rhs_spec)
    lengths = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]], window, output
    pairs = 1
    for holes, given, size, made in zip(params["lhs_dilation"], *lengths, strict=True):
        pairs *= given * min(size, made) if holes > 1 else made * size
    return 2 * images * features * terms * pairs


def _product(lhs: Any, rhs: Any, numbers: Any, groups: tuple[int, ...] = ()) -> int:
    """2mnk and its batch: each element of `lhs` meets each column of `rhs` once."""
    (_, contracted), (_, batch) = numbers
    summed = {*contracted, *batch, *groups}
    columns = math.prod(n for axis, n in enumerate(rhs.shape) if axis not in summed)
    return 2 * lhs.size * columns


_SCOPE = "jaxnn_row_{}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a summary: the layer at a path, with totals of everything at and below the path.

    Args:
        layer: A short text of the layer.
        output: Shapes and types of the output of its first call; None if it is never called.
        parameters: Number of elements of its parameters. Default: 0.
        parameter_bytes: Size of its parameters in bytes. Default: 0.
        state: Number of elements of its state. Default: 0.
        state_bytes: Size of its state in bytes. Default: 0.
        flops: Floating-point operations of all its calls. Default: 0.
        shapes: Shapes and types of the parameters that the layer itself owns, by name. Default: {}.
    """

    layer: str
    output: Any
    parameters: int = 0
    parameter_bytes: int = 0
    state: int = 0
    state_bytes: int = 0
    flops: int = 0
    shapes: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, repr=False)
class Summary(notebook.Table):
    """Rows of layers by path. `str` returns a text table; notebooks show a folded tree.

    Args:
        rows: Rows by path, in the order of the network.
        total: The row of the network itself.
        inputs: Shapes and types of the inputs, as text.
    """

    rows: dict[str, Row]
    total: Row
    inputs: str

    def _table(self) -> tuple[list[notebook.Line], list[notebook.Line]]:
        """Return the lines, from the head to the total, and those below the table."""
        rows = [*self.rows.items(), ("total", self.total)]
        lines = [
            ("Path", "Layer", "Output", "Parameters", "Bytes", "State", "FLOPs"),
            *((path, *_cells(row)) for path, row in rows),
        ]
        if not self.total.state:
            lines = [(*line[:5], line[6]) for line in lines]
        size, state_size = self.total.parameter_bytes, self.total.state_bytes
        return lines, [
            ("parameters", f"{self.total.parameters:,} ({notebook.binary(size).strip()})"),
            ("state", f"{self.total.state:,} ({notebook.binary(state_size).strip()})"),
            ("FLOPs", f"{self.total.flops:,} in one forward pass of {self.inputs}"),
        ]

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{html.escape(f'{a}: {b}')}</div>" for a, b in self._table()[1])
        return notebook.page(self._node("", self.total)) + notes

    def _node(self, path: str, row: Row) -> notebook.TreeNode:
        """Return the tree at a path: the layer, its own parameters, and the layers below it."""
        below = path and f"{path}/"
        rows = {
            one: item
            for one, item in self.rows.items()
            if one.startswith(below) and "/" not in one[len(below) :]
        }
        facts = [
            "" if row.output is None else notebook.shape(describe(row.output)),
            count(row.parameters, "parameter"),
            f"{row.state:,} of state" if row.state else "",
            f"{notebook.decimal(row.flops).strip()} FLOPs" if row.flops else "",
        ]
        own = (
            notebook.TreeNode(name, notebook.shape(describe(leaf)))
            for name, leaf in row.shapes.items()
        )
        return notebook.TreeNode(
            path.rpartition("/")[2], row.layer, " · ".join(filter(None, facts)),
            (*own, *(self._node(*one) for one in rows.items())),
        )  # fmt: skip


@entry
def summary(net: Layer, *inputs: Any, depth: int | None = None, **named: Any) -> Summary:
    """Return a row for every layer of `net`: output, parameters, state, and FLOPs.

    Nothing is computed or allocated, so the network may be larger than the memory. Each row
    includes everything at and below its path. Wrappers do not add rows: the n copies of a `Repeat`
    or an `Ensemble` share the rows of one copy, which count all n copies and show the output of
    one. If a layer is called twice, its parameters are counted once, and its FLOPs twice. FLOPs are
    counted by `jaxnn.inspect.flops` for a forward pass with `train=False`.

    Args:
        net: The network.
        *inputs: Inputs of the network, arrays or `jax.ShapeDtypeStruct`.
        depth: Maximum number of segments of the paths in the table; 0 shows only the total.
            Default: None, no limit.
        **named: Named inputs of the network, as `*inputs`.

    Raises:
        TypeError: `net` is not a layer.
        ValueError: The inputs do not fit a layer; the message contains its path.

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
    a_layer(net, "summary.net", "write nn.summary(net, x)")
    (None | natural)(depth, "summary.depth", "it is a number of path segments")
    shown = dict(places(net))
    outputs, amounts = _traced(net, list(shown), inputs, named)
    shapes: dict[paths.Path, dict[str, Any]] = {path: {} for path in shown}
    for path, leaf in paths.walk(net.spec(*inputs, **named)):
        if path[:-1] in shapes:
            shapes[path[:-1]][path[-1]] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    counts = {path: dict.fromkeys(_COUNTS, 0) for path in shown}
    for path, name, amount in amounts:
        for end in range(len(path) + 1):
            if path[:end] in counts:
                counts[path[:end]][name] += amount
    rows = {
        paths.text(path): Row(layer, outputs.get(path), **counts[path], shapes=shapes[path])
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
    """Return the outputs by path, and the amounts to count: (path, name of the count, amount)."""
    state = jax.eval_shape(lambda: net.init_state(*inputs, key=placeholder_key(), **named))
    params, state = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (net.spec(*inputs, **named), state)
    )
    outputs: dict[int, Any] = {}
    numbers = {path: number for number, path in enumerate(rows)}
    observed = _watched(net, numbers, outputs.setdefault)
    arrays, join = split_arrays(abstract((inputs, named)))

    def forward(params: Any, state: Any, arrays: Any) -> Any:
        inputs, named = join(arrays)
        key = jax.random.key(0)  # for a forward that draws in inference, such as an objective
        output, state = observed.apply(params, *inputs, state=state, key=key, **named)
        return split_arrays(output)[0], state

    jaxpr = jax.make_jaxpr(forward)(params, state, arrays).jaxpr
    amounts = [*_sizes(params, "parameters", "parameter_bytes")]
    amounts += _sizes(state, "state", "state_bytes")
    amounts += [(rows[_number_of(scope) or 0], "flops", cost) for scope, cost in costs(jaxpr)]
    return {rows[number]: output for number, output in outputs.items()}, amounts


def _sizes(tree: Any, elements: str, size: str) -> Iterator[tuple[paths.Path, str, int]]:
    for path, leaf in paths.walk(tree):
        yield path, elements, leaf.size
        yield path, size, leaf.size * leaf.dtype.itemsize


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.layer,
        "-" if row.output is None else notebook.shape(describe(row.output)),
        f"{row.parameters:,}",
        notebook.binary(row.parameter_bytes),
        f"{row.state:,}",
        notebook.decimal(row.flops),
    )


def _number_of(scope: str) -> int | None:
    """Return the number of the innermost intercepted layer in a name scope."""
    numbers = re.findall(_SCOPE.format(r"(\d+)"), scope)
    return int(numbers[-1]) if numbers else None


def _watched(
    net: Layer, numbers: dict[paths.Path, int], report: Callable[[int, Any], Any]
) -> Layer:
    """Return `net` with every layer intercepted, for one trace.

    The equations of a layer are in a scope with the number of its path; a number, since a forward
    may open scopes of any name. `report(number, output)` is called each time a layer is traced.
    """

    def watch(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
        if call.inner:
            return next(call)
        with jax.named_scope(_SCOPE.format(numbers[path])):
            outcome = next(call)
        report(numbers[path], abstract(outcome.output))
        return outcome

    return intercept(net, watch)


def places(net: Layer) -> Iterator[tuple[paths.Path, str]]:
    """Yield every path that has layers, with a short text of the layer; parents come first.

    Args:
        net: The network.
    """
    found: dict[paths.Path, str] = {}
    for path, layer in layers(net):
        for n in range(1, len(path)):  # a tuple or a dict of layers
            found.setdefault(path[:n], "")
        found.setdefault(path, short(layer))
    for path, shown in found.items():
        below = {one[: len(path) + 1] for one in found if one[: len(path)] == path != one}
        yield path, shown or f"{len(below)} layers"
