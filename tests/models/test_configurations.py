"""Configurations: what they refuse, and that they survive being written and read."""

import functools
import json
from typing import Any

import jax
import pytest

import jaxnn as nn
from jaxnn import models
from jaxnn.experiment.configuration import from_plain, to_plain
from jaxnn.models import GPT, MLP, CharLSTM, LeNet, ResNet, UNet, ViT
from tests.cases import KEY, floats


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: MLP(depth=-1), "MLP.depth must be an int >= 0, got -1"),
        (
            lambda: LeNet(channels=(6, 0)),
            r"LeNet.channels must be a tuple of 2 ints >= 1, got \(6, 0\)",
        ),
        (
            lambda: LeNet(hidden=(120,)),  # pyright: ignore[reportArgumentType]
            r"LeNet.hidden must be a tuple of 2 ints >= 1, got \(120,\)",
        ),
        (lambda: CharLSTM(layers=0), "CharLSTM.layers must be an int >= 1, got 0"),
        (lambda: CharLSTM(dropout=1.0), r"CharLSTM.dropout .* in \[0, 1\)"),
        (lambda: ResNet(stages=()), r"ResNet.stages must be a tuple of ints >= 1, got \(\)"),
        (lambda: ResNet(stem="tiny"), "ResNet.stem must be 'imagenet' or 'cifar', got 'tiny'"),  # type: ignore[arg-type]
        (
            lambda: ViT(patch=15),
            "ViT.patch must be a divisor of image=224, got 15",
        ),
        (
            lambda: ViT(num_heads=7),
            "ViT.num_heads must be a divisor of width=768, got 7",
        ),
        (
            lambda: GPT(num_heads=5),
            "GPT.num_heads must be a divisor of width=384, got 5",
        ),
        (lambda: GPT(norm="batch"), "GPT.norm must be 'layer' or 'rms', got 'batch'"),  # type: ignore[arg-type]
        (lambda: GPT(num_kv_heads=4), "num_kv_heads must be a divisor of num_heads=6, got 4"),
        (lambda: GPT(num_heads=128, positions="rotary"), "rotate pairs of features"),
        (lambda: GPT(hidden=0), "GPT.hidden must be None or an int >= 1, got 0"),
        (lambda: GPT(dropout=-0.1), r"GPT.dropout must be a dropout rate in \[0, 1\), got -0.1"),
        (lambda: UNet(width=True), "UNet.width must be an int >= 1, got True"),
    ],
)
def test_what_makes_no_network(build: Any, text: str):
    with pytest.raises(ValueError, match=text):
        build()


@pytest.mark.parametrize(
    "config", [LeNet(), ResNet.resnet50(), ViT(), GPT.llama2_70b(), CharLSTM(), UNet()], ids=repr
)
def test_written_and_read(config: Any):
    """Equal configurations make equal networks, which print as the code that builds them."""
    again = from_plain(type(config), json.loads(json.dumps(to_plain(config))))
    assert again == config
    net = config.network(10)
    assert again.network(10) == net
    names = {**vars(nn), **vars(models), "jax": jax, "functools": functools}
    assert eval(repr(net), names) == net


def test_vit_wants_images_of_its_size():
    net = ViT(image=8, patch=4, layers=1, width=4, num_heads=1).network(3)
    for shape in ((1, 4, 4, 3), (1, 4, 16, 3)):
        with pytest.raises(
            ValueError, match=r"images must be \(\.\.\., 8, 8, C\).*got float32\[1,4"
        ):
            net.init(KEY, floats(*shape))


def test_unet_wants_sides_that_can_be_halved():
    net = UNet(width=2, depth=2).network(3)
    with pytest.raises(ValueError, match=r"multiples of 2\*\*depth"):
        net.init(KEY, floats(1, 8, 6, 1))


def test_unet_sees_the_whole_image_and_every_pixel():
    """A pixel's scores depend on itself, and on pixels far away."""
    net = UNet(width=8, depth=2).network(3)
    x = jax.random.normal(KEY, (1, 8, 8, 1))
    params, state = net.init(KEY, x), net.init_state(x)

    @jax.jit
    def seen(x):
        return jax.grad(lambda x: net.apply(params, x, state=state)[0][0, 0, 0].sum())(x)

    gradient = seen(x)[0, :, :, 0]
    assert gradient[0, 0] != 0.0
    assert (gradient[5:, 5:] != 0.0).any()
