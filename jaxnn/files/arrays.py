"""Arrays in a safetensors file, checked by the header before any of them is read.

A file is the length of its header, 8 bytes little-endian; the header, JSON; and the arrays' bytes.
The header says the type, the shape, and the place of each array, so that a reader knows what a file
of 40 GB claims to hold before it reads more than a few kilobytes.

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

# Types by their names in the format. What is not listed has no array type here.
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
    """What a header says of one array: its type and shape, and where its bytes begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """An open safetensors file whose header has been checked.

    Args:
        entries: what the header says of each array, by name.
        metadata: texts by name.
        opened: the file.
        file: its path.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    opened: BufferedReader
    file: str

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One array."""
        entry = self.entries[name]
        array = np.empty(entry.shape, entry.dtype)
        self.opened.seek(entry.begin)
        if self.opened.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise FileError(f"{self.file}: became shorter while it was read")
        return array


@contextlib.contextmanager
def open_arrays(file: str | os.PathLike[str]) -> Iterator[ArrayFile]:
    """A safetensors file, its header read and checked, the arrays not yet read.

    Raises FileError if it is truncated or not a safetensors file: the header has to be valid, each
    array as long as its type and shape say, and all of them to fill the file.
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
    first = opened.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(size - 8, LONGEST_HEADER):
        raise ValueError("its header is longer than the file may hold")
    plain = parse_json(opened.read(length))
    if not isinstance(plain, dict):
        raise ValueError("its header is not a JSON object")
    metadata = plain.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not texts")
    start, ends = 8 + length, []
    entries = {}
    for name, one in plain.items():
        entry, end = _entry(name, one, start)
        entries[name] = entry
        ends.append((entry.begin, end))
    at = start
    for begin, end in sorted(ends):
        if begin != at:
            raise ValueError("its arrays overlap, or leave a gap")
        at = end
    if at != size:
        raise ValueError(f"its arrays end at byte {at:,}")
    return entries, metadata


def _entry(name: str, plain: Any, start: int) -> tuple[Entry, int]:
    what = printable(name, 80)
    if not isinstance(plain, dict) or set(plain) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{what!r} lacks dtype, shape or data_offsets")
    kind, shape, offsets = plain["dtype"], plain["shape"], plain["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{what!r} has the dtype {printable(repr(kind), 40)}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 32:
        raise ValueError(f"{what!r} has no valid shape and data_offsets")
    dtype, (begin, end) = DTYPES[kind], offsets
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError(f"{what!r} has {end - begin:,} bytes for {dtype}{shape}")
    return Entry(dtype, tuple(shape), start + begin), start + end


def _naturals(plain: Any) -> bool:
    return isinstance(plain, list) and all(type(one) is int and one >= 0 for one in plain)
