"""The exports, read back by the tools that they are for."""

import csv
import dataclasses
import datetime
import sys
from collections import Counter

import pytest

from jaxnn.installation import install
from jaxnn.sweep.dimensions import Grid, Int, LogUniform, Uniform
from jaxnn.sweep.export import export_sweep, spans_of
from jaxnn.sweep.samplers import distribution
from jaxnn.sweep.snapshot import Sweep
from tests.sweep.made_up import SPACE, made_up

SWEEP = made_up(trials=12, epochs=3, seeds=2, rungs=(1, 3))
# With times: each cohort ended 10 s after the one before.
TIMED = dataclasses.replace(
    made_up(trials=3, epochs=2, seeds=2, rungs=(2,)),
    cohorts=[
        dataclasses.replace(cohort, seconds=5.0, compile_seconds=1.0, finished=1.7e9 + 10.0 * at)
        for at, cohort in enumerate(made_up(trials=3, epochs=2, seeds=2, rungs=(2,)).cohorts)
    ],
)
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
    assert study.best_trial.intermediate_values == SWEEP.means[best.number]
    states = Counter(trial.state.name for trial in study.trials)
    ours = Counter(trial.status for trial in SWEEP.trials)
    assert states == {
        "COMPLETE": ours["done"], "PRUNED": ours["stopped"],
        "FAIL": ours["failed"] + ours["diverged"],
    }  # fmt: skip
    study._storage.remove_session()
    study._storage._backend.engine.dispose()


def test_optuna_gets_all_objectives_and_constraints(tmp_path):
    optuna = pytest.importorskip("optuna")
    sizes = {group.name: 100.0 * (at + 1) for at, group in enumerate(SWEEP.groups)}
    groups = [
        dataclasses.replace(group, probe={"metrics": {"parameters": sizes[group.name]}})
        for group in SWEEP.groups
    ]
    facts = {
        **SWEEP.facts,
        "objectives": [["validation_accuracy", True], ["parameters", False]],
        "settings": {"constraints": ["parameters <= 100"]},
    }
    sweep = dataclasses.replace(SWEEP, groups=groups, facts=facts)
    assert len(sizes) > 1
    export_sweep(sweep, "optuna", tmp_path / "study.db")
    study = optuna.load_study(study_name="mnist_mlp", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [one.name for one in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["validation_accuracy", "parameters"]
    for trial, ours in zip(study.trials, sweep.trials, strict=True):
        if trial.state.name == "COMPLETE":
            size = sizes[ours.group or ""]
            assert trial.values == [sweep.scores[ours.number].mean, size]
            assert trial.system_attrs["constraints"] == [max(size - 100, 0) / 100]
    assert [one.number for one in study.best_trials] == sorted(t.number for t in sweep.front)
    study._storage.remove_session()
    study._storage._backend.engine.dispose()


def test_optuna_gets_the_times_of_trials(tmp_path):
    optuna = pytest.importorskip("optuna")
    export_sweep(TIMED, "optuna", tmp_path / "study.db")
    study = optuna.load_study(study_name="mnist_mlp", storage=f"sqlite:///{tmp_path / 'study.db'}")
    for trial, ours in zip(study.trials, TIMED.trials, strict=True):
        if ours.status != "failed":  # it did not run
            (end,) = (c.finished for c in TIMED.cohorts if ours.number in {t for t, _ in c.lanes})
            assert trial.datetime_complete == datetime.datetime.fromtimestamp(end or 0)
            assert trial.duration == datetime.timedelta(seconds=4)  # without compiling
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
    assert [name for name in folders if not name.startswith("events")] == [
        f"trial-{trial:05d}-seed-{seed}" for trial, seed in lanes
    ]
    folders = [name for name in folders if not name.startswith("events")]
    first = b"".join(f.read_bytes() for f in (tmp_path / "logs" / folders[0]).iterdir())
    for name in (*sweep.curves, "model.dropout", "optimizer"):
        assert name.encode() in first


def read_events(folder):
    """The events of a folder by the format's definition: length, its checksum, data, checksum."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16


def test_tensorboard_gets_scores_groups_and_times(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData  # pyright: ignore

    export_sweep(TIMED, "tensorboard", tmp_path / "logs")
    number = TIMED.ranking[0].number
    events = list(read_events(tmp_path / "logs" / f"trial-{number:05d}-seed-1"))
    values = {v.tag: (v, event.wall_time) for event in events for v in event.summary.value}
    score, at = values["score"]
    assert score.simple_value == pytest.approx(TIMED.scores[number].each[1], rel=1e-6)
    end = spans_of(TIMED)[number][-1].end
    assert at == end
    infos = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for name, (value, _) in values.items()
        if name.startswith("_hparams_/")
    ]
    start, last = infos[0].session_start_info, infos[1].session_end_info
    assert (start.group_name, start.start_time_secs) == (f"trial-{number:05d}", end - 4)
    assert (last.end_time_secs, last.status) == (end, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy, about MLflow
def test_mlflow_opens_its_storage(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    export_sweep(TIMED, "mlflow", tmp_path / "mlflow.db")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mnist_mlp")
    assert experiment.tags["goal"] == "maximize"
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    lanes = [(n, s) for n, seeds in TIMED.curves["loss"].items() for s in seeds]
    assert set(runs) == {f"trial-{n:05d}-seed-{s}" for n, s in lanes}
    number = TIMED.ranking[0].number
    run = runs[f"trial-{number:05d}-seed-0"]
    assert run.data.metrics["score"] == TIMED.scores[number].each[0]
    assert run.data.params["model.width"] == str(TIMED.trials[number].values["model.width"])
    assert run.info.end_time - run.info.start_time == 4000
    assert run.info.status == "FINISHED"
    client._tracking_client.store._dispose_engine()


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
        f"{tmp_path / 'trials-results.csv'} exists already, and is never overwritten: "
        "name another place, or remove it"
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
        ("mlflow", "mlflow", "MLflow's storage is written by mlflow-skinny", "export"),
        ("wandb", "wandb", "Weights & Biases' files are written by wandb", "export"),
    ],
)
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, kind, module, said, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as error:
        export_sweep(SWEEP, kind, tmp_path / "out")
    assert str(error.value) == (f"{said}, which is not installed: write {install(extra)}")
    assert not list(tmp_path.iterdir())
