"""A sweep in the form that other tools read.

    csv, parquet   a row per trial; and next to it, in NAME-results, a row per result
    optuna         an SQLite storage with one study, which Optuna and its dashboard open
    tensorboard    a folder with a run per lane (a trial with one seed)
    wandb          a folder with an offline run per lane, which `wandb sync` uploads

Nothing is overwritten, and an export appears completely under its name or not at all.
"""

import csv
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files.writing import fresh
from ..installation import required
from ..validation import one_of
from .ledger import Ledger
from .samplers import distribution, optuna_library, quiet
from .snapshot import Sweep, read
from .tables import Trial

Row = dict[str, Any]


def export_sweep(ledger: Ledger | Sweep, kind: str, target: Path | str) -> Path:
    """Write a sweep for another tool, and return its path.

    Args:
        ledger: of the sweep, or the sweep that `reading.read` returned.
        kind: "csv", "parquet", "optuna", "tensorboard", or "wandb".
        target: the file to write, or for the last two the folder.

    Raises:
        ValueError: the kind is unknown.
        FileExistsError: the target exists already.
        ImportError: a package that writes the kind is not installed.
    """
    one_of(*KINDS)(kind, "export.kind")
    sweep = ledger if isinstance(ledger, Sweep) else read(ledger)
    KINDS[kind](sweep, Path(target))
    return Path(target)


def trial_rows(sweep: Sweep) -> list[Row]:
    """Return a row per trial: its status, score, and values; None for what it does not have.

    `metric` is the mean over seeds after the last epoch, and `metric[seed]` that of a seed.
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
    with fresh(target) as place, quiet():
        # The file is opened by a function, since a URL reads `?` and `%` of a path differently.
        creator = functools.partial(_unsynchronized, place)
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": creator})
        direction = "maximize" if sweep.maximize else "minimize"
        study = optuna.create_study(storage=storage, study_name=sweep.name, direction=direction)
        study.set_metric_names([sweep.metric])
        for trial in sweep.trials:
            score = sweep.scores.get(trial.number)
            now = state.get(trial.status, states.FAIL)
            if now is states.COMPLETE and score is None:
                now = states.FAIL
            about: Row = {"status": trial.status, "group": trial.group}
            if score:
                about["seeds"] = list(score.each)
            if trial.error:
                about["error"] = trial.error[-1000:]
            study.add_trial(
                optuna.trial.create_trial(
                    state=now,
                    value=score.mean if score and now.is_finished() else None,
                    params=_texts(trial.values, ()),
                    distributions={name: kinds[name] for name in trial.values},
                    intermediate_values=sweep.means(trial.number),
                    user_attrs=about,
                )
            )
        storage.remove_session()
        storage.engine.dispose()


def _texts(values: Mapping[str, Any], kinds: Any) -> Row:
    """Return values with tuples, and what else is of these types, as text."""
    return {n: str(v) if isinstance(v, (tuple, *kinds)) else v for n, v in values.items()}


def _unsynchronized(file: Path) -> Any:
    """Return a connection to an SQLite file that nobody reads before it is complete."""
    import sqlite3

    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _to_tensorboard(sweep: Sweep, target: Path) -> None:
    """Write a folder per lane, with its curves and its values as hyperparameters."""
    board, hparams = (
        required(name, "TensorBoard's files are written by", "tensorboardX", "export")
        for name in ("tensorboardX", "tensorboardX.summary")
    )
    with fresh(target) as place:
        place.mkdir()
        for trial, name, _, records in _lanes(sweep):
            with board.SummaryWriter(str(place / name)) as writer:
                for epoch, numbers in records.items():
                    for metric, value in numbers.items():
                        writer.add_scalar(metric, value, epoch)
                values = _texts(trial.values, [type(None)])
                last = list(records.values())[-1].get(sweep.metric)
                broken = last is None or trial.number not in sweep.scores
                for one in hparams.hparams(values, {} if broken else {sweep.metric: last}):
                    writer.file_writer.add_summary(one)


def _to_wandb(sweep: Sweep, target: Path) -> None:
    """Write an offline run per lane; WANDB_MODE=online uploads them at once."""
    wandb = required("wandb", "Weights & Biases' files are written by", "wandb", "export")
    goal = "maximize" if sweep.maximize else "minimize"
    with fresh(target.absolute()) as place:
        place.mkdir()
        for trial, name, seed, records in _lanes(sweep):
            run = wandb.init(
                project=sweep.name,
                group=f"trial-{trial.number}",
                name=name,
                dir=str(place),
                config={
                    **trial.values,
                    "seed": seed,
                    "status": trial.status,
                    "metric": {"name": sweep.metric, "goal": goal},
                },
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings=wandb.Settings(silent=True, console="off"),
            )
            for epoch, numbers in records.items():
                run.log({"epoch": epoch, **numbers}, step=epoch)
            run.finish(exit_code=int(trial.status == "failed"))


KINDS: Mapping[str, Callable[[Sweep, Path], None]] = {
    "csv": functools.partial(_to_tables, "csv", _write_csv),
    "parquet": functools.partial(_to_tables, "parquet", _write_parquet),
    "optuna": _to_optuna,
    "tensorboard": _to_tensorboard,
    "wandb": _to_wandb,
}


def _lanes(sweep: Sweep) -> Iterator[tuple[Trial, str, int, dict[int, Row]]]:
    """Yield each lane that ran: its trial, name, seed, and finite metrics by epoch."""
    for trial in sweep.trials:
        found: dict[int, dict[int, Row]] = {}
        for name, trials in sweep.curves.items():
            for seed, curve in trials.get(trial.number, {}).items():
                records = found.setdefault(seed, {})
                for epoch, value in curve:
                    records.setdefault(epoch, {}).update({} if value is None else {name: value})
        for seed, records in sorted(found.items()):
            name = f"trial-{trial.number:05d}-seed-{seed}"
            yield trial, name, seed, dict(sorted(records.items()))
