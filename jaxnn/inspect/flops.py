"""FLOPs: the floating-point operations of a function, counted from its jaxpr.

`flops` is the sum of `costs`, which walks the equations with the number of times each one runs and
with the name scopes around it, so that a summary can show to which layer they belong.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

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
        times: How often they run. Default: 1.
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
