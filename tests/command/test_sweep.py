"""The commands that sweep: what cannot be is told in a line before anything is computed."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from jaxnn import files as writing
from jaxnn import train
from jaxnn.command import main, tool
from jaxnn.experiment import SGD, AdamW
from jaxnn.experiment.configuration import from_plain, to_plain
from jaxnn.experiment.experiment import Configured
from jaxnn.installation import install
from jaxnn.sweep import Branch, Choice, Grid, LogUniform, Space, Uniform
from jaxnn.sweep import cohort as cohorts
from jaxnn.sweep import open as opened
from jaxnn.sweep.driver import Driver
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.snapshot import read
from tests.sweep import quick, toy

SPACE = Space(
    quick.Config,
    {"optimizer.learning_rate": Grid(0.01, 0.03, 0.1, 0.3), "optimizer.momentum": Choice(0.5, 0.9)},
)
EXPERIMENT = quick.experiment(SPACE)
# Fixed, so that nothing is measured, and one program serves all tests.
SMALL = [
    *("--model.depth", "0", "--epochs", "2", "--trials", "8", "--search", "grid"),
    *("--lanes", "8", "--by", "vmap"),
]


def said(capsys, *arguments, experiment=EXPERIMENT):
    """The exit status, and what is printed as output and as an error."""
    capsys.readouterr()
    try:
        status = main(experiment, list(map(str, arguments)))
    except SystemExit as stopped:
        status = stopped.code
    return status, *capsys.readouterr()


@pytest.fixture
def nothing_computed(monkeypatch):
    """Fail where a lane is trained or compiled, or a run."""

    def computed(*_, **__):
        pytest.fail("something was compiled, or trained")

    monkeypatch.setattr(cohorts.Compiled, "__init__", computed)
    monkeypatch.setattr(cohorts.Compiled, "train", computed)
    monkeypatch.setattr(quick.train, "fit", computed)


@pytest.fixture(scope="module")
def one_sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "one"
    assert main(EXPERIMENT, ["sweep", *SMALL, "--folder", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(one_sweep, tmp_path):
    """A whole sweep of one's own."""
    return shutil.copytree(one_sweep, tmp_path / "whole")


def digest(folder):
    with Ledger.open(folder) as ledger:
        return toy.digest(ledger)


# What works


