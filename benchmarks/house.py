"""Counts of the source code, each next to its limit: `python -m benchmarks house`."""

import ast
import collections
import dataclasses
import functools
import io
import tokenize
from pathlib import Path

from benchmarks import fresh, imports
from benchmarks.report import Bar

PACKAGE = Path(__file__).parents[1] / "jaxnn"
TRAINING = ("train", "experiment", "parallel", "sweep")
# Names of functions that do the same thing in several packages.
SHARED_NAMES = {
    "main": "the entry point of a command line",
    "run": "what a user calls to run a program, an experiment, or a sweep",
}
# Folders with the same file names: the mathematics of a layer, and the layer.
MIRRORED = {"functional", "layers"}


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What the counts need of a file, which is parsed once."""

    public: tuple[str, ...]
    raises: int
    tests_for_wrapper: int
    declares: int
    documentation: frozenset[int]


@functools.cache
def parsed(file: Path) -> Parsed:
    """Return what the counts need of a file.

    Args:
        file: a Python file.
    """
    module = ast.parse(file.read_text(encoding="utf-8"))
    raises = wrappers = declares = 0
    documentation: set[int] = set()
    for node in ast.walk(module):
        raises += _raises(node)
        wrappers += _tests_for_wrapper(node)
        declares += isinstance(node, ast.FunctionDef) and node.name == "_declare"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    public = tuple(
        node.name
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
    )
    return Parsed(public, raises, wrappers, declares, frozenset(documentation))


def files(*folders: str) -> list[Path]:
    """Return the Python files in folders of the package, or in all of it.

    Args:
        folders: names of folders, such as "core". Default: the whole package.
    """
    return [file for name in folders or ("",) for file in sorted((PACKAGE / name).rglob("*.py"))]


def lines_of_code(file: Path) -> int:
    """Return the number of lines of code, without blank lines, comments, and docstrings.

    Args:
        file: a Python file.
    """
    text, lines = file.read_text(encoding="utf-8"), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.string.strip() and token.type != tokenize.COMMENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - parsed(file).documentation)


def counts() -> list[Bar]:
    """Return the counts of the source code with their limits."""
    everything = [parsed(file) for file in files()]
    outside_core = [parsed(file) for file in files() if file.parent != PACKAGE / "core"]
    core = [file for file in files("core") if file.stem != "__init__"]
    return [
        Bar("files in core", len(core), 6),
        Bar("lines of code in core", sum(map(lines_of_code, core)), 900),
        Bar("files in jaxnn", len(files()), 190),
        Bar("files in sweep", len(files("sweep")), 25),
        Bar(
            "raises, and calls of `validation.require`",
            sum(one.raises for one in everything),
            349,
        ),
        Bar(
            "lines of code in " + ", ".join(TRAINING),
            sum(map(lines_of_code, files(*TRAINING))),
            8935,
        ),
        Bar("names of several public functions or classes", len(shared_names()), 0),
        Bar("names of several files", len(shared_file_names()), 0),
        Bar(
            "tests for Wrapper outside core",
            sum(one.tests_for_wrapper for one in outside_core),
            0,
        ),
        Bar("methods _declare outside core", sum(one.declares for one in outside_core), 0),
    ]


def shared_names() -> dict[str, list[str]]:
    """Return each name of several public functions or classes of modules, with their files."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for file in files():
        for name in parsed(file).public:
            found[name].add(str(file.relative_to(PACKAGE)))
    return {
        name: sorted(where)
        for name, where in found.items()
        if len(where) > 1 and name not in SHARED_NAMES
    }


def shared_file_names() -> dict[str, list[str]]:
    """Return each name of several files, with their folders."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for file in files():
        if file.stem not in ("__init__", "__main__"):
            found[file.stem].append(str(file.parent.relative_to(PACKAGE)))
    return {
        name: folders
        for name, folders in found.items()
        if len(folders) > 1 and set(folders) != MIRRORED
    }


def main() -> None:
    """Print the counts, and the time of `import jaxnn` beyond that of jax."""
    sides = {"jaxnn": ["-c", imports.SCRIPT.format(module="jaxnn")]}
    seconds = fresh.interleaved(sides, rounds=imports.ROUNDS)["import"]["jaxnn"].median
    for bar in [*counts(), Bar("seconds of `import jaxnn` beyond jax", seconds, imports.LIMIT)]:
        print(
            f"{bar.value:8g}  at most {bar.limit:<6g} {'' if bar.met else 'NOT MET':8} {bar.claim}"
        )


def _tests_for_wrapper(node: ast.AST) -> bool:
    """Return whether a node is `isinstance(x, Wrapper)`."""
    if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"):
        return False
    return any(
        "Wrapper" in (getattr(name, "id", ""), getattr(name, "attr", ""))
        for name in ast.walk(node.args[1])
    )


def _raises(node: ast.AST) -> bool:
    """Return whether a node raises an exception, itself or by `require` of a condition."""
    if isinstance(node, ast.Raise):
        return bool(node.exc)
    if not isinstance(node, ast.Call):
        return False
    return "require" in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
