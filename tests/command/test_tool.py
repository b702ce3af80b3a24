"""`jaxnn sweep`, on a small ledger written by hand."""

import io
import os
import runpy
import shlex
import subprocess
import sys
from importlib import metadata

import pytest

from jaxnn.command.parsing import execute
from jaxnn.command.tool import main
from jaxnn.experiment import SGD
from jaxnn.experiment.configuration import to_plain
from jaxnn.files.reading import encodable
from jaxnn.sweep import LogUniform, Space
from jaxnn.sweep.ledger import Cohort, Group, Ledger
from jaxnn.sweep.storage import is_driven

SPACE = Space(SGD, {"learning_rate": LogUniform(1e-3, 1.0)})
META = {
    "experiment": "experiments.toy",
    "config": to_plain(SGD()),
    "settings": {"trials": 3},
    "space": SPACE.to_plain(),
    "traced": {"learning_rate": "traced"},
    "metric": "validation_loss",
    "maximize": False,
    "seeds": 1,
    "epochs": 1,
    "rungs": [1],
    "search": "random",
    "seed": 0,
    "device": "cpu",
    "versions": {},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "sweep"
    with Ledger.create(folder, META) as ledger:
        ledger.add_group(Group("all", {}, "loop", 1))
        ledger.ask(0, 0, [({"learning_rate": rate}, "all") for rate in (0.01, 0.1, 0.5)])
        cohort = Cohort("all", 0, 0, 1, ((0, 0), (1, 0), (2, 0)), seconds=1.0)
        losses = (0.5, 0.25, float("inf"))
        results = [(n, 0, 1, "validation_loss", loss) for n, loss in enumerate(losses)]
        statuses = {0: "done", 1: "done", 2: "diverged"}
        ledger.commit(cohort, results, statuses, {2: "validation_loss is inf after epoch 1"})
    return folder


def test_show_lists_the_best_first_and_says_what_broke(folder, capsys):
    assert main(["sweep", "show", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy: 3 trials, 2 done, 1 diverged"
    assert lines[1].split() == ["trial", "validation_loss", "learning_rate"]
    assert lines[2].split() == ["1", "0.25", "0.1"]
    assert lines[3].split() == ["0", "0.5", "0.01"]
    assert lines[4:] == ["1 trial diverged (2):", "    validation_loss is inf"]


def test_the_reader_of_the_output_may_leave(folder):
    command = f"{shlex.quote(sys.executable)} -m jaxnn sweep show {shlex.quote(str(folder))}"
    for words in (command, f"{sys.executable} -m jaxnn --help"):
        # The pipe is closed before anything is written to it.
        ran = subprocess.run(
            ["bash", "-c", f"{words} | exec true; echo ${{PIPESTATUS[0]}}"],
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert (ran.stdout, ran.stderr) == ("141\n", "")


def test_output_that_cannot_encode_a_character_ends_no_command(monkeypatch):
    """In the locale C, sweeps write the signs of means and separators as question marks."""
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", written)
    assert encodable("0.5 \xb1 0.1") == "0.5 ? 0.1"
    assert execute({"show": lambda: print("0.5 \xb1 0.1 \udcc3")}, "show") == 0
    assert written.buffer.getvalue() == b"0.5 ? 0.1 ?\n"  # type: ignore[attr-defined]


def test_top_ends_with_the_sweep(folder, capsys):
    assert main(["sweep", "top", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("toy: 3 trials, 2 done, 1 diverged")


def test_retry_asks_again_and_top_says_that_nothing_drives_it(folder, capsys):
    assert main(["sweep", "retry", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said == (f"to run 1 trial again, write python -m experiments.toy resume {folder}\n")
    with Ledger.open(folder) as ledger:
        assert [trial.status for trial in ledger.trials()] == ["done", "done", "asked"]
    assert main(["sweep", "top", str(folder)]) == 0
    assert "no driver is running: continue it with python -m experiments.toy resume" in (
        capsys.readouterr().out
    )


def test_retry_says_where_there_is_nothing_to_ask_again(folder, capsys):
    with Ledger.open(folder, write=True) as ledger:
        ledger.decide({2: "stopped"}, 0)
    assert main(["sweep", "retry", str(folder)]) == 0
    assert capsys.readouterr().out == f"no trial of {folder} failed or diverged\n"


def test_retry_refuses_a_trial_that_is_done(folder, capsys):
    assert main(["sweep", "retry", str(folder), "--trials", "1"]) == 1
    assert "error: trial 1 is done: retry accepts those that are diverged or failed" in (
        capsys.readouterr().err
    )


def test_a_driver_in_another_process_is_seen(folder):
    assert not is_driven(folder)
    code = (
        "import sys, pathlib\n"
        "from jaxnn.sweep.storage import DriverLock\n"
        "with DriverLock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, JAX_PLATFORMS="cpu"),
    )
    with child:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline().strip() == b"held"
        assert is_driven(folder)
        child.stdin.close()
    assert not is_driven(folder)


def test_report_and_export_write_files(folder, capsys):
    assert main(["sweep", "report", str(folder)]) == 0
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    target = folder.parent / "trials.csv"
    assert main(["sweep", "export", str(folder), "csv", str(target)]) == 0
    assert len(target.read_text().splitlines()) == 4


def test_help_and_misspellings(capsys):
    assert main([]) == 0
    assert "jaxnn sweep top FOLDER" in capsys.readouterr().out
    assert main(["sweep", "tpo"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'tpo'; did you mean 'top'?\n"
    assert main(["swep"]) == 2
    assert (
        capsys.readouterr().err
        == "error: there is no command 'swep'; write jaxnn new or jaxnn sweep\n"
    )


def test_a_number_of_trials_that_cannot_be(folder, capsys):
    assert main(["sweep", "show", str(folder), "--trials", "-1"]) == 1
    assert capsys.readouterr().err == "error: --trials must be an int >= 0, got -1\n"


def test_a_folder_without_a_sweep(tmp_path, capsys):
    assert main(["sweep", "show", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_version_and_the_module_are_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jaxnn"])
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxnn {metadata.version('jaxnn-functional')}\n"
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("jaxnn", run_name="__main__")
    assert "jaxnn sweep top FOLDER" in capsys.readouterr().out
