"""Arguments of a command as values: a configuration, and the options of the command.

A union field of a configuration is chosen by a word such as `optimizer:sgd`. Everything else is an
option, which tyro reads; the help and the suggestions for misspellings are tyro's.
"""

import dataclasses
import importlib
import inspect
import sys
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from ..experiment.experiment import Experiment
from ..explain.text import suggestion
from ..files.reading import printable
from ..installation import missing


def parse(
    experiment: Experiment[Any],
    arguments: list[str],
    options: list[type[Any]],
    *,
    prog: str,
    text: list[str],
    start: Any = None,
    swept: Collection[str] = (),
) -> list[Any]:
    """The configuration and a value of each class of options, from the command line.

    Args:
        experiment: the experiment.
        arguments: the words and options.
        options: frozen dataclasses whose fields are the options of the command.
        prog: how the command is called.
        text: paragraphs of the help before the options.
        start: the configuration that the arguments change; by default that of the experiment.
        swept: dotted paths of fields that the arguments cannot set, since the sweep does.

    Raises:
        SystemExit: 0 after printing help, 2 for unknown options.
        ValueError: a field that is swept.
    """
    tyro = library()
    _check_not_swept(arguments, swept)
    default, rest = chosen(experiment.config() if start is None else start, arguments)

    parts = {"config": (experiment.config, default)}
    parts |= {f"options{index}": (cls, cls()) for index, cls in enumerate(options)}
    flat = tyro.conf.arg(name="")  # without the name of the part before each option
    signature = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=value,
            annotation=Annotated[cls, flat],
        )
        for name, (cls, value) in parts.items()
    ]

    def collected(**values: Any) -> list[Any]:
        return list(values.values())

    collected.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    collected.__annotations__ = {one.name: one.annotation for one in signature}
    choices = [
        f"{field.capitalize()}: write {' or '.join(f'{field}:{name}' for name in members)}; the "
        f"options below are those of {_short(type(getattr(default, field)))}.\n"
        for field, members in alternatives(experiment.config).items()
        if field not in swept
    ]
    return tyro.cli(
        collected,
        args=rest,
        prog=prog,
        description="\n".join([text[0], *choices, *text[1:]]),
        config=(tyro.conf.AvoidSubcommands,),
    )


def _check_not_swept(arguments: list[str], swept: Collection[str]) -> None:
    """Raise ValueError for an argument that sets a field that the sweep sets."""
    for argument in arguments:
        if argument.startswith("--"):
            field = argument[2:].partition("=")[0].replace("-", "_")
        else:
            field = argument.partition(":")[0] if ":" in argument else ""
        if field in swept:
            raise ValueError(
                f"{field} is swept, whatever {argument} says: leave it out, or take {field} out of "
                "the experiment's space"
            )


def place(default: str) -> type[Any]:
    """Options with one field, `folder`: the path of the folder to write, or None."""
    tyro = library()
    folder = tyro.conf.arg(
        metavar="FOLDER",
        help="The folder to write, which does not exist yet.",
        help_behavior_hint=f"(default: {default})",
    )
    kind = Annotated[Path | None, folder]
    return dataclasses.make_dataclass("Place", [("folder", kind, None)], frozen=True)


def module_of(experiment: Experiment[Any]) -> str:
    """The module of an experiment, as `python -m` takes it."""
    if experiment.module != "__main__":
        return experiment.module
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return spec.name
    return Path(getattr(main, "__file__", "__main__")).stem  # run as a file


def imported(experiment: Experiment[Any]) -> Experiment[Any]:
    """The experiment of the imported module, if `python -m` runs the module as `__main__`."""
    name = module_of(experiment)
    if experiment.module != "__main__" or name == "__main__":
        return experiment
    module = importlib.import_module(name)
    found = [one for one in vars(module).values() if isinstance(one, Experiment)]
    return next((one for one in found if one.name == experiment.name), experiment)


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

    Returns it with the other arguments. Raises ValueError for an unknown name.
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


def refuse(message: str, status: int) -> int:
    """Print an error in one line, and return the exit status."""
    print(f"error: {printable(message, lines=True)}", file=sys.stderr)
    return status


def library() -> Any:
    """tyro; ImportError with the command that installs it."""
    try:
        import tyro
    except ImportError as error:
        raise missing("the command line is read by", "tyro", "experiments") from error
    return tyro
