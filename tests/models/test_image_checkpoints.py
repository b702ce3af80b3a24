"""Checkpoints of image models and CLIP in transformers: the same outputs, gradients, and files.

The expected values are transformers' own, from tests/fixtures/pretrained.py.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import jaxnn as nn
from jaxnn import interop, train
from jaxnn.models import CLIP, ConvNeXt, ResNet, ViT
from jaxnn.models.clip import CLIP_FAMILIES, CLIP_NAMES, LastTokenEncoder
from jaxnn.models.families import CONVNEXT_FAMILIES, RESNET_FAMILIES, VIT_FAMILIES
from tests.converted import assert_same_gradients
from tests.fixtures import pretrained as published

FOLDER = published.FOLDER
KINDS: dict[str, Any] = {"resnet": ResNet, "convnext": ConvNeXt, "vit": ViT, "dinov2": ViT}


def kind(name: str) -> Any:
    return KINDS[name.partition("_")[0]]


def assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def logits(found: Any, images: Any) -> Any:
    return jax.jit(found.net.apply)(found.params, images, state=found.state)[0]


def assert_trains(name: str, folder: Path, expected: Any) -> None:
    """Logits in inference, and the loss and gradients of a training step."""
    model, net, params, state = kind(name).from_pretrained(folder)
    images, labels = expected["images"], expected["labels"]

    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params: Any) -> Any:
        y, _ = net.apply(params, images, state=state, key=jax.random.key(0), train=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()
        return loss, net.apply(params, images, state=state)[0]

    (loss, y), gradients = jax.jit(step)(params)
    assert_close(y, expected["outputs"])
    assert_close(loss, expected["loss"])
    config = json.loads((folder / "config.json").read_text())
    assert_same_gradients(net, gradients, model._family(config, folder).names, expected)


@pytest.mark.parametrize("name", published.COMMITTED_IMAGES)
def test_images_are_classified_as_by_transformers(name: str, tmp_path: Path):
    folder = FOLDER / name
    expected = np.load(folder / "expected.npz")
    found = kind(name).from_pretrained(folder)
    assert_close(logits(found, expected["images"]), expected["outputs"])
    model, _, params, state = found
    model.save_pretrained(tmp_path / "saved", params, state)
    saved, arrays = (load_file(f / "model.safetensors") for f in (tmp_path / "saved", folder))
    arrays.pop("dinov2_with_registers.embeddings.mask_token", None)  # of its pretraining
    assert saved.keys() == arrays.keys()
    for key in saved.keys() - {k for k in saved if k.endswith("num_batches_tracked")}:
        np.testing.assert_array_equal(saved[key], arrays[key])
    again = kind(name).from_pretrained(tmp_path / "saved")
    assert again.model == model
    jax.tree.map(np.testing.assert_array_equal, again.state, state)


def test_configurations_of_images():
    assert ViT.from_pretrained(FOLDER / "vit").model == ViT(
        image=8, patch=4, layers=2, width=8, num_heads=2, hidden=12, eps=1e-12, dropout=0.0
    )
    assert ResNet.from_pretrained(FOLDER / "resnet").model == ResNet((1, 2), 4, bottleneck=True)
    assert ConvNeXt.from_pretrained(FOLDER / "convnext").model == ConvNeXt(
        stages=(1, 2), widths=(4, 6), eps=1e-12
    )


def test_positions_are_interpolated_for_other_images():
    folder = FOLDER / "dinov2_with_registers"
    expected = np.load(folder / "expected.npz")
    found = ViT.from_pretrained(folder, image=12)
    assert found.model.image == 12
    assert_close(logits(found, expected["larger"]), expected["larger outputs"])


def test_checkpoint_without_a_classifier(tmp_path: Path):
    """The features are those of all tokens, or what the classifier receives."""
    folder = FOLDER / "dinov2_with_registers"
    model, net, params, _ = ViT.from_pretrained(folder)
    bare = {name: tree for name, tree in params.items() if name != "head"}
    model.save_pretrained(tmp_path / "bare", bare)
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    assert config["architectures"] == ["Dinov2WithRegistersModel"] and "num_labels" not in config
    x = np.load(folder / "expected.npz")["images"]
    found = ViT.from_pretrained(tmp_path / "bare", pooling="none")
    tokens = logits(found, x)
    assert tokens.shape == (2, 1 + 2 + 4, 8)
    pooled = jnp.concatenate([tokens[:, 0], tokens[:, 3:].mean(1)], -1)
    y = pooled @ params["head"]["w"] + params["head"]["b"]
    assert_close(y, jax.jit(net.apply)(params, x))


@pytest.mark.parametrize(
    "family, changes, text",
    [
        (RESNET_FAMILIES[0], {"hidden_sizes": [8, 8]}, r"hidden_sizes is \[8, 8\].*\[16, 32\]"),
        (
            RESNET_FAMILIES[0],
            {"downsample_in_bottleneck": True},
            "downsample_in_bottleneck is True",
        ),
        (CONVNEXT_FAMILIES[0], {"num_stages": 3}, "num_stages is 3, .* expected 2"),
        (VIT_FAMILIES[1], {"use_swiglu_ffn": True}, "use_swiglu_ffn is True"),
    ],
)
def test_unsupported_image_models_are_named(family: Any, changes: Any, text: str):
    config = {"embedding_size": 4, "depths": [1, 2], "hidden_sizes": [16, 32], "num_stages": 2}
    family.fields(config, "config.json")
    with pytest.raises(ValueError, match=f"config.json: {text}"):
        family.fields(config | changes, "config.json")


def test_the_wrong_value_is_named_of_all_kinds_of_blocks():
    for kind, first in (("basic", 4), ("bottleneck", 16)):
        config = {"model_type": "resnet", "layer_type": kind, "downsample_in_first_stage": True}
        config |= {"embedding_size": 4, "depths": [1], "hidden_sizes": [first]}
        family = ResNet._family(config, Path("config.json"))
        with pytest.raises(ValueError, match="downsample_in_first_stage is True"):
            family.fields(config, "config.json")
    with pytest.raises(ValueError, match=r"layer_type is 'wide'.*'bottleneck' or 'basic'"):
        ResNet._family({"model_type": "resnet", "layer_type": "wide"}, Path("config.json"))


def test_convnext_without_factors():
    """transformers' blocks have no factors if their initial value is 0."""
    (family,) = CONVNEXT_FAMILIES
    fields = family.fields({"layer_scale_init_value": 0.0}, "config.json")
    assert fields["layer_scale"] is None
    assert family.config(fields)["layer_scale_init_value"] == 0.0


