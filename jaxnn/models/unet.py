"""UNet: an encoder-decoder network with skip connections, from images to images."""

import dataclasses
from typing import Annotated

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
from .model import Model, depths, size


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
    """U-Net with batch normalization, for the classification of pixels.

    Unlike in the paper, convolutions are padded, so the output has the size of the image.

    Reference: Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation,
    2015.
    """

    width: Annotated[int, size] = 64
    """Channels at full size, doubled from level to level."""
    depth: Annotated[int, depths] = 4
    """Number of times that the image is halved; its sides must be multiples of 2**depth."""

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
