"""Write the tables of names in other libraries and their counterparts, from `counterparts.csv`."""

import csv
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "keras", "flax", "optax")
PACKAGES = {"nn": "jaxnn"} | {
    name: f"jaxnn.{name}"
    for name in ("train", "data", "models", "parallel", "inspect", "interop", "sweep", "experiment")
}


def linked(counterpart: str) -> str:
    """Return a counterpart as markup, linked to the reference if it is a name of jaxnn."""
    first, _, rest = counterpart.partition(".")
    if first in PACKAGES and rest:
        return f"{{py:obj}}`{counterpart} <{PACKAGES[first]}.{rest}>`"
    return "none" if counterpart == "none" else f"`{counterpart}`"


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as a table in markdown."""
    lines = ["| name | here | |", "|---|---|---|"]
    for row in rows:
        note = row["note"].replace("|", "\\|")
        lines.append(f"| `{row['name']}` | {linked(row['counterpart'])} | {note} |")
    return "\n".join([*lines, ""])


def write(app: Any) -> None:
    """Write one table for each library below `tables/`."""
    source, folder = Path(app.srcdir), Path(app.srcdir) / "tables"
    folder.mkdir(exist_ok=True)
    with (source / "counterparts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for library in LIBRARIES:
        own = [row for row in rows if row["name"].split(".")[0] == library]
        place, text = folder / f"{library}.md", table(own)
        if not place.exists() or place.read_text() != text:
            place.write_text(text)


def setup(app: Any) -> dict[str, Any]:
    """Register the writer."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