def test_dinov2_always_has_factors():
    """transformers rejects the value None of its key."""
    for fields in ({"pooling": "token_mean"}, {"pooling": "none", "registers": 2}):
        model = ViT(image=4, patch=4, layers=1, width=4, num_heads=1, **fields)  # type: ignore
        with pytest.raises(ValueError, match="does not have layer_scale=None"):
            model._writable((3,))


def test_clip_reads_the_repeated_inner_configurations():
    """transformers' CLIPConfig replaces text_config by text_config_dict, defaults included."""
    config = {
        "text_config": {"hidden_act": "quick_gelu", "num_hidden_layers": 3},
        "text_config_dict": {"hidden_act": "gelu"},
        "vision_config": {"hidden_act": "gelu", "num_hidden_layers": 5},
        "vision_config_dict": None,
    }
    fields = CLIP_FAMILIES[0].fields(config, "config.json")
    assert (fields["activation"], fields["text_layers"], fields["image_layers"]) == ("gelu", 12, 5)


def test_state_must_be_saved_too(tmp_path: Path):
    model, _, params, _ = ResNet.from_pretrained(FOLDER / "resnet")
    with pytest.raises(
        ValueError, match=r"the state are not those.*save_pretrained\(folder, params"
    ):
        model.save_pretrained(tmp_path / "saved", params)
    with pytest.raises(ValueError, match=r"no model type of transformers is .*stem='cifar'"):
        dataclasses.replace(model, stem="cifar").save_pretrained(tmp_path / "saved", params)


def assert_pairs_train(folder: Path, expected: Any) -> None:
    """Embeddings and logits, and the contrastive loss and its gradients."""
    _, net, params, _ = CLIP.from_pretrained(folder)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params: Any) -> Any:
        found = net.apply(params, expected["images"], expected["tokens"])
        return train.InfoNCE()(found, None), found

    (loss, (image, text, scale)), gradients = jax.jit(step)(params)
    assert_close(image, expected["image"])
    assert_close(text, expected["text"])
    assert_close(scale * image @ text.T, expected["logits"])
    assert_close(loss, expected["loss"])
    assert_same_gradients(net, gradients, CLIP_NAMES, expected)


def test_images_and_texts_are_embedded_as_by_transformers(tmp_path: Path):
    folder = FOLDER / "clip"
    expected = np.load(folder / "expected.npz")
    model, net, params, _ = CLIP.from_pretrained(folder)

    @jax.jit
    def run(params: Any, images: Any, tokens: Any) -> Any:
        found = net.apply(params, images, tokens)
        return *found, train.InfoNCE()(found, None)

    image, text, scale, loss = run(params, expected["images"], expected["tokens"])
    assert_close(loss, expected["loss"])
    assert_close(image, expected["image"])
    assert_close(scale * image @ text.T, expected["logits"])
    model.save_pretrained(tmp_path / "saved", params)
    saved, arrays = (load_file(f / "model.safetensors") for f in (tmp_path / "saved", folder))
    assert saved.keys() == arrays.keys()
    jax.tree.map(np.testing.assert_array_equal, saved, arrays)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"] and config["text_config"]["hidden_size"] == 8
    assert CLIP.from_pretrained(tmp_path / "saved").model == model.__class__(**model.explicit())


