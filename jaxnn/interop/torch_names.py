"""Names of arrays in checkpoints of transformers and torchvision, and the conversion back to them.

Each table maps paths of a network to names there, for `from_torch`. `state_dict` follows the same
table in the other direction: each converter of a layer has an inverse.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..core.layer import Layer
from ..layers.attention import MultiHeadAttention
from ..layers.attention_scores import RelativePositionBias
from ..layers.batch_norm import BatchNorm
from ..layers.blocks import GatedFeedForward
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.embedding import Embedding, PatchEmbedding
from ..layers.linear import Dense
from ..layers.normalization import LayerNorm, RMSNorm
from ..layers.positions import LearnedPositions
from .axes import Trace
from .book import Book
from .conversion import arrays_at, weight_owners
from .source_arrays import IfThere, Names, SourceArrays, without_ones
from .torch_weights import TORCH


def state_dict(
    net: Layer, params: Any, names: Names, state: Any = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Return parameters in the layout of torch, by the names that a table specifies.

    Args:
        net: The network.
        params: Its parameters.
        names: The table, as for `from_torch`.
        state: Its state, such as the statistics of batch norms. Default: None, no state.

    Raises:
        TypeError: A layer with parameters can only be converted from torch.
    """
    owners = list(weight_owners(net))
    book = Book(TORCH, {}, names, owners, Trace({}, set()))
    found: dict[str, np.ndarray[Any, Any]] = {}
    for owner in owners:
        trees = arrays_at(params, owner.path), arrays_at(state or {}, owner.path)
        own = jax.tree.map(np.asarray, trees[0] | trees[1])
        if not own:
            continue
        rule = book.rule(owner.path)
        kind = rule[1] if isinstance(rule, tuple) else type(owner.layer)
        if kind not in INVERSES:
            raise TypeError(f"{owner.layer!r:.200} has no conversion to names of torch")
        for copy in itertools.product(*map(range, owner.copies({}))):
            one = jax.tree.map(lambda array, copy=copy: array[copy], own)
            INVERSES[kind](one, SourceArrays(book, owner, owner.path, copy, one), found)
    # np.ascontiguousarray would give a scalar an axis.
    return {name: np.asarray(array, order="C") for name, array in found.items()}


# An inverse adds the arrays of one copy of a layer to those that were found.
Inverse = Callable[[dict[str, Any], SourceArrays, dict[str, Any]], None]


