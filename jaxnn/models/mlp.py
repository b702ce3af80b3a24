"""MLP: a multilayer perceptron."""

import dataclasses

import jax

from ..combine.sequential import Sequential
from ..core.layer import Layer
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from .checks import check_sizes


@dataclasses.dataclass(frozen=True)
class MLP:
    """Multilayer perceptron with ReLU and dropout."""

    width: int = 128
    """Units of each hidden layer."""
    depth: int = 1
    """Number of hidden layers."""
    dropout: float = 0.0
    """Dropout rate of the hidden layers, in [0, 1)."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_sizes(self, 1, "width")
        check_sizes(self, 0, "depth")
        Dropout(self.dropout)

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
