"""torch.nn modules as layers: functions of the same inputs, with the weights of the module.

`convert` takes a torch module and returns a function of JAX arrays in torch's layout. Losses and
activations that are functions of `jax` are included; docs/out-of-scope.csv lists what is not, with
the reasons.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from jaxnn.functional import soft_min
from jaxnn.functional.pooling import fractional_max_pool

Function = Callable[..., Any]
READERS: dict[str, Callable[[Any], Function]] = {}


def convert(module: Any) -> Function:
    """The module as a function of JAX arrays."""
    return READERS[type(module).__name__](module)


def modules(*names: str) -> Callable[[Any], Any]:
    def add(reader: Any) -> Any:
        READERS.update((name, reader) for name in names)
        return reader

    return add


def each(name: str) -> list[str]:
    """The names of a module over 1, 2, and 3 axes."""
    return [f"{name}{n}d" for n in (1, 2, 3)]


def array(tensor: Any) -> Any:
    return None if tensor is None else jnp.asarray(tensor.detach().numpy())


def weights(module: Any, *names: str) -> dict[str, Any]:
    """Those of the named weights that the module has, by our names scale and b."""
    found = {n: getattr(module, t, None) for n, t in zip(names[::2], names[1::2], strict=True)}
    return {n: array(t) for n, t in found.items() if t is not None}


def axes_of(module: Any) -> int:
    """The number of axes of a module whose name ends in it."""
    return int(type(module).__name__[-2])


def tuple_of(number: Any, n: int) -> tuple[Any, ...]:
    return tuple(number) if isinstance(number, tuple | list) else (number,) * n


def over(layer: nn.Layer, axes: int, params: Any = None, **options: Any) -> Function:
    """A layer over the last axes; channels are in front of them."""

    def run(x: Any) -> Any:
        y = layer.apply(params or {}, jnp.moveaxis(x, -1 - axes, -1), **options)
        y = y[0] if "state" in options else y
        move = functools.partial(jnp.moveaxis, source=-1, destination=-1 - axes)
        return tuple(map(move, y)) if isinstance(y, tuple) else move(y)

    return run


def window(module: Any, n: int) -> dict[str, Any]:
    names = {"kernel_size": "kernel_size", "stride": "stride", "dilation": "dilation"}
    found = {k: tuple_of(getattr(module, t), n) for k, t in names.items() if hasattr(module, t)}
    if hasattr(module, "padding"):
        found["padding"] = module.padding
        if not isinstance(module.padding, str):
            found["padding"] = tuple((p, p) for p in tuple_of(module.padding, n))
    return found


def kernel(module: Any, transposed: bool = False) -> dict[str, Any]:
    w = array(module.weight)
    if transposed:  # (n, features / groups, ...) becomes (..., n / groups, features)
        w = w.reshape(module.groups, -1, *w.shape[1:])
        w = jnp.moveaxis(w, (1, 0, 2), (-3, -2, -1)).reshape(*w.shape[3:], w.shape[1], -1)
    else:
        w = jnp.moveaxis(w, (1, 0), (-2, -1))
    return {"w": w} | weights(module, "b", "bias")


@modules(*each("Conv"), *each("LazyConv"))
def _conv(m: Any) -> Function:
    n = len(m.kernel_size)
    options = window(m, n) | {"groups": m.groups, "bias": m.bias is not None}
    assert m.padding_mode == "zeros"
    return over(nn.Conv(m.out_channels, **options), n, kernel(m))


@modules(*each("ConvTranspose"), *each("LazyConvTranspose"))
def _conv_transpose(m: Any) -> Function:
    n = len(m.kernel_size)
    options = window(m, n) | {"groups": m.groups, "bias": m.bias is not None}
    options["output_padding"] = m.output_padding
    return over(nn.ConvTranspose(m.out_channels, **options), n, kernel(m, True))


@modules("Linear", "LazyLinear")
def _linear(m: Any) -> Function:
    params = {"w": array(m.weight).T} | weights(m, "b", "bias")
    return functools.partial(nn.Dense(m.out_features, bias=m.bias is not None).apply, params)


@modules("Bilinear")
def _bilinear(m: Any) -> Function:
    params = {"w": jnp.moveaxis(array(m.weight), 0, -1)} | weights(m, "b", "bias")
    return functools.partial(nn.Bilinear(m.out_features, bias=m.bias is not None).apply, params)


@modules("Embedding")
def _embedding(m: Any) -> Function:
    layer = nn.Embedding(m.num_embeddings, m.embedding_dim)
    return functools.partial(layer.apply, {"w": array(m.weight)})


# ---- pooling ----


@modules(*each("MaxPool"))
def _max_pool(m: Any) -> Function:
    n = axes_of(m)
    options = window(m, n) | {"ceil_mode": m.ceil_mode, "return_indices": m.return_indices}
    return over(nn.MaxPool(**options), n)


@modules(*each("AvgPool"))
def _avg_pool(m: Any) -> Function:
    n = axes_of(m)
    options = window(m, n) | {"ceil_mode": m.ceil_mode, "count_include_pad": m.count_include_pad}
    options["divisor_override"] = getattr(m, "divisor_override", None)
    return over(nn.AvgPool(**options), n)


@modules(*each("LPPool"))
def _lp_pool(m: Any) -> Function:
    n = axes_of(m)
    found = {"kernel_size": tuple_of(m.kernel_size, n), "ceil_mode": m.ceil_mode}
    found["stride"] = None if m.stride is None else tuple_of(m.stride, n)
    return over(nn.LpPool(m.norm_type, **found), n)


@modules(*each("AdaptiveAvgPool"))
def _adaptive_avg_pool(m: Any) -> Function:
    n = axes_of(m)
    return over(nn.AdaptiveAvgPool(tuple_of(m.output_size, n)), n)


@modules(*each("AdaptiveMaxPool"))
def _adaptive_max_pool(m: Any) -> Function:
    n = axes_of(m)
    return over(nn.AdaptiveMaxPool(tuple_of(m.output_size, n)), n)


@modules("FractionalMaxPool2d", "FractionalMaxPool3d")
def _fractional_max_pool(m: Any) -> Function:
    n = axes_of(m)
    samples = array(m._random_samples).astype(np.float32)
    samples = samples[..., ::-1] if n == 2 else samples  # torch has the width first in 2d
    sizes = tuple_of(m.kernel_size, n)

    def run(x: Any) -> Any:
        last = jnp.moveaxis(x, -1 - n, -1)
        found = m.output_size
        if found is None:
            ratios = tuple_of(m.output_ratio, n)
            along = last.shape[-1 - n : -1]
            found = tuple(int(size * r) for size, r in zip(along, ratios, strict=True))
        given = samples if last.ndim == n + 2 else samples[0]
        pair = fractional_max_pool(last, sizes, tuple_of(found, n), given)
        y, index = (jnp.moveaxis(a, -1, -1 - n) for a in pair)
        return (y, index) if m.return_indices else y

    return run


# ---- norms ----


@modules(*each("BatchNorm"))
def _batch_norm(m: Any) -> Function:
    momentum = None if m.momentum is None else 1 - m.momentum
    params = weights(m, "scale", "weight", "b", "bias")
    layer = nn.BatchNorm(momentum, "scale" in params, "b" in params, m.eps, 1)
    n = m.num_features
    state = {"mean": jnp.zeros(n), "var": jnp.ones(n)}
    if m.running_mean is not None:
        state = {"mean": array(m.running_mean), "var": array(m.running_var)}
    state |= {"count": jnp.int32(0)} if momentum is None else {}
    train = m.training or m.running_mean is None
    return lambda x: layer.apply(params, x, state=state, train=train)[0]


@modules(*each("InstanceNorm"), *each("LazyInstanceNorm"))
def _instance_norm(m: Any) -> Function:
    n, params = axes_of(m), weights(m, "scale", "weight", "b", "bias")
    options: dict[str, Any] = {"spatial": n, "eps": m.eps}
    options |= {"scale": "scale" in params, "bias": "b" in params}
    if not m.track_running_stats:
        return over(nn.InstanceNorm(**options), n, params)
    layer = nn.InstanceNorm(**options, track_running_stats=True, momentum=1 - m.momentum)
    state = {"mean": array(m.running_mean), "var": array(m.running_var)}
    return over(layer, n, params, state=state, train=m.training)


@modules("GroupNorm")
def _group_norm(m: Any) -> Function:
    params = weights(m, "scale", "weight", "b", "bias")
    layer = nn.GroupNorm(m.num_groups, "scale" in params, "b" in params, m.eps)
    return lambda x: over(layer, x.ndim - 2, params)(x)


@modules("LayerNorm")
def _layer_norm(m: Any) -> Function:
    params = weights(m, "scale", "weight", "b", "bias")
    axes = tuple(range(-len(m.normalized_shape), 0))
    layer = nn.LayerNorm("scale" in params, "b" in params, m.eps, axes)
    return functools.partial(layer.apply, params)


@modules("RMSNorm")
def _rms_norm(m: Any) -> Function:
    params = weights(m, "scale", "weight")
    axes = tuple(range(-len(m.normalized_shape), 0))
    eps = float(np.finfo(np.float32).eps) if m.eps is None else m.eps
    return functools.partial(nn.RMSNorm("scale" in params, eps, axes).apply, params)


@modules("LocalResponseNorm")
def _local_response_norm(m: Any) -> Function:
    layer = nn.LocalResponseNorm(m.size, m.alpha, m.beta, m.k)
    return lambda x: over(layer, x.ndim - 2)(x)


# ---- padding and functions ----


@modules(*(name for kind in ("Reflection", "Replication", "Zero", "Circular", "Constant")
           for name in each(f"{kind}Pad")))  # fmt: skip
def _pad(m: Any) -> Function:
    modes = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    mode: Any = modes.get(type(m).__name__[:-5], "constant")
    pairs = np.reshape(m.padding, (-1, 2))[::-1].tolist()  # torch has the last axis first
    amounts = tuple((before, after) for before, after in pairs)
    value = float(getattr(m, "value", 0.0))
    return over(nn.Pad(amounts, mode, value), len(amounts))


def _hard_shrink(x: Any, lambd: float) -> Any:
    return jnp.where(jnp.abs(x) > lambd, x, 0)


def _softplus(x: Any, beta: float, threshold: float) -> Any:
    return jnp.where(beta * x > threshold, x, jax.nn.softplus(beta * x) / beta)


def _soft_shrink(x: Any, lambd: float) -> Any:
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - lambd, 0)


FUNCTIONS: dict[str, Callable[[Any], Function]] = {
    "CELU": lambda m: functools.partial(jax.nn.celu, alpha=m.alpha),
    "ELU": lambda m: functools.partial(jax.nn.elu, alpha=m.alpha),
    "GELU": lambda m: functools.partial(jax.nn.gelu, approximate=m.approximate == "tanh"),
    "GLU": lambda m: functools.partial(jax.nn.glu, axis=m.dim),
    "Hardshrink": lambda m: functools.partial(_hard_shrink, lambd=m.lambd),
    "Hardswish": lambda m: jax.nn.hard_swish,
    "Hardtanh": lambda m: lambda x: jnp.clip(x, m.min_val, m.max_val),
    "LeakyReLU": lambda m: functools.partial(jax.nn.leaky_relu, negative_slope=m.negative_slope),
    "LogSigmoid": lambda m: jax.nn.log_sigmoid,
    "LogSoftmax": lambda m: functools.partial(jax.nn.log_softmax, axis=m.dim),
    "Mish": lambda m: jax.nn.mish,
    "ReLU": lambda m: jax.nn.relu,
    "ReLU6": lambda m: jax.nn.relu6,
    "SELU": lambda m: jax.nn.selu,
    "SiLU": lambda m: jax.nn.silu,
    "Sigmoid": lambda m: jax.nn.sigmoid,
    "Softmax": lambda m: functools.partial(jax.nn.softmax, axis=m.dim),
    "Softmax2d": lambda m: functools.partial(jax.nn.softmax, axis=-3),
    "Softmin": lambda m: functools.partial(soft_min, axis=-1 if m.dim is None else m.dim),
    "Softplus": lambda m: functools.partial(_softplus, beta=m.beta, threshold=m.threshold),
    "Softshrink": lambda m: functools.partial(_soft_shrink, lambd=m.lambd),
    "Softsign": lambda m: jax.nn.soft_sign,
    "Tanh": lambda m: jnp.tanh,
    "Tanhshrink": lambda m: lambda x: x - jnp.tanh(x),
    "Threshold": lambda m: lambda x: jnp.where(x > m.threshold, x, m.value),
}
READERS |= FUNCTIONS


@modules("PReLU")
def _prelu(m: Any) -> Function:
    alpha = array(m.weight)
    if alpha.size == 1:
        return functools.partial(nn.PReLU().apply, {"alpha": alpha.reshape(())})
    return lambda x: nn.PReLU(axis=1).apply({"alpha": alpha}, x)


# ---- attention ----


def attention_params(m: Any) -> dict[str, Any]:
    n = m.embed_dim
    parts = {"query": slice(n), "key": slice(n, 2 * n), "value": slice(2 * n, None)}
    w, b = array(m.in_proj_weight), array(m.in_proj_bias)
    found = {k: {"w": w[s].T} | ({} if b is None else {"b": b[s]}) for k, s in parts.items()}
    return found | {"out": {"w": array(m.out_proj.weight).T} | weights(m.out_proj, "b", "bias")}


def heads_of(m: Any) -> nn.MultiHeadAttention:
    return nn.MultiHeadAttention(m.num_heads, bias=m.in_proj_bias is not None)


def visible(mask: Any, padding: Any) -> Any:
    """torch's masks, True for hidden positions, as ours, for arrays with a batch axis."""
    seen = None
    if mask is not None:
        mask = ~array(mask)
        seen = mask[None] if mask.ndim == 3 else mask[None, None]
    if padding is not None:
        real = ~array(padding)
        real = (real[None] if real.ndim == 1 else real)[:, None, None, :]
        seen = real if seen is None else seen & real
    return seen


