"""Arguments of a command as values: a configuration, and options of the command's own.

A configuration's union fields are chosen by words such as `optimizer:sgd`; everything else is an
option, read by tyro, whose help and suggestions a user sees.
"""

import dataclasses
import importlib
import inspect
import sys
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from ..experiment.experiment import AnyRecipe
from ..explain.text import suggestion
from ..files.reading import printable
from ..installation import missing


def parse(
    recipe: AnyRecipe,
    arguments: list[str],
    options: list[type[Any]],
    *,
    prog: str,
    text: list[str],
    start: Any = None,
    swept: Collection[str] = (),
) -> list[Any]:
    """The configuration, and a value of each class of options, from what a user wrote.

    Args:
        recipe: the experiment.
        arguments: the words and options.
        options: frozen dataclasses whose fields are the command's own options.
        prog: how the command is called.
        text: paragraphs of the help before the options.
        start: the configuration that the arguments change; by default that of the experiment.
        swept: dotted paths of fields that the arguments cannot give, since a sweep does.

    Raises SystemExit with 0 after printing help, and with 2 for options that there are not, and
    ValueError for a field that is swept.
    """
    tyro = library()
    _check_not_swept(arguments, swept)
    default, rest = chosen(recipe.config() if start is None else start, arguments)

    parts = {"config": (recipe.config, default)}
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
        for field, members in alternatives(recipe.config).items()
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
    """Raise ValueError for an argument that says what no trial would have."""
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
    """Options with one field, `folder`, a path or None: where to write what the command makes."""
    tyro = library()
    folder = tyro.conf.arg(
        metavar="FOLDER",
        help="Where to write it: a folder that does not exist yet.",
        help_behavior_hint=f"(default: {default})",
    )
    kind = Annotated[Path | None, folder]
    return dataclasses.make_dataclass("Place", [("folder", kind, None)], frozen=True)


def module_of(recipe: AnyRecipe) -> str:
    """The module that a recipe is from, as `python -m` takes it."""
    if recipe.module != "__main__":
        return recipe.module
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return spec.name
    return Path(getattr(main, "__file__", "__main__")).stem  # run as a file


def imported(recipe: AnyRecipe) -> AnyRecipe:
    """The recipe as every process knows it, where `python -m` runs its module as `__main__`."""
    name = module_of(recipe)
    if recipe.module != "__main__" or name == "__main__":
        return recipe
    module = importlib.import_module(name)
    found = [one for one in vars(module).values() if isinstance(one, type(recipe))]
    return next((one for one in found if one.name == recipe.name), recipe)


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


def refuse(message: str, status: int) -> int:
    """Say on standard error what cannot be done, and return the exit status."""
    print(f"error: {printable(message, lines=True)}", file=sys.stderr)
    return status


def library() -> Any:
    """tyro, or an ImportError that says what to install."""
    try:
        import tyro
    except ImportError as error:
        raise missing("the command line is read by", "tyro", "experiments") from error
    return tyro
