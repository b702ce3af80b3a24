"""One run of an experiment: train, judge on the test examples, and write the run folder.

runs/mnist_mlp-20260131-142530/
    config.json             the resolved configuration, every default spelled out, and of which
                            code and data
    metrics.jsonl           a line an epoch, the same each time the run is made
    timings.jsonl           how long each took
    checkpoints/            while the run is not finished: what it goes on from
    weights.safetensors     parameters and state by path
    result.json             scores on the test examples, seconds, versions, device
    learning_curves.png     and the pictures that fit the task
    report.html             all of it on one page, which opens from disk

They are written in this order once the training has ended, and a run with a result is finished.
"""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from .. import inspect, train
from ..files.plain import quoted
from ..files.reading import FileError, listed, printable, read_bytes, read_json
from ..files.replacing import replace
from ..fingerprint import differences
from ..train.logging import LONGEST_LINE, finite_or_text, line_of
from ..train.loop import TIMINGS, Record
from ..train.weights import packed
from ..version import __version__
from . import configuration, pictures, sources
from .folder import begin_folder, check_place, finish_folder
from .problem import Problem
from .program import Program, Recipe
from .progress import shown
from .report import report as report_of
from .scores import classification_scores, language_scores, regression_scores

SCHEMA = 1
CHECKPOINTS = "checkpoints"
# Room for the pictures and texts of a run beside its weights.
ROOM = 2 * 2**20


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """How often a run is saved."""

    minutes: float | None = 5.0
    """A checkpoint every so many minutes."""
    epochs: int | None = None
    """A checkpoint every so many epochs."""
    steps: int | None = None
    """A checkpoint every so many steps."""
    keep: int = 2
    """How many of the newest are kept until the run is finished."""


@dataclasses.dataclass(frozen=True)
class Watching:
    """How a run is kept and watched; all but `patience` changes none of its numbers."""

    checkpoint: Checkpointing = Checkpointing()
    patience: int | None = None
    """Stop once the validation loss has not become better for so many epochs."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run's folder."""
    wandb: str | None = None
    """A project of Weights & Biases to log to, offline where the environment says so."""
    mlflow: str | None = None
    """The address of an MLflow server to log to."""


