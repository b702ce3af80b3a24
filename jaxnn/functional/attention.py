"""Attention as a plain function.

Letters: T queries, S keys, `heads` and `kv_heads`, d features a head, e features a value.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import only_shapes
from .dropout import dropout as drop
from .finite import broken_rows, finite_rows
from .linear import floating_type, wider_type
from .segments import check_segments, distance_mask, places, places_mask

IMPLEMENTATIONS = (None, "own", "xla", "cudnn")


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    causal: bool = False,
    window: int | None = None,
    segment_ids: jax.Array | None = None,
    scale: Any = None,
    soft_cap: Any = None,
    dropout: Any = 0.0,
    key: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """softmax(scale * q @ k.T + bias) @ v, for each head, over the keys that may be looked at.

    q is (..., T, heads, d), k (..., S, kv_heads, d), v (..., S, kv_heads, e) and y
    (..., T, heads, e), in the floating type of q. `kv_heads` divides `heads`; query head h looks at
    key head h // (heads / kv_heads). The softmax is taken in at least float32. A query without any
    key that it may look at gives zeros, forward and backward.

    - `mask`, booleans: True where a query may look at a key. `bias`: numbers added to the scores,
      -inf where it may not look. Both are (T, S), or have as many axes as q and broadcast to
      (..., heads, T, S).
    - `causal`: query t looks at keys up to t. `window`: only at those fewer than `window` away.
    - `segment_ids`, integers (..., T) for T = S: only at those of its own packed sequence, where 0
      marks padding (see `places`).
    - `scale` is 1 / sqrt(d) by default. `soft_cap`: scaled scores s become
      soft_cap * tanh(s / soft_cap), before the bias.
    - `dropout`, a rate, and a random `key`: weights are 0 with that probability and divided by
      1 - rate otherwise.
    - What a query may not look at has no effect on its output, NaN and inf included; with a mask,
      a bias, or segment_ids it has none on gradients either. If it may not look at everything, a
      query that is not finite, or that may look at a key or value that is not, gives NaN.
    - `implementation`: "xla" or "cudnn" is that of `jax.nn.dot_product_attention`, "own" the one
      written here. By default it is jax.nn's in plain XLA if there is no mask, bias, segment_ids,
      soft cap, or dropout, and "own" otherwise. "cudnn" is the fused kernel of NVIDIA GPUs, which
      keeps no scores in memory; it needs bfloat16 or float16, and heads of a multiple of 8
      features, at most 256 (128 before the H100). jax.nn's have neither soft cap nor dropout.

    Raises ValueError for shapes that do not fit, an unknown implementation, soft cap or dropout
    with jax.nn's, and heads or devices that "cudnn" does not take; TypeError for a mask that is not
    of booleans, a bias that is, and other types than bfloat16 and float16 with "cudnn".

    References: Vaswani et al., Attention is all you need, 2017; Ainslie et al., GQA: training
    generalized multi-query transformer models, 2023; soft cap: Gemma team, Gemma 2, 2024.

    >>> import jax.numpy as jnp
    >>> v = jnp.arange(3.0).reshape(3, 1, 1)  # three positions, one head, one feature
    >>> attention(jnp.zeros((3, 1, 1)), jnp.zeros((3, 1, 1)), v, causal=True).ravel().tolist()
    [0.0, 0.5, 1.0]
    >>> attention(jnp.zeros((3, 1, 1)), v, v, mask=jnp.zeros((3, 3), bool)).ravel().tolist()
    [0.0, 0.0, 0.0]
    """
    check_types(mask, bias)
    options = {
        "scale": scale,
        "soft_cap": soft_cap,
        "dropout": dropout,
        "key": key,
        "implementation": implementation,
    }
    plain = mask is None and bias is None and segment_ids is None
    if plain and not causal and window is None:
        return attend(q, k, v, **options)
    _check(q, k, v)
    if plain:
        # Scores of keys that are hidden are not used, so only values need to be finite.
        v, broken = finite_rows(v)
        seen = _sees_broken(jnp.any(broken, -2), q.shape[-3], causal, window)
        return broken_rows(attend(q, k, v, causal=causal, window=window, **options), seen)
    # 0 * NaN is NaN, in the products of the backward pass too: only finite rows go into them.
    (q, query_broken), (k, key_broken), (v, value_broken) = map(finite_rows, (q, k, v))
    queries = jnp.any(query_broken, -2)  # (..., T, 1)
    keys = jnp.any(key_broken | value_broken, -2)  # (..., S, 1)
    mask = None if mask is None else _full_rank(mask, q, k, "mask")
    allowed: Any = _joined(mask, _places_mask(q, k, causal, window, segment_ids))
    if bias is not None:
        bias = _full_rank(bias, q, k, "bias")
        finite = bias != -jnp.inf
        bias = jnp.where(finite, bias, jnp.zeros((), bias.dtype))
        allowed = _joined(allowed, finite)
    if implementation in ("xla", "cudnn"):
        # Their gradient has 0 times dy @ v.T, which large values make inf.
        seen = jnp.any(allowed, (-3, -2))
        v = jnp.where(seen[..., None, None], v, jnp.zeros((), v.dtype))
    broken = queries | jnp.swapaxes(keys, -1, -2)
    broken = jnp.any(allowed & broken[..., None, :, :], -1, keepdims=True)
    y = attend(q, k, v, allowed, bias, **options)
    return broken_rows(y, jnp.swapaxes(broken, -2, -3))


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: Any = None,
    soft_cap: Any = None,
    dropout: Any = 0.0,
    key: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """`attention` if everything that a query may not look at is finite, and the bias everywhere.

    It costs less, since nothing is checked.
    """
    dtype = floating_type(q)
    q, k, v = (a.astype(dtype) for a in (q, k, v))
    _check(q, k, v)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation is None, 'own', 'xla' or 'cudnn', got {implementation!r}")
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    draws = key is not None
    if implementation in ("xla", "cudnn") and (soft_cap is not None or draws):
        raise ValueError(
            f"implementation {implementation!r} is jax.nn.dot_product_attention's, which has no "
            f"{'dropout' if draws else 'soft cap'}: leave implementation out"
        )
    mask = None if mask is None else _full_rank(mask, q, k, "mask")
    bias = None if bias is None else _full_rank(bias, q, k, "bias")
    plain = mask is None and bias is None and soft_cap is None and not draws
    # Where lengths differ, a window may leave rows without any key.
    plain = plain and (window is None or q.shape[-3] == k.shape[-3])
    # jax.nn has float32 for the softmax of float64, and no float16 on the CPU.
    jax_nn = q.shape[-1] == v.shape[-1] and dtype in (jnp.float32, jnp.bfloat16)
    if plain and (implementation in ("xla", "cudnn") or (implementation is None and jax_nn)):
        local = None if window is None else (window - 1, 0 if causal else window - 1)
        return _jax_nn(q, k, v, scale, implementation, is_causal=causal, local_window_size=local)
    mask = _joined(mask, _places_mask(q, k, causal, window, None))
    if implementation in ("xla", "cudnn"):
        y = _jax_nn(q, k, v, scale, implementation, mask=mask, bias=bias)
        if mask is None:
            return y
        some = jnp.swapaxes(jnp.any(mask, -1, keepdims=True), -2, -3)  # (..., T, heads or 1, 1)
        return jnp.where(some, y, jnp.zeros((), y.dtype))
    return _own(q, k, v, mask, bias, scale, soft_cap, dropout, key)


def over_heads(a: jax.Array, ndim: int) -> jax.Array:
    """A mask or bias (T, S) with as many axes as q has; one of other axes as it is."""
    return a.reshape((1,) * (ndim - 2) + a.shape) if a.ndim == 2 else a


def check_types(mask: Any, bias: Any) -> None:
    """Raise TypeError where the mask is no array of booleans, or the bias none of numbers."""
    for name, a in (("mask", mask), ("bias", bias)):
        if a is not None and not hasattr(a, "dtype"):
            raise TypeError(f"{name} is an array, got {a!r}; write jnp.asarray({name})")
    if mask is not None and mask.dtype != bool:
        raise TypeError(
            f"mask is of booleans, True where a query may look at a key; got {mask.dtype}: write "
            "bias=... for numbers that are added to the scores"
        )
    if bias is not None and bias.dtype == bool:
        raise TypeError(
            "bias is of numbers that are added to the scores; got bool: write mask=... for "
            "booleans, True where a query may look at a key"
        )


def _own(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    bias: jax.Array | None,
    scale: Any,
    soft_cap: Any,
    rate: Any,
    key: jax.Array | None,
) -> jax.Array:
    *batch, length, heads, d = q.shape
    groups = k.shape[-2]
    wide = wider_type(q.dtype, jnp.float32)
    grouped = q.reshape(*batch, length, groups, heads // groups, d)
    scores = jnp.einsum("...tkgd,...skd->...kgts", grouped, k, preferred_element_type=wide)
    scores = scores * jnp.asarray(scale, wide)
    if soft_cap is not None:
        cap = jnp.asarray(soft_cap, wide)
        scores = cap * jnp.tanh(scores / cap)
    if bias is not None:
        scores = scores + _by_group(bias, heads, groups).astype(wide)
    if mask is None:
        weights = jax.nn.softmax(scores, -1)
    else:
        mask = _by_group(mask, heads, groups)
        # A finite number, so that a row without any key has weights without NaN, which become 0.
        scores = jnp.where(mask, scores, jnp.asarray(-0.7 * float(jnp.finfo(wide).max), wide))
        weights = jnp.where(mask, jax.nn.softmax(scores, -1), jnp.zeros((), wide))
    weights = weights.astype(v.dtype)
    if key is not None:
        weights = drop(key, weights, rate)
    y = jnp.einsum("...kgts,...ske->...tkge", weights, v, preferred_element_type=wide)
    return y.reshape(*batch, length, heads, v.shape[-1]).astype(v.dtype)


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
    """jax.nn's, which wants one batch axis."""
    if implementation == "cudnn":
        if only_shapes():  # whatever the type; NaN, in case that it is computed after all
            return jnp.full((*q.shape[:-1], v.shape[-1]), jnp.nan, q.dtype)
        _check_fused(q, v)
    batch = q.shape[:-3]

    def one_batch_axis(a: jax.Array | None) -> jax.Array | None:
        if a is None or len(batch) == 1:
            return a
        return jnp.broadcast_to(a, (*batch, *a.shape[-3:])).reshape(math.prod(batch), *a.shape[-3:])

    wide = None if bias is None else bias.astype(wider_type(q.dtype, jnp.float32))
    with jax.numpy_dtype_promotion("standard"):  # it promotes half types on its way
        try:
            y = jax.nn.dot_product_attention(
                *map(one_batch_axis, (q, k, v)),  # type: ignore[arg-type]
                bias=one_batch_axis(wide),
                mask=one_batch_axis(mask),
                scale=scale,
                implementation=implementation,  # type: ignore[arg-type]
                **options,
            )
        except (NotImplementedError, RuntimeError, ValueError) as error:
            if implementation != "cudnn":
                raise
            raise ValueError(
                f"implementation 'cudnn', the fused kernel of NVIDIA GPUs, does not take q "
                f"{q.dtype}{list(q.shape)}, k {list(k.shape)}, and v {list(v.shape)} here: {error} "
                f"{_PLAIN}"
            ) from error
    return y.reshape(*q.shape[:-1], v.shape[-1])


