"""Weights of torch, transformers, torchvision, flax and keras, converted: the same outputs."""

import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxnn as nn
from jaxnn import interop
from jaxnn.models import GPT, ViT
from jaxnn.models.convolutional import ResNetBlock
from tests.converted import assert_same, fixture, outputs
from tests.fixtures import models as published

CONVOLUTIONS = nn.Sequential(
    layers=nn.Sequential(
        nn.Conv(4, (3, 3), padding=1),
        nn.BatchNorm(),
        nn.PReLU(),
        nn.DepthwiseConv((3, 3), padding=1),
        nn.GroupNorm(2),
        nn.ConvTranspose(6, (2, 2), stride=2, groups=2, padding=0),
        nn.Conv(3, (2, 1), groups=3, padding=0, bias=False),
        nn.InstanceNorm(),
    )
)


def test_images_of_torch():
    weights, (x,), y = fixture("convolutions")
    found = interop.from_torch(CONVOLUTIONS, weights, x)
    assert_same(outputs(CONVOLUTIONS, found, x), y)


def both(cell: Any) -> nn.Layer:
    return nn.Bidirectional(nn.Recurrent(cell))


def test_sequences_of_torch():
    """An LSTM of two layers and both directions, a GRU, an RNN without biases, attention."""
    net = nn.Sequential(
        embed=nn.Embedding(5, 4),
        lstm=nn.Sequential(both(nn.LSTMCell(3)), both(nn.LSTMCell(3))),
        gru=nn.Recurrent(nn.GRUCell(4)),
        rnn=nn.Recurrent(nn.RNNCell(4)),
        norm=nn.RMSNorm(),
        attention=nn.MultiHeadAttention(2),
        out=nn.Dense(3, bias=False),
    )
    weights, (x,), y = fixture("sequences")
    names = {
        "lstm/0/forward": "lstm.@_l0",
        "lstm/0/backward": "lstm.@_l0_reverse",
        "lstm/1/forward": "lstm.@_l1",
        "lstm/1/backward": "lstm.@_l1_reverse",
        "gru": "gru.@_l0",
        "rnn": "rnn.@_l0",
    }
    found = interop.from_torch(net, weights, x, names=names)
    assert_same(outputs(net, found, x), y)


class Bert(nn.Composite):
    tokens: nn.Layer
    types: nn.Layer
    positions: nn.Layer
    norm: nn.Layer
    blocks: nn.Layer

    def forward(self, tokens, types):
        return self.blocks(self.norm(self.positions(self.tokens(tokens) + self.types(types))))


def test_bert_of_transformers():
    norm = nn.LayerNorm(eps=1e-12)
    gelu = nn.Sequential(up=nn.Dense(12), act=lambda x: jax.nn.gelu(x, False), down=nn.Dense(8))
    block = nn.EncoderLayer(
        nn.MultiHeadAttention(2),
        gelu,
        norm_first=False,
        attention_norm=norm,
        feed_forward_norm=norm,
    )
    net = Bert(
        nn.Embedding(11, 8), nn.Embedding(2, 8), nn.LearnedPositions(7), norm, nn.Repeat(block, 2)
    )
    names = {
        "tokens": "embeddings.word_embeddings",
        "types": "embeddings.token_type_embeddings",
        "positions": "embeddings.position_embeddings",
        "norm": "embeddings.LayerNorm",
        "blocks": "encoder.layer.*",
        "blocks/attention/query": ".self.query",
        "blocks/attention/key": ".self.key",
        "blocks/attention/value": ".self.value",
        "blocks/attention/out": ".output.dense",
        "blocks/attention_norm": ".attention.output.LayerNorm",
        "blocks/feed_forward": ".",
        "blocks/feed_forward/up": ".intermediate.dense",
        "blocks/feed_forward/down": ".output.dense",
        "blocks/feed_forward_norm": ".output.LayerNorm",
    }
    weights, (tokens, types, mask), y = fixture("bert")
    found = interop.from_torch(net, weights, tokens, types, names=names, ignore=["pooler.**"])
    ours = outputs(net, found, tokens, types, segment_ids=mask)
    real = mask.astype(bool)  # what is at padding is nobody's
    assert_same(ours[real], y[real])


