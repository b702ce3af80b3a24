"""The node cases of the onnx package as layers: one operator with its attributes, inputs, outputs.

`run` computes the outputs of a case by the layer or function that is the operator here; onnx has
channels first. docs/out-of-scope.csv lists the other operators and cases, with the reasons.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from jaxnn.functional.attention import attention, soft_cap

Reader = Callable[..., Any]
READERS: dict[str, Reader] = {}


def run(kind: str, attributes: dict[str, Any], inputs: list[Any]) -> dict[str, Any]:
    """The outputs by name, of which the first is Y; inputs that are left out are None."""
    found = READERS[kind](attributes, *inputs)
    return found if isinstance(found, dict) else {"Y": np.asarray(found)}


def operator(*names: str) -> Callable[[Reader], Reader]:
    def add(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(names, reader))
        return reader

    return add


def last(x: Any) -> Any:
    """Channels last."""
    return np.moveaxis(x, 1, -1)


def first(y: Any) -> Any:
    """Channels first."""
    return np.moveaxis(np.asarray(y), -1, 1)


def call(layer: nn.Layer, x: Any, params: Any = None, **options: Any) -> Any:
    """A layer on channels first."""
    y = layer.apply(params or {}, last(x), **options)
    return first(y[0] if "state" in options else y)


def window(found: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The fields of a layer that slides a window over the axes after the first two."""
    kernel = tuple(found["kernel_shape"])
    ones = (1,) * len(kernel)
    stride, dilation = (tuple(found.get(k, ones)) for k in ("strides", "dilations"))
    auto = found.get("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        pads = []
        for n, k, s, d in zip(shape[2:], kernel, stride, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            small, large = total // 2, total - total // 2
            pads.append((large, small) if auto == "SAME_LOWER" else (small, large))
        padding = tuple(pads)
    else:
        before, after = np.reshape(found.get("pads", [0, 0] * len(kernel)), (2, -1)).tolist()
        padding = tuple(zip(before, after, strict=True))
    fields = {"kernel_size": kernel, "stride": stride, "padding": padding}
    return fields | {"dilation": dilation}


def ceil(found: dict[str, Any]) -> dict[str, bool]:
    return {"ceil_mode": bool(found.get("ceil_mode", 0))}


@operator("AveragePool")
def _average_pool(found: dict[str, Any], x: Any) -> Any:
    count = bool(found.get("count_include_pad", 0))
    layer = nn.AvgPool(**window(found, x.shape), **ceil(found), count_include_pad=count)
    return call(layer, x)


@operator("MaxPool")
def _max_pool(found: dict[str, Any], x: Any) -> Any:
    return call(nn.MaxPool(**window(found, x.shape), **ceil(found)), x)


@operator("LpPool")
def _lp_pool(found: dict[str, Any], x: Any) -> Any:
    # onnx sums powers of |x|.
    p = found.get("p", 2)
    return call(nn.LpPool(p, **window(found, x.shape), **ceil(found)), np.abs(x))


@operator("GlobalAveragePool")
def _global_average_pool(found: dict[str, Any], x: Any) -> Any:
    y = nn.GlobalAvgPool().apply({}, last(x))
    return np.reshape(y, x.shape[:2] + (1,) * (x.ndim - 2))


@operator("GlobalMaxPool")
def _global_max_pool(found: dict[str, Any], x: Any) -> Any:
    y = nn.GlobalMaxPool().apply({}, last(x))
    return np.reshape(y, x.shape[:2] + (1,) * (x.ndim - 2))


@operator("MaxUnpool")
def _max_unpool(found: dict[str, Any], x: Any, indices: Any, shape: Any = None) -> Any:
    along = zip(x.shape[2:], found["kernel_shape"], found["strides"], strict=True)
    size = tuple((n - 1) * s + k for n, k, s in along)
    y = first(nn.MaxUnpool(size).apply({}, last(x), last(indices)))
    # Indices refer to the smaller size; the rest is 0.
    more = [0] * y.ndim if shape is None else np.subtract(shape, y.shape)
    return np.pad(y, [(0, n) for n in more])


@operator("Conv")
def _conv(found: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    fields = window({"kernel_shape": w.shape[2:], **found}, x.shape)
    layer = nn.Conv(len(w), groups=found.get("group", 1), bias=b is not None, **fields)
    params = {"w": np.moveaxis(w, (0, 1), (-1, -2))}
    return call(layer, x, params | ({} if b is None else {"b": b}))


@operator("ConvTranspose")
def _conv_transpose(found: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    fields = window({"kernel_shape": w.shape[2:], **found, "auto_pad": b"NOTSET"}, x.shape)
    extra = tuple(found.get("output_padding", (0,) * (x.ndim - 2)))
    auto = found.get("auto_pad", b"NOTSET").decode()
    along = list(zip(x.shape[2:], fields["stride"], fields["kernel_size"], strict=True))
    wanted = found.get("output_shape")
    if auto.startswith("SAME"):
        wanted = [n * s for n, s, _ in along]
    if wanted is not None:
        pads, more = [], []
        for (n, s, k), d, e, m in zip(along, fields["dilation"], extra, wanted, strict=True):
            total = s * (n - 1) + e + (k - 1) * d + 1 - m
            small, large = total // 2, total - total // 2
            pair = (small, large) if auto == "SAME_UPPER" else (large, small)
            pads.append((max(pair[0], 0), max(pair[1], 0)))
            more.append(e + max(-total, 0))
        fields["padding"], extra = tuple(pads), tuple(more)
    groups = found.get("group", 1)
    layer = nn.ConvTranspose(
        w.shape[1] * groups, groups=groups, bias=b is not None, output_padding=extra, **fields
    )
    split = w.reshape(groups, -1, *w.shape[1:])  # (groups, n / groups, features / groups, ...)
    w = np.moveaxis(split, (1, 0, 2), (-3, -2, -1))
    params = {"w": w.reshape(*w.shape[:-2], -1)}
    return call(layer, x, params | ({} if b is None else {"b": b}))


@operator("CausalConvWithState")
def _causal_conv(found: dict[str, Any], x: Any, w: Any, b: Any = None, past: Any = None) -> Any:
    k = w.shape[-1]
    layer = nn.DepthwiseConv(k, padding="causal", bias=b is not None, cache=x.shape[-1])
    params = {"w": np.moveaxis(w, (0, 1), (-1, -2))} | ({} if b is None else {"b": b})
    state = layer.init_state(last(x))
    if past is not None and state:
        state |= {"inputs": last(past), "segment_ids": np.ones(past.shape[::2], np.int32)}
    y = jnp.asarray(call(layer, x, params, state=state))
    silu = found.get("activation", b"none") != b"none"
    return jax.nn.silu(y.astype("float32")).astype(y.dtype) if silu else y


@operator("BatchNormalization")
def _batch_norm(found: dict[str, Any], x: Any, scale: Any, b: Any, mean: Any, var: Any) -> Any:
    layer = nn.BatchNorm(found.get("momentum", 0.9), eps=found.get("epsilon", 1e-5))
    train = bool(found.get("training_mode", 0))
    given: dict[str, Any] = {"state": {"mean": mean, "var": var}, "train": train}
    return call(layer, x, {"scale": scale, "b": b}, **given)


@operator("InstanceNormalization")
def _instance_norm(found: dict[str, Any], x: Any, scale: Any, b: Any) -> Any:
    return call(nn.InstanceNorm(eps=found.get("epsilon", 1e-5)), x, {"scale": scale, "b": b})


@operator("GroupNormalization")
def _group_norm(found: dict[str, Any], x: Any, scale: Any, b: Any) -> Any:
    layer = nn.GroupNorm(found["num_groups"], eps=found.get("epsilon", 1e-5))
    return call(layer, x, {"scale": scale, "b": b})


def _from_axis(found: dict[str, Any], x: Any) -> tuple[int, ...]:
    return tuple(range(found.get("axis", -1) % x.ndim, x.ndim))


@operator("LayerNormalization")
def _layer_norm(found: dict[str, Any], x: Any, scale: Any, b: Any = None) -> Any:
    axes, eps = _from_axis(found, x), found.get("epsilon", 1e-5)
    layer = nn.LayerNorm(axis=axes, eps=eps, bias=b is not None)
    shape = [x.shape[i] for i in axes]
    params = {"scale": scale.reshape(shape)} | ({} if b is None else {"b": b.reshape(shape)})
    return layer.apply(params, x)


@operator("RMSNormalization")
def _rms_norm(found: dict[str, Any], x: Any, scale: Any) -> Any:
    axes = _from_axis(found, x)
    layer = nn.RMSNorm(axis=axes, eps=found.get("epsilon", 1e-5))
    return layer.apply({"scale": scale.reshape([x.shape[i] for i in axes])}, x)


@operator("MeanVarianceNormalization")
def _moments(found: dict[str, Any], x: Any) -> Any:
    axes = tuple(found.get("axes", (0, 2, 3)))
    return nn.LayerNorm(scale=False, bias=False, axis=axes, eps=1e-9).apply({}, x)


@operator("LpNormalization")
def _unit_norm(found: dict[str, Any], x: Any) -> Any:
    return nn.UnitNorm(found.get("axis", -1)).apply({}, x)


@operator("LRN")
def _local_response_norm(found: dict[str, Any], x: Any) -> Any:
    fields = (found.get(*pair) for pair in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    # onnx has the odd neighbor after a feature, which matters for an even size only.
    return call(nn.LocalResponseNorm(found["size"], *fields), x)


@operator("Dropout")
def _dropout(found: dict[str, Any], x: Any, ratio: Any = 0.5, train: Any = False) -> Any:
    rate = 0.0 if float(ratio) == 0 else 0.5
    return nn.Dropout(rate).apply({}, x, train=bool(train))


@operator("PRelu")
def _prelu(found: dict[str, Any], x: Any, slope: Any) -> Any:
    axes = tuple(range(x.ndim - slope.ndim, x.ndim))
    return nn.PReLU(axis=axes).apply({"alpha": slope}, x)


@operator("Pad")
def _pad(found: dict[str, Any], x: Any, pads: Any, value: Any = 0.0, axes: Any = None) -> Any:
    mode: Any = found.get("mode", b"constant").decode()
    names: Any = {"edge": "replicate", "wrap": "circular"}
    amounts = [(0, 0)] * x.ndim
    axes = range(x.ndim) if axes is None else [int(i) % x.ndim for i in axes]
    for i, before, after in zip(axes, *np.reshape(pads, (2, -1)).tolist(), strict=True):
        amounts[i] = before, after
    start = next(i for i, pair in enumerate(amounts) if pair != (0, 0))
    start = max(start, x.ndim - 3)
    layer = nn.Pad(tuple(amounts[start:]), names.get(mode, mode), float(np.asarray(value).item()))
    return np.asarray(layer.apply({}, x[..., None]))[..., 0]


@operator("DepthToSpace")
def _pixel_shuffle(found: dict[str, Any], x: Any) -> Any:
    block = found["blocksize"]
    if found.get("mode", b"DCR") == b"DCR":  # the channel is the last of three, not the first
        split = x.reshape(len(x), block**2, -1, *x.shape[2:])
        x = np.swapaxes(split, 1, 2).reshape(x.shape)
    return call(nn.PixelShuffle((block, block)), x)


@operator("SpaceToDepth")
def _pixel_unshuffle(found: dict[str, Any], x: Any) -> Any:
    block = found["blocksize"]
    y = call(nn.PixelUnshuffle((block, block)), x)
    if found.get("mode", b"DCR") == b"DCR":
        split = y.reshape(len(x), -1, block**2, *y.shape[2:])
        return np.swapaxes(split, 1, 2).reshape(y.shape)
    return y


@operator("Col2Im")
def _fold(found: dict[str, Any], x: Any, size: Any, kernel: Any) -> Any:
    size, kernel = tuple(size.tolist()), tuple(kernel.tolist())
    fields = window({"kernel_shape": kernel, **found}, (0, 0, *size))
    along = zip(size, kernel, fields["stride"], fields["padding"], fields["dilation"], strict=True)
    counts = [(n + sum(pad) - (k - 1) * d - 1) // s + 1 for n, k, s, pad, d in along]
    return call(nn.Fold(size, **fields), x.reshape(*x.shape[:2], *counts))


@operator("Upsample")
def _upsample(found: dict[str, Any], x: Any, scales: Any) -> Any:
    return call(nn.Upsample(tuple(scales[2:].tolist()), None, found["mode"].decode()), x)


@operator("Resize")
def _resize(
    found: dict[str, Any], x: Any, roi: Any = None, scales: Any = None, sizes: Any = None
) -> Any:
    mode = found.get("mode", b"nearest").decode()
    where = found.get("coordinate_transformation_mode", b"half_pixel").decode()
    method: Any = {"nearest": "nearest", "linear": "linear", "cubic": "bicubic"}[mode]
    if found.get("exclude_outside"):
        method = "cubic"
    given = np.asarray(scales if sizes is None else sizes).tolist()
    axes = found.get("axes", range(x.ndim))
    by_axis = dict(zip(axes, given, strict=True))
    each = [by_axis[i] for i in (2, 3)]
    policy = found.get("keep_aspect_ratio_policy", b"stretch").decode()
    if sizes is not None and policy != "stretch":
        ratios = [n / x.shape[i] for i, n in by_axis.items()]
        ratio = (min if policy == "not_larger" else max)(ratios)
        each = [round(x.shape[i] * ratio) for i in (2, 3)]
    size = None if sizes is None else tuple(int(n) for n in each)
    factor = tuple(each) if sizes is None else None
    return call(nn.Upsample(factor, size, method, where == "align_corners"), x)


# ---- recurrence: gates of onnx are concatenated along the first axis, one block each ----


def recurrent(
    found: dict[str, Any],
    x: Any,
    w: Any,
    r: Any,
    cell: nn.Cell,
    convert: Callable[[Any, Any, int], Any],
    lengths: Any,
    carries: dict[str, Any],
) -> dict[str, Any]:
    """Y (T, directions, batch, n) and the last carries, by the names of our carry."""
    batchwise = found.get("layout", 0) == 1
    x = x if batchwise else np.swapaxes(x, 0, 1)
    segment_ids = None
    if lengths is not None:
        segment_ids = (np.arange(x.shape[1]) < lengths[:, None]).astype(np.int32)
    ways = {b"forward": [False], b"reverse": [True]}.get(
        found.get("direction", b"forward"), [False, True]
    )
    ys, lasts = [], []
    for i, reverse in enumerate(ways):
        net = nn.Recurrent(cell, reverse=reverse)
        given = {k: a[:, i] if batchwise else a[i] for k, a in carries.items() if a is not None}
        carry = cell.initial_carry(x[:, 0]) | given
        end, y = net.apply(
            convert(w[i], r[i], i), x, carry=carry, segment_ids=segment_ids, method="unroll"
        )
        ys.append(y)
        lasts.append(end)
    y = np.stack(ys, 2) if batchwise else np.moveaxis(np.stack(ys), (1, 2), (2, 0))
    axis = 1 if batchwise else 0
    return {"Y": y, **{k: np.stack([one[k] for one in lasts], axis) for k in lasts[0]}}


def blocks(w: Any, order: list[int]) -> np.ndarray:
    """The blocks of gates in our order, along the last axis."""
    parts = np.split(np.asarray(w).T, len(order), -1)
    return np.concatenate([parts[i] for i in order], -1)


@operator("RNN")
def _rnn(
    found: Any, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None
) -> Any:
    n = r.shape[-1]

    def convert(w: Any, r: Any, i: int) -> Any:
        bias = np.zeros(n, np.float32) if b is None else np.add(*np.split(b[i], 2))
        return {"input": {"w": w.T, "b": bias}, "recurrent": {"w": r.T}}

    return recurrent(found, x, w, r, nn.RNNCell(n), convert, lengths, {"h": h})


@operator("GRU")
def _gru(
    found: Any, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None
) -> Any:
    n, after = r.shape[-1], bool(found.get("linear_before_reset", 0))
    order = [1, 0, 2]  # z, r, h become r, k = z, n = h

    def convert(w: Any, r: Any, i: int) -> Any:
        both = np.zeros((2, 3 * n), np.float32) if b is None else b[i].reshape(2, -1)
        own, other = (blocks(a[:, None], order)[0] for a in both)
        bias = own + other
        hidden = {"w": blocks(r, order)}
        if after:
            bias[2 * n :], hidden["b"] = own[2 * n :], other[2 * n :]
        return {"input": {"w": blocks(w, order), "b": bias}, "recurrent": hidden}

    cell = nn.GRUCell(n, reset_after=after)
    return recurrent(found, x, w, r, cell, convert, lengths, {"h": h})


@operator("LSTM")
def _lstm(
    found: Any,
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    h: Any = None,
    c: Any = None,
    p: Any = None,
) -> Any:
    n, order = r.shape[-1], [0, 2, 3, 1]  # i, o, f, c become i, f, g = c, o

    def convert(w: Any, r: Any, i: int) -> Any:
        both = np.zeros((2, 4 * n), np.float32) if b is None else b[i].reshape(2, -1)
        bias = blocks(both.sum(0)[:, None], order)[0]
        params = {"input": {"w": blocks(w, order), "b": bias}, "recurrent": {"w": blocks(r, order)}}
        seen = {} if p is None else {"peephole": {"w": p[i].reshape(3, n)[[0, 2, 1]]}}
        return params | seen

    cell = nn.LSTMCell(n, peepholes=p is not None)
    return recurrent(found, x, w, r, cell, convert, lengths, {"h": h, "c": c})


# ---- attention ----


@operator("Attention")
def _attention(
    found: dict[str, Any],
    q: Any,
    k: Any,
    v: Any,
    given: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    lengths: Any = None,
) -> Any:
    merged = q.ndim == 3

    def heads(a: Any, name: str) -> Any:
        if merged:
            return jnp.asarray(a.reshape(*a.shape[:2], found[name], -1))
        return jnp.swapaxes(jnp.asarray(a), 1, 2)

    q, k, v = heads(q, "q_num_heads"), heads(k, "kv_num_heads"), heads(v, "kv_num_heads")
    before: Any = 0
    if past_k is not None:
        past_k, past_v = (jnp.swapaxes(jnp.asarray(a), 1, 2) for a in (past_k, past_v))
        before = past_k.shape[1]
        k, v = jnp.concatenate([past_k, k], 1), jnp.concatenate([past_v, v], 1)
    t, s = q.shape[1], k.shape[1]
    seen = np.ones((1, 1, t, s), bool)
    if lengths is not None:
        seen = seen & (np.arange(s) < lengths[:, None, None, None])
        before = (lengths - t)[:, None, None, None]
    query = np.arange(t)[:, None] + before
    away = query - np.arange(s)
    if found.get("is_causal", 0):
        seen = seen & (away >= 0)
    left, right = (found.get(f"{side}_window_size", -1) for side in ("left", "right"))
    seen = seen & (away <= left) if left >= 0 else seen
    seen = seen & (away >= -right) if right >= 0 else seen
    bias = None
    if given is not None:
        given = given.reshape((1,) * (4 - given.ndim) + given.shape)
        given = np.broadcast_to(given, (*given.shape[:2], t, given.shape[-1]))
        missing = s - given.shape[-1]
        fill = False if given.dtype == bool else -np.inf
        given = np.pad(given, [(0, 0)] * 3 + [(0, missing)], constant_values=fill)
        seen, bias = (seen & given, None) if given.dtype == bool else (seen, jnp.asarray(given))
    cap = found.get("softcap", 0.0)
    y = attention(
        q, k, v, mask=jnp.asarray(seen), bias=bias, scale=found.get("scale"),
        score_mod=soft_cap(cap) if cap else None,
    )  # fmt: skip
    return y.reshape(*y.shape[:2], -1) if merged else jnp.swapaxes(y, 1, 2)


# ---- functions of each number ----


def function(f: Callable[..., Any], **names: tuple[str, float]) -> Reader:
    """A function whose options have these names and defaults in onnx."""

    def reader(found: dict[str, Any], x: Any) -> Any:
        return f(jnp.asarray(x), **{ours: found.get(*theirs) for ours, theirs in names.items()})

    return reader


def _gelu(found: dict[str, Any], x: Any) -> Any:
    return jax.nn.gelu(jnp.asarray(x), approximate=found.get("approximate") == b"tanh")


def _swish(found: dict[str, Any], x: Any) -> Any:
    alpha = found.get("alpha", 1.0)
    return jax.nn.silu(alpha * jnp.asarray(x)) / alpha


READERS |= {
    "Celu": function(jax.nn.celu, alpha=("alpha", 1.0)),
    "Elu": function(jax.nn.elu, alpha=("alpha", 1.0)),
    "Gelu": _gelu,
    "HardSwish": function(jax.nn.hard_swish),
    "LeakyRelu": function(jax.nn.leaky_relu, negative_slope=("alpha", 0.01)),
    "LogSoftmax": function(jax.nn.log_softmax, axis=("axis", -1)),
    "Mish": function(jax.nn.mish),
    "Relu": function(jax.nn.relu),
    "Sigmoid": function(jax.nn.sigmoid),
    "Softmax": function(jax.nn.softmax, axis=("axis", -1)),
    "Softplus": function(jax.nn.softplus),
    "Softsign": function(jax.nn.soft_sign),
    "Swish": _swish,
    "Tanh": function(jnp.tanh),
}
