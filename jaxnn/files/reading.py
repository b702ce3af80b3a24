"""Reading a file that someone else made, or that is damaged: in bounded time and memory.

    open_regular    a file that is opened only if it is a regular file: a fifo would wait for ever
    read_bytes      its contents, if it is not larger than such a file can be
    read_json       its contents as JSON of bounded depth and numbers
    printable       a text that a terminal shows and does not obey

Whatever is wrong with a file raises `FileError` with one line, `FILE: what is wrong; what to do`.
A file that is missing or not permitted raises the `OSError` of the system, which names it too.
"""

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from io import BufferedReader
from typing import Any

# Levels of lists and objects in a file of JSON: the files of this package have about six.
DEEPEST = 64
LONGEST = 8_000  # characters of an error
MEGABYTE = 2**20


class FileError(ValueError):
    """A file does not hold what it should: one line, `FILE: what is wrong; what to do`."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, LONGEST))


def printable(text: str, most: int | None = None, lines: bool = False) -> str:
    r"""A text without characters that control a terminal, each written as its escape.

    These are control characters, marks that turn the direction of writing, lone surrogates, and
    line ends.

    Args:
        text: any text.
        most: characters to keep; all by default.
        lines: whether line ends and tabs stay as they are.

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


def listed(items: Iterable[str], between: str = "; ", most: int = 40) -> str:
    """The first of several texts, each cut to a readable length, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    every = list(items)
    shown = [printable(item, 160) for item in every[:most]]
    return between.join(shown + ([f"and {len(every) - most:,} more"] if len(every) > most else []))


def check_regular(file: str | os.PathLike[str]) -> int:
    """The size of a regular file in bytes; it is not opened.

    Raises FileError for a folder, fifo, device or socket, and OSError if there is no such file.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{os.fspath(file)}: is {_kind(status.st_mode)}, wanted a regular file")
    return status.st_size


@contextlib.contextmanager
def open_regular(file: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """A regular file, open for reading bytes; raises as `check_regular` does."""
    check_regular(file)  # opening some devices has effects
    # Without O_NONBLOCK a fifo that took the file's place meanwhile would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(file, flags), "rb") as opened:
        mode = os.fstat(opened.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise FileError(f"{os.fspath(file)}: is {_kind(mode)}, wanted a regular file")
        yield opened


def read_bytes(file: str | os.PathLike[str], most: int) -> bytes:
    """The contents of a regular file of at most `most` bytes; FileError if it has more."""
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        contents = b"" if size > most else opened.read(most + 1)
        if max(size, len(contents)) > most:
            raise FileError(
                f"{os.fspath(file)}: has {max(size, len(contents)):,} bytes, and such a file has "
                f"at most {most:,}; restore it from a copy"
            )
        return contents


def read_json(
    file: str | os.PathLike[str],
    most: int = MEGABYTE,
    finite: bool = True,
    bits: int = 64,
    values: int = 2_000_000,
) -> Any:
    """The contents of a regular file as JSON.

    Raises FileError as `read_bytes` does, and for what `parse_json` refuses.
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
    """The value of a JSON text in UTF-8.

    Args:
        raw: the text.
        finite: whether numbers that are not finite are refused.
        bits: that each whole number has to fit, with its sign; at most 1,000.
        values: the most numbers, texts, lists and objects in it: an empty list of two characters
            takes 56 bytes of memory.

    Raises ValueError for any other text, a name that an object has twice, and lists and objects in
    more than `DEEPEST` levels.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """

    def whole(text: str) -> int:
        value = 1 << bits if len(text) > 310 else int(text)
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            raise ValueError(f"the number {printable(text, 20)} has more than {bits} bits")
        return value

    def number(text: str) -> float:
        value = float(text)
        if finite and not math.isfinite(value):
            raise ValueError(f"{printable(text, 20)} is not a finite number")
        return value

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            raise ValueError("an object has a name twice")
        return found

    try:
        text = raw if isinstance(raw, str) else raw.decode()
        if sum(map(text.count, ",[{")) > values:
            raise ValueError(f"it has more than {values:,} values")
        value = json.loads(
            text,
            parse_int=whole,
            parse_float=number,
            parse_constant=number,
            object_pairs_hook=pairs,
        )
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        level = below
    return value


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a fifo", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")
