"""One checkpoint on disk: its arrays, its progress, and its seal, which are checked and read.

A checkpoint may be damaged or made by someone else. The seal shows whether its files are those that
were written, and everything that it holds is checked before it is used. A checkpoint that is not
what was written raises `Damaged`; any other error leaves it as it is.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ..core.layer import Layer
from ..explain.text import describe
from ..files.plain import plain
from ..files.reading import MEGABYTE, FileError, listed, printable, read_json
from ..files.replacing import replace
from .state import TrainState

SCHEMA = 2  # of `train.fit(net, task, optimizer, ...)`
RUN_SCHEMA = 3  # of `train.run(program, ...)`
SEAL = "seal.json"
LARGEST = 512 * MEGABYTE  # bytes of the file of progress, which holds all records of the run
# Orbax numbers its operations for the whole process: two at once wait for each other's signals.
ORBAX = threading.RLock()
ABOUT = {
    "network": str,
    "arrays": dict,
    "history": list,
    "sums": dict,
    "count": int,
    "position": dict | None,
    "seconds": float | int,
    "identity": dict,
    "versions": dict,
    "forced": list,
}


RUN_ABOUT = {name: ABOUT[name] for name in ABOUT if name != "count"} | {
    "step": int,
    "stop": dict | None,
    "memories": dict,
}


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is, without its state: plain JSON.

    Args:
        history: the records.
        sums: the sum of each metric over the steps since the last record.
        count: the number of those steps.
        position: the position of the data source; None if it follows from the step.
        seconds: the time that the run has taken.
    """

    history: list[dict[str, float]]
    sums: dict[str, float]
    count: int
    position: dict[str, Any] | None
    seconds: float


class Damaged(FileError):
    """A checkpoint that is not what was written."""


def steps(folder: Path) -> Iterator[tuple[int, Path]]:
    """The checkpoints in a folder by step: complete folders, and not links."""
    if not folder.is_dir():
        return
    for one in folder.iterdir():
        if re.fullmatch(r"0|[1-9]\d*", one.name) and one.is_dir() and not one.is_symlink():
            yield int(one.name), one


def progress_of(folder: Path) -> dict[str, Any]:
    """The progress and identity that a checkpoint holds: the file of orbax's `JsonSave`."""
    file = folder / "progress" / "metadata"
    with _unsealed(folder):
        about = read_json(file, LARGEST, finite=False, bits=1000, values=10**8)
        if not isinstance(about, dict):
            raise FileError(f"{file} is not a JSON object")
    of_run = about.get("schema") == RUN_SCHEMA
    if about.get("schema") not in (SCHEMA, RUN_SCHEMA):
        raise FileError(
            f"{folder} is of schema {about.get('schema')!r}, and this version of jaxnn reads "
            f"{SCHEMA} and {RUN_SCHEMA}"
        )
    valid = {
        "history": lambda records: all(isinstance(one, dict) and _numbers(one) for one in records),
        "sums": _sums if of_run else _numbers,
        "step": lambda step: 0 <= step < 2**53,
        "memories": _numbers,
        "count": lambda count: 0 <= count < 2**53,
        "seconds": lambda seconds: 0 <= seconds < math.inf,
        "versions": lambda texts: all(isinstance(one, str) for one in texts.values()),
        "forced": lambda lists: all(
            isinstance(lines, list) and all(isinstance(line, str) for line in lines)
            for lines in lists
        ),
    }
    with _unsealed(folder):
        for name, kinds in (RUN_ABOUT if of_run else ABOUT).items():
            value = about.get(name)
            right = name in about and isinstance(value, kinds) and not isinstance(value, bool)
            if not right or not valid.get(name, lambda _: True)(value):
                raise FileError(f"{file} has no valid {name!r}")
    return about


def _sums(sums: Mapping[str, Any]) -> bool:
    """Whether all are numbers or nested lists of numbers."""

    def right(item: Any) -> bool:
        return all(map(right, item)) if isinstance(item, list) else _numbers({"": item})

    return all(isinstance(leaves, list) and right(leaves) for leaves in sums.values())


def _numbers(items: Mapping[Any, Any]) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in items.values())


def read(
    folder: Path, net: Layer, like: Any, about: Mapping[str, Any]
) -> tuple[TrainState, Progress]:
    """The state and progress of a checkpoint, with the shapes and types of `like`.

    Raises FileError if the checkpoint has other arrays; nothing of them is read.
    """
    if about["schema"] != SCHEMA:
        raise FileError(
            f"{folder} was written by train.run or train.fit of a program; read it by "
            "train.Checkpoints(folder).restore_run(program, like)"
        )
    progress = Progress(**{f.name: about[f.name] for f in dataclasses.fields(Progress)})
    return read_tree(folder, repr(net), like, about), progress


