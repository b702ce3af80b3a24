"""Attention.

Letters of shapes: T queries, S keys, `heads` and `kv_heads`, d features of a query or key in one
head, e features of a value in one head.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..arrays import is_narrow, only_shapes
from ..fields import is_array
from ..validation import Accepts, one_of
from .gradients import broken_rows, finite_rows, select_number, softmax
from .linear import floating_type, wider_type
from .segments import check_segments, length_mask, packed_mask, packed_positions, sees_marked

implementations: Accepts = one_of(None, "own", "xla", "cudnn")


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: jax.Array | Callable[..., jax.Array] | None = None,
    bias: jax.Array | None = None,
    causal: bool = False,
    window: int | None = None,
    segment_ids: jax.Array | None = None,
    scale: Any = None,
    score_mod: Callable[..., jax.Array] | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Attention: `softmax(scale * q @ k.T + bias) @ v` for each head, over the visible keys.

    A key is visible to a query unless a mask, a bias of -inf, `causal`, `window`, or `segment_ids`
    hides it. Hidden keys and values have no effect on the output of the query, even if they are NaN
    or inf. With a mask, a bias, or segment_ids, they have no effect on gradients either. If some
    keys are hidden, a query that contains NaN or inf, or to which such a key or value is visible,
    gives NaN. A query without a visible key gives zeros, and zero gradients.

    The softmax is computed in at least float32. Query head h uses key head
    h // (heads / kv_heads).

    Args:
        q: Queries (..., T, heads, d).
        k: Keys (..., S, kv_heads, d); `kv_heads` must divide `heads`.
        v: Values (..., S, kv_heads, e).
        mask: Booleans, True if a key is visible to a query; (T, S), or with the rank of q and
            broadcasting to (..., heads, T, S). Or a function mask(query, key) that returns them
            from positions, integers with the rank of q that broadcast to it: those of the queries,
            (..., 1, T, 1), and of the keys, (..., 1, 1, S). Default: None.
        bias: Numbers to add to the scores, with a shape as `mask`; -inf hides a key. Default: None.
        causal: Whether to hide keys after the query's position. Default: False.
        window: Hide keys that are `window` or more positions away. Default: None.
        segment_ids: Integers (..., T) of packed sequences, for T = S; keys of other sequences and
            of padding (0) are hidden. See `functional.segments.packed_positions`. Default: None.
        scale: Factor of the scores. Default: 1 / sqrt(d).
        score_mod: Function score_mod(scores, query, key) that returns other scores from scaled
            scores (..., heads, T, S) and the positions that a mask function receives, before the
            bias; -inf hides a key. An example is `soft_cap(5.0)`. Default: None.
        dropout: Function of the weights (..., kv_heads, heads / kv_heads, T, S), such as
            `functools.partial(functional.dropout.dropout, key, rate=0.1)`. Default: None.
        implementation: "own" for the implementation in this module, or "xla" or "cudnn" of
            `jax.nn.dot_product_attention`, which support neither score_mod nor dropout. "cudnn" is
            the fused kernel of NVIDIA GPUs, which stores no scores; it requires bfloat16 or
            float16, and a number of features per head that is a multiple of 8 and at most 256 (128
            before the H100). None means "own" on a CPU, and elsewhere jax.nn's in plain XLA if
            there is no mask, bias, segment_ids, score_mod, or dropout, otherwise "own". Default:
            None.

    Returns:
        Array (..., T, heads, e) in the floating type of q.

    Raises:
        ValueError: If shapes do not match, if the implementation is unknown, if jax.nn's is
            requested with score_mod or dropout, or if "cudnn" does not support the heads or device.
        TypeError: If the mask is not boolean, if the bias is, or if "cudnn" does not support the
            type.

    References: Vaswani et al., Attention is all you need, 2017; Ainslie et al., GQA: training
    generalized multi-query transformer models, 2023; Dong et al., Flex attention, 2024 (functions
    as mask and score_mod).

    >>> import jax.numpy as jnp
    >>> v = jnp.arange(3.0).reshape(3, 1, 1)  # three positions, one head, one feature
    >>> attention(jnp.zeros((3, 1, 1)), jnp.zeros((3, 1, 1)), v, causal=True).ravel().tolist()
    [0.0, 0.5, 1.0]
    >>> attention(jnp.zeros((3, 1, 1)), v, v, mask=jnp.zeros((3, 3), bool)).ravel().tolist()
    [0.0, 0.0, 0.0]
    >>> attention(v, v, v, mask=lambda query, key: key == query).ravel().tolist()
    [0.0, 1.0, 2.0]
    """
    if callable(mask):
        mask = mask(*positions_of(q, k.shape[-3]))
    check_types(mask, bias)
    options = {
        "scale": scale,
        "score_mod": score_mod,
        "dropout": dropout,
        "implementation": implementation,
    }
    plain = mask is None and bias is None and segment_ids is None
    if plain and not causal and window is None:
        return attend(q, k, v, **options)
    _check(q, k, v)
    if plain:
        # Scores of hidden keys are not used, so only values must be finite.
        v, broken = finite_rows(v, 2)
        y = attend(q, k, v, causal=causal, window=window, **options)
        return broken_rows(y, sees_marked(broken, q.shape[-3], causal, window))
    # 0 * NaN is NaN in the products of the backward pass, too, so these receive finite rows only.
    (q, queries), (k, keys), (v, values) = (finite_rows(a, 2) for a in (q, k, v))
    mask = None if mask is None else _full_rank(mask, q, k, "mask")
    allowed: Any = _joined(mask, _position_mask(q, k, causal, window, segment_ids))
    if bias is not None:
        bias = _full_rank(bias, q, k, "bias")
        finite = bias != -jnp.inf
        bias = jnp.where(finite, bias, jnp.zeros((), bias.dtype))
        allowed = _joined(allowed, finite)
    if implementation in ("xla", "cudnn"):
        # Their gradient contains 0 * (dy @ v.T), which is NaN if large values make the product inf.
        seen = jnp.any(allowed, (-3, -2))
        v = jnp.where(seen[..., None, None], v, jnp.zeros((), v.dtype))
    broken = queries[..., :, None] | (keys | values)[..., None, :]
    broken = jnp.any(allowed & broken[..., None, :, :], -1, keepdims=True)
    y = attend(q, k, v, allowed, bias, **options)
    return broken_rows(y, jnp.swapaxes(broken, -2, -3))