def test_a_sweep_leaves_a_ledger_and_a_report_and_says_what_was_best(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, error = said(capsys, "sweep", *SMALL, "--seeds", "2")
    assert (status, error) == (0, "")
    (place,) = (tmp_path / "sweeps").iterdir()
    assert place.name.startswith("quick-")
    place = place.relative_to(tmp_path)
    assert (place / "report.html").stat().st_size < 1_000_000
    with Ledger.open(place) as ledger:
        found = read(ledger)
    assert len(found.trials) == 8
    assert found.best is not None
    lines = out.splitlines()
    assert lines[0] == f"quick: sweep in {place}"
    assert lines[1] == "0 of 8 trials · 0 %; asking for trials"
    assert lines[2] == "0 of 8 trials · 0 %; compiling group 1 of 1: all"
    assert any(line.startswith("8 of 8 trials: 8 done · 100 % · ") for line in lines)
    assert "quick: 8 trials, 8 done" in lines
    top = lines[lines.index("quick: 8 trials, 8 done") + 1 :][:6]
    assert all(len(line) <= 80 for line in top)
    assert top[0].split() == ["trial", "validation_accuracy", "learning_rate", "momentum"]
    assert [int(line.split()[0]) for line in top[1:]] == [t.number for t in found.ranking[:5]]
    assert lines[-2] == f"Report: {place / 'report.html'}"
    assert lines[-1] == (
        f"Train the best again: python -m tests.sweep.quick run --from {place}:best"
    )


def test_help_has_no_option_that_would_be_rejected_and_defines_its_words(capsys):
    status, out, _ = said(capsys, "sweep", "--help")
    assert status == 0
    options = set(re.findall(r"--[\w.-]+", out.partition("The options below")[2]))
    assert {"--model.depth", "--epochs", "--trials"} <= options
    assert not options & {"--optimizer.learning-rate", "--optimizer.momentum"}
    _, text, _ = said(capsys, "run", "--help")
    assert "--optimizer.learning-rate" in str(text)
    for word in ("trial", "lane", "group", "cohort", "rung"):
        assert len(re.findall(rf"^    {word} ", out, flags=re.MULTILINE)) == 1


def test_a_plan_says_what_is_traced_and_runs_nothing_to_the_end(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, error = said(capsys, "plan", *SMALL)
    assert (status, error) == (0, "")
    assert (
        "optimizer.learning_rate  0.01, 0.03, 0.1, 0.3  traced: one program for all values" in out
    )
    assert "all: 8 trials, vmap of 8, 16 lanes at a time" in out
    assert "by grid search, compared by validation_accuracy (more is better); rungs at ep" in out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_which_trials_cannot_run(capsys):
    broken = quick.experiment(Space(quick.Config, {"model.dropout": Choice(0.1, 1.0)}))
    status, out, _ = said(capsys, "plan", *SMALL[2:], experiment=broken)
    assert status == 0
    assert "no program for 1 trial: ValueError: MLP.dropout must be a dropout rate in [0" in out


def test_resuming_what_has_ended_changes_nothing(folder, capsys):
    before = digest(folder)
    status, out, error = said(capsys, "resume", folder)
    assert (status, error) == (0, "")
    assert "quick: 8 trials, 8 done" in out
    assert digest(folder) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials must be None or an int >= 1, got 0"),
        (["--epochs", "0"], "--epochs must be None or an int >= 1, got 0"),
        (["--search", "tpee"], "--search must be None or 'random', 'grid'"),
        (["--workers", "-1"], "--workers must be an int >= 0, got -1"),
    ],
)
def test_changes_that_cannot_be(folder, capsys, nothing_computed, words, message):
    before = digest(folder)
    status, _, error = said(capsys, "resume", folder, *words)
    assert (status, error[: 7 + len(message)]) == (1, f"error: {message}")
    assert digest(folder) == before


