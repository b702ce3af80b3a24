"""Write tables: counterparts, samples out of scope, features of sweeps, and all errors."""

import ast
import csv
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "torchvision",
    "torchaudio",
    "keras",
    "flax",
    "optax",
    "equinox",
    "haiku",
    "transformers",
)
TOOLS = {
    "optuna": "Optuna",
    "ray_tune": "Ray Tune",
    "wandb": "W&B",
    "keras_tuner": "KerasTuner",
    "hydra": "Hydra",
    "smac": "SMAC",
    "syne_tune": "Syne Tune",
}
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


def feature_table(rows: list[dict[str, str]]) -> str:
    """Return what sweeps can do as tables in markdown, one for each area."""
    tools = [name for name in rows[0] if name not in ("area", "feature", "jaxnn", "note")]
    lines = []
    for area in dict.fromkeys(row["area"] for row in rows):
        titles = ["", "jaxnn", *(TOOLS.get(tool, tool) for tool in tools), ""]
        lines += ["", f"### {area.capitalize()}", "", f"| {' | '.join(titles)} |"]
        lines.append("|---" * len(titles) + "|")
        for row in rows:
            if row["area"] == area:
                own = "" if row["jaxnn"] == "none" else feature(row["jaxnn"])
                cells = [row["feature"], own, *(row[tool] for tool in tools), row["note"]]
                lines.append(
                    f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
                )
    return "\n".join([*lines, ""])


def feature(text: str) -> str:
    """Return a command as code, and a call linked to the reference."""
    name = text.partition("(")[0]
    return linked(name) if " " not in text and "." in name else f"`{text}`"


def scope(rows: list[dict[str, str]]) -> str:
    """Return the names that are out of scope as a table in markdown, one row for each reason."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reasons.setdefault(row["reason"], []).append(f"`{row['name']}`")
    lines = ["| names | reason |", "|---|---|"]
    lines += [f"| {', '.join(names)} | {reason} |" for reason, names in reasons.items()]
    return "\n".join([*lines, ""])


def text_of(node: ast.expr | None) -> str:
    """Return a literal text with `...` for its values; "" for any other expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(one) or "..." for one in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return "".join(text_of(one) or "..." for one in (node.left, node.right))
    return ""


def errors(package: Path) -> list[tuple[str, str]]:
    """Return the kind and the text of each error that a package raises with a literal text."""
    found = {}
    for file in sorted(package.rglob("*.py")) if package.is_dir() else [package]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text, kind = text_of(node.exc.args[0]), ast.unparse(node.exc.func)
                if len(text.replace("...", "").split()) > 2:
                    found[text] = kind
    return [(kind, text) for text, kind in found.items()]


def error_table(source: Path) -> str:
    """Return all errors of a source tree as tables in markdown, one for each package."""
    lines = []
    for package in sorted(source.iterdir()):
        if package.name.startswith("_") or not (rows := errors(package)):
            continue
        lines += ["", f"### {package.stem}", "", "| error | text |", "|---|---|"]
        for kind, text in rows:
            shown = " ".join(text.replace("|", "\\|").replace("`", "'").split())
            lines.append(f"| `{kind}` | `{shown}` |")
    return "\n".join([*lines, ""])


def write(app: Any) -> None:
    """Write the tables below `tables/`: one for each library, out of scope, features, errors."""
    source, folder = Path(app.srcdir), Path(app.srcdir) / "tables"
    folder.mkdir(exist_ok=True)
    rows, outside, features = (
        list(csv.DictReader((source / name).read_text().splitlines()))
        for name in ("counterparts.csv", "out-of-scope.csv", "features.csv")
    )
    for library in LIBRARIES:
        own = [row for row in rows if row["name"].split(".")[0] == library]
        update(folder / f"{library}.md", table(own))
    update(folder / "out-of-scope.md", scope(outside))
    update(folder / "features.md", feature_table(features))
    update(folder / "errors.md", error_table(source.parent / "jaxnn"))


def update(place: Path, text: str) -> None:
    """Write a file unless it has this text, so that pages that include it stay up to date."""
    if not place.exists() or place.read_text() != text:
        place.write_text(text)


def setup(app: Any) -> dict[str, Any]:
    """Register the writer."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
