"""Weights in a safetensors file: parameters and state by path, with a header that describes them.

The file is flat, `params/0/w` and `state/1/mean`, so any safetensors reader opens it. The network's
declaration supplies what a flat file cannot hold: nodes without arrays, and whether a node is a
tuple or a dict. Reading compares the file with that declaration, array by array.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
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
from ..validation import Accepts
from ..version import __version__
from .state import Trained

SCHEMA = "1"
pattern_list: Accepts = Accepts("a list of patterns", lambda v: not isinstance(v, str), TypeError)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """The parameters and the state of a network, a pytree, for `evaluate` and `predict`.

    Args:
        params: Parameters.
        state: State, `{}` if the network keeps none.
    """

    params: Any
    state: Any


def save_weights(file: str | os.PathLike[str], net: Layer, trained: Trained) -> None:
    """Write the parameters and the state of a network into a safetensors file.

    The file is written completely or not at all, and replaces an existing file. Its metadata
    contain the schema, the code of the network, and the versions of jax and jaxnn.

    Args:
        file: Path of the file.
        net: Network.
        trained: `train.Weights(params, state)`, or a `train.TrainState`.

    Raises:
        TypeError: `trained` is neither; for example, it is a pytree of parameters.
        ImportError: safetensors is not installed.
        OSError: The file cannot be written.

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
    """Return the contents of the file that `save_weights` writes."""
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise missing("weights are saved by", "safetensors", "experiments") from error
    if not (hasattr(trained, "params") and hasattr(trained, "state")):
        raise TypeError(
            "save_weights needs a train.TrainState or train.Weights(params, state), got "
            f"{brief(trained)}; write train.Weights(params, {{}}) for plain parameters, with "
            "net.init_state(x) in place of {} if the network keeps state"
        )
    # safetensors writes the memory of an array in its order, which has to be row by row.
    arrays = {
        path: np.asarray(leaf, order="C")
        for path, leaf in _flat(trained.params, trained.state).items()
    }
    about = {"format": "jaxnn", "schema": SCHEMA, "network": repr(net)}
    about |= {"jax": jax.__version__, "jaxnn": __version__}
    raw = save(arrays, metadata=about)
    # The header is sorted, so that the same weights give the same bytes.
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays stay aligned
    return len(text).to_bytes(8, "little") + text + raw[begin:]


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
    """Load the parameters and state of `net` from a file written by `save_weights`.

    Every path of the network must be in the file, and every path of the file must be in the
    network. Exceptions are listed explicitly:

        load_weights(file, net, x, rename={"params/encoder": "params/0"},
                     leave_out=["params/head/**"], start=fresh, keep=["params/2/*"])

    Args:
        file: Path of the safetensors file.
        net: Network. The file must contain the parameters and state that it declares for the
            inputs.
        *inputs: Arrays or `jax.ShapeDtypeStruct`, as for `net.init`.
        rename: Dict from a path in the file, or the beginning of paths, to a path in the network.
            Default: None, paths are equal.
        leave_out: Patterns of paths in the file, before renaming, that are not loaded. Default: ().
        start: Parameters and state that provide the paths in `keep`. Default: None.
        keep: Patterns of paths in the network that are not loaded. Default: ().
        cast: Whether arrays of another type, such as float64 or float8, are converted to the type
            that the network declares. Default: False, they are rejected.
        **named: Named inputs, as for `net.init`.

    Raises:
        ValueError: The file is truncated or not a safetensors file; its arrays do not match the
            network, in which case missing, unknown, and misshapen paths are listed; a pattern or a
            path in `rename` matches nothing; or `cast` would change an integer or make a number
            infinite.
        FileNotFoundError: The file does not exist.
    """
    spec = net.spec(*inputs, **named)
    slots = jax.eval_shape(lambda: net.init_state(*inputs, key=placeholder_key(), **named))
    declared = _flat(spec, slots)
    kept = _kept(declared, start, keep)
    with open_arrays(file) as opened:
        about, entries = opened.metadata, opened.entries
        if about.get("format") != "jaxnn" or about.get("schema") != SCHEMA:
            raise FileError(
                f"{file}: expected a file of jaxnn's schema {SCHEMA}, got format "
                f"{about.get('format')!r:.40}, schema {about.get('schema')!r:.40}; write it with "
                "train.save_weights(file, net, trained)"
            )
        left_out = _matching(leave_out, entries, f"{file}: leave_out")
        names = _renamed([name for name in entries if name not in left_out], rename or {}, file)
        names = {path: name for path, name in names.items() if path not in kept}
        # The header is compared first: only arrays that the network declares are read.
        found = {path: entries[name] for path, name in names.items()}
        if lines := _differences(declared, found | kept, cast):
            raise FileError(
                f"{file}: does not hold the weights of {net!r:.400}: {listed(lines)}. It was "
                f"written for {about.get('network', 'another network'):.400}."
            )
        arrays = dict(kept)
        for path, name in names.items():
            array, dtype = opened.read(name), declared[path].dtype
            if lost := not_held(array, dtype):
                raise FileError(f"{file}: {path} {lost}")
            arrays[path] = jnp.asarray(array.astype(dtype))

    def filled(root: str, tree: Any) -> Any:
        return paths.map_with_path(lambda path, _: arrays[paths.text((root, *path))], tree)

    return Weights(filled("params", spec), filled("state", slots))


