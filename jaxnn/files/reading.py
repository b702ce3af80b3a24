"""Reading a file of unknown origin, or a damaged one, in bounded time and memory.

    open_regular    opens only a regular file: a fifo would wait forever
    read_bytes      its contents, if they are not too large
    read_json       its contents as JSON of bounded depth and numbers
    printable       a text without characters that control a terminal
    encodable       a text that standard output can encode
    plain           a path for a program in which some of its characters have another meaning

All problems with a file raise `FileError` with one line, `FILE: what is wrong; what to do`. A file
that is missing or not permitted raises the `OSError` of the system, which names it too.
"""

import contextlib
import json
import math
import os
import re
import shlex
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

# Levels of lists and objects in a file of JSON: the files of this package have about six.
DEEPEST = 64
LONGEST = 8_000  # characters of an error
MEGABYTE = 2**20


class FileError(ValueError):
    """A file has wrong contents: one line, `FILE: what is wrong; what to do`."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, LONGEST))


def printable(text: str, most: int | None = None, lines: bool = False) -> str:
    r"""Return a text with escapes for all characters that control a terminal.

    These are control characters, marks that change the direction of writing, lone surrogates, and
    line ends.

    Args:
        text: Any text.
        most: Number of characters to keep. Default: None, all.
        lines: Whether line ends and tabs stay as they are. Default: False.

    >>> printable("a\x1b[31mb\nc"), printable("a\nb", lines=True), printable("abcdef", 4)
    ('a\\x1b[31mb\\nc', 'a\nb', 'abc…')
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )


def encodable(text: str) -> str:
    """Return a text with a question mark for each character that standard output cannot encode.

    Args:
        text: Any text.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def listed(items: Iterable[str], between: str = "; ", most: int = 40) -> str:
    """Return the first of several texts, each cut to 160 characters, and the number of others.

    Args:
        items: The texts.
        between: Text between two of them. Default: "; ".
        most: Number of texts to show. Default: 40.

    >>> listed(["a", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    every = list(items)
    shown = [printable(item, 160) for item in every[:most]]
    return between.join(shown + ([f"and {len(every) - most:,} more"] if len(every) > most else []))


def check_regular(file: str | os.PathLike[str]) -> int:
    """Return the size of a regular file in bytes, without opening it.

    Args:
        file: Its path.

    Raises:
        FileError: It is a folder, fifo, device, or socket.
        OSError: There is no such file.
    """
    return _regular(file, os.stat(file)).st_size


def _regular(file: str | os.PathLike[str], status: os.stat_result) -> os.stat_result:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a fifo", stat.S_ISSOCK: "a socket"}
    mode = status.st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in kinds.items() if test(mode)), "a device")
        raise FileError(f"{os.fspath(file)}: is {kind}, wanted a regular file")
    return status


@contextlib.contextmanager
def open_regular(file: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """Open a regular file for reading bytes; raise as `check_regular` does.

    Args:
        file: Its path.
    """
    check_regular(file)  # opening some devices has effects
    # Without O_NONBLOCK a fifo that took the file's place meanwhile would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(file, flags), "rb") as opened:
        _regular(file, os.fstat(opened.fileno()))
        yield opened


def read_bytes(file: str | os.PathLike[str], most: int) -> bytes:
    """Return the contents of a regular file.

    Args:
        file: Its path.
        most: Largest size in bytes; FileError if the file has more.
    """
    with open_regular(file) as opened:
        check_size(file, os.fstat(opened.fileno()).st_size, most)
        contents = opened.read(most + 1)
        check_size(file, len(contents), most)  # it may have grown
        return contents


def check_size(
    file: str | os.PathLike[str], size: int, most: int, hint: str = "restore it from a copy"
) -> None:
    """Raise FileError for a file with more bytes than such files have.

    Args:
        file: Its path.
        size: Its size in bytes.
        most: Largest size.
        hint: What to do. Default: restore it.
    """
    if size > most:
        raise FileError(
            f"{os.fspath(file)}: has {size:,} bytes, and such a file has at most {most:,}; {hint}"
        )


def read_json(
    file: str | os.PathLike[str],
    most: int = MEGABYTE,
    finite: bool = True,
    bits: int = 64,
    values: int = 2_000_000,
) -> Any:
    """Return the contents of a regular file as JSON.

    Args:
        file: Its path.
        most: Largest size in bytes. Default: 1,048,576.
        finite: Whether to reject numbers that are not finite. Default: True.
        bits: As for `parse_json`. Default: 64.
        values: As for `parse_json`. Default: 2,000,000.

    Raises:
        FileError: As for `read_bytes`, or the contents are rejected by `parse_json`.
    """
    raw = read_bytes(file, most)
    try:
        return parse_json(raw, finite, bits, values)
    except ValueError as error:
        raise FileError(
            f"{os.fspath(file)}: is not valid JSON ({error}); restore it from a copy"
        ) from None


def parse_json(
    raw: bytes | str, finite: bool = True, bits: int = 64, values: int = 2_000_000
) -> Any:
    """Return the value of a JSON text in UTF-8.

    Args:
        raw: The text.
        finite: Whether to reject numbers that are not finite. Default: True.
        bits: Number of bits of the largest whole number, with its sign; at most 1,000. Default: 64.
        values: Largest count of numbers, texts, lists, and objects: an empty list of two characters
            takes 56 bytes of memory. Default: 2,000,000.

    Raises:
        ValueError: The text is not JSON, exceeds these limits, has a name twice in an object, or
            has more than `DEEPEST` levels of lists and objects.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """

    problems: deque[str] = deque(maxlen=3)

    def whole(text: str) -> int:
        value = 1 << bits if len(text) > 310 else int(text)
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            problems.append(f"the number {printable(text, 20)} has more than {bits} bits")
        return value

    def number(text: str) -> float:
        value = float(text)
        if finite and not math.isfinite(value):
            problems.append(f"{printable(text, 20)} is not a finite number")
        return value

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            problems.append("an object has a name twice")
        return found

    try:
        text = raw if isinstance(raw, str) else raw.decode()
        value = None
        if sum(map(text.count, ",[{")) > values:
            problems.append(f"it has more than {values:,} values")
        else:
            value = json.loads(
                text,
                parse_int=whole,
                parse_float=number,
                parse_constant=number,
                object_pairs_hook=pairs,
            )
        deep = bool(_at_depth(value, DEEPEST))
    except RecursionError:
        value, deep = None, True
    if deep:
        problems.append(f"it has more than {DEEPEST} levels")
    if problems:
        raise ValueError(problems[0])
    return value


def _at_depth(value: Any, depth: int) -> list[Any]:
    """Return the values inside `depth` lists and objects."""
    level = [value]
    for _ in range(depth):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                below += one.values() if isinstance(one, dict) else one
        level = below
    return level


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
def plain_path(folder: Path) -> Iterator[Path]:
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
