"""docs/features.csv: what sweeps can do, and what other tools can.

Each row names the command or the call that shows the feature; here they are parsed and resolved.
"""

import csv
import dataclasses
import inspect
import itertools
import re
import shlex
from pathlib import Path
from typing import Any, Literal

import pytest

from jaxnn import experiment, sweep
from jaxnn.command import COMMANDS, main, tool
from jaxnn.command.grammar import swept_paths
from jaxnn.executors import NAMES
from jaxnn.sweep.running import SETTINGS
from jaxnn.sweep.settings import Budget, Settings

TABLE = Path(__file__).parent.parent / "docs" / "features.csv"
ROWS = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
TOOLS = ("optuna", "ray_tune", "wandb", "keras_tuner", "hydra", "smac", "syne_tune")
MARKS = ("yes", "partly", "no")
OWN = [row["jaxnn"] for row in ROWS if row["jaxnn"] != "none"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The fields that the examples of `--sweep` name."""

    width: int = 32
    rate: float = 0.1
    learning_rate: float = 0.1
    activation: Literal["relu", "tanh"] = "relu"
    steps: int = 1


def test_the_table_is_whole_and_says_where_others_have_more():
    assert len(ROWS) >= 50 and len({row["feature"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row) == {"area", "feature", "jaxnn", *TOOLS, "note"}
        assert {row[tool] for tool in TOOLS} <= set(MARKS), row["feature"]
        assert row["jaxnn"] != "none" or "yes" in [row[tool] for tool in TOOLS], row["feature"]
    assert sum(row["jaxnn"] == "none" for row in ROWS) >= 8


@pytest.fixture(scope="module")
def helps():
    """The help of `sweep` and `resume`, as printed."""
    from contextlib import redirect_stdout
    from io import StringIO

    from experiments.mnist_mlp import EXPERIMENT

    found = {}
    for command in ("sweep", "resume"):
        with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
            main(EXPERIMENT, ["--no-compilation-cache", command, "--help"])
        found[command] = set(re.findall(r"--[\w.-]+", printed.getvalue()))
    return found


def test_every_command_and_call_exists(helps):
    for text in OWN:
        assert exists(text, helps), text
    for text in ("sweep --flods 5", "sweeep", "jaxnn sweep reprot F", "sweep.run(flods=...)"):
        assert not exists(text, helps), text
    with pytest.raises(ValueError, match=r"Settings\.search must be"):
        exists("sweep --search tree", helps)


def exists(text, helps):
    """Return whether a command has its options, or a call its arguments; values are checked."""
    if call := re.fullmatch(r"((?:sweep|experiment)(?:\.\w+)+)(?:\((\w+)=\.\.\.\))?", text):
        first, *rest = call[1].split(".")
        item: Any = {"sweep": sweep, "experiment": experiment}[first]
        for name in rest:
            item = getattr(item, name)
        taken = {*inspect.signature(item).parameters} if call[2] else set()
        taken |= {*SETTINGS} if item is sweep.run else set()
        return call[2] is None or call[2] in taken
    command, *words = shlex.split(text)
    if command == "jaxnn":
        return words[0] == "sweep" and words[1] in tool.COMMANDS
    if command not in COMMANDS:
        return False
    options = [word for word in words if word.startswith("--")]
    for option, value in itertools.pairwise([*words, "--"]):
        if option.startswith("--") and not value.startswith("--"):
            check(option.removeprefix("--").replace("-", "_"), value)
    return all(option in helps.get(command, ()) for option in options)


def check(name, value):
    """Raise ValueError for a value that an option does not accept."""
    if name == "sweep":
        swept_paths(Config, [value])
    elif name == "executor":
        assert value in NAMES, value  # whether or not its package is installed
    elif name.startswith("budget."):
        limit: Any = int(value) if value.isdecimal() else value
        limit = float(value) if name == "budget.target" else limit
        Budget(**{name.removeprefix("budget."): limit})
    elif name in SETTINGS:
        setting: Any = int(value) if value.isdecimal() else value
        Settings(**{name: setting})
