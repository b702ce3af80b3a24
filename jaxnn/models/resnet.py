"""ResNet: a residual network of convolutions for images."""

import dataclasses
from typing import Annotated, Literal

import jax

from ..combine.sequential import Sequential
from ..core.composite import Composite
from ..core.layer import Layer
from ..initializers import variance_scaling
from ..layers.convolution import Conv
from ..layers.linear import Dense
from ..layers.normalization import BatchNorm
from ..layers.pooling import GlobalAvgPool, MaxPool
from .model import Model, size, some_sizes


class ResNetBlock(Composite):
    """Residual block: `y = relu(shortcut(x) + branch(x))`.

    Args:
        branch: Layer of the residual branch.
        shortcut: Layer of the shortcut. Default: None, for the identity.

    >>> import jax.numpy as jnp
    >>> block = ResNetBlock(Conv(4, (3, 3)))
    >>> block.apply(block.init(jax.random.key(0), x := jnp.ones((2, 8, 8, 4))), x).shape
    (2, 8, 8, 4)
    """

    branch: Layer
    shortcut: Layer | None = None

    def forward(self, x: jax.Array) -> jax.Array:
        """Return the block's features."""
        y = self.branch(x)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


@dataclasses.dataclass(frozen=True)
class ResNet(Model):
    """Residual network with batch normalization, for image classification.

    `resnet18()` to `resnet152()` are the published sizes. The stride of a bottleneck is in its
    3 x 3 convolution, as in torchvision. Weights of convolutions are initialized normal, scaled by
    fan-out.

    Reference: He et al., Deep residual learning for image recognition, 2016.
    """

    stages: Annotated[tuple[int, ...], some_sizes] = (2, 2, 2, 2)
    """Number of blocks of each stage; each stage halves the image and doubles the channels."""
    width: Annotated[int, size] = 64
    """Channels of the first stage."""
    bottleneck: bool = False
    """Whether blocks are bottlenecks (1 x 1, 3 x 3, 1 x 1) instead of two 3 x 3 convolutions."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers: 7 x 7 and max pooling, each by 2; or 3 x 3 at full size, for small images."""

    def network(self, outputs: int) -> Layer:
        """Build the network, from images (N, H, W, C) to logits (N, outputs).

        The network keeps batch statistics as state.

        Args:
            outputs: Number of classes.

        >>> import jax
        >>> net = ResNet(stages=(1, 2), width=4, stem="cifar").network(outputs=10)
        >>> params = net.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 8, 8, 3), "float32"))
        >>> params["stages"][1][0]["shortcut"]["conv"]["w"].shape
        (1, 1, 4, 8)
        """
        # Not a Repeat: XLA's CPU compiler runs convolutions ten times slower in its loop.
        stages, channels = [], self.width
        for number, blocks in enumerate(self.stages):
            width, stage = self.width * 2**number, []
            features = 4 * width if self.bottleneck else width
            for block in range(blocks):
                stride = 2 if number > 0 and block == 0 else 1
                resized = stride > 1 or features != channels
                shortcut = _convolution(features, 1, stride) if resized else None
                stage.append(ResNetBlock(self._branch(width, stride), shortcut))
                channels = features
            stages.append(Sequential(*stage))
        return Sequential(
            stem=self._stem(),
            stages=Sequential(*stages),
            pool=GlobalAvgPool(),
            head=Dense(outputs),
        )

    def _stem(self) -> Layer:
        if self.stem == "cifar":
            return Sequential(convolution=_convolution(self.width, 3), relu=jax.nn.relu)
        return Sequential(
            convolution=_convolution(self.width, 7, stride=2),
            relu=jax.nn.relu,
            pool=MaxPool((3, 3), stride=2, padding=1),
        )

    def _branch(self, width: int, stride: int) -> Layer:
        if not self.bottleneck:
            return Sequential(
                first=_convolution(width, 3, stride),
                relu=jax.nn.relu,
                second=_convolution(width, 3),
            )
        return Sequential(
            narrow=_convolution(width, 1),
            relu1=jax.nn.relu,
            middle=_convolution(width, 3, stride),
            relu2=jax.nn.relu,
            wide=_convolution(4 * width, 1),
        )

    @classmethod
    def resnet18(cls) -> "ResNet":
        """ResNet-18: 11,689,512 parameters with 1,000 outputs."""
        return cls()

    @classmethod
    def resnet34(cls) -> "ResNet":
        """ResNet-34."""
        return cls(stages=(3, 4, 6, 3))

    @classmethod
    def resnet50(cls) -> "ResNet":
        """ResNet-50, with bottlenecks."""
        return cls(stages=(3, 4, 6, 3), bottleneck=True)

    @classmethod
    def resnet101(cls) -> "ResNet":
        """ResNet-101, with bottlenecks."""
        return cls(stages=(3, 4, 23, 3), bottleneck=True)

    @classmethod
    def resnet152(cls) -> "ResNet":
        """ResNet-152, with bottlenecks."""
        return cls(stages=(3, 8, 36, 3), bottleneck=True)


def _convolution(features: int, size: int, stride: int = 1) -> Layer:
    """A square convolution without bias, padded to keep the size at stride 1, and batch norm."""
    return Sequential(
        conv=Conv(
            features,
            (size, size),
            stride=stride,
            padding=size // 2,
            bias=False,
            w_init=variance_scaling(2.0, "fan_out", "normal"),
        ),
        norm=BatchNorm(),
    )
