"""The text against pydoc's own reading of the same manual."""

import pydoc
import re
from pydoc_data.topics import topics

import numpy as np
import pytest

from jaxnn import data

ASCII = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--") | {0x2026: "..."}


@pytest.fixture(scope="module")
def reference():
    return data.python_reference()


@pytest.fixture(scope="module")
def whole(reference):
    """The three parts in order."""
    return reference.decode(np.concatenate([reference.train, reference.validation, reference.test]))


def test_every_paragraph_of_the_manual_is_there_once(whole):
    paragraphs = whole.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000
    manual = {
        paragraph.translate(ASCII)
        for text in topics.values()
        for paragraph in text.strip("\n").split("\n\n")
    }
    assert set(paragraphs) == {paragraph for paragraph in manual if paragraph.isascii()}
    assert len(paragraphs) > 0.95 * len(manual)


def test_the_parts_are_seventy_ten_and_twenty_percent(reference):
    sizes = np.array([len(reference.train), len(reference.validation), len(reference.test)])
    assert sizes.sum() > 300_000
    np.testing.assert_allclose(sizes / sizes.sum(), [0.7, 0.1, 0.2], atol=1e-5)


def test_the_manual_is_what_help_prints(whole, capsys):
    """And English: Shannon gives the entropy of single letters as 4.03 bits over 27 symbols.

    The tolerance allows for grammar and examples between the sentences.
    """
    for topic in ("with", "lambda", "ASSERTION"):
        pydoc.help(topic)
        printed = capsys.readouterr().out.strip().translate(ASCII)
        first, second = printed.split("\n\n")[:2]
        assert first in whole and second in whole
    letters = re.sub("[^a-z]+", " ", whole.lower())
    _, counts = np.unique(list(letters), return_counts=True)
    shares = counts / counts.sum()
    assert -(shares * np.log2(shares)).sum() == pytest.approx(4.03, abs=0.15)


def test_the_symbols_do_not_depend_on_the_version_of_python(reference):
    printable = [chr(code) for code in range(128) if chr(code).isprintable()]
    assert list(reference.vocabulary) == ["\n", *printable]


def test_windows_follow_each_other_and_targets_are_one_further(reference):
    windows = reference.windows(1000)
    x, y = windows.validation
    rows = (len(reference.validation) - 1) // 1000
    assert x.shape == y.shape == (rows, 1000) and x.dtype == np.int32
    np.testing.assert_array_equal(x.ravel(), reference.validation[: rows * 1000])
    np.testing.assert_array_equal(y.ravel(), reference.validation[1 : rows * 1000 + 1])
    assert windows.class_names == reference.vocabulary
    most = len(reference.validation) - 1
    with pytest.raises(
        ValueError, match=rf"windows of \w+ must be an int from 1 to {most}, got 600000"
    ):
        reference.windows(600_000)


def test_what_is_no_text_is_refused(reference):
    assert reference.decode(reference.encode("What, Curio?\n")) == "What, Curio?\n"
    assert reference.encode("").shape == (0,)
    with pytest.raises(ValueError, match=r"the character '€' at 3, which is not one of the 96 of"):
        reference.encode("to €")
    with pytest.raises(ValueError, match=r"tokens must be integers \(n,\) in 0 \.\. 95, got .*96"):
        reference.decode(np.array([1, 96]))
    with pytest.raises(ValueError, match=r"write decode\(tokens\[0\]\)"):
        reference.decode(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="read-only"):
        reference.train[0] = 1


def test_a_file_of_the_user_is_a_text(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeffaé b\r\naé ba é€b".encode())
    mine = data.read_text(file)
    assert mine.vocabulary == ("\n", " ", "a", "b", "é", "€")
    assert mine.decode(np.concatenate([mine.train, mine.validation, mine.test])) == (
        "aé b\naé ba é€b"
    )
    assert [len(part) for part in (mine.train, mine.validation, mine.test)] == [10, 1, 3]
    assert mine.name == "mine"
    file.write_bytes("a é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine\.txt must be text in UTF-8 \(.*\); convert it"):
        data.read_text(file)
    file.write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"characters of .*mine\.txt must be an int >= 10, got 3"):
        data.read_text(file)