def read_tree(folder: Path, title: str, like: Any, about: Mapping[str, Any]) -> Any:
    """The arrays of a checkpoint, with the shapes and types of `like`, a pytree.

    Args:
        folder: the checkpoint.
        title: what it is to be a checkpoint of, for an error.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`.
        about: what `progress_of` returned.

    Raises FileError if the checkpoint has other arrays; nothing of them is read.
    """
    import orbax.checkpoint as ocp

    declared = dict(by_path(like))
    targets = {path: _target(leaf) for path, leaf in declared.items()}
    network, arrays = about["network"], dict(about["arrays"])
    # What hooks remembered that the run no longer has is read, but not returned.
    spare = [path for path in arrays if path.startswith("memories/") and path not in declared]
    for path in spare:
        arrays.pop(path)
    wanted = {path: describe(leaf) for path, leaf in declared.items()}
    if wanted != arrays:
        paths = [*wanted, *(path for path in arrays if path not in wanted)]
        lines = [
            f"{path}: wanted {wanted.get(path, 'nothing')}, got {arrays.get(path, 'nothing')}"
            for path in paths
            if wanted.get(path) != arrays.get(path)
        ]
        raise FileError(
            f"{folder} is a checkpoint of another network or optimizer: {listed(lines)}. It was "
            f"written for {network:.400}, and this is {title:.400}: name another folder"
        )
    with ORBAX, _unsealed(folder), plain(folder) as place, quiet():
        _check_arrays(place / "state", declared)
        targets |= _stored(place / "state", spare) if spare else {}
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            found = reader.restore(place / "state", args=ocp.args.StandardRestore(targets))
    leaves = [found[path] for path, _ in by_path(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _check_arrays(folder: Path, declared: Mapping[str, Any]) -> None:
    """Raise FileError if the stored arrays are not of the declared shapes: before they are read."""
    import orbax.checkpoint as ocp
    from etils import epath

    stored = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
    for path, leaf in declared.items():
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        shape, chunk = tuple(stored[path].shape), stored[path].storage.chunk_shape or ()
        if shape != tuple(leaf.shape) or math.prod(chunk) > math.prod(leaf.shape):
            raise FileError(f"{folder}: {path} is stored as {shape}, wanted {tuple(leaf.shape)}")


def _stored(folder: Path, names: list[str]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of stored arrays, as they are."""
    import orbax.checkpoint as ocp
    from etils import epath

    stored = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
    return {
        name: _target(jax.ShapeDtypeStruct(stored[name].shape, stored[name].dtype))
        for name in names
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the tracebacks that orbax prints when it fails; the error is still raised.

    Orbax logs an error once in each of its threads. If one of several reads or writes fails, the
    others end in an event loop that is closed, and Python prints each of them.
    """
    before, logger = sys.unraisablehook, logging.getLogger("absl")

    def hook(found: Any) -> None:
        if str(found.exc_value) != "Event loop is closed":
            before(found)

    def is_kept(record: logging.LogRecord) -> bool:
        return "orbax" not in Path(record.pathname).parts

    sys.unraisablehook = hook
    logger.addFilter(is_kept)
    try:
        yield
    except Exception:
        time.sleep(0.2)  # until they have ended
        raise
    finally:
        sys.unraisablehook = before
        logger.removeFilter(is_kept)


def by_path(tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of any pytree with paths such as `opt_state/0/mu/0/w`."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield "/".join(_segment(entry) for entry in path), leaf


def _segment(entry: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    return str(entry)


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _files(folder: Path) -> Iterator[Path]:
    for one in sorted(folder.rglob("*")):
        if one.is_file() and one.name != SEAL:
            yield one


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write the checksums of all files of a checkpoint next to them."""
    sums = {one.relative_to(folder).as_posix(): _sha256(one) for one in _files(folder)}
    replace(folder / SEAL, json.dumps(sums, indent=1).encode())


def check_seal(folder: Path) -> None:
    """Raise Damaged if a sealed file is missing or has another checksum.

    A checkpoint without a seal is accepted: its run was killed before the seal was written.
    """
    try:
        sealed = read_json(folder / SEAL, LARGEST)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise Damaged(f"{SEAL} cannot be read: {cause(error)}") from None
    if not isinstance(sealed, dict):
        raise Damaged(f"{SEAL} is not what was written")
    # A file that is not in the seal was left by something else, such as a file manager.
    found = {one.relative_to(folder).as_posix(): one for one in _files(folder)}
    for name in sorted(sealed):
        if name not in found:
            raise Damaged(f"{name} is missing")
        if _sha256(found[name]) != sealed[name]:
            raise Damaged(f"{name} is not what was written")


@contextlib.contextmanager
def _unsealed(folder: Path) -> Iterator[None]:
    """Raise Damaged for what cannot be read of a checkpoint without a seal.

    A checkpoint whose files match their checksums is not damaged, whatever prevents its reading
    here: memory, permissions, a version of orbax, or a change by someone who computed the checksums
    again. Errors of the system are raised as they are, others as FileError.
    """
    try:
        yield
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        if not (folder / SEAL).exists():
            raise Damaged(cause(error)) from error
        if isinstance(error, FileError):
            raise
        if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
            raise FileError(
                f"{folder} cannot be read ({type(error).__name__}: {cause(error)}), although its "
                "files match their checksums, so it is left as it is; read it with the versions "
                "that wrote it, or name another folder"
            ) from error
        error.add_note(f"while reading the checkpoint {folder}, which is left as it is")
        raise


def cause(error: BaseException) -> str:
    """The first line of an error, safe to print."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(text.strip().splitlines()[0], 200)