@modules("MultiheadAttention")
def _attention(m: Any) -> Function:
    net, params = heads_of(m), attention_params(m)

    def run(q: Any, k: Any, v: Any, key_padding_mask: Any = None, attn_mask: Any = None) -> Any:
        q, k, v = (a[None] for a in (q, k, v))
        seen = visible(attn_mask, key_padding_mask)
        y, w = net.apply(params, q, k, v, mask=seen, method="with_weights")
        return y[0], w.mean(1)[0]

    return run


def encoder_layer(m: Any) -> tuple[nn.EncoderLayer, Any]:
    n = m.linear1.out_features
    feed_forward = feed_forward_of(m)
    norm = nn.LayerNorm(bias=m.norm1.bias is not None, eps=m.norm1.eps)
    net = nn.EncoderLayer(
        heads_of(m.self_attn), feed_forward, norm_first=m.norm_first,
        attention_norm=norm, feed_forward_norm=norm,
    )  # fmt: skip
    del n
    return net, {
        "attention": attention_params(m.self_attn),
        "feed_forward": feed_forward_params(m),
        "attention_norm": weights(m.norm1, "scale", "weight", "b", "bias"),
        "feed_forward_norm": weights(m.norm2, "scale", "weight", "b", "bias"),
    }


def feed_forward_of(m: Any) -> nn.Layer:
    exact = functools.partial(jax.nn.gelu, approximate=False)
    activation: Any = jax.nn.relu if m.activation.__name__ == "relu" else exact
    bias = m.linear1.bias is not None
    return nn.Sequential(
        nn.Dense(m.linear1.out_features, bias=bias), activation,
        nn.Dense(m.linear2.out_features, bias=bias),
    )  # fmt: skip


