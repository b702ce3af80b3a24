"""The command line of an experiment.

    python -m experiments.mnist_mlp                              train, with defaults
    python -m experiments.mnist_mlp --epochs 5                   the same with another number
    python -m experiments.mnist_mlp optimizer:adamw              the same with another optimizer
    python -m experiments.mnist_mlp predict runs/mnist_mlp-...   predict from a saved run

`run` is meant where no command is given. What a user can put right is told in a line, without a
traceback.
"""

import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from ..core.signatures import suggestion
from .folder import default_place
from .prediction import predict
from .program import Recipe
from .run import run


def main(recipe: Recipe[Any], arguments: Sequence[str] | None = None) -> int:
    """Run the command line of an experiment, and return the exit status.

    0 is success, 1 something that could not be done, 2 a wrong command line, 130 Ctrl-C. Raises
    SystemExit with 0 after printing help, and with 2 for options that there are not.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # An option or `optimizer:sgd` belongs to the default command.
    named = bool(arguments) and not arguments[0].startswith("-") and ":" not in arguments[0]
    command = arguments.pop(0) if named else "run"
    if command not in COMMANDS:
        return _refuse(f"there is no command {command!r}; {suggestion(command, COMMANDS)}", 2)
    try:
        return COMMANDS[command](recipe, arguments)
    except (ValueError, OSError, ImportError) as error:
        return _refuse(str(error), 1)


def run_command(recipe: Recipe[Any], arguments: list[str]) -> int:
    """Train, and write a run folder."""
    tyro = _library()

    def parsed(
        config: Annotated[Any, tyro.conf.arg(name="")],
        folder: Annotated[
            Path | None,
            tyro.conf.arg(
                metavar="FOLDER",
                help_behavior_hint=f"(default: runs/{recipe.name}-DATE-TIME)",
            ),
        ] = None,
    ) -> tuple[Any, Path | None]:
        """Train.

        Args:
            config: the configuration.
            folder: Where to write the run: a folder that does not exist yet.
        """
        return config, folder

    default, arguments = chosen(recipe.config(), arguments)
    parsed.__annotations__["config"] = Annotated[recipe.config, tyro.conf.arg(name="")]
    parsed.__defaults__ = (default, None)
    module = f"python -m experiments.{recipe.name}"
    choices = [
        f"{field.capitalize()}: write {' or '.join(f'{field}:{name}' for name in members)}; the "
        f"options below are those of {_short(type(getattr(default, field)))}.\n"
        for field, members in alternatives(recipe.config).items()
    ]
    config, folder = tyro.cli(
        parsed,
        args=arguments,
        prog=module,
        description="\n".join(
            # tyro sets a block apart by two lines where there is one before it already.
            [
                (recipe.header or "").replace("\n\n    ", "\n    "),
                *choices,
                f"To predict from a saved run: {module} predict --help",
            ]
        ),
        config=(tyro.conf.AvoidSubcommands,),
    )
    place = folder or default_place(recipe.name)
    try:
        run(recipe, config, place)
    except KeyboardInterrupt:
        left = f"{place} is whole" if place.exists() else "nothing was written"
        return _refuse(f"interrupted: {left}", 130)
    files = ", ".join(sorted(file.name for file in place.iterdir()))
    print(f"\n{place} holds {files}\nPredict from it: {module} predict {place}")
    return 0


def predict_command(recipe: Recipe[Any], arguments: list[str]) -> int:
    """Predict from a run folder."""
    tyro = _library()

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
        prog=f"python -m experiments.{recipe.name} predict",
        description="Predict from a saved run: print a row an example.",
    )
    predict(recipe, folder, file)
    return 0


COMMANDS: dict[str, Callable[[Recipe[Any], list[str]], int]] = {
    "run": run_command,
    "predict": predict_command,
}


def alternatives(config: type[Any]) -> dict[str, dict[str, type[Any]]]:
    """The dataclasses that each union field of a configuration may hold, by their short names."""
    unions = {
        name: [one for one in typing.get_args(kind) if dataclasses.is_dataclass(one)]
        for name, kind in typing.get_type_hints(config).items()
    }
    return {
        name: {_short(one): one for one in members if isinstance(one, type)}
        for name, members in unions.items()
        if len(members) > 1
    }


def chosen(config: Any, arguments: list[str]) -> tuple[Any, list[str]]:
    """The configuration with the dataclasses that arguments like `optimizer:sgd` name.

    Returns it with the other arguments. Raises ValueError for a name that there is not.
    """
    unions, rest = alternatives(type(config)), []
    for argument in arguments:
        field, colon, name = argument.partition(":")
        if not colon or field not in unions:
            rest.append(argument)
        elif name not in unions[field]:
            known = [f"{field}:{one}" for one in unions[field]]
            raise ValueError(f"there is no {argument!r}; {suggestion(argument, known)}")
        else:
            config = dataclasses.replace(config, **{field: unions[field][name]()})
    return config, rest


def _short(cls: type[Any]) -> str:
    return cls.__name__.lower()


def _refuse(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _library() -> Any:
    try:
        import tyro
    except ImportError as error:
        raise ImportError(
            "the command line is read by tyro, which is not installed: write "
            "pip install 'jaxnn[experiments]'"
        ) from error
    return tyro
