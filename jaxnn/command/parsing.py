"""Arguments of a command as values: a configuration, and the options of the command.

A union field of a configuration is chosen by a word such as `optimizer:sgd`. Everything else is an
option, which tyro parses; it also prints the help, and suggestions for misspellings.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import os
import re
import shutil
import signal
import sys
import textwrap
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from ..experiment.configuration import class_name, is_class, members_of
from ..experiment.experiment import Experiment
from ..experiment.sources import module_of
from ..explain.text import check_known, suggestion
from ..files.reading import printable
from ..installation import required


def execute(commands: Mapping[str, Callable[..., int | None]], name: str, *arguments: Any) -> int:
    """Run a command, and return its exit status; an error is printed in one line.

    The status is 0 for success, 1 for an error, 2 for an unknown command or option, 130 for Ctrl-C,
    143 for SIGTERM, and 141 if the reader of the output exits early, as `head` does.

    Args:
        commands: functions by name, which return their exit status, or None for 0.
        name: of the command.
        *arguments: of the function.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that it cannot encode ends no sweep
        sys.stdout.reconfigure(errors="replace")
    if name not in commands:
        return refuse(f"there is no command {name!r}; {suggestion(name, commands)}", 2)
    try:
        try:
            return commands[name](*arguments) or 0
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer would be written, and fail again, when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError, ImportError) as error:
        return refuse(str(error), 1)
    except KeyboardInterrupt as stopped:
        return refuse("interrupted", 128 + getattr(stopped, "number", signal.SIGINT))


def refuse(message: str, status: int) -> int:
    """Print an error, and return the exit status."""
    print(f"error: {printable(message, lines=True)}", file=sys.stderr)
    return status


def parse(
    experiment: Experiment[Any],
    arguments: list[str],
    options: list[type[Any]],
    *,
    command: str = "",
    text: list[str],
    start: Any = None,
    swept: Collection[str] = (),
) -> list[Any]:
    """Return the configuration and a value of each class of options, from the command line.

    Args:
        experiment: the experiment.
        arguments: the words and options.
        options: frozen dataclasses whose fields are the options of the command.
        command: the name of the command. Default: "", that of a run.
        text: paragraphs of the help before the options.
        start: the configuration that the arguments change. Default: None, that of the experiment.
        swept: dotted paths of fields that the sweep sets, not the arguments. Default: none.

    Raises:
        SystemExit: 0 after printing help, 2 for unknown options.
        ValueError: an argument sets a field that is swept.
    """
    for argument in arguments:
        name, equals, _ = argument.partition("=" if argument.startswith("--") else ":")
        field = name.removeprefix("--").replace("-", "_")
        if field in swept and (name.startswith("--") or equals):
            raise ValueError(
                f"{field} is swept, so {argument} has no effect: leave it out, or remove {field} "
                "from the experiment's space"
            )
    default, rest = choose_variants(experiment.config() if start is None else start, arguments)
    choices = [
        f"{field.capitalize()}: write {' or '.join(f'{field}:{name}' for name in members)}; the "
        f"options below are those of {_short(type(_at(default, field)))}.\n"
        for field, members in alternatives(default).items()
        if field not in swept
    ]
    values = [default, *(one() for one in options)]
    description = "\n".join([text[0], *choices, *text[1:]])
    return read_options(experiment, command, description, values, rest, swept=swept)


