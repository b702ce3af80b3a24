"""Families of published models: the meaning of their config.json, and the names of their arrays.

A `Family` is data that is read in both directions: from a configuration of transformers to the
fields of a model, and back.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..files.reading import FileError
from ..interop.source_arrays import Names
from ..interop.torch_names import BERT, FIRST_POSITION, GEMMA, GPT2, LLAMA, ROBERTA, VIT_CLASSIFIER
from ..layers.rotary import LinearScaling, Llama3Scaling, YaRNScaling


@dataclasses.dataclass(frozen=True)
class Family:
    """One model type of transformers.

    Args:
        model_type: `model_type` in config.json.
        architecture: The class of transformers that `save_pretrained` writes into config.json.
        base: Prefix of the names of arrays in checkpoints with a head.
        names: A dict from paths of the network to names of arrays.
        keys: For each key of config.json, the field of the model and the default of transformers.
            The field `outputs` is the argument of `network`.
        fixed: The accepted values of further keys, the default of transformers first.
        implied: Fields that are equal in all models of this type.
        skipped: Patterns of arrays in a checkpoint that are ignored if the network does not have
            them. Default: ().
        first_position: The row of the position table that holds the first position. Default: 0.
    """

    model_type: str
    architecture: str
    base: str
    names: Names
    keys: Mapping[str, tuple[str, Any]]
    fixed: Mapping[str, tuple[Any, ...]]
    implied: Mapping[str, Any]
    skipped: tuple[str, ...] = ()
    first_position: int = 0

    def fields(self, config: Mapping[str, Any], file: Any) -> dict[str, Any]:
        """Return the fields of a model from config.json, with the number of outputs.

        Args:
            config: The contents of config.json.
            file: Its path, for errors.

        Raises:
            FileError: A value is not supported; the message names its key.
        """
        for key, accepted in {**self.fixed, "quantization_config": (None,)}.items():
            if config.get(key, accepted[0]) not in accepted:
                raise _unsupported(file, key, config[key], " or ".join(map(repr, accepted)))
        if isinstance(labels := config.get("id2label"), dict):
            config = {"num_labels": len(labels), **config}
        fields = dict(self.implied)
        for key, (field, default) in self.keys.items():
            value = config.get(key, default)
            if fields.setdefault(field, value) != value:
                raise _unsupported(file, key, value, f"{fields[field]!r}, as in the other keys")
        if fields.get("positions") == "rotary":
            fields["rotary_base"], fields["rotary_scaling"] = _rotary(config, file)
        if self.first_position:
            fields["length"] -= self.first_position
        return fields

    def config(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the contents of config.json for a model.

        Args:
            fields: The fields of the model, with the number of outputs.
        """
        config: dict[str, Any] = {
            "model_type": self.model_type,
            "architectures": [self.architecture],
        }
        config |= {key: accepted[0] for key, accepted in self.fixed.items()}
        config |= {key: fields[field] for key, (field, _) in self.keys.items()}
        if self.implied.get("positions") == "rotary":
            config["rope_theta"] = fields["rotary_base"]
            config["rope_scaling"] = _scaling_config(fields["rotary_scaling"])
        if self.first_position:
            config["max_position_embeddings"] += self.first_position
        return config


def _unsupported(file: Any, key: str, value: Any, wanted: str) -> FileError:
    return FileError(
        f"{file}: {key} is {value!r}, which has no counterpart here; expected {wanted}"
    )


# Rules that scale rotary embeddings: for each key of config.json, the field and its default.
_SCALINGS: dict[str, tuple[Any, dict[str, tuple[str, Any]]]] = {
    "linear": (LinearScaling, {"factor": ("factor", None)}),
    "llama3": (
        Llama3Scaling,
        {
            "factor": ("factor", None),
            "original_max_position_embeddings": ("original_length", None),
            "low_freq_factor": ("low", None),
            "high_freq_factor": ("high", None),
        },
    ),
    "yarn": (
        YaRNScaling,
        {
            "factor": ("factor", None),
            "original_max_position_embeddings": ("original_length", None),
            "beta_fast": ("fast", 32.0),
            "beta_slow": ("slow", 1.0),
            "attention_factor": ("magnitude", None),
        },
    ),
}
_FIXED_ROPE: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1.0),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "truncate": (True,),
}


