"""A run of an experiment: train one configuration, evaluate the result, and write the run folder.

runs/mnist_mlp-20260131-142530/
    config.json             the configuration with all defaults, the options, and the code and data
    metrics.jsonl           a line per record, equal each time the run is made
    timings.jsonl           how long each took
    checkpoints/            the state of the program: what an unfinished run resumes from
    weights.safetensors     parameters and state by path, of a `train.Minimize`
    result.json             the last record, scores on the test rows, seconds, versions, device
    learning_curves.png     and the pictures that fit the task
    report.html             all of it on one page, which opens from disk

They are written in this order, and a run with a result is finished. The checkpoints are then
removed, except for a program that is not a `train.Minimize`: they hold its final state.
"""

import contextlib
import dataclasses
import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from .. import inspect, train
from ..data.rows import row_count, row_spec
from ..files.reading import listed, printable
from ..files.replacing import replace
from ..train.hooks.learning_rate import rates_of
from ..train.logging import finite_or_text
from ..version import __version__
from . import config_file, pictures, prediction
from .configuration import to_plain
from .experiment import Configured, Experiment, TrainedRun, configured
from .folder import begin_folder, check_place, default_place, write_file
from .report import report as report_of

ROOM = 2 * 2**20  # bytes of the pictures and texts of a run
Record = dict[str, Any]


