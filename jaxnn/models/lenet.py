"""LeNet: a small convolutional network for images such as digits."""

import dataclasses
from typing import Annotated

import jax

from ..combine.sequential import Sequential
from ..core.layer import Layer
from ..layers.checks import dropout_rate
from ..layers.convolution import Conv
from ..layers.dropout import Dropout
from ..layers.linear import Dense
from ..layers.pooling import MaxPool
from ..layers.shape import Flatten
from .model import Model, two_sizes


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
