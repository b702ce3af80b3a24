"""Convolutional networks for images: LeNet, ResNet, ConvNeXt, and UNet."""

import dataclasses
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp

from ..combine import Residual, Sequential
from ..core.composite import Composite
from ..core.layer import Layer
from ..explain.text import describe
from ..initializers import constant, truncated_normal, variance_scaling
from ..layers import dropout_rate
from ..layers.batch_norm import BatchNorm
from ..layers.convolution import Conv, DepthwiseConv
from ..layers.elementwise import Dropout, LayerScale, StochasticDepth
from ..layers.linear import Dense
from ..layers.normalization import LayerNorm
from ..layers.patches import ConvTranspose
from ..layers.pooling import GlobalAvgPool, MaxPool
from ..layers.shape import Flatten
from ..validation import require
from .families import CONVNEXT_FAMILIES, RESNET_FAMILIES, Family
from .model import Model, depths, exact_gelu, size, some_sizes, two_sizes
from .pretrained import ImageClassifier


@dataclasses.dataclass(frozen=True)
class LeNet(Model):
    """Convolutional network with two convolutions, max pooling, and two hidden layers.

    The default sizes are those of LeNet-5, with 61,706 parameters for ten classes of 28 x 28
    images. ReLU and max pooling replace its sigmoids and average pooling.

    Reference: LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """

    channels: Annotated[tuple[int, int], two_sizes] = (6, 16)
    """Channels of the two convolutions."""
    hidden: Annotated[tuple[int, int], two_sizes] = (120, 84)
    """Units of the two hidden layers."""
    dropout: Annotated[float, dropout_rate] = 0.0
    """Dropout rate of the hidden layers, in [0, 1)."""

    def network(self, outputs: int) -> Layer:
        """Build the network, from images (N, H, W, C), such as 28 x 28, to logits (N, outputs).

        Args:
            outputs: Number of classes.

        >>> import jax
        >>> net = LeNet().network(outputs=10)
        >>> params = net.init(jax.random.key(0), jax.ShapeDtypeStruct((8, 28, 28, 1), "float32"))
        >>> params["conv2"]["w"].shape, params["hidden1"]["w"].shape
        ((5, 5, 6, 16), (400, 120))
        """
        first, second = self.channels
        hidden1, hidden2 = self.hidden
        return Sequential(
            conv1=Conv(first, (5, 5)),
            relu1=jax.nn.relu,
            pool1=MaxPool((2, 2)),
            conv2=Conv(second, (5, 5), padding="valid"),
            relu2=jax.nn.relu,
            pool2=MaxPool((2, 2)),
            flatten=Flatten(),
            hidden1=Dense(hidden1),
            relu3=jax.nn.relu,
            dropout1=Dropout(self.dropout),
            hidden2=Dense(hidden2),
            relu4=jax.nn.relu,
            dropout2=Dropout(self.dropout),
            head=Dense(outputs),
        )


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
class ResNet(ImageClassifier, Model):
    """Residual network with batch normalization, for image classification.

    `resnet18()` to `resnet152()` are the published sizes, and `from_pretrained` loads checkpoints
    of ResNet in transformers; `interop.RESNET` are the names of torchvision and timm. As in these,
    the stride of a bottleneck is in its 3 x 3 convolution. Convolution weights are drawn from a
    normal distribution with variance 2 / fan_out.

    Reference: He et al., Deep residual learning for image recognition, 2016.
    """

    stages: Annotated[tuple[int, ...], some_sizes] = (2, 2, 2, 2)
    """Number of blocks of each stage; all but the first halve the image and double the channels."""
    width: Annotated[int, size] = 64
    """Channels of the first stage."""
    bottleneck: bool = False
    """Whether blocks are bottlenecks (1 x 1, 3 x 3, 1 x 1) instead of two 3 x 3 convolutions."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers: 7 x 7 convolution and max pooling, each of stride 2; or 3 x 3 of stride 1."""

    families: ClassVar[tuple[Family, ...]] = RESNET_FAMILIES

    def network(self, outputs: int | None = None) -> Layer:
        """Build the network, from images (N, H, W, C) to features (N, n), or to logits.

        The network keeps batch statistics as state.

        Args:
            outputs: Number of classes, for logits (N, outputs). Default: None, for the features.

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
            **{} if outputs is None else {"head": Dense(outputs)},
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
    """Return a square convolution without bias that keeps the size at stride 1, and batch norm."""
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


@dataclasses.dataclass(frozen=True)
class ConvNeXt(ImageClassifier, Model):
    """Convolutional network of 7 x 7 depthwise convolutions and layer norms, for classification.

    `tiny()` to `large()` are the published sizes, and `from_pretrained` loads checkpoints of
    ConvNeXt in transformers; `interop.CONVNEXT` are the names of timm. Weights are drawn from a
    truncated normal distribution with a standard deviation of 0.02.

    Reference: Liu et al., A ConvNet for the 2020s, 2022.
    """

    stages: Annotated[tuple[int, ...], some_sizes] = (3, 3, 9, 3)
    """Number of blocks of each stage; each stage but the first halves the image."""
    widths: Annotated[tuple[int, ...], some_sizes] = (96, 192, 384, 768)
    """Channels of each stage."""
    patch: Annotated[int, size] = 4
    """Window and stride of the first convolution."""
    layer_scale: float | None = 1e-6
    """Initial factor of each residual branch; None for no factors."""
    drop_path: Annotated[float, dropout_rate] = 0.0
    """Rate of `nn.StochasticDepth` in the last block; it rises linearly from 0 in the first."""
    eps: float = 1e-6
    """Added to the variance in the last norm; 1e-6 in the others."""

    families: ClassVar[tuple[Family, ...]] = CONVNEXT_FAMILIES

    def __post_init__(self) -> None:
        """Check the fields, and that each stage has a width."""
        super().__post_init__()
        wanted = f"one width for each of {len(self.stages)} stages"
        require(len(self.widths) == len(self.stages), "ConvNeXt.widths", wanted, self.widths)

    def network(self, outputs: int | None = None) -> Layer:
        """Build the network, from images (N, H, W, C) to features (N, n), or to logits.

        Args:
            outputs: Number of classes, for logits (N, outputs). Default: None, for the features.

        >>> import jax
        >>> net = ConvNeXt(stages=(1, 2), widths=(4, 8)).network(outputs=10)
        >>> params = net.init(jax.random.key(0), jax.ShapeDtypeStruct((2, 32, 32, 3), "float32"))
        >>> params["stages"][1]["blocks"][0]["conv"]["w"].shape
        (7, 7, 1, 8)
        """
        norm, stages, number = LayerNorm(eps=1e-6), [], 0
        for i, (blocks, width) in enumerate(zip(self.stages, self.widths, strict=True)):
            stage = []
            for _ in range(blocks):
                rate = self.drop_path * number / max(sum(self.stages) - 1, 1)
                stage.append(self._block(width, rate))
                number += 1
            halved = {"downsample": Sequential(norm=norm, conv=_patches(width, 2))} if i else {}
            stages.append(Sequential(**halved, blocks=Sequential(*stage)))
        return Sequential(
            stem=Sequential(conv=_patches(self.widths[0], self.patch), norm=norm),
            stages=Sequential(*stages),
            pool=GlobalAvgPool(),
            norm=LayerNorm(eps=self.eps),
            **{} if outputs is None else {"head": Dense(outputs, w_init=_SMALL)},
        )

    def _block(self, width: int, rate: float) -> Layer:
        scale = self.layer_scale
        return Residual(
            Sequential(
                conv=DepthwiseConv((7, 7), w_init=_SMALL),
                norm=LayerNorm(eps=1e-6),
                up=Dense(4 * width, w_init=_SMALL),
                activation=exact_gelu,
                down=Dense(width, w_init=_SMALL),
                **{} if scale is None else {"scale": LayerScale(constant(scale))},
                drop_path=StochasticDepth(rate),
            )
        )

    @classmethod
    def tiny(cls) -> "ConvNeXt":
        """ConvNeXt-T: 28,589,128 parameters with 1,000 outputs."""
        return cls()

    @classmethod
    def small(cls) -> "ConvNeXt":
        """ConvNeXt-S."""
        return cls(stages=(3, 3, 27, 3))

    @classmethod
    def base(cls) -> "ConvNeXt":
        """ConvNeXt-B."""
        return cls(stages=(3, 3, 27, 3), widths=(128, 256, 512, 1024))

    @classmethod
    def large(cls) -> "ConvNeXt":
        """ConvNeXt-L."""
        return cls(stages=(3, 3, 27, 3), widths=(192, 384, 768, 1536))


_SMALL = truncated_normal(0.02)


def _patches(features: int, size: int) -> Layer:
    """Return a convolution whose stride equals its window."""
    return Conv(features, (size, size), stride=size, padding="valid", w_init=_SMALL)


class UNetLevel(Composite):
    """One level of a U-Net: `y = decode(concat(fine, coarse(fine)))`, with `fine = encode(x)`.

    Args:
        encode: Layer from the input to the features of this level.
        coarse: Layer that halves the height and width, applies the coarser levels, and doubles the
            height and width again.
        decode: Layer from the concatenated features to the output.

    >>> coarse = Sequential(MaxPool((2, 2)), ConvTranspose(4, (2, 2), stride=2))
    >>> net, x = UNetLevel(Conv(4, (3, 3)), coarse, Conv(6, (3, 3))), jnp.ones((2, 8, 8, 1))
    >>> net.apply(net.init(jax.random.key(0), x), x).shape
    (2, 8, 8, 6)
    """

    encode: Layer
    coarse: Layer
    decode: Layer

    def forward(self, x: jax.Array) -> jax.Array:
        """Return the features of this level."""
        fine = self.encode(x)
        coarse = self.coarse(fine)
        if coarse.shape[:-1] != fine.shape[:-1]:
            raise ValueError(
                f"halving and doubling the height and width of {describe(fine)} returned "
                f"{describe(coarse)}: image sizes must be multiples of 2**depth"
            )
        return self.decode(jnp.concatenate([fine, coarse], -1))


@dataclasses.dataclass(frozen=True)
class UNet(Model):
    """U-Net with batch normalization, for semantic segmentation.

    Unlike in the paper, convolutions are padded, so the output has the size of the image.

    Reference: Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation,
    2015.
    """

    width: Annotated[int, size] = 64
    """Channels at full size; each coarser level doubles them."""
    depth: Annotated[int, depths] = 4
    """Number of times that the image is halved; its sides must be divisible by 2**depth."""

    def network(self, outputs: int) -> Layer:
        """Build the network, from images (N, H, W, C) to logits (N, H, W, outputs).

        The network keeps batch statistics as state.

        Args:
            outputs: Number of classes.

        >>> import jax
        >>> net = UNet(width=4, depth=2).network(outputs=3)
        >>> x = jax.ShapeDtypeStruct((2, 8, 8, 1), "float32")
        >>> params, state = net.init(jax.random.key(0), x), net.init_state(x)
        >>> jax.eval_shape(lambda x: net.apply(params, x, state=state)[0], x).shape
        (2, 8, 8, 3)
        """
        levels = _twice(self.width * 2**self.depth)
        for width in (self.width * 2**level for level in reversed(range(self.depth))):
            coarse = Sequential(
                pool=MaxPool((2, 2)), inner=levels, up=ConvTranspose(width, (2, 2), stride=2)
            )
            levels = UNetLevel(_twice(width), coarse, _twice(width))
        return Sequential(levels=levels, head=Conv(outputs, (1, 1)))


def _twice(width: int) -> Layer:
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""
    return Sequential(
        conv1=Conv(width, (3, 3), bias=False),
        norm1=BatchNorm(),
        relu1=jax.nn.relu,
        conv2=Conv(width, (3, 3), bias=False),
        norm2=BatchNorm(),
        relu2=jax.nn.relu,
    )
