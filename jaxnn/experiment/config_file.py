"""`config.json` of a run folder: what the run is, so that it is resumed as the same run or refused.

{
    "schema": 1,
    "experiment": "mnist_mlp",
    "config": ...,              the configuration, with all defaults
    "options": ...,             how often it is saved, when it stops early, and what it logs to
    "sources": {"modules": ..., "data": ...},
    "forced": [[...], ...]      what had changed each time that it was resumed with --force
}
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..explain.text import suggestion
from ..files.plain import quoted
from ..files.reading import FileError, listed, read_json
from ..files.replacing import replace
from ..fingerprint import differences
from . import sources
from .configuration import from_plain, to_plain
from .experiment import Configured, Experiment

SCHEMA = 1
FILE, RESULT, CHECKPOINTS = "config.json", "result.json", "checkpoints"
FIELDS = {"schema", "experiment", "config", "options", "sources", "forced"}


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """How often a run is saved."""

    minutes: float | None = 5.0
    """Minutes between two checkpoints."""
    epochs: int | None = None
    """Epochs between two checkpoints."""
    steps: int | None = None
    """Steps between two checkpoints."""
    keep: int = 2
    """The number of newest checkpoints that are kept."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is saved and logged, and when it stops early."""

    checkpoint: Checkpointing = Checkpointing()
    patience: int | None = None
    """Stop after this number of records without a better metric, by default the validation loss."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run folder."""
    wandb: str | None = None
    """A project of Weights & Biases to log to; offline if WANDB_MODE=offline."""
    mlflow: str | None = None
    """The address of an MLflow server to log to."""


def content_of(run: Configured, options: RunOptions) -> dict[str, Any]:
    """The content of the file for a new run."""
    return {
        "schema": SCHEMA,
        "experiment": run.experiment.name,
        "config": to_plain(run.config),
        "options": to_plain(options),
        "sources": {"modules": sources.modules(run.experiment), "data": run.data.checksums()},
    }


def is_unfinished(folder: Path, content: dict[str, Any]) -> bool:
    """Whether the folder holds this run, unfinished; FileExistsError if it holds another one."""
    file = folder / FILE
    if (folder / RESULT).exists() or not file.is_file():
        return False
    there = read_json(file)
    if not isinstance(there, dict):
        raise FileError(f"{file} is not a configuration; remove {folder}")
    lines = differences(_identity(there), _identity(content))
    if lines:
        raise FileExistsError(
            f"{folder} holds an unfinished run of another configuration: {listed(lines)}. Write "
            f"resume {quoted(folder)} to continue it, or --folder with another place"
        )
    return True


def check_sources(folder: Path, content: dict[str, Any], force: bool) -> list[list[str]]:
    """Raise ValueError if the code or the data of an unfinished run changed; record it if forced.

    Returns what had changed each time that it was forced.
    """
    file = folder / FILE
    there = read_json(file)
    began = sources.recorded(there.get("sources"), file)
    lines = sources.changed(began["modules"])
    lines += differences({"data": began.get("data")}, {"data": content["sources"]["data"]})
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
        replace(file, json_bytes(there | {"sources": content["sources"], "forced": forced}))
    return forced


def load_config(experiment: Experiment[Any], folder: Path) -> Any:
    """The configuration of a run, equal to the one it had.

    Raises ValueError for a run of another experiment, and for fields that are unknown, missing, or
    of another type; FileNotFoundError if the run does not exist.
    """
    return _loaded(experiment, folder)[0]


def load_unfinished(experiment: Experiment[Any], folder: Path) -> tuple[Any, RunOptions]:
    """The configuration and the options of a run that was interrupted.

    Raises FileExistsError for a run that is finished, and what `load_config` raises.
    """
    config, plain = _loaded(experiment, folder)
    if (folder / RESULT).exists():
        raise FileExistsError(
            f"{folder} is finished; write predict {quoted(folder)}, or begin a run in another "
            "folder"
        )
    return config, _valued(RunOptions, plain.get("options"), f"{folder / FILE}: options")


def _loaded(experiment: Experiment[Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    file = folder / FILE
    if not file.is_file():
        runs = [one.parent.name for one in folder.parent.glob(f"*/{FILE}") if one.is_file()]
        hint = suggestion(folder.name, runs) if runs else "train first, which makes one"
        raise FileNotFoundError(f"{folder} is not a run folder: it has no file {FILE}; {hint}")
    plain = read_json(file)
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise FileError(
            f"{file} is not a configuration of schema {SCHEMA}, which this version reads"
        )
    if unknown := plain.keys() - FIELDS:
        first = min(unknown)
        raise FileError(f"{file} has the unknown field {first!r:.80}; {suggestion(first, FIELDS)}")
    if (other := plain.get("experiment")) != experiment.name:
        raise FileError(
            f"{folder} is a run of {other!r:.80}, not of {experiment.name!r}; write the command "
            "with the module of that experiment"
        )
    return _valued(experiment.config, plain.get("config"), f"{file}: config"), plain


def _valued(kind: Any, plain: Any, where: str) -> Any:
    try:
        return from_plain(kind, plain, where)
    except ValueError as error:
        raise FileError(str(error)) from error


def _identity(content: dict[str, Any]) -> dict[str, Any]:
    """What of the file determines the numbers of the run."""
    options = content.get("options")
    return {
        "schema": content.get("schema"),
        "experiment": content.get("experiment"),
        "config": content.get("config"),
        "patience": options.get("patience") if isinstance(options, dict) else None,
    }


def json_bytes(content: Any) -> bytes:
    """Plain data as the bytes of a JSON file."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
