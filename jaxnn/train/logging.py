"""Where a run's metrics go: a file of JSON lines, TensorBoard, Weights & Biases, and MLflow.

A logger is a value that opens into a function of records:

    with JsonLines("run/metrics.jsonl").open() as log:
        log({"epoch": 1, "step": 27, "loss": 0.52})

`JsonLines` never drops a record: it raises an error if it cannot write one. Any object with the
same method `open` is a logger.

The other loggers write from a thread, so that a slow server does not slow down the training. If one
fails, its function of records raises the error at each call, which `train.Log` reports once. A run
that is resumed repeats the steps after its last checkpoint, with the same numbers. No logger stores
such a step twice: its first record is removed if possible; otherwise, it is not sent again.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from ..files import explain_errors, replace_file
from ..files.reading import MEGABYTE, FileError, parse_json, quoted, read_bytes
from ..installation import missing

Numbers: TypeAlias = dict[str, Any]
Config: TypeAlias = Mapping[str, Any] | None
Names: TypeAlias = tuple[str, str, str]
Log: TypeAlias = Callable[[Mapping[str, Any]], None]

LARGEST = 512 * MEGABYTE  # bytes of a file of metrics
UNFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Logger(Protocol):
    """A destination for the records of a run."""

    def open(
        self, step: int | None, config: Config, history: Sequence[Numbers]
    ) -> AbstractContextManager[Log]:
        """Return a context manager of a function that takes each record, a dict with its `step`.

        Args:
            step: The step at which a run is resumed; records of later steps are removed. None for a
                new run.
            config: The configuration of the run as plain data, or None.
            history: The records up to `step`. The logger writes those that it does not have.
        """
        ...


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A file with one line of JSON per record. The same records give the same bytes.

    Numbers that are not finite are written as the strings "nan", "inf", and "-inf". A process that
    is killed leaves at most one incomplete line at the end, which is removed when the run is
    resumed.

    Args:
        file: The path of the file, in an existing folder.
    """

    file: str | os.PathLike[str]

    @contextlib.contextmanager
    def open(
        self, step: int | None = None, config: Config = None, history: Sequence[Numbers] = ()
    ) -> Iterator[Log]:
        """Return the function that appends a record; with `step`, later records are removed first.

        Args:
            step: The step at which a run is resumed. Default: None, a new run.
            config: Ignored.
            history: The records up to `step`. If there are any, the file then contains exactly
                these; missing lines are written again. Default: ().

        Raises:
            FileExistsError: The file already contains lines, and `step` is not given.
            ValueError: The file has a line that is not a record of a run, or one that is not in
                `history`.
            OSError: The file cannot be written, or the disk is full; earlier lines stay complete.
        """
        file = Path(self.file)
        rest = "The lines before are complete: make room there, or write to another file"
        explain = functools.partial(explain_errors, f"write metrics to {file}", rest)
        with explain():
            if step is not None:
                _resume(file, step, history)
            elif file.exists() and file.stat().st_size:
                raise FileExistsError("it has the lines of another run, which are never mixed")
            opened = open(file, "ab", buffering=0, opener=_opener)  # noqa: SIM115, closed below
        with opened:

            def log(record: Mapping[str, Any]) -> None:
                line, size = _line(record), opened.tell()
                with explain():
                    if opened.write(line) != len(line):
                        opened.truncate(size)
                        raise OSError("the disk is full")

            yield log
            with explain():
                os.fsync(opened.fileno())  # a full disk may be noticed only now

    def records(self) -> list[Numbers]:
        """Return the records in the file, in order, without an incomplete line at the end."""
        return [_record(line, self.file) for line in _lines(self.file)]


def _resume(file: Path, step: int, history: Sequence[Numbers]) -> None:
    """Write the file again if it is not the lines until a step, which are those of `history`."""
    if not file.exists() and not history:
        return
    lines = _lines(file) if file.exists() else []
    kept, known = [], {record["step"]: record for record in history}
    for line in lines:
        record = _record(line, file)
        if record["step"] > step:
            break
        if history and not _items(record) <= _items(known.get(record["step"], {})):
            raise FileError(
                f"{file} has a record of step {record['step']:,} that is not in the history of "
                f"the resumed run: {line[:80]!r}; write metrics to another file"
            )
        kept.append(line + b"\n")
    contents = b"".join([_line(record) for record in history] or kept)
    if not file.exists() or contents != file.read_bytes():
        replace_file(file, contents)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps({name: _plain(item) for name, item in record.items()}).encode() + b"\n"


def _items(record: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the items of a record, of which NaN equals itself."""
    return {(name, repr(_plain(item))) for name, item in record.items()}


def _plain(item: Any) -> Any:
    return item if isinstance(item, bool | int | str | None) else finite_or_text(item)


def finite_or_text(number: Any) -> float | str:
    """Return a number as it is in JSON: "nan", "inf", or "-inf" if it is not finite."""
    number = float(number)
    return number if math.isfinite(number) else str(number)


def _opener(file: str, flags: int) -> int:
    """Open a file to append to; without O_NONBLOCK a fifo would wait for a reader."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def _lines(file: str | os.PathLike[str]) -> list[bytes]:
    """Return the complete lines of a file, without their ends."""
    return read_bytes(file, LARGEST).split(b"\n")[:-1]


def _record(line: bytes, file: str | os.PathLike[str]) -> Numbers:
    try:
        record = parse_json(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int | float):
        raise FileError(
            f"{os.fspath(file)} has a line that is not a record of a run: {line[:80]!r}; expected "
            'an object with a "step". Remove the line, or write metrics to another file'
        )
    return {
        name: UNFINITE.get(item, item) if isinstance(item, str) else item
        for name, item in record.items()
    }


PATIENCE = 30.0  # seconds that the end of a run waits for a logger

Opened = tuple[Log, Callable[[], Any]]
"""What takes a record, and what closes; both are called in the logger's thread."""


class _Tracker:
    """Base of the loggers that write from a thread."""

    library: ClassVar[Names]
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
    library: ClassVar[Names] = ("tensorboardX", "TensorBoard's files", "tensorboardX")

    def _connect(self, step: int | None, config: Mapping[str, Any]) -> Opened:
        from tensorboardX import SummaryWriter

        for file in Path(self.folder).glob("*tfevents*.jaxnn") if step is not None else ():
            file.unlink()
        # A running TensorBoard has read the deleted files, and drops their records at purge_step.
        # The name of a file contains the second in which it was created, and the suffix.
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
    library: ClassVar[Names] = ("wandb", "Weights & Biases' files", "wandb")

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
        # Online, wandb knows the last step of the run. The records of an offline run are in files
        # of another format, so its last step is stored in a file next to them.
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
    library: ClassVar[Names] = ("mlflow", "MLflow's runs", "mlflow-skinny")

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

    def check() -> None:
        for error in errors:
            raise error

    def log(record: Mapping[str, Any]) -> None:
        check()
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
        check()


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
