"""Packages import only from packages above them in CONTRIBUTING.md, without cycles."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parent.parent / "jaxnn"

# From the ground up; a floor imports from itself and from those before it. What the core is made of
# and what lives next to it are one floor, in which no imports go in a circle.
FLOORS = [
    names.split()
    for names in (
        "installation",
        "files",
        "html",
        "arrays core explain fields initializers keys random validation",
        "fingerprint",
        "tree",
        "functional",
        "layers",
        "combine",
        "data",
        "inspect",
        "surgery",
        "train",
        "interop",
        "models",
        "parallel",
        "generation",
        "experiment",
        "executors",
        "sweep",
        "command",
        "__main__",
    )
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def module(path):
    return (*path.relative_to(ROOT).parts[:-1], path.stem)


def imported(path):
    """The modules of jaxnn that a file imports, as tuples of names, wherever it imports them."""
    here = module(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            name = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = here[: len(here) - node.level] + name
            elif name[:1] == ("jaxnn",):
                base = name[1:]
            else:
                continue
            for alias in node.names:
                inside = ROOT.joinpath(*base)
                is_module = (inside / f"{alias.name}.py").exists() or (inside / alias.name).is_dir()
                yield (*base, alias.name) if is_module else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "jaxnn":
                    yield tuple(alias.name.split(".")[1:])


@functools.cache
def imports():
    """The modules that each module imports."""
    return {module(path): set(imported(path)) for path in FILES}


def floor(name):
    return next(i for i, names in enumerate(FLOORS) if name[0] in names)


def test_no_import_runs_upwards():
    wrong = []
    for here, names in imports().items():
        for name in names:
            if not name:
                wrong.append(f"{here} imports the top of jaxnn, which imports everything")
            elif floor(name) > floor(here):
                wrong.append(f"{here} imports {'.'.join(name)}, from a floor above")
    assert not wrong, "\n".join(wrong)


def test_no_imports_in_a_circle():
    graph = {here: names - {here} for here, names in imports().items()}
    done: set[tuple[str, ...]] = set()

    def visit(name, trail):
        assert name not in trail, f"a circle: {[*trail, name]}"
        if name in done:
            return
        for below in sorted(graph.get(name, ())):
            visit(below, [*trail, name])
        done.add(name)

    for name in graph:
        visit(name, [])
