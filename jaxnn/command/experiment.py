"""The command line of an experiment.

    python -m experiments.mnist_mlp                              train with the defaults
    python -m experiments.mnist_mlp --epochs 5                   change a field of the configuration
    python -m experiments.mnist_mlp optimizer:adamw              choose another optimizer
    python -m experiments.mnist_mlp predict runs/mnist_mlp-...   predict from a finished run
    python -m experiments.mnist_mlp resume runs/mnist_mlp-...    continue an interrupted run
    python -m experiments.mnist_mlp plan                         show what a sweep would do
    python -m experiments.mnist_mlp sweep                        sweep the experiment's space
    python -m experiments.mnist_mlp resume sweeps/mnist_mlp-...  continue an interrupted sweep
    python -m experiments.mnist_mlp run --from sweeps/...:best   train the best trial of a sweep

Without a command, `run` is meant. An error that a user can correct is printed in one line, without
a traceback.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from ..experiment.config_file import FILE, RESULT, RunOptions, load_unfinished
from ..experiment.experiment import Command, Experiment, configured
from ..experiment.folder import default_place
from ..experiment.prediction import load_run, predict
from ..experiment.run import run
from ..explain.text import suggestion
from ..files.plain import quoted
from ..files.reading import printable
from ..train import Interrupted
from .parsing import imported, library, module_of, parse, place, refuse


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Run the command line of an experiment, and return the exit status.

    The status is 0 for success, 1 for an error, 2 for a wrong command line, and 130 for Ctrl-C.
    Raises SystemExit with 0 after printing help, and with 2 for unknown options.
    """
    status = _run(experiment, list(sys.argv[1:] if arguments is None else arguments))
    if status == 130 and arguments is None:
        # What XLA is still computing cannot be stopped, and crashes when its client is destroyed.
        atexit.register(_leave, status)
    return status


def _leave(status: int) -> None:
    """End the process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(experiment: Experiment[Any], arguments: list[str]) -> int:
    # Python's last garbage collection, through all objects of JAX, takes half a second.
    atexit.register(gc.freeze)
    # An option, or a word such as `optimizer:sgd`, belongs to the default command.
    named = bool(arguments) and not arguments[0].startswith("-") and ":" not in arguments[0]
    command = arguments.pop(0) if named else "run"
    known = {one.name: _further(one) for one in experiment.commands} | COMMANDS
    if command not in known:
        return refuse(f"there is no command {command!r}; {suggestion(command, known)}", 2)
    try:
        return known[command](imported(experiment), arguments)
    except (ValueError, OSError, ImportError) as error:
        return refuse(str(error), 1)
    except KeyboardInterrupt:
        return refuse("interrupted", 130)


def run_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Train, and write a run folder."""
    module = f"python -m {module_of(experiment)}"
    start, arguments = _start(experiment, arguments)
    commands = {"predict": "predict from a finished run", "resume": "continue an interrupted run"}
    commands |= {one.name: one.help for one in experiment.commands}
    if experiment.space is not None:
        commands |= {
            "plan": "show what a sweep would do",
            "sweep": "train many configurations",
            "resume": "continue an interrupted run or sweep",
            "run --from FOLDER:best": "train the best trial, or FOLDER:17",
        }
    calls = {
        f"{module} {name}{'' if ':' in name else ' --help'}": commands[name] for name in commands
    }
    width = max(map(len, calls))
    text = [
        # tyro adds an empty line before an indented block, which has one already.
        (experiment.header or "").rstrip().replace("\n\n    ", "\n    ") + "\n",
        "\n".join(
            [
                "Other commands:",
                *(f"    {call.ljust(width)}  {what}" for call, what in calls.items()),
            ]
        ),
    ]
    config, where, options = parse(
        experiment,
        arguments,
        [place(f"runs/{experiment.name}-DATE-TIME"), RunOptions],
        prog=module,
        text=text,
        start=start,
    )
    return _trained(experiment, config, where.folder or default_place(experiment.name), options)


