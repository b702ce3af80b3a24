"""Models against transformers and torchvision on the same random weights: outputs and gradients,
from tests/fixtures/models.py. What converts weights converts gradients too: it only moves numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.models import GPT, ResNet, ViT
from tests.fixtures.models import FILE
from tests.near import assert_near

Find = Callable[[str], Any]


def arrays(model: str) -> dict[str, Any]:
    with np.load(FILE) as file:
        begin = f"{model}/"
        return {name.removeprefix(begin): file[name] for name in file if name.startswith(begin)}


def assert_agrees(net: nn.Layer, convert: Callable[[Find], Any], model: str) -> None:
    """Outputs, and gradients of the parameters and of x where it is floating."""
    a = arrays(model)
    floating = a["x"].dtype == np.float32
    x = a["x"] if floating else a["x"].astype(np.int32)

    @jax.jit
    def run(params, x, dy):
        if not floating:
            y, pull = jax.vjp(lambda p: net.apply(p, x), params)
            return y, pull(dy)
        y, pull = jax.vjp(net.apply, params, x)
        return y, pull(dy)

    params = convert(a.__getitem__)
    assert jax.tree.structure(params) == jax.tree.structure(net.spec(x))
    y, gradients = run(params, x, a["dy"])
    assert_near(y, a["y"])
    gradient = convert(lambda name: a[f"grad {name}"])
    expected = (gradient, a["dx"]) if floating else (gradient,)
    # Elements of a gradient are sums that cancel: their terms are as large as its largest element.
    largest = jax.tree.map(lambda leaf: max(float(np.abs(leaf).max()), 1.0), expected)
    scaled = [
        jax.tree.map(lambda leaf, most: np.asarray(leaf) / most, tree, largest)
        for tree in (gradients, expected)
    ]
    assert_near(*scaled)


def stacked(block: Callable[[Find], Any], find: Find, layers: str, n: int = 2) -> Any:
    """The parameters of a `Repeat`, from torch's layers one by one."""
    found = [block(lambda name, i=i: find(f"{layers}{i}.{name}")) for i in range(n)]
    return jax.tree.map(lambda *a: np.stack(a), *found)


def norm(find: Find, name: str) -> Any:
    return {"scale": find(f"{name}.weight"), "b": find(f"{name}.bias")}


def dense(find: Find, name: str) -> Any:
    return {"w": find(f"{name}.weight").T, "b": find(f"{name}.bias")}


def three(w: Any, b: Any) -> Any:
    """Weights (n, 3n) and biases of query, key and value, which torch has side by side."""
    parts = zip(np.split(w, 3, 1), np.split(b, 3), strict=True)
    return dict(zip(("query", "key", "value"), ({"w": w, "b": b} for w, b in parts), strict=True))


def test_gpt2():
    def untransposed(find: Find, name: str) -> Any:
        return {"w": find(f"{name}.weight"), "b": find(f"{name}.bias")}

    def block(find: Find) -> Any:
        attention = three(find("attn.c_attn.weight"), find("attn.c_attn.bias"))
        return {
            "attention": attention | {"out": untransposed(find, "attn.c_proj")},
            "attention_norm": norm(find, "ln_1"),
            "feed_forward": {
                "up": untransposed(find, "mlp.c_fc"),
                "activation": {},
                "down": untransposed(find, "mlp.c_proj"),
            },
            "feed_forward_norm": norm(find, "ln_2"),
            "dropout": {},
        }

    def convert(find: Find) -> Any:
        return {
            "embedding": {"w": find("transformer.wte.weight")},
            "positions": {"w": find("transformer.wpe.weight")},
            "dropout": {},
            "blocks": stacked(block, find, "transformer.h."),
            "norm": norm(find, "transformer.ln_f"),
        }

    assert_agrees(GPT(layers=2, width=8, num_heads=2, length=7).network(11), convert, "gpt2")


def test_llama():
    def matrix(find: Find, name: str) -> Any:
        return {"w": find(f"{name}.weight").T}

    def block(find: Find) -> Any:
        names = {"query": "q", "key": "k", "value": "v", "out": "o"}
        return {
            "attention": {
                name: matrix(find, f"self_attn.{letter}_proj") for name, letter in names.items()
            },
            "attention_norm": {"scale": find("input_layernorm.weight")},
            "feed_forward": {
                name: matrix(find, f"mlp.{name}_proj") for name in ("gate", "up", "down")
            },
            "feed_forward_norm": {"scale": find("post_attention_layernorm.weight")},
            "dropout": {},
        }

    def convert(find: Find) -> Any:
        return {
            "embedding": {"w": find("model.embed_tokens.weight")},
            "dropout": {},
            "blocks": stacked(block, find, "model.layers."),
            "norm": {"scale": find("model.norm.weight")},
            "head": matrix(find, "lm_head"),
        }

    model = GPT(
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
    )
    assert_agrees(model.network(11), convert, "llama")


