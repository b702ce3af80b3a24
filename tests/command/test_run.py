"""The command line, from help to Ctrl-C, on a small experiment."""

import dataclasses
import importlib.machinery
import json
import re
import shutil
import signal
import subprocess
import sys
import types
import warnings
from typing import Any

import jax
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import data, train
from jaxnn.command import main, parsing
from jaxnn.command.parsing import choose_variants
from jaxnn.experiment import SGD, AdamW, Experiment
from jaxnn.experiment.experiment import configured
from jaxnn.files import Lock, replace_file
from jaxnn.html import charts
from jaxnn.installation import install
from jaxnn.models import MLP
from jaxnn.train.weights import packed

pytestmark = pytest.mark.usefixtures("figures_not_drawn")


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    model: MLP = MLP(width=4)  # noqa: RUF009
    optimizer: AdamW | SGD = SGD(learning_rate=0.1)  # noqa: RUF009
    batch_size: int = 10
    """Rows per step."""
    epochs: int = 2
    seed: int = 0


def load(config=None):
    rng = np.random.default_rng(0)

    def part(rows):
        y = np.arange(rows) % 2
        x = rng.normal(y[:, None], 0.5, (rows, 3))
        return data.Examples(x.astype(np.float32), y.astype(np.int32))

    names = {"class_names": ("no", "yes"), "feature_names": ("a", "b", "c")}
    return data.Dataset("toy", part(40), part(10), part(20), **names)


def build(config, dataset, task: Any = train.BinaryClassification()):  # noqa: B008
    steps = len(dataset.train.y) // config.batch_size * config.epochs
    scale = data.Standardizer.fit(dataset.train.x)
    net = nn.Sequential(scale=scale.layer(), mlp=config.model.network(task.outputs))
    return train.Supervised(net, task, config.optimizer.build(steps))


EXPERIMENT = Experiment("toy", Config, data=load, program=build)


def errors(capsys, *arguments):
    """The exit status and what is printed as an error."""
    try:
        status = main(EXPERIMENT, arguments)
    except SystemExit as stopped:
        status = stopped.code
    return status, capsys.readouterr().err


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(EXPERIMENT, ["--folder", str(folder)]) == 0
    return folder


@pytest.fixture
def run_folder(one_run, tmp_path):
    """A copy of the run folder."""
    return shutil.copytree(one_run, tmp_path / "run")


def test_a_run_leaves_a_whole_folder_and_says_how_to_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(EXPERIMENT, ["run", "--epochs", "3", "optimizer:adamw"]) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json", "confusion_matrix.png", "learning_curves.png", "metrics.jsonl",
        "report.html", "result.json", "timings.jsonl", "weights.safetensors", "worst_mistakes.png",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["epochs"] == 3
    assert config["optimizer"] == {
        "type": "AdamW", "learning_rate": 0.001, "weight_decay": 0.0001
    }  # fmt: skip
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert set(records[0]) == {
        "epoch", "step", "loss", "accuracy", "learning_rate", "validation_loss",
        "validation_accuracy",
    }  # fmt: skip
    assert list(records[0])[:2] == ["epoch", "step"]
    result = json.loads((folder / "result.json").read_text())
    assert result["parameters"] == 3 * 4 + 4 + 4 + 1
    assert f"python -m {__name__} predict {folder.relative_to(tmp_path)}" in printed
    assert f"accuracy {result['test']['accuracy']:.4g}" in printed
    assert "\x1b" not in printed  # not a terminal: no escape codes
    assert "\r" not in printed


def test_predicting_from_a_run_gives_the_scores_of_the_run(run_folder, capsys):
    capsys.readouterr()
    assert main(EXPERIMENT, ["predict", str(run_folder)]) == 0
    printed = capsys.readouterr().out
    scores = json.loads((run_folder / "result.json").read_text())["test"]
    assert f"20 test rows: accuracy {scores['accuracy']:.4g}, loss {scores['loss']:.4g}" in printed
    assert printed.splitlines()[4].split() == ["row", "true", "predicted", "probability"]


