"""The code that determines the results of an experiment: every module of the user's project.

Each module is recorded by digests of its definitions, which ignore comments, docstrings,
formatting, and the order of functions. So a changed function can be named:

    {"project.network": {"MLP.forward": "5d41402abc4b2a76", "WIDTH": ...}, ...}

The modules of a project are that of the experiment and all that it imports, also indirectly and
inside functions, except Python's library and installed packages. If one of them imports by a
computed name (`importlib.import_module`), every imported module of the user is recorded.
"""

import ast
import functools
import hashlib
import importlib.machinery
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files.reading import FileError
from ..fingerprint import fingerprint_differences, is_users
from .experiment import Experiment

Modules = Mapping[str, Mapping[str, str]]
IMPORTS, STATEMENTS = "its imports", "its other statements"


def modules(experiment: Experiment[Any]) -> dict[str, dict[str, str]]:
    """Return the definitions of the user's modules that an experiment depends on, by module."""
    roots = {name for part in experiment.parts if (name := getattr(part, "__module__", None))}
    found: dict[str, dict[str, str]] = {}
    waiting = [one for root in sorted(roots) for one in _with_packages(root)]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        parsed = _parsed(str(file)) if is_users(file) else None
        if parsed is None:
            continue
        found[name] = parsed[0]
        package = name if Path(str(file)).name == "__init__.py" else name.rpartition(".")[0]
        names = [*_absolute(parsed[1], package), *(list(sys.modules) if parsed[2] else ())]
        waiting += [one for one in dict.fromkeys(names) if one not in seen and one != "__main__"]
        seen.update(names)
    return dict(sorted(found.items()))


def changes_since(recorded: Any, now: Mapping[str, Any], file: Path | str) -> list[str]:
    """Return a line for each recorded module, and each other item, that changed.

    Args:
        recorded: what a run or a sweep recorded when it began: "modules", "data", and others.
        now: the same at present; the current modules are read from their files.
        file: where `recorded` is, for errors.

    Raises:
        FileError: `recorded` is invalid.
    """
    found = recorded if isinstance(recorded, dict) else {}
    parts = found.get("modules"), found.get("data")
    if not all(isinstance(one, dict) for one in (*parts, *(parts[0] or {}).values())):
        raise FileError(
            f"{file} does not record the code and the data that it began with, so they cannot be "
            "compared; begin again in another folder"
        )
    before, others = ({k: v for k, v in one.items() if k != "modules"} for one in (found, now))
    return changed(found["modules"]) + fingerprint_differences(before, others)


def changed(recorded: Modules) -> list[str]:
    """Return a line for each recorded module that changed: its file, and the definitions.

    Modules that were not recorded do not count, since the recorded ones do not import them.
    """
    lines = []
    for name, before in recorded.items():
        file = _file_of(name)
        parsed = _parsed(str(file))
        if parsed is None:
            lines.append(f"the module {name} cannot be found")
            continue
        now = parsed[0]
        kinds = {
            "changed": [one for one in before if one in now and before[one] != now[one]],
            "removed": [one for one in before if one not in now],
            "added": [one for one in now if one not in before],
        }
        texts = [f"{', '.join(names)} {kind}" for kind, names in kinds.items() if names]
        if texts:
            lines.append(f"{file}: {'; '.join(texts)}")
    return lines


def definitions(source: str | bytes) -> dict[str, str]:
    """Return a digest of each definition of a module by name, such as `MLP.forward`.

    >>> a = definitions("WIDTH = 8\\ndef f(x):\\n    '''Double.'''\\n    return 2 * x  # twice")
    >>> b = definitions("def f(x):\\n    return 2*x\\nWIDTH = 9")
    >>> list(a), a["f"] == b["f"], a["WIDTH"] == b["WIDTH"]
    (['WIDTH', 'f'], True, False)
    """
    texts: dict[str, list[str]] = {}
    for name, text in _definitions(_WithoutTexts().visit(ast.parse(source)).body):
        texts.setdefault(name, []).append(text)
    texts.get(IMPORTS, []).sort()  # their order does not matter
    return {
        name: hashlib.sha256(repr(text).encode()).hexdigest()[:16] for name, text in texts.items()
    }