def test_a_sweep_that_is_interrupted_says_how_to_go_on(folder, tmp_path, capsys, monkeypatch):
    ask, place = Driver._train, tmp_path / "new"

    def interrupted(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_train", interrupted)
        status, _, error = said(capsys, "sweep", *SMALL, "--folder", place)
    assert (status, error) == (
        130,
        "error: interrupted: committed results are intact; continue with "
        f"python -m tests.sweep.quick resume {place}\n",
    )
    assert ask is Driver._train
    assert digest(place) != digest(folder)
    assert said(capsys, "resume", place)[0] == 0
    assert digest(place) == digest(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_lost_within_a_callback_stops_a_sweep_all_the_same(
    folder, tmp_path, capsys, monkeypatch, number
):
    place, reach, handlers = tmp_path / "new", Driver._train, signal.getsignal(number)

    def deaf(self, *arguments):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        reach(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "_train", deaf)
        status, out, error = said(capsys, "sweep", *SMALL, "--folder", place)
    assert status == 128 + number
    assert "8 done" not in out
    assert error.startswith("error: interrupted: committed results are intact; continue with ")
    assert signal.getsignal(number) is handlers
    assert said(capsys, "resume", place)[0] == 0
    assert digest(place) == digest(folder)


def test_a_full_disk_is_told_in_a_line_and_resumed(folder, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    place, halving = tmp_path / "new", ("--halving", "successive", "--eta", "2")
    with monkeypatch.context() as patch:
        patch.setattr(writing, "open", full, raising=False)
        status, _, error = said(capsys, "sweep", *SMALL, *halving, "--folder", place)
    assert status == 1
    assert error == (
        f"error: the disk is full, {place} cannot be written (No space left on device). Nothing "
        "was lost; committed results are intact: remove the cause, then write python -m "
        f"tests.sweep.quick resume {place}\n"
    )
    assert said(capsys, "resume", place)[0] == 0
    whole = tmp_path / "halved"
    assert said(capsys, "sweep", *SMALL, *halving, "--folder", whole)[0] == 0
    assert digest(place) == digest(whole)


# A trial of a sweep, trained again


@pytest.mark.parametrize("name", ["best", "3"])
def test_run_from_a_sweep_trains_that_configuration(folder, tmp_path, capsys, name):
    with Ledger.open(folder) as ledger:
        found = read(ledger)
    trial = found.best if name == "best" else found.trials[3]
    assert trial is not None
    place = tmp_path / "run"
    status, _, error = said(capsys, "run", "--from", f"{folder}:{name}", "--folder", place)
    assert (status, error) == (0, "")
    plain = json.loads((place / "config.json").read_text())["config"]
    base = from_plain(quick.Config, dict(found.config))
    assert (base.model.depth, base.epochs) == (0, 2)
    assert plain == to_plain(SPACE.configured(base, trial.values))
    assert plain["optimizer"] == {"type": "Descent"} | {
        name.removeprefix("optimizer."): value for name, value in trial.values.items()
    }
    # It is the run that the lane was: as a solo run, up to rounding.
    records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    lane = found.curves["loss"][trial.number][0]
    assert [record["epoch"] for record in records] == [epoch for epoch, _ in lane]
    # Sums of 25 losses in another order: a few units of the last place of float32, amplified.
    assert [record["loss"] for record in records] == pytest.approx(
        [loss for _, loss in lane], rel=1e-4
    )


def test_what_a_user_writes_beside_from_is_changed(folder, tmp_path, capsys):
    place = tmp_path / "run"
    arguments = f"--from={folder}:0", "--epochs", "1", "--folder", place
    assert said(capsys, *arguments)[0] == 0
    config = json.loads((place / "config.json").read_text())["config"]
    assert config["epochs"] == 1
    assert config["optimizer"]["learning_rate"] == 0.1  # trial 0 is the configuration itself


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}:17", "the trial of {} must be an int from 0 to 7, got 17"),
        ("{}:-1", "--from must be FOLDER:best, or FOLDER:17 for trial 17, got '{}:-1'"),
        ("{}:bets", "--from must be FOLDER:best, or FOLDER:17 for trial 17, got '{}:bets'"),
        ("{}", "--from must be FOLDER:best, or FOLDER:17 for trial 17, got '{}'"),
        ("{}-x:best", "{}-x holds no sweep, there is no ledger.sqlite in it: check the path, or"),
    ],
)
def test_a_trial_that_there_is_not(folder, tmp_path, capsys, nothing_computed, text, message):
    place = tmp_path / "run"
    status, _, error = said(capsys, "run", "--from", text.format(folder), "--folder", place)
    assert status == 1
    assert error.startswith(f"error: {message.format(folder)}")
    assert error.count("\n") == 1
    assert not place.exists()


def test_commands_on_a_run_accept_a_kept_trial(folder, tmp_path, capsys, monkeypatch):
    """The scores of the validation rows are those of the lane, to rounding."""
    monkeypatch.setattr(Configured, "fit", None)
    found = opened(folder, EXPERIMENT)
    last = found.best.metrics[-1]
    scores = f"accuracy {last['validation_accuracy']:.4g}, loss {last['validation_loss']:.4g}"
    assert said(capsys, "evaluate", f"{folder}:best") == (
        0, f"{folder}:best on {len(quick.digits()[1][1]):,} validation rows: {scores}\n", ""
    )  # fmt: skip
    file, inputs = tmp_path / "net.safetensors", tmp_path / "x.npy"
    status, out, error = said(capsys, "export", f"{folder}:best", "--output", file)
    assert (status, out, error) == (0, f"{file}: {file.stat().st_size:,} bytes\n", "")
    np.save(inputs, quick.digits()[1][0][:5])
    status, out, error = said(capsys, "predict", f"{folder}:{found.best.number}", "--input", inputs)
    trained = found.best.load()
    weights = train.load_weights(file, trained.net, quick.digits()[0][0][:1])
    classes = trained.net.apply(weights.params, quick.digits()[1][0][:5]).argmax(1)
    assert (status, error) == (0, "")
    assert [line.split()[1] for line in out.splitlines()[1:]] == [str(n) for n in classes]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("predict {}", "the trial must be FOLDER:best, or FOLDER:17 for trial 17, got '{}'"),
        ("evaluate {}:99", "the trial of {} must be an int from 0 to 7, got 99"),
        ("evaluate {}-x:best", "{}-x holds no sweep, there is no ledger.sqlite in it"),
        (
            "export {}:best --output net.txt",
            "the suffix of --output net.txt must be '.st",
        ),
    ],
)
def test_a_trial_that_no_command_accepts(folder, capsys, words, message):
    status, _, error = said(capsys, *(word.format(folder) for word in words.split()))
    assert status == 1
    assert error.startswith(f"error: {message.format(folder)}")


