"""`jaxnn new`: copy an example to a new file, which the user owns.

The examples are the programs of experiments/ and experiments/gallery, which the tests run: in a
checkout, these folders themselves; in an installed package, the same files in `jaxnn.examples`. A
copy differs from its example only in its name and in a sentence about the extras that it needs.
"""

import argparse
import ast
import contextlib
import importlib.machinery
import importlib.resources
import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

from ..explain.text import suggestion
from ..files import fresh
from ..files.reading import printable, quoted
from ..installation import DISTRIBUTION, checkout, install
from ..validation import Accepts

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
        ValueError: the name of the file cannot be used, or there is no such example.
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
    if name not in examples:
        raise ValueError(f"there is no example {name!r}; {suggestion(name, examples)}")
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
