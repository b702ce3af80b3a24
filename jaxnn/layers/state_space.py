"""State-space layers: LinearRecurrence, and Mamba2, whose decays depend on the sequence."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..arrays import without_padding
from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..functional.gradients import shared_product, shared_sum, silu, silu_product
from ..functional.linear import along_axis, floating_type, linear, wider_type
from ..functional.normalization import rms_norm
from ..functional.recurrence import decay, linear_recurrence, marks, select_rows
from ..functional.segments import check_segments
from ..initializers import (
    InitFn,
    Initializer,
    Shape,
    glorot_uniform,
    lecun_normal,
    normal,
    ones,
    zeros,
)
from ..validation import above, check_below, fraction, number
from . import (
    cache_length,
    check_direction,
    check_divides,
    check_not_training,
    check_sequence,
    positive_size,
)
from .convolution import DepthwiseConv


class LinearRecurrence(Primitive):
    """Linear recurrent unit, a diagonal state-space layer.

        h_t = a * h_{t-1} + s * (x_t @ w_in)
        y_t = Re(h_t @ w_out) + d * x_t

    All steps are computed at once, by an associative scan. x and y have shape (..., T, n), and y
    has the type of x. The state h is complex, of shape (..., states), and computed in at least
    float32. `a = exp(-exp(log_rate) + i exp(log_phase))` has a modulus below 1 for all parameters,
    so the layer is stable for any length. `s = sqrt(1 - |a|^2)` keeps the state at the scale of the
    input; in the paper, s is learned separately.

    Parameters are real: log_rate and log_phase (states,), input re and im (n, states), output re
    and im (states, n), and skip (n,), which is d. `segment_ids` are as for `Recurrent`.

    The layer is linear. Add a nonlinearity after it, for example
    Residual(Sequential(LayerNorm(), LinearRecurrence(64), jax.nn.gelu, Dense(n))).

    Args:
        states: Number of complex states.
        min_radius: Smallest initial |a|. |a| is drawn uniformly by area from the ring between
            `min_radius` and `max_radius`. Default: 0.
        max_radius: Largest initial |a|; values near 1 give long memories. Default: 1.
        max_phase: Largest initial angle of a in radians, drawn uniformly from [0, max_phase].
            Default: 2 * pi.
        reverse: Whether to process the sequence from its end. Default: False.
        cache: If positive, keep the state between calls; set by `nn.with_cache`. Default: 0.

    Raises:
        ValueError: If the sequence has length 0, or unless
            0 <= min_radius < max_radius <= 1.

    Reference: Orvieto et al., Resurrecting recurrent neural networks for long sequences, 2023.

    >>> import jax, jax.numpy as jnp
    >>> net, x = LinearRecurrence(16), jnp.ones((2, 5, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params["input"])
    {'im': (3, 16), 're': (3, 16)}
    >>> jax.jit(net.apply)(params, x).shape
    (2, 5, 3)
    """

    states: Annotated[int, positive_size]
    min_radius: Annotated[float, fraction] = 0.0
    max_radius: Annotated[float, fraction] = 1.0
    max_phase: Annotated[float, above(0)] = 2 * math.pi
    reverse: bool = False
    cache: Annotated[int, cache_length] = 0

    def __post_init__(self) -> None:
        """Check the radii, and that a cached layer is not reversed."""
        check_direction(self)
        check_below(self, "min_radius", "max_radius")

    def parameters(self, x: Any) -> dict[str, Any]:
        """Declare the decay, input, output, and skip parameters."""
        check_sequence(x)
        n, m = x.shape[-1], self.states
        into, out = normal(math.sqrt(0.5 / n)), normal(math.sqrt(1 / m))
        return {
            "log_rate": Param((m,), log_rates(self.min_radius, self.max_radius)),
            "log_phase": Param((m,), log_phases(self.max_phase)),
            "input": {"re": Param((n, m), into), "im": Param((n, m), into)},
            "output": {"re": Param((m, n), out), "im": Param((m, n), out)},
            "skip": Param((n,), normal(1.0)),
        }

    def variables(self, x: Any) -> dict[str, Any]:
        """Declare the state h as two real arrays, and the last segment, if a cache is kept."""
        if not self.cache:
            return {}
        h = Variable((*x.shape[:-2], self.states), dtype=_real_type(x))
        return {"re": h, "im": h, "segment": Variable(x.shape[:-2], dtype="int32")}

    def forward(
        self, params: Any, x: jax.Array, segment_ids: Any = None, *, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """Return the outputs of all steps, and the state after them."""
        h, last = None, jnp.zeros(x.shape[:-2], jnp.int32)
        if self.cache:
            check_not_training(self, train)
            h, last = jax.lax.complex(state["re"], state["im"]), state["segment"]
        x, found, last = _marked(x, segment_ids, last, self.reverse)
        wide = x.astype(_real_type(x))
        a, b = self._terms(params, wide, found)
        hs = linear_recurrence(a, b, h, reverse=self.reverse, resets=found is not None)
        kept = {"re": hs[-1].real, "im": hs[-1].imag, "segment": last} if self.cache else {}
        y = self._outputs(params, jnp.moveaxis(hs, 0, -2), wide)
        if found is not None:
            y = select_rows(found.real, y, jnp.zeros_like(y))
        return y.astype(floating_type(x)), kept

    def _terms(self, params: Any, x: jax.Array, found: Any) -> tuple[jax.Array, jax.Array]:
        """Return a and b of h' = a * h + b, with time as the first axis."""
        log_rate, log_phase = (params[k].astype(x.dtype) for k in ("log_rate", "log_phase"))
        a, scale = decay(log_rate, log_phase)
        b = jax.lax.complex(*(linear(x, params["input"][k]) for k in ("re", "im")))
        b = jnp.moveaxis(b * along_axis(scale.astype(b.dtype), b.ndim, -1), -2, 0)
        a = along_axis(a, b.ndim, -1)
        if found is None:
            return jnp.broadcast_to(a, (b.shape[0], *a.shape[1:])), b
        # a = 0 resets the state at the start of a sequence; a = 1 keeps it at padding.
        real, begins = (jnp.moveaxis(mark, -1, 0) for mark in found)
        a = jnp.broadcast_to(a, b.shape)
        return select_rows(real, select_rows(begins, jnp.zeros_like(a), a), jnp.ones_like(a)), b

    def _outputs(self, params: Any, hs: jax.Array, x: jax.Array) -> jax.Array:
        """Return Re(h @ w_out) + d * x."""
        out, skip = params["output"], params["skip"].astype(x.dtype)
        y = linear(hs.real, out["re"]) - linear(hs.imag, out["im"])
        return y + x * along_axis(skip, x.ndim, -1)


class log_rates(Initializer):
    """Draw log(-log r), with r uniform by area in the ring between radii `low` and `high`."""

    low: float
    high: float

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of `shape` and `dtype` drawn from `key`."""
        low, high = (jnp.asarray(r, dtype) ** 2 for r in (self.low, self.high))
        # Clip to positive numbers below 1, since the logarithms are infinite at 0 and 1.
        info = jnp.finfo(dtype)
        square = jax.random.uniform(key, shape, dtype) * (high - low) + low
        square = jnp.clip(square, info.tiny, 1 - info.epsneg)
        return jnp.log(-jnp.log(square) / 2)


class log_phases(Initializer):
    """Draw the logarithm of an angle uniform in (0, high)."""

    high: float

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of `shape` and `dtype` drawn from `key`."""
        drawn = jax.random.uniform(key, shape, dtype, jnp.finfo(dtype).tiny, 1.0)
        return jnp.log(drawn * jnp.asarray(self.high, dtype))


class Mamba2(Primitive):
    """Mamba-2: a selective state-space layer, the mixer of a Mamba-2 block.

        z, u, dt = split(x @ w_in)
        v, B, C = split(silu(causal_depthwise_convolution(u)))
        dt = softplus(dt + time_bias),   a = exp(-exp(log_rate) * dt)
        h_t = a_t * h_{t-1} + dt_t * outer(v_t, B_t)
        y_t = h_t @ C_t + skip * v_t
        y = rms_norm(y * silu(z)) * scale @ w_out

    Each of `num_heads` heads has a state h (head_dim, state_size) and one number each for dt, a,
    time_bias, log_rate, and skip. B and C (state_size,) are shared by the heads of a group. x and y
    have shape (..., T, n), and y has the type of x. States and sums over time are computed in at
    least float32, in chunks: by matrix products within a chunk, and by a scan from chunk to chunk.
    The named input `segment_ids` is that of `Recurrent`.

    With m = num_heads * head_dim and k = m + 2 * groups * state_size, parameters are input w
    (n, m + k + num_heads), for z, u, and dt in this order; conv w (kernel_size, 1, k) and b (k,),
    for v, B, and C; log_rate, time_bias, and skip (num_heads,); norm scale (m,); and output w
    (m, n). The norm is taken over the features of each group. A block of the network is
    `Residual(Sequential(RMSNorm(), Mamba2(24)))`.

    Args:
        num_heads: Number of heads; 2 * n / head_dim in published networks.
        head_dim: Features of each head. Default: 64.
        state_size: Size of the state of each feature. Default: 128.
        groups: Number of groups of heads that share B and C; must divide `num_heads`. Default: 1.
        kernel_size: Number of steps of the convolution. Default: 4.
        chunk_size: Number of steps that are computed at once; changes speed only. Default: 64.
        eps: Added to the mean square of the norm. Default: 1e-5.
        bias: Whether the projections input and output have biases b. Default: False.
        cache: If positive, keep the states between calls; set by `nn.with_cache`. Default: 0.
        w_init: Initializer of the weights of input and output. Default: `glorot_uniform()`.

    Raises:
        ValueError: If `groups` does not divide `num_heads`, or if the sequence has length 0.

    Reference: Dao and Gu, Transformers are SSMs, 2024.

    >>> import jax, jax.numpy as jnp
    >>> net, x = Mamba2(4, head_dim=8, state_size=6), jnp.ones((2, 5, 16))
    >>> params = net.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params["conv"]), params["input"]["w"].shape
    ({'b': (44,), 'w': (4, 1, 44)}, (16, 80))
    >>> jax.jit(net.apply)(params, x).shape
    (2, 5, 16)
    """

    num_heads: Annotated[int, positive_size]
    head_dim: Annotated[int, positive_size] = 64
    state_size: Annotated[int, positive_size] = 128
    groups: Annotated[int, positive_size] = 1
    kernel_size: Annotated[int, positive_size] = 4
    chunk_size: Annotated[int, positive_size] = 64
    eps: Annotated[float, number(0)] = 1e-5
    bias: bool = False
    cache: Annotated[int, cache_length] = 0
    w_init: InitFn = glorot_uniform()

    def __post_init__(self) -> None:
        """Check the groups."""
        check_divides(self, "groups", "num_heads")

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Numbers of features of z and v, of u, and of B and C each."""
        m, shared = self.num_heads * self.head_dim, self.groups * self.state_size
        return m, m + 2 * shared, shared

    @property
    def _conv(self) -> DepthwiseConv:
        return DepthwiseConv(
            self.kernel_size, padding="causal", cache=self.cache, w_init=lecun_normal()
        )

    def _convolved(self, x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*x.shape[:-1], self._sizes[1]), floating_type(x))

    def parameters(self, x: Any) -> dict[str, Any]:
        """Declare the projections, the convolution, the decays, and the norm."""
        check_sequence(x)
        n, (m, k, _), heads = x.shape[-1], self._sizes, (self.num_heads,)
        return {
            "input": self._projection(n, m + k + self.num_heads),
            "conv": self._conv.parameters(self._convolved(x)),
            "log_rate": Param(heads, log_uniform(1.0, 16.0)),
            "time_bias": Param(heads, inverse_softplus(1e-3, 0.1)),
            "skip": Param(heads, ones()),
            "norm": {"scale": Param((m,), ones())},
            "output": self._projection(m, n),
        }

    def variables(self, x: Any) -> dict[str, Any]:
        """Declare the last inputs of the convolution and the states, if a cache is kept."""
        if not self.cache:
            return {}
        batch, wide = x.shape[:-2], _real_type(x)
        return {
            "conv": self._conv.variables(self._convolved(x)),
            "h": Variable((*batch, self.num_heads, self.head_dim, self.state_size), dtype=wide),
            "segment": Variable(batch, dtype="int32"),
        }

    def forward(
        self, params: Any, x: jax.Array, segment_ids: Any = None, *, state: State, train: bool
    ) -> tuple[jax.Array, State]:
        """Return the outputs of all steps, and the states after them."""
        h, last = None, jnp.zeros(x.shape[:-2], jnp.int32)
        if self.cache:
            check_not_training(self, train)
            h, last = state["h"], state["segment"]
        x, found, last = _marked(x, segment_ids, last)
        m, k, shared = self._sizes
        z, u, dt = jnp.split(linear(x, **params["input"]), [m, m + k], -1)
        kept = state["conv"] if self.cache else {}
        u, kept = self._conv.forward(
            params["conv"], u, segment_ids=segment_ids, state=kept, train=train
        )
        v, b, c = jnp.split(silu(u), [m, m + shared], -1)
        y, h = self._states(params, v, b, c, dt, h, found)
        gated = silu_product(y, z.astype(y.dtype))
        split = gated.reshape(*gated.shape[:-1], self.groups, m // self.groups)
        normed = rms_norm(split, eps=self.eps).reshape(gated.shape).astype(z.dtype)
        y = linear(shared_product(normed, params["norm"]["scale"]), **params["output"])
        if found is not None:
            y = select_rows(found.real, y, jnp.zeros_like(y))
        return y, {"conv": kept, "h": h, "segment": last} if self.cache else {}

    def _states(
        self,
        params: Any,
        v: jax.Array,
        b: jax.Array,
        c: jax.Array,
        dt: jax.Array,
        h: jax.Array | None,
        found: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """Return y (..., T, m) before the gate, and the last state."""
        wide = wider_type(v.dtype, jnp.float32)
        *batch, length, _ = v.shape
        rate, bias, skip = (params[k].astype(wide) for k in ("log_rate", "time_bias", "skip"))
        rows, heads, shared = math.prod(batch), self.num_heads, (self.groups, self.state_size)
        v, b, c = (
            a.astype(wide).reshape(rows, length, *sizes)
            for a, sizes in ((v, (heads, self.head_dim)), (b, shared), (c, shared))
        )
        dt = jax.nn.softplus(shared_sum(dt.astype(wide), bias))
        sequence = None
        if found is not None:
            dt = select_rows(found.real, dt, jnp.zeros_like(dt))
            begins = found.begins.reshape(rows, length)
            sequence = jnp.cumsum(begins.astype(jnp.int32), -1)
        dt = dt.reshape(rows, length, heads)
        log_decay = -shared_product(dt, jnp.exp(rate))
        h = None if h is None else h.reshape(rows, *h.shape[-3:])
        y, h = chunked_scan(log_decay, v * dt[..., None], b, c, h, sequence, self.chunk_size)
        y = y + shared_product(v, skip[:, None])
        return y.reshape(*batch, length, self._sizes[0]), h.reshape(*batch, *h.shape[-3:])

    def _projection(self, n: int, m: int) -> dict[str, Param]:
        w = {"w": Param((n, m), self.w_init)}
        return w | {"b": Param((m,), zeros())} if self.bias else w


UNROLLED = 8
"""Number of chunks whose states are joined in one iteration of a loop."""


def chunked_scan(
    log_decay: jax.Array,
    v: jax.Array,
    b: jax.Array,
    c: jax.Array,
    h: jax.Array | None,
    sequence: jax.Array | None,
    size: int,
) -> tuple[jax.Array, jax.Array]:
    """Compute `h_t = exp(log_decay_t) * h_{t-1} + outer(v_t, b_t)`, and `y_t = h_t @ c_t`.

    Args:
        log_decay: Logarithms <= 0 of the decays, (rows, T, heads).
        v: Inputs (rows, T, heads, p).
        b: Inputs (rows, T, groups, n); `groups` divides `heads`.
        c: Outputs (rows, T, groups, n).
        h: States before the first step, (rows, heads, p, n). None for zeros.
        sequence: Number of the sequence of each step, integers (rows, T) that do not decrease; a
            state is used within its sequence only, and `h` belongs to number 0. None for one
            sequence.
        size: Number of steps in a chunk.

    Returns:
        y (rows, T, heads, p), and the last states.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 3, 1, 1))
    >>> y, h = chunked_scan(jnp.log(0.5 * one[..., 0]), one, one, one, None, None, 2)
    >>> y.ravel().tolist(), h.ravel().tolist()
    ([1.0, 1.5, 1.75], [1.75])
    """
    rows, length, heads, p = v.shape
    groups, n = b.shape[-2:]
    size = min(size, length)
    missing = -length % size
    if sequence is None:
        sequence = jnp.zeros((rows, length), jnp.int32)

    def chunks(a: jax.Array, *last: int, mode: str = "constant") -> jax.Array:
        """Split (rows, T, ...) into (rows, chunks, size, ...), with steps that keep the state."""
        a = jnp.pad(a, [(0, 0), (0, missing)] + [(0, 0)] * (a.ndim - 2), mode)
        return a.reshape(rows, (length + missing) // size, size, *last)

    each = heads // groups
    # Steps come last in what decays, so that the matrices of a chunk are not transposed.
    total = jnp.cumsum(jnp.moveaxis(chunks(log_decay, groups, each), 2, -1), -1)
    v, b, c = chunks(v, groups, each, p), chunks(b, groups, n), chunks(c, groups, n)
    sequence = chunks(sequence, mode="edge")
    before = jnp.concatenate([jnp.zeros_like(sequence[:, :1, 0]), sequence[:, :-1, -1]], 1)
    # Within a chunk: step l receives from step s, by decays between them.
    steps = jnp.arange(size)
    earlier = (steps[:, None] >= steps[None])[None, None]
    sees = (sequence[..., :, None] == sequence[..., None, :]) & earlier
    decay = _decay(sees, total[..., :, None] - total[..., None, :])
    scores = jnp.einsum("rklgn,rksgn->rkgls", c, b)[:, :, :, None] * decay
    y = jnp.einsum("rkgels,rksgep->rklgep", scores, v)
    # From chunk to chunk: the state that each chunk adds, and the decay over it.
    to_end = _decay(sequence == sequence[..., -1:], total[..., -1:] - total)
    added = jnp.einsum("rksgep,rksgn->krgepn", v * jnp.moveaxis(to_end, -1, 2)[..., None], b)
    over = _decay(before == sequence[..., -1], total[..., -1])
    start = jnp.zeros(added.shape[1:], v.dtype) if h is None else h.reshape(added.shape[1:])

    def join(h: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        over, added = at
        stays = jnp.where(over == 0, jnp.zeros_like(h), h)  # 0 * NaN is NaN
        return over * stays + added, h

    by_chunk = jnp.moveaxis(over, 1, 0)[..., None, None], added
    last, entering = jax.lax.scan(join, start, by_chunk, unroll=min(UNROLLED, added.shape[0]))
    since = jnp.moveaxis(_decay(sequence == before[..., None], total), -1, 2)
    y = y + jnp.einsum("rklgn,krgepn->rklgep", c, entering) * since[..., None]
    y = y.reshape(rows, length + missing, heads, p)[:, :length]
    return y, last.reshape(rows, heads, p, n)


def _decay(mask: jax.Array, logarithm: jax.Array) -> jax.Array:
    """Return exp(logarithm) (rows, chunks, groups, each, ...), 0 unless the mask holds.

    The mask (rows, chunks, ...) is that of all heads.
    """
    minus = jnp.full_like(logarithm, -jnp.inf)
    return jnp.exp(jnp.where(mask[:, :, None, None], logarithm, minus))


class log_uniform(Initializer):
    """Draw the logarithm of a number that is uniform from `low` to `high`."""

    low: float
    high: float

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of `shape` and `dtype` drawn from `key`."""
        return jnp.log(jax.random.uniform(key, shape, dtype, self.low, self.high))


class inverse_softplus(Initializer):
    """Draw b so that softplus(b) is between `low` and `high`, uniform in its logarithm."""

    low: float
    high: float

    def __call__(self, key: Any, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Return an array of `shape` and `dtype` drawn from `key`."""
        ends = math.log(self.low), math.log(self.high)
        dt = jnp.exp(jax.random.uniform(key, shape, dtype, *ends))
        return dt + jnp.log(-jnp.expm1(-dt))


def _real_type(x: Any) -> Any:
    return wider_type(floating_type(x), jnp.float32)


def _marked(x: jax.Array, segment_ids: Any, last: jax.Array, reverse: bool = False) -> Any:
    """Return x with zeros at padding, its marks, if any, and the last segment."""
    if segment_ids is None:
        return x, None, last
    check_segments(segment_ids, x.shape[:-1])
    found, last = marks(segment_ids, last, reverse=reverse)
    return without_padding(x, segment_ids), found, last
