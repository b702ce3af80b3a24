"""Arrays in a safetensors file, checked by the header before any of them is read.

A file is the length of its header, 8 bytes little-endian; the header, JSON; and the arrays' bytes.
The header has the type, the shape, and the place of each array, so a reader can check a file of
40 GB before it reads more than a few kilobytes.

Reference: https://github.com/huggingface/safetensors (format).
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import Any

import ml_dtypes
import numpy as np

from .reading import MEGABYTE, FileError, open_regular, parse_json, printable

# Types by their names in the format. Others have no array type here.
DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "U16": np.uint16,
        "I16": np.int16,
        "U32": np.uint32,
        "I32": np.int32,
        "U64": np.uint64,
        "I64": np.int64,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F32": np.float32,
        "F64": np.float64,
        "C64": np.complex64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}
LONGEST_HEADER = 32 * MEGABYTE  # 250,000 arrays


@dataclasses.dataclass(frozen=True)
class Entry:
    """The type and shape of one array, and where its bytes begin.

    Args:
        dtype: Type of its elements.
        shape: Its shape.
        begin: Position of its first byte in the file.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """An open safetensors file whose header has been checked.

    Args:
        entries: Type, shape, and place of each array, by name.
        metadata: Texts by name.
        opened: The file.
        file: Its path.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    opened: BufferedReader
    file: str

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Return one array.

        Args:
            name: Its name; FileError if the file became shorter.
        """
        entry = self.entries[name]
        array = np.empty(entry.shape, entry.dtype)
        self.opened.seek(entry.begin)
        if self.opened.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise FileError(
                f"{self.file}: became shorter while it was read; restore it from a copy"
            )
        return array


@contextlib.contextmanager
def open_arrays(file: str | os.PathLike[str]) -> Iterator[ArrayFile]:
    """Open a safetensors file and check its header; the arrays are not yet read.

    Args:
        file: Its path.

    Raises:
        FileError: It is truncated or not a safetensors file: the header must be valid, each array
            must have the length of its type and shape, and all of them must fill the file.
    """
    with open_regular(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        try:
            entries, metadata = _header(opened, size)
        except ValueError as error:
            raise FileError(
                f"{os.fspath(file)} ({size:,} bytes) is truncated or not a safetensors file: "
                f"{error}; restore it from a copy, or train again"
            ) from None
        yield ArrayFile(entries, metadata, opened, os.fspath(file))


def _header(opened: BufferedReader, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the arrays and metadata of a header; ValueError if it is not that of the file."""
    first = opened.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, LONGEST_HEADER):
        raise ValueError("its header is longer than the file may hold")
    plain = parse_json(opened.read(length))
    metadata = plain.pop("__metadata__", {}) if isinstance(plain, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its header is not a JSON object with texts as metadata")
    start = 8 + length
    found = {name: _entry(name, one, start) for name, one in plain.items()}
    spans = sorted((entry.begin, end) for entry, end in found.values())
    ends = [start, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != size:
        raise ValueError(
            f"its arrays overlap, leave a gap, or end at byte {ends[-1]:,}, not with the file"
        )
    return {name: entry for name, (entry, _) in found.items()}, metadata


def _entry(name: str, plain: Any, start: int) -> tuple[Entry, int]:
    """Return an array's entry, and the end of its bytes."""
    match plain:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [begin, end], **others} if (
            not others and kind in DTYPES and len(shape) <= 32 and _naturals([*shape, begin, end])
        ):
            if math.prod(shape) * DTYPES[kind].itemsize == end - begin:
                return Entry(DTYPES[kind], tuple(shape), start + begin), start + end
    raise ValueError(
        f"{printable(name, 80)!r} does not have a known dtype, a shape, and data_offsets of that "
        f"size: {printable(repr(plain), 200)}"
    )


def _naturals(plain: list[Any]) -> bool:
    return all(type(one) is int and one >= 0 for one in plain)
