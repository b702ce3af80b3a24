"""One checkpoint of a run on disk: its files, its seal, and the run that it belongs to.

    1200/               the checkpoint after step 1,200, put in place by one rename
        state/          the arrays of the state and of what hooks remember, by path
        progress/       what else the run needs to resume, as JSON, and which run it is
        score/          the metric by which the checkpoint was saved, as JSON
        seal.json       the SHA-256 of each file above

A checkpoint may be damaged, or made by someone else. Everything that it holds is checked before it
is used. A checkpoint that differs from what was written raises `Damaged`; after any other error, it
is left unchanged.

`run_identity` determines the results of a run, and a run resumes only from a checkpoint with an
equal one. It contains all arguments of `train.run` except those that do not change the results of
the steps: the length of the run, hooks that only observe it, and the placement of its arrays.
`environment` is compared too, but a difference there is only a warning: a run of weeks has to
survive a security update or a move to another machine.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data.accept import as_source, fingerprint_of
from ..data.rows import leaves_by_path
from ..explain.text import describe
from ..files import replace_file
from ..files.reading import MEGABYTE, FileError, listed, plain_path, printable, read_json
from ..fingerprint import CODE, checksum, fingerprint, fingerprint_differences
from ..installation import __version__

SCHEMA = 4
SEAL = "seal.json"
LARGEST = 512 * MEGABYTE  # bytes of the file of progress, which holds all records of the run
# Orbax numbers its operations per process: two at once would wait for each other's signals.
ORBAX = threading.RLock()
# The contents of a checkpoint besides its arrays. [kind] is a list of values of a kind, {str: kind}
# a dict of them, float an int or a float, and list nested lists of numbers.
PROGRESS: dict[str, Any] = {
    "program": str,
    "arrays": {str: str},
    "step": int,
    "history": [{str: float}],
    "sums": {str: list},
    "position": dict | None,
    "seconds": float,
    "stop": [str],
    "memories": {str: float},
    "identity": dict,
    "versions": {str: str},
    "forced": [[str]],
}
# Settings of JAX that change the results of a program, without the prefix "jax_".
SETTINGS = "enable_x64 default_matmul_precision threefry_partitionable numpy_dtype_promotion"


class Damaged(FileError):
    """A checkpoint that differs from what was written."""


# ---- which run it is ----


def run_identity(run: Any) -> dict[str, Any]:
    """Return what determines the results of a run, as JSON."""
    program, data = run.program, run.data
    methods = [getattr(type(program), name) for name in ("init", "step", "evaluate")]
    fields = {field.name: getattr(program, field.name) for field in dataclasses.fields(program)}
    return {
        "program": fingerprint((type(program).__qualname__, methods, fields)),
        **({} if data is None else {"data": fingerprint_of(as_source(data))}),
        **({} if run.given is None else {"state": fingerprint(run.given)}),
        **{name: value for hook in run.hooks for name, value in hook.identity().items()},
        "key": checksum(run.key),
        "batch_size": repr(run.batch_size),
        "every": repr(run.stated_every),
        "settings": {name: repr(getattr(jax.config, f"jax_{name}")) for name in SETTINGS.split()},
    }


def versions() -> dict[str, str]:
    """Return the versions that the results of a run depend on, by name."""
    libraries = {name: version(name) for name in ("jax", "optax")}
    return {"python": platform.python_version(), "jaxnn": __version__, **libraries}


def environment() -> dict[str, str]:
    """Return the versions and the device, which affect the results of a run by rounding."""
    libraries = {name: version(name) for name in ("jaxlib", "numpy")}
    return versions() | libraries | {"device": jax.devices()[0].device_kind}


def changes(
    recorded: Mapping[str, Any], now: Mapping[str, Any], before: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return what differs from the recorded identity and from the recorded versions, as lines."""
    here = environment()
    one, other = (str(each.get("python")).split(".")[:2] for each in (before, here))
    if one != other:  # the bytecode of equal source differs between versions of Python
        recorded, now = _without_code(recorded), _without_code(now)
    pairs = (recorded, now), (before, here)
    lines, others = ([printable(line) for line in fingerprint_differences(*pair)] for pair in pairs)
    return lines, others


