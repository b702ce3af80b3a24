"""The command line of an experiment.

    python -m experiments.mnist_mlp                              train, with defaults
    python -m experiments.mnist_mlp --epochs 5                   the same with another number
    python -m experiments.mnist_mlp optimizer:adamw              the same with another optimizer
    python -m experiments.mnist_mlp predict runs/mnist_mlp-...   predict from a saved run
    python -m experiments.mnist_mlp plan                         what a sweep would be
    python -m experiments.mnist_mlp sweep                        sweep the experiment's space
    python -m experiments.mnist_mlp resume sweeps/mnist_mlp-...  go on with a sweep that stopped
    python -m experiments.mnist_mlp resume runs/mnist_mlp-...    go on with a run that stopped
    python -m experiments.mnist_mlp run --from sweeps/...:best   train the best of a sweep

`run` is meant where no command is given. What a user can put right is told in a line, without a
traceback.
"""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from ..experiment.experiment import AnyRecipe, Experiment, configured
from ..experiment.folder import default_place
from ..experiment.prediction import load_run, load_watched, predict
from ..experiment.program import Command, Recipe
from ..experiment.program_run import predict_program, run_program
from ..experiment.run import Watching, run
from ..explain.text import suggestion
from ..files.plain import quoted
from ..files.reading import printable
from ..train import Interrupted
from .parsing import imported, library, module_of, parse, place, refuse


def main(recipe: AnyRecipe, arguments: Sequence[str] | None = None) -> int:
    """Run the command line of an experiment, and return the exit status.

    0 is success, 1 something that could not be done, 2 a wrong command line, 130 Ctrl-C. Raises
    SystemExit with 0 after printing help, and with 2 for options that there are not.
    """
    status = _run(recipe, list(sys.argv[1:] if arguments is None else arguments))
    if status == 130 and arguments is None:
        # What XLA is still computing cannot be stopped, and crashes where its client is taken down.
        atexit.register(_leave, status)
    return status


