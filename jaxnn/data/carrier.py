"""Tables of numbers inside other packages, read without importing those packages.

A `CarrierFile` names the installed distribution that contains the file, its layout, and the digest
of its numbers. The digest covers the parsed numbers, not the file: scikit-learn 1.7.1 and 1.9.1
write the same diabetes values as different text (4.803999999999999 and 4.804).
"""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from jaxnn.installation import missing, pip


def digest(table: np.ndarray) -> str:
    """SHA-256 of a table: its shape as text ("2x3:"), then its rows as little-endian float32.

    Args:
        table: any shape, any numeric type; compared as float32.

    >>> digest(np.zeros((2, 3)))[:8]
    'b3ee7ef7'
    """
    shape = "x".join(map(str, table.shape))
    return hashlib.sha256(f"{shape}:".encode() + table.astype("<f4").tobytes()).hexdigest()


@dataclass(frozen=True)
class CarrierFile:
    """A text table, gzipped if its name ends in `.gz`, inside an installed distribution.

    Args:
        distribution: the name that pip installs, such as "scikit-learn".
        path: the file as the distribution lists it, with forward slashes.
        sha256: `digest` of the numbers it must hold.
        delimiter: what separates numbers; None for white space.
        header: how many lines to skip at the top.

    The distribution is one of the extra `experiments`.

    >>> CarrierFile("no-such-package", "a.csv", "00").read()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ImportError: a.csv comes inside no-such-package, which is not installed: write ...
    """

    distribution: str
    path: str
    sha256: str
    delimiter: str | None = ","
    header: int = 0

    def read(self) -> np.ndarray:
        """The numbers in the file, float32 of shape (rows, columns), verified against `sha256`.

        Raises:
            ImportError: the distribution is not installed, or does not carry the file.
            ValueError: the file is not such a table, or its numbers are not the expected ones.

        >>> CarrierFile(
        ...     "scikit-learn", "sklearn/datasets/data/breast_cancer.csv",
        ...     "fdae414c79539ea0d9c01e2d1a8f8f9bdf77156f27fa118ebe2854f1773bb684", header=1,
        ... ).read().shape
        (569, 31)
        """
        place = f"{self.path} in {self.distribution}"
        raw = self._bytes()
        try:
            text = gzip.decompress(raw) if self.path.endswith(".gz") else raw
            table = np.loadtxt(
                io.BytesIO(text), delimiter=self.delimiter, skiprows=self.header, ndmin=2
            ).astype(np.float32)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise ValueError(
                f"{place} {self._version()} is not a table of numbers ({error}): it is damaged or "
                f"changed; write {self._reinstall()}"
            ) from error
        found = digest(table)
        if found != self.sha256:
            raise ValueError(
                f"{place} {self._version()} holds other numbers than expected: its SHA-256 is "
                f"{found} for shape {table.shape}, wanted {self.sha256}. Results on it would not "
                f"compare; install another version of it, or write {self._reinstall()}"
            )
        return table

    def _bytes(self) -> bytes:
        try:
            file = Path(str(metadata.distribution(self.distribution).locate_file(self.path)))
        except metadata.PackageNotFoundError as error:
            purpose = f"{self.path} comes inside"
            raise missing(purpose, self.distribution, "experiments") from error
        if not file.is_file():
            raise ImportError(
                f"{self.distribution} {self._version()} is installed without {self.path} "
                f"(looked for {file}): write {self._reinstall()}"
            )
        return file.read_bytes()

    def _version(self) -> str:
        return metadata.version(self.distribution)

    def _reinstall(self) -> str:
        return pip("--force-reinstall", "--no-deps", self.distribution)
