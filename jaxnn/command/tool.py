"""`jaxnn`: write an experiment, and inspect the folder of a sweep.

jaxnn new digits.py                   write the first experiment, as your file
jaxnn new --list                      list other examples; new FILE --from NAME
jaxnn sweep top FOLDER                show the progress of a running sweep
jaxnn sweep show FOLDER               show its best trials and its failures
jaxnn sweep report FOLDER             write its report again
jaxnn sweep export FOLDER csv TARGET  write its trials for another tool
jaxnn sweep retry FOLDER              train failed and diverged trials again
jaxnn --version                       print the version

`python -m jaxnn` is the same command.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from ..files.reading import LONGEST, printable
from ..html import count
from ..sweep.display import CAUSES, best_trials
from ..sweep.export import export_sweep
from ..sweep.ledger import Ledger
from ..sweep.report import write_report
from ..sweep.snapshot import described, read
from ..sweep.storage import check_undamaged, command_to_resume, is_driven
from ..sweep.tables import BROKEN, OPEN
from ..version import __version__
from .new import new
from .parsing import execute, import_tyro, refuse

SECONDS = 1.0  # between two updates of a running sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `jaxnn`, and return the exit status.

    The exit statuses are those of `execute`.

    Args:
        arguments: the command line. Default: None, that of the process.

    Raises:
        SystemExit: 0 after printing help, 2 for unknown options.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] == "new":
        return execute({"new": new}, "new", words[1:])
    if words and words[0] not in ("sweep", "-h", "--help", "--version"):
        return refuse(f"there is no command {words[0]!r}; write jaxnn new or jaxnn sweep", 2)
    text = f"jaxnn {__version__}" if words == ["--version"] else __doc__
    if len(words) < 2 or words[0] != "sweep" or words[1] in ("-h", "--help"):
        return execute({"help": print}, "help", text)
    return execute({name: functools.partial(_run, name) for name in COMMANDS}, words[1], words[2:])


def _run(name: str, arguments: list[str]) -> None:
    """Run a command with the arguments that tyro reads."""
    tyro = import_tyro()
    config = (tyro.conf.PositionalRequiredArgs,)
    tyro.cli(COMMANDS[name], args=arguments, prog=f"jaxnn sweep {name}", config=config)


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
        print(best_trials(sweep), flush=True)
        many = sweep.facts.get("settings", {}).get("trials")
        if type(many) is not int:
            check_undamaged(sweep.folder, f"settings.trials is {many!r:.40}")
        if len(sweep.trials) >= many and not any(one.status in OPEN for one in sweep.trials):
            return
        if not is_driven(folder):
            if sweep.facts.get("ended"):
                return
            command = command_to_resume(folder, sweep.experiment)
            print(f"no driver is running: continue it with {command}")
            return
        time.sleep(SECONDS)


def show(folder: Path, trials: int = 10) -> None:
    """Show the best trials of a sweep, and how the others ended.

    Args:
        folder: The folder of a sweep.
        trials: The number of trials to list.
    """
    with Ledger.open(folder) as ledger:
        sweep = read(ledger)
    print(best_trials(sweep, trials))
    for status, cause, numbers in sweep.causes[:CAUSES]:
        error = printable((sweep.trials[numbers[0]].error or "")[-LONGEST:].strip(), lines=True)
        if status == "failed" and error != cause:
            print(f"\ntrial {numbers[0]} {status}: {error}")


def report_command(folder: Path) -> None:
    """Write the report of a sweep again.

    Args:
        folder: The folder of a sweep.
    """
    with Ledger.open(folder) as ledger:
        print(printable(str(write_report(read(ledger))), lines=True))


def export_trials_command(
    folder: Path,
    kind: Literal["csv", "parquet", "optuna", "tensorboard", "mlflow", "wandb"],
    target: Path,
) -> None:
    """Export a sweep for another tool.

    Args:
        folder: The folder of a sweep.
        kind: The format: tables, an Optuna storage, or a run per lane (a trial with one seed).
        target: The file or folder to write, which must not exist yet.
    """
    with Ledger.open(folder) as ledger:
        print(printable(str(export_sweep(read(ledger), kind, target)), lines=True))


def retry(folder: Path, trials: tuple[int, ...] = ()) -> None:
    """Reset failed and diverged trials; `resume` then trains them again.

    Args:
        folder: The folder of a sweep.
        trials: The numbers of the trials to reset; all by default.
    """
    with Ledger.open(folder, write=True) as ledger:
        broken = [trial.number for trial in ledger.trials() if trial.status in BROKEN]
        numbers = list(trials) or broken
        ledger.retry(numbers)
        experiment = described(folder, ledger.meta)[0]["experiment"]
    if not numbers:
        print(printable(f"no trial of {folder} failed or diverged", lines=True))
    else:
        many = count(len(numbers), "trial")
        print(f"to run {many} again, write {command_to_resume(folder, experiment)}")


COMMANDS: dict[str, Callable[..., None]] = {
    "top": top,
    "show": show,
    "report": report_command,
    "export": export_trials_command,
    "retry": retry,
}
