"""A run folder is written whole, or not at all."""

import errno
import io
import resource
import subprocess
import sys

import pytest

from jaxnn.experiment import folder
from jaxnn.experiment.folder import begin_folder, check_place, default_place, write_file

FILES = {"config.json": b"{}", "weights.safetensors": b"w" * 5000}


def test_every_file_is_there_and_nothing_else(tmp_path):
    begin_folder(tmp_path / "runs" / "one", FILES)
    assert {f.name: f.read_bytes() for f in (tmp_path / "runs" / "one").iterdir()} == FILES
    assert [f.name for f in (tmp_path / "runs").iterdir()] == ["one"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, contents):
            if len(contents) > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(contents)

        def fileno(self):
            return 0

    monkeypatch.setattr(folder, "open", lambda *_: Full(), raising=False)
    monkeypatch.setattr(folder.os, "fsync", lambda _: None)
    with pytest.raises(OSError, match=r"No space left on device\. Nothing was written; make room"):
        begin_folder(tmp_path / "one", FILES)
    with pytest.raises(OSError, match="No space left on device"):
        check_place(tmp_path / "one", 5000)
    assert list(tmp_path.iterdir()) == []


def test_a_real_limit_on_file_size_is_told_before_the_training(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path;"
        "from jaxnn.experiment.folder import check_place;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}));"
        "check_place(Path(sys.argv[1]), 5000)"
    )
    place = tmp_path / "one"
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True)
    assert f"cannot write the run folder {place}: File too large." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_more_than_is_free_is_told_before_the_training(tmp_path):
    with pytest.raises(OSError, match=r"bytes are needed, and [\d,]+ are free"):
        check_place(tmp_path / "one", 2**60)


@pytest.mark.parametrize("write", [lambda f: check_place(f, 10), lambda f: begin_folder(f, FILES)])
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
        check_place(tmp_path / "one", 10)
    with pytest.raises(OSError, match="it was made by another process meanwhile"):
        begin_folder(tmp_path / "one", FILES)
    assert list((tmp_path / "one").iterdir()) == []


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        begin_folder(tmp_path / "one", FILES)
    assert list(tmp_path.iterdir()) == []


def test_the_check_leaves_nothing_behind(tmp_path):
    check_place(tmp_path / "one", 5000)
    assert list(tmp_path.iterdir()) == []


def test_the_default_place_says_what_and_when():
    assert default_place("digits").match("runs/digits-????????-??????")


def test_a_file_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    begin_folder(tmp_path / "one", {"config.json": b"{}"})
    write = folder._write

    def full(file, contents):
        write(file, contents[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "_write", full)
    with pytest.raises(OSError, match=r"on device\. result\.json was not written, so"):
        write_file(tmp_path / "one", "result.json", b"{}")
    assert [f.name for f in (tmp_path / "one").iterdir()] == ["config.json"]
    monkeypatch.setattr(folder, "_write", write)
    write_file(tmp_path / "one", "result.json", b"{}")
    assert (tmp_path / "one" / "result.json").read_bytes() == b"{}"