_PLAIN = "Leave implementation out for plain XLA, which takes everything."


def _check_fused(q: jax.Array, v: jax.Array) -> None:
    """Raise TypeError or ValueError for arrays that cuDNN's kernel does not take on any GPU."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise TypeError(
            f"implementation 'cudnn' computes in bfloat16 or float16, got {q.dtype}{list(q.shape)}:"
            " write nn.Precision(net, 'bfloat16'), or train.Supervised(net, task, optimizer, "
            f"precision=nn.Precision(compute='bfloat16')). {_PLAIN}"
        )
    if q.shape[-1] % 8 or q.shape[-1] > 256 or q.shape[-1] != v.shape[-1]:
        raise ValueError(
            "implementation 'cudnn' takes heads whose queries, keys, and values have the same "
            f"number of features, a multiple of 8 of at most 256, got {q.shape[-1]} for queries "
            f"and {v.shape[-1]} for values: write head_dim=64. {_PLAIN}"
        )


def _places_mask(
    q: jax.Array, k: jax.Array, causal: bool, window: int | None, segment_ids: jax.Array | None
) -> jax.Array | None:
    """The mask of `causal`, `window` and `segment_ids`, of as many axes as q."""
    if segment_ids is not None:
        if q.shape[-3] != k.shape[-3]:
            raise ValueError(f"segment_ids need T = S, got T = {q.shape[-3]} and S = {k.shape[-3]}")
        check_segments(segment_ids, (*q.shape[:-3], q.shape[-3]))
        found, _ = places(segment_ids)
        return places_mask(found, found, causal=causal, window=window)[..., None, :, :]
    if not causal and window is None:
        return None
    mask = distance_mask(
        jnp.arange(q.shape[-3]), jnp.arange(k.shape[-3]), causal=causal, window=window
    )
    return over_heads(mask, q.ndim)


def _sees_broken(broken: jax.Array, length: int, causal: bool, window: int | None) -> jax.Array:
    """Which of `length` queries may look at a broken key (..., S, 1): booleans (..., T, 1, 1).

    The keys that a query may look at are consecutive, so that counts replace a (T, S) mask.
    """
    query = jnp.arange(length)
    last = query if causal or window is None else query + window - 1
    first = jnp.zeros_like(query) if window is None else jnp.maximum(query - window + 1, 0)
    counts = jnp.cumsum(broken, -2, dtype=jnp.int32)
    counts = jnp.concatenate([jnp.zeros_like(counts[..., :1, :]), counts], -2)
    until, before = (jnp.take(counts, i, -2, mode="clip") for i in (last + 1, first))
    return (until > before)[..., None]


def _joined(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _by_group(a: jax.Array, heads: int, groups: int) -> jax.Array:
    """(..., heads or 1, T, S) as (..., groups or 1, heads in a group or 1, T, S)."""
    *batch, n, length, keys = a.shape
    return a.reshape(*batch, *((1, 1) if n == 1 else (groups, heads // groups)), length, keys)


def _full_rank(a: Any, q: jax.Array, k: jax.Array, name: str) -> jax.Array:
    """A mask or bias with as many axes as q; raises where it does not fit."""
    wanted = (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])
    given = jnp.shape(a)
    a = over_heads(a, q.ndim)
    shape = a.shape
    fits = len(shape) == len(wanted) and all(
        n in (1, m) for n, m in zip(shape, wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} is (T, S) or broadcasts to (..., heads, T, S) = {wanted} with as many axes; "
            f"got {given}; where it is (..., T, S), write {name}[..., None, :, :]"
        )
    return a


def _check(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    ranks = min(q.ndim, k.ndim, v.ndim)
    if ranks < 3 or q.shape[:-3] != k.shape[:-3] or k.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            "q is (..., T, heads, d), k and v (..., S, kv_heads, d) with the same axes in front; "
            f"got {q.shape}, {k.shape} and {v.shape}"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k have the same features a head, got {q.shape} and {k.shape}")
    if q.shape[-2] % k.shape[-2]:
        raise ValueError(f"the heads of k, {k.shape[-2]}, divide those of q, {q.shape[-2]}")
