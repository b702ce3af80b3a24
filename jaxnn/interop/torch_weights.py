"""from_torch: a state_dict of torch as parameters and state; torch itself is not needed."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..core.layer import Layer
from ..functional.positions import rotary_frequencies
from ..layers.attention import MultiHeadAttention
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.convolution_transpose import ConvTranspose
from ..layers.elementwise import LearnedArray, PReLU
from ..layers.embedding import Embedding, EmbeddingBag, PatchEmbedding
from ..layers.gated import GatedFeedForward
from ..layers.linear import Bilinear, Dense
from ..layers.normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from ..layers.positions import LearnedPositions
from ..layers.recurrence import GRUCell, LSTMCell, RNNCell
from ..layers.rotary import RotaryEmbedding
from ..train.weights import Weights
from .conversion import converted
from .reparametrized import Made, spectral_normed, weight_normed
from .source import Library, Names, Source, as_numpy, fitted, without_ones


def from_torch(
    net: Layer,
    state_dict: Mapping[str, Any],
    *inputs: Any,
    names: Names | None = None,
    ignore: Iterable[str] = (),
    **named: Any,
) -> Weights:
    """The `train.Weights` of `net` from a torch `state_dict`, or any dict of arrays so named.

    Layers are converted by their type: the axes of a weight are brought into our order, the two
    biases of an LSTM added up, a packed projection of `torch.nn.MultiheadAttention` cut. A layer at
    the path `blocks/0/mlp` takes what is called `blocks.0.mlp.weight` and so on; `names` says where
    it is called otherwise, by path or pattern of paths, the first that fits:

    - `{"blocks/0": "transformer.h.0"}`: that prefix, for all below it too;
    - `{"**/norm": ".ln"}`: behind the prefix of what is above; `"."` is that prefix itself;
    - `{"blocks": "transformer.h.*"}`: `*` is the number of a copy, where a `Repeat` stacks them;
    - `{"lstm": "lstm.@_l0"}`: `@` is the place of the array's name, at the end by default;
    - `{"attention": (".attn", converter)}`: converted by `converter(layer, source)`, which gives
      the parameters, in our layout, from arrays `source("weight")`;
    - `{"head": ("head", interop.channels_first(C, H, W))}`: a layer whose input was flattened from
      an image, which torch keeps as (C, H, W); `interop.channels_last(H, W, C)` if it does not;
    - `{"head": ("embed", interop.tied)}`: two layers take the same arrays.

    `interop.GPT2`, `LLAMA`, `VIT` and `RESNET` are the names of models of transformers and
    torchvision. Tensors may require gradients, be on any device and have any floating type. Weight
    normalization of both kinds (`weight_g`, `parametrizations`) goes into `nn.WeightNorm`, or into
    the layer itself; spectral normalization likewise. Caches of `nn.with_cache` start empty.

    Args:
        net: the network.
        state_dict: tensors or arrays by torch's names.
        inputs, named: as for `net.init`, arrays or `jax.ShapeDtypeStruct`.
        names: from a path of the network, or a pattern of paths, to a prefix of names, or to a pair
            of a prefix and a converter; by default the prefix is the path.
        ignore: patterns of names that may be left over. Buffers that hold nothing learned, such as
            `num_batches_tracked` and causal masks, may always be, and so may the weight of a head
            that is tied to the embedding, if it is in the network too.

    Returns:
        Parameters and state, in the declared types.

    Raises:
        ValueError: an array is missing, of another shape, used nowhere, or used by two layers; a
            path in `names` is not in the network; or the weights of a layer may be in another
            order, since they run over positions and channels of an image and neither
            `channels_first` nor `channels_last` is stated. All are listed.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Dense(2), jax.nn.relu)
    >>> state_dict = {"0.weight": np.array([[1.0, 2, 3], [4, 5, 6]]), "0.bias": np.zeros(2)}
    >>> from_torch(net, state_dict, jnp.ones((1, 3))).params[0]["w"].tolist()
    [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    """
    return converted(TORCH, net, state_dict, inputs, named, names or {}, ignore)


def dense(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.Linear: weight (features, inputs)."""
    shape = source.shape("w")
    outputs = math.prod(source.shape("b")) if "b" in source.declared else 0
    if isinstance(layer, Dense):
        features = layer.features if isinstance(layer.features, tuple) else (layer.features,)
        outputs = math.prod(features)
    outputs = outputs or shape[-1]
    weight = fitted(source("weight"), (outputs, math.prod(shape) // outputs), "weight")
    found = {"w": weight.T.reshape(shape)}
    return found | _bias(source, source.shape("b") if "b" in source.declared else ())


def _bias(source: Source, shape: tuple[int, ...] = ()) -> dict[str, Any]:
    if "b" not in source.declared:
        return {}
    bias = source("bias")
    return {"b": bias.reshape(shape) if shape and bias.size == math.prod(shape) else bias}


def convolution(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.Conv1d to 3d: weight (features, inputs / groups, *window)."""
    return {"w": np.moveaxis(source("weight"), (0, 1), (-1, -2))} | _bias(source)


def transposed_convolution(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.ConvTranspose1d to 3d: weight (inputs, features / groups, *window)."""
    parts = np.concatenate(np.split(source("weight"), layer.groups), 1)
    return {"w": np.moveaxis(parts, (0, 1), (-2, -1))} | _bias(source)


def bilinear(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.Bilinear: weight (features, n, m)."""
    return {"w": np.moveaxis(source("weight"), 0, -1)} | _bias(source)


def norm(layer: Any, source: Source) -> dict[str, Any]:
    """The norms of torch: weight and bias."""
    found = {"scale": source("weight")} if "scale" in source.declared else {}
    return found | _bias(source)


def running(layer: Any, source: Source) -> dict[str, Any]:
    """The running statistics of torch.nn.BatchNorm1d to 3d."""
    return {"mean": source("running_mean"), "var": source("running_var")}


def table(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.Embedding, of tokens or of positions; or a tensor of its own."""
    if source.has("weight"):
        return {"w": source("weight")}
    return {"w": without_ones(source(""), source.shape("w"))}


def prelu(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.PReLU: one weight, or one for each channel."""
    weight = source("weight")
    return {"alpha": weight if layer.per_feature else fitted(weight, (1,), "weight")[0]}


def attention(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.MultiheadAttention, or linear layers called query, key, value and out."""
    parts = ("query", "key", "value")
    if not source.has("in_proj_weight") and not source.has("q_proj_weight"):
        found = {part: dense(None, source.at(part)) for part in (*parts, "out")}
    else:
        if source.has("in_proj_weight"):
            weights = np.split(source("in_proj_weight"), 3)
        else:
            weights = [source(f"{part[0]}_proj_weight") for part in parts]
        biases = np.split(source("in_proj_bias"), 3) if layer.bias else [None] * 3
        found = {
            part: {"w": w.T} | ({} if b is None else {"b": b})
            for part, w, b in zip(parts, weights, biases, strict=True)
        }
        out = {"w": source("out_proj.weight").T}
        found["out"] = out | ({"b": source("out_proj.bias")} if layer.bias else {})
    return found | {
        name: {"scale": source.at(name)("weight")}
        for name in ("query_norm", "key_norm")
        if name in source.declared
    }


def gated(layer: Any, source: Source) -> dict[str, Any]:
    """Linear layers called gate, up and down."""
    return {part: dense(None, source.at(part)) for part in ("gate", "up", "down")}


def _gates(source: Source, side: str) -> tuple[Any, Any]:
    """The weights (inputs, gates) and biases of the input (ih) or the hidden state (hh)."""
    weight = source(f"weight_{side}").T
    name = f"bias_{side}"
    return weight, source(name) if source.has(name) else np.zeros(weight.shape[-1], weight.dtype)


def recurrent(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.RNN and LSTM: the gates in our order, with two biases that are added up."""
    (w, b), (u, c) = _gates(source, "ih"), _gates(source, "hh")
    return {"input": {"w": w, "b": b + c}, "recurrent": {"w": u}}


def gru(layer: Any, source: Source) -> dict[str, Any]:
    """torch.nn.GRU: the second bias of n stays apart, the others are added up."""
    (w, b), (u, c) = _gates(source, "ih"), _gates(source, "hh")
    n = c.shape[0] // 3
    added = np.concatenate([c[: 2 * n], np.zeros_like(c[2 * n :])])
    return {"input": {"w": w, "b": b + added}, "recurrent": {"w": u, "b": c[2 * n :]}}


def made(book: Any, layer: Any, name: str) -> Made | None:
    """A weight of torch.nn.utils.weight_norm or spectral_norm, or of their parametrizations."""
    head, dot, last = name.rpartition(".")
    inner = f"{head}{dot}parametrizations.{last}"
    for names in ((f"{name}_g", f"{name}_v"), (f"{inner}.original0", f"{inner}.original1")):
        if all(n in book.weights for n in names):
            g, v = map(book.read, names)
            return weight_normed(names, g, v)
    for names in (
        (f"{name}_orig", f"{name}_u", f"{name}_v"),
        (f"{inner}.original", f"{inner}.0._u", f"{inner}.0._v"),
    ):
        if all(n in book.weights for n in names):
            w, u, v = map(book.read, names)
            return spectral_normed(
                names, w, u, v, axis=1 if isinstance(layer, ConvTranspose) else 0
            )
    return None


def is_buffer(name: str, array: Any, layers: list[Any]) -> bool:
    """Counters of batches, masks, and tables of positions that models save with their weights."""
    last, ndim = name.rpartition(".")[2], len(getattr(array, "shape", ()))
    if last == "num_batches_tracked":
        return True
    if last == "bias" and ndim == 4:  # GPT-2's causal mask, (1, 1, T, T)
        mask = as_numpy(array)
        return mask.shape[:2] == (1, 1) and np.array_equal(mask[0, 0], np.tri(mask.shape[2]))
    if last == "masked_bias" and ndim == 0:  # the score that GPT-2 gives what is masked
        return bool(as_numpy(array) <= -1e4)
    if last == "position_ids":
        return np.array_equal(as_numpy(array).ravel(), np.arange(math.prod(array.shape)))
    if last == "inv_freq" and ndim == 1:
        turns = [layer.rotary for layer in layers if getattr(layer, "rotary", None) is not None]
        return bool(turns) and all(_turns_by(turn, as_numpy(array)) for turn in turns)
    return False


def _turns_by(rotary: RotaryEmbedding, frequencies: Any) -> bool:
    """Whether a model that saves these frequencies turns by the angles of `rotary`."""
    features = 2 * frequencies.size
    own = rotary_frequencies(features, rotary.base)
    if rotary.scaling is not None:
        own = rotary.scaling.frequencies(features, rotary.base, 1)
    # Half precision keeps eight bits of a frequency, or a multiple of 6e-8.
    return np.allclose(frequencies, own, rtol=2.0**-8, atol=6e-8)


TORCH = Library(
    "torch",
    ".",
    {
        Dense: dense,
        Conv: convolution,
        DepthwiseConv: convolution,
        PatchEmbedding: convolution,
        ConvTranspose: transposed_convolution,
        Bilinear: bilinear,
        LayerNorm: norm,
        RMSNorm: norm,
        GroupNorm: norm,
        InstanceNorm: norm,
        BatchNorm: norm,
        Embedding: table,
        EmbeddingBag: table,
        LearnedPositions: table,
        LearnedArray: table,
        PReLU: prelu,
        MultiHeadAttention: attention,
        GatedFeedForward: gated,
        RNNCell: recurrent,
        LSTMCell: recurrent,
        GRUCell: gru,
    },
    {BatchNorm: running},
    channels_first=True,
    made=made,
    is_buffer=is_buffer,
)
