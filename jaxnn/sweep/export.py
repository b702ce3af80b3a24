"""Exports of a sweep to formats that other tools read.

    csv, parquet   a row per trial; and next to it, in NAME-results, a row per result
    optuna         an SQLite storage with one study, which Optuna and its dashboard open
    tensorboard    a folder with a run per lane (a trial with one seed)
    mlflow         an SQLite storage with one experiment, and in it a run per lane
    wandb          a folder with an offline run per lane, which `wandb sync` uploads

Exports contain the times of trials. Existing files are not overwritten, and a partial export never
appears under the target's name.
"""

import csv
import datetime
import functools
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..files import fresh
from ..installation import required
from ..validation import one_of
from .samplers import distribution, optuna_library, quiet
from .snapshot import Sweep
from .tables import BROKEN, Trial

Row = dict[str, Any]
SCORE = "score"  # the metric of a lane, by which trials are compared


def export_sweep(sweep: Sweep, kind: str, target: Path | str) -> Path:
    """Write a sweep for another tool, and return its path.

    Args:
        sweep: The sweep, as `snapshot.read` returns it and `Result.sweep` holds it.
        kind: "csv", "parquet", "optuna", "tensorboard", "mlflow", or "wandb".
        target: The file to write; for TensorBoard and W&B, the folder.

    Raises:
        ValueError: The kind is unknown.
        FileExistsError: The target already exists.
        ImportError: A package that writes the kind is not installed.
    """
    one_of(*KINDS)(kind, "export.kind")
    KINDS[kind](sweep, Path(target))
    return Path(target)


def trial_rows(sweep: Sweep) -> list[Row]:
    """Return a row per trial: its status, score, and values; None for missing ones.

    `metric` is the mean over seeds after the last epoch, and `metric[seed]` the value of a seed.
    """
    curves = sweep.curves.get(sweep.metric, {})
    every = sorted({seed for seeds in curves.values() for seed in seeds})
    compared = [*sweep.objectives, *sweep.constraints]
    others = dict.fromkeys(one.metric for one in compared if one.metric != sweep.metric)
    rows = []
    for trial in sweep.trials:
        score = sweep.scores.get(trial.number)
        seeds = zip(sorted(curves[trial.number]), score.each, strict=True) if score else ()
        each = dict(seeds)
        rows.append({
            "trial": trial.number,
            "status": trial.status,
            "round": trial.round,
            "bracket": trial.bracket,
            "rung": trial.rung,
            "group": trial.group,
            "epochs": score.epoch if score else None,
            sweep.metric: score.mean if score else None,
            **{one: sweep.measured(trial.number, one) for one in others},
            **{f"{sweep.metric}[{seed}]": each.get(seed) for seed in every},
            **{name: trial.values.get(name) for name in sweep.dimensions},
            "error": trial.error,
        })  # fmt: skip
    return rows


def result_rows(sweep: Sweep) -> list[Row]:
    """Return a row per result; its value is None if it was not finite."""
    return [
        {"trial": trial, "seed": seed, "epoch": epoch, "name": name, "value": value}
        for name, trials in sweep.curves.items()
        for trial, seeds in trials.items()
        for seed, curve in seeds.items()
        for epoch, value in curve
    ]


def _to_tables(
    ending: str, write: Callable[[Path, Mapping[str, list[Any]]], None], sweep: Sweep, target: Path
) -> None:
    """Write the trials to `target`, and the results next to it, by `write(file, columns)`."""
    results = target.with_name(f"{target.stem}-results{target.suffix or '.' + ending}")
    with fresh(results) as second, fresh(target) as first:
        for place, rows in ((first, trial_rows(sweep)), (second, result_rows(sweep))):
            names = list(rows[0]) if rows else ["trial"]
            write(place, {name: [row[name] for row in rows] for name in names})