def _rotary(config: Mapping[str, Any], file: Any) -> tuple[Any, Any]:
    """Return the base of the frequencies and the scaling rule."""
    new = config.get("rope_parameters")
    key = "rope_scaling" if new is None else "rope_parameters"
    rope = config.get("rope_scaling") or {} if new is None else new
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    for name, accepted in _FIXED_ROPE.items():
        if rope.get(name, config.get(name, accepted[0])) not in accepted:
            raise _unsupported(file, name, rope.get(name, config.get(name)), repr(accepted[-1]))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base, None
    if kind not in _SCALINGS:
        known = ", ".join(("default", *_SCALINGS))
        raise _unsupported(file, f"rope_type of {key}", kind, f"one of {known}")
    rule, keys = _SCALINGS[kind]
    values = {field: rope.get(name, default) for name, (field, default) in keys.items()}
    if values.get("original_length", 0) is None:
        values["original_length"] = config.get("max_position_embeddings")
    try:
        return base, rule(**values)
    except (TypeError, ValueError) as error:
        raise FileError(f"{file}: {key} is {rope!r}: {error}") from error


def _scaling_config(scaling: Any) -> dict[str, Any] | None:
    """Return `rope_scaling` for a rule, or None; the rules of `_SCALINGS` can be written."""
    for kind, (rule, keys) in _SCALINGS.items():
        if type(scaling) is rule:
            values = {name: getattr(scaling, field) for name, (field, _) in keys.items()}
            return {"rope_type": kind} | {k: v for k, v in values.items() if v is not None}
    return None


_LLAMA_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("outputs", 32000),
    "hidden_size": ("width", 4096),
    "intermediate_size": ("hidden", 11008),
    "num_hidden_layers": ("layers", 32),
    "num_attention_heads": ("num_heads", 32),
    "num_key_value_heads": ("num_kv_heads", None),
    "max_position_embeddings": ("length", 2048),
    "rms_norm_eps": ("eps", 1e-6),
    "tie_word_embeddings": ("tied", False),
}
_HEADS: dict[str, tuple[str, Any]] = {"head_dim": ("head_dim", None)}
_LLAMA_FIXED: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu",), "attention_dropout": (0.0,)}
_NO_BIAS: dict[str, tuple[Any, ...]] = {"attention_bias": (False,)}
_LLAMA_IMPLIED = {
    "positions": "rotary",
    "norm": "rms",
    "feed_forward": "swiglu",
    "bias": False,
}
_QWEN_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("outputs", 151936),
    "intermediate_size": ("hidden", 22016),
    "num_key_value_heads": ("num_kv_heads", 32),
    "max_position_embeddings": ("length", 32768),
}