def run(
    experiment: Experiment[Any],
    config: Any = None,
    folder: str | Path | None = None,
    options: config_file.RunOptions | None = None,
    force: bool = False,
) -> dict[str, float]:
    """Train one configuration and write the run folder; returns the scores on the test rows.

    Without test rows, it returns the last record. A folder with an unfinished run of this
    configuration is resumed from its newest checkpoint. If something fails after the weights are
    written, a warning reports it.

    Args:
        experiment: the experiment.
        config: its configuration; by default that with all defaults.
        folder: where the run is written; it does not exist yet, or holds this run, unfinished. By
            default `runs/NAME-DATE-TIME`.
        options: how the run is saved and logged, and when it stops early; `RunOptions()` by
            default.
        force: resume even if the experiment's code or data changed since the run began; the folder
            records what changed. False by default.

    Raises:
        FileExistsError: the folder holds another run, or one that is finished.
        OSError: it cannot be written; if possible, before the training.
        ValueError: a configuration that cannot be trained, or a run that diverged.
        train.Interrupted: a signal asked the run to stop; it can be resumed.
    """
    folder = default_place(experiment.name) if folder is None else Path(folder)
    options = config_file.RunOptions() if options is None else options
    one = configured(experiment, experiment.config() if config is None else config)
    content = config_file.content_of(one, options)
    resumes = config_file.is_unfinished(folder, content)
    forced = config_file.check_sources(folder, content, force) if resumes else []
    if not resumes:
        batch = None if one.data.rows is None else row_spec(one.data.arrays, one.batch_size)
        state = jax.eval_shape(one.program.init, jax.random.key(0), batch)
        check_place(folder, ROOM + sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state)))
    pictures.check_library()  # before the training
    summary = _summary(one)
    print(f"{experiment.name}: {one.data}\n\n{summary}\n")
    if not resumes:
        begin_folder(folder, {config_file.FILE: config_file.json_bytes(content)})
    began = time.perf_counter()
    try:
        state, history = one.fit(hooks=_hooks(one, folder, options, content, force))
    except BaseException:
        if not resumes and not prediction.has_checkpoints(folder):  # nothing to resume
            shutil.rmtree(folder, ignore_errors=True)
        raise
    seconds = time.perf_counter() - began
    weights = prediction.pack(one, state)
    if weights is not None:
        write_file(folder, prediction.WEIGHTS, weights)
    scores, predictions = _on_test_rows(one, state, folder)
    sizes = _sizes(one, state)
    result = {
        "experiment": experiment.name,
        "record": _plain(metrics_of(history[-1])),
        "test": _plain(scores),
        **sizes,
        "training_seconds": round(seconds, 2),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    write_file(folder, config_file.RESULT, config_file.json_bytes(result))
    if weights is not None:
        shutil.rmtree(folder / config_file.CHECKPOINTS, ignore_errors=True)
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        if scores:
            print(f"\ntest: {prediction.scores_text(scores)} on {sizes['test_rows']:,} rows")
    remarks = _remarks(one, resumes, forced, history)
    _illustrate(one, folder, state, history, scores, predictions, summary=summary, remarks=remarks)
    return scores or history[-1]


def _illustrate(
    one: Configured,
    folder: Path,
    state: Any,
    history: list[Record],
    scores: Mapping[str, float],
    predictions: Any,
    **texts: Any,
) -> None:
    """Write the files of the experiment's function `finish`, the pictures, and the report.

    Args:
        one: the configuration with its program and data.
        folder: the run folder.
        state: the final state.
        history: the records.
        scores: of the test rows.
        predictions: of the test rows, or None.
        **texts: further parts of the report.
    """
    if one.experiment.finish is not None:
        with attempted("the experiment's function finish", folder):
            trained = TrainedRun(one.config, one.data.data, one.program, state)
            for name, contents in one.experiment.finish(trained).items():
                replace(folder / name, contents)
    pictured = {}
    for name, draw in pictures.drawings(one, history, predictions).items():
        with attempted(f"the picture {name}", folder):
            pictured[name] = pictures.png(draw())
            replace(folder / name, pictured[name])
    pictured.pop("learning_curves.png", None)  # the report draws them
    metric, maximize = one.experiment.ranked
    device = jax.devices()[0].device_kind
    with attempted("report.html", folder):
        page = report_of(
            folder.name,
            [metrics_of(record) for record in history],
            timings=[_timings(record) for record in history],
            config=to_plain(one.config),
            scores=scores,
            metric=metric,
            maximize=maximize,
            pictures=pictured,
            environment={"device": device, "system": platform.platform(), **versions()},
            **texts,
        )
        replace(folder / "report.html", page.encode())


def _hooks(
    one: Configured,
    folder: Path,
    options: config_file.RunOptions,
    content: Mapping[str, Any],
    force: bool,
) -> list[train.Hook]:
    """What the run does besides its steps."""
    experiment, name = one.experiment, one.experiment.name
    hooks: list[train.Hook] = [train.Throughput()]
    if rates_of(one.program, 0):
        hooks.append(train.LearningRate())
    if options.patience is not None:
        metric, maximize = experiment.ranked
        hooks.append(train.EarlyStopping(metric, options.patience, maximize=maximize))
    loggers: list[Any] = [
        _Part(train.JsonLines(folder / "metrics.jsonl"), timings=False),
        _Part(train.JsonLines(folder / "timings.jsonl"), timings=True),
    ]
    run_name = folder.name if name in folder.name else f"{name}-{folder.name}"
    if options.tensorboard:
        loggers.append(train.TensorBoard(folder / "tensorboard"))
    if options.wandb is not None:
        mode = "offline" if os.environ.get("WANDB_MODE") == "offline" else "online"
        loggers.append(train.WandB(options.wandb, run_name, folder, mode))
    if options.mlflow is not None:
        loggers.append(train.MLflow(options.mlflow, name, run_name))
    return [
        *hooks,
        train.Log(*loggers, config=content),
        prediction.checkpoints(one, folder, options, force),
    ]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A file of a part of each record: the metrics, or the times."""

    file: train.JsonLines
    timings: bool

    @contextlib.contextmanager
    def open(
        self,
        step: int | None = None,
        config: Mapping[str, Any] | None = None,
        history: Sequence[Record] = (),
    ) -> Iterator[Any]:
        part = _timings if self.timings else metrics_of
        with self.file.open(step, config, [part(record) for record in history]) as log:
            yield lambda record: log(part(record))


def metrics_of(record: Mapping[str, Any]) -> Record:
    """The numbers of a record that are equal each time the run is made."""
    return {name: number for name, number in record.items() if name not in train.TIMINGS}


def _plain(numbers: Mapping[str, Any]) -> Record:
    """Numbers as JSON has them."""
    return {k: v if isinstance(v, int) else finite_or_text(v) for k, v in numbers.items()}


def _timings(record: Mapping[str, Any]) -> Record:
    return {k: v for k, v in record.items() if k in ("epoch", "step", *train.TIMINGS)}


def _on_test_rows(one: Configured, state: Any, folder: Path) -> tuple[dict[str, float], Any]:
    """The scores of the final state on the test rows of a `data.Dataset`, and its predictions."""
    scores, predictions = {}, None
    if one.data.dataset is not None and one.evaluates:
        rows = (*one.data.dataset.test,)
        with attempted("evaluating the test rows", folder):
            scores = prediction.scores_of(one, state, rows)
        if one.task is not None:
            with attempted("predicting the test rows", folder):
                predictions = prediction.predicted(one, state, rows[0])
    return scores, predictions


@contextlib.contextmanager
def attempted(what: str, folder: Path) -> Iterator[None]:
    """Make a warning of what fails: the training is done, and must not be lost."""
    try:
        yield
    except Exception as error:
        cause = printable(" ".join(str(error).split()), 300)
        warnings.warn(
            f"{what} failed ({type(error).__name__}: {cause}). The run continues without it; its "
            f"weights are in {printable(str(folder))}",
            RuntimeWarning,
            stacklevel=3,
        )


def _sizes(one: Configured, state: Any) -> dict[str, int]:
    """The numbers of parameters and of test rows."""
    found = {}
    if one.network is not None:
        found["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if one.data.dataset is not None:
        found["test_rows"] = row_count(one.data.dataset.test)
    return found


def _remarks(
    one: Configured, resumes: bool, forced: list[list[str]], history: list[Record]
) -> list[str]:
    remarks = ["The run was interrupted and resumed."] if resumes else []
    remarks += [
        f"It was resumed with --force, although this changed: {listed(lines)}." for lines in forced
    ]
    if history[-1]["step"] < one.ends[-1]:
        remarks.append(
            f"It was stopped early, after {history[-1]['step']:,} of {one.ends[-1]:,} steps."
        )
    return remarks


def versions() -> dict[str, str]:
    """The versions of all that a run's numbers follow from, by name."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxnn": __version__,
        "optax": optax.__version__,
    }


def _summary(one: Configured) -> str:
    """The network, or the objective, as a table; empty for a program of another kind."""
    if one.network is None:
        return ""
    net, inputs, named = one.network
    return str(inspect.summary(net, *inputs, **named))