MODELS = {
    "gpt2": (GPT(layers=2, width=8, num_heads=2, length=7).network(11), interop.GPT2),
    "llama": (
        GPT(
            layers=2,
            width=16,
            num_heads=4,
            num_kv_heads=2,
            hidden=12,
            positions="rotary",
            norm="rms",
            feed_forward="swiglu",
            bias=False,
            tied=False,
        ).network(11),
        interop.LLAMA,
    ),
    "vit": (
        ViT(image=8, patch=4, layers=2, width=8, num_heads=2, hidden=12).network(3),
        interop.VIT,
    ),
}


def published_model(model: str) -> tuple[dict[str, Any], Any, Any]:
    with np.load(published.FILE) as file:
        found = {k.removeprefix(f"{model}/"): file[k] for k in file if k.startswith(f"{model}/")}
    given = {"x", "y", "dy", "dx"}
    weights = {k: a for k, a in found.items() if k not in given and not k.startswith("grad ")}
    x = found["x"].astype(np.int32) if found["x"].dtype == np.int64 else found["x"]
    return weights, x, found["y"]


@pytest.mark.parametrize("model", MODELS)
def test_names_of_models(model):
    net, names = MODELS[model]
    weights, x, y = published_model(model)
    assert_same(outputs(net, interop.from_torch(net, weights, x, names=names), x), y)


def test_the_state_dict_of_a_model_with_a_tied_head_and_buffers():
    """GPT2LMHeadModel.state_dict() has the table twice; old checkpoints have masks as well."""
    net, names = MODELS["gpt2"]
    weights, x, y = published_model("gpt2")
    table = weights["transformer.wte.weight"]
    extra = {
        "lm_head.weight": table.copy(),
        "transformer.h.0.attn.bias": np.tril(np.ones((1, 1, 7, 7), bool)),
        "transformer.h.0.attn.masked_bias": np.float32(-1e4),
    }
    found = interop.from_torch(net, weights | extra, x, names=names)
    assert_same(outputs(net, found, x), y)
    with pytest.raises(ValueError, match=r"lm_head\.weight: given, but no layer takes it; write"):
        interop.from_torch(net, weights | {"lm_head.weight": table + 1}, x, names=names)
    untied = GPT(layers=2, width=8, num_heads=2, length=7, tied=False).network(11)
    tied = {**names, "head": ("transformer.wte", interop.tied)}
    assert_same(outputs(untied, interop.from_torch(untied, weights, x, names=tied), x), y)
    found = interop.from_torch(untied, weights | extra, x, names=names)
    assert_same(outputs(untied, found, x), y)
    without = {path: name for path, name in names.items() if path != "head"}
    with pytest.raises(ValueError) as caught:
        interop.from_torch(untied, weights | extra, x, names=without)
    assert "head: wanted 'head.weight', which is not there" in str(caught.value)
    assert "it equals transformer.wte.weight, which the network does not use twice" in str(
        caught.value
    )


def test_saved_frequencies_are_those_of_the_network():
    net, names = MODELS["llama"]
    weights, x, _ = published_model("llama")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    own = 10000.0 ** -(np.arange(0, 4, 2) / 4)
    interop.from_torch(net, weights | {name: own.astype(np.float16)}, x, names=names)
    other = {name: 500000.0 ** -(np.arange(0, 4, 2) / 4)}
    with pytest.raises(ValueError, match=r"inv_freq: given, but no layer takes it"):
        interop.from_torch(net, weights | other, x, names=names)


def test_a_network_with_a_cache():
    """Its caches are those of init_state; fed token by token, it equals the source."""
    net, names = MODELS["gpt2"]
    net = nn.with_cache(net, 7)
    weights, x, y = published_model("gpt2")
    found = interop.from_torch(net, weights, x[:, :1], names=names)
    fresh = net.init_state(x[:, :1])
    assert jax.tree.structure(found.state) == jax.tree.structure(fresh)
    jax.tree.map(np.testing.assert_array_equal, found.state, fresh)
    step, state, parts = jax.jit(net.apply), found.state, []
    for t in range(x.shape[1]):
        part, state = step(found.params, x[:, t : t + 1], state=state)
        parts.append(part)
    assert_same(np.concatenate(parts, 1), y)


