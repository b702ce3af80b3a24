"""A sweep in the form that other tools read.

    csv, parquet   a row a trial; and next to it, in NAME-results, a row a number reported
    optuna         an SQLite storage with one study, which Optuna and its dashboard open
    tensorboard    a folder with a run a lane (a trial with one seed)
    wandb          a folder with an offline run a lane, which `wandb sync` sends

Nothing is ever written over, and what is written appears whole under its name, or not at all.
"""

import contextlib
import csv
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..explain.text import suggestion
from ..files.replacing import fresh
from ..installation import missing
from ..train.directions import Direction
from .ledger import Ledger
from .reading import Sweep, read
from .search import distribution, optuna_library, quiet
from .tables import Trial

Row = dict[str, Any]


def export(ledger: Ledger | Sweep, kind: str, target: Path | str) -> Path:
    """Write a sweep for another tool, and return where it is.

    Args:
        ledger: of the sweep, or what `reading.read` made of it.
        kind: "csv", "parquet", "optuna", "tensorboard" or "wandb".
        target: the file, or for the last two the folder, that it becomes.

    Raises:
        ValueError: there is no such kind.
        FileExistsError: there is something of that name already.
        ImportError: what writes the kind is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no export {kind!r}; {suggestion(kind, KINDS)}")
    sweep = ledger if isinstance(ledger, Sweep) else read(ledger)
    target = Path(target)
    KINDS[kind](sweep, target)
    return target


def trial_rows(sweep: Sweep) -> list[Row]:
    """A row a trial: what became of it, its score, and its values; None for what it has not.

    `metric` is the mean over seeds after the last epoch, and `metric[seed]` what it is the mean of.
    """
    rows = []
    for trial in sweep.trials:
        score = sweep.scores.get(trial.number)
        seeds = sorted(sweep.curves.get(sweep.metric, {}).get(trial.number, {})) if score else []
        each = dict(zip(seeds, score.each, strict=True)) if score else {}
        rows.append({
            "trial": trial.number,
            "status": trial.status,
            "round": trial.round,
            "bracket": trial.bracket,
            "rung": trial.rung,
            "group": trial.group,
            "epochs": score.epoch if score else None,
            sweep.metric: score.mean if score else None,
            **{f"{sweep.metric}[{seed}]": each.get(seed) for seed in lanes_of(sweep)},
            **{name: trial.values.get(name) for name in sweep.dimensions},
            "error": trial.error,
        })  # fmt: skip
    return rows


def result_rows(sweep: Sweep) -> list[Row]:
    """A row a number reported; None for one that was not finite."""
    return [
        {"trial": trial, "seed": seed, "epoch": epoch, "name": name, "value": value}
        for name, trials in sweep.curves.items()
        for trial, seeds in trials.items()
        for seed, curve in seeds.items()
        for epoch, value in curve
    ]


def lanes_of(sweep: Sweep) -> list[int]:
    """The seeds that trials ran with."""
    trials = sweep.curves.get(sweep.metric, {}).values()
    return sorted({seed for seeds in trials for seed in seeds})


def to_csv(sweep: Sweep, target: Path) -> None:
    """Two files of text: trials, and results."""
    with both(target, "csv") as places:
        for place, rows in zip(places, (trial_rows(sweep), result_rows(sweep)), strict=True):
            with open(place, "x", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]) if rows else ["trial"])
                writer.writeheader()
                writer.writerows(rows)


def to_parquet(sweep: Sweep, target: Path) -> None:
    """Two files of columns: trials, and results."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing("Parquet is written by", "pyarrow", "export") from error
    with both(target, "parquet") as places:
        for place, rows in zip(places, (trial_rows(sweep), result_rows(sweep)), strict=True):
            names = list(rows[0]) if rows else ["trial"]
            columns = {name: uniform([row[name] for row in rows]) for name in names}
            with open(place, "xb") as file:
                pyarrow.parquet.write_table(pyarrow.table(columns), file)


def uniform(column: list[Any]) -> list[Any]:
    """A column of one type: as it is, or as text where options are of several.

    >>> uniform([1, 2.5, None]), uniform([1, "all"])
    ([1.0, 2.5, None], ['1', 'all'])
    """
    kinds = {type(value) for value in column if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in column]
    return column if len(kinds) <= 1 else [None if v is None else str(v) for v in column]


