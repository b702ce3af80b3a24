"""Weights in a safetensors file: parameters and state by path, with a header that describes them.

The file is flat, `params/0/w` and `state/1/mean`, so any safetensors reader opens it. The network's
declaration supplies what a flat file cannot hold: nodes without arrays, and whether a node is a
tuple or a dict. Reading compares the file with that declaration, array by array.

A file is the length of its header, 8 bytes little-endian; the header, JSON with the type, shape,
and place of each array; and the arrays' bytes. So a file of 40 GB is checked before more than a few
kilobytes of it are read.

Reference: https://github.com/huggingface/safetensors (format).
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ..core import paths
from ..core.calls import placeholder_key
from ..core.layer import Layer
from ..explain import notebook
from ..files import replace_file
from ..files.reading import MEGABYTE, FileError, listed, open_regular, parse_json, printable
from ..installation import __version__, required
from ..validation import Accepts, integer
from .program import Trained, trained_like

# Types by their names in the format. Others have no array type here.
DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "U32": np.uint32,
        "I32": np.int32,
        "U64": np.uint64,
        "I64": np.int64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
        "C64": np.complex64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}
LONGEST_HEADER = 32 * MEGABYTE  # 250,000 arrays


@dataclasses.dataclass(frozen=True)
class Entry:
    """The type and shape of one array, and where its bytes begin.

    Args:
        dtype: Type of its elements.
        shape: Its shape.
        begin: Position of its first byte in the file.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """An open safetensors file whose header has been checked.

    Args:
        entries: Type, shape, and place of each array, by name.
        metadata: Texts by name.
        opened: The file.
        file: Its path.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    opened: BufferedReader
    file: str

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return one array.

        Args:
            name: Its name; FileError if the file became shorter.
        """
        entry = self.entries[name]
        array = np.empty(entry.shape, entry.dtype)
        self.opened.seek(entry.begin)
        if self.opened.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise FileError(
                f"{self.file}: became shorter while it was read; restore it from a copy"
            )
        return array


@contextlib.contextmanager
def open_arrays(file: str | os.PathLike[str]) -> Iterator[ArrayFile]:
    """Open a safetensors file and check its header; the arrays are not yet read.

    Args:
        file: Its path.

    Raises:
        FileError: It is truncated or not a safetensors file: the header must be valid, each array
            must have the length of its type and shape, and all of them must fill the file.
    """
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        try:
            entries, metadata = _header(opened, size)
        except ValueError as error:
            raise FileError(
                f"{os.fspath(file)} ({size:,} bytes) is truncated or not a safetensors file: "
                f"{error}; restore it from a copy, or train again"
            ) from None
        yield ArrayFile(entries, metadata, opened, os.fspath(file))


HEADER = Accepts(
    "a JSON object with texts as metadata",
    lambda plain: (
        isinstance(plain, dict)
        and isinstance(texts := plain.get("__metadata__", {}), dict)
        and all(isinstance(text, str) for text in texts.values())
    ),
)


def _header(opened: BufferedReader, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the arrays and metadata of a header; ValueError if it is not that of the file."""
    first = opened.read(8)
    length = int.from_bytes(first, "little")
    integer(0, min(max(size - 8, 0), LONGEST_HEADER))(length, "the length of its header")
    plain = HEADER(parse_json(opened.read(length)), "its header")
    metadata = plain.pop("__metadata__", {})
    start = 8 + length
    found = {name: _entry(name, one, start) for name, one in plain.items()}
    spans = sorted((entry.begin, end) for entry, end in found.values())
    ends = [start, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != size:
        raise ValueError(
            f"its arrays overlap, leave a gap, or end at byte {ends[-1]:,}, not with the file"
        )
    return {name: entry for name, (entry, _) in found.items()}, metadata


def _entry(name: str, plain: Any, start: int) -> tuple[Entry, int]:
    """Return an array's entry, and the end of its bytes."""
    match plain:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [begin, end], **others} if (
            not others and kind in DTYPES and len(shape) <= 32 and _naturals([*shape, begin, end])
        ):
            if math.prod(shape) * DTYPES[kind].itemsize == end - begin:
                return Entry(DTYPES[kind], tuple(shape), start + begin), start + end
    raise ValueError(
        f"{printable(name, 80)!r} does not have a known dtype, a shape, and data_offsets of that "
        f"size: {printable(repr(plain), 200)}"
    )