class Tensor:
    """What conversion may use of a torch tensor that NumPy cannot hold: one of type bfloat16, which
    requires gradients, and is on another device."""

    def __init__(self, array: Any, ready: tuple[str, ...] = ()) -> None:
        self.array, self.ready, self.shape = array, ready, array.shape

    def detach(self) -> "Tensor":
        return Tensor(self.array, ("detached",))

    def cpu(self) -> "Tensor":
        return Tensor(self.array, (*self.ready, "here"))

    def numpy(self) -> Any:
        assert self.ready == ("detached", "here")
        if self.array.dtype == jnp.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array

    def float(self) -> "Tensor":
        return Tensor(self.array.astype(np.float32), self.ready)


def test_tensors_of_torch_need_no_preparation():
    net, x = nn.Sequential(nn.Dense(2)), np.ones((1, 3), "f")
    weight = np.array([[0.1, 1.0, -3.0], [2.0, 1e-30, 3e38]]).astype(jnp.bfloat16)
    given = {"0.weight": Tensor(weight), "0.bias": Tensor(np.zeros(2, "f"))}
    found = interop.from_torch(net, given, x).params[0]["w"]
    np.testing.assert_array_equal(np.asarray(found), weight.astype(np.float32).T)


def test_images_of_keras():
    net = nn.Sequential(
        conv=nn.Conv(4, (3, 3)),
        norm=nn.BatchNorm(eps=1e-3),
        prelu=nn.PReLU(axis=-1),
        depthwise=nn.DepthwiseConv((3, 3), multiplier=2),
        groups=nn.GroupNorm(4),
        transpose=nn.ConvTranspose(3, (2, 2), stride=2, padding="valid"),
        dense=nn.Dense(3),
    )
    weights, (x,), y = fixture("keras image")
    found = interop.from_keras(net, weights, x, names={"": "sequential"})
    assert_same(outputs(net, found, x), y)


def test_sequences_of_keras():
    net = nn.Sequential(
        embed=nn.Embedding(5, 4),
        both=both(nn.LSTMCell(3)),
        gru=nn.Recurrent(nn.GRUCell(4)),
        rnn=nn.Recurrent(nn.RNNCell(4)),
        norm=nn.LayerNorm(),
        attention=nn.MultiHeadAttention(2, head_dim=3),
    )
    names = {"both/forward": "/forward_lstm", "both/backward": "/backward_lstm"}
    weights, (x,), y = fixture("keras sequence")
    assert_same(outputs(net, interop.from_keras(net, weights, x, names=names), x), y)


FLAT = nn.Sequential(
    conv=nn.Conv(3, (3, 3)),
    norm=nn.BatchNorm(scale=False),
    whole=nn.LayerNorm(axis=(-3, -2, -1)),
    dropout=nn.Dropout(0.5),
    flatten=nn.Flatten(),
    hidden=nn.Dense(3),
    out=nn.Dense(2, bias=False),
)
FLAT_NAMES = {
    "conv": "/conv2d",
    "norm": "/batch_normalization",
    "whole": "/layer_normalization",
    "hidden": "/dense",
    "out": "/dense_1",
}


def test_a_flattened_image_of_keras_is_in_our_order():
    weights, (x,), y = fixture("keras flat", "file")
    # The number of beta does not show that there is no gamma.
    beta = ("/batch_normalization", lambda layer, source: {"b": source("vars/0")})
    names = {"": "layers", **FLAT_NAMES, "norm": beta}
    found = interop.from_keras(FLAT, weights, x, names=names)
    assert_same(outputs(FLAT, found, x), y)


def test_names_of_a_file_of_keras():
    net = nn.Sequential(
        embedding=nn.Embedding(5, 4),
        bidirectional=both(nn.LSTMCell(3)),
        gru=nn.Recurrent(nn.GRUCell(4)),
        simple_rnn=nn.Recurrent(nn.RNNCell(4)),
        layer_normalization=nn.LayerNorm(),
        multi_head_attention=nn.MultiHeadAttention(2, head_dim=3),
    )
    names = {
        "": "layers",
        "bidirectional/forward": "/forward_layer",
        "bidirectional/backward": "/backward_layer",
    }
    weights, (x,), y = fixture("keras sequence", "file")
    assert_same(outputs(net, interop.from_keras(net, weights, x, names=names), x), y)
    spare = {"layers/dropout/seed_generator/vars/0": np.zeros(2, np.uint32)}
    interop.from_keras(net, weights | spare, x, names=names)
    with pytest.raises(ValueError, match=r"layers/dense/vars/0: given, but no layer takes it"):
        interop.from_keras(net, weights | {"layers/dense/vars/0": np.zeros(2)}, x, names=names)


