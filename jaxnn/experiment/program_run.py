"""One run of an `Experiment`: train its program, and write the run folder.

runs/dqn-20260131-142530/
    config.json             the resolved configuration, and of which code and data
    metrics.jsonl           a line per record, the same each time the run is made
    checkpoints/            the state of the program: what an unfinished run continues from, and
                            the final state of a finished one
    result.json             the last record, seconds, versions, device
    report.html             curves of all records on one page

A run with a result is finished. `predict` restores the final state, if the program has predictions.
"""

import contextlib
import dataclasses
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from .. import train
from ..files.plain import quoted
from ..files.reading import FileError
from ..files.replacing import replace
from ..train.event import Event
from ..train.logging import finite_or_text, logged
from . import configuration, sources
from .experiment import Configured, Experiment, configured
from .folder import begin_folder, check_place, finish_folder
from .prediction import load_config, read_table
from .report import report
from .run import (
    CHECKPOINTS,
    ROOM,
    SCHEMA,
    Watching,
    attempted,
    check_sources,
    has_checkpoints,
    is_unfinished,
    json_bytes,
    loggers_of,
    scores_text,
    versions,
)

SHOWN = 10  # predictions that are printed


def run_program(
    experiment: Experiment[Any],
    config: Any,
    folder: Path,
    watching: Watching,
    force: bool = False,
) -> dict[str, float]:
    """Train one configuration, and fill `folder`; returns the last record.

    A folder with an unfinished run of this configuration continues from its newest checkpoint.

    Args:
        experiment: the experiment.
        config: its configuration.
        folder: where the run is written; it does not exist yet, or holds this run, unfinished.
        watching: how the run is kept and watched. `patience` counts records of the metric that
            the experiment states, or else of the validation loss.
        force: resume even if the experiment's code or data changed since the run began.

    Raises:
        FileExistsError: the folder holds another run, or one that is finished.
        OSError: it cannot be written.
        ValueError: a configuration that cannot be trained, or a run that diverged.
        train.Interrupted: a signal asked the run to stop; it can be resumed.
    """
    run = configured(experiment, config)
    about = {
        "schema": SCHEMA,
        "experiment": experiment.name,
        "config": configuration.to_plain(config),
        "watching": configuration.to_plain(watching),
        "sources": {"modules": sources.modules(experiment), "data": run.data.checksums()},
    }
    resumes = is_unfinished(folder, about)
    if resumes:
        check_sources(folder, about, force)
    else:
        check_place(folder, ROOM)
        begin_folder(folder, {"config.json": json_bytes(about)})
    # A program's records have no times, so `timings.jsonl` would only repeat their steps.
    metrics, _, *others = loggers_of(dict, folder, experiment.name, watching, about)
    hooks = [_Logged((metrics, *others), about), _checkpoints(folder, watching, force)]
    if watching.patience is not None:
        metric = experiment.maximize or experiment.minimize or "validation_loss"
        larger = True if experiment.maximize else None if not experiment.minimize else False
        hooks.insert(0, train.EarlyStopping(metric, watching.patience, maximize=larger))
    began = time.perf_counter()
    try:
        _, history = run.fit(hooks=hooks)
    except BaseException:
        if not resumes and not has_checkpoints(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    seconds = time.perf_counter() - began
    last = history[-1]
    result = {
        "experiment": experiment.name,
        "record": {name: finite_or_text(number) for name, number in last.items()},
        "training_seconds": round(seconds, 2),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    finish_folder(folder, {"result.json": json_bytes(result)}, last="result.json")
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        print(f"\n{experiment.name}: {scores_text(last)}")
    with attempted("report.html", folder):
        page = report(
            folder.name,
            [{"epoch": place, **record} for place, record in enumerate(history, 1)],
            config=about["config"],
            environment={"device": result["device"], "system": platform.platform(), **versions()},
            remarks=["The run was stopped once at least, and resumed."] if resumes else [],
        )
        replace(folder / "report.html", page.encode())
    return last


def restored(experiment: Experiment[Any], folder: Path) -> tuple[Configured, Any]:
    """The configuration of a finished run and the final state of its program.

    Raises ValueError or OSError for a folder that holds no such run.
    """
    run = configured(experiment, load_config(experiment, folder))
    if not (folder / "result.json").exists():
        raise ValueError(
            f"{folder} is a run that is not finished: write resume {quoted(folder)} first"
        )
    if not has_checkpoints(folder):
        raise FileError(f"{folder} has no checkpoint; restore {CHECKPOINTS} from a copy")
    state, _ = run.fit(hooks=[_checkpoints(folder, Watching(), force=False)], progress=False)
    return run, state


def predict_program(experiment: Experiment[Any], folder: Path, file: Path | None) -> None:
    """Print the predictions of a finished run for the rows of a file.

    Raises ValueError or OSError for a folder or file that does not fit, and for a program without
    predictions.
    """
    if file is None:
        raise ValueError(
            f"predictions need inputs; write predict {quoted(folder)} --input inputs.npy"
        )
    run, state = restored(experiment, folder)
    inputs = read_table(file)
    try:
        predictions = train.predict(run.program, state, inputs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    rows = np.asarray(jax.tree.leaves(predictions)[0])
    for row, numbers in enumerate(rows[:SHOWN]):
        print(row, np.array2string(np.asarray(numbers), precision=4))
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN:,} more")


def _checkpoints(folder: Path, watching: Watching, force: bool) -> train.Checkpoints:
    every = watching.checkpoint
    return train.Checkpoints(
        str(folder / CHECKPOINTS),
        train.Every(steps=every.steps, epochs=every.epochs, minutes=every.minutes),
        keep=every.keep,
        force=force,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Logged(train.Hook):
    """Write each record to loggers."""

    loggers: tuple[Any, ...]
    config: Any
    log: Any = None

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Self]:
        with logged(self.loggers, run.step, self.config) as log:
            yield dataclasses.replace(self, log=log)

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        if event.is_record:
            self.log(dict(event.metrics))
        return memory, None
