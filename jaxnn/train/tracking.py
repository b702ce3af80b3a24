"""Loggers that show a run in other tools: TensorBoard, Weights & Biases, MLflow.

Each writes from a thread, so that a slow server costs no training time. If one fails, its function
of records raises the error at each call, which `train.Log` reports once.

A run that is resumed repeats the steps after its last checkpoint, with the same numbers. No logger
holds such a step twice: what can be removed is removed, and what cannot is not sent again.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..files.plain import quoted
from ..installation import missing
from .logging import Config, Log, Numbers

PATIENCE = 30.0  # seconds that the end of a run waits for a logger

Opened = tuple[Log, Callable[[], Any]]
"""What takes a record, and what closes; both are called in the logger's thread."""


class _Tracker:
    """Base of the loggers that write from a thread."""

    library: ClassVar[tuple[str, str, str]]
    """The module to import, what it writes, and the package to install."""
    _connect: Any
    """Connects to the tool, in the thread, given the step and the configuration of a run."""

    def open(
        self, step: int | None = None, config: Config = None, history: Sequence[Numbers] = ()
    ) -> AbstractContextManager[Log]:
        """As `Logger.open`. Raises ImportError if the library is not installed."""
        module, what, package = self.library
        if importlib.util.find_spec(module) is None:
            raise missing(f"{what} are written by", package, "logging")
        return in_thread(functools.partial(self._connect, step, config or {}), history)