def _write_csv(file: Path, columns: Mapping[str, list[Any]]) -> None:
    with open(file, "x", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([columns, *zip(*columns.values(), strict=True)])


def _write_parquet(file: Path, columns: Mapping[str, list[Any]]) -> None:
    pyarrow, parquet = (
        required(name, "Parquet is written by", "pyarrow", "export")
        for name in ("pyarrow", "pyarrow.parquet")
    )
    table = pyarrow.table({name: single_type(column) for name, column in columns.items()})
    with open(file, "xb") as opened:
        parquet.write_table(table, opened)


def single_type(column: list[Any]) -> list[Any]:
    """Return a column of one type: as it is, or as text if options are of several types.

    >>> single_type([1, 2.5, None]), single_type([1, "all"])
    ([1.0, 2.5, None], ['1', 'all'])
    """
    kinds = {type(value) for value in column if value is not None}
    if len(kinds) <= 1 and tuple not in kinds:
        return column
    kind = float if kinds == {int, float} else str  # of tuples, too
    return [None if value is None else kind(value) for value in column]


def _to_optuna(sweep: Sweep, target: Path) -> None:
    """Write a study named as the experiment, whose trials have the same numbers and curves."""
    optuna = optuna_library()
    kinds = {name: distribution(dimension) for name, dimension in sweep.dimensions.items()}
    states = optuna.trial.TrialState
    state = {"done": states.COMPLETE, "stopped": states.PRUNED, "asked": states.WAITING,
             "running": states.RUNNING}  # fmt: skip
    spans = spans_of(sweep)
    with fresh(target) as place, quiet():
        # The file is opened by a function, since a URL reads `?` and `%` of a path differently.
        creator = functools.partial(_unsynchronized, place)
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": creator})
        directions = ["maximize" if one.maximize else "minimize" for one in sweep.objectives]
        study = optuna.create_study(storage=storage, study_name=sweep.name, directions=directions)
        study.set_metric_names([one.metric for one in sweep.objectives])
        for trial in sweep.trials:
            score = sweep.scores.get(trial.number)
            values = [sweep.measured(trial.number, one.metric) for one in sweep.objectives]
            now = state.get(trial.status, states.FAIL)
            if now is states.COMPLETE and None in values:
                now = states.FAIL
            about: Row = {"status": trial.status, "group": trial.group}
            if score:
                about["seeds"] = list(score.each)
            if trial.error:
                about["error"] = trial.error[-1000:]
            made = optuna.trial.create_trial(
                state=now,
                values=values if None not in values and now.is_finished() else None,
                params=_texts(trial.values),
                distributions={name: kinds[name] for name in trial.values},
                intermediate_values=sweep.means[trial.number],
                user_attrs=about,
                system_attrs=_violations(sweep, trial.number),
            )
            if ran := spans.get(trial.number):
                # Optuna has times without a zone, which are those of the reader's clock.
                made.datetime_start = datetime.datetime.fromtimestamp(ran[0].begin)
                if made.state.is_finished():
                    made.datetime_complete = datetime.datetime.fromtimestamp(ran[-1].end)
            study.add_trial(made)
        storage.remove_session()
        storage.engine.dispose()


def _violations(sweep: Sweep, number: int) -> Row:
    """Return how far a trial violates each constraint, as Optuna records it; {} if unknown."""
    found = [one.violation(sweep.measured(number, one.metric)) for one in sweep.constraints]
    return {"constraints": found} if found and max(found) < math.inf else {}


def _texts(values: Mapping[str, Any]) -> Row:
    """Return values with tuples as text."""
    return {n: str(v) if isinstance(v, tuple) else v for n, v in values.items()}


def _unsynchronized(file: Path) -> Any:
    """Return a connection to an SQLite file that nobody reads before it is complete."""
    import sqlite3

    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _to_tensorboard(sweep: Sweep, target: Path) -> None:
    """Write a folder per lane, with its curves, its values as hyperparameters, and its score.

    HParams shows the last value of a curve, even for a diverged trial, so the score is written as a
    separate scalar. The lanes of a trial are one group.
    """
    board, hparams, plugin = (
        required(name, "TensorBoard's files are written by", "tensorboardX", "export")
        for name in (
            "tensorboardX",
            "tensorboardX.summary",
            "tensorboardX.proto.plugin_hparams_pb2",
        )
    )

    def changed(summary: Any, info: str, facts: Row) -> Any:
        """Return a summary of the plugin with these facts."""
        inside = summary.value[0].metadata.plugin_data
        found = plugin.HParamsPluginData.FromString(inside.content)
        for name, fact in facts.items():
            setattr(getattr(found, info), name, fact)
        inside.content = found.SerializeToString()
        return summary

    with fresh(target) as place:
        place.mkdir()
        every = {name: v for trial in sweep.trials for name, v in _plain(trial.values).items()}
        with board.SummaryWriter(str(place)) as writer:  # all dimensions, also conditional ones
            shown = dict.fromkeys((SCORE, *_known(sweep)), 0.0)
            writer.file_writer.add_summary(hparams.hparams(every, shown)[0])
        for lane in _lanes(sweep):
            trial = lane.trial
            with board.SummaryWriter(str(place / lane.name)) as writer:
                for epoch, at, numbers in lane.scored:
                    for metric, value in numbers.items():
                        writer.add_scalar(metric, value, epoch, walltime=at)
                _, start, end = hparams.hparams(_plain(trial.values), {})
                group = {"group_name": f"trial-{trial.number:05d}", "start_time_secs": lane.begin}
                status = 1 if trial.status not in BROKEN else 2  # success, failure
                last = {"end_time_secs": lane.end, "status": status}
                for one in (
                    changed(start, "session_start_info", group),
                    changed(end, "session_end_info", last),
                ):
                    writer.file_writer.add_summary(one)


def _plain(values: Mapping[str, Any]) -> Row:
    """Return values as hyperparameters: numbers, bools, and text; others become text."""
    return {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in values.items()}


def _to_mlflow(sweep: Sweep, target: Path) -> None:
    """Write an SQLite storage, which `mlflow server --backend-store-uri sqlite:///FILE` shows."""
    mlflow, entities = (
        required(name, "MLflow's storage is written by", "mlflow-skinny", "export")
        for name in ("mlflow", "mlflow.entities")
    )
    ends = {"done": "FINISHED", "stopped": "KILLED", "running": "RUNNING", "asked": "SCHEDULED"}
    # It is written under a plain name: a URL reads `?` of a path differently.
    with fresh(target) as place, tempfile.TemporaryDirectory() as folder:
        database = Path(folder, "mlflow.db")
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{database}")
        goal = {"metric": sweep.metric, "goal": "maximize" if sweep.maximize else "minimize"}
        goal["mlflow.experimentKind"] = "custom_model_development"  # else its traces are shown
        experiment = client.create_experiment(sweep.name, tags=goal)
        for lane in _lanes(sweep):
            trial = lane.trial
            tags = {"trial": str(trial.number), "seed": str(lane.seed), "status": trial.status}
            run = client.create_run(
                experiment, start_time=int(1000 * lane.begin), tags=tags, run_name=lane.name
            ).info.run_id
            metrics = [
                entities.Metric(metric, float(value), int(1000 * at), epoch)
                for epoch, at, numbers in lane.scored
                for metric, value in numbers.items()
            ]
            params = [entities.Param(n, str(value)) for n, value in trial.values.items()]
            client.log_batch(run, params=params)
            for at in range(0, len(metrics), 1000):  # the most that a request may have
                client.log_batch(run, metrics=metrics[at : at + 1000])
            status = ends.get(trial.status, "FAILED")
            if status not in ("RUNNING", "SCHEDULED"):
                client.set_terminated(run, status, int(1000 * lane.end))
        client._tracking_client.store._dispose_engine()
        shutil.copyfile(database, place)


def _to_wandb(sweep: Sweep, target: Path) -> None:
    """Write an offline run per lane; WANDB_MODE=online uploads them at once."""
    wandb = required("wandb", "Weights & Biases' files are written by", "wandb", "export")
    goal = "maximize" if sweep.maximize else "minimize"
    with fresh(target.absolute()) as place:
        place.mkdir()
        for lane in _lanes(sweep):
            trial, name = lane.trial, lane.name
            run = wandb.init(
                project=sweep.name,
                group=f"trial-{trial.number}",
                name=name,
                dir=str(place),
                config={
                    **trial.values,
                    "seed": lane.seed,
                    "status": trial.status,
                    "metric": {"name": sweep.metric, "goal": goal},
                },
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings=wandb.Settings(silent=True, console="off"),
            )
            run.define_metric("*", step_metric="epoch")
            for epoch, at, numbers in lane.records:
                run.log({"epoch": epoch, **numbers, "_timestamp": at}, step=epoch)
            run.summary.update({"seconds": lane.end - lane.begin} | lane.final)
            run.finish(exit_code=int(trial.status in BROKEN))


KINDS: Mapping[str, Callable[[Sweep, Path], None]] = {
    "csv": functools.partial(_to_tables, "csv", _write_csv),
    "parquet": functools.partial(_to_tables, "parquet", _write_parquet),
    "optuna": _to_optuna,
    "tensorboard": _to_tensorboard,
    "mlflow": _to_mlflow,
    "wandb": _to_wandb,
}


# Lanes and their times


class Span(NamedTuple):
    """The training of a trial in a cohort: the epochs before and after it, and its Unix times."""

    first: int
    last: int
    begin: float
    end: float


def spans_of(sweep: Sweep) -> dict[int, list[Span]]:
    """Return the spans in which each trial trained, by number."""
    found: dict[int, list[Span]] = {}
    for one in sweep.cohorts:
        if one.finished is not None:
            begin = one.finished - max(one.seconds - one.compile_seconds, 0.0)
            for trial in dict.fromkeys(trial for trial, _ in one.lanes):
                span = Span(one.epoch_from, one.epoch_to, begin, one.finished)
                found.setdefault(trial, []).append(span)
    return found


class LaneRecords(NamedTuple):
    """A lane that ran.

    Args:
        trial: Its trial.
        seed: Its seed.
        name: Its name.
        final: Its score, if its trial has one; and metrics of the configuration that trials are
            compared by.
        begin: When it began, as Unix time.
        records: The epoch, the time, and the finite metrics of each record. A cohort records its
            end only; its epochs are assumed to take equally long.
    """

    trial: Trial
    seed: int
    name: str
    final: Row
    begin: float
    records: list[tuple[int, float, Row]]

    @property
    def end(self) -> float:
        """When it ended, as Unix time."""
        return self.records[-1][1]

    @property
    def scored(self) -> list[tuple[int, float, Row]]:
        """The records, the last one with the final metrics."""
        *before, (epoch, at, numbers) = self.records
        return [*before, (epoch, at, numbers | self.final)]


def lane_score(sweep: Sweep, trial: Trial, seed: int) -> float | None:
    """Return the score of a lane; None if its trial has none."""
    score = sweep.scores.get(trial.number)
    seeds = sorted(sweep.curves.get(sweep.metric, {}).get(trial.number, {}))
    return score.each[seeds.index(seed)] if score and len(seeds) == len(score.each) else None


def _known(sweep: Sweep) -> list[str]:
    """Return the metrics that trials are compared and bounded by, and that no lane reports."""
    names = dict.fromkeys(one.metric for one in (*sweep.objectives, *sweep.constraints))
    return [name for name in names if name not in sweep.curves]


def _lanes(sweep: Sweep) -> Iterator[LaneRecords]:
    """Yield each lane that ran."""
    spans, known = spans_of(sweep), _known(sweep)
    for trial in sweep.trials:
        found: dict[int, dict[int, Row]] = {}
        for name, trials in sweep.curves.items():
            for seed, curve in trials.get(trial.number, {}).items():
                records = found.setdefault(seed, {})
                for epoch, value in curve:
                    records.setdefault(epoch, {}).update({} if value is None else {name: value})
        ran = spans.get(trial.number) or [Span(0, 1, time.time(), time.time())]
        for seed, records in sorted(found.items()):
            name = f"trial-{trial.number:05d}-seed-{seed}"
            final = {name: sweep.measured(trial.number, name) for name in known}
            final[SCORE] = lane_score(sweep, trial, seed)
            final = {name: value for name, value in final.items() if value is not None}
            rows = [(epoch, _time_of(ran, epoch), row) for epoch, row in sorted(records.items())]
            yield LaneRecords(trial, seed, name, final, ran[0].begin, rows)


def _time_of(spans: Sequence[Span], epoch: int) -> float:
    """Return when a trial reached an epoch, as Unix time; its beginning if that is unknown."""
    for first, last, begin, end in spans:
        if first <= epoch <= last:
            return begin + (end - begin) * (epoch - first) / (last - first)
    return spans[0].begin
