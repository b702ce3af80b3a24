"""Where a run's metrics go: a file of JSON lines, and other tools.

A logger is a value that opens into a function of records:

    with JsonLines("run/metrics.jsonl").open() as log:
        log({"epoch": 1, "step": 27, "loss": 0.52})

`JsonLines` loses nothing, and raises if it would. Loggers for other tools are in `tracking`.
Anything with their `open` is a logger.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..files.reading import MEGABYTE, FileError, open_regular, parse_json
from ..files.replacing import replace

Record: TypeAlias = dict[str, Any]
Log: TypeAlias = Callable[[Mapping[str, Any]], None]

LONGEST_LINE = 64 * MEGABYTE
UNFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Logger(Protocol):
    """A place for the records of a run."""

    def open(
        self, step: int | None, config: Mapping[str, Any] | None, history: Sequence[Record]
    ) -> AbstractContextManager[Log]:
        """A context with the function that takes each record, a dict of numbers with its `step`.

        Args:
            step: where a run is resumed, so that its records of later steps are removed; None for a
                new run.
            config: what the run was started with, as plain data; None if that is not known.
            history: the records until `step`, of which the logger writes those that it lacks.
        """
        ...


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A line of JSON per record, appended as it comes: the same records give the same bytes.

    Numbers that are not finite, which JSON does not have, are the texts "nan", "inf", and "-inf". A
    process that was killed leaves at most one incomplete line at the end, which is removed when the
    run is resumed.

    Args:
        file: a path in an existing folder.
    """

    file: str | os.PathLike[str]

    @contextlib.contextmanager
    def open(
        self,
        step: int | None = None,
        config: Mapping[str, Any] | None = None,
        history: Sequence[Record] = (),
    ) -> Iterator[Log]:
        """The function that appends a record; with `step`, later records are removed first.

        Args:
            step: where a run is resumed; None (the default) for a new run.
            config: is not written.
            history: the records until `step`. If there are any, the file then has exactly these:
                lines that were lost are written again.

        Raises:
            FileExistsError: the file has lines already, and `step` is not given.
            ValueError: the file has a line that is not a record of a run, or one that is not in
                `history`.
            OSError: the file cannot be written, or the disk is full: the lines before stay whole.
        """
        file = Path(self.file)
        with _explained(file):
            if step is None and file.exists() and file.stat().st_size:
                raise FileExistsError("it has the lines of another run, which are never mixed")
            if step is not None and file.exists():
                os.truncate(file, _length_until(file, step))
            if history:
                _repair(file, history)
            opened = open(file, "ab", buffering=0, opener=_opener)  # noqa: SIM115, closed below
        with opened:

            def log(record: Mapping[str, Any]) -> None:
                line, whole = line_of(record), opened.tell()
                with _explained(file):
                    if opened.write(line) != len(line):
                        opened.truncate(whole)
                        raise OSError("the disk is full")

            yield log
            with _explained(file):
                os.fsync(opened.fileno())  # a full disk may be noticed only now

    def records(self) -> list[Record]:
        """The records in the file, in order, without an incomplete line at the end."""
        return [_record(line, self.file) for line in _lines(Path(self.file))]


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON."""
    return json.dumps({name: _plain(item) for name, item in record.items()}).encode() + b"\n"


def _repair(file: Path, history: Sequence[Record]) -> None:
    """Write the file again if it is not the lines of these records; FileError for other records."""
    lines = [line_of(record) for record in history]
    there = list(_lines(file)) if file.exists() else []
    if there == lines:
        return
    known = {record["step"]: record for record in history}
    for line in there:
        record = _record(line, file)
        if not _texts(record) <= _texts(known.get(record["step"], {})):
            raise FileError(
                f"{file} has a record of step {record['step']:,} that is not in the history of "
                f"the resumed run: {line[:80]!r}; write metrics to another file"
            )
    replace(file, b"".join(lines))


def _texts(record: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The items of a record, of which NaN equals itself."""
    return {(name, repr(_plain(item))) for name, item in record.items()}


def _plain(item: Any) -> Any:
    if isinstance(item, bool | int | str) or item is None:
        return item
    return finite_or_text(item)


def finite_or_text(number: Any) -> float | str:
    """A number as it is in JSON: "nan", "inf", or "-inf" if it is not finite."""
    number = float(number)
    return number if math.isfinite(number) else str(number)


def _opener(file: str, flags: int) -> int:
    """Open a file to append to; without O_NONBLOCK a fifo would wait for a reader."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def _lines(file: Path) -> Iterator[bytes]:
    """The whole lines of a file, with their ends; FileError for a line that is too long."""
    with open_regular(file) as opened:
        while line := opened.readline(LONGEST_LINE):
            if line.endswith(b"\n"):
                yield line
            elif len(line) == LONGEST_LINE:
                raise FileError(
                    f"{file}: has a line of more than {LONGEST_LINE:,} bytes, which is not a "
                    "record of a run; restore it from a copy, or write metrics to another file"
                )


def _record(line: bytes, file: str | os.PathLike[str]) -> Record:
    line = line.removesuffix(b"\n")
    try:
        record = parse_json(line)
        if not isinstance(record, dict) or not isinstance(record.get("step"), int | float):
            raise ValueError("it has no step")
    except ValueError as error:
        raise FileError(
            f"{os.fspath(file)} has a line that is not a record of a run: {line[:80]!r}; expected "
            'an object with a "step". Remove the line, or write metrics to another file'
        ) from error
    return {
        name: UNFINITE.get(item, item) if isinstance(item, str) else item
        for name, item in record.items()
    }


def _length_until(file: Path, step: int) -> int:
    """The bytes of the whole lines before the first of a later step."""
    length = 0
    for line in _lines(file):
        if _record(line, file)["step"] > step:
            break
        length += len(line)
    return length


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = FileExistsError if isinstance(error, FileExistsError) else OSError
        raise kind(
            f"cannot write metrics to {file}: {error.strerror or error}. The lines before are "
            "whole: make room there, or write to another file"
        ) from error