def feed_forward_params(m: Any) -> Any:
    both = (
        {"w": array(one.weight).T} | weights(one, "b", "bias") for one in (m.linear1, m.linear2)
    )
    one, two = both
    return one, {}, two


def batched(m: Any, run: Function) -> Function:
    """Add a batch axis where there is none, and have the batch first."""

    def wrapped(*xs: Any, **named: Any) -> Any:
        if xs[0].ndim == 2:
            return run(*(x[None] for x in xs), **named)[0]
        if m.self_attn.batch_first if hasattr(m, "self_attn") else m.batch_first:
            return run(*xs, **named)
        return jnp.swapaxes(run(*(jnp.swapaxes(x, 0, 1) for x in xs), **named), 0, 1)

    return wrapped


@modules("TransformerEncoderLayer")
def _encoder_layer(m: Any) -> Function:
    net, params = encoder_layer(m)

    def run(x: Any, src_mask: Any = None, src_key_padding_mask: Any = None) -> Any:
        mask = visible(src_mask, src_key_padding_mask)
        return net.apply(params, x, **({} if mask is None else {"mask": mask}))

    return batched(m, run)


def decoder_layer(m: Any) -> tuple[nn.DecoderLayer, Any]:
    norm = nn.LayerNorm(bias=m.norm1.bias is not None, eps=m.norm1.eps)
    net = nn.DecoderLayer(
        heads_of(m.self_attn), heads_of(m.multihead_attn), feed_forward_of(m),
        norm_first=m.norm_first, attention_norm=norm, cross_attention_norm=norm,
        feed_forward_norm=norm,
    )  # fmt: skip
    norms = {"attention_norm": m.norm1, "cross_attention_norm": m.norm2}
    norms["feed_forward_norm"] = m.norm3
    return net, {
        "attention": attention_params(m.self_attn),
        "cross_attention": attention_params(m.multihead_attn),
        "feed_forward": feed_forward_params(m),
        **{k: weights(one, "scale", "weight", "b", "bias") for k, one in norms.items()},
    }


