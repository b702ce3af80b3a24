"""Atomic files: written under a hidden name, and put in place by a rename."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def replace(file: Path, contents: bytes) -> Path:
    """Replace the contents of a file by one rename.

    Args:
        file: The file; it need not exist.
        contents: The new contents.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written; the contents before are kept.
    """
    hidden = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    try:
        with open(hidden, "xb") as opened:
            opened.write(contents)
            opened.flush()
            os.fsync(opened.fileno())  # a full disk may be reported only now
        hidden.replace(file)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {file}: {error.strerror or error}; the contents before are unchanged"
        ) from error
    return file


@contextlib.contextmanager
def fresh(target: Path) -> Iterator[Path]:
    """Yield a hidden path next to `target`, renamed to it at the end or removed after an error.

    Args:
        target: The path of the new file or folder; FileExistsError if it exists.
    """
    if target.exists() or target.is_symlink():
        raise FileExistsError(
            f"{target} exists already, and an export never overwrites "
            "anything: name another place, or remove it"
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
