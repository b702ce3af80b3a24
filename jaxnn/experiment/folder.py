"""A run folder: it begins with a configuration and ends with a result.

    begin_folder     a new folder with what the run is: put in place by one rename
    finish_folder    what it came to: each file whole or not there, `result.json` the last

A folder without a result is a run that can go on. `check_place` asks before the training whether
all will be written.
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
    """`runs/NAME-DATE-TIME` below the current folder: a place of its own for each run."""
    return Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def check_place(folder: Path, size: int) -> None:
    """Raise now what writing `size` bytes into `folder` would raise after the training.

    Makes the folder above it, and writes and removes as many bytes in it.

    Raises:
        FileExistsError: there is something of that name already.
        OSError: the place cannot be written, or the disk is too full, with what to write instead.
    """
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(
            f"{folder} exists already, and a run never writes over another: write --folder "
            f"{quoted(folder.with_name(folder.name + '-2'))}, or remove it"
        )
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise OSError(f"{size:,} bytes are needed there, and {free:,} are free")
        with _beside(folder) as hidden:
            _write(hidden / "trial", bytes(size))


def begin_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, contents by name, into a new folder: all of them, or nothing.

    Raises OSError, with the folder and the cause, where that fails; then nothing is left behind.

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
            if folder.exists():  # an empty folder would be replaced in silence
                raise FileExistsError("it came to be while the run went on")
            hidden.rename(folder)


def finish_folder(folder: Path, files: Mapping[str, bytes], last: str) -> None:
    """Write `files` into a folder that is there: each whole or not at all, `last` after all others.

    Raises OSError, with the folder and the cause, where that fails: without `last` the run counts
    as unfinished.
    """
    with _explained(folder, f"{last} was not written, so the run is not finished"):
        for name in [*(name for name in files if name != last), last]:
            hidden = folder / f".{name}-{secrets.token_hex(4)}"
            try:
                _write(hidden, files[name])
                hidden.replace(folder / name)
            finally:
                hidden.unlink(missing_ok=True)


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, gone at the end unless it was renamed."""
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
            cause = f"{folder.parent} is no folder"
        raise OSError(
            f"cannot write the run folder {folder}: {cause}. {left}; make room or write --folder "
            "with another place"
        ) from error


def _write(file: Path, contents: bytes) -> None:
    with open(file, "xb") as opened:
        opened.write(contents)
        opened.flush()
        os.fsync(opened.fileno())  # a full disk may tell only now
