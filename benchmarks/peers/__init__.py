"""The same network, loss and optimizer, written in each library as its documentation does.

A multilayer perceptron with relu between its dense layers, softmax cross entropy with integer
labels, Adam at 1e-3. A module offers what its library can do of

    steps(widths)                  name -> step(x, y), which trains a held network; its loss
    epochs(widths, x, y, batch)    name -> run(), which trains for an epoch, or for several and
                                   returns the seconds of one
    programs(widths, data, held, batch, epochs)
                                   name -> train(learning_rate), which trains by a separate
                                   program that contains the numbers; the loss on the data `held`
    initializers()                 name -> init(seed), which draws a transformer's parameters
    forwards(widths)               name -> apply(x), the network outside of `jax.jit`

Only `pure_jax` and `jaxnn` donate their state: the documentation of the others does not.
"""

import importlib
from typing import Any

LIBRARIES = ("flax_nnx", "flax_linen", "equinox_", "haiku_", "keras_", "torch_")
LEARNING_RATE = 1e-3
STEADY = 12
"""Epochs of one run that are timed, after a first one that is not."""


def offered(
    method: str, *arguments: Any, by: tuple[str, ...], within: str = "benchmarks.peers"
) -> tuple[dict[str, Any], list[str]]:
    """What the peers `by` offer under the name `method`, and the libraries that are not installed.

    `within` is the package of the peers' modules.

    A peer that is installed and has nothing to offer is left out.
    """
    sides: dict[str, Any] = {}
    missing = []
    for name in by:
        try:
            peer = importlib.import_module(f"{within}.{name}")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] in ("benchmarks", "jax", "jaxnn"):
                raise
            missing.append(name.rstrip("_"))
            continue
        if hasattr(peer, method):
            sides |= getattr(peer, method)(*arguments)
    return sides, missing
