"""The folder of a run: its files, and the functions that write and read them.

runs/mnist_mlp-20260131-142530/
    config.json             the configuration with all defaults, the options, and the code and data
    metrics.jsonl           a line per record, equal each time the run is repeated
    timings.jsonl           how long each took
    checkpoints/            the state of the program, from which an unfinished run resumes
    weights.safetensors     parameters and state by path, of a `train.Minimize`
    result.json             the last record, scores on the test rows, seconds, versions, device
    learning_curves.png     and the pictures that fit the task
    report.html             all of it on one page, which opens from disk

The files are written in this order, each completely or not at all; a run with a result is finished.
Then the checkpoints are removed, except for a program that is not a `train.Minimize`: they contain
its final state. `config.json` identifies the run, so that only the same run resumes it:

{
    "schema": 1,
    "experiment": "mnist_mlp",
    "config": ...,              the configuration, with all defaults
    "options": ...,             how often it is saved, when it stops early, and what it logs to
    "sources": {"modules": ..., "data": ...},
    "forced": [[...], ...]      what had changed each time it was resumed with --force
}
"""

import dataclasses
import json
import os
import shutil
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .. import train
from ..explain.text import suggestion
from ..files import explain_errors, fresh, replace_file
from ..files.reading import FileError, listed, quoted, read_json
from ..fingerprint import fingerprint_differences
from ..train.weights import packed
from . import sources
from .configuration import from_plain, to_plain, to_record
from .experiment import Configured, Experiment, TrainedRun, configured

SCHEMA = 1
CONFIG, RESULT, CHECKPOINTS, WEIGHTS = (
    "config.json", "result.json", "checkpoints", "weights.safetensors",
)  # fmt: skip
FIELDS = {"schema", "experiment", "config", "options", "sources", "forced"}


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """The interval between checkpoints of a run, and the number of checkpoints to keep."""

    minutes: float | None = 5.0
    """Minutes between two checkpoints."""
    epochs: int | None = None
    """Epochs between two checkpoints."""
    steps: int | None = None
    """Steps between two checkpoints."""
    keep: int = 2
    """Number of newest checkpoints to keep."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run: checkpoints, logging, and early stopping."""

    checkpoint: Checkpointing = Checkpointing()
    """The interval between checkpoints of a run, and the number of checkpoints to keep."""
    patience: int | None = None
    """Stop after this number of records without a better metric, by default the validation loss."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run folder."""
    wandb: str | None = None
    """A project of Weights & Biases to log to; offline if WANDB_MODE=offline."""
    mlflow: str | None = None
    """The address of an MLflow server to log to."""


# Writing.


def default_folder(name: str) -> Path:
    """Return `runs/NAME-DATE-TIME` in the current folder."""
    return Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def content_of(one: Configured, options: RunOptions) -> dict[str, Any]:
    """Return the content of `config.json` for a new run."""
    return {
        "schema": SCHEMA,
        "experiment": one.experiment.name,
        "config": to_record(one.config),
        "options": to_plain(options),
        "sources": {"modules": sources.modules(one.experiment), "data": one.data.checksums()},
    }


def check_folder(folder: Path, size: int) -> None:
    """Raise the errors of writing a new run folder before the training instead of after it.

    Args:
        folder: the run folder. Its parent folder is made, and a file is written and removed there.
        size: of that file in bytes.

    Raises:
        FileExistsError: the path exists already.
        OSError: the folder cannot be written, or the disk is full.
    """
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(
            f"{folder} exists already, and a run never overwrites another; write --folder "
            f"{quoted(folder.with_name(folder.name + '-2'))}, or remove it"
        )
    with _explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise OSError(f"{size:,} bytes are needed, and {free:,} are free")
        with tempfile.TemporaryFile(dir=folder.parent) as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())  # a full disk may be reported only now


