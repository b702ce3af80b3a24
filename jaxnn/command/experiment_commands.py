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
import functools
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..experiment.experiment import Command, Experiment, configured
from ..experiment.prediction import print_predictions
from ..experiment.run_folder import (
    CONFIG,
    RESULT,
    RunOptions,
    default_folder,
    load_run,
    load_unfinished,
)
from ..experiment.training_run import run
from ..files.reading import printable, quoted
from ..train import Interrupted
from .compilation_cache import OFF, use_compilation_cache
from .parsing import (
    execute,
    folder_option,
    imported,
    module_of,
    one_option,
    parse,
    read_options,
    refuse,
)


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Run the command line of an experiment, and return the exit status.

    The exit statuses are those of `execute`.

    Args:
        experiment: the experiment.
        arguments: the command line. Default: None, that of the process.

    Raises:
        SystemExit: 0 after printing help, 2 for unknown options.
    """
    words = use_compilation_cache(list(sys.argv[1:] if arguments is None else arguments))
    # Python's last garbage collection, through all objects of JAX, takes half a second.
    atexit.register(gc.freeze)
    # An option, or a word such as `optimizer:sgd`, belongs to the default command.
    named = bool(words) and not words[0].startswith("-") and ":" not in words[0]
    name = words.pop(0) if named else "run"
    further = {one.name: functools.partial(_further, one) for one in experiment.commands}
    status = execute(further | COMMANDS, name, imported(experiment), words)
    if status in (130, 143) and arguments is None:
        # What XLA is still computing cannot be stopped, and crashes when its client is destroyed.
        atexit.register(_leave, status)
    return status


def _leave(status: int) -> None:
    """End the process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Train, and write a run folder."""
    start = None
    if "--from" in arguments:
        at = arguments.index("--from")
        if at + 1 == len(arguments):
            raise ValueError("--from needs a trial of a sweep: write --from sweeps/NAME-DATE:best")
        from .sweep import configuration_of

        start = configuration_of(experiment, arguments[at + 1])
        arguments = arguments[:at] + arguments[at + 2 :]
    others = {"predict --help": "predict from a finished run",
              "resume --help": "continue an interrupted run"}  # fmt: skip
    others |= {f"{one.name} --help": one.help for one in experiment.commands}
    if experiment.space is not None:
        others |= {
            "resume --help": "continue an interrupted run or sweep",
            "plan --help": "show what a sweep would do",
            "sweep --help": "train many configurations",
            "run --from FOLDER:best": "train the best trial of a sweep, or FOLDER:17",
        }
    others[OFF] = "keep no compiled programs for the next start"
    width = max(map(len, others))
    lines = [f"    {call.ljust(width)}  {what}" for call, what in others.items()]
    text = [
        # tyro adds an empty line before an indented block, which has one already.
        (experiment.header or "").rstrip().replace("\n\n    ", "\n    ") + "\n",
        "\n".join([f"Other commands of python -m {module_of(experiment)}:", *lines]),
    ]
    options: list[Any] = [folder_option(f"runs/{experiment.name}-DATE-TIME"), RunOptions]
    config, where, how = parse(experiment, arguments, options, text=text, start=start)
    return _trained(experiment, config, where.folder or default_folder(experiment.name), how)


def resume_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Continue an interrupted run or sweep."""
    rest = [one for one in arguments if one != "--force"]
    if len(rest) == 1 and (Path(rest[0]) / CONFIG).is_file():
        config, options = load_unfinished(experiment, Path(rest[0]))
        return _trained(experiment, config, Path(rest[0]), options, "--force" in arguments)
    return _sweeping("resume_sweep", experiment, arguments)


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
        left = "nothing was written"
        if folder.exists():
            left = f"{folder} is not finished; {resume}"
        if (folder / RESULT).exists():
            left = f"{folder} is complete"
        return refuse(f"interrupted: {left}", 130)
    files = ", ".join(sorted(file.name for file in folder.iterdir()))
    print(f"\n{printable(str(folder), lines=True)} contains {files}")
    if (folder / "report.html").exists():  # if it cannot be written, the run warns
        print(f"Look at it: {printable(str(folder / 'report.html'), lines=True)}")
    one = configured(experiment, config)
    if one.predicts:
        more = "" if one.data.dataset is not None else " --input FILE"
        print(f"Predict from it: {module} predict {quoted(folder)}{more}")
    return 0


def predict_command(experiment: Experiment[Any], arguments: list[str]) -> None:
    """Predict from a run folder."""
    text = "A .npy or .csv file with a line per row, in the units of the data set."
    inputs = one_option("input", "FILE", text, "the test rows")
    title = "Predict from a finished run: print a line per row."
    folder, found = read_options(experiment, "predict", title, [inputs()], arguments, "a run")
    print_predictions(experiment, folder, found.input)


def _further(command: Command, experiment: Experiment[Any], arguments: list[str]) -> None:
    """Run a further command of an experiment on a run folder."""
    title = command.help[0].upper() + command.help[1:] + "."
    folder, options = read_options(
        experiment, command.name, title, [command.options()], arguments, "a run"
    )
    command.run(load_run(experiment, folder), options)


def _sweeping(name: str, experiment: Experiment[Any], arguments: list[str]) -> int:
    from . import sweep  # its imports take as long as all others

    return getattr(sweep, name)(experiment, arguments)


COMMANDS: dict[str, Callable[[Experiment[Any], list[str]], int | None]] = {
    "run": run_command,
    "predict": predict_command,
    "plan": functools.partial(_sweeping, "plan_command"),
    "sweep": functools.partial(_sweeping, "sweep_command"),
    "resume": resume_command,
}