def test_a_text_without_the_end_token_has_no_features():
    embedding: Any = functools.partial(jax.nn.one_hot, num_classes=13)
    same: Any = jnp.asarray
    net = LastTokenEncoder(embedding, same, same, same, same, end=12)
    tokens = jnp.array([[3, 12, 0], [1, 2, 3]])

    def run(tokens: Any) -> Any:
        return net.apply(net.init(jax.random.key(0), tokens), tokens)

    with pytest.raises(
        ValueError,
        match=r"each text must be tokens with the end token 12, got \[1, 2, 3\]; append it, .*, or "
        r"write CLIP\(end=...\)",
    ):
        run(tokens)
    with pytest.raises(ValueError, match="a text does not have the end token 12"):
        nn.checkify(run)(tokens)
    np.testing.assert_array_equal(run(tokens[:1]), np.eye(13)[[12]])
    np.testing.assert_array_equal(jax.jit(run)(tokens), [np.eye(13)[12], np.full(13, np.nan)])


@pytest.mark.slow
def test_old_clip_takes_the_largest_token():
    net = dataclasses.replace(CLIP.from_pretrained(FOLDER / "clip").model, end=2).network()
    expected = np.load(FOLDER / "clip" / "expected.npz")
    params = CLIP.from_pretrained(FOLDER / "clip").params
    y = net.apply(params, expected["tokens"], method="encode_text")
    assert_close(y, expected["text"])


def test_published_sizes():
    """Numbers of parameters that the papers or their code state."""
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    tokens = jax.ShapeDtypeStruct((1, 77), "int32")

    def count(net: nn.Layer, *inputs: Any) -> int:
        return sum(p.size for p in jax.tree.leaves(net.spec(*inputs)))

    assert count(ConvNeXt.tiny().network(1000), images) == 28_589_128
    assert count(CLIP().network(), images, tokens) == 151_277_313
    dino = ViT(image=518, patch=14, width=384, num_heads=6, layer_scale=1.0)
    larger = jax.ShapeDtypeStruct((1, 518, 518, 3), "float32")
    assert count(dino.network(), larger) == 22_056_576 - 384  # the mask token of its pretraining


@pytest.mark.slow
@pytest.mark.parametrize("name", [*published.COMMITTED_IMAGES, *published.PAIRS])
def test_gradients_of_a_training_step(name: str):
    expected = np.load(FOLDER / name / "expected.npz")
    if name == "clip":
        assert_pairs_train(FOLDER / name, expected)
    else:
        assert_trains(name, FOLDER / name, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*published.IMAGES, *published.PAIRS])
def test_every_image_model_against_transformers(name: str, tmp_path: Path):
    """Outputs, gradients, and what transformers computes with the files written here."""
    pytest.importorskip("transformers")
    larger = {"image_size": 24} if name.startswith("dinov2") else {}
    theirs = published.build(name, **larger)
    theirs.save_pretrained(tmp_path / "theirs")
    compute = published.expected_pairs if name == "clip" else published.expected_classes
    expected = compute(theirs)
    if name == "clip":
        assert_pairs_train(tmp_path / "theirs", expected)
    else:
        assert_trains(name, tmp_path / "theirs", expected)
    found = (CLIP if name == "clip" else kind(name)).from_pretrained(tmp_path / "theirs")
    if larger:
        smaller = ViT.from_pretrained(tmp_path / "theirs", image=12)
        assert_close(logits(smaller, expected["larger"]), expected["larger outputs"])
    found.model.save_pretrained(tmp_path / "ours", found.params, found.state)
    again = compute(type(theirs).from_pretrained(tmp_path / "ours").eval())
    for key in ("outputs", "image", "text", "logits"):
        if key in expected:
            assert_close(again[key], expected[key])


@pytest.mark.slow
def test_convnext_of_timm():
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = timm.create_model("convnext_atto", pretrained=False, num_classes=7, ls_init_value=0.5)
    theirs = theirs.eval()
    net = ConvNeXt(stages=(2, 2, 6, 2), widths=(40, 80, 160, 320)).network(7)
    x = torch.randn(2, 3, 64, 64)
    found = interop.from_torch(
        net, theirs.state_dict(), x.permute(0, 2, 3, 1).numpy(), names=interop.CONVNEXT
    )
    y = jax.jit(net.apply)(found.params, x.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(y, theirs(x).detach().numpy(), atol=1e-5)
