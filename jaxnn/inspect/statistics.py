"""statistics: a table that describes the arrays of a pytree, or the outputs of all layers."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..combine.transforms import capture
from ..core import paths
from ..core.declarations import split_arrays
from ..core.layer import Layer
from ..explain import notebook
from ..explain.text import describe
from ..functional.linear import wider_type
from ..tree import a_layer
from .summary import places
from .value_checks import check_concrete


class Moments(NamedTuple):
    """Statistics of the elements of arrays. NaN and infinite elements are only counted.

    If no element is finite, the mean, standard deviation, minimum, and maximum are NaN.

    Args:
        mean: Mean of the finite elements.
        std: Standard deviation of the finite elements.
        min: Minimum of the finite elements.
        max: Maximum of the finite elements.
        norm: Euclidean norm of the finite elements.
        zeros: Fraction of all elements that are 0.
        nonfinite: Number of NaN and infinite elements.
    """

    mean: float
    std: float
    min: float
    max: float
    norm: float
    zeros: float
    nonfinite: int


@dataclasses.dataclass(frozen=True, repr=False)
class Statistics(notebook.Table):
    """Statistics of arrays by path. `str` returns a text table; notebooks show an HTML table.

    Args:
        rows: The `Moments` of each array by path.
        arrays: The shape and type of each array by path, as `jax.ShapeDtypeStruct`.
        total: The `Moments` of all elements together.
    """

    rows: dict[str, Moments]
    arrays: dict[str, Any]
    total: Moments

    def _table(self) -> tuple[list[notebook.Line], list[notebook.Line]]:
        lines: list[notebook.Line] = [
            ("Path", "Shape", "Type", "Mean", "Std", "Min", "Max", "Norm", "Zeros", "Non-finite")
        ]
        for path, row in self.rows.items():
            kind, _, shape = notebook.shape(describe(self.arrays[path])).partition("[")
            lines.append((path, f"[{shape}", kind, *_cells(row)))
        size = sum(array.size for array in self.arrays.values())
        return [*lines, ("total", "", "", *_cells(self.total))], [
            ("numbers", f"{size:,}, of which {self.total.nonfinite:,} not finite")
        ]


def _cells(row: Moments) -> tuple[str, ...]:
    numbers = [f"{number:.4g}" for number in row[:5]]
    return (*numbers, f"{row.zeros:.1%}", f"{row.nonfinite:,}")


def statistics(
    tree: Any,
    params: Any = None,
    *inputs: Any,
    state: Any = None,
    key: jax.Array | None = None,
    train: bool = False,
    **named: Any,
) -> Statistics:
    """Return the `Moments` of each floating array, by path.

    - `statistics(tree)` describes the arrays of any pytree: parameters, gradients, or an
      optimizer's state.
    - `statistics(net, params, *inputs, ...)` takes the arguments of `net.apply` and describes the
      outputs of all layers in this call, in the order of the network, and the network's `"output"`.
      Paths are those of `nn.capture`. The copies of a `Repeat` are counted together;
      `nn.unstack_layers` separates them.

    One compiled program computes all values, in at least float32.

    Args:
        tree: A pytree, or a layer.
        params: The layer's parameters. Default: None.
        *inputs: The layer's inputs.
        state: The layer's state. Default: None.
        key: A JAX key for the layer. Default: None.
        train: Whether the layer runs in training. Default: False.
        **named: The layer's named inputs.

    Raises:
        TypeError: An argument is traced, or `tree` is not a layer and further arguments are given.
        ValueError: `tree` or the outputs contain no floating array.

    >>> import jax.numpy as jnp
    >>> found = statistics({"w": jnp.array([[0.0, 3.0], [jnp.inf, -3.0]])})
    >>> found.rows["w"].zeros, found.rows["w"].nonfinite
    (0.25, 1)
    >>> print(found)
    Path   Shape  Type  Mean    Std  Min  Max   Norm  Zeros  Non-finite
    ───────────────────────────────────────────────────────────────────
    w      [2,2]  f32      0  2.449   -3    3  4.243  25.0%           1
    ───────────────────────────────────────────────────────────────────
    total                  0  2.449   -3    3  4.243  25.0%           1
    ───────────────────────────────────────────────────────────────────
    numbers  4, of which 1 not finite
    """
    check_concrete("statistics", (tree, params, inputs, state, key, named))
    if not isinstance(tree, Layer):
        if params is not None or inputs or named:
            a_layer(tree, "statistics.tree", "write inspect.statistics(net, params, x)")
        flat = _flat(tree)
        return _statistics(flat, jax.jit(_sums)(flat))
    net = capture(tree)
    arrays, join = split_arrays((params, inputs, state, named))
    shapes: dict[str, Any] = {}

    def run(arrays: Any, key: Any) -> Any:
        params, inputs, state, named = join(arrays)
        found = net.apply(params, *inputs, state=state, key=key, train=train, **named)
        output, values = found if state is None else found[0]
        flat = _flat({**values, "output": output})
        shapes.update({p: jax.ShapeDtypeStruct(a.shape, a.dtype) for p, a in flat.items()})
        return _sums(flat)

    sums = jax.jit(run)(arrays, key)
    order = {paths.text(path): rank for rank, (path, _) in enumerate(places(tree))}

    def rank(path: str) -> int:
        layer = re.sub(r"(\.\w+)?(@\d+)?(?=/|$)", "", path)
        return order.get(layer, len(order))

    return _statistics({path: shapes[path] for path in sorted(shapes, key=rank)}, sums)


def _flat(tree: Any) -> dict[str, Any]:
    """Return the floating arrays of any pytree, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in leaves}
    return {
        path: jnp.asarray(leaf)
        for path, leaf in flat.items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    }


