"""Every code block of the explanations runs, one after the other on each page."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs" / "explanation").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page):
    text = page.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == text.count("```") // 2 and any("assert " in block for block in blocks)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


def test_how_a_layer_works_fits_on_two_screens():
    (page,) = [page for page in PAGES if page.stem == "how-a-layer-works"]
    lines = [line for line in page.read_text().splitlines() if line.strip()]
    assert len(lines) <= 100