def resume_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Continue an interrupted run or sweep."""
    force = "--force" in arguments
    rest = [one for one in arguments if one != "--force"]
    if len(rest) == 1 and (Path(rest[0]) / FILE).is_file():
        config, options = load_unfinished(experiment, Path(rest[0]))
        return _trained(experiment, config, Path(rest[0]), options, force)
    return _sweeping("resume")(experiment, arguments)


def _trained(
    experiment: Experiment[Any],
    config: Any,
    folder: Path,
    options: RunOptions,
    force: bool = False,
) -> int:
    """Train, and print what was written and how to continue."""
    module = f"python -m {module_of(experiment)}"
    resume = f"continue it with {module} resume {quoted(folder)}"
    try:
        run(experiment, config, folder, options, force)
    except Interrupted as stopped:
        print(f"\n{printable(str(stopped), lines=True)}\n{resume}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        if (folder / RESULT).exists():
            return refuse(f"interrupted: {folder} is complete", 130)
        left = f"{folder} is not finished; {resume}" if folder.exists() else "nothing was written"
        return refuse(f"interrupted: {left}", 130)
    files = ", ".join(sorted(file.name for file in folder.iterdir()))
    print(f"\n{printable(str(folder), lines=True)} holds {files}")
    if (folder / "report.html").exists():  # if it cannot be written, the run warns
        print(f"Look at it: {printable(str(folder / 'report.html'), lines=True)}")
    one = configured(experiment, config)
    if one.predicts:
        more = "" if one.data.dataset is not None else " --input FILE"
        print(f"Predict from it: {module} predict {quoted(folder)}{more}")
    return 0


def _start(experiment: Experiment[Any], arguments: list[str]) -> tuple[Any, list[str]]:
    """The configuration that `--from FOLDER:TRIAL` names, None without it; and what is left."""
    if "--from" not in arguments:
        return None, arguments
    at = arguments.index("--from")
    if at + 1 == len(arguments):
        raise ValueError("--from wants a sweep and a trial: write --from sweeps/NAME-DATE:best")
    from .sweep import configuration_of

    return configuration_of(experiment, arguments[at + 1]), arguments[:at] + arguments[at + 2 :]


def predict_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Predict from a run folder."""
    tyro = library()

    def parsed(
        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
        input: Annotated[
            Path | None,
            tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the test rows)"),
        ] = None,
    ) -> tuple[Path, Path | None]:
        """Predict.

        Args:
            folder: The folder of a run.
            input: A .npy or .csv file with a line per row, in the units of the data set.
        """
        return folder, input

    folder, file = tyro.cli(
        parsed,
        args=arguments,
        prog=f"python -m {module_of(experiment)} predict",
        description="Predict from a finished run: print a line per row.",
    )
    predict(experiment, folder, file)
    return 0


def _further(command: Command) -> Callable[[Experiment[Any], list[str]], int]:
    """A further command of an experiment, on a run folder."""

    def run_on(experiment: Experiment[Any], arguments: list[str]) -> int:
        tyro = library()
        positional = tyro.conf.arg(metavar="FOLDER", help="The folder of a run.")

        def parsed(
            folder: Annotated[Path, tyro.conf.Positional, positional],
            options: Annotated[Any, tyro.conf.arg(name="")] = command.options(),  # noqa: B008
        ) -> tuple[Path, Any]:
            return folder, options

        parsed.__annotations__["options"] = Annotated[command.options, tyro.conf.arg(name="")]
        folder, options = tyro.cli(
            parsed,
            args=arguments,
            prog=f"python -m {module_of(experiment)} {command.name}",
            description=command.help[0].upper() + command.help[1:] + ".",
        )
        command.run(load_run(experiment, folder), options)
        return 0

    return run_on


def _sweeping(name: str) -> Callable[[Experiment[Any], list[str]], int]:
    def command(experiment: Experiment[Any], arguments: list[str]) -> int:
        from . import sweep  # its imports take as long as all others

        return getattr(sweep, f"{name}_command")(experiment, arguments)

    return command


COMMANDS: dict[str, Callable[[Experiment[Any], list[str]], int]] = {
    "run": run_command,
    "predict": predict_command,
    "plan": _sweeping("plan"),
    "sweep": _sweeping("sweep"),
    "resume": resume_command,
}