def test_from_without_a_trial(capsys, nothing_computed):
    assert said(capsys, "run", "--from")[::2] == (
        1,
        "error: --from must be FOLDER:best, or FOLDER:17 for trial 17, got ''\n",
    )


def test_a_sweep_without_an_end_has_no_best(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Driver, "run", lambda self: None)
    place = tmp_path / "sweep"
    assert said(capsys, "sweep", *SMALL, "--folder", place)[0] == 0
    assert said(capsys, "run", "--from", f"{place}:best")[::2] == (
        1,
        f"error: {place} has no trial that completed; its trials: none\n",
    )


# What cannot be


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            lambda: {"optimizer.learning_rat": LogUniform(1e-3, 0.3)},
            "optimizer (Descent) has no field 'learning_rat', which the space sweeps as "
            "'optimizer.learning_rat'; did you mean 'learning_rate'?",
        ),
        (
            lambda: {"optimizer.learning_rate": LogUniform(0.3, 1e-3)},
            "LogUniform(low=0.3, high=0.001): low must be less than high; write "
            "LogUniform(0.001, 0.3)",
        ),
        (
            lambda: {"optimizer.learning_rate": LogUniform(0, 0.3)},
            "LogUniform(low=0.0, high=0.3): the low end on a log scale must be > 0; write "
            "LogUniform from a number > 0, or Uniform(0.0, 0.3)",
        ),
        (lambda: {"model.width": Choice()}, "Choice(): it needs an option; write Choice(64, 128)"),
    ],
)
def test_a_space_that_cannot_be_is_told_where_it_is_written(paths, message):
    with pytest.raises(ValueError) as raised:
        Space(quick.Config, paths())
    assert str(raised.value) == message


@pytest.mark.parametrize("command", ["plan", "sweep"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--metric", "validation_acuracy"],
            "the program reports no metric 'validation_acuracy'; did you mean "
            "'validation_accuracy'?",
        ),
        (
            ["--max-groups", "2"],
            "the space has up to 3 groups, each a program to compile, and --max-groups is 2: "
            "static are model.width (3); sweep fewer values of them, or write --max-groups 3",
        ),
        (["--trials", "0"], "--trials must be an int >= 1, got 0"),
        (["--search-seed", "-1"], "--search-seed must be an int >= 0, got -1"),
        (["--seeds", "0"], "--seeds must be an int >= 1, got 0"),
        (["--max-groups", "0"], "--max-groups must be an int >= 1, got 0"),
        (["--lanes", "0"], "--lanes must be an int >= 1, got 0"),
        (
            ["--exact", "--by", "vmap"],
            "--exact and --by vmap contradict each other: lanes that train together round "
            "differently; leave one out",
        ),
        (
            ["--halving", "successive", "--eta", "1"],
            "--eta must be an int >= 2, got 1",
        ),
        (
            ["--halving", "hyperband", "--least", "5"],
            "least must be an int from 1 to 4, got 5; a run has 4 epochs",
        ),
        (
            ["--halving", "population"],
            "population-based training copies weights from trial to trial, but model.width is "
            "static (",
        ),
        (["--devices", "-1"], "--devices must be an int from 0 to "),
        (["--epochs", "0"], "--epochs must be None or an int >= 1, got 0"),
        (
            ["--executor", "dsak"],
            "no executor is named 'dsak'; did you mean 'dask'? (Python also accepts any "
            "concurrent.futures.Executor)",
        ),
    ],
)
def test_settings_that_cannot_be(
    tmp_path, monkeypatch, capsys, nothing_computed, command, arguments, message
):
    monkeypatch.chdir(tmp_path)
    space = Space(
        quick.Config, {"model.width": Choice(4, 8, 12), "model.dropout": Uniform(0.0, 0.5)}
    )
    status, _, error = said(capsys, command, *arguments, experiment=quick.experiment(space))
    assert status in (1, 2)
    text = " ".join(error.replace("│", " ").split())
    assert message in text
    assert "Traceback" not in error
    if status == 1:
        assert error.startswith(f"error: {message}")
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # so that the same words, put right, find a free place