def _naturals(plain: list[Any]) -> bool:
    return all(type(one) is int and one >= 0 for one in plain)


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

    def _repr_html_(self) -> str:
        """Return a folded tree with shapes, for notebooks."""
        return notebook.page(notebook.of_tree(vars(self), "Weights"))


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
    replace_file(Path(file), packed(net, trained))


def packed(net: Layer, trained: Trained) -> bytes:
    """Return the contents of the file that `save_weights` writes."""
    safetensors = required(
        "safetensors.numpy", "weights are saved by", "safetensors", "experiments"
    )
    trained_like(trained, "save_weights.trained")
    # safetensors writes the memory of an array in its order, which has to be row by row.
    arrays = {
        path: np.asarray(leaf, order="C")
        for path, leaf in _flat(trained.params, trained.state).items()
    }
    about = {"format": "jaxnn", "schema": SCHEMA, "network": repr(net)}
    about |= {"jax": jax.__version__, "jaxnn": __version__}
    raw = safetensors.save(arrays, metadata=about)
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
    problems: list[str] = []
    kept = _kept(declared, start, keep, problems)
    with open_arrays(file) as opened:
        about, entries = opened.metadata, opened.entries
        if about.get("format") != "jaxnn" or about.get("schema") != SCHEMA:
            raise FileError(
                f"{file}: expected a file of jaxnn's schema {SCHEMA}, got format "
                f"{about.get('format')!r:.40}, schema {about.get('schema')!r:.40}; write it with "
                "train.save_weights(file, net, trained)"
            )
        left_out = _matching(leave_out, entries, "leave_out", problems)
        names = [name for name in entries if name not in left_out]
        names = _renamed(names, rename or {}, problems)
        if problems:
            raise FileError(f"{file}: {listed(problems)}")
        names = {path: name for path, name in names.items() if path not in kept}
        # The header is compared first: only arrays that the network declares are read.
        found = {path: entries[name] for path, name in names.items()}
        arrays, lines = dict(kept), _differences(declared, found | kept, cast)
        for path, name in names.items() if not lines else ():
            array, dtype = opened.read(name), declared[path].dtype
            if lost := not_held(array, dtype):
                lines.append(f"{path} {lost}")
            else:
                arrays[path] = jnp.asarray(array.astype(dtype))
        if lines:
            raise FileError(
                f"{file}: does not hold the weights of {net!r:.400}: {listed(lines)}. It was "
                f"written for {about.get('network', 'another network'):.400}."
            )

    def filled(root: str, tree: Any) -> Any:
        return paths.map_with_path(lambda path, _: arrays[paths.text((root, *path))], tree)

    return Weights(filled("params", spec), filled("state", slots))


def _flat(params: Any, state: Any) -> dict[str, Any]:
    """Return the leaves of parameters and state by path."""
    tree = {"params": params, "state": state}
    return {paths.text(path): leaf for path, leaf in paths.walk(tree)}


def _matching(
    patterns: Sequence[str], known: Iterable[str], what: str, problems: list[str]
) -> set[str]:
    """Return the paths that patterns match; a pattern that matches nothing is a problem."""
    pattern_list(patterns, what, hint=f"write [{patterns!r}]")
    found: set[str] = set()
    for pattern in patterns:
        matched = {path for path in known if paths.matches(pattern, path)}
        if not matched:
            problems.append(f"{what}: {pattern!r} matches none of {listed(known, ', ')}")
        found |= matched
    return found


def _renamed(
    names: Sequence[str], rename: Mapping[str, str], problems: list[str]
) -> dict[str, str]:
    """Return the names in the file by path in the network; the longest prefix applies."""
    found: dict[str, str] = {}
    unused = set(rename)
    for name in names:
        old = max((o for o in rename if f"{name}/".startswith(f"{o}/")), key=len, default=None)
        path = name if old is None else rename[old] + name[len(old) :]
        unused.discard(old or "")
        if path in found:
            problems.append(f"rename gives {path!r} to two arrays; write leave_out=[...]")
        found[path] = name
    problems += [
        f"rename has {old!r}, which is not a path of the file, which has {listed(names, ', ')}"
        for old in sorted(unused)
    ]
    return found


def _kept(
    declared: dict[str, Any], start: Trained | None, keep: Sequence[str], problems: list[str]
) -> dict[str, Any]:
    """Return the arrays of `start` that are not loaded, by path."""
    if bool(keep) != (start is not None):
        problems.append(
            "start and keep belong together: write start=Weights(params, state), "
            'keep=["params/head/**"]'
        )
    kept = _matching(keep, declared, "keep", problems)
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