def run(
    recipe: Recipe[Any],
    config: Any,
    folder: Path,
    watching: Watching = Watching(),
    force: bool = False,
) -> dict[str, float]:
    """Train one configuration, print how it goes, and fill `folder`; returns the test scores.

    Trains on the data set's training examples, reports on those for validation after each epoch,
    and looks at the test examples once, at the end. A folder with an unfinished run of this very
    configuration goes on from its newest checkpoint.

    The weights are written first, then the results, then pictures and the report. What fails after
    the weights is a warning.

    Args:
        recipe: the experiment.
        config: its configuration.
        folder: where the run is written; it does not exist yet, or holds this run, unfinished.
        watching: how the run is kept and watched.
        force: resume even if the experiment's code or data changed since the run began; the folder
            records what changed.

    Raises:
        FileExistsError: the folder holds another run, or one that is finished.
        OSError: it cannot be written; told before the training where it can be known.
        ValueError: a configuration that cannot be trained, or a run that diverged.
        train.Interrupted: a signal asked the run to stop; it can go on.
    """
    problem = recipe.problem()
    program = recipe.build(config, problem)
    data = problem.scaled
    example = jax.ShapeDtypeStruct((1, *data.train.x.shape[1:]), data.train.x.dtype)
    about = {
        "schema": SCHEMA,
        "experiment": recipe.name,
        "config": configuration.to_plain(config),
        "watching": configuration.to_plain(watching),
        "sources": {"modules": sources.modules(recipe), "data": sources.data(problem)},
    }
    checkpoints = train.Checkpoints(
        str(folder / CHECKPOINTS),
        train.Every(
            steps=watching.checkpoint.steps,
            epochs=watching.checkpoint.epochs,
            minutes=watching.checkpoint.minutes,
        ),
        keep=watching.checkpoint.keep,
        at_end=False,  # the weights are written
        force=force,
    )
    going_on = is_unfinished(folder, about)
    forced = check_sources(folder, about, force) if going_on else []
    if not going_on:
        check_place(folder, _weights_size(program, example) + ROOM)
    pictures.check_library()  # not after the training
    summary = str(inspect.summary(program.net, example))
    print(f"{recipe.name}: {data}\n\n{summary}\n")
    if not going_on:
        begin_folder(folder, {"config.json": json_bytes(about)})
    began = time.perf_counter()
    try:
        with shown(program.epochs) as report:
            trained, history = program.fit(
                data.train,
                validation=data.validation,
                report=lambda record: report(problem.reported(record)),
                loggers=loggers_of(problem.reported, folder, recipe.name, watching, about),
                checkpoints=checkpoints,
                stop=None
                if watching.patience is None
                else train.EarlyStopping("validation_loss", patience=watching.patience),
            )
    except BaseException:
        if not going_on and not has_checkpoints(folder):  # nothing to go on from
            shutil.rmtree(folder, ignore_errors=True)
        raise
    seconds = time.perf_counter() - began
    trained = train.Weights(train.evaluation_params(trained), trained.state)
    weights = {"weights.safetensors": packed(program.net, trained)}
    finish_folder(folder, weights, last="weights.safetensors")
    scores: dict[str, float] = {}
    predictions = None
    with attempted("scoring the test examples", folder):
        predictions = problem.predict(program.net, trained, problem.data.test.x)
        scores = scores_of(problem, predictions, problem.data.test.y)
    result = {
        "experiment": recipe.name,
        "test": {name: finite_or_text(number) for name, number in scores.items()},
        "test_examples": len(problem.data.test.y),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(trained.params)),
        "training_seconds": round(seconds, 2),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    finish_folder(folder, {"result.json": json_bytes(result)}, last="result.json")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        print(f"\ntest: {scores_text(scores)} on {len(problem.data.test.y):,} examples")
    if recipe.finish is not None:
        with attempted("the experiment's function finish", folder):
            for name, contents in recipe.finish(problem, program, trained).items():
                replace(folder / name, contents)
    history = [problem.reported(record) for record in history]
    if going_on:
        with attempted("completing metrics.jsonl", folder):
            _complete_lines(folder, history)
    pictured = {}
    for name, draw in pictures.drawings(problem, history, predictions).items():
        with attempted(f"the picture {name}", folder):
            pictured[name] = pictures.png(draw())
            replace(folder / name, pictured[name])
    with attempted("report.html", folder):
        page = report_of(
            folder.name,
            [metrics_of(record) for record in history],
            timings=[_timings(record) for record in history],
            config=about["config"],
            scores=scores,
            pictures={k: v for k, v in pictured.items() if k != "learning_curves.png"},
            summary=summary,
            environment={"device": result["device"], "system": platform.platform(), **versions()},
            remarks=_remarks(going_on, forced, history, program.epochs),
        )
        replace(folder / "report.html", page.encode())
    return scores


@contextlib.contextmanager
def attempted(what: str, folder: Path) -> Iterator[None]:
    """Turn what fails into a warning: the run's weights are written, and nothing may cost them."""
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


def is_unfinished(folder: Path, about: dict[str, Any]) -> bool:
    """Whether the folder holds this very run, unfinished; FileExistsError for another one."""
    file = folder / "config.json"
    if (folder / "result.json").exists() or not file.is_file():
        return False
    there = read_json(file)
    if not isinstance(there, dict):
        raise FileError(f"{file} is not a configuration: remove {folder}")
    if _numbers_of(there) != _numbers_of(about):
        lines = _differences(_numbers_of(there), _numbers_of(about))
        raise FileExistsError(
            f"{folder} holds an unfinished run of another configuration: {listed(lines)}. Write "
            f"resume {quoted(folder)} to continue it, or --folder with another place"
        )
    return True


def check_sources(folder: Path, about: dict[str, Any], force: bool) -> list[list[str]]:
    """Raise ValueError if the code or data of an unfinished run changed; record it if forced.

    Returns what changed each time that it was forced.
    """
    file = folder / "config.json"
    there = read_json(file)
    began = sources.recorded(there.get("sources"), file)
    lines = sources.changed(began["modules"])
    lines += differences({"data": began.get("data")}, {"data": about["sources"]["data"]})
    if lines and not force:
        raise ValueError(
            f"the experiment changed since the run in {folder} began: {'; '.join(lines)}. Undo it, "
            f"write --folder with another place, or write resume {quoted(folder)} --force"
        )
    forced = there.get("forced", [])
    if not isinstance(forced, list) or not all(isinstance(one, list) for one in forced):
        raise FileError(f"{file} has no valid 'forced'")
    if lines:
        forced = [*forced, lines]
        replace(file, json_bytes(there | {"sources": about["sources"], "forced": forced}))
    return forced