def read_options(
    experiment: Experiment[Any],
    command: str,
    description: str,
    values: list[Any],
    arguments: list[str],
    folder: str = "",
    swept: Collection[str] = (),
) -> list[Any]:
    """Return the folder and the values that the command line gives.

    Args:
        experiment: the experiment.
        command: the name of the command.
        description: the help before the options.
        values: dataclasses with the defaults of the options.
        arguments: the command line.
        folder: the contents of the folder that the first word names, for the help. Default: "", the
            command takes no folder.
        swept: dotted paths of fields of the first value that have no option. Default: none.
    """
    tyro = import_tyro()
    unnamed = tyro.conf.arg(name="")  # options are named by their fields alone
    parts: list[Any] = []
    for value in values:
        default = dataclasses.field(default_factory=lambda value=value: value)
        parts.append((f"part{len(parts)}", Annotated[type(value), unnamed], default))
    if folder:
        word = tyro.conf.arg(metavar="FOLDER", help=f"The folder of {folder}.")
        parts.insert(0, ("folder", Annotated[Path, tyro.conf.Positional, word]))
    with wrapped_help(arguments), naming_options(*map(type, values)):
        found = tyro.cli(
            dataclasses.make_dataclass("Arguments", parts),
            args=arguments,
            prog=" ".join(["python -m", module_of(experiment), command]).strip(),
            # Each paragraph is passed as one line, because tyro joins only some lines of a text.
            description=re.sub(r"(?<=\S)\n(?=\S)", " ", description),
            config=(tyro.conf.AvoidSubcommands,),
            registry=_without(values[0], swept) if swept else None,
        )
    return list(vars(found).values())


@contextlib.contextmanager
def naming_options(*kinds: type[Any]) -> Iterator[None]:
    """Name the option in an error about a field of a class: `--trials` for `Settings.trials`.

    Args:
        *kinds: the classes whose fields are options.
    """
    try:
        yield
    except ValueError as error:
        names = "|".join(kind.__name__ for kind in kinds)
        field = re.compile(rf"^(?:{names})\.(\w+)(?= must )")
        text = field.sub(lambda match: "--" + match[1].replace("_", "-"), str(error))
        if text == str(error):
            raise
        raise ValueError(text) from error


@contextlib.contextmanager
def wrapped_help(arguments: Collection[str]) -> Iterator[None]:
    """Wrap the help that is printed to the width of the terminal, as tyro does not.

    Args:
        arguments: the command line; only `--help` prints help.
    """
    if not {"-h", "--help"} & set(arguments):
        yield
        return
    written = io.StringIO()
    try:
        with contextlib.redirect_stdout(written):
            yield
    finally:
        width = shutil.get_terminal_size().columns
        for line in written.getvalue().splitlines():
            print(textwrap.fill(line, width) if line[:1].isalpha() else line)


def _without(config: Any, swept: Collection[str]) -> Any:
    """Return a registry of tyro in which the swept fields of a configuration have no options."""
    made = import_tyro().constructors
    registry, hidden, asking = made.ConstructorRegistry(), dict[int, set[str]](), list[Any]()
    for path in swept:
        above, _, name = path.rpartition(".")
        with contextlib.suppress(AttributeError):  # of another class of a union
            owner = _at(config, above) if above else config
            if not dataclasses.is_dataclass(getattr(owner, name)):
                hidden.setdefault(id(owner), set()).add(name)

    @registry.struct_rule
    def visible(info: Any) -> Any:
        """Return the options of a dataclass by tyro's own rule, without those that are hidden."""
        if id(info.default) not in hidden or asking:
            return None
        asking.append(info)
        try:
            spec = made.ConstructorRegistry.get_struct_spec(info)
        finally:
            asking.pop()
        shown = tuple(one for one in spec.fields if one.name not in hidden[id(info.default)])

        def constructed(**given: Any) -> Any:
            return dataclasses.replace(info.default, **given)

        constructed.__doc__ = type(info.default).__doc__  # the heading of its options
        return made.StructConstructorSpec(constructed, shown)

    return registry


