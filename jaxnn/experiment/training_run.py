"""A run of an experiment: train one configuration, evaluate the result, write the run folder."""

import contextlib
import dataclasses
import os
import platform
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from .. import inspect, train
from ..data.rows import row_count, row_spec
from ..explain import entry
from ..files import replace_file
from ..files.reading import listed, printable, quoted
from ..html import charts
from ..train.checkpoint import versions
from ..train.hooks.measurement import rates_of
from ..train.logging import finite_or_text
from . import prediction, run_folder, sources
from .configuration import to_plain
from .experiment import Configured, Experiment, TrainedRun, configured
from .report import drawings, run_report

ROOM = 2 * 2**20  # bytes of the pictures and texts of a run
Record = dict[str, Any]


@entry
def run(
    experiment: Experiment[Any],
    config: Any = None,
    folder: str | Path | None = None,
    options: run_folder.RunOptions | None = None,
    force: bool = False,
) -> dict[str, float]:
    """Train one configuration and write the run folder; return the scores on the test rows.

    Without test rows, the function returns the last record. If the folder contains an unfinished
    run of this configuration, the run is resumed from its newest checkpoint. Failures after the
    weights are written are reported as warnings.

    Args:
        experiment: The experiment.
        config: The configuration. Default: None, all fields have their defaults.
        folder: The run folder. It must not exist, or it must contain an unfinished run of this
            configuration. Default: None, `runs/NAME-DATE-TIME`.
        options: Options for checkpoints, logging, and early stopping. Default: None,
            `RunOptions()`.
        force: Resume even if the experiment's code or data changed since the run began. The folder
            records the changes. Default: False.

    Raises:
        FileExistsError: The folder contains another run or a finished run.
        OSError: The folder cannot be written. This is raised before the training if possible.
        ValueError: The configuration cannot be trained, or the run diverged.
        train.Interrupted: A signal asked the run to stop; the run can be resumed.
    """
    folder = run_folder.default_folder(experiment.name) if folder is None else Path(folder)
    options = run_folder.RunOptions() if options is None else options
    one = configured(experiment, experiment.config() if config is None else config)
    content = run_folder.content_of(one, options)
    recorded, forced = run_folder.unfinished(folder, content), []
    if recorded is not None:
        forced = run_folder.check_sources(folder, recorded, content, force)
    else:
        batch = None if one.data.rows is None else row_spec(one.data.arrays, one.batch_size)
        state = jax.tree.leaves(jax.eval_shape(one.program.init, jax.random.key(0), batch))
        run_folder.check_folder(folder, ROOM + sum(a.size * a.dtype.itemsize for a in state))
    charts.check_library()  # before the training
    summary = ""
    if one.network is not None:
        net, inputs, named = one.network
        summary = str(inspect.summary(net, *inputs, **named))
    print(f"{experiment.name}: {one.data}\n\n{summary}\n")
    if recorded is None:
        run_folder.begin(folder, content)
    began = time.perf_counter()
    try:
        state, history = one.fit(hooks=_hooks(one, folder, options, content, force))
    except BaseException:
        if recorded is None and not run_folder.has_checkpoints(folder):  # nothing to resume
            shutil.rmtree(folder, ignore_errors=True)
        raise
    seconds = time.perf_counter() - began
    weights = run_folder.weights_of(one, state)
    if weights is not None:
        run_folder.write_run_file(folder, run_folder.WEIGHTS, weights)
    scores, intervals, predictions = _on_test_rows(one, state, folder)
    result: Record = {
        "experiment": experiment.name,
        "record": _plain(_metrics(history[-1])),
        "test": _plain(scores),
        "test_intervals": {name: each._asdict() for name, each in intervals.items()},
    }
    if one.network is not None:
        result["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if one.data.dataset is not None:
        result["test_rows"] = row_count(one.data.dataset.test)
    result["training_seconds"] = round(seconds, 2)
    about = run_environment(one)
    result |= about
    run_folder.write_run_file(folder, run_folder.RESULT, run_folder.to_json(result))
    if weights is not None:
        shutil.rmtree(folder / run_folder.CHECKPOINTS, ignore_errors=True)
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        if scores:
            text = prediction.scores_text(scores, intervals)
            print(f"\ntest: {text} on {result['test_rows']:,} rows")
    if experiment.finish is not None:
        with attempted("the experiment's function finish", folder):
            trained = TrainedRun(one.config, one.data.data, one.program, state)
            for name, contents in experiment.finish(trained).items():
                replace_file(folder / name, contents)
    remarks = ["The run was interrupted and resumed."] if recorded is not None else []
    remarks += [
        f"It resumed with --force, although this changed: {listed(all_)}." for all_ in forced
    ]
    if (step := history[-1]["step"]) < one.ends[-1]:
        remarks.append(f"It stopped early, after {step:,} of {one.ends[-1]:,} steps.")
    drawn = _draw(one, folder, history, predictions)
    more = {"scores": scores, "intervals": intervals, "summary": summary, "remarks": remarks}
    _report(one, folder, history, drawn, environment=about, **more)
    return scores or history[-1]


def _hooks(
    one: Configured,
    folder: Path,
    options: run_folder.RunOptions,
    content: Mapping[str, Any],
    force: bool,
) -> list[train.Hook]:
    """Return what the run does besides its steps."""
    name = one.experiment.name
    hooks: list[train.Hook] = [train.Throughput()]
    if rates_of(one.program, 0):
        hooks.append(train.LearningRate())
    if options.patience is not None:
        metric, maximize = one.experiment.ranked
        hooks.append(train.EarlyStopping(metric, options.patience, maximize=maximize))
    loggers: list[Any] = [
        _PartOfRecords(train.JsonLines(folder / "metrics.jsonl"), _metrics),
        _PartOfRecords(train.JsonLines(folder / "timings.jsonl"), _timings),
    ]
    run_name = folder.name if name in folder.name else f"{name}-{folder.name}"
    if options.tensorboard:
        loggers.append(train.TensorBoard(folder / "tensorboard"))
    if options.wandb is not None:
        mode = "offline" if os.environ.get("WANDB_MODE") == "offline" else "online"
        loggers.append(train.WandB(options.wandb, run_name, folder, mode))
    if options.mlflow is not None:
        loggers.append(train.MLflow(options.mlflow, name, run_name))
    log = train.Log(*loggers, config=content)
    return [*hooks, log, run_folder.checkpoints_of(one, folder, options, force)]


@dataclasses.dataclass(frozen=True)
class _PartOfRecords:
    """A logger that writes a part of each record into a file."""

    file: train.JsonLines
    part: Callable[[Mapping[str, Any]], Record]

    @contextlib.contextmanager
    def open(
        self,
        step: int | None = None,
        config: Mapping[str, Any] | None = None,
        history: Sequence[Record] = (),
    ) -> Iterator[Any]:
        with self.file.open(step, config, [*map(self.part, history)]) as log:
            yield lambda record: log(self.part(record))


def _metrics(record: Mapping[str, Any]) -> Record:
    """Return the numbers of a record that are equal each time the run is repeated."""
    return {name: number for name, number in record.items() if name not in train.TIMINGS}


def _timings(record: Mapping[str, Any]) -> Record:
    return {k: v for k, v in record.items() if k in ("epoch", "step", *train.TIMINGS)}


def _plain(numbers: Mapping[str, Any]) -> Record:
    """Return numbers as JSON has them."""
    return {k: v if isinstance(v, int) else finite_or_text(v) for k, v in numbers.items()}


def _on_test_rows(one: Configured, state: Any, folder: Path) -> tuple[dict[str, float], Any, Any]:
    """Return scores, their intervals, and predictions of the test rows of a `data.Dataset`."""
    scores, intervals, predictions = {}, {}, None
    if one.data.dataset is not None and one.evaluates:
        rows = (*one.data.dataset.test,)
        with attempted("evaluating the test rows", folder):
            scores = prediction.scores_of(one, state, rows)
        with attempted("the intervals of the scores", folder):
            intervals = prediction.intervals_of(one, state, rows, scores)
        if one.task is not None:
            with attempted("predicting the test rows", folder):
                predictions = prediction.predicted(one, state, rows[0])
    return scores, intervals, predictions


def _draw(
    one: Configured, folder: Path, history: Sequence[Record], predictions: Any
) -> dict[str, Any]:
    """Write the pictures of a run, and return those that its report does not draw itself."""
    drawn = {}
    for name, draw in drawings(one, history, predictions).items():
        with attempted(f"the picture {name}", folder):
            figure = draw()
            replace_file(folder / name, charts.png(figure))
            drawn[name] = figure
    drawn.pop("learning_curves.png", None)
    return drawn


def _report(
    one: Configured, folder: Path, history: Sequence[Record], drawn: dict[str, Any], **parts: Any
) -> None:
    """Write the report of a run, with further parts of it as arguments."""
    metric, maximize = one.experiment.ranked
    with attempted("report.html", folder):
        text = run_report(
            folder.name,
            [_metrics(record) for record in history],
            timings=[_timings(record) for record in history],
            config=to_plain(one.config),
            metric=metric,
            maximize=maximize,
            pictures=drawn,
            **parts,
        )
        replace_file(folder / "report.html", text.encode())


@contextlib.contextmanager
def attempted(
    what: str, folder: Path, then: str = "The run continues without it; its weights are in"
) -> Iterator[None]:
    """Report an error as a warning: the training is done, and must not be lost.

    Args:
        what: what is attempted.
        folder: the folder of the results.
        then: what the warning states before the folder. Default: where the weights of a run are.
    """
    try:
        yield
    except Exception as error:
        cause = printable(" ".join(str(error).split()), 300)
        warnings.warn(
            f"{what} failed ({type(error).__name__}: {cause}). {then} {quoted(folder)}",
            RuntimeWarning,
            stacklevel=3,
        )


def run_environment(one: Configured) -> dict[str, Any]:
    """Return what the results of a run depend on besides its configuration, as plain data."""
    data: dict[str, Any] = {"description": str(one.data)}
    if one.data.dataset is not None:
        parts = ("train", "validation", "test")
        data = {"name": one.data.dataset.name} | {
            f"{part}_rows": row_count(getattr(one.data.dataset, part)) for part in parts
        }
        data |= {"source": one.data.dataset.source}
    devices = jax.devices()
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "commit": sources.commit_of(one.experiment),
        "data": data,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processor": processor("model name"),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": versions(),
    }


def processor(*names: str) -> str:
    """Return an entry of `/proc/cpuinfo`, or else what the `platform` module reports.

    Args:
        *names: names of the entry; the first line with one of them is used.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(names):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