def _flat(params: Any, state: Any) -> dict[str, Any]:
    """Return the leaves of parameters and state by path."""
    tree = {"params": params, "state": state}
    return {paths.text(path): leaf for path, leaf in paths.walk(tree)}


def _matching(patterns: Sequence[str], known: Iterable[str], what: str) -> set[str]:
    """Return the paths that patterns match; ValueError for a pattern that matches nothing."""
    pattern_list(patterns, what, hint=f"write [{patterns!r}]")
    found: set[str] = set()
    for pattern in patterns:
        matched = {path for path in known if paths.matches(pattern, path)}
        if not matched:
            raise ValueError(f"{what}: {pattern!r} matches none of {listed(known, ', ')}")
        found |= matched
    return found


def _renamed(
    names: Sequence[str], rename: Mapping[str, str], file: str | os.PathLike[str]
) -> dict[str, str]:
    """Return the names in the file by path in the network; the longest beginning counts."""
    found: dict[str, str] = {}
    problems, unused = [], set(rename)
    for name in names:
        old = max((o for o in rename if f"{name}/".startswith(f"{o}/")), key=len, default=None)
        path = name if old is None else rename[old] + name[len(old) :]
        unused.discard(old or "")
        if path in found:
            problems.append(f"rename gives {path!r} to two arrays; write leave_out=[...]")
        found[path] = name
    problems += [f"rename has {old!r}, which is not a path of the file" for old in sorted(unused)]
    if problems:
        raise FileError(f"{file}: {listed(problems)}; the file has {listed(names, ', ')}")
    return found


def _kept(declared: dict[str, Any], start: Trained | None, keep: Sequence[str]) -> dict[str, Any]:
    """Return the arrays of `start` that are not loaded, by path."""
    if bool(keep) != (start is not None):
        raise ValueError(
            "start and keep belong together: write start=Weights(params, state), "
            'keep=["params/head/**"]'
        )
    kept = _matching(keep, declared, "keep")
    have = {} if start is None else _flat(start.params, start.state)
    return {path: have[path] for path in declared if path in kept and path in have}


def _differences(declared: dict[str, Any], found: dict[str, Any], cast: bool) -> list[str]:
    """Return a line for each array that is not the declared one."""
    lines, castable = [], False
    for path in dict.fromkeys((*declared, *found)):
        pair: list[Any] = [tree.get(path) for tree in (declared, found)]
        texts = [_described(array) for array in pair]
        numbers = all(map(_is_number, pair)) and pair[0].shape == tuple(pair[1].shape)
        if texts[0] != texts[1] and not (cast and numbers):
            lines.append(f"{path}: expected {texts[0]}, got {texts[1]}")
            castable = castable or numbers
    hint = ["to convert number types, write load_weights(..., cast=True)"]
    return hint * castable + lines


def _described(array: Any) -> str:
    """Return the type and shape of an array or None."""
    return "nothing" if array is None else f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _is_number(array: Any) -> bool:
    """Return whether an array or None holds integers or real numbers."""
    kinds = (jnp.floating, jnp.integer)
    return array is not None and any(jnp.issubdtype(array.dtype, kind) for kind in kinds)


def not_held(array: np.ndarray[Any, Any], dtype: Any) -> str:
    """Return what is lost if an array gets another type, as text; "" if nothing is.

    Rounding is not a loss. A loss is a finite number that becomes infinite, an integer that becomes
    another one, and a complex array that becomes real.
    """
    if array.dtype == dtype:
        return ""
    if np.iscomplexobj(array) and not jnp.issubdtype(dtype, jnp.complexfloating):
        lost: Any = True
    else:
        with np.errstate(all="ignore"):
            held = array.astype(dtype)
            if jnp.issubdtype(dtype, jnp.integer):
                lost = held.astype(array.dtype) != array
            else:
                lost = np.isfinite(held) != np.isfinite(array)
    text = (
        f"is {array.dtype}, and has numbers that {np.dtype(dtype)} does not hold; convert it first"
    )
    return text if np.any(lost) else ""
