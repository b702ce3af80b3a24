"""T5 against transformers: outputs, gradients, greedy decoding, and files.

The expected values are transformers' own, from tests/fixtures/pretrained.py.
"""

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
from jaxnn.models import T5
from tests.converted import assert_same_gradients
from tests.fixtures import pretrained as published

FOLDER = published.FOLDER


def assert_translates(folder: Path, expected: Any) -> None:
    """Logits of a padded source, and the gradients of the cross entropy of the next token."""
    model, net, params, _ = T5.from_pretrained(folder, dropout=0.0)
    source, target, mask = (expected[name] for name in ("source", "target", "mask"))

    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params: Any) -> Any:
        y = net.apply(params, source, target, segment_ids=mask)
        loss = optax.softmax_cross_entropy_with_integer_labels(y[:, :-1], target[:, 1:])
        return loss.mean(), y

    (loss, y), gradients = jax.jit(step)(params)
    np.testing.assert_allclose(y, expected["outputs"], atol=1e-5)
    np.testing.assert_allclose(loss, expected["loss"], atol=1e-5)
    config = json.loads((folder / "config.json").read_text())
    assert_same_gradients(net, gradients, model._family(config, folder).names, expected)


def assert_generates(folder: Path, expected: Any) -> None:
    """Greedy tokens, which a decoder with a cache computes one by one."""
    _, net, params, _ = T5.from_pretrained(folder)
    mask = expected["mask"]
    memory = net.apply(params, expected["source"], method="encode", segment_ids=mask)
    named = {"memory": memory, "memory_segment_ids": mask}
    out = nn.generate(net.decoder, params["decoder"], [[0], [0]], steps=8, temperature=0, **named)
    np.testing.assert_array_equal(out.tokens, expected["generated"])


@pytest.mark.slow
@pytest.mark.parametrize("name", published.SEQUENCES)
def test_outputs_and_gradients_are_those_of_transformers(name: str):
    assert_translates(FOLDER / name, np.load(FOLDER / name / "expected.npz"))
    assert_generates(FOLDER / name, np.load(FOLDER / name / "expected.npz"))


def test_outputs_and_files_are_those_of_transformers(tmp_path: Path):
    folder = FOLDER / "t5_v1_1"
    expected = np.load(folder / "expected.npz")
    model, net, params, _ = T5.from_pretrained(folder)
    source, target, mask = (expected[name] for name in ("source", "target", "mask"))
    y = jax.jit(net.apply)(params, source, target, segment_ids=mask)
    np.testing.assert_allclose(y, expected["outputs"], atol=1e-5)
    model.save_pretrained(tmp_path / "saved", params)
    again = T5.from_pretrained(tmp_path / "saved")
    assert again.model.explicit() == model.explicit()
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    saved, arrays = (load_file(f / "model.safetensors") for f in (tmp_path / "saved", folder))
    assert saved.keys() == arrays.keys()
    jax.tree.map(np.testing.assert_array_equal, saved, arrays)


@pytest.mark.slow
def test_packed_targets_are_separate_sequences():
    """Positions and biases restart in each sequence, and the other one is hidden."""
    _, net, params, _ = T5.from_pretrained(FOLDER / "t5")
    decoder, own = net.decoder, params["decoder"]
    memory = jax.random.normal(jax.random.key(0), (1, 6, 8))
    tokens, ids = jnp.array([[0, 3, 4, 5, 0, 7, 8]]), jnp.array([[1, 1, 1, 1, 2, 2, 2]])
    run = jax.jit(decoder.apply)
    packed = run(
        own, tokens, memory, segment_ids=ids, memory_segment_ids=jnp.array([[1, 1, 1, 2, 2, 2]])
    )
    first = run(own, tokens[:, :4], memory[:, :3])
    second = run(own, tokens[:, 4:], memory[:, 3:])
    np.testing.assert_allclose(packed, jnp.concatenate([first, second], 1), atol=1e-5)


def test_published_sizes():
    tokens = jax.ShapeDtypeStruct((1, 3), "int32")

    def count(model: T5) -> int:
        return sum(p.size for p in jax.tree.leaves(model.network(32128).spec(tokens, tokens)))

    assert count(T5.small()) == 60_506_624
    assert count(T5.base_v1_1()) == 247_577_856