@pytest.mark.parametrize(
    ("arguments", "libraries", "message"),
    [
        (
            ["--executor", "dask"],
            ["distributed"],
            f"the executor dask needs distributed, which is not installed: write {install('dask')}",
        ),
        (
            ["--executor", "ray"],
            ["ray"],
            f"the executor ray needs ray, which is not installed: write {install('ray')}",
        ),
        (
            ["--search", "tpe"],
            ["optuna"],
            "the search 'tpe' needs optuna, which is not installed: write another search, such as "
            f"'sobol', or {install('sweep')}",
        ),
    ],
)
def test_what_is_not_installed_is_told_before_there_is_a_ledger(
    tmp_path, monkeypatch, capsys, nothing_computed, arguments, libraries, message
):
    monkeypatch.chdir(tmp_path)
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)
    status, _, error = said(capsys, "sweep", *arguments)
    assert (status, error) == (1, f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_and_matplotlib_a_sweep_has_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(Driver, "run", lambda self: print("it runs", file=sys.stderr))
    status, _, error = said(capsys, "sweep", *SMALL, "--folder", tmp_path / "sweep")
    assert (status, error) == (0, "it runs\n")
    assert (tmp_path / "sweep/report.html").is_file()


@dataclasses.dataclass(frozen=True)
class Either(quick.Config):
    optimizer: AdamW | SGD = SGD()  # type: ignore[assignment]  # noqa: RUF009, frozen


@pytest.mark.parametrize(
    ("argument", "field"),
    [
        ("--optimizer.learning-rate=0.1", "optimizer.learning_rate"),
        ("--model.dropout", "model.dropout"),
        ("optimizer:sgd", "optimizer"),
    ],
)
def test_what_is_swept_cannot_be_given(tmp_path, monkeypatch, capsys, argument, field):
    """No trial would have it, and silence would hide that."""
    monkeypatch.chdir(tmp_path)
    rates = {"learning_rate": LogUniform(1e-3, 0.3)}
    space = {"optimizer": Branch(SGD=rates, AdamW=rates), "model.dropout": Uniform(0.0, 0.6)}
    branched = quick.experiment(Space(Either, space), Either)
    for command in ("plan", "sweep"):
        assert said(capsys, command, "--epochs", "2", argument, experiment=branched) == (
            1,
            "",
            f"error: {field} is swept, so {argument} has no effect: leave it out, or remove "
            f"{field} from the experiment's space\n",
        )
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_without_a_space(capsys, nothing_computed):
    without = dataclasses.replace(EXPERIMENT, space=None)
    for command in ("plan", "sweep"):
        status, _, error = said(capsys, command, experiment=without)
        assert status == 1
        assert error == (
            "error: quick declares no search space: write Experiment(..., "
            'space={"optimizer.learning_rate": LogUniform(1e-4, 1e-1)}), or on the command line '
            "--sweep optimizer.learning_rate=log:1e-4:1e-1\n"
        )


def test_a_folder_that_holds_another_sweep(folder, capsys, nothing_computed):
    before = digest(folder)
    status, _, error = said(capsys, "sweep", *SMALL, "--folder", folder)
    assert (status, error) == (
        1,
        f"error: {folder} holds a sweep already (of tests.sweep.quick, 8 trials): continue it "
        f"with python -m tests.sweep.quick resume {folder}, or write --folder with another path\n",
    )
    assert digest(folder) == before


def test_a_folder_that_holds_something_else(tmp_path, capsys, nothing_computed):
    (tmp_path / "thesis.tex").write_text("mine")
    status, _, error = said(capsys, "sweep", *SMALL, "--folder", tmp_path)
    assert (status, error) == (
        1,
        f"error: {tmp_path} holds something else already (thesis.tex): write --folder with a new "
        "path\n",
    )
    place = tmp_path / "thesis.tex" / "sweep"
    status, _, error = said(capsys, "sweep", *SMALL, "--folder", place)
    assert status == 1
    assert error.startswith(f"error: {place} cannot be written, ")
    assert error.endswith("is not a folder. Nothing was run; write --folder with another path\n")
    assert error.count("\n") == 1


@pytest.fixture
def read_only(one_sweep):
    """A sweep and an empty folder that nobody may write, and no superuser, who would anyway."""
    place, root = Path(tempfile.mkdtemp()), os.geteuid() == 0
    try:
        (place / "empty").mkdir()
        shutil.copytree(one_sweep, place / "sweep")
        for file in (place, *place.rglob("*")):
            file.chmod(0o555)
        if root:
            try:
                os.seteuid(65534)
            except OSError:
                pytest.skip("root cannot become another user here")
        yield place
    finally:
        if root:
            os.seteuid(0)
        for file in (place, *place.rglob("*")):
            file.chmod(0o777)
        shutil.rmtree(place)


@pytest.mark.skipif(os.name != "posix", reason="needs the rights of POSIX")
def test_a_read_only_folder(read_only, capsys, nothing_computed):
    for place, cause in (
        (read_only / "new", r"cannot be written (Permission denied)"),
        (read_only / "empty", r"cannot be written (unable to open database file)"),
    ):
        status, _, error = said(capsys, "sweep", *SMALL, "--folder", place)
        assert (status, error) == (
            1,
            f"error: {place} {cause}. Nothing was run; write --folder with another path\n",
        )
    status, _, error = said(capsys, "resume", read_only / "sweep")
    assert status == 1
    assert error.startswith(f"error: {read_only / 'sweep'} cannot be written (")
    assert error.endswith("). Nothing was changed\n")


def test_two_drivers(folder, capsys, nothing_computed):
    with Ledger.open(folder, write=True):
        status, _, error = said(capsys, "resume", folder)
    assert (status, error) == (
        1,
        f"error: another driver is at work in {folder}, and there may be one at a time: wait for "
        f"it or stop it, then resume; `jaxnn sweep top {folder}` shows its progress\n",
    )


def test_a_changed_source_is_not_gone_on_with(folder, capsys, monkeypatch):
    before = digest(folder)
    with Ledger.open(folder, write=True) as ledger:
        recorded = ledger.meta["sources"]
        assert list(recorded["modules"]) == ["tests", "tests.sweep.quick"]
        assert set(recorded["versions"]) == {"jaxnn", "jax", "optax"}
        recorded["modules"]["tests.sweep.quick"]["program"] = "0"
        recorded["data"]["train"]["0"] = "float32[800,64] 0"
        recorded["versions"]["optax"] = "0.0.1"
        ledger.set_meta({"sources": recorded})
    with monkeypatch.context() as still:
        still.setattr(Driver, "run", lambda _: pytest.fail("it went on"))
        status, _, error = said(capsys, "resume", folder)
    assert status == 1
    assert re.fullmatch(
        r"error: the experiment changed since this sweep began, so that its trials would not "
        r"compare:\n  \S+/quick.py: program changed\n  data/train/0: recorded float32\[800,64\] 0, "
        r"now float32\[800,64\] [0-9a-f]{16}\n  versions/optax: recorded 0\.0\.1, now \S+\nBegin "
        rf"another sweep, or write resume {folder} --force, in Python force=True\n",
        error,
    )
    assert said(capsys, "resume", folder, "--force")[::2] == (0, "")
    assert digest(folder) == before
    with Ledger.open(folder) as ledger:
        (forced,) = ledger.meta["forced"]
    assert forced["after trials"] == 8
    assert [line.split(":")[0] for line in forced["changes"][1:]] == [
        "data/train/0",
        "versions/optax",
    ]
    assert "program changed" in (folder / "report.html").read_text()
    assert said(capsys, "resume", folder)[::2] == (0, "")  # what was forced is what it is now


def test_a_report_that_cannot_be_drawn_costs_no_sweep(tmp_path, capsys, monkeypatch):
    def fails(sweep):
        raise IndexError("tuple index out of range")

    place = tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patch.setattr("jaxnn.sweep.report.sweep_report", fails)
        with pytest.warns(RuntimeWarning, match=rf"the report of {place} failed \(IndexEr"):
            status, out, _ = said(capsys, "sweep", *SMALL, "--folder", place)
    assert status == 0
    assert "quick: 8 trials, 8 done" in out
    assert f"run --from {place}:best" in out
    assert tool.main(["sweep", "report", str(place)]) == 0


def test_the_sweep_of_another_experiment(folder, capsys, nothing_computed):
    with Ledger.open(folder, write=True) as ledger:
        ledger.set_meta({"experiment": "experiments.joy"})
    assert said(capsys, "resume", folder)[::2] == (
        1,
        f"error: {folder} is a sweep of experiments.joy, not of tests.sweep.quick: write "
        f"python -m experiments.joy resume {folder}\n",
    )
    assert said(capsys, "run", "--from", f"{folder}:best")[::2] == (
        1,
        f"error: {folder} is a sweep of experiments.joy, not of tests.sweep.quick: write "
        f"python -m experiments.joy resume {folder}\n",
    )


def test_a_folder_without_a_sweep(tmp_path, capsys, nothing_computed):
    status, _, error = said(capsys, "resume", tmp_path)
    assert status == 1
    assert error.startswith(f"error: {tmp_path} holds no sweep, there is no ledger.sqlite in it: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_misspellings_get_suggestions(capsys, monkeypatch, nothing_computed):
    monkeypatch.setenv("COLUMNS", "100")
    for wrong, right in (("swep", "sweep"), ("plann", "plan"), ("resme", "resume")):
        assert said(capsys, wrong)[::2] == (
            2,
            f"error: there is no command {wrong!r}; did you mean {right!r}?\n",
        )
    for wrong, right in (
        ("--trails", "--trials"),
        ("--metrc", "--metric"),
        ("--max-grups", "--max-groups"),
        ("--model.widt", "--model.width"),
    ):
        status, _, error = said(capsys, "sweep", wrong, "3")
        assert status == 2
        assert "Perhaps you meant:" in error
        assert right in error
    status, _, error = said(capsys, "sweep", "--search", "tqe")
    assert status == 1
    assert "tpe" in error


@pytest.mark.parametrize("command", ["plan", "sweep", "resume"])
def test_help_names_what_there_is(capsys, monkeypatch, nothing_computed, command):
    monkeypatch.setenv("COLUMNS", "100")
    status, out, _ = said(capsys, command, "--help")
    assert status == 0
    pieces = {
        "plan": ("Show what a sweep would do.", "--trials INT", "Configurations to try."),
        "sweep": (
            "Train many configurations of the experiment's space.",
            "optimizer.learning_rate",
            "0.01, 0.03, 0.1, 0.3",
            "--seeds INT",
            "--exact",
            "--model.width INT",
            "--executor STR",
            "(default: 64)",
        ),
        "resume": ("Continue an interrupted sweep or run,", "FOLDER", "--force"),
    }
    text = " ".join(out.replace("│", " ").split())
    for piece in pieces[command]:
        assert piece in text, piece
    assert max(map(len, out.splitlines()[1:])) <= 100  # the first is how it is called