def _dense(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    layer, w = source.owner.layer, params["w"]
    features = w.shape[-1]
    if isinstance(layer, Dense) and isinstance(layer.features, tuple):
        features = math.prod(layer.features)
    found[source.full("weight")] = w.reshape(-1, features).T
    if "b" in params:
        found[source.full("bias")] = params["b"].reshape(-1)


def _by_part(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    for part, arrays in params.items():
        (_dense if "w" in arrays else _norm)(arrays, source.at(part), found)


def _norm(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    for ours, theirs in (("scale", "weight"), ("b", "bias")):
        if ours in params:
            found[source.full(theirs)] = params[ours]


def _batch_norm(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    _norm(params, source, found)
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
        if ours in params:
            found[source.full(theirs)] = params[ours]
    if "mean" in params:
        found[source.full("num_batches_tracked")] = np.zeros((), np.int64)


def _table(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    found[source.full("weight")] = params["w"]


def packed_attention(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """GPT-2: c_attn (n, 3 n), with query, key, and value side by side, and c_proj, as x @ w + b."""
    weights = np.split(source("c_attn.weight"), 3, 1)
    biases = np.split(source("c_attn.bias"), 3)
    pairs = zip(("query", "key", "value"), weights, biases, strict=True)
    found = {part: {"w": w, "b": b} for part, w, b in pairs}
    return found | {"out": {"w": source("c_proj.weight"), "b": source("c_proj.bias")}}


def _packed(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    parts = [params[part] for part in ("query", "key", "value")]
    for ours, theirs in (("w", "weight"), ("b", "bias")):
        found[source.full(f"c_attn.{theirs}")] = np.concatenate([p[ours] for p in parts], -1)
        found[source.full(f"c_proj.{theirs}")] = params["out"][ours]


def untransposed(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """transformers' Conv1D: x @ weight + bias, with the weight in our layout."""
    return {"w": source("weight"), "b": source("bias")}


def _untransposed(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    found |= {source.full("weight"): params["w"], source.full("bias"): params["b"]}


def offset_norm(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """Gemma: a norm that multiplies by 1 + weight."""
    return {"scale": 1 + source("weight").astype(np.float32)}


def _offset_norm(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    found[source.full("weight")] = params["scale"] - 1


def _convolution(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    found[source.full("weight")] = np.moveaxis(params["w"], (-1, -2), (0, 1))
    if "b" in params:
        found[source.full("bias")] = params["b"]


def batched_array(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """ViT: an array for all images, named by the prefix, in three axes."""
    return {"w": without_ones(source(""), source.shape("w"))}


def _batched_array(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    w = params["w"]
    found[source.full("")] = w.reshape((1,) * (3 - w.ndim) + w.shape)


def own_name(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """A parameter of torch that the prefix names: an array, or the factors of a LayerScale."""
    (name,) = source.declared
    return {name: source("").reshape(source.shape(name))}


def _own_name(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    (found[source.full("")],) = params.values()


FIRST_POSITION = 2
"""The row of RoBERTa's position table that holds the first position; earlier rows are not used."""


def last_rows(layer: Any, source: SourceArrays) -> dict[str, Any]:
    """RoBERTa: a table of positions, the first of which is in row 2."""
    return {"w": source("weight")[FIRST_POSITION:]}


def _last_rows(params: dict[str, Any], source: SourceArrays, found: dict[str, Any]) -> None:
    found[source.full("weight")] = np.pad(params["w"], ((FIRST_POSITION, 0), (0, 0)))


INVERSES: dict[Any, Inverse] = {
    Dense: _dense,
    **dict.fromkeys((MultiHeadAttention, GatedFeedForward), _by_part),
    **dict.fromkeys((LayerNorm, RMSNorm), _norm),
    **dict.fromkeys((Embedding, LearnedPositions, RelativePositionBias), _table),
    **dict.fromkeys((Conv, DepthwiseConv, PatchEmbedding), _convolution),
    BatchNorm: _batch_norm,
    own_name: _own_name,
    packed_attention: _packed,
    untransposed: _untransposed,
    offset_norm: _offset_norm,
    last_rows: _last_rows,
    batched_array: _batched_array,
}


GPT2: Names = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "blocks": "transformer.h.*",
    "blocks/attention_norm": ".ln_1",
    "blocks/attention": (".attn", packed_attention),
    "blocks/feed_forward_norm": ".ln_2",
    "blocks/feed_forward": ".mlp",
    "blocks/feed_forward/up": (".c_fc", untransposed),
    "blocks/feed_forward/down": (".c_proj", untransposed),
    "norm": "transformer.ln_f",
    "head": IfThere("lm_head"),
}
"""transformers' GPT2LMHeadModel, for `GPT`. Its head is tied to the embedding by default."""

LLAMA: Names = {
    "embedding": "model.embed_tokens",
    "blocks": "model.layers.*",
    "blocks/attention_norm": ".input_layernorm",
    "blocks/attention": ".self_attn",
    "blocks/attention/query": ".q_proj",
    "blocks/attention/key": ".k_proj",
    "blocks/attention/value": ".v_proj",
    "blocks/attention/out": ".o_proj",
    "blocks/attention/query_norm": IfThere(".q_norm"),
    "blocks/attention/key_norm": IfThere(".k_norm"),
    "blocks/feed_forward_norm": ".post_attention_layernorm",
    "blocks/feed_forward": ".mlp",
    "blocks/feed_forward/gate": ".gate_proj",
    "blocks/feed_forward/up": ".up_proj",
    "blocks/feed_forward/down": ".down_proj",
    "norm": "model.norm",
    "head": IfThere("lm_head"),
}
"""transformers' LlamaForCausalLM, for `GPT`, and other models with the same names."""

GEMMA: Names = {
    "norm": ("model.norm", offset_norm),
    "blocks/attention_norm": (".input_layernorm", offset_norm),
    "blocks/feed_forward_norm": (".post_attention_layernorm", offset_norm),
} | {path: name for path, name in LLAMA.items() if not path.endswith("norm")}
"""transformers' GemmaForCausalLM, for `GPT`."""

BERT: Names = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "blocks": "encoder.layer.*",
    "blocks/attention": ".attention",
    "blocks/attention/query": ".self.query",
    "blocks/attention/key": ".self.key",
    "blocks/attention/value": ".self.value",
    "blocks/attention/out": ".output.dense",
    "blocks/attention_norm": ".attention.output.LayerNorm",
    "blocks/feed_forward": ".",
    "blocks/feed_forward/up": ".intermediate.dense",
    "blocks/feed_forward/down": ".output.dense",
    "blocks/feed_forward_norm": ".output.LayerNorm",
    "pooler": IfThere("pooler.dense"),
}
"""transformers' BertModel, for `BERT`."""

ROBERTA: Names = BERT | {"positions": ("embeddings.position_embeddings", last_rows)}
"""transformers' RobertaModel, for `BERT`."""

VIT: Names = {
    "patches": "conv_proj",
    "token": "class_token",
    "positions": "encoder.pos_embedding",
    "blocks": "encoder.layers.encoder_layer_*",
    "blocks/attention_norm": ".ln_1",
    "blocks/attention": ".self_attention",
    "blocks/feed_forward_norm": ".ln_2",
    "blocks/feed_forward": ".mlp",
    "blocks/feed_forward/up": ".0",
    "blocks/feed_forward/down": ".3",
    "norm": "encoder.ln",
    "head": "heads.head",
}
"""torchvision's VisionTransformer, for `ViT`."""

VIT_CLASSIFIER: Names = {
    "patches": "vit.embeddings.patch_embeddings.projection",
    "token": ("vit.embeddings.cls_token", batched_array),
    "positions": ("vit.embeddings.position_embeddings", batched_array),
    "blocks": "vit.encoder.layer.*",
    "blocks/attention_norm": ".layernorm_before",
    "blocks/attention": ".attention",
    "blocks/attention/query": ".attention.query",
    "blocks/attention/key": ".attention.key",
    "blocks/attention/value": ".attention.value",
    "blocks/attention/out": ".output.dense",
    "blocks/feed_forward_norm": ".layernorm_after",
    "blocks/feed_forward": ".",
    "blocks/feed_forward/up": ".intermediate.dense",
    "blocks/feed_forward/down": ".output.dense",
    "norm": "vit.layernorm",
    "head": IfThere("classifier"),
}
"""transformers' ViTForImageClassification, for `ViT`."""


def _dinov2(base: str) -> Names:
    """Return the names of DINOv2, whose checkpoints with registers have another prefix."""
    return {
        "patches": f"{base}.embeddings.patch_embeddings.projection",
        "token": (f"{base}.embeddings.cls_token", batched_array),
        "positions": (f"{base}.embeddings.position_embeddings", batched_array),
        "registers": (IfThere(f"{base}.embeddings.register_tokens"), batched_array),
        "blocks": f"{base}.encoder.layer.*",
        "blocks/attention_norm": ".norm1",
        "blocks/attention": ".attention",
        "blocks/attention/query": ".attention.query",
        "blocks/attention/key": ".attention.key",
        "blocks/attention/value": ".attention.value",
        "blocks/attention/out": ".output.dense",
        "blocks/attention_scale": (IfThere(".layer_scale1.lambda1"), own_name),
        "blocks/feed_forward_norm": ".norm2",
        "blocks/feed_forward": ".mlp",
        "blocks/feed_forward/up": ".fc1",
        "blocks/feed_forward/down": ".fc2",
        "blocks/feed_forward_scale": (IfThere(".layer_scale2.lambda1"), own_name),
        "norm": f"{base}.layernorm",
        "head": IfThere("classifier"),
    }


DINOV2: Names = _dinov2("dinov2")
"""transformers' Dinov2ForImageClassification, for `ViT`."""

DINOV2_REGISTERS: Names = _dinov2("dinov2_with_registers")
"""transformers' Dinov2WithRegistersForImageClassification, for `ViT`."""

RESNET: Names = {
    "stem/convolution/conv": "conv1",
    "stem/convolution/norm": "bn1",
    "stages/0": "layer1",
    "stages/1": "layer2",
    "stages/2": "layer3",
    "stages/3": "layer4",
    "**/branch": IfThere("."),
    "**/branch/*": IfThere("."),
    "**/first/conv": IfThere(".conv1"),
    "**/first/norm": IfThere(".bn1"),
    "**/narrow/conv": IfThere(".conv1"),
    "**/narrow/norm": IfThere(".bn1"),
    "**/second/conv": IfThere(".conv2"),
    "**/second/norm": IfThere(".bn2"),
    "**/middle/conv": IfThere(".conv2"),
    "**/middle/norm": IfThere(".bn2"),
    "**/wide/conv": IfThere(".conv3"),
    "**/wide/norm": IfThere(".bn3"),
    "**/shortcut": IfThere(".downsample"),
    "**/shortcut/conv": IfThere(".0"),
    "**/shortcut/norm": IfThere(".1"),
    "head": "fc",
}
"""torchvision's ResNet, for `ResNet`."""

RESNET_CLASSIFIER: Names = {
    "stem/convolution": "resnet.embedder.embedder",
    "**/conv": ".convolution",
    "**/norm": ".normalization",
    **{f"stages/{i}": IfThere(f"resnet.encoder.stages.{i}.layers") for i in range(8)},
    "**/branch": IfThere(".layer"),
    **{f"**/{name}": IfThere(".0") for name in ("first", "narrow")},
    **{f"**/{name}": IfThere(".1") for name in ("second", "middle")},
    "**/wide": IfThere(".2"),
    "head": IfThere("classifier.1"),
}
"""transformers' ResNetForImageClassification, for `ResNet`."""

CONVNEXT: Names = {
    "stem/conv": "stem.0",
    "stem/norm": "stem.1",
    "**/downsample/norm": IfThere(".0"),
    "**/downsample/conv": IfThere(".1"),
    "**/blocks/*/conv": ".conv_dw",
    "**/blocks/*/up": ".mlp.fc1",
    "**/blocks/*/down": ".mlp.fc2",
    "**/blocks/*/scale": (IfThere(".gamma"), own_name),
    "norm": "head.norm",
    "head": "head.fc",
}
"""timm's ConvNeXt, for `ConvNeXt`."""

CONVNEXT_CLASSIFIER: Names = {
    "stem/conv": "convnext.embeddings.patch_embeddings",
    "stem/norm": "convnext.embeddings.layernorm",
    "stages": "convnext.encoder.stages",
    "**/downsample": IfThere(".downsampling_layer"),
    "**/downsample/norm": IfThere(".0"),
    "**/downsample/conv": IfThere(".1"),
    "**/blocks": ".layers",
    "**/blocks/*/conv": ".dwconv",
    "**/blocks/*/norm": ".layernorm",
    "**/blocks/*/up": ".pwconv1",
    "**/blocks/*/down": ".pwconv2",
    "**/blocks/*/scale": (IfThere(".layer_scale_parameter"), own_name),
    "norm": "convnext.layernorm",
    "head": IfThere("classifier"),
}
"""transformers' ConvNextForImageClassification, for `ConvNeXt`."""
