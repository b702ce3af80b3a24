"""Write the gallery: one page for each program in `experiments/gallery`, from its own header."""

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2] / "experiments" / "gallery"


def programs() -> list[Path]:
    """Return the files of the gallery, in alphabetical order."""
    return sorted(file for file in ROOT.glob("*.py") if not file.stem.startswith("_"))


def page(file: Path) -> str:
    """Return the page of a program: its header as text, then its source."""
    header = ast.get_docstring(ast.parse(file.read_text())) or ""
    title, _, rest = header.partition("\n")
    blocks: list[str] = []
    for block in rest.strip("\n").split("\n\n"):
        code = all(line.startswith("    ") for line in block.splitlines())
        blocks.append(f"```sh\n{_flat(block)}\n```" if code else block)
    source = f"```{{literalinclude}} ../../../experiments/gallery/{file.name}\n:language: python\n"
    return "\n".join([f"# {title.rstrip('.')}", "", "\n\n".join(blocks), "", source + "```", ""])


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
