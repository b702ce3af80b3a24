"""The names that models of transformers and torchvision have for what `jaxnn.models` builds."""

from typing import Any

import numpy as np

from .source import IfThere, Names, Source


def packed_attention(layer: Any, source: Source) -> dict[str, Any]:
    """GPT-2's: c_attn (n, 3 n), query, key and value side by side, and c_proj, as x @ w + b."""
    weights = np.split(source("c_attn.weight"), 3, 1)
    biases = np.split(source("c_attn.bias"), 3)
    pairs = zip(("query", "key", "value"), weights, biases, strict=True)
    found = {part: {"w": w, "b": b} for part, w, b in pairs}
    return found | {"out": {"w": source("c_proj.weight"), "b": source("c_proj.bias")}}


def untransposed(layer: Any, source: Source) -> dict[str, Any]:
    """transformers' Conv1D: x @ weight + bias, with the weight as it is here."""
    return {"w": source("weight"), "b": source("bias")}


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
    "blocks/feed_forward_norm": ".post_attention_layernorm",
    "blocks/feed_forward": ".mlp",
    "blocks/feed_forward/gate": ".gate_proj",
    "blocks/feed_forward/up": ".up_proj",
    "blocks/feed_forward/down": ".down_proj",
    "norm": "model.norm",
    "head": IfThere("lm_head"),
}
"""transformers' LlamaForCausalLM, for `GPT`."""

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
