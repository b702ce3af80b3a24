"""Paths for programs in which some characters of a path have another meaning."""

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .reading import printable

# Everything else may be a pattern, an escape, the end of a URL's scheme, or text that cannot be
# encoded.
_PLAIN = re.compile(r"[\w./~@=+,% -]*")


def quoted(path: str | os.PathLike[str]) -> str:
    r"""Return a path as one word of a shell command, which no program mistakes for an option.

    Characters that control a terminal are written as escapes, which bash and zsh read in `$'...'`.

    Args:
        path: The path.

    >>> quoted("runs/one two"), quoted("-a"), quoted("a\x1b[1m")
    ("'runs/one two'", './-a', "$'a\\x1b[1m'")
    """
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if printable(text, lines=True) == text:
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Path]:
    """Yield an absolute path to `folder` that has no special characters.

    Orbax looks for its files by `glob` patterns that begin with the folder's path, so it finds none
    in a folder named `a[1]`. Such a folder is reached through a symbolic link in the directory for
    temporary files, which is removed at the end.

    Args:
        folder: The folder.

    Raises:
        OSError: The path of the directory for temporary files has such characters too.
    """
    folder = folder.absolute()
    if _is_plain(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jaxnn-") as place:
        if not _is_plain(Path(place)):
            raise OSError(
                f"{folder} has characters that orbax cannot read, and so has {place}, the "
                "directory for temporary files; set TMPDIR to a directory without them, or choose "
                "another folder"
            )
        link = Path(place, "folder")
        link.symlink_to(folder, target_is_directory=True)
        try:
            yield link
        finally:
            link.unlink(missing_ok=True)


def _is_plain(path: Path) -> bool:
    return _PLAIN.fullmatch(os.fspath(path)) is not None
