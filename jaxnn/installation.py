"""The version of jaxnn, and the commands that install missing packages, however it is installed.

`missing` makes the error for an optional package. Its command names the running interpreter, and
the checkout or the distribution that owns this file, so that it is right when pasted into a shell.
The distribution is `jaxnn-functional`; the distribution `jaxnn` is an unrelated project.
"""

import functools
import importlib
import importlib.util
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
DISTRIBUTION = "jaxnn-functional"


def missing(purpose: str, package: str, extra: str) -> ImportError:
    """Return the error for an optional package that is not installed, with the command to write.

    Args:
        purpose: What needs the package, such as "pictures are drawn by".
        package: The missing package, by the name that pip installs.
        extra: The extra of jaxnn that contains it; "" if none does.

    >>> str(missing("pictures are drawn by", "matplotlib", "experiments")).split(":")[0]
    'pictures are drawn by matplotlib, which is not installed'
    """
    command = install(extra) if extra else pip(package)
    return ImportError(f"{purpose} {package}, which is not installed: write {command}")


def required(module: str, purpose: str, package: str, extra: str) -> Any:
    """Import a module of an optional package, or raise the error of `missing`.

    Args:
        module: The import path of the module.
        purpose: What needs the package, such as "pictures are drawn by".
        package: The package, by the name that pip installs.
        extra: The extra of jaxnn that contains it; "" if none does.

    >>> required("json", "texts are read by", "json", "test").loads("1")
    1
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(purpose, package, extra) from error


def check_installed(module: str, purpose: str, package: str, extra: str) -> None:
    """Raise the error of `missing` if an optional package is not installed, without importing it.

    Args:
        module: The import path of the package.
        purpose: What needs the package, such as "pictures are drawn by".
        package: The package, by the name that pip installs.
        extra: The extra of jaxnn that contains it; "" if none does.
    """
    if importlib.util.find_spec(module) is None:
        raise missing(purpose, package, extra)


def install(extra: str, *packages: str) -> str:
    """Return the command that installs an extra of jaxnn, and further packages.

    From a checkout, on `PYTHONPATH` or installed with `-e`, it is `python -m pip install -e
    '/path/to/checkout[extra]'`; otherwise `python -m pip install 'jaxnn-functional[extra]'`. Python
    is the full path of the running interpreter.

    Args:
        extra: One of the extras in pyproject.toml.
        *packages: Names of other packages to install with it.
    """
    folder = checkout()
    if folder is not None:
        return pip("-e", f"{folder}[{extra}]", *packages)
    return pip(f"{_distribution()}[{extra}]", *packages)


def upgrade() -> str:
    """Return the command for the newest jaxnn: `git pull` in a checkout, else `pip install`."""
    folder = checkout()
    if folder is not None:
        return _quoted("git", "-C", str(folder), "pull")
    return pip("--upgrade", _distribution())


def pip(*arguments: str) -> str:
    """Return the command `pip install` with quoted arguments, for the running interpreter.

    It is `uv pip install` if the environment has no pip, as in one that uv created.

    Args:
        *arguments: Arguments of `pip install`.

    >>> pip("a package[extra]").endswith(" install 'a package[extra]'")
    True
    """
    python = sys.executable or "python"
    if importlib.util.find_spec("pip") is None:
        return _quoted("uv", "pip", "install", "--python", python, *arguments)
    return _quoted(python, "-m", "pip", "install", *arguments)


def checkout() -> Path | None:
    """Return the folder of the source tree of this package; None if it is installed.

    It is the folder that holds both the package and its pyproject.toml.
    """
    import tomllib  # here: not needed to import jaxnn

    folder = Path(__file__).resolve().parents[1]
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # A project into which the package was copied has another name, and other extras.
    return folder if project.get("project", {}).get("name") == DISTRIBUTION else None


def _distribution() -> str:
    """Return the name of the installed distribution that owns this file."""
    return _owner(__file__) or DISTRIBUTION


@functools.cache
def _owner(file: str) -> str | None:
    # Every distribution is asked, as the import name does not determine the distribution: another
    # project has a package of the same name.
    wanted = Path(file).resolve()
    for distribution in metadata.distributions():
        for owned in distribution.files or ():
            if owned.name == wanted.name and Path(str(owned.locate())).resolve() == wanted:
                return distribution.metadata["Name"]
    return None


def _quoted(*arguments: str) -> str:
    return subprocess.list2cmdline(arguments) if os.name == "nt" else shlex.join(arguments)
