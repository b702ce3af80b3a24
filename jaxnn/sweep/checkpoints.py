"""Lane checkpoints: one file a cohort, with the states of its lanes, written whole or not at all.

What is in a file is the caller's affair (bytes). Its name follows from the number of the cohort
alone, so no text in a ledger ever says which file is read or removed; that it is the file that was
written is checked by its SHA-256, which the ledger keeps.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path

from ..files.reading import FileError, open_regular
from ..files.replacing import replace
from .faults import LedgerError

FOLDER = "lanes"


def name(cohort: int) -> str:
    """The file of a cohort, below the sweep's folder.

    >>> name(7)
    'lanes/000007.safetensors'
    """
    return f"{FOLDER}/{cohort:06d}.safetensors"


def write(folder: Path, cohort: int, contents: bytes) -> str:
    """Write a cohort's file below `folder`, so that it survives a power cut; returns its SHA-256.

    Raises OSError where that fails; then there is no file, or the one that was there before.
    """
    file = folder / name(cohort)
    if not file.parent.is_dir():
        file.parent.mkdir(exist_ok=True)
        sync_folder(folder)
    replace(file, contents)
    sync_folder(file.parent)
    return hashlib.sha256(contents).hexdigest()


def read(folder: Path, cohort: int, sha256: str) -> bytes:
    """The contents of a cohort's file, which must have this SHA-256.

    Raises LedgerError, naming the file, where it is missing, unreadable or another.
    """
    file = folder / name(cohort)
    try:
        with open_regular(file) as opened:
            # Another file may be too large for the memory, so it is read twice.
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            opened.seek(0)
            if found == sha256:
                return opened.read()
    except (OSError, FileError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise LedgerError(
            f"{file} cannot be read ({cause}), and the lanes of cohort {cohort} continue "
            "from it: put back a copy of it"
        ) from error
    raise LedgerError(
        f"{file} is damaged, and the lanes of cohort {cohort} continue from it: its SHA-256 is "
        f"{found[:12]}..., wanted {sha256[:12]}...; put back a copy of it"
    )


def remove(folder: Path, cohorts: Collection[int]) -> None:
    """Remove the files of these cohorts. One that stays is removed by `clean` some other time."""
    for cohort in cohorts:
        with contextlib.suppress(OSError):
            (folder / name(cohort)).unlink()


def clean(folder: Path, wanted: Collection[int]) -> None:
    """Remove what a killed driver left: half-written files, and those of no cohort in `wanted`."""
    keep = {Path(name(cohort)).name for cohort in wanted}
    with contextlib.suppress(OSError):
        for file in (folder / FOLDER).iterdir():
            ours = re.fullmatch(r"\d{6,}\.safetensors|\.\d{6,}\.safetensors-\w+", file.name)
            if ours and file.name not in keep:
                file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system knows how."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
