"""Published numbers of parameters, from shapes alone: no memory is used."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxnn.models import GPT, LeNet, ResNet, UNet, ViT
from tests.cases import floats, tokens

# Of torchvision (ResNet, ViT), transformers (GPT), the papers, and milesial's Pytorch-UNet.
PUBLISHED: dict[str, tuple[Any, int, Any, int]] = {
    "LeNet-5": (LeNet(), 10, floats(1, 28, 28, 1), 61_706),
    "ResNet-18": (ResNet.resnet18(), 1000, floats(1, 64, 64, 3), 11_689_512),
    "ResNet-34": (ResNet.resnet34(), 1000, floats(1, 64, 64, 3), 21_797_672),
    "ResNet-50": (ResNet.resnet50(), 1000, floats(1, 64, 64, 3), 25_557_032),
    "ResNet-101": (ResNet.resnet101(), 1000, floats(1, 64, 64, 3), 44_549_160),
    "ResNet-152": (ResNet.resnet152(), 1000, floats(1, 64, 64, 3), 60_192_808),
    "ViT-Ti/16": (ViT.tiny16(), 1000, floats(1, 224, 224, 3), 5_717_416),
    "ViT-S/16": (ViT.small16(), 1000, floats(1, 224, 224, 3), 22_050_664),
    "ViT-B/16": (ViT.base16(), 1000, floats(1, 224, 224, 3), 86_567_656),
    "ViT-B/32": (ViT.base32(), 1000, floats(1, 224, 224, 3), 88_224_232),
    "ViT-L/16": (ViT.large16(), 1000, floats(1, 224, 224, 3), 304_326_632),
    "ViT-H/14": (ViT.huge14(), 1000, floats(1, 224, 224, 3), 632_045_800),
    "GPT-2": (GPT.gpt2(), 50257, tokens(1, 3), 124_439_808),
    "GPT-2 medium": (GPT.gpt2_medium(), 50257, tokens(1, 3), 354_823_168),
    "GPT-2 large": (GPT.gpt2_large(), 50257, tokens(1, 3), 774_030_080),
    "GPT-2 XL": (GPT.gpt2_xl(), 50257, tokens(1, 3), 1_557_611_200),
    "LLaMA-2 7B": (GPT.llama2_7b(), 32000, tokens(1, 3), 6_738_415_616),
    "LLaMA-2 13B": (GPT.llama2_13b(), 32000, tokens(1, 3), 13_015_864_320),
    "LLaMA-2 70B": (GPT.llama2_70b(), 32000, tokens(1, 3), 68_976_648_192),
    "U-Net": (UNet(), 2, floats(1, 16, 16, 3), 31_037_698),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_number_of_parameters(name: str):
    config, outputs, x, number = PUBLISHED[name]
    shapes = [param.shape for param in jax.tree.leaves(config.network(outputs).spec(x))]
    assert sum(map(math.prod, shapes)) == number


def test_abstract_init_of_7b():
    """`jax.eval_shape` of init itself, in half precision, without any array."""
    net = GPT.llama2_7b().network(32000)
    params = jax.eval_shape(net.init, jax.random.key(0), tokens(1, 3))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 6_738_415_616
    y = jax.eval_shape(net.apply, params, tokens(1, 4096))
    assert (y.shape, y.dtype) == ((1, 4096, 32000), jnp.float32)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_the_stem_of_resnet(stem: Any):
    """By 32 in all for large images; a small one keeps its size until the second stage."""
    net, x = ResNet(width=4, stem=stem).network(10), floats(2, 32, 32, 3)
    params, state = jax.eval_shape(lambda: (net.init(jax.random.key(0), x), net.init_state(x)))
    size = params["stem"]["convolution"]["conv"]["w"].shape[0]
    assert size == {"imagenet": 7, "cifar": 3}[stem]
    stages = net.layers["stages"]
    stem_y = net.layers["stem"].apply
    y, _ = jax.eval_shape(lambda p, s, x: stem_y(p, x, state=s), params["stem"], state["stem"], x)
    assert y.shape == (2, *({"imagenet": (8, 8), "cifar": (32, 32)}[stem]), 4)
    y, _ = jax.eval_shape(
        lambda p, s, x: stages.apply(p, x, state=s), params["stages"], state["stages"], y
    )
    assert y.shape == (2, *({"imagenet": (1, 1), "cifar": (4, 4)}[stem]), 32)
