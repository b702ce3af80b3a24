"""MLP: a multilayer perceptron."""

import dataclasses
from typing import Annotated

import jax

from ..combine.sequential import Sequential
from ..core.layer import Layer
from ..layers.checks import dropout_rate
from ..layers.dropout import Dropout
from ..layers.linear import Dense
from .model import Model, depths, size


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
