"""Weights in a safetensors file: parameters and state by path, with a header that says of what.

The file is flat, `params/0/w` and `state/1/mean`, so any safetensors reader opens it. What a flat
file cannot hold, the nodes without arrays and whether a node is a tuple or a dict, the network's
own declaration gives back; reading compares the file with that declaration, array by array.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.calls import placeholder_key
from ..core.layer import Layer
from ..explain.text import brief
from ..files.arrays import open_arrays
from ..files.reading import FileError, listed
from ..files.replacing import replace
from ..installation import missing
from ..version import __version__
from .state import Trained

SCHEMA = "1"


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("params", "state"), meta_fields=()
)
@dataclasses.dataclass(frozen=True)
class Weights:
    """The parameters and the state of a network, a pytree: what `evaluate` and `predict` need."""

    params: Any
    state: Any


def check_trained(trained: Any, function: str) -> None:
    """Raise TypeError for plain parameters in place of what holds them.

    Args:
        trained: a `TrainState`, `Weights`, or what a run folder gives.
        function: what takes it, for the error.
    """
    if not (hasattr(trained, "params") and hasattr(trained, "state")):
        raise TypeError(
            f"{function} takes a train.TrainState or train.Weights(params, state), got "
            f"{brief(trained)}; write train.Weights(params, {{}}) for plain parameters, with "
            "net.init_state(x) in place of {} if the network keeps state"
        )


def save_weights(file: str | os.PathLike[str], net: Layer, trained: Trained) -> None:
    """Write the parameters and the state of a network into a safetensors file.

    The file is written whole or not at all, and replaces one of the same name. Its metadata hold
    the schema, the code of the network, and the versions of jax and jaxnn.

    Args:
        file: the path of the file.
        net: the network.
        trained: `train.Weights(params, state)`, or a `train.TrainState`.

    Raises:
        TypeError: plain parameters.
        ImportError: safetensors is not installed.
        OSError: the file cannot be written.

    >>> import jax, jax.numpy as jnp, tempfile
    >>> import jaxnn as nn
    >>> net, x = nn.Sequential(nn.Dense(3), jax.nn.relu), jnp.ones((1, 2))
    >>> weights = Weights(net.init(jax.random.key(0), x), net.init_state(x))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "weights.safetensors")
    ...     save_weights(file, net, weights)
    ...     loaded = load_weights(file, net, x)
    >>> jax.tree.map(jnp.shape, loaded.params)
    ({'b': (3,), 'w': (2, 3)}, {})
    """
    replace(Path(file), packed(net, trained))


def packed(net: Layer, trained: Trained) -> bytes:
    """The contents of the file that `save_weights` writes."""
    safetensors = _library()
    check_trained(trained, "save_weights")
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
    cast: bool = False,
    **named: Any,
) -> Weights:
    """The parameters and state of `net` from a file of `save_weights`.

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
        cast: whether arrays of another number type, such as float64 or float8, are converted to
            the network's; by default they are rejected.

    Raises:
        ValueError: the file is truncated or of another kind, or its arrays are not those of the
            network, after what was said; missing, unknown and misshapen paths are listed. So is
            a pattern or a path to rename that matches nothing, and a number that `cast` would make
            infinite or another whole number.
        FileNotFoundError: there is no such file.
    """
    file = Path(file)
    spec = net.spec(*inputs, **named)
    slots = jax.eval_shape(lambda: net.init_state(*inputs, key=placeholder_key(), **named))
    declared = _flat(spec, slots)
    kept = _kept(declared, start, keep)
    with open_arrays(file) as opened:
        about = opened.metadata
        if about.get("format") != "jaxnn" or about.get("schema") != SCHEMA:
            raise FileError(
                f"{file}: wanted a file of jaxnn's schema {SCHEMA}, got format "
                f"{about.get('format')!r:.40}, schema {about.get('schema')!r:.40}; write it with "
                "train.save_weights(file, net, trained)"
            )
        names = {name: name for name in opened.entries}
        names = _renamed(_without(names, leave_out, f"{file}: leave_out"), rename or {}, file)
        names = {path: name for path, name in names.items() if path not in kept}
        # The header is compared first: nothing that the network does not declare is read.
        found = {path: opened.entries[name] for path, name in names.items()}
        if lines := _differences(declared, found | kept, cast):
            raise FileError(
                f"{file}: does not hold the weights of {net!r:.400}: {listed(lines)}. It was "
                f"written for {about.get('network', 'another network'):.400}."
            )
        arrays = kept | {
            path: _converted(file, path, opened.read(name), declared[path].dtype)
            for path, name in names.items()
        }

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
            raise ValueError(f"{what}: {pattern!r} matches none of {listed(arrays, ', ')}")
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
            raise FileError(f"{file}: rename gives {name!r} to two arrays; write leave_out=[...]")
        new[name] = array
    if unused := [old for old in rename if old not in used]:
        raise FileError(
            f"{file}: rename has {unused[0]!r}, and the file has no such path; it has "
            f"{listed(arrays, ', ')}"
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


def _differences(declared: dict[str, Any], found: dict[str, Any], cast: bool) -> list[str]:
    lines, types = [], False
    for path in [*declared, *(path for path in found if path not in declared)]:
        wanted, got = declared.get(path), found.get(path)
        if wanted is None or got is None or tuple(wanted.shape) != tuple(got.shape):
            lines.append(f"{path}: wanted {_described(wanted)}, got {_described(got)}")
        elif wanted.dtype != got.dtype and not (cast and _numeric(wanted) and _numeric(got)):
            lines.append(f"{path}: wanted {_described(wanted)}, got {_described(got)}")
            types = types or (_numeric(wanted) and _numeric(got))
    if types:
        lines.insert(0, "to convert number types, write load_weights(..., cast=True)")
    return lines


def _described(array: Any) -> str:
    if array is None:
        return "nothing"
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _numeric(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)


def _converted(file: Path, path: str, array: np.ndarray[Any, Any], dtype: Any) -> jax.Array:
    """The array with the network's type; FileError if a number would become another one."""
    if lost := not_held(array, dtype):
        raise FileError(f"{file}: {path} {lost}")
    return jnp.asarray(array.astype(dtype))


def not_held(array: np.ndarray[Any, Any], dtype: Any) -> str:
    """What is lost if an array gets another type; empty if nothing is.

    Rounding is not a loss. A finite number that becomes infinite is, a whole number that becomes
    another one, and a complex array that becomes real.
    """
    if array.dtype == dtype:
        return ""
    if np.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating):
        lost: Any = True
    elif jnp.issubdtype(dtype, jnp.integer):
        with np.errstate(all="ignore"):
            lost = array.astype(dtype).astype(array.dtype) != array
    else:
        with np.errstate(all="ignore"):
            lost = _finite(array.astype(dtype)) != _finite(array)
    if not np.any(lost):
        return ""
    return (
        f"is {array.dtype}, and has numbers that {np.dtype(dtype)} does not hold; convert it before"
    )


def _finite(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.isfinite(array if np.iscomplexobj(array) else array.astype(np.float64))


def _library() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise missing("weights are saved by", "safetensors", "experiments") from error
    return safetensors
