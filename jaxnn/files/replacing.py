"""Files that are there whole or not at all: made under a hidden name, put in place by a rename."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def replace(file: Path, contents: bytes) -> Path:
    """Put the contents in place of the file's by one rename."""
    hidden = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        with open(hidden, "xb") as opened:
            opened.write(contents)
            opened.flush()
            os.fsync(opened.fileno())  # a full disk may tell only now
        hidden.replace(file)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {file}: {error.strerror or error}. What stood there before is as it was"
        ) from error
    return file


@contextlib.contextmanager
def fresh(target: Path) -> Iterator[Path]:
    """A hidden name beside `target` that takes its place at the end; gone where anything raises."""
    if target.exists() or target.is_symlink():
        raise FileExistsError(
            f"{target} exists already, and an export never writes over anything: name another "
            "place, or remove it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        yield hidden
        hidden.rename(target)
    finally:
        if hidden.is_dir():
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            hidden.unlink(missing_ok=True)
