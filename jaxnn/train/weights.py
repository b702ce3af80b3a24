"""Weights in a safetensors file: parameters and state by path, with a header that says of what.

The file is flat, `params/0/w` and `state/1/mean`, so any safetensors reader opens it. What a flat
file cannot hold, the nodes without arrays and whether a node is a tuple or a dict, the network's
own declaration gives back; reading compares the file with that declaration, array by array.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..core import paths
from ..core.declarations import describe
from ..core.layer import Layer
from ..installation import missing
from ..version import __version__
from .state import Trained

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
    return _in_order(safetensors.numpy.save(arrays, metadata=about))


def load_weights(
    file: str | os.PathLike[str],
    net: Layer,
    *inputs: Any,
    rename: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
    start: Trained | None = None,
    keep: Sequence[str] = (),
    **named: Any,
) -> Weights:
    """The parameters and state of `net` from a file that `pack_weights` made.

    Every path of the network has to be in the file, and every one of the file in the network. What
    is to be otherwise is said path by path:

        load_weights(file, net, x, rename={"params/encoder": "params/0"},
                     leave_out=["params/head/**"], start=fresh, keep=["params/2/*"])

    Args:
        file: the safetensors file.
        net: the network; its declaration for the inputs says what the file has to hold.
        inputs, named: arrays or `jax.ShapeDtypeStruct`, as for `net.init`.
        rename: from a path in the file, or the beginning of several, to one in the network.
        leave_out: patterns of paths in the file, as they are there, that are not loaded.
        start: parameters and state that the paths in `keep` stay at.
        keep: patterns of paths in the network that are not loaded.

    Raises:
        ValueError: the file is truncated or of another kind, or its arrays are not those of the
            network, after what was said; every missing, unknown and misshapen path is listed. So is
            a pattern or a path to rename that matches nothing.
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
    declared = _flat(spec, slots)
    arrays = _renamed(_without(arrays, leave_out, f"{file}: leave_out"), rename or {}, file)
    kept = _kept(declared, start, keep)
    arrays = {path: array for path, array in arrays.items() if path not in kept} | kept
    lines = _differences(declared, arrays)
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


def _in_order(raw: bytes) -> bytes:
    """A safetensors file with its header in order: the same weights give the same bytes."""
    size = int.from_bytes(raw[:8], "little")
    header = json.dumps(
        json.loads(raw[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)  # so that the arrays stay aligned
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


def _without(arrays: dict[str, Any], patterns: Sequence[str], what: str) -> dict[str, Any]:
    for pattern in _patterns(patterns):
        if not any(paths.matches(pattern, path) for path in arrays):
            raise ValueError(f"{what}: {pattern!r} matches none of {', '.join(arrays)}")
    return {
        path: array
        for path, array in arrays.items()
        if not any(paths.matches(pattern, path) for pattern in patterns)
    }


def _renamed(arrays: dict[str, Any], rename: Mapping[str, str], file: Path) -> dict[str, Any]:
    new: dict[str, Any] = {}
    used = set()
    for path, array in arrays.items():
        # The longest beginning counts.
        old = max((o for o in rename if f"{path}/".startswith(f"{o}/")), key=len, default=None)
        name = path
        if old is not None:
            used.add(old)
            name = rename[old] + path[len(old) :]
        if name in new:
            raise ValueError(f"{file}: rename gives {name!r} to two arrays; write leave_out=[...]")
        new[name] = array
    if unused := [old for old in rename if old not in used]:
        raise ValueError(
            f"{file}: rename has {unused[0]!r}, and the file has no such path; it has "
            f"{', '.join(arrays)}"
        )
    return new


def _kept(declared: dict[str, Any], start: Trained | None, keep: Sequence[str]) -> dict[str, Any]:
    if bool(_patterns(keep)) != (start is not None):
        raise ValueError(
            "start and keep belong together: write start=Weights(params, state), "
            'keep=["params/head/**"]'
        )
    if start is None:
        return {}
    rest = _without(declared, keep, "keep")
    have = _flat(start.params, start.state)
    return {path: have[path] for path in declared if path not in rest and path in have}


def _patterns(patterns: Sequence[str]) -> Sequence[str]:
    if isinstance(patterns, str):
        raise TypeError(f"wanted a list of patterns, got {patterns!r}; write [{patterns!r}]")
    return patterns


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
        raise missing("weights are saved by", "safetensors", "experiments") from error
    return safetensors