def test_a_number_does_not_show_which_array_of_a_norm_it_is():
    # keras.layers.LayerNormalization(scale=False) has beta alone, and saves it as vars/0.
    x, weights = np.array([[1.0, 3.0]], "f"), {"n/vars/0": np.array([10.0, 20.0])}
    for bias in (False, True):
        net = nn.Sequential(n=nn.LayerNorm(scale=not bias, bias=bias, eps=0.0))
        with pytest.raises(ValueError, match="n/vars/0 is gamma or beta, which its name") as caught:
            interop.from_keras(net, weights, x)
        written = re.search(r"write names=(\{.*\}\)\})", str(caught.value))
        assert written is not None
        found = interop.from_keras(net, weights, x, names=eval(written[1]))
        expected = [[9.0, 21.0]] if bias else [[-10.0, 20.0]]
        np.testing.assert_allclose(net.apply(found.params, x), expected, atol=1e-5)
    named = {"n/gamma": np.array([10.0, 20.0])}
    interop.from_keras(nn.Sequential(n=nn.LayerNorm(bias=False)), named, x)


class Variable:
    """A keras Variable: an array with a path."""

    def __init__(self, path: str, array: Any) -> None:
        self.path, self.shape, self.array = path, array.shape, array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.array


def test_two_weights_of_keras_with_one_path():
    x, kernel = np.ones((1, 3), "f"), np.arange(9.0).reshape(3, 3)
    net = nn.Sequential(a=nn.Dense(3, bias=False), b=nn.Dense(3, bias=False))
    twice = [Variable("block/d/kernel", kernel), Variable("block/d/kernel", 2 * kernel)]
    with pytest.raises(
        ValueError, match="several weights have the same name: block/d/kernel; give"
    ):
        interop.from_keras(net, twice, x)
    names = {"a": "block/d", "b": "block/d"}
    with pytest.raises(ValueError) as caught:
        interop.from_keras(net, {v.path: v for v in twice}, x, names=names)
    assert (
        "block/d/kernel: taken by a and by b; if the source uses one array in both, write "
        'names={"b": ("block/d", interop.tied)}, and if it has two weights of this name, pass '
        "model.weights, not a dict"
    ) in str(caught.value)
    once = [Variable("a/kernel", kernel), Variable("b/kernel", 2 * kernel)]
    found = interop.from_keras(net, once, x)
    np.testing.assert_array_equal(found.params["b"]["w"], 2 * kernel)


class Keras:
    """A layer or a model of keras: its layers, its weights, and where its channels are."""

    def __init__(self, *layers: "Keras", weights: Any = (), data_format: str = "") -> None:
        self._layers, self.weights = layers, list(weights)
        if data_format:
            self.data_format = data_format


def test_a_keras_model_with_channels_first():
    """A Flatten of keras that is told nothing keeps the order, here (C, H, W)."""
    kernel = np.arange(24.0).reshape(12, 2).astype("f")
    image = np.arange(12.0).reshape(1, 2, 2, 3).astype("f")
    expected = np.moveaxis(image, -1, 1).reshape(1, 12) @ kernel
    net = nn.Sequential(f=nn.Flatten(), d=nn.Dense(2, bias=False))
    inner = Keras(Keras(data_format="channels_first"))
    model = Keras(inner, Keras(), weights=[Variable("d/kernel", kernel)])
    with pytest.raises(ValueError, match=r"d: w has axis 0 over 2 positions x 2 .*") as caught:
        interop.from_keras(net, model, image)
    assert 'names={"d": ("d", interop.channels_first(3, 2, 2))} if the source' in str(caught.value)
    found = interop.from_keras(
        net, model, image, names={"d": ("d", interop.channels_first(3, 2, 2))}
    )
    np.testing.assert_allclose(net.apply(found.params, image), expected, rtol=1e-6)
    last = Keras(Keras(data_format="channels_last"), weights=model.weights)
    found = interop.from_keras(net, last, image)
    np.testing.assert_array_equal(found.params["d"]["w"], kernel)


@pytest.mark.parametrize("given", ["model.keras", 5, [np.ones(3)]])
def test_what_is_not_weights_of_keras(given):
    with pytest.raises(TypeError, match=r"from_keras.weights must be a model, .* write keras"):
        interop.from_keras(nn.Dense(2), given, np.ones((1, 3), "f"))


