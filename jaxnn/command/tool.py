"""`jaxnn sweep`: inspect the folder of a sweep of any experiment.

jaxnn sweep top FOLDER                   show the progress of a running sweep
jaxnn sweep show FOLDER                  show its best trials, and how the others ended
jaxnn sweep report FOLDER                write its report again
jaxnn sweep export FOLDER csv TARGET     write its trials for another tool
jaxnn sweep retry FOLDER                 train its failed and diverged trials again
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ..explain.text import suggestion
from ..files.reading import LONGEST, printable
from ..page.words import count
from ..sweep.export import export
from ..sweep.ledger import Ledger
from ..sweep.reading import Sweep, described, read
from ..sweep.report import write
from ..sweep.storage import LedgerError, damaged, is_driven, resume_command
from ..sweep.tables import BROKEN, OPEN
from .parsing import library, refuse
from .watching import summary

# Seconds between two updates of a running sweep.
PATIENCE = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `jaxnn`, and return the exit status.

    The status is 0 for success, 1 for an error, 2 for a wrong command line, and 130 for Ctrl-C.
    Raises SystemExit with 0 after printing help, and with 2 for unknown options.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    tool, *rest = arguments
    if tool != "sweep":
        return refuse(f"there is no command {tool!r}; write jaxnn sweep", 2)
    if not rest or rest[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    command, *rest = rest
    if command not in COMMANDS:
        return refuse(f"there is no command {command!r}; {suggestion(command, COMMANDS)}", 2)
    try:
        tyro = library()
        tyro.cli(
            COMMANDS[command],
            args=rest,
            prog=f"jaxnn sweep {command}",
            config=(tyro.conf.PositionalRequiredArgs,),
        )
    except (ValueError, OSError, ImportError) as error:
        return refuse(str(error), 1)
    except KeyboardInterrupt:
        return 130
    return 0


def top(folder: Path) -> None:
    """Show the progress of a running sweep until it ends.

    Args:
        folder: The folder of a sweep.
    """
    while True:
        with Ledger.open(folder) as ledger:
            sweep = read(ledger)
        if sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(summary(sweep), flush=True)
        waits = sum(trial.status in OPEN for trial in sweep.trials)
        left = _asked_for(sweep) - len(sweep.trials)
        if not waits and left <= 0:
            return
        if not is_driven(folder):
            print(f"nothing drives it: continue it with {resume_command(folder, sweep.experiment)}")
            return
        time.sleep(PATIENCE)


def _asked_for(sweep: Sweep) -> int:
    """The number of trials that a sweep is to have."""
    many = sweep.facts.get("settings", {}).get("trials")
    if type(many) is not int:
        raise LedgerError(f"{damaged(sweep.folder)} (settings.trials is {many!r:.40})")
    return many


def show(folder: Path, trials: int = 10) -> None:
    """Show the best trials of a sweep, and how the others ended.

    Args:
        folder: The folder of a sweep.
        trials: The number of trials to list.
    """
    with Ledger.open(folder) as ledger:
        sweep = read(ledger)
    print(summary(sweep, trials))
    for trial in sweep.trials:
        if trial.status in BROKEN:
            error = printable((trial.error or "")[-LONGEST:].strip(), lines=True)
            print(f"\ntrial {trial.number} {trial.status}: {error}")


def report(folder: Path) -> None:
    """Write the report of a sweep again.

    Args:
        folder: The folder of a sweep.
    """
    with Ledger.open(folder) as ledger:
        print(write(ledger))


def export_(
    folder: Path, kind: Literal["csv", "parquet", "optuna", "tensorboard", "wandb"], target: Path
) -> None:
    """Write a sweep for another tool.

    Args:
        folder: The folder of a sweep.
        kind: What to write: tables, an Optuna storage, or a run per lane.
        target: The file or folder to write, which does not exist yet.
    """
    with Ledger.open(folder) as ledger:
        print(export(ledger, kind, target))


def retry(folder: Path, trials: tuple[int, ...] = ()) -> None:
    """Reset failed and diverged trials; `resume` then trains them again.

    Args:
        folder: The folder of a sweep.
        trials: Their numbers; all by default.
    """
    with Ledger.open(folder, write=True) as ledger:
        broken = [trial.number for trial in ledger.trials() if trial.status in BROKEN]
        numbers = list(trials) or broken
        ledger.retry(numbers)
        experiment = described(folder, ledger.meta)[0]["experiment"]
    if not numbers:
        print(f"no trial of {folder} failed or diverged")
    else:
        many = count(len(numbers), "trial")
        print(f"to run {many} again, write {resume_command(folder, experiment)}")


COMMANDS: dict[str, Callable[..., None]] = {
    "top": top,
    "show": show,
    "report": report,
    "export": export_,
    "retry": retry,
}