class _WithoutTexts(ast.NodeTransformer):
    """Removes strings that nothing uses: docstrings, and those below a field."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Return the statement, or None for a string."""
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node


def _definitions(body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, str]]:
    """Yield each statement with the name of what it defines."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{within}{node.name}.")
            node.body = []
            yield f"{within}{node.name}", ast.unparse(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{within}{node.name}", ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:  # on one line or several
                node.names = [alias]
                yield IMPORTS, ast.unparse(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield within + ", ".join(map(ast.unparse, targets)), ast.unparse(node)
        elif not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            yield within + STATEMENTS, ast.unparse(node)  # no import runs __name__ == "__main__"


def _parsed(file: str) -> tuple[dict[str, str], tuple[Any, ...], bool] | None:
    """Return the definitions of a file, its imports, and whether it imports computed names.

    It returns None if the file cannot be read.
    """
    try:
        stat = Path(file).stat()
        return _parsed_once(file, stat.st_mtime_ns, stat.st_size)
    except (OSError, SyntaxError, ValueError):
        return None


@functools.lru_cache(4096)
def _parsed_once(file: str, changed: int, size: int) -> Any:
    source = Path(file).read_bytes()
    imports, computed = [], False
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            imports.append((node.level, node.module or "", names))
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            computed = computed or name in ("import_module", "__import__")
    return definitions(source), tuple(imports), computed


def _absolute(imports: Any, package: str) -> Iterator[str]:
    """Yield the full names of the modules that a module of `package` imports."""
    for level, name, inside in imports:
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - level + 1]) if level else ""
        full = f"{base}.{name}".strip(".") if base else name
        yield from _with_packages(full)
        yield from (f"{full}.{one}" for one in inside)


def _with_packages(name: str) -> Iterator[str]:
    """Yield the packages of a module, which an import runs too, and the module."""
    pieces = name.split(".")
    return (".".join(pieces[: i + 1]) for i in range(len(pieces)))


def _file_of(name: str) -> str | None:
    """Return the file of a module without importing it; None if it is not Python code."""
    module = sys.modules.get(name)
    main = sys.modules.get("__main__")
    if module is None and name in (main_name(main), "__main__"):
        module = main
    if module is not None:
        file = getattr(module, "__file__", None)
        return file if isinstance(file, str) and file.endswith(".py") else None
    return _found(name, tuple(sys.path))


def commit_of(experiment: Experiment[Any]) -> str | None:
    """Return the commit of the experiment's repository, and whether files changed since.

    It is None outside a git repository, or without git.
    """
    file = _file_of(module_of(experiment))

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(Path(str(file)).parent), *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout

    if file is None:
        return None
    try:
        commit = git("rev-parse", "HEAD").strip()
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}, with later changes" if changes else commit


def module_of(experiment: Experiment[Any]) -> str:
    """Return the module of an experiment, as `python -m` takes it."""
    if experiment.module != "__main__":
        return experiment.module
    return main_name(sys.modules["__main__"])


def main_name(main: Any) -> str:
    """Return the name under which the main module could be imported."""
    spec = getattr(main, "__spec__", None)
    return spec.name if spec else Path(getattr(main, "__file__", None) or "__main__").stem


@functools.lru_cache(4096)
def _found(name: str, path: tuple[str, ...]) -> str | None:
    where: Any = list(path)
    spec = None
    for i in range(name.count(".") + 1):
        try:
            spec = importlib.machinery.PathFinder.find_spec(
                ".".join(name.split(".")[: i + 1]), where
            )
        except (ImportError, ValueError):
            return None
        if spec is None or (where := spec.submodule_search_locations) is None:
            break
    if spec is None or spec.name != name or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return spec.origin
