"""The page that explains how a layer works: its cells run, and it fits on two screens."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "how-a-layer-works.md"


def test_every_cell_runs():
    text = PAGE.read_text()
    cells = re.findall(r"^```{code-cell} python\n(.*?)^```", text, re.M | re.S)
    assert len(cells) == text.count("```") // 2 >= 5 and "assert " in cells[-1]
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, PAGE.name, "exec"), names)


def test_it_fits_on_two_screens():
    lines = [line for line in PAGE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 100
