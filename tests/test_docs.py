"""Pages of the documentation have cells that run, and every name in its tables is on a page.

Building the documentation runs the cells: `sphinx-build -W docs docs/_build`.
"""

import ast
import csv
import re
import urllib.parse
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Pages without a program: lists of pages, policies, and texts that are included.
PLAIN = {"changelog", "citation", "contributing", "index", "policy"}
LOCAL = {"localhost", "127.0.0.1", "10.0.0.1", "www.w3.org"}  # the last names a format
WRITTEN = ("_build", "generated", "jupyter_execute", "tables")
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if not set(page.relative_to(DOCS).parts) & set(WRITTEN)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_page_has_a_program_that_asserts_what_the_text_says(page):
    cells = [re.sub(r"^(:.*\n)+", "", cell) for cell in CELL.findall(page.read_text())]
    for cell in cells:
        ast.parse(cell)
        assert max(map(len, cell.splitlines())) <= 100, f"a cell of {page.name} is too wide"
    if page.stem not in PLAIN:
        assert cells, f"{page.name} has no cell"
        assert any("assert" in cell for cell in cells), f"no cell of {page.name} asserts anything"


ROOT = DOCS.parent
TEXTS = [*PAGES, *sorted(ROOT.glob("*.md"))]


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_links_are_whole(file):
    """Links between pages are checked when the site is built; these are all others."""
    text = re.sub(r"```.*?```|`[^`]*`", "", file.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]*)\)", text):
        if "://" not in target:
            assert (file.parent / target.partition("#")[0]).exists(), target
    check_addresses(file.read_text())


def test_links_in_docstrings_are_whole():
    for file in [*(ROOT / "jaxnn").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        check_addresses(file.read_text())


def check_addresses(text):
    for address in re.findall(r"\bhttps?://(?!\.\.\.)[^\s<>\"'`)\]]*", text):
        parts = urllib.parse.urlsplit(address.rstrip(".,;:"))
        host = parts.hostname or ""
        local = host in LOCAL or "." not in host  # such as http://host:5000
        assert host and (parts.scheme == "https" or local), address


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / name).resolve() for name in names}
    missing = [page for page in PAGES if page.with_suffix("").resolve() not in listed]
    assert [page.relative_to(DOCS).as_posix() for page in missing] == ["index.md"]


def test_the_pages_for_other_libraries_include_their_tables():
    with (DOCS / "counterparts.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    libraries = {name.split(".")[0] for name in names}
    pages = "\n".join(page.read_text() for page in (DOCS / "coming-from").glob("*.md"))
    assert len(names) >= 200
    shown = set(re.findall(r"\{include\} \.\./tables/(\w+)\.md", pages))
    assert libraries | {"features"} == shown
