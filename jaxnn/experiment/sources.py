"""The code that determines an experiment's numbers: every module of the user's project.

Each module is recorded by digests of its definitions, which ignore comments, docstrings,
formatting, and the order of functions. So a changed function can be named:

    {"project.network": {"MLP.forward": "5d41402abc4b2a76", "WIDTH": ...}, ...}

The modules of a project are that of the experiment and all that it imports, also indirectly and
inside functions, without Python's library and installed packages. If one of them imports by a
computed name (`importlib.import_module`), every imported module of the user is recorded.
"""

import ast
import functools
import hashlib
import importlib.machinery
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files.reading import FileError
from ..fingerprint import is_users
from .experiment import Experiment

Modules = Mapping[str, Mapping[str, str]]
IMPORTS, STATEMENTS = "its imports", "its other statements"


def modules(experiment: Experiment[Any]) -> dict[str, dict[str, str]]:
    """The definitions of the user's modules that an experiment depends on, by module."""
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


def recorded(plain: Any, file: Path | str) -> dict[str, Any]:
    """The sources that a run or a sweep recorded in `file`; FileError if there are none."""
    found = plain if isinstance(plain, dict) else {}
    modules, data = found.get("modules"), found.get("data")
    listed = isinstance(modules, dict) and all(isinstance(one, dict) for one in modules.values())
    if not listed or not isinstance(data, dict):
        raise FileError(
            f"{file} does not record the code and the data that it began with, so they cannot be "
            "compared; begin again in another folder"
        )
    return plain


def changed(recorded: Modules) -> list[str]:
    """A line for each recorded module that changed: its file, and the definitions.

    Modules that were not recorded are not imported by those that were, so they do not count.
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
        told = [f"{', '.join(names)} {kind}" for kind, names in kinds.items() if names]
        if told:
            lines.append(f"{file}: {'; '.join(told)}")
    return lines


def definitions(source: str | bytes) -> dict[str, str]:
    """A digest of each definition of a module by name, such as `MLP.forward`.

    >>> a = definitions("WIDTH = 8\\ndef f(x):\\n    '''Double.'''\\n    return 2 * x  # twice")
    >>> b = definitions("def f(x):\\n    return 2*x\\nWIDTH = 9")
    >>> list(a), a["f"] == b["f"], a["WIDTH"] == b["WIDTH"]
    (['WIDTH', 'f'], True, False)
    """
    texts: dict[str, list[str]] = {}
    for name, text in _definitions(ast.parse(source).body):
        texts.setdefault(name, []).append(text)
    texts.get(IMPORTS, []).sort()  # their order does not matter
    return {
        name: hashlib.sha256(repr(text).encode()).hexdigest()[:16] for name, text in texts.items()
    }


def _definitions(body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, str]]:
    """Each statement with the name of what it defines."""
    for node in _without_documentation(body):
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{within}{node.name}.")
            node.body = [ast.Pass()]
            yield f"{within}{node.name}", ast.unparse(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{within}{node.name}", _text(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:  # on one line or several
                node.names = [alias]
                yield IMPORTS, ast.unparse(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield within + ", ".join(map(ast.unparse, targets)), _text(node)
        elif not _is_main(node):
            yield within + STATEMENTS, _text(node)


def _text(node: ast.stmt) -> str:
    """The code of a statement, without comments, docstrings, and formatting."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner.body = _without_documentation(inner.body) or [ast.Pass()]
    return ast.unparse(node)


def _without_documentation(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements without strings that nothing uses: docstrings, and those below a field."""
    return [
        node
        for node in body
        if not (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
    ]


def _is_main(node: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`, which no import runs."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
    )


def _parsed(file: str) -> tuple[dict[str, str], tuple[Any, ...], bool] | None:
    """The definitions of a Python file, what it imports, and whether it imports computed names.

    None if it cannot be read.
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
    """The full names of the modules that a module of `package` imports."""
    for level, name, inside in imports:
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - level + 1]) if level else ""
        full = f"{base}.{name}".strip(".") if base else name
        yield from _with_packages(full)
        yield from (f"{full}.{one}" for one in inside)


def _with_packages(name: str) -> Iterator[str]:
    """A module after the packages around it, which an import runs too."""
    pieces = name.split(".")
    return (".".join(pieces[: i + 1]) for i in range(len(pieces)))


def _file_of(name: str) -> str | None:
    """The file of a module, which is not imported for it."""
    module = sys.modules.get(name)
    main = sys.modules.get("__main__")
    if module is None and name in (_main_name(main), "__main__"):
        module = main
    if module is not None:
        file = getattr(module, "__file__", None)
        return file if isinstance(file, str) and file.endswith(".py") else None
    return _found(name, tuple(sys.path))


def _main_name(main: Any) -> str:
    """The name under which `python -m` or `python file.py` could import the main module."""
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