class Block(linen.Module):
    """A residual block of a ResNet, as flax's own example has it."""

    @linen.compact
    def __call__(self, x):
        y = linen.Conv(4, (3, 3), strides=2, padding=1, use_bias=False)(x)
        y = linen.relu(linen.BatchNorm(use_running_average=True)(y))
        y = linen.Conv(4, (3, 3), use_bias=False)(y)
        y = linen.BatchNorm(use_running_average=True)(y)
        x = linen.Conv(4, (1, 1), strides=2, use_bias=False, name="conv_proj")(x)
        x = linen.BatchNorm(use_running_average=True, name="norm_proj")(x)
        return linen.relu(x + y)


def randomized(tree: Any) -> Any:
    """Positive numbers in the place of each array, so that they may be variances."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: (0.2 + np.abs(rng.normal(size=a.shape))).astype("f"), tree)


def centered(tree: Any) -> Any:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype("f"), tree)


def test_a_block_of_resnet_of_flax():
    norm = nn.BatchNorm()
    conv = nn.Conv(4, (3, 3), stride=2, padding=1, bias=False)
    branch = nn.Sequential(
        conv1=conv,
        norm1=norm,
        relu=jax.nn.relu,
        conv2=nn.Conv(4, (3, 3), bias=False),
        norm2=norm,
    )
    conv = nn.Conv(4, (1, 1), stride=2, padding=0, bias=False)
    net = ResNetBlock(branch, nn.Sequential(conv=conv, norm=norm))
    x = centered(np.zeros((2, 6, 6, 3)))
    shapes = jax.eval_shape(Block().init, jax.random.key(0), x)
    variables = {
        "params": centered(shapes["params"]),
        "batch_stats": randomized(shapes["batch_stats"]),
    }
    names = {
        "branch/conv1": "Conv_0",
        "branch/norm1": "BatchNorm_0",
        "branch/conv2": "Conv_1",
        "branch/norm2": "BatchNorm_1",
        "shortcut/conv": "conv_proj",
        "shortcut/norm": "norm_proj",
    }
    found = interop.from_flax(net, variables, x, names=names)
    assert_same(outputs(net, found, x), jax.jit(Block().apply)(variables, x))


class Sequence(linen.Module):
    """Every other layer of flax that has a converter."""

    @linen.compact
    def __call__(self, tokens):
        x: Any = linen.Embed(5, 4, name="embed")(tokens)
        x = cast(Any, linen.RNN(linen.OptimizedLSTMCell(3), name="lstm"))(x)
        x = cast(Any, linen.RNN(linen.GRUCell(4), name="gru"))(x)
        x = cast(Any, linen.RNN(linen.MGUCell(4), name="mgu"))(x)
        x = cast(Any, linen.RNN(linen.SimpleCell(4), name="rnn"))(x)
        x = linen.MultiHeadDotProductAttention(2, qkv_features=6, name="attention")(x)
        x = linen.RMSNorm(name="rms")(linen.LayerNorm(epsilon=1e-5, name="norm")(x))
        x = linen.PReLU(name="prelu")(x)
        x = linen.ConvTranspose(2, (3,), strides=(2,), padding="VALID", name="transpose")(x)
        return linen.DenseGeneral((2, 3), name="heads")(
            linen.GroupNorm(1, epsilon=1e-5, name="group")(x)
        )


def test_sequences_of_flax():
    net = nn.Sequential(
        embed=nn.Embedding(5, 4),
        lstm=nn.Recurrent(nn.LSTMCell(3)),
        gru=nn.Recurrent(nn.GRUCell(4)),
        mgu=nn.Recurrent(nn.MinimalGatedCell(4)),
        rnn=nn.Recurrent(nn.RNNCell(4)),
        attention=nn.MultiHeadAttention(2, head_dim=3),
        norm=nn.LayerNorm(),
        rms=nn.RMSNorm(),
        prelu=nn.PReLU(),
        transpose=nn.ConvTranspose(2, 3, stride=2, padding="valid"),
        group=nn.GroupNorm(1),
        heads=nn.Dense((2, 3)),
    )
    x = np.array([[1, 4, 0], [2, 2, 3]])
    variables = centered(jax.eval_shape(Sequence().init, jax.random.key(0), x))
    cells = {"lstm": "OptimizedLSTMCell", "gru": "GRUCell", "mgu": "MGUCell", "rnn": "SimpleCell"}
    names = {path: f"{cell}_0" for path, cell in cells.items()}
    found = interop.from_flax(net, variables, x, names=names)
    assert_same(outputs(net, found, x), jax.jit(Sequence().apply)(variables, x))


def test_a_model_of_nnx():
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(1)), nnx.relu
    )
    model.eval()
    x = centered(np.zeros((5, 3)))
    net = nn.Sequential(layers=nn.Sequential(nn.Dense(4), nn.BatchNorm(), jax.nn.relu))
    found = interop.from_flax(net, nnx.to_pure_dict(nnx.state(model)), x)
    assert_same(outputs(net, found, x), model(x))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("SimpleCell", nn.RNNCell),
        ("GRUCell", nn.GRUCell),
        ("LSTMCell", nn.LSTMCell),
        ("OptimizedLSTMCell", nn.LSTMCell),
    ],
)
def test_cells_of_nnx(name, ours):
    model = nnx.RNN(getattr(nnx, name)(3, 4, rngs=nnx.Rngs(0)))
    net, x = nn.Sequential(rnn=nn.Recurrent(ours(4))), centered(np.zeros((2, 5, 3)))
    state = nnx.state(model, nnx.Param)
    weights = centered(nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, weights)
    nnx.update(model, state)
    found = interop.from_flax(net, weights, x, names={"rnn": ""})
    assert_same(outputs(net, found, x), model(x))


class Scanned(linen.Module):
    """Three dense layers, whose parameters `scan` stacks."""

    @linen.compact
    def __call__(self, x):
        scan = linen.scan(
            lambda dense, x, _: (jnp.tanh(dense(x)), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        return scan(linen.Dense(4, name="dense"), x, None)[0]


def test_layers_that_flax_has_stacked():
    x = centered(np.zeros((2, 4)))
    variables = centered(jax.eval_shape(Scanned().init, jax.random.key(0), x))
    net = nn.Repeat(nn.Sequential(dense=nn.Dense(4), tanh=jnp.tanh), 3)
    assert_same(
        outputs(net, interop.from_flax(net, variables, x), x), Scanned().apply(variables, x)
    )
    fewer = nn.Repeat(nn.Sequential(dense=nn.Dense(4), tanh=jnp.tanh), 2)
    with pytest.raises(
        ValueError, match=r"kernel is \(3, 4, 4\), and \(2, 4, 4\) for this network"
    ):
        interop.from_flax(fewer, variables, x)


def test_random_streams_of_nnx_are_not_weights():
    linear = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    model = nnx.Sequential(linear, nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    net, x = nn.Sequential(layers=nn.Sequential(nn.Dense(4))), np.ones((2, 3), "f")
    found = interop.from_flax(net, nnx.to_pure_dict(nnx.state(model)), x)
    np.testing.assert_array_equal(found.params["layers"][0]["w"], linear.kernel[...])


def test_every_difference_is_listed():
    weights, (x,), _ = fixture("convolutions")
    weights["layers.0.weight"] = weights["layers.0.weight"][:3]
    weights["layers.2.weight"] = np.zeros(4)
    del weights["layers.4.bias"]
    weights |= {"layers.9.weight": np.zeros(1), "old/layers": np.zeros(1)}
    with pytest.raises(ValueError) as caught:
        interop.from_torch(CONVOLUTIONS, weights, x, ignore=["old/*"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "the torch weights do not fit this network:"
    assert sorted(lines[1:-1]) == [
        "  layers.9.weight: given, but no layer takes it",
        "  layers/2: weight is (4,), and (1,) for this network",
        "  layers/4: wanted 'layers.4.bias', which is not there",
        "  params/layers/0/w: wanted (3, 3, 2, 4), got (3, 3, 2, 3)",
    ]
    assert lines[-1].startswith('Write names={"path/of/a/layer": "its prefix"}')


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_prefix_of_all_names_is_found(prefix):
    net, x = nn.Sequential(nn.Dense(2)), np.ones((1, 3), "f")
    weights = {"0.weight": np.arange(6.0).reshape(2, 3), "0.bias": np.zeros(2)}
    wrapped = {prefix + name: array for name, array in weights.items()}
    with pytest.raises(ValueError) as caught:
        interop.from_torch(net, wrapped, x)
    write = f'all names that are given begin with {prefix!r}; write names={{"": '
    assert f'{write}"{prefix[:-1]}"}}' in str(caught.value)
    found = interop.from_torch(net, wrapped, x, names={"": prefix[:-1]})
    assert found.params[0]["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(TypeError, match="whose names are of type str"):
        interop.from_torch(net, cast(Any, {0: np.zeros(2)}), x)


def test_a_model_without_its_head_or_inside_another():
    weights, x, y = published_model("gpt2")
    net, names = MODELS["gpt2"]
    for change, write in [
        (lambda name: f"module.{name}", '{name.removeprefix("module."): array'),
        (lambda name: name.removeprefix("transformer."), '{"transformer." + name: array'),
    ]:
        state_dict = {change(name): array for name, array in weights.items()}
        with pytest.raises(ValueError) as caught:
            interop.from_torch(net, state_dict, x, names=names)
        (line,) = [one for one in str(caught.value).splitlines() if "; pass {" in one]
        assert write in line
        renamed = eval(line.partition("; pass ")[2], {"state_dict": state_dict})
        found = interop.from_torch(net, renamed, x, names=names)
        assert_same(outputs(net, found, x), y)


def test_a_square_matrix_is_never_taken_the_other_way_round():
    net, x = nn.Dense(2), np.zeros((1, 3), "f")
    with pytest.raises(ValueError, match=r"the network: weight is \(3, 2\), and \(2, 3\) for"):
        interop.from_torch(
            net, {"weight": np.zeros((3, 2)), "bias": np.zeros(2)}, x, names={"": ""}
        )
    with pytest.raises(ValueError, match=r"kernel is \(2, 3\), and \(3, 2\) for this network"):
        interop.from_flax(net, {"kernel": np.zeros((2, 3)), "bias": np.zeros(2)}, x)


def test_axes_are_split_or_joined_in_their_order_alone():
    x = np.zeros((1, 5), "f")
    heads = {"kernel": np.zeros((5, 2, 3)), "bias": np.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"kernel is \(5, 2, 3\), and \(5, 3, 2\) for this"):
        interop.from_flax(nn.Dense((3, 2)), heads, x)
    attention = linen.MultiHeadDotProductAttention(2, qkv_features=6)
    sequence = np.zeros((1, 4, 6), "f")
    variables = attention.init(jax.random.key(0), sequence)
    with pytest.raises(ValueError, match=r"query/kernel is \(6, 2, 3\), and \(6, 3, 2\) for"):
        interop.from_flax(nn.MultiHeadAttention(3), variables, sequence)
    net = nn.PReLU(axis=-1)  # one slope for each place, where one for each feature is due
    with pytest.raises(ValueError, match=r"alpha is \(2, 2, 1\), and \(1, 1, 4\) for this"):
        interop.from_keras(net, {"alpha": np.zeros((2, 2, 1))}, np.zeros((1, 2, 2, 4)))
    with pytest.raises(ValueError, match=r"params/w: wanted \(4, 3\), got \(3, 4\)"):
        interop.from_torch(
            nn.LearnedPositions(4), {"p": np.zeros((1, 3, 4))}, np.zeros((4, 3)), names={"": "p"}
        )


def test_names_are_of_layers_and_used_once():
    net, x = nn.Sequential(hidden=nn.Dense(3), out=nn.Dense(3)), np.zeros((1, 3), "f")
    weights = {"a.weight": np.eye(3), "a.bias": np.zeros(3)}
    with pytest.raises(ValueError) as caught:
        interop.from_torch(net, weights, x, names={"hidden": "a", "out": "a"})
    assert "a.weight: taken by hidden and by out" in str(caught.value)
    assert 'names={"out": ("a", interop.tied)}' in str(caught.value)
    found = interop.from_torch(net, weights, x, names={"hidden": "a", "out": ("a", interop.tied)})
    np.testing.assert_array_equal(found.params["hidden"]["w"], found.params["out"]["w"])
    for path, write in (("hiden", "did you mean 'hidden'?"), ("hidden/w", "'hidden'")):
        with pytest.raises(ValueError) as caught:
            interop.from_torch(net, weights, x, names={path: "a"})
        assert f"the path {path!r}, which no layer" in str(caught.value)
        assert write in str(caught.value)
    with pytest.raises(TypeError, match=r"must be arrays by name, got .* model\.state_dict\(\)"):
        interop.from_torch(net, cast(Any, [1]), x)


def test_two_collections_with_one_name():
    clash = {"params": {"n": {"mean": np.zeros(2)}}, "batch_stats": {"n": {"mean": np.ones(2)}}}
    with pytest.raises(ValueError, match="several weights have the same name: n/mean; pass one of"):
        interop.from_flax(nn.Sequential(n=nn.BatchNorm()), clash, np.zeros((1, 2), "f"))


def test_copies_want_a_place_for_their_number():
    net, x = nn.Sequential(blocks=nn.Repeat(nn.Dense(2), 3)), np.zeros((1, 2), "f")
    weights = {
        f"h.{i}.{n}": np.full((2, 2)[: 3 - k], i)
        for i in range(3)
        for k, n in [(1, "weight"), (2, "bias")]
    }
    found = interop.from_torch(net, weights, x, names={"blocks": "h.*"})
    assert found.params["blocks"]["w"][:, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(
        ValueError, match=r"blocks: has 1 axes of copies, and its prefix 'h.@' has 0"
    ):
        interop.from_torch(net, weights, x, names={"blocks": "h"})
    with pytest.raises(TypeError, match="names must be a dict from paths of the network to pref"):
        interop.from_torch(net, weights, x, names=cast(Any, {"blocks": 3}))


def test_a_converter_of_ones_own():
    class Scale(nn.Primitive):
        def parameters(self, x):
            return {"log": nn.Param((x.shape[-1],))}

        def forward(self, params, x):
            return x * params["log"]

    net, x = nn.Sequential(scale=Scale()), np.ones((1, 2), "f")
    given = {"s.factor": np.array([1.0, np.e])}
    names = {"scale": ("s", lambda layer, source: {"log": np.log(source("factor"))})}
    found = interop.from_torch(net, given, x, names=names)
    np.testing.assert_allclose(found.params["scale"]["log"], [0, 1], atol=1e-6)
    same = interop.from_torch(net, {"scale.log": np.zeros(2)}, x)
    assert same.params["scale"]["log"].tolist() == [0, 0]


@pytest.mark.parametrize("w", [np.array([[1e300]], "float64"), np.array([[1 + 2j]], "complex64")])
def test_a_number_that_the_declared_type_does_not_hold(w):
    message = rf"params/w: is {w.dtype}, and has numbers that float32 does not hold"
    with pytest.raises(ValueError, match=message):
        interop.from_torch(nn.Dense(1, bias=False), {"weight": w}, jnp.ones((1, 1)))


def test_names_are_a_mapping():
    names: Any = ["0"]
    with pytest.raises(TypeError, match=r"names must be a dict from paths .* got \['0'\]"):
        interop.from_torch(nn.Dense(1), {"weight": np.ones((1, 1))}, jnp.ones((1, 1)), names=names)


def test_running_statistics_of_instances_and_the_number_of_batches():
    net, x = nn.InstanceNorm(track_running_stats=True, momentum=None), np.zeros((1, 4, 2), "f")
    a = {"weight": [1, 2], "bias": [3, 4], "running_mean": [5, 6], "running_var": [7, 8]}
    arrays = {k: np.asarray(v, "f") for k, v in a.items()}
    found = interop.from_torch(net, arrays | {"num_batches_tracked": np.asarray(9)}, x)
    both = jax.tree.map(np.asarray, (found.params, found.state))
    assert jax.tree.map(np.ndarray.tolist, both) == (
        {"scale": [1, 2], "b": [3, 4]},
        {"mean": [5, 6], "var": [7, 8], "count": 9},
    )


@pytest.mark.parametrize(
    ("cell", "lost"),
    [(nn.LSTMCell(2, bias=False), "input/b"), (nn.GRUCell(2, reset_after=False), "recurrent/b")],
)
def test_biases_that_a_cell_does_not_have(cell, lost):
    """Zeros may be left out; another bias would change the function."""
    gates = 4 if isinstance(cell, nn.LSTMCell) else 3
    shapes = {"weight_ih": (3,), "weight_hh": (2,), "bias_ih": (), "bias_hh": ()}
    weights = {name: np.zeros((2 * gates, *rest), "f") for name, rest in shapes.items()}
    net, x = nn.Recurrent(cell), np.ones((1, 4, 3), "f")
    interop.from_torch(net, weights, x)
    weights["bias_hh"] += 1
    with pytest.raises(ValueError, match=f"converted to '{lost}', which the layer does not have"):
        interop.from_torch(net, weights, x)
