"""One trial in a separate process: `python -m benchmarks.sweeping.trial PEER FILE RATE`.

It trains by the peer's program on the arrays in the file, and prints the loss on those for
validation. jaxnn is not imported, so that a peer does not pay for its import.
"""

import sys
from collections.abc import Callable

import numpy as np

from benchmarks.peers import offered
from benchmarks.sweeping.sizes import BATCH, EPOCHS, WIDTHS


def training(peer: str, file: str) -> Callable[[float], float]:
    """The function of a learning rate that trains, and gives the validation loss."""
    with np.load(file) as arrays:
        x, y, held_x, held_y = (arrays[name] for name in ("x", "y", "held_x", "held_y"))
    sides, _ = offered("programs", WIDTHS, (x, y), (held_x, held_y), BATCH, EPOCHS, by=(peer,))
    return next(iter(sides.values()))


if __name__ == "__main__":
    print(training(sys.argv[1], sys.argv[2])(float(sys.argv[3])))
