"""Weights in a safetensors file: parameters and state by path, with a header that says of what.

The file is flat, `params/0/w` and `state/1/mean`, so any safetensors reader opens it. What a flat
file cannot hold, the nodes without arrays and whether a node is a tuple or a dict, the network's
own declaration gives back; reading compares the file with that declaration, array by array.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..core import paths
from ..core.declarations import describe
from ..core.layer import Layer
from ..version import __version__
from .evaluation import Trained

SCHEMA = "1"


@dataclasses.dataclass(frozen=True)
class Weights:
    """The parameters and the state of a network: what `evaluate` and `predict` need."""

    params: Any
    state: Any


def pack_weights(net: Layer, trained: Trained) -> bytes:
    """The contents of a safetensors file with the parameters and state of `net`.

    The header's metadata hold the schema of the file, the code of the network and the versions of
    jax and jaxnn. Raises ImportError where safetensors is not installed.

    >>> import jax, jax.numpy as jnp, tempfile
    >>> import jaxnn as nn
    >>> net, x = nn.Serial(nn.Dense(3), jax.nn.relu), jnp.ones((1, 2))
    >>> weights = Weights(net.init(jax.random.key(0), x), net.init_state(x))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "weights.safetensors")
    ...     size = file.write_bytes(pack_weights(net, weights))
    ...     loaded = load_weights(file, net, x)
    >>> jax.tree.map(jnp.shape, loaded.params)
    ({'b': (3,), 'w': (2, 3)}, {})
    """
    safetensors = _library()
    # safetensors writes an array's memory as it lies, so it has to lie row by row.
    arrays = {
        path: np.asarray(leaf, order="C")
        for path, leaf in _flat(trained.params, trained.state).items()
    }
    about = {"format": "jaxnn", "schema": SCHEMA, "network": repr(net)}
    about |= {"jax": jax.__version__, "jaxnn": __version__}
    return safetensors.numpy.save(arrays, metadata=about)


def load_weights(file: str | os.PathLike[str], net: Layer, *inputs: Any, **named: Any) -> Weights:
    """The parameters and state of `net` from a file that `pack_weights` made.

    Args:
        file: the safetensors file.
        net: the network; its declaration for the inputs says what the file has to hold.
        inputs, named: arrays or `jax.ShapeDtypeStruct`, as for `net.init`.

    Raises:
        ValueError: the file is truncated or of another kind, or its arrays are not those of the
            network; every missing, unknown and misshapen path is listed.
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.
    """
    file = Path(file)
    safetensors = _library()
    size = file.stat().st_size
    try:
        # This framework gives JAX arrays of every type, bfloat16 too.
        with safetensors.safe_open(file, framework="flax") as opened:
            about = opened.metadata() or {}
            arrays = {path: opened.get_tensor(path) for path in opened.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{file} ({size:,} bytes) is truncated, or no safetensors file: {error}. Restore it "
            "from a copy, or train again"
        ) from None
    if about.get("format") != "jaxnn" or about.get("schema") != SCHEMA:
        raise ValueError(
            f"{file}: wanted a file of jaxnn's schema {SCHEMA}, got format "
            f"{about.get('format')!r}, schema {about.get('schema')!r}; write it with "
            "train.pack_weights(net, trained)"
        )
    spec = net.spec(*inputs, **named)
    slots = jax.eval_shape(lambda: net.init_state(*inputs, **named))
    lines = _differences(_flat(spec, slots), arrays)
    if lines:
        raise ValueError(
            f"{file} does not hold the weights of {net!r}:\n  "
            + "\n  ".join(lines)
            + f"\nIt was written for {about.get('network')}."
        )

    def filled(root: str, tree: Any) -> Any:
        return paths.map_with_path(lambda path, _: arrays[paths.text((root, *path))], tree)

    return Weights(filled("params", spec), filled("state", slots))


def _flat(params: Any, state: Any) -> dict[str, Any]:
    tree = {"params": params, "state": state}
    return {paths.text(path): leaf for path, leaf in paths.walk(tree)}


def _differences(declared: dict[str, Any], found: dict[str, Any]) -> list[str]:
    lines = []
    for path in [*declared, *(path for path in found if path not in declared)]:
        wanted = describe(declared[path]) if path in declared else "nothing"
        got = describe(found[path]) if path in found else "nothing"
        if wanted != got:
            lines.append(f"{path}: wanted {wanted}, got {got}")
    return lines


def _library() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "weights are saved by safetensors, which is not installed: write "
            "pip install 'jaxnn[experiments]'"
        ) from error
    return safetensors