def begin(folder: Path, content: dict[str, Any]) -> None:
    """Make a run folder with its `config.json`, or nothing.

    Raises:
        OSError: the folder exists, or cannot be written.
    """
    with _explained(folder), fresh(folder) as hidden:
        hidden.mkdir()
        replace_file(hidden / CONFIG, to_json(content))


def write_run_file(folder: Path, name: str, contents: bytes) -> None:
    """Write a file that a finished run needs into its folder, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with explain_errors("finish the run", f"Make room and write resume {quoted(folder)}"):
        replace_file(folder / name, contents)


def to_json(content: Any) -> bytes:
    """Return plain data as the contents of a JSON file."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def weights_of(one: Configured, state: Any) -> bytes | None:
    """Return the contents of the weights file of a `train.Minimize`; None for other programs."""
    if one.network is None:
        return None
    return packed(one.network[0], train.Weights(train.evaluation_params(state), state.state))


def _explained(folder: Path) -> AbstractContextManager[None]:
    """Add the run folder and what to do to an OSError."""
    then = "Nothing was written; make room or write --folder with another place"
    return explain_errors(f"write the run folder {folder}", then)


# Resuming.


def unfinished(folder: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    """Return the recorded `config.json` if the folder contains this run, unfinished.

    Args:
        folder: the run folder; None is returned if it contains no unfinished run.
        content: of the run to begin.

    Raises:
        FileExistsError: the folder contains an unfinished run of another configuration.
    """
    if (folder / RESULT).exists() or not (folder / CONFIG).is_file():
        return None
    recorded = _content(folder / CONFIG)
    lines = fingerprint_differences(_identity(recorded), _identity(content))
    if lines:
        raise FileExistsError(
            f"{folder} contains an unfinished run of another configuration: {listed(lines)}. Write "
            f"resume {quoted(folder)} to continue it, or --folder with another place"
        )
    return recorded


def _identity(content: dict[str, Any]) -> dict[str, Any]:
    """Return the part of `config.json` that determines the results."""
    options = content.get("options")
    patience = options.get("patience") if isinstance(options, dict) else None
    return {k: content.get(k) for k in ("schema", "experiment", "config")} | {"patience": patience}


def check_sources(
    folder: Path, recorded: dict[str, Any], content: dict[str, Any], force: bool
) -> list[list[str]]:
    """Return what had changed in code and data each time an unfinished run was forced to resume.

    Args:
        folder: the run folder; `config.json` records changes that are forced.
        recorded: what `unfinished` returned.
        content: of the run to begin.
        force: whether changes are accepted.

    Raises:
        ValueError: the code or the data changed since the run began.
    """
    file = folder / CONFIG
    lines = sources.changes_since(recorded.get("sources"), content["sources"], file)
    if lines and not force:
        raise ValueError(
            f"the experiment changed since the run in {folder} began: {'; '.join(lines)}. Undo it, "
            f"write --folder with another place, or write resume {quoted(folder)} --force"
        )
    forced = recorded.get("forced", [])
    if lines:
        forced = [*forced, lines]
        replace_file(file, to_json(recorded | {"sources": content["sources"], "forced": forced}))
    return forced


def checkpoints_of(
    one: Configured, folder: Path, options: RunOptions, force: bool
) -> train.Checkpoints:
    """Return the hook that saves a run; it keeps the final state if there is no weights file."""
    often = options.checkpoint
    return train.Checkpoints(
        str(folder / CHECKPOINTS),
        train.Every(steps=often.steps, epochs=often.epochs, minutes=often.minutes),
        keep=often.keep,
        at_end=one.network is None,
        force=force,
    )


def has_checkpoints(folder: Path) -> bool:
    """Return whether there is a checkpoint to resume from."""
    return any(one.name.isdigit() for one in (folder / CHECKPOINTS).glob("*"))


# Reading.


def load_config(experiment: Experiment[Any], folder: Path) -> Any:
    """Return the configuration of a run.

    Raises:
        ValueError: the run is of another experiment, or has invalid fields.
        FileNotFoundError: the run does not exist.
    """
    return _read(experiment, folder)[0]


def load_unfinished(experiment: Experiment[Any], folder: Path) -> tuple[Any, RunOptions]:
    """Return the configuration and the options of a run that was interrupted.

    Raises:
        FileExistsError: the run is finished.
        ValueError, FileNotFoundError: as `load_config`.
    """
    config, plain = _read(experiment, folder)
    if (folder / RESULT).exists():
        raise FileExistsError(
            f"{folder} is finished; write predict {quoted(folder)}, or begin a run in another "
            "folder"
        )
    return config, from_plain(RunOptions, plain.get("options"), f"{folder / CONFIG}: options")


def _read(experiment: Experiment[Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the configuration, and all content of `config.json`."""
    file = folder / CONFIG
    if not file.is_file():
        runs = [one.parent.name for one in folder.parent.glob(f"*/{CONFIG}") if one.is_file()]
        hint = suggestion(folder.name, runs) if runs else "train first, which makes one"
        raise FileNotFoundError(f"{folder} is not a run folder: it has no file {CONFIG}; {hint}")
    plain = _content(file)
    if (other := plain.get("experiment")) != experiment.name:
        raise FileError(
            f"{folder} is a run of {other!r:.80}, not of {experiment.name!r}; write the command "
            "with the module of that experiment"
        )
    return from_plain(experiment.config, plain.get("config"), f"{file}: config"), plain


def _content(file: Path) -> dict[str, Any]:
    """Return the content of a `config.json`."""
    plain = read_json(file)
    found = plain if isinstance(plain, dict) else {}
    forced = found.get("forced", [])
    if found.get("schema") != SCHEMA:
        problem = f"is not a configuration of schema {SCHEMA}, which this version reads"
    elif unknown := found.keys() - FIELDS:
        problem = f"has the unknown field {min(unknown)!r:.80}; {suggestion(min(unknown), FIELDS)}"
    elif not isinstance(forced, list) or not all(isinstance(one, list) for one in forced):
        problem = "has no valid 'forced'; restore it from a copy"
    else:
        return found
    raise FileError(f"{file} {problem}")


def load_run(experiment: Experiment[Any], folder: str | Path) -> TrainedRun:
    """Return a finished run: its configuration, data, program, and final state.

    For a `train.Minimize`, the state holds the parameters for evaluation and prediction, but not
    the state of the optimizer.

    Args:
        experiment: the experiment.
        folder: the run folder.

    Raises:
        ValueError: The run belongs to another experiment or is not finished, or its files are
            damaged.
        FileNotFoundError: The run does not exist.
    """
    one, state = restored(experiment, Path(folder))
    return TrainedRun(one.config, one.data.data, one.program, state)


def restored(experiment: Experiment[Any], folder: Path) -> tuple[Configured, Any]:
    """Return a finished run with its data and program, and its final state."""
    config = load_config(experiment, folder)
    if not (folder / RESULT).exists():
        raise ValueError(f"{folder} is not a finished run: write resume {quoted(folder)} first")
    try:
        one = configured(experiment, config)
    except (ValueError, TypeError, MemoryError) as error:
        raise FileError(
            f"{folder}: no program can be built from its configuration: "
            f"{error or type(error).__name__}"
        ) from error
    if one.network is not None:
        net, inputs, named = one.network
        weights = train.load_weights(folder / WEIGHTS, net, *inputs, **named)
        zero = jnp.zeros((), jnp.int32)
        words = jax.random.key_data(jax.random.key(one.seed))
        return one, train.TrainState(weights.params, weights.state, (), zero, words)
    if not has_checkpoints(folder):
        raise FileError(f"{folder} has no checkpoint; restore {CHECKPOINTS} from a copy")
    # The run is finished, so `fit` only restores its state.
    hooks = [checkpoints_of(one, folder, RunOptions(), force=True)]
    return one, one.fit(hooks=hooks, progress=False)[0]
