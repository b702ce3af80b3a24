"""UNet: from images to images, coarse and fine at once."""

import dataclasses

import jax
import jax.numpy as jnp

from ..combine.sequential import Sequential
from ..core.composite import Composite
from ..core.layer import Layer
from ..explain.text import describe
from ..layers.convolution import Conv
from ..layers.convolution_transpose import ConvTranspose
from ..layers.normalization import BatchNorm
from ..layers.pooling import MaxPool
from .checks import check_sizes


class UNetLevel(Composite):
    """decode of fine = encode(x) and coarse(fine), side by side.

    `coarse` sees half the height and width, and comes back to them.
    """

    encode: Layer
    coarse: Layer
    decode: Layer

    def forward(self, x: jax.Array) -> jax.Array:
        """The features of this level."""
        fine = self.encode(x)
        coarse = self.coarse(fine)
        if coarse.shape[:-1] != fine.shape[:-1]:
            raise ValueError(
                f"halves the height and width of {describe(fine)} and doubles them again to "
                f"{describe(coarse)}: give images whose sides are multiples of 2**depth"
            )
        return self.decode(jnp.concatenate([fine, coarse], -1))


@dataclasses.dataclass(frozen=True)
class UNet:
    """A U-shaped network with batch normalization, from images to scores of each pixel.

    Unlike in the paper, convolutions are padded, so that scores are as many as pixels.

    Reference: Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation,
    2015.
    """

    width: int = 64
    """Channels at full size, doubled from level to level."""
    depth: int = 4
    """Times the image is halved; its sides are multiples of 2**depth."""

    def __post_init__(self) -> None:
        """Raise ValueError for a width below 1 or a depth below 0."""
        check_sizes(self, 1, "width")
        check_sizes(self, 0, "depth")

    def network(self, outputs: int) -> Layer:
        """The network from images (N, H, W, C) to (N, H, W, outputs); it keeps batch statistics.

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
    """Two 3 x 3 convolutions, each with its norm."""
    return Sequential(
        conv1=Conv(width, (3, 3), bias=False),
        norm1=BatchNorm(),
        relu1=jax.nn.relu,
        conv2=Conv(width, (3, 3), bias=False),
        norm2=BatchNorm(),
        relu2=jax.nn.relu,
    )
