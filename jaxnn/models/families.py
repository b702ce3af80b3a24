"""Families of published models: the meaning of their config.json, and the names of their arrays.

A `Family` is data that is read in both directions: from a configuration of transformers to the
fields of a model, and back.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..files.reading import FileError
from ..interop.source_arrays import Names
from ..interop.torch_names import (
    BERT,
    CONVNEXT_CLASSIFIER,
    DINOV2,
    DINOV2_REGISTERS,
    FIRST_POSITION,
    RESNET_CLASSIFIER,
    ROBERTA,
    VIT_CLASSIFIER,
)
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
            The field `outputs` is the argument of `network`. In `text_config.hidden_size`, the key
            is in an inner dict.
        fixed: The accepted values of further keys, the default of transformers first. The first
            key selects one of several families of a model type.
        implied: Fields that are equal in all models of this type. Default: {}.
        skipped: Patterns of arrays in a checkpoint that are ignored if the network does not have
            them. Default: ().
        first_position: The row of the position table that holds the first position. Default: 0.
        derived: For a key, the default of transformers and a function that returns its only
            supported value from the fields. Default: {}.
        none: For a field, the value in config.json that stands for None. Default: {}.
    """

    model_type: str
    architecture: str
    base: str
    names: Names
    keys: Mapping[str, tuple[str, Any]]
    fixed: Mapping[str, tuple[Any, ...]]
    implied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    first_position: int = 0
    derived: Mapping[str, tuple[Any, Callable[[Any], Any]]] = dataclasses.field(
        default_factory=dict
    )
    none: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def bare_architecture(self) -> str:
        """The class of transformers for a checkpoint without a classifier; "" if it needs one."""
        classifier = "ForImageClassification"
        bare = self.architecture.removesuffix(classifier)
        return "" if bare == self.architecture else f"{bare}Model"

    def fields(
        self, config: Mapping[str, Any], file: Any, chosen: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return the fields of a model from config.json, with the number of outputs.

        Args:
            config: The contents of config.json.
            file: Its path, for errors.
            chosen: Fields whose values are replaced, so that keys may disagree about them.
                Default: ().

        Raises:
            FileError: A value is not supported; the message names its key.
        """
        # Old configurations of CLIP repeat inner dicts, and transformers reads the repetitions.
        again = [key for key, value in config.items() if key.endswith("_config_dict") and value]
        config = {**config, **{key.removesuffix("_dict"): config[key] for key in again}}
        for key, accepted in {**self.fixed, "quantization_config": (None,)}.items():
            if (value := _at(config, key, accepted[0])) not in accepted:
                raise unsupported(file, key, value, " or ".join(map(repr, accepted)))
        if isinstance(labels := config.get("id2label"), dict):
            config = {"num_labels": len(labels), **config}
        fields = dict(self.implied)
        for key, (field, default) in self.keys.items():
            value = _at(config, key, default)
            value = tuple(value) if isinstance(value, list) else value
            value = None if field in self.none and value == self.none[field] else value
            if fields.setdefault(field, value) != value and field not in chosen:
                wanted = f"{fields[field]!r}, as in the other keys; pass {field}= to choose a value"
                raise unsupported(file, key, value, wanted)
        if fields.get("positions") == "rotary":
            fields["rotary_base"], fields["rotary_scaling"] = _rotary(config, file)
        if self.first_position:
            fields["length"] -= self.first_position
        for key, (default, rule) in self.derived.items():
            value = _at(config, key, default)
            with contextlib.suppress(TypeError):  # the model rejects fields of another type
                if (wanted := rule(fields)) != value:
                    raise unsupported(file, key, value, f"{wanted!r}, as in the other keys")
        return fields

    def config(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the contents of config.json for a model.

        Args:
            fields: The fields of the model, with the number of outputs.
        """
        headless = "outputs" in fields and fields["outputs"] is None
        architecture = (headless and self.bare_architecture) or self.architecture
        config: dict[str, Any] = {"model_type": self.model_type, "architectures": [architecture]}
        for key, accepted in self.fixed.items():
            _put(config, key, accepted[0])
        for key, (field, default) in self.keys.items():
            if field != "outputs" or not headless:
                value = fields[field]
                # Without a value for None, what is read again is not None, which callers notice.
                _put(config, key, self.none.get(field, default) if value is None else value)
        for key, (_, rule) in self.derived.items():
            _put(config, key, rule(fields))
        if self.implied.get("positions") == "rotary":
            config["rope_theta"] = fields["rotary_base"]
            config["rope_scaling"] = _scaling_config(fields["rotary_scaling"])
        if self.first_position:
            config["max_position_embeddings"] += self.first_position
        return config


def _at(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return the value of a key such as `a.b`, which is b in the dict a."""
    *outer, last = key.split(".")
    for name in outer:
        inner = config.get(name)
        config = inner if isinstance(inner, dict) else {}
    return config.get(last, default)


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a key such as `a.b`."""
    *outer, last = key.split(".")
    for name in outer:
        config = config.setdefault(name, {})
    config[last] = value


def unsupported(file: Any, key: str, value: Any, wanted: str) -> FileError:
    """Return the error for a value of config.json that no model has.

    Args:
        file: Path of config.json.
        key: The key.
        value: Its value.
        wanted: The supported values.
    """
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
    # The order of transformers, if a file has both.
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(key) or {}
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    for name, accepted in _FIXED_ROPE.items():
        if rope.get(name, config.get(name, accepted[0])) not in accepted:
            raise unsupported(file, name, rope.get(name, config.get(name)), repr(accepted[-1]))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base, None
    if kind not in _SCALINGS:
        known = ", ".join(("default", *_SCALINGS))
        raise unsupported(file, f"rope_type of {key}", kind, f"one of {known}")
    rule, keys = _SCALINGS[kind]
    values = {field: rope.get(name, default) for name, (field, default) in keys.items()}
    if "original_length" in values:
        outer = config.get("original_max_position_embeddings")
        given = values["original_length"] if outer is None else outer
        values["original_length"] = (
            config.get("max_position_embeddings") if given is None else given
        )
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

_VIT_KEYS: dict[str, tuple[str, Any]] = {
    "num_labels": ("outputs", 2),
    "image_size": ("image", 224),
    "patch_size": ("patch", 16),
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "hidden_dropout_prob": ("dropout", 0.0),
    "layer_norm_eps": ("eps", 1e-12),
}
_VIT_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "attention_probs_dropout_prob": (0.0,),
    "num_channels": (3,),
    "qkv_bias": (True,),
}
_DINO_KEYS: dict[str, tuple[str, Any]] = _VIT_KEYS | {
    "patch_size": ("patch", 14),
    "layer_norm_eps": ("eps", 1e-6),
    "layerscale_value": ("layer_scale", 1.0),
}
_DINO_FIXED: dict[str, tuple[Any, ...]] = _VIT_FIXED | {
    "drop_path_rate": (0.0,),
    "mlp_ratio": (4,),
    "use_swiglu_ffn": (False,),
}
_DINO_SKIPPED = ("**.mask_token",)

VIT_FAMILIES = (
    Family(
        "vit",
        "ViTForImageClassification",
        "vit.",
        VIT_CLASSIFIER,
        _VIT_KEYS | {"intermediate_size": ("hidden", 3072)},
        _VIT_FIXED,
        {"pooling": "token"},
        ("vit.pooler.**",),
    ),
    Family(
        "dinov2",
        "Dinov2ForImageClassification",
        "dinov2.",
        DINOV2,
        _DINO_KEYS,
        _DINO_FIXED,
        {"pooling": "token_mean"},
        _DINO_SKIPPED,
    ),
    Family(
        "dinov2_with_registers",
        "Dinov2WithRegistersForImageClassification",
        "dinov2_with_registers.",
        DINOV2_REGISTERS,
        _DINO_KEYS | {"patch_size": ("patch", 16), "num_register_tokens": ("registers", 4)},
        _DINO_FIXED,
        {"pooling": "token_mean"},
        _DINO_SKIPPED,
    ),
)
"""The model types of `ViT`."""


def _resnet(layer_type: str, bottleneck: bool) -> Family:
    def hidden_sizes(fields: Any) -> list[int]:
        first = fields["width"] * (4 if bottleneck else 1)
        return [first * 2**i for i in range(len(fields["stages"]))]

    return Family(
        "resnet",
        "ResNetForImageClassification",
        "resnet.",
        RESNET_CLASSIFIER,
        {
            "num_labels": ("outputs", 2),
            "depths": ("stages", (3, 4, 6, 3)),
            "embedding_size": ("width", 64),
        },
        {
            "layer_type": (layer_type,),
            "num_channels": (3,),
            "hidden_act": ("relu",),
            "downsample_in_first_stage": (False,),
            "downsample_in_bottleneck": (False,),
        },
        {"stem": "imagenet", "bottleneck": bottleneck},
        derived={"hidden_sizes": ([256, 512, 1024, 2048], hidden_sizes)},
    )


RESNET_FAMILIES = (_resnet("bottleneck", True), _resnet("basic", False))
"""The model types of `ResNet`, one per kind of block; the default of transformers is first."""

CONVNEXT_FAMILIES = (
    Family(
        "convnext",
        "ConvNextForImageClassification",
        "convnext.",
        CONVNEXT_CLASSIFIER,
        {
            "num_labels": ("outputs", 2),
            "depths": ("stages", (3, 3, 9, 3)),
            "hidden_sizes": ("widths", (96, 192, 384, 768)),
            "patch_size": ("patch", 4),
            "layer_norm_eps": ("eps", 1e-12),
            "layer_scale_init_value": ("layer_scale", 1e-6),
            "drop_path_rate": ("drop_path", 0.0),
        },
        {"num_channels": (3,), "hidden_act": ("gelu",)},
        derived={"num_stages": (4, lambda fields: len(fields["stages"]))},
        none={"layer_scale": 0.0},
    ),
)
"""The model type of `ConvNeXt`."""
