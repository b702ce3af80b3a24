"""Writing a run folder, so that an interrupted run leaves complete files.

    check_place      whether the folder can be written, before the training
    begin_folder     a new folder with the configuration: put in place by one rename
    write_file       a file of the results, completely or not at all; `result.json` is the last

A folder without a result is a run that can be resumed.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..files.plain import quoted


def default_place(name: str) -> Path:
    """`runs/NAME-DATE-TIME` in the current folder."""
    return Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def check_place(folder: Path, size: int) -> None:
    """Raise before the training what writing `size` bytes into `folder` would raise after it.

    It makes the parent folder, and writes and removes a file of that size there.

    Raises:
        FileExistsError: the path exists already.
        OSError: the place cannot be written, or the disk is full.
    """
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(
            f"{folder} exists already, and a run never overwrites another; write --folder "
            f"{quoted(folder.with_name(folder.name + '-2'))}, or remove it"
        )
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise OSError(f"{size:,} bytes are needed, and {free:,} are free")
        with _beside(folder) as hidden:
            _write(hidden / "trial", bytes(size))


def begin_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, contents by name, into a new folder: all of them, or none.

    Raises OSError with the folder and the cause; then nothing is left behind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     begin_folder(Path(place, "run"), {"config.json": b"{}"})
    ...     [file.name for file in Path(place, "run").iterdir()]
    ['config.json']
    """
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _beside(folder) as hidden:
            for name, contents in files.items():
                _write(hidden / name, contents)
            if folder.exists():  # an empty folder would be replaced silently
                raise FileExistsError("it was made by another process meanwhile")
            hidden.rename(folder)


def write_file(folder: Path, name: str, contents: bytes) -> None:
    """Write a file into an existing folder: completely, or not at all.

    Raises OSError with the folder and the cause.
    """
    hidden = folder / f".{name}-{secrets.token_hex(4)}"
    with _explained(folder, f"{name} was not written, so the run is not finished"):
        try:
            _write(hidden, contents)
            hidden.replace(folder / name)
        finally:
            hidden.unlink(missing_ok=True)


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A hidden folder next to `folder`, removed at the end unless it was renamed."""
    hidden = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    hidden.mkdir()
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextlib.contextmanager
def _explained(folder: Path, left: str = "Nothing was written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError) and error.errno:
            cause = f"{folder.parent} is not a folder"
        raise OSError(
            f"cannot write the run folder {folder}: {cause}. {left}; make room or write --folder "
            "with another place"
        ) from error


def _write(file: Path, contents: bytes) -> None:
    with open(file, "xb") as opened:
        opened.write(contents)
        opened.flush()
        os.fsync(opened.fileno())  # a full disk may be reported only now
