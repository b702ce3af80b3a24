"""The exports, read back by the tools that they are for."""

import csv
import sys
from collections import Counter

import pytest

from jaxnn.installation import install
from jaxnn.sweep.dimensions import Grid, Int, LogUniform, Uniform
from jaxnn.sweep.export import export_sweep
from jaxnn.sweep.samplers import distribution
from jaxnn.sweep.snapshot import Sweep
from tests.sweep.made_up import SPACE, made_up

SWEEP = made_up(trials=12, epochs=3, seeds=2, rungs=(1, 3))
# What a run has as a column beside its own.
OWN = ("trial", "status", "round", "bracket", "rung", "group", "epochs", "error")


def numbers(sweep: Sweep):
    return sum(
        len(curve)
        for trials in sweep.curves.values()
        for seeds in trials.values()
        for curve in seeds.values()
    )


def test_csv_has_a_row_a_trial_and_a_row_a_number(tmp_path):
    assert export_sweep(SWEEP, "csv", tmp_path / "trials.csv") == tmp_path / "trials.csv"
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = {f"validation_accuracy[{seed}]" for seed in (0, 1)}
    assert set(rows[0]) == {*OWN, "validation_accuracy", *seeds, *SPACE}
    assert [int(row["trial"]) for row in rows] == list(range(12))
    for row, trial in zip(rows, SWEEP.trials, strict=True):
        score = SWEEP.scores.get(trial.number)
        assert row["status"] == trial.status
        assert row["validation_accuracy"] == (repr(score.mean) if score else "")
        for name in SPACE:
            assert row[name] == str(trial.values.get(name, ""))
    assert rows[-1]["error"] == SWEEP.trials[-1].error
    with open(tmp_path / "trials-results.csv", newline="") as file:
        results = list(csv.DictReader(file))
    assert len(results) == numbers(SWEEP)
    assert list(results[0]) == ["trial", "seed", "epoch", "name", "value"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trials-results.csv", "trials.csv"]


def test_parquet_keeps_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export_sweep(SWEEP, "parquet", tmp_path / "trials.parquet")
    table = parquet.read_table(tmp_path / "trials.parquet")
    assert table.column("trial").to_pylist() == list(range(12))
    assert table.column("model.width").to_pylist() == [
        t.values["model.width"] for t in SWEEP.trials
    ]
    rates = table.column("optimizer:adamw.learning_rate").to_pylist()
    assert rates == [t.values.get("optimizer:adamw.learning_rate") for t in SWEEP.trials]
    assert str(table.schema.field("model.dropout").type) == "double"
    results = parquet.read_table(tmp_path / "trials-results.parquet")
    assert results.num_rows == numbers(SWEEP)


def test_optuna_opens_its_storage(tmp_path):
    optuna = pytest.importorskip("optuna")
    # A name that a URL would read as options.
    export_sweep(SWEEP, "optuna", tmp_path / "a?mode=ro#%41.db").rename(tmp_path / "study.db")
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.load_study(study_name="mnist_mlp", storage=storage)
    best = SWEEP.best
    assert best is not None
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.best_trial.number == best.number
    assert study.best_value == SWEEP.scores[best.number].mean
    assert study.best_trial.params == best.values
    assert study.best_trial.distributions["model.width"].choices == (64, 128, 256)
    assert study.best_trial.intermediate_values == SWEEP.means(best.number)
    states = Counter(trial.state.name for trial in study.trials)
    ours = Counter(trial.status for trial in SWEEP.trials)
    assert states == {
        "COMPLETE": ours["done"], "PRUNED": ours["stopped"],
        "FAIL": ours["failed"] + ours["diverged"],
    }  # fmt: skip
    study._storage.remove_session()
    study._storage._backend.engine.dispose()


def test_dimensions_are_optunas_distributions():
    kinds = pytest.importorskip("optuna").distributions
    assert distribution(LogUniform(1e-4, 1e-1)) == kinds.FloatDistribution(1e-4, 1e-1, log=True)
    assert distribution(Uniform(0.0, 0.5)) == kinds.FloatDistribution(0.0, 0.5)
    assert distribution(Int(8, 64, log=True)) == kinds.IntDistribution(8, 64, log=True)
    assert distribution(Grid(1, 3)) == kinds.CategoricalDistribution((1, 3))


def test_tensorboard_has_a_run_a_lane(tmp_path):
    pytest.importorskip("tensorboardX")
    sweep = made_up(trials=3, epochs=2, seeds=2, rungs=(2,))
    export_sweep(sweep, "tensorboard", tmp_path / "logs")
    lanes = [(n, s) for n, seeds in sweep.curves["loss"].items() for s in seeds]
    folders = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert folders == [f"trial-{trial:05d}-seed-{seed}" for trial, seed in lanes]
    first = b"".join(f.read_bytes() for f in (tmp_path / "logs" / folders[0]).iterdir())
    for name in (*sweep.curves, "model.dropout", "optimizer"):
        assert name.encode() in first


@pytest.mark.slow
def test_wandb_has_an_offline_run_a_lane(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    export_sweep(made_up(trials=2, epochs=1, seeds=2, rungs=(1,)), "wandb", tmp_path / "logs")
    runs = list((tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2  # one trial failed, the other has two seeds


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "trials-results.csv").write_text("mine")
    with pytest.raises(FileExistsError) as error:
        export_sweep(SWEEP, "csv", tmp_path / "trials.csv")
    assert str(error.value) == (
        f"{tmp_path / 'trials-results.csv'} exists already, and an export never overwrites "
        "anything: name another place, or remove it"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["trials-results.csv"]


def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxnn.sweep.export.result_rows", lambda sweep: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_sweep(SWEEP, "csv", tmp_path / "trials.csv")
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        export_sweep(SWEEP, "parket", tmp_path / "trials.parquet")
    assert str(error.value).startswith("export.kind must be '")
    assert "'parquet'" in str(error.value) and str(error.value).endswith(", got 'parket'")


@pytest.mark.parametrize(
    ("kind", "module", "said", "extra"),
    [
        ("parquet", "pyarrow", "Parquet is written by pyarrow", "export"),
        ("optuna", "optuna", "this is done by optuna", "sweep"),
        (
            "tensorboard",
            "tensorboardX",
            "TensorBoard's files are written by tensorboardX",
            "export",
        ),
        ("wandb", "wandb", "Weights & Biases' files are written by wandb", "export"),
    ],
)
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, kind, module, said, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as error:
        export_sweep(SWEEP, kind, tmp_path / "out")
    assert str(error.value) == (f"{said}, which is not installed: write {install(extra)}")
    assert not list(tmp_path.iterdir())
