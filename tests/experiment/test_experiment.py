"""Experiments of programs: their data, the length of a run, and one run by the command line."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxnn.experiment.program_run import restored

from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import Experiment
from jaxnn.experiment.experiment import Loaded, configured
from jaxnn.train.state import without_keys
from tests.sweep.programs import dqn, gan, supervised


def changed(made, **changes):
    return dataclasses.replace(made, **changes)


# Data


def test_what_data_may_be():
    x, y = np.ones((4, 2)), np.zeros(4)
    part = data.Examples(x.astype("f"), y.astype("f"))
    both = Loaded(data.Dataset("few", part, part, part))
    assert both.validation is not None
    assert (both.rows, len(both.train), len(both.validation)) == (4, 2, 2)
    assert (Loaded(None).rows, Loaded(x).rows, Loaded({"x": x, "y": y}).rows) == (None, 4, 4)
    pair = Loaded(((x, y), None))
    assert pair.train == (x, y)
    assert pair.validation is None


@pytest.mark.parametrize(
    ("found", "error", "said"),
    [
        (
            (np.ones(3), np.ones(3), np.ones(3)),
            TypeError,
            "an experiment's data are (training data, validation data), got 3 items; write "
            "return (x, y, weights), None to train on several arrays",
        ),
        (
            ((np.ones((3, 2)), np.ones(4)), None),
            ValueError,
            "training data: leaves differ in their number of rows: training data/0 has 3, "
            "training data/1 has 4; expected one row per example along the first axis of every "
            "leaf. Write jax.tree.map(np.shape, data) to see all shapes",
        ),
    ],
)
def test_data_that_cannot_be(found, error, said):
    with pytest.raises(error) as raised:
        Loaded(found)
    assert str(raised.value) == said


def test_sources_are_no_data_of_an_experiment():
    source = data.HostArrays(np.ones((4, 2)), np.ones(4))
    with pytest.raises(TypeError, match="write the arrays themselves, which all trials"):
        Loaded((source, None))


def test_equal_data_of_several_configurations_are_kept_once():
    one = configured(supervised.EXPERIMENT, supervised.Config(width=3))
    two = configured(supervised.EXPERIMENT, supervised.Config(width=5))
    other = configured(supervised.EXPERIMENT, supervised.Config(fold=1))
    assert one.data is two.data
    assert one.data is not other.data


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
    said = (
        "the length of a run is the field steps or epochs of {}, which has {}; write "
        "steps: int = 1000"
    )
    assert refused(changed(dqn.EXPERIMENT, config=Both), Both()) == said.format("Both", "both")
    assert refused(changed(dqn.EXPERIMENT, config=Neither), Neither()) == said.format(
        "Neither", "neither"
    )
    assert refused(changed(dqn.EXPERIMENT, config=Epochs), Epochs()) == (
        "dqn has no data, so its runs have no epochs; give the configuration a field "
        "steps: int = 1000"
    )
    assert refused(dqn.EXPERIMENT, dqn.Config(steps=0)) == "steps is an int >= 1, got 0"
    assert refused(dqn.EXPERIMENT, dqn.Config(every=0)) == (
        "the configuration's every is an int >= 1, got 0"
    )
    assert refused(gan.EXPERIMENT, gan.Config(batch_size=49)) == (
        "batch_size is 49, but the training data have 48 rows; write batch_size=48 or less"
    )


def test_a_function_that_returns_no_program():
    made = changed(dqn.EXPERIMENT, program=lambda config, data: 3)
    said = refused(made, dqn.Config())
    assert re.fullmatch(
        r"dqn: the experiment's function .*<lambda> returns a train\.Program, got .*; write "
        r"return train\.Supervised\(net, task, optimizer\)",
        said,
    )


def test_parts_that_cannot_be():
    with pytest.raises(TypeError, match=r"Experiment\.config is a frozen dataclass, got"):
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


# A run by the command line


def test_a_run_is_written_and_predicted_from(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(supervised.EXPERIMENT, ["--epochs", "2", "--folder", str(folder)]) == 0
    assert f"predict {folder} --input FILE" in capsys.readouterr().out
    names = {file.name for file in folder.iterdir()}
    assert names >= {"checkpoints", "config.json", "metrics.jsonl", "report.html", "result.json"}
    run = configured(supervised.EXPERIMENT, supervised.Config(epochs=2))
    state, history = run.fit(progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == history
    assert json.loads((folder / "result.json").read_text())["record"] == history[-1]
    assert run.data.validation is not None
    x = run.data.validation[0][:3]
    np.save(tmp_path / "x.npy", x)
    command = ["predict", str(folder), "--input", str(tmp_path / "x.npy")]
    assert main(supervised.EXPERIMENT, command) == 0
    printed = [float(n) for n in re.findall(r"0\.\d+", capsys.readouterr().out)]
    # printed with four digits
    np.testing.assert_allclose(printed, np.ravel(train.predict(run.program, state, x)), atol=1e-4)


class Cut(Exception):
    """Ends a run in place of a signal."""


def test_a_run_that_was_cut_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch):
    """A program without predictions and without a loss; only `predict` is refused."""
    options = ["--epochs", "3", "--checkpoint.epochs", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(gan.EXPERIMENT, [*options, "--folder", str(whole)]) == 0
    assert "predict" not in capsys.readouterr().out

    evaluate, seen = gan.WGAN.evaluate, []
    see = train.Evaluate.see

    def dies(self, memory, event):
        seen.append(event.step)
        if len(seen) == 2:
            raise Cut
        return see(self, memory, event)

    monkeypatch.setattr(train.Evaluate, "see", dies)
    with pytest.raises(Cut):
        main(gan.EXPERIMENT, [*options, "--folder", str(cut)])
    monkeypatch.undo()
    assert gan.WGAN.evaluate is evaluate
    assert not (cut / "result.json").exists()
    assert main(gan.EXPERIMENT, ["resume", str(cut)]) == 0
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ends = [restored(gan.EXPERIMENT, folder)[1] for folder in (whole, cut)]
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