GPT_FAMILIES = (
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        "transformer.",
        GPT2,
        {
            "vocab_size": ("outputs", 50257),
            "n_positions": ("length", 1024),
            "n_embd": ("width", 768),
            "n_layer": ("layers", 12),
            "n_head": ("num_heads", 12),
            "n_inner": ("hidden", None),
            "layer_norm_epsilon": ("eps", 1e-5),
            "tie_word_embeddings": ("tied", True),
            "resid_pdrop": ("dropout", 0.1),
            "embd_pdrop": ("dropout", 0.1),
            "attn_pdrop": ("dropout", 0.1),
        },
        {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        {"positions": "learned", "norm": "layer", "feed_forward": "gelu", "bias": True},
    ),
    Family(
        "llama",
        "LlamaForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS | _HEADS,
        _LLAMA_FIXED | _NO_BIAS | {"mlp_bias": (False,)},
        _LLAMA_IMPLIED,
    ),
    Family(
        "mistral",
        "MistralForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS
        | _HEADS
        | {
            "intermediate_size": ("hidden", 14336),
            "num_key_value_heads": ("num_kv_heads", 8),
            "max_position_embeddings": ("length", 131072),
            "sliding_window": ("window", 4096),
        },
        _LLAMA_FIXED,
        _LLAMA_IMPLIED,
    ),
    Family(
        "qwen2",
        "Qwen2ForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS | _QWEN_KEYS,
        _LLAMA_FIXED | {"use_sliding_window": (False,)},
        _LLAMA_IMPLIED | {"qkv_bias": True},
    ),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        "model.",
        LLAMA,
        _LLAMA_KEYS | _QWEN_KEYS | {"head_dim": ("head_dim", 128)},
        _LLAMA_FIXED | _NO_BIAS | {"use_sliding_window": (False,)},
        _LLAMA_IMPLIED | {"query_key_norm": True},
    ),
    Family(
        "gemma",
        "GemmaForCausalLM",
        "model.",
        GEMMA,
        _LLAMA_KEYS
        | {
            "vocab_size": ("outputs", 256000),
            "hidden_size": ("width", 3072),
            "intermediate_size": ("hidden", 24576),
            "num_hidden_layers": ("layers", 28),
            "num_attention_heads": ("num_heads", 16),
            "num_key_value_heads": ("num_kv_heads", 16),
            "head_dim": ("head_dim", 256),
            "max_position_embeddings": ("length", 8192),
            "tie_word_embeddings": ("tied", True),
        },
        _NO_BIAS
        | {
            "hidden_act": ("gelu_pytorch_tanh", "gelu"),
            "hidden_activation": (None, "gelu_pytorch_tanh"),
            "attention_dropout": (0.0,),
            "use_bidirectional_attention": (None, False),
        },
        _LLAMA_IMPLIED | {"feed_forward": "geglu", "scaled_embedding": True},
    ),
)
"""The model types of `GPT`."""

_BERT_KEYS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocabulary", 30522),
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "intermediate_size": ("hidden", 3072),
    "hidden_dropout_prob": ("dropout", 0.1),
    "attention_probs_dropout_prob": ("dropout", 0.1),
    "max_position_embeddings": ("length", 512),
    "type_vocab_size": ("token_types", 2),
    "layer_norm_eps": ("eps", 1e-12),
}
_BERT_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
_BERT_SKIPPED = ("pooler.**", "cls.**", "lm_head.**", "classifier.**", "qa_outputs.**")

BERT_FAMILIES = (
    Family(
        "bert",
        "BertModel",
        "bert.",
        BERT,
        _BERT_KEYS,
        _BERT_FIXED | {"pad_token_id": (0,)},
        {"padding": 0},
        _BERT_SKIPPED,
    ),
    Family(
        "roberta",
        "RobertaModel",
        "roberta.",
        ROBERTA,
        _BERT_KEYS | {"vocab_size": ("vocabulary", 50265)},
        _BERT_FIXED | {"pad_token_id": (1,)},
        {"padding": 1},
        _BERT_SKIPPED,
        FIRST_POSITION,
    ),
)
"""The model types of `BERT`."""

VIT_FAMILIES = (
    Family(
        "vit",
        "ViTForImageClassification",
        "vit.",
        VIT_CLASSIFIER,
        {
            "num_labels": ("outputs", 2),
            "image_size": ("image", 224),
            "patch_size": ("patch", 16),
            "hidden_size": ("width", 768),
            "num_hidden_layers": ("layers", 12),
            "num_attention_heads": ("num_heads", 12),
            "intermediate_size": ("hidden", 3072),
            "hidden_dropout_prob": ("dropout", 0.0),
            "layer_norm_eps": ("eps", 1e-12),
        },
        {
            "hidden_act": ("gelu",),
            "attention_probs_dropout_prob": (0.0,),
            "num_channels": (3,),
            "qkv_bias": (True,),
        },
        {},
        ("vit.pooler.**",),
    ),
)
"""The model type of `ViT`."""
