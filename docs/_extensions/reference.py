"""Write the reference: one page for each group of public names, from the packages themselves."""

import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Pages in reading order: file, title, package, and the modules whose names it has (all if empty).
PAGES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("core", "Layers as values", "jaxnn", ("core", "tree", "keys", "inspect", "surgery")),
    ("layers", "Layers", "jaxnn", ("layers",)),
    ("combinators", "Combinators and wrappers", "jaxnn", ("combine", "generation")),
    ("initializers", "Initializers", "jaxnn", ("initializers",)),
    ("functional", "Activation functions: jaxnn.functional", "jaxnn.functional", ()),
    ("train", "Training: jaxnn.train", "jaxnn.train", ()),
    ("data", "Data: jaxnn.data", "jaxnn.data", ()),
    ("models", "Models: jaxnn.models", "jaxnn.models", ()),
    ("parallel", "Many devices: jaxnn.parallel", "jaxnn.parallel", ()),
    ("inspect", "Inspection: jaxnn.inspect", "jaxnn.inspect", ()),
    ("interop", "Other libraries: jaxnn.interop", "jaxnn.interop", ()),
    ("experiment", "Experiments: jaxnn.experiment", "jaxnn.experiment", ()),
    ("sweep", "Sweeps: jaxnn.sweep", "jaxnn.sweep", ()),
)


def public_names(package: str) -> list[str]:
    """Return the public names of a package, in alphabetical order."""
    module = importlib.import_module(package)
    names = getattr(module, "__all__", None) or dir(module)
    return sorted((name for name in names if not name.startswith("_")), key=str.lower)


def entries(package: str, folders: Iterable[str]) -> list[tuple[str, Any]]:
    """Return the public names of a package that come from some folders, with their objects."""
    module, found = importlib.import_module(package), []
    for name in public_names(package):
        item = getattr(module, name)
        if inspect.ismodule(item):
            continue
        home = getattr(item, "__module__", None) or type(item).__module__
        folder = home.split(".")[1] if home.startswith("jaxnn.") else "core"
        if not folders or folder in folders:
            found.append((name, item))
    return found


def first_line(item: Any) -> str:
    """Return the first sentence of a docstring, on one line."""
    text = inspect.getdoc(item) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def page(title: str, package: str, found: list[tuple[str, Any]]) -> str:
    """Return the page of a group: a table of its names, then each with its documentation."""
    lines = [f"# {title}", "", "| name | |", "|---|---|"]
    bodies: list[str] = []
    for name, item in found:
        documented = inspect.isclass(item) or inspect.isroutine(item)
        kind = "autoclass" if inspect.isclass(item) else "autofunction"
        kind = kind if documented else "autodata"
        role = {"autoclass": "class", "autofunction": "func", "autodata": "data"}[kind]
        summary = first_line(item) if documented else "A value."
        lines.append(f"| {{py:{role}}}`{name} <{package}.{name}>` | {summary} |")
        bodies += [f".. {kind}:: {package}.{name}"]
        if kind == "autoclass":
            bodies += ["   :members:"]
        bodies += [""]
    return "\n".join([*lines, "", "```{eval-rst}", *bodies, "```", ""])


def write(app: Any) -> None:
    """Write the pages below `reference/`, and leave those that are up to date."""
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(exist_ok=True)
    for file, title, package, folders in PAGES:
        text = page(title, package, entries(package, folders))
        place = folder / f"{file}.md"
        if not place.exists() or place.read_text() != text:
            place.write_text(text)


def literal(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Turn `code` in a docstring into ``code``, and escape `*` and `|` in its text."""
    if what == "data":  # a value: the documentation of its class would be misleading
        lines[:] = [f"A value of :py:class:`~{type(item).__module__}.{type(item).__name__}`.", ""]
    blocks = "\n".join(lines).split("\n\n")
    text = "\n\n".join(b if b.lstrip().startswith(">>>") else _marked(b) for b in blocks)
    lines[:] = text.split("\n")


def _marked(block: str) -> str:
    """Return a paragraph with its code as literals and its other symbols escaped."""
    parts = re.split(r"(`+[^`]*`+)", block)
    for i, part in enumerate(parts):
        if part.startswith("`"):
            parts[i] = f"``{' '.join(part.strip('`').split())}``"
        else:
            glue = "\\ " if i and part[:1].isalnum() else ""  # a letter right after a literal
            parts[i] = glue + re.sub(r"([*|])", r"\\\1", part)
    return "".join(parts)


def setup(app: Any) -> dict[str, Any]:
    """Register the writer, and the markup of docstrings before other extensions read it."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", literal, priority=100)
    return {"parallel_read_safe": True}
