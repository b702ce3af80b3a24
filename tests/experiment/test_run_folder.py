"""A run folder is written whole, or not at all."""

import errno
import json
import resource
import subprocess
import sys

import pytest

from jaxnn.experiment.run_folder import begin, check_folder, default_folder, write_run_file

CONTENT = {"schema": 1, "experiment": "digits"}


def test_every_file_is_there_and_nothing_else(tmp_path):
    begin(tmp_path / "runs" / "one", CONTENT)
    (file,) = (tmp_path / "runs" / "one").iterdir()
    assert (file.name, json.loads(file.read_text())) == ("config.json", CONTENT)
    assert [f.name for f in (tmp_path / "runs").iterdir()] == ["one"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for write_it in (lambda f: begin(f, CONTENT), lambda f: check_folder(f, 5000)):
        with pytest.raises(OSError, match="No space left on device") as error:
            write_it(tmp_path / "one")
        assert str(error.value).endswith(
            "Nothing was written; make room or write --folder with another place"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_real_limit_on_file_size_is_told_before_the_training(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path;"
        "from jaxnn.experiment.run_folder import check_folder;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}));"
        "check_folder(Path(sys.argv[1]), 5000)"
    )
    place = tmp_path / "one"
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True)
    assert f"cannot write the run folder {place}: File too large." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_more_than_is_free_is_told_before_the_training(tmp_path):
    with pytest.raises(OSError, match=r"bytes are needed, and [\d,]+ are free"):
        check_folder(tmp_path / "one", 2**60)


@pytest.mark.parametrize("write", [lambda f: check_folder(f, 10), lambda f: begin(f, CONTENT)])
def test_a_place_that_cannot_be_is_refused(tmp_path, write):
    (tmp_path / "file").write_text("here first")
    for place in (tmp_path / "file" / "one", tmp_path / "file" / "deep" / "one"):
        with pytest.raises(
            OSError, match=f"cannot write the run folder {place}: .* is not a folder"
        ):
            write(place)
    assert (tmp_path / "file").read_text() == "here first"


def test_an_existing_folder_is_refused_with_another_to_write(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(FileExistsError, match=r"exists already.*--folder .*one-2, or remove it"):
        check_folder(tmp_path / "one", 10)
    with pytest.raises(OSError, match="exists already"):
        begin(tmp_path / "one", CONTENT)
    assert list((tmp_path / "one").iterdir()) == []


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "one", CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_the_check_leaves_nothing_behind(tmp_path):
    check_folder(tmp_path / "one", 5000)
    assert list(tmp_path.iterdir()) == []


def test_the_default_place_says_what_and_when():
    assert default_folder("digits").match("runs/digits-????????-??????")


def test_a_file_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    begin(tmp_path / "one", CONTENT)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"cannot finish the run: .* on device.* Make room"):
            write_run_file(tmp_path / "one", "result.json", b"{}")
    assert [f.name for f in (tmp_path / "one").iterdir()] == ["config.json"]
    write_run_file(tmp_path / "one", "result.json", b"{}")
    assert (tmp_path / "one" / "result.json").read_bytes() == b"{}"