def _leave(status: int) -> None:
    """End the process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(recipe: AnyRecipe, arguments: list[str]) -> int:
    # Python's last look for garbage, through all that JAX holds, takes half a second.
    atexit.register(gc.freeze)
    # An option or `optimizer:sgd` belongs to the default command.
    named = bool(arguments) and not arguments[0].startswith("-") and ":" not in arguments[0]
    command = arguments.pop(0) if named else "run"
    known = {one.name: _of_its_own(one) for one in recipe.commands} | COMMANDS
    if command not in known:
        return refuse(f"there is no command {command!r}; {suggestion(command, known)}", 2)
    try:
        return known[command](imported(recipe), arguments)
    except (ValueError, OSError, ImportError) as error:
        return refuse(str(error), 1)
    except KeyboardInterrupt:
        return refuse("interrupted", 130)


def run_command(recipe: AnyRecipe, arguments: list[str]) -> int:
    """Train, and write a run folder."""
    module = f"python -m {module_of(recipe)}"
    start, arguments = _start(recipe, arguments)
    commands = {"predict": "predict from a saved run", "resume": "go on with a run that stopped"}
    commands |= {one.name: one.help for one in recipe.commands}
    if recipe.space is not None:
        commands |= {
            "plan": "say what a sweep would be",
            "sweep": "train many configurations",
            "resume": "go on with a run or a sweep",
            "run --from FOLDER:best": "train the best trial of a sweep, or FOLDER:17",
        }
    calls = {
        f"{module} {name}{'' if ':' in name else ' --help'}": commands[name] for name in commands
    }
    width = max(map(len, calls))
    text = [
        # tyro sets a block apart by two lines where there is one before it already.
        (recipe.header or "").replace("\n\n    ", "\n    "),
        "\n".join(
            ["Besides:", *(f"    {call.ljust(width)}  {what}" for call, what in calls.items())]
        ),
    ]
    config, options, watching = parse(
        recipe,
        arguments,
        [place(f"runs/{recipe.name}-DATE-TIME"), Watching],
        prog=module,
        text=text,
        start=start,
    )
    return _trained(recipe, config, options.folder or default_place(recipe.name), watching)


def resume_command(recipe: AnyRecipe, arguments: list[str]) -> int:
    """Go on with a run or a sweep that stopped."""
    force = "--force" in arguments
    rest = [one for one in arguments if one != "--force"]
    if len(rest) == 1 and (Path(rest[0]) / "config.json").is_file():
        config, watching = load_watched(recipe, Path(rest[0]))
        return _trained(recipe, config, Path(rest[0]), watching, force)
    return _sweeping("resume")(recipe, arguments)


def _trained(
    recipe: AnyRecipe, config: Any, folder: Path, watching: Watching, force: bool = False
) -> int:
    """Train, and say what there is then."""
    module = f"python -m {module_of(recipe)}"
    go_on = f"go on with it: {module} resume {quoted(folder)}"
    train = run_program if isinstance(recipe, Experiment) else run
    try:
        train(recipe, config, folder, watching, force)  # type: ignore[arg-type]
    except Interrupted as stopped:
        print(f"\n{printable(str(stopped), lines=True)}\n{go_on}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        if (folder / "result.json").exists():
            return refuse(f"interrupted: {folder} is whole", 130)
        left = f"{folder} is not finished; {go_on}" if folder.exists() else "nothing was written"
        return refuse(f"interrupted: {left}", 130)
    files = ", ".join(sorted(file.name for file in folder.iterdir()))
    print(f"\n{printable(str(folder), lines=True)} holds {files}")
    if (folder / "report.html").exists():  # if it cannot be written, the run warns
        print(f"Look at it: {printable(str(folder / 'report.html'), lines=True)}")
    if not isinstance(recipe, Experiment):
        print(f"Predict from it: {module} predict {quoted(folder)}")
    elif configured(recipe, config).predicts:
        print(f"Predict from it: {module} predict {quoted(folder)} --input FILE")
    return 0


def _start(recipe: AnyRecipe, arguments: list[str]) -> tuple[Any, list[str]]:
    """The configuration that `--from FOLDER:TRIAL` names, or the experiment's; and what is left."""
    if "--from" not in arguments:
        return None, arguments
    at = arguments.index("--from")
    if at + 1 == len(arguments):
        raise ValueError("--from wants a sweep and a trial: write --from sweeps/NAME-DATE:best")
    from .sweep import configuration_of

    return configuration_of(recipe, arguments[at + 1]), arguments[:at] + arguments[at + 2 :]


def predict_command(recipe: AnyRecipe, arguments: list[str]) -> int:
    """Predict from a run folder."""
    tyro = library()

    def parsed(
        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
        input: Annotated[
            Path | None,
            tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the test examples)"),
        ] = None,
    ) -> tuple[Path, Path | None]:
        """Predict.

        Args:
            folder: The folder of a run, such as the run itself printed.
            input: A .npy or .csv file with a row an example, in the units of the data set.
        """
        return folder, input

    folder, file = tyro.cli(
        parsed,
        args=arguments,
        prog=f"python -m {module_of(recipe)} predict",
        description="Predict from a saved run: print a row an example.",
    )
    if isinstance(recipe, Experiment):
        predict_program(recipe, folder, file)
    else:
        predict(recipe, folder, file)
    return 0


def _of_its_own(command: Command) -> Callable[[AnyRecipe, list[str]], int]:
    """A command of the experiment's own, on a run folder."""

    def run_on(recipe: AnyRecipe, arguments: list[str]) -> int:
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
            prog=f"python -m {module_of(recipe)} {command.name}",
            description=command.help[0].upper() + command.help[1:] + ".",
        )
        assert isinstance(recipe, Recipe)
        command.run(*load_run(recipe, folder), options)
        return 0

    return run_on


def _sweeping(name: str) -> Callable[[AnyRecipe, list[str]], int]:
    def command(recipe: AnyRecipe, arguments: list[str]) -> int:
        from . import sweep  # what it imports takes as long as all the rest

        return getattr(sweep, f"{name}_command")(recipe, arguments)

    return command


COMMANDS: dict[str, Callable[[AnyRecipe, list[str]], int]] = {
    "run": run_command,
    "predict": predict_command,
    "plan": _sweeping("plan"),
    "sweep": _sweeping("sweep"),
    "resume": resume_command,
}
