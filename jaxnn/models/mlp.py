"""The multilayer perceptron, as a configuration of plain numbers that builds the layers."""

import dataclasses

import jax

from ..combine.sequential import Sequential
from ..core.layer import Layer
from ..layers.dense import Dense
from ..layers.dropout import Dropout
from .checks import check_sizes


@dataclasses.dataclass(frozen=True)
class MLP:
    """Hidden layers of rectified linear units, with dropout."""

    width: int = 128
    """Units of each hidden layer."""
    depth: int = 1
    """Hidden layers."""
    dropout: float = 0.0
    """Share of hidden units left out at each training step, in [0, 1)."""

    def __post_init__(self) -> None:
        """Raise ValueError for a width below 1, a depth below 0 or a rate outside [0, 1)."""
        check_sizes(self, 1, "width")
        check_sizes(self, 0, "depth")
        Dropout(self.dropout)

    def network(self, outputs: int) -> Layer:
        """The network from (..., features) to (..., outputs).

        A rate of 0 keeps the dropout layers, so that the parameters have the same paths whatever
        the rate, which may be traced.

        >>> MLP(width=64, dropout=0.5).network(outputs=10)
        Sequential(Dense(64), jax.nn.relu, Dropout(0.5), Dense(10))
        """
        hidden = (Dense(self.width), jax.nn.relu, Dropout(self.dropout)) * self.depth
        return Sequential(*hidden, Dense(outputs))