def _numbers_of(about: Any) -> dict[str, Any]:
    """All that a run's numbers depend on, of what its config.json says."""
    watching = about.get("watching")
    return {
        "schema": about.get("schema"),
        "experiment": about.get("experiment"),
        "config": about.get("config"),
        "patience": watching.get("patience") if isinstance(watching, dict) else None,
    }


def _differences(there: Any, here: Any, path: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        lines = []
        for name in here | there:
            below = f"{path}.{name}" if path else name
            lines += _differences(there.get(name), here.get(name), below)
        return lines
    return [] if there == here else [f"{path} is {there!r:.200} there, {here!r:.200} here"]


def has_checkpoints(folder: Path) -> bool:
    """Whether there is a checkpoint to continue from."""
    return any(one.name.isdigit() for one in (folder / CHECKPOINTS).glob("*"))


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A logger of what a function makes of each record, which knows the run's configuration."""

    logger: train.Logger
    function: Callable[[Record], Record]
    config: Mapping[str, Any]

    @contextlib.contextmanager
    def open(
        self, step: int | None = None, config: Mapping[str, Any] | None = None
    ) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        with self.logger.open(step, self.config) as log:
            yield lambda record: log(self.function(dict(record)))


def metrics_of(record: Record) -> Record:
    """What is the same each time the run is made."""
    return {k: v for k, v in record.items() if k not in TIMINGS}


def _timings(record: Record) -> Record:
    return {k: v for k, v in record.items() if k in ("epoch", "step", *TIMINGS)}


def _complete_lines(folder: Path, history: list[Record]) -> None:
    """Write the lines that a file lost since the checkpoint, which has all records, was saved."""
    for name, part in (("metrics.jsonl", metrics_of), ("timings.jsonl", _timings)):
        lines = b"".join(line_of(part(record)) for record in history)
        if read_bytes(folder / name, max(len(lines), LONGEST_LINE)) != lines:
            replace(folder / name, lines)


def _remarks(
    going_on: bool, forced: list[list[str]], history: list[Record], epochs: int
) -> list[str]:
    remarks = ["The run was stopped once at least, and went on."] if going_on else []
    remarks += [
        f"It was resumed with --force, although this changed: {listed(lines)}." for lines in forced
    ]
    if history and history[-1]["epoch"] < epochs:
        remarks.append(f"It was stopped early, after {history[-1]['epoch']} of {epochs} epochs.")
    return remarks


def loggers_of(
    reported: Callable[[Record], Record],
    folder: Path,
    name: str,
    watching: Watching,
    about: dict[str, Any],
) -> list[train.Logger]:
    """Where the records of a run go: its folder, and what it is watched with."""
    run_name = f"{name}-{folder.name}" if name not in folder.name else folder.name
    loggers = [
        _Mapped(
            train.JsonLines(folder / "metrics.jsonl"),
            lambda r: metrics_of(reported(r)),
            about,
        ),
        _Mapped(train.JsonLines(folder / "timings.jsonl"), _timings, about),
    ]
    others: list[train.Logger] = []
    if watching.tensorboard:
        others.append(train.TensorBoard(folder / "tensorboard"))
    if watching.wandb is not None:
        mode = "offline" if os.environ.get("WANDB_MODE") == "offline" else "online"
        others.append(train.WandB(watching.wandb, run_name, folder, mode))
    if watching.mlflow is not None:
        others.append(train.MLflow(watching.mlflow, name, run_name))
    return [*loggers, *(_Mapped(one, reported, about) for one in others)]


def versions() -> dict[str, str]:
    """The versions of all that a run's numbers follow from, by name."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxnn": __version__,
        "optax": optax.__version__,
    }


def scores_of(problem: Problem, predictions: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The scores that fit the task, in the data set's units, without ignored labels."""
    if problem.task.classes is None:
        return regression_scores(y, predictions)
    kept = y != problem.task.ignored
    y, predictions = y[kept], predictions[kept]
    if isinstance(problem.task, train.NextToken):
        return language_scores(y, predictions)
    return classification_scores(y, predictions)


def scores_text(scores: dict[str, float]) -> str:
    """Scores on one line.

    >>> scores_text({"accuracy": 0.931, "loss": 0.25})
    'accuracy 0.931, loss 0.25'
    """
    return ", ".join(f"{name} {number:.4g}" for name, number in scores.items())


def _weights_size(program: Program, example: Any) -> int:
    net = program.net
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: (net.init(key, example), net.init_state(example, key=key)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def json_bytes(content: Any) -> bytes:
    """Plain data as the bytes of a JSON file."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
