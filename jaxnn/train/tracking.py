"""Loggers that show a run in other tools: TensorBoard, Weights & Biases, MLflow.

Each writes from a thread, so that a slow server costs no training time. If one fails, a warning
reports it once, and it gets no more records: the JSON lines of the run have all metrics.

A run that is resumed repeats the steps after its last checkpoint, with the same numbers. No logger
holds such a step twice: what can be removed is removed, and what cannot is not sent again.
"""

import contextlib
import dataclasses
import importlib.util
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
from ..files.replacing import replace
from ..installation import missing
from .logging import Log, Record

PATIENCE = 30.0  # seconds that the end of a run waits for a logger

Opened = tuple[Log, Callable[[], Any]]
"""What takes a record, and what closes; both are called in the logger's thread."""


class _Tool:
    """Base of the loggers that write from a thread."""

    module: ClassVar[str]
    """What has to be installed, as it is imported."""
    package: ClassVar[tuple[str, str]]
    """The same for an error: what it writes, and the package."""

    def open(
        self,
        step: int | None = None,
        config: Mapping[str, Any] | None = None,
        history: Sequence[Record] = (),
    ) -> AbstractContextManager[Log]:
        """As `Logger.open`. Raises ImportError if the library is not installed."""
        if importlib.util.find_spec(self.module) is None:
            raise missing(*self.package, "logging")
        told: list[str] = []
        return _in_thread(
            self._title(), lambda: self._connect(step, config or {}, told), history, told
        )

    def _title(self) -> str:
        """What warnings call it."""
        raise NotImplementedError

    def _connect(self, step: int | None, config: Mapping[str, Any], told: list[str]) -> Opened:
        """Connect to the tool, in the thread; texts added to `told` become warnings."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TensorBoard(_Tool):
    """Event files for TensorBoard, by tensorboardX: `tensorboard --logdir FOLDER` shows them.

    A resumed run removes what its files have of later steps, and writes another file there.

    Args:
        folder: the folder of this run alone.
    """

    folder: str | os.PathLike[str]
    module: ClassVar[str] = "tensorboardX"
    package: ClassVar[tuple[str, str]] = "TensorBoard's files are written by", "tensorboardX"

    def _title(self) -> str:
        return f"TensorBoard in {os.fspath(self.folder)}"

    def _connect(self, step: int | None, config: Mapping[str, Any], told: list[str]) -> Opened:
        from tensorboardX import SummaryWriter

        held: set[tuple[str, int]] = set()
        later: dict[str, Any] = {}
        if step is not None:
            held = _remove_events_after(Path(self.folder), step)
            # Files are named by the second they were begun in, and by the suffix. A TensorBoard
            # that is running has read what was removed, and forgets it at purge_step.
            later = {"purge_step": step + 1, "filename_suffix": f".{step}"}
        writer = SummaryWriter(os.fspath(self.folder), **later)
        if config and not step:
            writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```", 0)

        def log(record: Mapping[str, Any]) -> None:
            at = int(record["step"])
            for name, number in _numbers(record).items():
                if (name, at) not in held:
                    writer.add_scalar(name, number, at)
            writer.flush()

        return log, writer.close


@dataclasses.dataclass(frozen=True)
class WandB(_Tool):
    """Weights & Biases: a run of a project, sent as it goes or kept for `wandb sync`.

    Args:
        project: the project of the run.
        run: the run's name and id, which the call that resumes a run has to give again; None (the
            default) for a new one.
        folder: where wandb keeps its files, in a folder `wandb` there; "." by default.
        mode: "online" (the default) or "offline". If the server does not answer when the run
            begins, it is kept offline, under another id.
    """

    project: str
    run: str | None = None
    folder: str | os.PathLike[str] = "."
    mode: Literal["online", "offline"] = "online"
    module: ClassVar[str] = "wandb"
    package: ClassVar[tuple[str, str]] = "Weights & Biases' files are written by", "wandb"

    def _title(self) -> str:
        return f"Weights & Biases of {self.project}"

    def _connect(self, step: int | None, config: Mapping[str, Any], told: list[str]) -> Opened:
        import wandb  # pyright: ignore[reportMissingImports]

        def started(mode: Any, run: str | None) -> Any:
            return wandb.init(
                project=self.project,
                name=self.run,
                id=run,
                resume="allow" if run is not None and mode == "online" else None,
                dir=os.fspath(self.folder),
                config=dict(config),
                mode=mode,
                settings=wandb.Settings(silent=True, console="off", init_timeout=PATIENCE / 2),
            )

        try:
            run = started(self.mode, self.run)
        except Exception as error:
            if self.mode == "offline":
                raise
            told.append(
                f"{self._title()} continues offline, since its server does not answer: "
                f"{_cause(error)}. Write wandb sync {quoted(Path(self.folder, 'wandb'))} when it "
                "does"
            )
            run = started("offline", None)  # the id is still in use
        # Online wandb knows where the run is. What an offline run sent lies in files of another
        # format, so its last step is kept in a file next to them.
        last = Path(self.folder, "wandb", f"{self.run}.last-step")
        keeps = self.run is not None and self.mode == "offline"
        begin = int(getattr(run, "starting_step", 0) or 0)
        if keeps and step and last.exists():
            begin = int(last.read_text()) + 1

        def log(record: Mapping[str, Any]) -> None:
            at = int(record["step"])
            if at < begin:
                return
            run.log(_numbers(record), step=at)
            if keeps:
                last.parent.mkdir(exist_ok=True)
                last.write_text(str(at))

        return log, run.finish


@dataclasses.dataclass(frozen=True)
class MLflow(_Tool):
    """A run of an MLflow experiment, on a server or in a database.

    Args:
        uri: of the server, "http://host:5000", or of a database, "sqlite:///mlflow.db".
        experiment: its name; it is created if it does not exist.
        run: the run's name, which the call that resumes a run has to give again; None (the default)
            for a new one.
    """

    uri: str
    experiment: str
    run: str | None = None
    module: ClassVar[str] = "mlflow"
    package: ClassVar[tuple[str, str]] = "MLflow's runs are written by", "mlflow-skinny"

    def _title(self) -> str:
        return f"MLflow at {self.uri}"

    def _connect(self, step: int | None, config: Mapping[str, Any], told: list[str]) -> Opened:
        from mlflow import MlflowClient  # pyright: ignore
        from mlflow.entities import Metric, Param  # pyright: ignore

        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        place = found.experiment_id if found else client.create_experiment(self.experiment)
        # Before its first checkpoint a run has nothing to resume, and begins again.
        run = self._earlier(client, place) if step else None
        held: set[tuple[str, int]] = set()
        if run is not None:  # MLflow removes nothing
            names = list(client.get_run(run).data.metrics)
            held = {(k, m.step) for k in names for m in client.get_metric_history(run, k)}
        else:
            run = client.create_run(place, run_name=self.run).info.run_id
            params = [Param(name, str(item)[:500]) for name, item in _flat(config)]
            for begin in range(0, len(params), 100):  # as many as a request may have
                client.log_batch(run, params=params[begin : begin + 100])

        def log(record: Mapping[str, Any]) -> None:
            now, at = int(time.time() * 1000), int(record["step"])
            numbers = {k: v for k, v in _numbers(record).items() if (k, at) not in held}
            metrics = [Metric(k, float(v), now, at) for k, v in numbers.items()]
            if metrics:
                client.log_batch(run, metrics=metrics)

        return log, lambda: client.set_terminated(run)

    def _earlier(self, client: Any, experiment: str) -> str | None:
        if self.run is None:
            return None
        asked = "attributes.run_name = '{}'".format(self.run.replace("'", "\\'"))
        runs = client.search_runs([experiment], asked, max_results=1)
        return runs[0].info.run_id if runs else None


def _remove_events_after(folder: Path, step: int) -> set[tuple[str, int]]:
    """Remove the events of later steps from TensorBoard's files, each replaced whole.

    Returns the names and steps of those that stay.
    """
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

    held: set[tuple[str, int]] = set()
    for file in sorted(folder.glob("*tfevents*")):
        kept, removed = [], False
        raw = file.read_bytes()
        place = 0
        while place + 12 <= len(raw):  # length and its checksum, the event and its checksum
            end = place + 16 + int.from_bytes(raw[place : place + 8], "little")
            if end > len(raw):  # torn when the run was killed
                break
            event = Event.FromString(raw[place + 12 : end - 4])
            if event.HasField("summary") and event.step > step:
                removed = True
            else:
                kept.append(raw[place:end])
                held |= {(value.tag, event.step) for value in event.summary.value}
            place = end
        if removed or place < len(raw):
            replace(file, b"".join(kept))
    return held


@contextlib.contextmanager
def _in_thread(
    name: str, connect: Callable[[], Opened], history: Sequence[Record], told: list[str]
) -> Iterator[Log]:
    """A function that hands records to a thread, which takes those of `history` first.

    Args:
        name: what warnings call the logger.
        connect: called in the thread.
        history: the records before; the logger skips those that it has.
        told: texts of warnings, which are given when the next record comes.
    """
    waiting: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    failed = threading.Event()

    def work() -> None:
        try:
            log, close = connect()
            for record in history:
                log(record)
            while (record := waiting.get()) is not None:
                log(record)
            close()
        except Exception as error:
            failed.set()
            told.append(
                f"{name} gets no more records: {_cause(error)}. The run continues, and its JSON "
                "lines have all metrics"
            )

    def tell() -> None:
        while told:
            warnings.warn(told.pop(0), stacklevel=3)

    def log(record: Mapping[str, Any]) -> None:
        tell()
        if not failed.is_set():
            waiting.put(dict(record))

    thread = threading.Thread(target=work, name=f"jaxnn-log {name}", daemon=True)
    thread.start()
    try:
        yield log
    finally:
        waiting.put(None)
        thread.join(PATIENCE)
        if thread.is_alive():
            told.append(
                f"{name} lacks records: it did not take the last ones in {PATIENCE:g} s. The JSON "
                "lines have all metrics"
            )
        tell()


def _cause(error: Exception) -> str:
    """What went wrong, on one line of a readable length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, without its step, which they are shown by."""
    return {
        name: item
        for name, item in record.items()
        if name != "step" and isinstance(item, int | float) and not isinstance(item, bool)
    }


def _flat(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration as rows of dotted paths."""
    if not isinstance(config, Mapping):
        yield path, config
        return
    for name, item in config.items():
        yield from _flat(item, f"{path}.{name}" if path else str(name))