def attend(
    q: jax.Array,
    k: jax.Array | tuple[jax.Array, ...],
    v: jax.Array | tuple[jax.Array, ...],
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: Any = None,
    score_mod: Callable[..., jax.Array] | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """`attention` for inputs whose hidden entries are finite, with a finite bias.

    It is faster, because it does not check for NaN and inf. Keys and values may be tuples of parts
    along S, such as a cache and what follows it, which are not joined.
    """
    dtype = floating_type(q)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    changed = score_mod is not None or dropout is not None
    q = q.astype(dtype)
    if isinstance(k, tuple) and isinstance(v, tuple):
        keys, values = (tuple(a.astype(dtype) for a in parts) for parts in (k, v))
        if implementation in (None, "own"):
            return _own(q, keys, values, mask, bias, scale, score_mod, dropout)
        k, v = (jnp.concatenate(parts, -3) for parts in (keys, values))
    k, v = jnp.asarray(k, dtype), jnp.asarray(v, dtype)
    _check(q, k, v)
    implementations(implementation, "implementation")
    if implementation in ("xla", "cudnn") and changed:
        raise ValueError(
            f"implementation {implementation!r} is jax.nn.dot_product_attention's, which has no "
            f"{'dropout' if score_mod is None else 'score_mod or soft cap'}: omit implementation"
        )
    mask = None if mask is None else _full_rank(mask, q, k, "mask")
    bias = None if bias is None else _full_rank(bias, q, k, "bias")
    plain = mask is None and bias is None and not changed
    # If the lengths differ, a window may hide all keys of a query.
    plain = plain and (window is None or q.shape[-3] == k.shape[-3])
    # jax.nn computes the softmax of float64 in float32, and has no float16 on the CPU.
    jax_nn = q.shape[-1] == v.shape[-1] and dtype in (jnp.float32, jnp.bfloat16)
    if plain and implementation is None and jax.default_backend() == "cpu":
        return _plain(q, k, v, length_mask(q.shape[-3], k.shape[-3], causal, window), scale)
    if plain and (implementation in ("xla", "cudnn") or (implementation is None and jax_nn)):
        local = None if window is None else (window - 1, 0 if causal else window - 1)
        return _jax_nn(q, k, v, scale, implementation, is_causal=causal, local_window_size=local)
    mask = _joined(mask, _position_mask(q, k, causal, window, None))
    if implementation in ("xla", "cudnn"):
        y = _jax_nn(q, k, v, scale, implementation, mask=mask, bias=bias)
        if mask is None:
            return y
        some = jnp.swapaxes(jnp.any(mask, -1, keepdims=True), -2, -3)  # (..., T, heads or 1, 1)
        return jnp.where(some, y, jnp.zeros((), y.dtype))
    return _own(q, (k,), (v,), mask, bias, scale, score_mod, dropout)


def soft_cap(cap: Any) -> Callable[..., jax.Array]:
    """Return the score_mod `cap * tanh(scores / cap)`, which keeps scores below `cap`.

    Args:
        cap: A number > 0.

    Reference: Gemma team, Gemma 2, 2024.

    >>> import jax.numpy as jnp
    >>> soft_cap(2.0)(jnp.array([0.0, 100.0]), None, None).tolist()
    [0.0, 2.0]
    """

    def capped(scores: jax.Array, query: Any, key: Any) -> jax.Array:
        wide = jnp.asarray(cap, scores.dtype)
        return wide * jnp.tanh(scores / wide)

    return capped


def positions_of(q: jax.Array, keys: int) -> tuple[jax.Array, jax.Array]:
    """Return the positions of queries and keys, (1, ..., T, 1) and (1, ..., 1, S), from 0."""
    front = (1,) * (q.ndim - 2)
    query, key = jnp.arange(q.shape[-3]), jnp.arange(keys)
    return query.reshape(*front, -1, 1), key.reshape(*front, 1, -1)


def over_heads(a: jax.Array, ndim: int) -> jax.Array:
    """Reshape a mask or bias (T, S) to the rank of q; return other masks and biases unchanged."""
    return a.reshape((1,) * (ndim - 2) + a.shape) if a.ndim == 2 else a


def check_types(mask: Any, bias: Any) -> None:
    """Raise TypeError unless the mask is a boolean array and the bias is a numeric one."""
    _mask(mask, "mask")
    _bias(bias, "bias")


_mask = None | Accepts(
    "an array of booleans, True if a key is visible to a query",
    lambda a: is_array(a) and a.dtype == bool,
    TypeError,
    hint="write mask=jnp.asarray(...), or bias=...",
    abstract=True,
)
_bias = None | Accepts(
    "an array of numbers to add to the scores",
    lambda a: is_array(a) and a.dtype != bool,
    TypeError,
    hint="write bias=jnp.asarray(...), or mask=...",
    abstract=True,
)


def _plain(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, scale: Any
) -> jax.Array:
    """Return what `_own` returns for a mask (T, S) in which each query sees a key, in fewer
    operations."""
    *batch, length, heads, d = q.shape
    wide = wider_type(q.dtype, jnp.float32)
    grouped = heads != k.shape[-2]
    if grouped:
        q = q.reshape(*batch, length, k.shape[-2], heads // k.shape[-2], d)
    group = "g" if grouped else ""
    queries, scores = f"...tk{group}d", f"...k{group}ts"
    s = _scores(f"{queries},...skd->{scores}", q, k, scale)
    if mask is not None:
        s = select_number(mask, s, _least(wide))
    weights = softmax(s).astype(v.dtype)
    y = jnp.einsum(f"{scores},...ske->...tk{group}e", weights, v, preferred_element_type=wide)
    return y.reshape(*batch, length, heads, v.shape[-1]).astype(v.dtype)


def _own(
    q: jax.Array,
    k: tuple[jax.Array, ...],
    v: tuple[jax.Array, ...],
    mask: jax.Array | None,
    bias: jax.Array | None,
    scale: Any,
    score_mod: Callable[..., jax.Array] | None,
    dropout: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    *batch, length, heads, d = q.shape
    groups = k[0].shape[-2]
    if length * heads == groups and is_narrow(q.dtype) and jax.default_backend() == "cpu":
        # XLA has products of two rows with narrow keys; for one row it converts all keys first.
        y = _own(jnp.repeat(q, 2, -3), k, v, mask, bias, scale, score_mod, dropout)
        return y[..., :1, :, :]
    wide = wider_type(q.dtype, jnp.float32)
    grouped = q.reshape(*batch, length, groups, heads // groups, d)
    every = [_scores("...tkgd,...skd->...kgts", grouped, a, scale) for a in k]
    scores = jnp.concatenate(every, -1) if len(every) > 1 else every[0]
    if score_mod is not None:
        by_head = scores.reshape(*batch, heads, *scores.shape[-2:])
        changed = score_mod(by_head, *positions_of(q, scores.shape[-1])).astype(wide)
        hidden = changed == -jnp.inf
        scores = jnp.where(hidden, 0, changed).reshape(scores.shape)
        mask = _joined(mask, ~hidden)
    if bias is not None:
        scores = scores + _by_group(bias, heads, groups).astype(wide)
    if mask is None:
        weights = softmax(scores)
    else:
        mask = _by_group(mask, heads, groups)
        weights = select_number(mask, softmax(select_number(mask, scores, _least(wide))), 0)
    weights = weights.astype(v[0].dtype)
    if dropout is not None:
        weights = dropout(weights)
    ends = np.cumsum([a.shape[-3] for a in v])[:-1]
    parts = jnp.split(weights, ends, -1) if ends.size else [weights]
    sums = [_weighted(part, a, wide) for part, a in zip(parts, v, strict=True)]
    y = sum(sums[1:], sums[0])
    return y.reshape(*batch, length, heads, v[0].shape[-1]).astype(v[0].dtype)


def _scores(equation: str, q: jax.Array, k: jax.Array, scale: Any) -> jax.Array:
    """Return scaled products of queries and keys, in at least float32.

    A power of two, such as 1 / sqrt(64), scales queries without rounding, unless they become
    subnormal, as small numbers in float16 would.
    """
    wide = wider_type(q.dtype, jnp.float32)
    exact = isinstance(scale, float) and math.frexp(scale)[0] == 0.5 and q.dtype != jnp.float16
    if exact:  # XLA copies queries anyway, but reads the factor of scores from a whole array
        q = q * jnp.asarray(scale, q.dtype)
    s = jnp.einsum(equation, q, k, preferred_element_type=wide)
    return s if exact else s * jnp.asarray(scale, wide)


def _least(dtype: Any) -> float:
    """Return the score of hidden keys: finite, so that a row without visible keys has no NaN."""
    return -0.7 * float(jnp.finfo(dtype).max)


def _weighted(weights: jax.Array, v: jax.Array, wide: Any) -> jax.Array:
    """Return sums of values (..., S, kv_heads, e), (..., T, kv_heads, heads / kv_heads, e)."""
    options: dict[str, Any] = {"preferred_element_type": wide}
    if weights.shape[-2] * weights.shape[-3] < v.shape[-3]:
        # For few queries; in the other order, XLA's CPU compiler transposes all values.
        return jnp.einsum("...ske,...kgts->...tkge", v, weights, **options)
    return jnp.einsum("...kgts,...ske->...tkge", weights, v, **options)


def _jax_nn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: Any,
    implementation: str | None,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """Call jax.nn.dot_product_attention, which requires one batch axis."""
    if implementation == "cudnn":
        if only_shapes():  # of any type; NaN, in case it is computed
            return jnp.full((*q.shape[:-1], v.shape[-1]), jnp.nan, q.dtype)
        _check_fused(q, v)
    batch = q.shape[:-3]

    def one_batch_axis(a: jax.Array | None) -> jax.Array | None:
        if a is None or len(batch) == 1:
            return a
        return jnp.broadcast_to(a, (*batch, *a.shape[-3:])).reshape(math.prod(batch), *a.shape[-3:])

    fused = (NotImplementedError, RuntimeError, ValueError) if implementation == "cudnn" else ()
    wide = None if bias is None else bias.astype(wider_type(q.dtype, jnp.float32))
    with jax.numpy_dtype_promotion("standard"):  # jax.nn promotes half-precision types internally
        try:
            y = jax.nn.dot_product_attention(
                *map(one_batch_axis, (q, k, v)),  # type: ignore[arg-type]
                bias=one_batch_axis(wide),
                mask=one_batch_axis(mask),
                scale=scale,
                implementation=implementation,  # type: ignore[arg-type]
                **options,
            )
        except fused as error:
            raise ValueError(
                f"implementation 'cudnn', the fused kernel of NVIDIA GPUs, does not take q "
                f"{q.dtype}{list(q.shape)}, k {list(k.shape)}, and v {list(v.shape)} here: {error} "
                f"{_PLAIN}"
            ) from error
    return y.reshape(*q.shape[:-1], v.shape[-1])


_PLAIN = "Leave implementation out for plain XLA, which takes everything."


def _check_fused(q: jax.Array, v: jax.Array) -> None:
    """Raise ValueError for arrays that cuDNN's kernel does not take on any GPU."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    if not half or q.shape[-1] % 8 or q.shape[-1] > 256 or q.shape[-1] != v.shape[-1]:
        raise ValueError(
            "implementation 'cudnn' computes in bfloat16 or float16, with heads of equally many "
            f"features, a multiple of 8 of at most 256; got q {q.dtype}{list(q.shape)} and v "
            f"{list(v.shape)}: write nn.Precision(net, 'bfloat16'), and for example head_dim=64. "
            f"{_PLAIN}"
        )


def _position_mask(
    q: jax.Array, k: jax.Array, causal: bool, window: int | None, segment_ids: jax.Array | None
) -> jax.Array | None:
    """Return the mask of `causal`, `window`, and `segment_ids`, with the rank of q."""
    if segment_ids is not None:
        check_segments(segment_ids, (*q.shape[:-3], q.shape[-3]))
        check_segments(segment_ids, (*k.shape[:-3], k.shape[-3]))
        found, _ = packed_positions(segment_ids)
        return packed_mask(found, found, causal=causal, window=window)[..., None, :, :]
    mask = length_mask(q.shape[-3], k.shape[-3], causal, window)
    return None if mask is None else over_heads(mask, q.ndim)


def _joined(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _by_group(a: jax.Array, heads: int, groups: int) -> jax.Array:
    """Split axis -3 of heads (or 1) into groups and heads per group (or 1 and 1)."""
    *batch, n, length, keys = a.shape
    return a.reshape(*batch, *((1, 1) if n == 1 else (groups, heads // groups)), length, keys)


def _full_rank(a: Any, q: jax.Array, k: jax.Array, name: str) -> jax.Array:
    """Return a mask or bias with the rank of q; raise ValueError if its shape does not match."""
    wanted = (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])

    def fits(a: Any) -> bool:
        shape = over_heads(a, q.ndim).shape
        return len(shape) == len(wanted) and all(
            n in (1, size) for n, size in zip(shape, wanted, strict=True)
        )

    what = f"(T, S), or broadcast to (..., heads, T, S) = {wanted} with its rank"
    hint = f"if it is (..., T, S), write {name}[..., None, :, :]"
    return over_heads(Accepts(what, fits, hint=hint, abstract=True)(a, name), q.ndim)


def _check(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    ranks = min(q.ndim, k.ndim, v.ndim)
    same = ranks > 2 and q.shape[:-3] == k.shape[:-3] and k.shape[:-1] == v.shape[:-1]
    if not same or q.shape[-1] != k.shape[-1] or q.shape[-2] % k.shape[-2]:
        raise ValueError(
            "q must be (..., T, heads, d), k (..., S, kv_heads, d), and v (..., S, kv_heads, m), "
            "with equal leading axes, and kv_heads a divisor of heads; got "
            f"{q.shape}, {k.shape}, and {v.shape}"
        )