def texts_of(option: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the texts that follow an option, and the other arguments.

    Args:
        option: The option.
        arguments: The command line; an option that is its last word has the text "".

    >>> texts_of("--sweep", ["--epochs", "3", "--sweep", "width=32,64", "--sweep=depth=1,2"])
    (['width=32,64', 'depth=1,2'], ['--epochs', '3'])
    """
    texts, rest, words = [], [], iter(arguments)
    for word in words:
        if word == option:
            texts.append(next(words, ""))
        elif word.startswith(f"{option}="):
            texts.append(word.removeprefix(f"{option}="))
        else:
            rest.append(word)
    return texts, rest


def one_option(name: str, metavar: str, help: str, default: str) -> type[Any]:
    """Return a class of options with one path, None by default.

    Args:
        name: of the option.
        metavar: its value in the help.
        help: a sentence.
        default: what None means.
    """
    hint = f"(default: {default})"
    word = import_tyro().conf.arg(metavar=metavar, help=help, help_behavior_hint=hint)
    fields = [(name, Annotated[Path | None, word], None)]
    return dataclasses.make_dataclass("Option", fields, frozen=True)


def folder_option(default: str) -> type[Any]:
    """Return a class of options with the folder to write."""
    text = "The folder to write, which must not exist yet."
    return one_option("folder", "FOLDER", text, default)


def imported(experiment: Experiment[Any]) -> Experiment[Any]:
    """Return the experiment of the imported module, if `python -m` runs it as `__main__`."""
    name = module_of(experiment)
    if experiment.module != "__main__" or name == "__main__":
        return experiment
    module = importlib.import_module(name)
    found = [one for one in vars(module).values() if isinstance(one, Experiment)]
    return next((one for one in found if one.name == experiment.name), experiment)


def alternatives(config: Any) -> dict[str, dict[str, type[Any]]]:
    """Return the classes of each union field by their short names, `none` for an optional one.

    Args:
        config: the configuration; the union fields of the classes that it has are included, by
            their dotted paths.

    >>> from jaxnn.experiment import SGD, AdamW
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     optimizer: AdamW | SGD = SGD()
    ...     teacher: SGD | None = None
    >>> {path: list(classes) for path, classes in alternatives(Config()).items()}
    {'optimizer': ['adamw', 'sgd'], 'teacher': ['sgd', 'none']}
    """
    found: dict[str, dict[str, type[Any]]] = {}
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        members = list(filter(is_class, members_of([hints[field.name]])))
        if len(members) > 1:
            found[field.name] = {_short(one): one for one in members}
        now = getattr(config, field.name)
        if dataclasses.is_dataclass(now):
            found |= {f"{field.name}.{path}": one for path, one in alternatives(now).items()}
    return found


def choose_variants(config: Any, arguments: list[str]) -> tuple[Any, list[str]]:
    """Return the configuration that words like `optimizer:sgd` choose, and the other arguments.

    Args:
        config: the configuration to change.
        arguments: the command line.

    Raises:
        ValueError: an unknown name, or a class without defaults.
    """
    words = [one for one in arguments if re.fullmatch(r"[\w.]+:\w+", one)]
    rest = [one for one in arguments if one not in words]
    for word in sorted(words, key=lambda word: word.count(".")):  # a class before what is inside
        field, _, name = word.partition(":")
        members = alternatives(config).get(field)
        if members is None:
            rest.append(word)
        else:
            check_known(word, [f"{field}:{one}" for one in members], f"there is no {word!r}")
            config = _with(config, field.split("."), _started(members[name], word))
    return config, rest


def _started(cls: type[Any], word: str) -> Any:
    """Return an instance of a class with its defaults, or None for its type."""
    if cls is type(None):
        return None
    try:
        return cls()
    except TypeError as error:
        raise ValueError(
            f"{word} starts from the defaults of {cls.__name__}, which lacks some ({error}): write "
            "defaults in the class"
        ) from None


def _with(config: Any, path: list[str], value: Any) -> Any:
    """Return a configuration with another value at a path."""
    field, *inner = path
    new = _with(getattr(config, field), inner, value) if inner else value
    return dataclasses.replace(config, **{field: new})


def _at(config: Any, path: str) -> Any:
    """Return the value of a configuration at a dotted path."""
    return functools.reduce(getattr, path.split("."), config)


def _short(cls: type[Any]) -> str:
    return class_name(cls).lower()


def import_tyro() -> Any:
    """Return tyro; raise ImportError, with the command that installs it, if it is missing."""
    return required("tyro", "the command line is read by", "tyro", "experiments")