@modules("TransformerDecoderLayer")
def _decoder_layer(m: Any) -> Function:
    net, params = decoder_layer(m)

    def run(
        x: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None,
        tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
    ) -> Any:  # fmt: skip
        masks = {
            "mask": visible(tgt_mask, tgt_key_padding_mask),
            "memory_mask": visible(memory_mask, memory_key_padding_mask),
        }
        return net.apply(params, x, memory, **{k: a for k, a in masks.items() if a is not None})

    return batched(m, run)


@modules("TransformerEncoder")
def _encoder(m: Any) -> Function:
    layers = [encoder_layer(one) for one in m.layers]

    def run(x: Any, mask: Any = None, src_key_padding_mask: Any = None) -> Any:
        seen = visible(mask, src_key_padding_mask)
        for net, params in layers:
            x = net.apply(params, x, **({} if seen is None else {"mask": seen}))
        return x if m.norm is None else convert(m.norm)(x)

    return batched(m.layers[0], run)


@modules("Transformer")
def _transformer(m: Any) -> Function:
    encoders = [encoder_layer(one) for one in m.encoder.layers]
    decoders = [decoder_layer(one) for one in m.decoder.layers]

    def run(
        x: Any, y: Any, src_mask: Any = None, tgt_mask: Any = None,
        src_key_padding_mask: Any = None, tgt_key_padding_mask: Any = None,
    ) -> Any:  # fmt: skip
        seen = visible(src_mask, src_key_padding_mask)
        for net, params in encoders:
            x = net.apply(params, x, **({} if seen is None else {"mask": seen}))
        x = convert(m.encoder.norm)(x)
        seen = visible(tgt_mask, tgt_key_padding_mask)
        for net, params in decoders:
            y = net.apply(params, y, x, **({} if seen is None else {"mask": seen}))
        return convert(m.decoder.norm)(y)

    return batched(m, run)


