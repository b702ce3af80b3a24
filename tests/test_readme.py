"""Every snippet of README.md runs, and every `# ->` says the truth."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_every_snippet_runs_and_says_the_truth():
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    checked = 0
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        for expression, shown in re.findall(r"^(\S.*?) +# -> (.*)$", block, re.M):
            assert str(eval(expression, names)) == shown, expression
            checked += 1
    assert checked >= 10


def test_links_work_outside_the_repository():
    links = re.findall(r"\]\((.*?)\)", README.read_text())
    assert links and all(link.startswith("https://") for link in links), links
