"""Write the gallery: a page for each program in `experiments/gallery`, from its own header.

`docs/gallery/cells` has a short run of each, which the page executes.
"""

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2] / "experiments" / "gallery"
CELLS = Path(__file__).parents[1] / "gallery" / "cells"
NOTEBOOK = """---
file_format: mystnb
kernelspec:
  name: python3
---

"""


def programs() -> list[Path]:
    """Return the files of the gallery, in alphabetical order."""
    return sorted(file for file in ROOT.glob("*.py") if not file.stem.startswith("_"))


def page(file: Path) -> str:
    """Return the page of a program: its header as text, a short run, and its source."""
    tree = ast.parse(file.read_text())
    header = ast.get_docstring(tree) or ""
    title, _, rest = header.partition("\n")
    blocks: list[str] = []
    for block in rest.strip("\n").split("\n\n"):
        code = all(line.startswith("    ") for line in block.splitlines())
        blocks.append(f"```sh\n{_flat(block)}\n```" if code else block)
    source = (
        f"```{{literalinclude}} ../../../experiments/gallery/{file.name}\n:language: python\n"
        f":lines: {tree.body[1].lineno}-\n```"
    )
    cell = f"```{{code-cell}} python\n{(CELLS / file.name).read_text()}```"
    parts = [f"# {title.rstrip('.')}", *blocks, "## A short run", cell, "## The program", source]
    return NOTEBOOK + "\n\n".join(parts) + "\n"


def _flat(block: str) -> str:
    return "\n".join(line[4:] for line in block.splitlines())


def write(app: Any) -> None:
    """Write the pages below `gallery/generated`."""
    folder = Path(app.srcdir) / "gallery" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    for file in programs():
        place, text = folder / f"{file.stem}.md", page(file)
        if not place.exists() or place.read_text() != text:
            place.write_text(text)


def setup(app: Any) -> dict[str, Any]:
    """Register the writer."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
