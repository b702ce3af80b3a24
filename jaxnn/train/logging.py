"""Loggers of the metrics of a run: a file of JSON lines, and other tools.

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

from ..files.reading import MEGABYTE, FileError, parse_json, read_bytes
from ..files.replacing import replace

Numbers: TypeAlias = dict[str, Any]
Config: TypeAlias = Mapping[str, Any] | None
Log: TypeAlias = Callable[[Mapping[str, Any]], None]

LARGEST = 512 * MEGABYTE  # bytes of a file of metrics
UNFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Logger(Protocol):
    """A place for the records of a run."""

    def open(
        self, step: int | None, config: Config, history: Sequence[Numbers]
    ) -> AbstractContextManager[Log]:
        """Return a context with the function that takes each record, a dict with its `step`.

        Args:
            step: The step at which a run is resumed; records of later steps are removed. None for a
                new run.
            config: The configuration of the run as plain data, or None.
            history: The records up to `step`. The logger writes those that it does not have.
        """
        ...


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A file with one line of JSON per record. The same records give the same bytes.

    Numbers that are not finite are written as the strings "nan", "inf", and "-inf". A process that
    is killed leaves at most one incomplete line at the end, which is removed when the run is
    resumed.

    Args:
        file: The path of the file, in an existing folder.
    """

    file: str | os.PathLike[str]

    @contextlib.contextmanager
    def open(
        self, step: int | None = None, config: Config = None, history: Sequence[Numbers] = ()
    ) -> Iterator[Log]:
        """Return the function that appends a record; with `step`, later records are removed first.

        Args:
            step: The step at which a run is resumed. Default: None, a new run.
            config: Ignored.
            history: The records up to `step`. If there are any, the file then contains exactly
                these; lost lines are written again. Default: ().

        Raises:
            FileExistsError: The file has lines already, and `step` is not given.
            ValueError: The file has a line that is not a record of a run, or one that is not in
                `history`.
            OSError: The file cannot be written, or the disk is full; earlier lines stay complete.
        """
        file = Path(self.file)
        with _explained(file):
            if step is not None:
                _resume(file, step, history)
            elif file.exists() and file.stat().st_size:
                raise FileExistsError("it has the lines of another run, which are never mixed")
            opened = open(file, "ab", buffering=0, opener=_opener)  # noqa: SIM115, closed below
        with opened:

            def log(record: Mapping[str, Any]) -> None:
                line, size = _line(record), opened.tell()
                with _explained(file):
                    if opened.write(line) != len(line):
                        opened.truncate(size)
                        raise OSError("the disk is full")

            yield log
            with _explained(file):
                os.fsync(opened.fileno())  # a full disk may be noticed only now

    def records(self) -> list[Numbers]:
        """Return the records in the file, in order, without an incomplete line at the end."""
        return [_record(line, self.file) for line in _lines(self.file)]


def _resume(file: Path, step: int, history: Sequence[Numbers]) -> None:
    """Write the file again if it is not the lines until a step, which are those of `history`."""
    if not file.exists() and not history:
        return
    lines = _lines(file) if file.exists() else []
    kept, known = [], {record["step"]: record for record in history}
    for line in lines:
        record = _record(line, file)
        if record["step"] > step:
            break
        if history and not _items(record) <= _items(known.get(record["step"], {})):
            raise FileError(
                f"{file} has a record of step {record['step']:,} that is not in the history of "
                f"the resumed run: {line[:80]!r}; write metrics to another file"
            )
        kept.append(line + b"\n")
    contents = b"".join([_line(record) for record in history] or kept)
    if not file.exists() or contents != file.read_bytes():
        replace(file, contents)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps({name: _plain(item) for name, item in record.items()}).encode() + b"\n"


def _items(record: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the items of a record, of which NaN equals itself."""
    return {(name, repr(_plain(item))) for name, item in record.items()}


def _plain(item: Any) -> Any:
    return item if isinstance(item, bool | int | str | None) else finite_or_text(item)


def finite_or_text(number: Any) -> float | str:
    """Return a number as it is in JSON: "nan", "inf", or "-inf" if it is not finite."""
    number = float(number)
    return number if math.isfinite(number) else str(number)


def _opener(file: str, flags: int) -> int:
    """Open a file to append to; without O_NONBLOCK a fifo would wait for a reader."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def _lines(file: str | os.PathLike[str]) -> list[bytes]:
    """Return the complete lines of a file, without their ends."""
    return read_bytes(file, LARGEST).split(b"\n")[:-1]


def _record(line: bytes, file: str | os.PathLike[str]) -> Numbers:
    try:
        record = parse_json(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int | float):
        raise FileError(
            f"{os.fspath(file)} has a line that is not a record of a run: {line[:80]!r}; expected "
            'an object with a "step". Remove the line, or write metrics to another file'
        )
    return {
        name: UNFINITE.get(item, item) if isinstance(item, str) else item
        for name, item in record.items()
    }


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Add to an error of the system which file it is, and what to do."""
    try:
        yield
    except OSError as error:
        kind = FileExistsError if isinstance(error, FileExistsError) else OSError
        raise kind(
            f"cannot write metrics to {file}: {error.strerror or error}. The lines before are "
            "complete: make room there, or write to another file"
        ) from error
