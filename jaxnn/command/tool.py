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

import argparse
import ast
import contextlib
import functools
import importlib.machinery
import importlib.resources
import importlib.util
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from ..explain.text import check_known
from ..files import fresh
from ..files.reading import LONGEST, printable, quoted
from ..html import count
from ..installation import DISTRIBUTION, __version__, checkout, install
from ..sweep.export import export_sweep
from ..sweep.ledger import Ledger
from ..sweep.report import write_report
from ..sweep.results import CAUSES, best_trials
from ..sweep.snapshot import described, read
from ..sweep.storage import check_undamaged, command_to_resume, is_driven
from ..sweep.tables import BROKEN, OPEN
from ..validation import Accepts, natural
from .parsing import execute, import_tyro, refuse, wrapped_help

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
    with wrapped_help(arguments):
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
    natural(trials, "--trials")
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


# `jaxnn new` copies an example to a new file, which the user owns. The examples are the programs of
# experiments/ and experiments/gallery, which the tests run: in a checkout, these folders
# themselves; in an installed package, the same files in `jaxnn.examples`. A copy differs from its
# example only in its name and in a sentence about the extras that it needs.

DEFAULT = "mnist_mlp"  # a small classifier of digits
# For each extra that an example may need, packages that show whether it is installed.
PACKAGES: dict[str, tuple[str, ...]] = {
    "experiments": ("matplotlib", "mlxtend", "sklearn", "tyro"),
    "sweep": ("optuna",),
}

a_file: Accepts = Accepts(
    "a file NAME.py, with a name of letters, digits, and underscores",
    lambda file: Path(file).suffix == ".py" and Path(file).stem.isidentifier(),
    hint="write jaxnn new digits.py, or jaxnn new --list",
)


def new(arguments: list[str]) -> None:
    """Write a copy of an example, or list the examples.

    Args:
        arguments: the command line after `jaxnn new`.

    Raises:
        FileExistsError: the file or a data file of the example already exists.
        ValueError: the name of the file cannot be used, or no example has this name.
        SystemExit: 0 after printing help, 2 for unknown options.
    """
    parser = argparse.ArgumentParser("jaxnn new", description="Write an example as your own file.")
    text = "the file to write, which must not exist yet"
    parser.add_argument("file", nargs="?", default="", help=text)
    text = f"the example (default: the one with the name of the file, otherwise {DEFAULT})"
    parser.add_argument("--from", dest="example", metavar="EXAMPLE", help=text)
    parser.add_argument("--list", action="store_true", help="list the examples")
    found = parser.parse_args(arguments)
    examples = {Path(one.name).stem: one for one in _files()}
    if found.list:
        width = max(map(len, examples))
        for name, source in examples.items():
            print(f"{name:<{width}}  {title_of(source.read_text(encoding='utf-8'))}")
        return
    file = Path(a_file(found.file, "the file"))
    name = found.example or (file.stem if file.stem in examples else DEFAULT)
    check_known(name, examples, f"no example is called {name!r}")
    _check_free(file)
    source = examples[name].read_text(encoding="utf-8")
    extras = extras_of(source)
    companions = [
        (file.with_name(one.name), one.read_bytes())
        for one in _folder("gallery").iterdir()
        if one.name.endswith(".npz") and f'"{one.name}"' in source
    ]
    with contextlib.ExitStack() as stack:  # all files, or none
        for target, contents in [(file, copied(source, name, file.stem).encode()), *companions]:
            stack.enter_context(fresh(target)).write_bytes(contents)
    print(f"{printable(str(file), lines=True)}: {title_of(source)}")
    if any(not importlib.util.find_spec(one) for extra in extras for one in PACKAGES[extra]):
        command = install("sweep") if "sweep" in extras else install("experiments")
        print(f"Install the packages that it needs: {command}")
    print(f"Run it: python {quoted(file)}")


def title_of(source: str) -> str:
    """Return the first line of the docstring of a program."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def extras_of(source: str) -> list[str]:
    """Return the extras of jaxnn that an example needs, the largest last.

    >>> extras_of("from jaxnn.sweep import Space"), extras_of("import jaxnn")
    (['experiments', 'sweep'], ['experiments'])
    """
    return ["experiments", "sweep"] if "jaxnn.sweep" in source else ["experiments"]


def copied(source: str, name: str, new_name: str) -> str:
    """Return an example under another name, with the extras that it needs below its title.

    Args:
        source: the program.
        name: of the example.
        new_name: of the copy.

    >>> print(copied('\"\"\"A net.\\n\\nRun:\\n\\n    python -m experiments.a\\n\"\"\"', "a", "b"))
    \"\"\"A net.
    <BLANKLINE>
    It needs the packages of jaxnn-functional[experiments].
    <BLANKLINE>
    Run:
    <BLANKLINE>
        python b.py
    \"\"\"
    """
    extras = extras_of(source)
    needs = f"It needs the packages of {DISTRIBUTION}[{extras[0]}]"
    needs += "".join(f", and a sweep those of {DISTRIBUTION}[{one}]" for one in extras[1:])
    source = source.replace("\n", f"\n\n{needs}.\n", 1)
    source = re.sub(
        rf"python -m experiments\.(gallery\.)?{name}\b", f"python {new_name}.py", source
    )
    return re.sub(rf'(Experiment\(\s*)"{name}"', rf'\1"{new_name}"', source)


def _folder(*parts: str) -> Traversable:
    """Return the folder of the examples, or one below it."""
    root = checkout()
    if root is not None:
        return root.joinpath("experiments", *parts)
    return importlib.resources.files("jaxnn").joinpath("examples", *parts)


def _files() -> Iterator[Traversable]:
    """Yield the programs, those with a command line first."""
    for folder in (_folder(), _folder("gallery")):
        for one in sorted(folder.iterdir(), key=lambda one: one.name):
            if one.name.endswith(".py") and not one.name.startswith("_"):
                yield one


def _check_free(file: Path) -> None:
    """Raise ValueError if the file would hide an installed module of the same name."""
    spec = importlib.machinery.PathFinder.find_spec(file.stem)
    installed = spec is not None and spec.origin is not None and not file.exists()
    if installed or file.stem in sys.stdlib_module_names:
        raise ValueError(
            f"{file} would hide the installed module {file.stem}: write jaxnn new "
            f"{quoted(file.with_name(f'my_{file.name}'))}"
        )
