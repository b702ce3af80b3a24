"""The base of the configurations, and the smallest networks: MLP and CharLSTM."""

import dataclasses
from typing import Annotated

import jax

from ..combine.recurrent import Recurrent
from ..combine.sequential import Sequential
from ..core.layer import Layer
from ..layers.checks import dropout_rate
from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Dense
from ..layers.lstm import LSTMCell
from ..validation import Accepts, check_fields, natural, positive, tuple_of

# Layers decide whether a traced number sets a shape.
size: Accepts = positive.such(traced=True)
depths: Accepts = natural.such(traced=True)
two_sizes: Accepts = tuple_of(size, "a tuple of 2 ints >= 1", (2,))
some_sizes: Accepts = tuple_of(size, "a tuple of ints >= 1")


class Model:
    """Base of the configurations, which are frozen dataclasses with a method `network`."""

    def __post_init__(self) -> None:
        """Raise unless every field holds what its annotation accepts."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class MLP(Model):
    """Multilayer perceptron with ReLU and dropout."""

    width: Annotated[int, size] = 128
    """Units of each hidden layer."""
    depth: Annotated[int, depths] = 1
    """Number of hidden layers."""
    dropout: Annotated[float, dropout_rate] = 0.0
    """Dropout rate of the hidden layers, in [0, 1)."""

    def network(self, outputs: int) -> Layer:
        """Build the network, from (..., features) to (..., outputs).

        A dropout rate of 0 keeps the dropout layers, so that parameters have the same paths at all
        rates, and the rate may be traced.

        Args:
            outputs: Number of output features.

        >>> MLP(width=64, dropout=0.5).network(outputs=10)
        Sequential(Dense(64), jax.nn.relu, Dropout(0.5), Dense(10))
        """
        hidden = (Dense(self.width), jax.nn.relu, Dropout(self.dropout)) * self.depth
        return Sequential(*hidden, Dense(outputs))


@dataclasses.dataclass(frozen=True)
class CharLSTM(Model):
    """LSTM language model over characters.

    Reference: Graves, Generating sequences with recurrent neural networks, 2013.
    """

    width: Annotated[int, size] = 256
    """Features of a character, and units of each layer."""
    layers: Annotated[int, size] = 2
    """Number of recurrent layers."""
    dropout: Annotated[float, dropout_rate] = 0.0
    """Dropout rate after each recurrent layer, in [0, 1)."""

    def network(self, outputs: int) -> Layer:
        """Build the network, from characters (..., T) to logits (..., T, outputs).

        Args:
            outputs: Number of characters of the vocabulary.

        >>> net = CharLSTM(width=64, layers=1).network(outputs=84)
        >>> net.layers["embedding"], net.layers["layers"], net.layers["head"]
        (Embedding(84, 64), Sequential(Recurrent(LSTMCell(64)), Dropout(0.0)), Dense(84))
        """
        layers = (Recurrent(LSTMCell(self.width)), Dropout(self.dropout)) * self.layers
        return Sequential(
            embedding=Embedding(outputs, self.width),
            layers=Sequential(*layers),
            head=Dense(outputs),
        )
