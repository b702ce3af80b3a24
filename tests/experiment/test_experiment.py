"""Experiments: their data, the length of a run, and runs of several kinds of programs."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import Command, Experiment, load_run, run
from jaxnn.experiment.experiment import Loaded, configured
from jaxnn.train.program import without_keys
from tests.sweep.programs import dqn, gan, supervised

pytestmark = pytest.mark.usefixtures("figures_not_drawn")


def changed(made, **changes):
    return dataclasses.replace(made, **changes)


# Data


def test_what_data_may_be():
    x, y = np.ones((4, 2)), np.zeros(4)
    part = data.Examples(x.astype("f"), y.astype("f"))
    both = Loaded(data.Dataset("few", part, part, part))
    assert both.validation is not None
    assert isinstance(both.train, tuple)
    assert (both.rows, len(both.train), len(both.validation)) == (4, 2, 2)
    assert (Loaded(None).rows, Loaded(x).rows, Loaded({"x": x, "y": y}).rows) == (None, 4, 4)
    pair = Loaded(((x, y), None))
    assert pair.train == (x, y)
    assert pair.validation is None


def flipped(key, x):
    return -x


def test_augmented_data_augment_the_training_alone():
    x, y = np.ones((4, 2), np.float32), np.zeros(4, np.float32)
    part = data.Examples(x, y)
    dataset = data.Dataset("few", part, part, part)
    for augmented in (
        data.Augmented(dataset, flipped),
        (data.Augmented((x, y), flipped), (x, y)),
    ):
        found = Loaded(augmented)
        assert isinstance(found.train, data.Augmented)
        assert found.train.functions == (flipped,)
        assert found.rows == 4
        assert found.arrays[0] is x
        assert isinstance(found.validation, tuple)
    assert Loaded(data.Augmented(dataset, flipped)).data is dataset
    with pytest.raises(TypeError, match="data must be arrays of rows, got Augmented"):
        Loaded(((x, y), data.Augmented((x, y), flipped)))


@pytest.mark.parametrize(
    ("found", "error", "said"),
    [
        (
            (np.ones(3), np.ones(3), np.ones(3)),
            TypeError,
            "an experiment's data must be (training data, validation data), got "
            "(float64[3], float64[3], float64[3]); write return (x, y, weights), None to train "
            "on several arrays",
        ),
        (
            ((np.ones((3, 2)), np.ones(4)), None),
            ValueError,
            "training data must have the same number of rows in every leaf, at least 1, got "
            "training data/0: 3, training data/1: 4; write jax.tree.map(np.shape, data) to see all "
            "shapes",
        ),
    ],
)
def test_data_that_cannot_be(found, error, said):
    with pytest.raises(error) as raised:
        Loaded(found)
    assert str(raised.value) == said


def test_sources_are_no_data_of_an_experiment():
    source = data.HostArrays(np.ones((4, 2)), np.ones(4))
    with pytest.raises(TypeError, match="return the arrays themselves, which all trials"):
        Loaded((source, None))


def test_equal_data_of_several_configurations_are_kept_once():
    one = configured(supervised.EXPERIMENT, supervised.Config(width=3))
    two = configured(supervised.EXPERIMENT, supervised.Config(width=5))
    other = configured(supervised.EXPERIMENT, supervised.Config(fold=1))
    assert one.data is two.data
    assert one.data is not other.data


def test_data_that_differ_in_the_test_rows_or_in_names_are_others():
    rng = np.random.default_rng(0)
    a, b = (data.Examples(rng.normal(size=(4, 2)), np.arange(4) % 2) for _ in range(2))
    made = data.Dataset("few", a, a, a, class_names=("no", "yes"))
    same = data.Dataset("few", *(data.Examples(a.x + 0, a.y + 0),) * 3, class_names=("no", "yes"))
    assert Loaded(made).identity == Loaded(same).identity
    others = (changed(made, test=b), changed(made, class_names=()), data.Augmented(made, flipped))
    assert all(Loaded(made).identity != Loaded(other).identity for other in others)


# The length of a run


@dataclasses.dataclass(frozen=True)
class Both:
    steps: int = 3
    epochs: int = 3


@dataclasses.dataclass(frozen=True)
class Neither:
    width: int = 4


@dataclasses.dataclass(frozen=True)
class Epochs:
    epochs: int = 3


def refused(made, config):
    with pytest.raises((ValueError, TypeError)) as raised:
        configured(made, config)
    return str(raised.value)


def test_lengths_that_cannot_be():
    said = "{} must have {} for the length of a run, got {}; write steps: int = 1000"
    steps, either = "steps, without data,", "either steps or epochs"
    both = changed(gan.EXPERIMENT, config=Both, program=None)
    for made, config, allowed, got in (
        (both, Both(), either, "steps and epochs"),
        (dqn.EXPERIMENT, Neither(), steps, "neither"),
        (dqn.EXPERIMENT, Epochs(), steps, "epochs"),
    ):
        assert refused(changed(made, config=type(config)), config) == said.format(
            type(config).__name__, allowed, got
        )
    assert refused(dqn.EXPERIMENT, dqn.Config(steps=0)) == (
        "Config.steps must be None or an int >= 1, got 0"
    )
    assert refused(dqn.EXPERIMENT, dqn.Config(every=0)) == (
        "Config.every must be None or an int >= 1, got 0"
    )
    assert refused(gan.EXPERIMENT, gan.Config(batch_size=49)) == (
        "Config.batch_size must be an int from 1 to 48, got 49; the training data have 48 rows"
    )


def test_a_function_that_returns_no_program():
    made = changed(dqn.EXPERIMENT, program=lambda config, data: 3)
    said = refused(made, dqn.Config())
    assert re.fullmatch(
        r"dqn: the result of .*<lambda> must be a train\.Program, got 3; write "
        r"return train\.Supervised\(net, task, optimizer\)",
        said,
    )


def test_parts_that_cannot_be():
    with pytest.raises(TypeError, match=r"Experiment\.config must be a frozen dataclass, got"):
        Experiment("wrong", int, program=dqn.build)
    with pytest.raises(ValueError, match="trials are compared by one metric, got maximize='a'"):
        changed(dqn.EXPERIMENT, maximize="a", minimize="b")


@pytest.mark.parametrize(
    ("config", "ends"),
    [
        (gan.Config(epochs=2), (3, 6)),
        (dqn.Config(steps=30, every=10), (10, 20, 30)),
        (dqn.Config(steps=25, every=10), (10, 20, 25)),
    ],
)
def test_records_are_where_train_fit_has_them(config, ends):
    made = gan.EXPERIMENT if isinstance(config, gan.Config) else dqn.EXPERIMENT
    run = configured(made, config)
    assert run.ends == ends
    total = ends[-1]
    events = train.run(
        Counted(), run.data.train, key=jax.random.key(0), steps=total, batch_size=16,
        every=run.every, hooks=[],
    )  # fmt: skip
    assert tuple(event.step for event in events) == ends


class Counted(train.Program):
    """A program of no work."""

    def init(self, key, batch):
        return jnp.int32(0)

    def step(self, state, batch):
        return state + 1, {}


# Runs


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_written_and_predicted_from(tmp_path, capsys):
    """Without a data set there are no test scores; predictions are those of `train.predict`."""
    folder = tmp_path / "run"
    assert main(supervised.EXPERIMENT, ["--epochs", "2", "--folder", str(folder)]) == 0
    assert f"predict {folder} --input FILE" in capsys.readouterr().out
    assert {file.name for file in folder.iterdir()} == {
        "config.json", "learning_curves.png", "metrics.jsonl", "report.html", "result.json",
        "timings.jsonl", "weights.safetensors",
    }  # fmt: skip
    run = configured(supervised.EXPERIMENT, supervised.Config(epochs=2))
    state, history = run.fit(progress=False, hooks=[train.LearningRate()])
    assert lines_of(folder) == history
    result = json.loads((folder / "result.json").read_text())
    assert (result["record"], result["test"]) == (history[-1], {})
    assert run.data.validation is not None
    x = run.data.validation[0][:3]
    found = load_run(supervised.EXPERIMENT, folder)
    assert run.network is not None
    expected = train.predict(run.program, state, x)
    np.testing.assert_array_equal(train.predict(found.program, found.state, x), expected)
    np.testing.assert_array_equal(found.net.apply(found.params, x), run.network[0].apply(
        state.params, x))  # fmt: skip
    np.save(tmp_path / "x.npy", x)
    command = ["predict", str(folder), "--input", str(tmp_path / "x.npy")]
    assert main(supervised.EXPERIMENT, command) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == ["row", "predicted", "probability"]
    assert [int(row[1]) for row in printed[1:]] == np.argmax(expected, 1).tolist()
    np.testing.assert_allclose(  # printed with three digits
        [float(row[2]) for row in printed[1:]], np.max(expected, 1), atol=5e-4
    )


class Cut(Exception):
    """Ends a run in place of a signal."""


def test_a_run_that_was_cut_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch):
    """A program without predictions and without a loss; only `predict` is rejected."""
    options = ["--epochs", "3", "--checkpoint.epochs", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(gan.EXPERIMENT, [*options, "--folder", str(whole)]) == 0
    assert "predict" not in capsys.readouterr().out
    see, seen = train.Evaluate.see, []

    def dies(self, memory, event):
        seen.append(event.step)
        if len(seen) == 2:
            raise Cut
        return see(self, memory, event)

    with monkeypatch.context() as patch:
        patch.setattr(train.Evaluate, "see", dies)
        with pytest.raises(Cut):
            main(gan.EXPERIMENT, [*options, "--folder", str(cut)])
    assert not (cut / "result.json").exists()
    assert main(gan.EXPERIMENT, ["resume", str(cut)]) == 0
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert "The run was interrupted and resumed." in (cut / "report.html").read_text()
    ends = [load_run(gan.EXPERIMENT, folder).state for folder in (whole, cut)]
    for one, other in zip(*map(jax.tree.leaves, map(without_keys, ends)), strict=True):
        np.testing.assert_array_equal(one, other)
    capsys.readouterr()
    np.save(tmp_path / "x.npy", np.zeros((2, 2), np.float32))
    command = ["predict", str(cut), "--input", str(tmp_path / "x.npy")]
    assert main(gan.EXPERIMENT, command) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'x.npy'}: WGAN has no predictions; write def predict(self, state, "
        "inputs)\n"
    )
    assert main(gan.EXPERIMENT, ["predict", str(cut)]) == 1
    assert f"predictions need inputs; write predict {cut} --input" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Best:
    """Options of a command."""

    digits: int = 3


def test_a_run_without_data_has_curves_a_finish_and_further_commands(tmp_path, capsys):
    def finish(trained):
        return {"reward.txt": f"{float(trained.state['buffer']['r'].sum()):.6f}".encode()}

    def show(trained, options):
        print(f"sum {float(trained.state['buffer']['r'].sum()):.{options.digits}f}")

    command = Command("show", "print the rewards", Best, show)
    made, folder = changed(dqn.EXPERIMENT, finish=finish, commands=(command,)), tmp_path / "run"
    assert main(made, ["--folder", str(folder), "--patience", "1"]) == 1
    assert "'validation_loss' is not a metric of this run" in capsys.readouterr().err
    assert not folder.exists()
    made = changed(made, maximize="validation_return")
    assert main(made, ["--folder", str(folder), "--patience", "1"]) == 0
    text = capsys.readouterr().out
    assert "dqn: the program makes its own data" in text
    steps = [line["step"] for line in lines_of(folder)]
    assert steps == [10, 20, 30][: len(steps)]
    assert (folder / "learning_curves.png").exists()
    page = (folder / "report.html").read_text()
    assert "largest validation return" in page
    assert ("stopped early" in page) == (len(steps) < 3)
    written = (folder / "reward.txt").read_text()
    assert main(made, ["show", str(folder), "--digits", "6"]) == 0
    assert capsys.readouterr().out == f"sum {written}\n"
    assert main(made, ["shw"]) == 2
    assert "there is no command 'shw'; did you mean 'show'?" in capsys.readouterr().err


def units(config):
    """Targets of mean 1,000 and standard deviation 100, which follow from inputs around 50."""
    rng = np.random.default_rng(0)

    def part(rows):
        x = rng.normal(50, 10, (rows, 2)).astype(np.float32)
        return data.Examples(x, 1000 + 7 * (x[:, 0] - 50) - 7 * (x[:, 1] - 50))

    return data.Dataset("units", part(60), part(20), part(30))


def in_units(config, dataset):
    x, y = dataset.train
    net = nn.Sequential(scale=data.Standardizer.fit(x).layer(), linear=nn.Dense(1))
    task = train.Regression(mean=float(y.mean()), std=float(y.std()))
    return train.Supervised(net, task, train.Optimizer(optax.adam, learning_rate=0.1))


def test_scores_and_predictions_are_in_the_units_of_the_data(tmp_path):
    """A network of standardized numbers: it takes raw rows, and returns raw targets."""
    made = Experiment("units", Units, data=units, program=in_units)
    scores = run(made, folder=tmp_path / "run")
    found = load_run(made, tmp_path / "run")
    x, y = found.data.test
    predicted = train.predict(found.program, found.state, x)
    # Numbers of about 1,000 are rounded to 6e-5 in float32.
    assert scores["mae"] == pytest.approx(np.abs(predicted - y).mean(), abs=1e-4)
    assert np.abs(predicted - y).max() < 5  # of a range of 400: the line is exact
    records = lines_of(tmp_path / "run")
    assert records[0]["validation_mae"] > 10 > records[-1]["validation_mae"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"] == scores
    assert result["test_rows"] == 30


def test_a_regression_of_standardized_outputs():
    """Closed forms: the loss in squared standard deviations, the error in the targets' units."""
    outputs, y = np.array([[0.5], [-1.0]], np.float32), np.array([1000.0, 950.0], np.float32)
    task = train.Regression(mean=1000.0, std=100.0)
    np.testing.assert_array_equal(task.predict(outputs), [1050, 900])
    found = task.measure(outputs, y)
    assert float(found["loss"]) == (0.5**2 + 0.5**2) / 2
    assert float(found["mae"]) == (50 + 50) / 2
    weighted = task.measure(outputs, np.array([np.nan, 950.0]), np.array([0.0, 1.0]))
    assert float(weighted["mae"]) == 50
    with pytest.raises(ValueError, match=r"Regression.std must be a number > 0, got 0.0; write"):
        train.Regression(std=0.0)


@dataclasses.dataclass(frozen=True)
class Units:
    batch_size: int = 20
    epochs: int = 30
