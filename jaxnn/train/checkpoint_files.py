"""One checkpoint on disk: its arrays, its progress, and its seal, which are checked and read.

A checkpoint may be damaged or made by someone else. The seal shows whether its files are those that
were written, and everything that it holds is checked before it is used. A checkpoint that is not
what was written raises `Damaged`; any other error leaves it as it is.
"""

import contextlib
import hashlib
import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ..explain.text import describe
from ..files.plain import plain
from ..files.reading import MEGABYTE, FileError, listed, printable, read_json
from ..files.replacing import replace
from .state import by_path

SCHEMA = 3
SEAL = "seal.json"
LARGEST = 512 * MEGABYTE  # bytes of the file of progress, which holds all records of the run
# Orbax numbers its operations for the whole process: two at once wait for each other's signals.
ORBAX = threading.RLock()


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
    if about.get("schema") != SCHEMA:
        raise FileError(
            f"{folder} has the schema {about.get('schema')!r}, and this version of jaxnn reads "
            f"{SCHEMA}; name another folder"
        )
    with _unsealed(folder):
        for name, (kinds, valid) in ABOUT.items():
            value = about.get(name)
            right = name in about and isinstance(value, kinds) and not isinstance(value, bool)
            if not right or not valid(value):
                raise FileError(f"{file} has no valid {name!r}")
    return about


def _any(value: Any) -> bool:
    return True


def _nested(item: Any) -> bool:
    """Whether this is a number, or nested lists of numbers."""
    if isinstance(item, list):
        return all(map(_nested, item))
    return isinstance(item, int | float) and not isinstance(item, bool)


def _numbers(items: Any) -> bool:
    return isinstance(items, dict) and all(
        _nested(one) and not isinstance(one, list) for one in items.values()
    )


def _texts(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(one, str) for one in items)


# What a checkpoint has besides its arrays: types in JSON, and whether a value is valid.
ABOUT: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "program": (str, _any),
    "arrays": (dict, _any),
    "step": (int, lambda step: 0 <= step < 2**53),
    "history": (list, lambda records: all(map(_numbers, records))),
    "sums": (dict, lambda sums: all(isinstance(a, list) and _nested(a) for a in sums.values())),
    "position": (dict | None, _any),
    "seconds": (float | int, lambda seconds: 0 <= seconds < math.inf),
    "stop": (dict | None, _any),
    "memories": (dict, _numbers),
    "identity": (dict, _any),
    "versions": (dict, lambda versions: _texts([*versions.values()])),
    "forced": (list, lambda lists: all(map(_texts, lists))),
}


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
    arrays = dict(about["arrays"])
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
            f"{folder} is a checkpoint of another program: {listed(lines)}. It was written for "
            f"{about['program']:.400}, and this is {title:.400}: name another folder"
        )
    with ORBAX, _unsealed(folder), plain(folder) as place, quiet():
        stored = _stored(place / "state", declared)
        targets |= {path: _target(stored[path]) for path in spare}
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            found = reader.restore(place / "state", args=ocp.args.StandardRestore(targets))
    leaves = [found[path] for path, _ in by_path(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _stored(folder: Path, declared: Mapping[str, Any]) -> Any:
    """What is stored, by path; FileError if it does not have the declared shapes."""
    import orbax.checkpoint as ocp
    from etils import epath

    stored = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
    for path, leaf in declared.items():
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        shape, chunk = tuple(stored[path].shape), stored[path].storage.chunk_shape or ()
        if shape != tuple(leaf.shape) or math.prod(chunk) > math.prod(leaf.shape):
            raise FileError(f"{folder}: {path} is stored as {shape}, wanted {tuple(leaf.shape)}")
    return stored


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


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.Sharding):  # none, or what orbax stored of one
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