@dataclasses.dataclass(frozen=True)
class TensorBoard(_Tracker):
    """Event files for TensorBoard, by tensorboardX; view with `tensorboard --logdir FOLDER`.

    A resumed run deletes the files that it wrote before, and writes its history again.

    Args:
        folder: The folder for the event files of this run. Other runs must not use it.
    """

    folder: str | os.PathLike[str]
    library: ClassVar[tuple[str, str, str]] = (
        "tensorboardX",
        "TensorBoard's files",
        "tensorboardX",
    )

    def _connect(self, step: int | None, config: Mapping[str, Any]) -> Opened:
        from tensorboardX import SummaryWriter

        for file in Path(self.folder).glob("*tfevents*.jaxnn") if step is not None else ():
            file.unlink()
        # A TensorBoard that is running has read the files, and forgets them at purge_step. Files
        # are named by the second they were begun in, and by the suffix.
        writer = SummaryWriter(
            os.fspath(self.folder),
            purge_step=None if step is None else 0,
            filename_suffix=f".{step or 0}.jaxnn",
        )
        if config:
            writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```", 0)

        def log(record: Mapping[str, Any]) -> None:
            for name, number in _numbers(record).items():
                writer.add_scalar(name, number, int(record["step"]))
            writer.flush()

        return log, writer.close


@dataclasses.dataclass(frozen=True)
class WandB(_Tracker):
    """A run of a Weights & Biases project, sent during the run or stored for `wandb sync`.

    Args:
        project: The project of the run.
        run: Name and id of the run. Pass the same name to resume a run. Default: None, a new name.
        folder: Folder in which wandb creates its folder `wandb`. Default: ".".
        mode: "online" or "offline". If the server does not answer when the run begins, the run is
            stored offline under another id. Default: "online".
    """

    project: str
    run: str | None = None
    folder: str | os.PathLike[str] = "."
    mode: Literal["online", "offline"] = "online"
    library: ClassVar[tuple[str, str, str]] = ("wandb", "Weights & Biases' files", "wandb")

    def _connect(self, step: int | None, config: Mapping[str, Any]) -> Opened:
        import wandb  # pyright: ignore[reportMissingImports]

        begin = functools.partial(
            wandb.init,
            project=self.project,
            name=self.run,
            dir=os.fspath(self.folder),
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", init_timeout=PATIENCE / 2),
        )
        offline = self.mode == "offline"
        try:
            resume = None if self.run is None or offline else "allow"
            run = begin(id=self.run, resume=resume, mode=self.mode)
        except Exception as error:
            if offline:
                raise
            warnings.warn(
                f"Weights & Biases of {self.project} continues offline, since its server does not "
                f"answer: {type(error).__name__}: {error!s:.300}. Write wandb sync "
                f"{quoted(Path(self.folder, 'wandb'))} when it does",
                stacklevel=2,
            )
            run = begin(mode="offline")  # the id is still in use
        # Online wandb knows where the run is. What an offline run sent is in files of another
        # format, so its last step is kept in a file next to them.
        last = Path(self.folder, "wandb", f"{self.run}.last-step")
        keeps = self.run is not None and offline
        first = int(getattr(run, "starting_step", 0) or 0)
        if keeps and step and last.exists():
            first = int(last.read_text()) + 1

        def log(record: Mapping[str, Any]) -> None:
            at = int(record["step"])
            if at < first:
                return
            run.log(_numbers(record), step=at)
            if keeps:
                last.parent.mkdir(exist_ok=True)
                last.write_text(str(at))

        return log, run.finish


@dataclasses.dataclass(frozen=True)
class MLflow(_Tracker):
    """A run of an MLflow experiment, on a server or in a database.

    Args:
        uri: Address of a server, "http://host:5000", or of a database, "sqlite:///mlflow.db".
        experiment: Name of the experiment, which is created if it does not exist.
        run: Name of the run. Pass the same name to resume a run. Default: None, a new name.
    """

    uri: str
    experiment: str
    run: str | None = None
    library: ClassVar[tuple[str, str, str]] = ("mlflow", "MLflow's runs", "mlflow-skinny")

    def _connect(self, step: int | None, config: Mapping[str, Any]) -> Opened:
        from mlflow import MlflowClient  # pyright: ignore
        from mlflow.entities import Metric, Param  # pyright: ignore

        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        place = found.experiment_id if found else client.create_experiment(self.experiment)
        run, held = None, set[tuple[str, int]]()
        if step and self.run is not None:  # before its first checkpoint a run begins again
            named = "attributes.run_name = '{}'".format(self.run.replace("'", "\\'"))
            run = next(
                (r.info.run_id for r in client.search_runs([place], named, max_results=1)), None
            )
        if run is not None:  # MLflow removes nothing
            names = list(client.get_run(run).data.metrics)
            held = {(k, m.step) for k in names for m in client.get_metric_history(run, k)}
        else:
            run = client.create_run(place, run_name=self.run).info.run_id
            params = [Param(name, str(item)[:500]) for name, item in _flat(config)]
            for begin in range(0, len(params), 100):  # the most that a request may have
                client.log_batch(run, params=params[begin : begin + 100])

        def log(record: Mapping[str, Any]) -> None:
            now, at = int(time.time() * 1000), int(record["step"])
            numbers = {k: v for k, v in _numbers(record).items() if (k, at) not in held}
            metrics = [Metric(k, float(v), now, at) for k, v in numbers.items()]
            if metrics:
                client.log_batch(run, metrics=metrics)

        return log, lambda: client.set_terminated(run)


@contextlib.contextmanager
def in_thread(connect: Callable[[], Opened], history: Sequence[Numbers]) -> Iterator[Log]:
    """Return a function that hands records to a thread, which takes those of `history` first.

    Args:
        connect: Called in the thread.
        history: The records before; the logger skips those that it has.
    """
    waiting: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    errors: list[Exception] = []

    def work() -> None:
        try:
            log, close = connect()
            for record in itertools.chain(history, iter(waiting.get, None)):
                log(record)
            close()
        except Exception as error:
            errors.append(error)

    def log(record: Mapping[str, Any]) -> None:
        for error in errors:
            raise error
        waiting.put(dict(record))

    thread = threading.Thread(target=work, name="jaxnn-log", daemon=True)
    thread.start()
    try:
        yield log
    finally:
        waiting.put(None)
        thread.join(PATIENCE)
        if thread.is_alive():
            errors.append(TimeoutError(f"it did not take the last records in {PATIENCE:g} s"))
        for error in errors:
            raise error


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, without its step, which they are shown by."""
    return {
        name: item
        for name, item in record.items()
        if name != "step" and isinstance(item, int | float) and not isinstance(item, bool)
    }


def _flat(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested configuration with their dotted paths."""
    if not isinstance(config, Mapping):
        yield path, config
        return
    for name, item in config.items():
        yield from _flat(item, f"{path}.{name}" if path else str(name))