@pytest.mark.parametrize("kind", ["npy", "csv", "titled csv", "one row"])
def test_predicting_the_rows_of_a_file(run_folder, tmp_path, capsys, kind):
    capsys.readouterr()
    x = np.array([[9.0, 9, 9], [-9, -9, -9]])
    file = tmp_path / f"inputs.{kind.split()[-1] if 'csv' in kind else 'npy'}"
    if "csv" in kind:
        np.savetxt(file, x, delimiter=",", header="a,b,c" if "titled" in kind else "", comments="")
    else:
        np.save(file, x[0] if kind == "one row" else x)
    assert main(EXPERIMENT, ["predict", str(run_folder), "--input", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["row", "predicted", "probability"]
    assert [line[1] for line in lines[1:]] == (["yes"] if kind == "one row" else ["yes", "no"])
    assert all(0.5 <= float(line[2]) <= 1 for line in lines[1:])


def test_help_shows_the_header_every_field_and_the_other_commands(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        main(EXPERIMENT, ["--help"])
    text = capsys.readouterr().out
    for piece in (
        "The command line, from help to Ctrl-C, on a small experiment.",
        "--model.width INT", "Units of each hidden layer.",
        "--optimizer.learning-rate FLOAT", "(default: 0.1)", "--batch-size INT",
        "Rows per step. (default: 10)", "(default: runs/toy-DATE-TIME)",
        "Optimizer: write optimizer:adamw or optimizer:sgd; the options below are those of sgd.",
        f"Other commands of python -m {__name__}: predict --help predict from a finished run",
    ):  # fmt: skip
        assert piece in " ".join(text.replace("│", " ").split()), piece
    assert max(map(len, text.splitlines())) <= 100


def test_a_module_is_called_as_python_takes_it(monkeypatch):
    def build(config, dataset): ...

    made = dataclasses.replace(EXPERIMENT, program=build)
    assert parsing.module_of(made) == __name__
    build.__module__ = "__main__"
    started = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", started)
    started.__spec__ = importlib.machinery.ModuleSpec("experiments.toy", None)  # python -m
    assert parsing.module_of(made) == "experiments.toy"
    started.__spec__, started.__file__ = None, "/somewhere/toy.py"  # python toy.py
    assert parsing.module_of(made) == "toy"


def test_misspellings_get_a_suggestion(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    status, text = errors(capsys, "--epohcs", "3")
    assert status == 2
    assert "Perhaps you meant:" in text
    assert "--epochs INT" in text
    status, text = errors(capsys, "predct")
    assert (status, text) == (2, "error: there is no command 'predct'; did you mean 'predict'?\n")
    status, text = errors(capsys, "optimizer:sdg")
    assert status == 1
    assert text == "error: there is no 'optimizer:sdg'; did you mean 'optimizer:sgd'?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "41"], "--batch-size must be an int from 1 to 40, got 41"),
        (["--epochs", "0"], "--epochs must be None or an int >= 1, got 0"),
        (["--model.width", "0"], "MLP.width must be an int >= 1, got 0"),
        (["--model.dropout", "1"], "MLP.dropout must be a dropout rate in [0, 1), got 1.0"),
        (["--optimizer.momentum", "-1"], "SGD.momentum must be a number from 0 to 1, got -1.0"),
        (["--optimizer.learning-rate", "1e30"], "loss is nan after step 4: the run diverged"),
    ],
)
def test_what_cannot_be_trained_is_reported_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    status, text = errors(capsys, *arguments)
    assert status in (1, 2)
    assert message in text
    assert "Traceback" not in text
    assert not any(tmp_path.glob("runs/*"))
    assert not any(tmp_path.glob("runs/.*"))


def test_an_existing_folder_is_refused_before_the_training(run_folder, capsys):
    before = {file: file.read_bytes() for file in run_folder.iterdir()}
    status, text = errors(capsys, "--folder", str(run_folder))
    assert status == 1
    assert f"{run_folder} exists already, and a run never overwrites another" in text
    assert {file: file.read_bytes() for file in run_folder.iterdir()} == before


def test_a_disk_that_fills_up_meanwhile_leaves_a_run_that_goes_on(tmp_path, monkeypatch, capsys):
    def full(file, contents):
        if file.name == "result.json":
            raise OSError(28, "No space left on device")
        return replace_file(file, contents)

    monkeypatch.setattr("jaxnn.experiment.run_folder.replace_file", full)
    status, text = errors(capsys, "--folder", str(tmp_path / "run"))
    assert status == 1
    assert "cannot finish the run: No space left on device. Make room and write resume" in text
    assert [f.name for f in tmp_path.iterdir()] == ["run"]
    monkeypatch.undo()
    assert main(EXPERIMENT, ["resume", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "result.json").exists()


def without_names(config):
    """The data without names of classes and features, as in a user's file."""
    return dataclasses.replace(load(), class_names=(), feature_names=())


def classes(config, dataset):
    return build(config, dataset, train.Classification(2))


def test_a_data_set_without_names_trains_draws_and_predicts(tmp_path, capsys):
    made = dataclasses.replace(EXPERIMENT, data=without_names, program=classes)
    folder = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert main(made, ["--folder", str(folder)]) == 0
    assert (folder / "worst_mistakes.png").exists()
    capsys.readouterr()
    assert main(made, ["predict", str(folder)]) == 0
    row = capsys.readouterr().out.splitlines()[5].split()
    assert row[:2] == ["0", "0"] and row[2] in ("0", "1")


def broken(*_, **__):
    raise IndexError("tuple index out of range")


FAILURES = {
    "a picture": (
        "jaxnn.experiment.report.worst_profiles",
        "the picture worst_mistakes.png failed",
    ),
    "all pictures": ("jaxnn.html.charts.png", "the picture learning_curves.png failed"),
    "the report": ("run_report", "report.html failed"),
    "the scores": ("jaxnn.experiment.prediction.scores_of", "evaluating the test rows failed"),
    "predicting": ("jaxnn.experiment.prediction.predicted", "predicting the test rows failed"),
    "finish": (None, "the experiment's function finish failed"),
    "the disk": ("replace_file", "the picture confusion_matrix.png failed"),
}
RUN = sys.modules["jaxnn.experiment.training_run"]


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_after_the_weights_costs_no_run(tmp_path, monkeypatch, capsys, what):
    path, message = FAILURES[what]
    folder, made = tmp_path / "run", EXPERIMENT
    with monkeypatch.context() as patch:
        if path is None:
            made = dataclasses.replace(EXPERIMENT, finish=broken)
        elif "." in path:
            patch.setattr(path, broken)
        else:
            patch.setattr(RUN, path, broken)
        with pytest.warns(RuntimeWarning) as warned:
            assert main(made, ["--folder", str(folder)]) == 0
    assert any(
        str(one.message).startswith(f"{message} (IndexError: tuple index out of range)")
        for one in warned
    )
    assert "Traceback" not in capsys.readouterr().err
    names = {file.name for file in folder.iterdir()}
    assert {"weights.safetensors", "result.json", "config.json", "metrics.jsonl"} <= names
    assert "checkpoints" not in names
    assert main(made, ["predict", str(folder)]) == 0


def test_scores_that_are_not_finite_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxnn.experiment.prediction.scores_of", lambda *_: {"r2": float("nan")})
    assert main(EXPERIMENT, ["--folder", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"] == {"r2": "nan"}
    assert "test: r2 nan on 20 rows" in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["training", "writing"])
def test_an_interrupted_run_says_so_in_a_line_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, moment
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if moment == "training":
        monkeypatch.setattr(train.Evaluate, "see", interrupt)
    else:
        monkeypatch.setattr("pathlib.Path.rename", interrupt)
    status, text = errors(capsys, "--folder", str(tmp_path / "run"))
    assert (status, text) == (130, "error: interrupted: nothing was written\n")
    assert list(tmp_path.iterdir()) == []


LONG = ["--epochs", "6", "--checkpoint.epochs", "2"]


def stopped_after(records, number, monkeypatch):
    """Ask the run to stop at a record; it stops at the next one."""
    see, seen = train.Evaluate.see, []

    def ask(self, memory, event):
        seen.append(event.step)
        if len(seen) == records:
            signal.raise_signal(number)
        return see(self, memory, event)

    monkeypatch.setattr(train.Evaluate, "see", ask)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "long"
    assert main(EXPERIMENT, [*LONG, "--folder", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("again", ["resume", "the same command"])
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_files(
    tmp_path, monkeypatch, capsys, long_run, again
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        stopped_after(2, signal.SIGTERM, patched)
        status, text = errors(capsys, *LONG, "--folder", str(folder))
    assert status == 128 + signal.SIGTERM
    assert "SIGTERM: the run stopped after step 12 of 24; the checkpoint after step 12 is" in text
    assert f"continue it with python -m {__name__} resume {folder}" in text
    assert not (folder / "result.json").exists()
    assert errors(capsys, "predict", str(folder))[1] == (
        f"error: {folder} is not a finished run: write resume {folder} first\n"
    )
    arguments = ["resume", str(folder)] if again == "resume" else [*LONG, "--folder", str(folder)]
    assert main(EXPERIMENT, arguments) == 0
    names = [sorted(one.name for one in place.iterdir()) for place in (folder, long_run)]
    assert names[0] == names[1]
    for name in ("metrics.jsonl", "weights.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (long_run / name).read_bytes(), name
    status, text = errors(capsys, "resume", str(folder))
    assert (status, text[:30]) == (1, f"error: {folder} is finished: write predict"[:30])


def test_lines_that_a_stopped_run_lost_are_restored(tmp_path, monkeypatch, long_run):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        stopped_after(2, signal.SIGTERM, patched)
        assert main(EXPERIMENT, [*LONG, "--folder", str(folder)]) == 128 + signal.SIGTERM
    first, second, third = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(first + first + second + third[:-9])
    timings = (folder / "timings.jsonl").read_bytes()
    (folder / "timings.jsonl").unlink()
    assert main(EXPERIMENT, ["resume", str(folder)]) == 0
    wanted = (long_run / "metrics.jsonl").read_bytes()  # of the run that was never stopped
    assert (folder / "metrics.jsonl").read_bytes() == wanted
    found = (folder / "timings.jsonl").read_bytes()
    assert found.startswith(timings) and found.count(b"\n") == wanted.count(b"\n")


def test_an_unfinished_run_of_another_configuration_is_left_alone(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        stopped_after(1, signal.SIGINT, patched)
        assert errors(capsys, *LONG, "--folder", str(folder))[0] == 130
    before = (folder / "config.json").read_bytes()
    status, text = errors(capsys, "--epochs", "7", "--folder", str(folder))
    assert status == 1
    assert "of another configuration: config/epochs: recorded 6, now 7. Write" in text
    assert (folder / "config.json").read_bytes() == before


def test_a_run_at_work_in_the_folder_is_left_alone(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        stopped_after(1, signal.SIGINT, patched)
        errors(capsys, *LONG, "--folder", str(folder))
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    with Lock(folder / "checkpoints" / "run.lock", "another run holds it"):
        status, text = errors(capsys, *LONG, "--folder", str(folder))
    assert status == 1
    assert re.search(r"another run (is at work|works) in", text)
    assert (folder / "config.json").exists()


def test_early_stopping(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["--epochs", "60", "--patience", "2", "--optimizer.learning-rate", "3"]
    assert main(EXPERIMENT, [*arguments, "--folder", str(folder)]) == 0
    losses = [
        json.loads(line)["validation_loss"]
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3


def test_a_folder_that_is_no_run_is_refused(run_folder, capsys):
    status, text = errors(capsys, "predict", str(run_folder.with_name("rum")))
    assert status == 1
    assert "is not a run folder: it has no file config.json; did you mean 'run'?" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"epochs"',
            '"epohcs"',
            "config (Config) lacks 'epochs', and has no field 'epohcs'; did you mean",
        ),
        ('"epochs": 2', '"epochs": "2"', "config.epochs is '2', expected int"),
        ('"width": 4', '"width": 0', "MLP.width must be an int >= 1, got 0"),
        ('"schema": 1', '"\\u001b[31m": 0, "schema": 1', "has the unknown field '\\x1b[31m'"),
        (
            '"batch_size": 10',
            '"batch_size": 1000',
            "no program can be built from its configuration: Config.batch_size must be an int",
        ),
        ('"schema": 1', '"schema": 9', "is not a configuration of schema 1"),
        (
            '"experiment": "toy"',
            '"experiment": "joy"',
            "is a run of 'joy', not of 'toy'; write the command with",
        ),
        ("{", "", "is not valid JSON"),
        ('"width": 4', '"width": 5', "params/mlp/0/w: expected float32[3,5], got float32[3,4]"),
    ],
)
def test_a_changed_configuration_is_refused(run_folder, capsys, old, new, message):
    file = run_folder / "config.json"
    file.write_text(file.read_text().replace(old, new, 1))
    status, text = errors(capsys, "predict", str(run_folder))
    assert status == 1
    assert message in text


def test_truncated_weights_are_refused(run_folder, capsys):
    file = run_folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    status, text = errors(capsys, "predict", str(run_folder))
    assert status == 1
    assert f"{file} ({file.stat().st_size:,} bytes) is truncated" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npy", None, "No such file or directory"),
        ("x.txt", b"1,2,3", "must be '.npy' or '.csv', got '.txt'"),
        ("x.npy", b"1,2,3", "is not a table of numbers"),
        ("x.csv", b"1,2,3\n4,five,6\n", "is not a table of numbers"),
        ("x.csv", b"1,2\n", "has numbers of shape (1, 2), expected (rows, 3)"),
        ("x.csv", b"", "has numbers of shape"),
        ("x.csv", b"1,2,3\n1,nan,3\n", "has NaN or infinity in row 1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(run_folder, tmp_path, capsys, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    status, text = errors(capsys, "predict", str(run_folder), "--input", str(file))
    assert status == 1
    assert message in text


def test_the_choice_of_a_union_is_taken_from_anywhere():
    config, rest = choose_variants(Config(), ["--epochs", "3", "optimizer:adamw", "--seed", "1"])
    assert config.optimizer == AdamW()
    assert rest == ["--epochs", "3", "--seed", "1"]


def test_another_number_does_not_recompile(caplog):
    """The learning rate and the length of a run are data of one compiled program."""

    def compiled(**changes):
        caplog.clear()
        with jax.log_compiles():
            configured(EXPERIMENT, Config(**changes)).fit(progress=False)
        return "Compiling jit(run)" in caplog.text

    compiled(batch_size=7)
    assert not compiled(batch_size=7, optimizer=SGD(0.05, 0.5), epochs=4)
    assert compiled(batch_size=8)  # the question can be answered with yes


def test_importing_jaxnn_imports_none_of_it():
    code = (
        "import sys, jaxnn; print([m for m in sys.modules if m.split('.')[0] in "
        "('tyro', 'rich', 'matplotlib', 'safetensors') or m.startswith('jaxnn.experiment')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("library", ["tyro", "matplotlib", "safetensors"])
def test_a_missing_library_is_named_with_what_to_install(library, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == library] + [library]:
        monkeypatch.setitem(sys.modules, name, None)
    uses = {
        "tyro": parsing.import_tyro,
        "matplotlib": charts.check_library,
        "safetensors": lambda: packed(MLP().network(1), train.Weights({}, {})),
    }
    with pytest.raises(ImportError, match=re.escape(f"write {install('experiments')}")):
        uses[library]()