# ---- recurrence ----


def cell_of(m: Any) -> nn.Cell:
    name = type(m).__name__.removesuffix("Cell")
    if name == "RNN":
        activation = jax.nn.relu if m.nonlinearity == "relu" else jnp.tanh
        return nn.RNNCell(m.hidden_size, activation, bias=m.bias)
    if name == "GRU":
        return nn.GRUCell(m.hidden_size, bias=m.bias)
    projection = getattr(m, "proj_size", 0) or None
    return nn.LSTMCell(m.hidden_size, bias=m.bias, projection=projection)


def cell_params(m: Any, suffix: str = "") -> dict[str, Any]:
    names = {"w": "weight_ih", "u": "weight_hh", "b": "bias_ih", "c": "bias_hh", "p": "weight_hr"}
    a = {k: array(getattr(m, t + suffix, None)) for k, t in names.items()}
    found: dict[str, Any] = {"input": {"w": a["w"].T}, "recurrent": {"w": a["u"].T}}
    if m.bias:
        b = a["b"] + a["c"]
        if isinstance(cell_of(m), nn.GRUCell):
            n = m.hidden_size
            b = jnp.concatenate([b[: 2 * n], a["b"][2 * n :]])
            found["recurrent"]["b"] = a["c"][2 * n :]
        found["input"]["b"] = b
    return found | ({} if a["p"] is None else {"projection": {"w": a["p"].T}})


@modules("RNNCell", "GRUCell", "LSTMCell")
def _cell(m: Any) -> Function:
    cell, params = cell_of(m), cell_params(m)

    def run(x: Any, state: Any) -> Any:
        h, c = state if isinstance(state, tuple) else (state, None)
        carry, y = cell.apply(params, {"h": h} | ({} if c is None else {"c": c}), x)
        return y if c is None else (y, carry["c"])

    return run


@modules("RNN", "GRU", "LSTM")
def _recurrent(m: Any) -> Function:
    cell = cell_of(m)
    suffixes = ["", "_reverse"][: 1 + m.bidirectional]

    def run(x: Any, state: Any = None) -> Any:
        single = x.ndim == 2
        begins = () if state is None else (state if isinstance(state, tuple) else (state,))
        if single:
            x, begins = x[None], [one[:, None] for one in begins]
        elif not m.batch_first:
            x = jnp.swapaxes(x, 0, 1)
        lasts: list[Any] = []
        for i in range(m.num_layers):
            ys = []
            for suffix in suffixes:
                given = {k: one[len(lasts)] for k, one in zip("hc", begins, strict=False)}
                net = nn.Recurrent(cell, reverse=bool(suffix))
                last, y = net.apply(
                    cell_params(m, f"_l{i}{suffix}"), x, carry=given or None, method="unroll"
                )
                ys.append(y)
                lasts.append(last)
            x = jnp.concatenate(ys, -1)
        ends = [jnp.stack([one[k] for one in lasts]) for k in ("h", "c") if k in lasts[0]]
        if single:
            x, ends = x[0], [one[:, 0] for one in ends]
        elif not m.batch_first:
            x = jnp.swapaxes(x, 0, 1)
        return x, tuple(ends) if len(ends) == 2 else ends[0]

    return run