def test_vit():
    def block(find: Find) -> Any:
        attention = three(
            find("self_attention.in_proj_weight").T, find("self_attention.in_proj_bias")
        )
        return {
            "attention": attention | {"out": dense(find, "self_attention.out_proj")},
            "attention_norm": norm(find, "ln_1"),
            "feed_forward": {
                "up": dense(find, "mlp.0"),
                "activation": {},
                "down": dense(find, "mlp.3"),
            },
            "feed_forward_norm": norm(find, "ln_2"),
            "dropout": {},
        }

    def convert(find: Find) -> Any:
        return {
            "patches": {
                "w": find("conv_proj.weight").transpose(2, 3, 1, 0),
                "b": find("conv_proj.bias"),
            },
            "token": {"w": find("class_token")[0, 0]},
            "positions": {"w": find("encoder.pos_embedding")[0]},
            "dropout": {},
            "blocks": stacked(block, find, "encoder.layers.encoder_layer_"),
            "norm": norm(find, "encoder.ln"),
            "head": dense(find, "heads.head"),
        }

    model = ViT(image=8, patch=4, layers=2, width=8, num_heads=2, hidden=12)
    assert_agrees(model.network(3), convert, "vit")


# Our name of a convolution in a block, and torch's of it and of its norm.
NAMES = {
    "first": ("conv1", "bn1"),
    "second": ("conv2", "bn2"),
    "narrow": ("conv1", "bn1"),
    "middle": ("conv2", "bn2"),
    "wide": ("conv3", "bn3"),
    "shortcut": ("downsample.0", "downsample.1"),
}
# The block of each name: the first one of a stage. And the convolutions that halve the image.
BLOCKS: dict[str, tuple[ResNet, int, tuple[str, ...]]] = {
    "basic": (ResNet(stages=(1,), width=4), 0, ()),
    "basic by 2": (ResNet(stages=(1, 1), width=2), 1, ("first", "second", "shortcut")),
    "bottleneck by 2": (
        ResNet(stages=(1, 1), width=1, bottleneck=True),
        1,
        ("middle", "wide", "shortcut"),
    ),
}


@pytest.mark.parametrize("train", [False, True])
def test_blocks_of_resnet(train: bool):
    """All in one program; in training, the statistics are the batch's."""
    blocks = [
        model.network(1).layers["stages"].layers[stage].layers[0]
        for model, stage, _ in BLOCKS.values()
    ]
    given = [arrays(f"{name} {'train' if train else 'eval'}") for name in BLOCKS]
    states = [state_of(block, a) for block, a in zip(blocks, given, strict=True)]

    @jax.jit
    def run(states, given):
        found = []
        for block, state, a in zip(blocks, states, given, strict=True):

            def apply(params, x, block=block, state=state):
                return block.apply(params, x, state=state, train=train)

            params = parameters_of(block, a)
            y, pull, new = jax.vjp(apply, params, a["x"], has_aux=True)
            found.append((y, pull(a["dy"]), new))
        return found

    expected = []
    for block, a, (*_, halved) in zip(blocks, given, BLOCKS.values(), strict=True):
        gradients = parameters_of(block, a, "grad "), a["dx"]
        after = state_of(block, a, "after ", halved) if train else state_of(block, a)
        expected.append((a["y"], gradients, after))
    assert_near(run(states, given), expected)


def parameters_of(block: Any, a: dict[str, Any], kind: str = "") -> Any:
    def value(name: str) -> Any:
        if name not in NAMES:
            return {}
        conv, bn = NAMES[name]
        w = a[f"{kind}{conv}.weight"].transpose(2, 3, 1, 0)
        return {"conv": {"w": w}, "norm": norm(lambda n: a[kind + n], bn)}

    params = {"branch": {name: value(name) for name in block.branch.layers}}
    return params | ({"shortcut": value("shortcut")} if block.shortcut else {})


def state_of(block: Any, a: dict[str, Any], kind: str = "", halved: tuple[str, ...] = ()) -> Any:
    """The running statistics, before or after; torch's variance is divided by n - 1, ours by n."""

    def value(name: str) -> Any:
        bn = NAMES[name][1]
        mean, var = (a[f"{kind}{bn}.running_{part}"] for part in ("mean", "var"))
        if kind:
            n, kept = 2 * (3 * 3 if name in halved else 6 * 5), 0.9 * a[f"{bn}.running_var"]
            var = kept + (var - kept) * (n - 1) / n
        return {"norm": {"mean": mean, "var": var.astype(np.float32)}}

    state = {"branch": {name: value(name) for name in block.branch.layers if name in NAMES}}
    return state | ({"shortcut": value("shortcut")} if block.shortcut else {})