def to_optuna(sweep: Sweep, target: Path) -> None:
    """A study named as the experiment, its trials with the same numbers and curves."""
    optuna = optuna_library()
    kinds = {name: distribution(dimension) for name, dimension in sweep.dimensions.items()}
    states = optuna.trial.TrialState
    state = {"done": states.COMPLETE, "stopped": states.PRUNED, "asked": states.WAITING,
             "running": states.RUNNING}  # fmt: skip
    with fresh(target) as place, quiet():
        # Nobody else sees the file before it is whole, so it need not reach the disk row by row.
        # The file is opened here, since a URL reads `?` and `%` of a path as something else.
        storage = optuna.storages.RDBStorage(
            "sqlite://", engine_kwargs={"creator": functools.partial(unsynchronized, place)}
        )
        study = optuna.create_study(storage=storage, study_name=sweep.name, direction=goal(sweep))
        study.set_metric_names([sweep.metric])
        for trial in sweep.trials:
            score = sweep.scores.get(trial.number)
            now = state.get(trial.status, states.FAIL)
            if now is states.COMPLETE and score is None:
                now = states.FAIL
            study.add_trial(
                optuna.trial.create_trial(
                    state=now,
                    value=score.mean if score and now.is_finished() else None,
                    params=dict(trial.values),
                    distributions={name: kinds[name] for name in trial.values},
                    intermediate_values=sweep.means(trial.number),
                    user_attrs={"status": trial.status, "group": trial.group}
                    | ({"seeds": list(score.each)} if score else {})
                    | ({"error": trial.error[-1000:]} if trial.error else {}),
                )
            )
        storage.remove_session()
        storage.engine.dispose()


def to_tensorboard(sweep: Sweep, target: Path) -> None:
    """A folder a lane, with its curves and its values as hyperparameters."""
    try:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams
    except ImportError as error:
        raise missing("TensorBoard's files are written by", "tensorboardX", "export") from error
    with fresh(target) as place:
        place.mkdir()
        for trial, seed, records in runs(sweep):
            with SummaryWriter(str(place / run_name(trial, seed))) as writer:
                for epoch, numbers in records.items():
                    for name, value in numbers.items():
                        writer.add_scalar(name, value, epoch)
                values = {n: "None" if v is None else v for n, v in trial.values.items()}
                last = list(records.values())[-1].get(sweep.metric)
                broken = last is None or trial.number not in sweep.scores
                for summary in hparams(values, {} if broken else {sweep.metric: last}):
                    if writer.file_writer is not None:
                        writer.file_writer.add_summary(summary)


def to_wandb(sweep: Sweep, target: Path) -> None:
    """An offline run a lane, some seconds each; WANDB_MODE=online in the environment sends them."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise missing("Weights & Biases' files are written by", "wandb", "export") from error
    target = target.absolute()
    with fresh(target) as place:
        place.mkdir()
        for trial, seed, records in runs(sweep):
            run = wandb.init(
                project=sweep.name,
                group=f"trial-{trial.number}",
                name=run_name(trial, seed),
                dir=str(place),
                config={
                    **trial.values,
                    "seed": seed,
                    "status": trial.status,
                    "metric": {"name": sweep.metric, "goal": goal(sweep)},
                },
                mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
                settings=wandb.Settings(silent=True, console="off"),
            )
            for epoch, numbers in records.items():
                run.log({"epoch": epoch, **numbers}, step=epoch)
            run.finish(exit_code=int(trial.status == "failed"))


KINDS: Mapping[str, Callable[[Sweep, Path], None]] = {
    "csv": to_csv,
    "parquet": to_parquet,
    "optuna": to_optuna,
    "tensorboard": to_tensorboard,
    "wandb": to_wandb,
}


def runs(sweep: Sweep) -> Iterator[tuple[Trial, int, dict[int, Row]]]:
    """Each lane that ran: its trial, its seed, and its finite metrics by epoch."""
    for trial in sweep.trials:
        found: dict[int, dict[int, Row]] = {}
        for name, trials in sweep.curves.items():
            for seed, curve in trials.get(trial.number, {}).items():
                records = found.setdefault(seed, {})
                for epoch, value in curve:
                    records.setdefault(epoch, {}).update({} if value is None else {name: value})
        for seed in sorted(found):
            yield trial, seed, dict(sorted(found[seed].items()))


def goal(sweep: Sweep) -> Direction:
    """The direction of the metric, in the words of Optuna and of Weights & Biases."""
    return "maximize" if sweep.maximize else "minimize"


def run_name(trial: Trial, seed: int) -> str:
    """What a lane's run is called."""
    return f"trial-{trial.number:05d}-seed-{seed}"


def unsynchronized(file: Path) -> Any:
    """A connection to an SQLite file that leaves it to the system when to write to the disk."""
    import sqlite3

    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


@contextlib.contextmanager
def both(target: Path, ending: str) -> Iterator[tuple[Path, Path]]:
    """Where to write trials, and results: `target`, and a file next to it that ends in -results."""
    beside = target.with_name(f"{target.stem}-results{target.suffix or '.' + ending}")
    with fresh(beside) as results, fresh(target) as trials:
        yield trials, results