def _without_code(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    return {k: _without_code(v) for k, v in item.items() if not k.startswith(CODE)}


# ---- its files ----


def checkpoints_by_step(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by step: complete folders that are not links."""
    every = folder.iterdir() if folder.is_dir() else ()
    return {
        int(one.name): one
        for one in every
        if re.fullmatch(r"0|[1-9]\d*", one.name) and one.is_dir() and not one.is_symlink()
    }


def write_checkpoint(
    folder: Path, tree: Any, progress: Mapping[str, Any], score: Mapping[str, Any]
) -> None:
    """Write a checkpoint and put it in place by one rename; all processes of a run call it.

    Args:
        folder: The checkpoint, whose parent has a path that orbax can read.
        tree: The arrays.
        progress: What else the run needs to resume, and which run it is.
        score: What `score_of` reads.
    """
    import orbax.checkpoint as ocp

    arrays = leaves_by_path(tree)
    about = {
        "schema": SCHEMA,
        "arrays": {path: describe(leaf) for path, leaf in arrays.items()},
        "versions": environment(),
        **progress,
    }
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(arrays),
        progress=ocp.args.JsonSave(about),
        score=ocp.args.JsonSave(dict(score)),
    )
    with _quiet_orbax(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(folder, args=items)
    if jax.process_index() == 0:
        replace_file(folder / SEAL, json.dumps(_checksums(folder), indent=1).encode())


def score_of(folder: Path, best: str | None, maximize: bool | None) -> float:
    """Return the score of a checkpoint, larger for better; -inf if it has none by this metric.

    Args:
        folder: The checkpoint.
        best: The metric; None for the one that it was saved by.
        maximize: Whether a larger value is better; None for either.
    """
    try:
        found = read_json(folder / "score" / "metadata", finite=False)
        same = best in (None, found["metric"]) and maximize in (None, found["maximize"])
        score = float(found["score"]) if same else -math.inf
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf
    return score if math.isfinite(score) else -math.inf


def read_progress(folder: Path) -> dict[str, Any]:
    """Return the progress and the identity in a checkpoint, after a check of its seal."""
    _check_seal(folder)
    file = folder / "progress" / "metadata"
    with _unsealed(folder):
        about = read_json(file, LARGEST, finite=False, bits=1000, values=10**8)
        schema = about.get("schema")
    if schema != SCHEMA:
        raise FileError(
            f"{folder} has the schema {schema!r}, and this version of jaxnn reads {SCHEMA}; name "
            "another folder"
        )
    with _unsealed(folder):
        wrong = [name for name, kind in PROGRESS.items() if not _conforms(about.get(name), kind)]
        if wrong or about["step"] != int(folder.name) or not about["seconds"] >= 0:
            raise FileError(f"{file} has no valid {', '.join(wrong) or 'step and seconds'}")
    return about


def _conforms(value: Any, kind: Any) -> bool:
    """Return whether a value of JSON is of a kind; `PROGRESS` explains kinds."""
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_conforms(one, kind[str]) for one in value.values())
    if isinstance(kind, list):
        return isinstance(value, list) and all(_conforms(one, kind[0]) for one in value)
    if kind is list:
        return isinstance(value, list) and all(
            _conforms(one, list if isinstance(one, list) else float) for one in value
        )
    return isinstance(value, int | float if kind is float else kind)


def read_arrays(folder: Path, title: str, like: Any, about: Mapping[str, Any]) -> Any:
    """Return the arrays of a checkpoint, with the shapes and types of `like`, a pytree.

    Args:
        folder: The checkpoint.
        title: What reads it, for errors.
        like: A pytree of arrays or `jax.ShapeDtypeStruct`.
        about: What `read_progress` returned.

    Raises:
        FileError: The checkpoint has other arrays; none of them is read.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    declared, arrays = leaves_by_path(like), dict(about["arrays"])
    # The memories of hooks that the run no longer has are read, but not returned.
    spare = [path for path in arrays if path.startswith("memories/") and path not in declared]
    for path in spare:
        arrays.pop(path)
    if lines := fingerprint_differences(
        arrays, {path: describe(leaf) for path, leaf in declared.items()}
    ):
        raise FileError(
            f"{folder} is a checkpoint of another program: {listed(lines)}. It was written for "
            f"{about['program']:.400}, and this is {title:.400}: name another folder"
        )
    with _unsealed(folder), plain_path(folder) as place, _quiet_orbax():
        stored: Any = ocp.StandardCheckpointHandler().metadata(epath.Path(place / "state"))
        for path, leaf in declared.items():
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                continue
            shape, chunk = tuple(stored[path].shape), stored[path].storage.chunk_shape or ()
            if shape != tuple(leaf.shape) or math.prod(chunk) > math.prod(shape):
                raise FileError(f"{folder}: {path} is stored as {shape}, wanted {leaf.shape}")
        targets = {path: _target(leaf) for path, leaf in declared.items()}
        targets |= {path: _target(stored[path]) for path in spare}
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            found = reader.restore(place / "state", args=ocp.args.StandardRestore(targets))
    return jax.tree.unflatten(jax.tree.structure(like), [found[path] for path in declared])


def _target(leaf: Any) -> Any:
    """Return how an array is read: on the host if JAX would shorten it to 32 bits."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    if not is_key and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        return np.empty(leaf.shape, leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.Sharding):  # none, or what orbax stored of one
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint, by its path in it."""
    found = {}
    for one in sorted(folder.rglob("*")):
        if one.is_file() and one.name != SEAL:
            with open(one, "rb") as opened:
                found[one.relative_to(folder).as_posix()] = hashlib.file_digest(
                    opened, "sha256"
                ).hexdigest()
    return found


def _check_seal(folder: Path) -> None:
    """Raise Damaged if a sealed file is missing or has another checksum.

    A checkpoint without a seal is accepted: its run was killed before the seal was written.
    """
    try:
        sealed = dict(read_json(folder / SEAL, LARGEST))
    except FileNotFoundError:
        return
    except (ValueError, TypeError):
        sealed = {SEAL: "unreadable"}
    # Files that are not in the seal are ignored: a program such as a file manager left them.
    found = _checksums(folder)
    if wrong := [name for name in sorted(sealed) if found.get(name) != sealed[name]]:
        raise Damaged(f"missing or not what was written: {listed(wrong, ', ', 3)}")


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
        if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
            if isinstance(error, FileError):
                raise
            raise FileError(
                f"{folder} cannot be read ({type(error).__name__}: {cause(error)}), although its "
                "files match their checksums, so it is left as it is; read it with the versions "
                "that wrote it, or name another folder"
            ) from error
        error.add_note(f"while reading the checkpoint {folder}, which is left as it is")
        raise


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Use orbax alone, without the tracebacks that it prints; its error is still raised.

    Orbax logs an error once in each of its threads. If one of several reads or writes fails, the
    others end in an event loop that is closed, and Python prints each of them.
    """
    with ORBAX:
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


def cause(error: BaseException) -> str:
    """Return the first line of an error, safe to print."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(text.strip().splitlines()[0], 200)