def test_feed_forward_networks_of_config_json(tmp_path: Path):
    config = json.loads((FOLDER / "t5" / "config.json").read_text())
    assert T5._family(config, tmp_path).implied == {"feed_forward": "relu"}
    gated = T5._family(config | {"feed_forward_proj": "gated-silu"}, tmp_path)
    assert gated.implied == {"feed_forward": "swiglu"}
    wanted = "feed_forward_proj is 'gelu', .*; expected 'relu' or 'gated-gelu' or 'gated-silu'"
    with pytest.raises(ValueError, match=wanted):
        T5._family(config | {"feed_forward_proj": "gelu"}, tmp_path)
    # transformers follows these two keys if they disagree with the first.
    for other in ({"is_gated_act": True}, {"dense_act_fn": "gelu_new"}):
        with pytest.raises(ValueError, match=f"config.json: {next(iter(other))} is"):
            T5._family(config, tmp_path).fields(config | other, "config.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", published.SEQUENCES)
def test_t5_against_transformers(name: str, tmp_path: Path):
    """Outputs, gradients, generation, and what transformers computes with the files saved here."""
    pytest.importorskip("transformers")
    theirs = published.build(name, d_ff=20, num_heads=3)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = published.expected_targets(theirs)
    assert_translates(tmp_path / "theirs", expected)
    assert_generates(tmp_path / "theirs", expected)
    model, _, params, _ = T5.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours", params)
    again = published.expected_targets(type(theirs).from_pretrained(tmp_path / "ours").eval())
    np.testing.assert_allclose(again["outputs"], expected["outputs"], atol=1e-5)


@pytest.mark.slow
def test_deep_networks_are_as_close_to_float64_as_transformers(tmp_path: Path, monkeypatch: Any):
    """Rounding the embeddings to float32 changes the outputs of some deep networks by 1e-4, so that
    two correct programs differ by more than 1e-5; the errors of both are compared instead."""
    torch = pytest.importorskip("torch")
    norm = pytest.importorskip("transformers.models.t5.modeling_t5").T5LayerNorm
    errors = []
    for seed in range(6):
        theirs = published.build("t5_v1_1", seed=seed, num_layers=8, num_decoder_layers=8)
        theirs.save_pretrained(tmp_path / str(seed))
        expected = published.expected_targets(theirs)
        _, net, params, _ = T5.from_pretrained(tmp_path / str(seed), dropout=0.0)
        source, target, mask = (expected[name] for name in ("source", "target", "mask"))
        y = jax.jit(net.apply)(params, source, target, segment_ids=mask)
        with monkeypatch.context() as patch:  # it computes norms and probabilities in float32
            patch.setattr(
                norm,
                "forward",
                lambda n, x: (
                    n.weight * x / x.square().mean(-1, True).add(n.variance_epsilon).sqrt()
                ),
            )
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            exact = published.expected_targets(theirs.double())["outputs"]
        errors.append([np.abs(found - exact).max() for found in (y, expected["outputs"])])
    ours, other = np.exp(np.log(errors).mean(0))
    assert ours < 1.5 * other and ours < 1e-5, errors


@pytest.mark.slow
def test_original_t5_v1_1_has_another_output_layer(tmp_path: Path):
    """In config.json of T5 v1.1 the table is not tied, and its checkpoints have both."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    model = T5(
        layers=1, width=8, num_heads=2, head_dim=4, hidden=12, feed_forward="geglu", tied=False
    )
    source, target = jnp.array([[3, 4, 5]]), jnp.array([[0, 2]])
    params = model.network(13).init(jax.random.key(0), source, target)
    model.save_pretrained(tmp_path / "ours", params)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        y = theirs(
            input_ids=torch.tensor(np.array(source)).long(),
            decoder_input_ids=torch.tensor(np.array(target)).long(),
        ).logits
    found = model.network(13).apply(params, source, target)
    np.testing.assert_allclose(found, y.numpy(), atol=1e-5)