class _Sums(NamedTuple):
    """Sums over one array: the count of finite numbers, their mean, least, and greatest; the sums
    of the squares of x and of x - mean, both divided by the square of `scale`; and the zeros."""

    finite: Any
    mean: Any
    least: Any
    greatest: Any
    scale: Any
    squares: Any
    deviations: Any
    zeros: Any


def _sums(arrays: dict[str, Any]) -> dict[str, _Sums]:
    return {path: _sums_of(array) for path, array in arrays.items()}


def _sums_of(array: jax.Array) -> _Sums:
    x = array.astype(wider_type(array.dtype, jnp.float32))
    real = jnp.isfinite(x)
    finite = real.sum()
    count = jnp.maximum(finite, 1).astype(x.dtype)
    # Divided by the greatest, no square is too large or too small.
    scale = jnp.max(jnp.abs(x), initial=0, where=real)
    scale = jnp.where(scale == 0, 1, scale)
    x = jnp.where(real, x / scale, 0)
    mean = x.sum() / count
    return _Sums(
        finite,
        mean * scale,
        jnp.min(array, initial=jnp.inf, where=real),
        jnp.max(array, initial=-jnp.inf, where=real),
        scale,
        jnp.square(x).sum(),
        jnp.sum(jnp.square(x - mean), where=real),
        (array == 0).sum(),
    )


def _statistics(arrays: dict[str, Any], sums: dict[str, _Sums]) -> Statistics:
    if not arrays:
        raise ValueError(
            "statistics.tree has no floating array; write inspect.statistics(params), or "
            "inspect.statistics(net, params, x)"
        )
    shapes = {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in arrays.items()}
    found = {
        path: jax.tree.map(lambda n: np.asarray(n, np.float64), jax.device_get(sums[path]))
        for path in shapes
    }
    rows = {path: _moments([found[path]], array.size) for path, array in shapes.items()}
    size = sum(array.size for array in shapes.values())
    return Statistics(rows, shapes, _moments([*found.values()], size))


def _moments(sums: list[_Sums], size: int) -> Moments:
    """Return the moments of all numbers of some arrays together."""
    finite = sum(s.finite for s in sums)
    norm = np.sqrt(sum(s.squares * s.scale**2 for s in sums))
    zeros = sum(s.zeros for s in sums) / size if size else np.nan
    if not finite:
        return Moments(np.nan, np.nan, np.nan, np.nan, 0.0, float(zeros), size)
    mean = sum(s.mean * s.finite for s in sums) / finite
    deviations = sum(s.deviations * s.scale**2 + s.finite * (s.mean - mean) ** 2 for s in sums)
    return Moments(
        mean=float(mean),
        std=float(np.sqrt(deviations / finite)),
        min=float(min(s.least for s in sums)),
        max=float(max(s.greatest for s in sums)),
        norm=float(norm),
        zeros=float(zeros),
        nonfinite=int(size - finite),
    )
