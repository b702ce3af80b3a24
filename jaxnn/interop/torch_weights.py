"""from_torch: a state_dict of torch as parameters and state; torch itself is not needed."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..core.layer import Layer
from ..functional.positions import rotary_frequencies
from ..layers.attention import MultiHeadAttention
from ..layers.attention_scores import RelativePositionBias
from ..layers.batch_norm import BatchNorm
from ..layers.blocks import GatedFeedForward
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.elementwise import PReLU
from ..layers.embedding import EmbeddingBag, PatchEmbedding
from ..layers.linear import Bilinear, Dense
from ..layers.lstm import LSTMCell
from ..layers.normalization import InstanceNorm
from ..layers.patches import ConvTranspose
from ..layers.recurrence import GRUCell, RNNCell
from ..layers.rotary import RotaryEmbedding
from ..layers.state_space import Mamba2
from ..train.weights import Weights
from .conversion import convert_weights
from .orders import Made, fitted, spectral_normed, weight_normed
from .source_arrays import (
    NORMS,
    TABLES,
    Library,
    Names,
    SourceArrays,
    as_numpy,
    cell_arrays,
    renamed,
    single_array,
)


def from_torch(
    net: Layer,
    state_dict: Mapping[str, Any],
    *inputs: Any,
    names: Names | None = None,
    ignore: Iterable[str] = (),
    **named: Any,
) -> Weights:
    """Convert a torch `state_dict`, or a dict with the same names, to `train.Weights` for `net`.

    Each layer is converted by its type: the axes of weights are transposed to the order of jaxnn,
    the two biases of an LSTM are added, and the packed projection of `torch.nn.MultiheadAttention`
    is split. A layer at the path `blocks/0/mlp` receives the arrays `blocks.0.mlp.weight`,
    `blocks.0.mlp.bias`, and so on. For other names, pass `names`, a dict by path or pattern of
    paths. The first pattern that matches applies:

    - `{"blocks/0": "transformer.h.0"}`: this prefix, also for all layers below the path;
    - `{"**/norm": ".ln"}`: a suffix to the prefix of the parent layer; `"."` is the prefix itself;
    - `{"blocks": "transformer.h.*"}`: `*` is the index of a copy that a `Repeat` stacks;
    - `{"lstm": "lstm.@_l0"}`: `@` is replaced by the name of the array, by default at the end;
    - `{"attention": (".attn", converter)}`: `converter(layer, source)` reads arrays such as
      `source("weight")` and returns the parameters in the layout of jaxnn;
    - `{"head": ("head", interop.channels_first(C, H, W))}`: the input of the layer is a flattened
      image in the order (C, H, W), the default of torch; if the model permutes the image to
      channels last before it is flattened, write `interop.channels_last(H, W, C)`;
    - `{"head": ("embed", interop.tied)}`: two layers share the same arrays.

    `interop.GPT2`, `LLAMA`, `BERT`, `VIT`, `RESNET`, and `CONVNEXT` are such dicts for models of
    transformers, torchvision, and timm. Tensors may require gradients, be on any device, and have
    any floating type. Weight normalization of both kinds (`weight_g` and `parametrizations`) is
    loaded into `nn.WeightNorm`, or multiplied into the weight if the layer is not wrapped; spectral
    normalization is handled in the same way. Caches of `nn.with_cache` start empty.

    Args:
        net: The network.
        state_dict: Tensors or arrays by the names of torch.
        *inputs: Example inputs, as for `net.init`: arrays or `jax.ShapeDtypeStruct`.
        **named: Named inputs, as for `net.init`.
        names: Dict from a path of the network, or a pattern of paths, to a prefix of names or to a
            pair of a prefix and a converter. Default: None, prefixes equal paths.
        ignore: Patterns of names that may remain unused. Buffers that are not learned, such as
            `num_batches_tracked` and causal masks, may always remain unused, and so may the weight
            of a head that is tied to the embedding in the network. Default: ().

    Returns:
        Parameters and state, in the types that the network declares.

    Raises:
        ValueError: An array is missing, unused, used by two layers, or of another shape; a path in
            `names` is not in the network; or a layer follows a flattened image, and neither
            `channels_first` nor `channels_last` states the order of its weights. The message lists
            all problems.
        TypeError: `names` has a rule of another type.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Dense(2), jax.nn.relu)
    >>> state_dict = {"0.weight": np.array([[1.0, 2, 3], [4, 5, 6]]), "0.bias": np.zeros(2)}
    >>> from_torch(net, state_dict, jnp.ones((1, 3))).params[0]["w"].tolist()
    [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    """
    return convert_weights(TORCH, net, state_dict, inputs, named, names or {}, ignore)


def dense(layer: Any, source: SourceArrays) -> dict[str, Any]:
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


def _bias(source: SourceArrays, shape: tuple[int, ...] = ()) -> dict[str, Any]:
    if "b" not in source.declared:
        return {}
    bias = source("bias")
    return {"b": bias.reshape(shape) if shape and bias.size == math.prod(shape) else bias}


def _convolution(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """torch.nn.Conv1d to 3d: weight `(features, inputs / groups, *window)`."""
    return {"w": np.moveaxis(source("weight"), (0, 1), (-1, -2))} | _bias(source)


def _transposed_convolution(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """torch.nn.ConvTranspose1d to 3d: weight `(inputs, features / groups, *window)`."""
    parts = np.concatenate(np.split(source("weight"), layer.groups), 1)
    return {"w": np.moveaxis(parts, (0, 1), (-2, -1))} | _bias(source)


def _bilinear(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """torch.nn.Bilinear: weight (features, n, m)."""
    return {"w": np.moveaxis(source("weight"), 0, -1)} | _bias(source)


def _prelu(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """torch.nn.PReLU: one weight, or one for each channel."""
    weight = source("weight")
    return {"alpha": weight if layer.axis is not None else fitted(weight, (1,), "weight")[0]}


def _attention(layer: Any, source: SourceArrays) -> dict[str, Any]:
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


def _gated(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """Linear layers called gate, up and down."""
    return {part: dense(None, source.at(part)) for part in ("gate", "up", "down")}


def _mamba(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """Mamba2Mixer of transformers."""
    found = {
        ours: {"w": source(f"{name}.weight").T}
        | ({"b": source(f"{name}.bias")} if layer.bias else {})
        for ours, name in (("input", "in_proj"), ("output", "out_proj"))
    }
    kernel = np.moveaxis(source("conv1d.weight"), (0, 1), (-1, -2))
    names = {"log_rate": "A_log", "time_bias": "dt_bias", "skip": "D"}
    return (
        found
        | {"conv": {"w": kernel, "b": source("conv1d.bias")}}
        | {ours: source(name) for ours, name in names.items()}
        | {"norm": {"scale": source("norm.weight")}}
    )


def _cell(source: SourceArrays) -> tuple[Any, Any, Any, Any]:
    """weight_ih, weight_hh, bias_ih, and bias_hh, with gates in our order."""
    names = ("bias_ih", "bias_hh")
    b, c = (source(name) if source.has(name) else None for name in names)
    return source("weight_ih").T, source("weight_hh").T, b, c


def _recurrent(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """torch.nn.RNN and LSTM: the sum of both biases."""
    found = cell_arrays(source, *_cell(source))
    if source.has("weight_hr"):
        found["projection"] = {"w": source("weight_hr").T}
    return found


def _gru(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """torch.nn.GRU: the sum of both biases, except that the second bias of n stays separate."""
    return cell_arrays(source, *_cell(source), apart=layer.features)


def _made(book: Any, layer: Any, name: str) -> Made | None:
    """Return a weight of weight_norm or spectral_norm of torch, or of their parametrizations."""
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


def _is_buffer(name: str, array: Any, layers: list[Any]) -> bool:
    """Return whether an array is a counter, mask, or table that models save with weights."""
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
    """Return whether the frequencies of a model are those of `rotary`."""
    features = 2 * frequencies.size
    own = rotary_frequencies(features, rotary.base)
    if rotary.scaling is not None:
        own = rotary.scaling.frequencies(features, rotary.base, 1)
    # bfloat16 keeps eight bits of a frequency, and float16 rounds it to a multiple of 6e-8.
    return np.allclose(frequencies, own, rtol=2.0**-8, atol=6e-8)


TORCH = Library(
    "torch",
    ".",
    {
        Dense: dense,
        Conv: _convolution,
        DepthwiseConv: _convolution,
        PatchEmbedding: _convolution,
        ConvTranspose: _transposed_convolution,
        Bilinear: _bilinear,
        **dict.fromkeys(NORMS, renamed(scale="weight", b="bias")),
        **dict.fromkeys((*TABLES, EmbeddingBag, RelativePositionBias), single_array("weight")),
        PReLU: _prelu,
        MultiHeadAttention: _attention,
        GatedFeedForward: _gated,
        Mamba2: _mamba,
        RNNCell: _recurrent,
        LSTMCell: _recurrent,
        GRUCell: _gru,
    },
    dict.fromkeys(
        (BatchNorm, InstanceNorm),
        renamed(mean="running_mean", var="running_var", count="num_batches_tracked"),
    ),
    channels_first=True,
    made=_made,
    is_buffer=_is_buffer,
)
