"""The public names are the field's: each new name exists, and no old one does."""

import importlib
import subprocess
import sys

import pytest

import jaxnn as nn

RENAMED = {
    "jaxnn": {
        "Serial": "Sequential",
        "fold": "fold_in",
        "Slot": "Variable",
        "Parameter": "LearnedArray",
        "Initialiser": "Initializer",
        "adapted": "add_lora",
        "merged": "merge_lora",
        "LowRank": "LoRA",
        "replaced": "replace",
        "widened": "widen",
        "stacked": "stack_layers",
        "unstacked": "unstack_layers",
        "cached": "with_cache",
        "checked": "checkify",
        "quantized": "quantize",
        "Attention": "MultiHeadAttention",
        "Rotary": "RotaryEmbedding",
        "AveragePool": "AvgPool",
    },
    "jaxnn.train": {
        "Binary": "BinaryClassification",
        "LanguageModel": "NextToken",
        "by_path": "partition",
        "averaged": "with_ema",
        "average_of": "ema_params",
        "loss_scaled": "dynamic_loss_scale",
        "skip_nonfinite": "apply_if_finite",
        "pack_weights": "save_weights",
    },
    "jaxnn.interop": {"pack_program": "export"},
    "jaxnn.parallel": {
        "create": "init",
        "start": "initialize",
        "simulated": "abstract_mesh",
    },
    "jaxnn.sweep": {"Log": "LogUniform"},
    "jaxnn.data": {"Standardiser": "Standardizer", "hold_out": "split"},
    "jaxnn.experiment": {"Recipe": "Experiment", "Problem": "Experiment", "Program": "Experiment"},
}
FIELDS = {
    "jaxnn.MultiHeadAttention": {
        "heads": "num_heads", "key_value_heads": "num_kv_heads", "head_features": "head_dim",
    },
    "jaxnn.Dropout": {"shared": "broadcast_dims"},
    "jaxnn.train.Minimize": {"norms": "log_norms"},
}  # fmt: skip


@pytest.mark.parametrize("module", RENAMED)
def test_the_new_names_exist_and_the_old_ones_do_not(module):
    found = importlib.import_module(module)
    for old, new in RENAMED[module].items():
        assert hasattr(found, new) and new in dir(found), new
        assert not hasattr(found, old), old


@pytest.mark.parametrize("path", FIELDS)
def test_fields_have_the_new_names(path):
    module, name = path.rsplit(".", 1)
    fields = getattr(importlib.import_module(module), name).__dataclass_fields__
    for old, new in FIELDS[path].items():
        assert new in fields and old not in fields


def test_dir_lists_exactly_the_public_names():
    packages = [
        "command",
        "data",
        "experiment",
        "functional",
        "generation",
        "inspect",
        "interop",
        "models",
        "parallel",
        "surgery",
        "sweep",
        "train",
    ]
    assert dir(nn) == sorted([*nn.__all__, *packages, "__version__"])
    assert sorted(set(nn.__all__)) == sorted(nn.__all__)
    for name in dir(nn):
        assert getattr(nn, name) is not None
    with pytest.raises(AttributeError, match="module 'jaxnn' has no attribute 'Any_'"):
        _ = nn.Any_


def test_packages_are_attributes_and_imported_when_used():
    code = (
        "import sys, jaxnn as nn\n"
        "names = ['train', 'data', 'models', 'parallel', 'inspect', 'sweep']\n"
        "assert not {f'jaxnn.{name}' for name in names} & set(sys.modules)\n"
        "for name in names: assert getattr(nn, name).__name__ == f'jaxnn.{name}'\n"
        "assert nn.layers(nn.Dense(1)) and nn.train.fit and nn.data.digits\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
