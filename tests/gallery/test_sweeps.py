"""Four programs of experiments/gallery, swept by their command lines as lanes of one program."""

import importlib

import pytest

from jaxnn.command import main
from jaxnn.experiment.experiment import configured
from jaxnn.sweep import compiled
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.snapshot import read

# Options of each, and how much better the metric of the best trial is than that of the worst one.
SWEPT = {
    "dqn": (["--steps", "1000"], 0.1),
    "wgan_gp": (["--steps", "300"], 0.1),
    "vae": (["--steps", "297"], 5.0),  # 33 epochs: a record of fewer steps is compiled again
    "distillation": (
        ["--epochs", "5", "--width", "32", "--teacher-epochs", "10"],
        0.2,
    ),
}


@pytest.fixture
def programs(monkeypatch):
    """The compiled programs that a sweep makes."""
    made = []
    begin = compiled.Compiled.__init__

    def counted(self, *arguments):
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(compiled.Compiled, "__init__", counted)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEPT)
def test_a_sweep_traces_every_number_and_its_trials_are_runs(name, tmp_path, programs):
    """One compiled program; the best trial is the solo run of its configuration, bitwise."""
    experiment = importlib.import_module(f"experiments.gallery.{name}").EXPERIMENT
    options, margin = SWEPT[name]
    folder = tmp_path / "sweep"
    fixed = ["--trials", "8", "--exact", "--by", "map", "--lanes", "4"]
    assert main(experiment, ["sweep", *options, *fixed, "--folder", str(folder)]) == 0
    with Ledger.open(folder) as ledger:
        found = read(ledger)
    assert set(found.facts["traced"].values()) == {"traced"}
    assert list(found.facts["traced"]) == list(experiment.space)
    assert [program.traces for program in programs] == [1]
    assert [trial.status for trial in found.trials] == ["done"] * 8
    scores = [found.scores[trial.number].mean for trial in found.ranking]
    assert abs(scores[0] - scores[-1]) >= margin

    best = programs[0].structure
    assert found.best is not None
    run = configured(experiment, best.configured(best.numbers(found.best.values)))
    _, history = run.fit(progress=False)
    for name in found.curves:
        curve = found.curves[name][found.best.number][0]
        assert [value for _, value in curve] == [record[name] for record in history]
