"""LinearRecurrence: a state-space layer with a diagonal linear recurrence."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.calls import State
from ..core.declarations import Param, Variable
from ..core.layer import Primitive
from ..fields import is_traced
from ..functional.linear import along_axis, floating_type, linear, wider_type
from ..functional.recurrence import decay, linear_recurrence, marks, select
from ..functional.segments import check_segments
from ..initializers import Initializer, Shape, normal
from ..validation import above, fraction
from .checks import cache_length, check_direction, check_not_training, check_sequence, positive_size


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
        low, high = self.min_radius, self.max_radius
        if not is_traced(low) and not is_traced(high) and low >= high:
            raise ValueError(
                f"LinearRecurrence.min_radius must be below max_radius={high!r}, got {low!r}"
            )

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
        found = None
        if segment_ids is not None:
            check_segments(segment_ids, x.shape[:-1])
            found, last = marks(segment_ids, last, reverse=self.reverse)
            x = select(found.real, x, jnp.zeros_like(x))
        wide = x.astype(_real_type(x))
        a, b = self._terms(params, wide, found)
        hs = linear_recurrence(a, b, h, reverse=self.reverse, resets=found is not None)
        kept = {"re": hs[-1].real, "im": hs[-1].imag, "segment": last} if self.cache else {}
        y = self._outputs(params, jnp.moveaxis(hs, 0, -2), wide)
        if found is not None:
            y = select(found.real, y, jnp.zeros_like(y))
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
        return select(real, select(begins, jnp.zeros_like(a), a), jnp.ones_like(a)), b

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


def _real_type(x: Any) -> Any:
    return wider_type(floating_type(x), jnp.float32)
