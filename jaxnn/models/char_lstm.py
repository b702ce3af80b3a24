"""CharLSTM: a recurrent network that predicts the next character."""

import dataclasses
from typing import Annotated

from ..combine.recurrent import Recurrent
from ..combine.sequential import Sequential
from ..core.layer import Layer
from ..layers.checks import dropout_rate
from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Dense
from ..layers.recurrence import LSTMCell
from .model import Model, size


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
