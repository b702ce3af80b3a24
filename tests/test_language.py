"""The language of the code and documents: plain American English, every argument documented."""

import ast
import bisect
import inspect
import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jaxnn as nn

ROOT = Path(__file__).parent.parent

# All product code and all documents.
CHECKED = (
    "benchmarks",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs",
    "experiments",
    "jaxnn",
    "README.md",
)

# What to write instead of each phrase.
MARKS = {
    r"\bbeside\b": "next to, besides, or compared with",
    r"\banew\b": "again",
    r", say\b": "for example, or such as",
    r"\bof (its|their) own\b": "separate, or its own ...",
    r"\bso many\b": "the number",
    r"\bas many as\b": "the number",
    r"\bforetold\b": "predicted",
    r"(?<!\bthere )\bis no\b(?! longer)": "is not a",
    r"\bgo(es)? on\b": "continue, or resume",
    r"\bwhere (there|it|they|nothing|one) (is|are|has|have)\b": "if, or when",
    # Except the method of searches, `tell`.
    r"(?<=[^`.\"])(?<!def )\btells?\b(?!\()": "report, or show",
    r"\bstands?\b(?! for)": "is",
    r"\bfor who\b": "for users who",
    r"\bwants (an?|one|the)\b": "expected, or must be",
    r"\bwhat \w+ makes of\b": "how ... handles",
    r"\b(compiles nothing|costs? no compilation)\b": "does not recompile",
    r"\bto the bit\b": "bitwise",
    r"\b(behaviou|colou|neighbou|favou)r": "American spelling: -or",
    r"\b(initial|normal|optim|standard|regular|general|summar)is(e|ed|es|er|ing|ation)\b": (
        "American spelling: -ize"
    ),
}


def prose(text: str, suffix: str) -> Iterator[tuple[int, str]]:
    """Yield pieces of prose with the line of each: comments and strings, or all of a document."""
    if suffix != ".py":
        yield 1, text
        return
    tree = ast.parse(text)
    inside = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in inside:
            yield node.lineno, node.value if isinstance(node.value, str) else ""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                yield first, "\n".join(block)
                block = []
            first, last = first if block else token.start[0], token.start[0]
            block.append(token.string.lstrip("#"))
    if block:
        yield first, "\n".join(block)


def marks(text: str, suffix: str, phrases: dict[str, str]) -> Iterator[tuple[int, str, str]]:
    """Yield (line, phrase, replacement) for each phrase in the prose of a file."""
    for first, piece in prose(text, suffix):
        joined, starts = "", []
        for line in piece.split("\n"):
            starts.append(len(joined))
            joined += line.strip() + " "
        for pattern, instead in phrases.items():
            for match in re.finditer(pattern, joined, re.IGNORECASE):
                line = first + bisect.bisect(starts, match.start()) - 1
                yield line, match.group(), instead


def files() -> list[Path]:
    """Return the checked Python files and documents, without outputs of programs."""
    found = [ROOT / name for name in CHECKED]
    every = [file for path in found for file in ([path] if path.is_file() else path.rglob("*"))]
    built = {"_build", "generated", "tables"}  # by the documentation
    return sorted(
        file for file in every if file.suffix in (".py", ".md") and not built & set(file.parts)
    )


@pytest.mark.parametrize("name", CHECKED)
def test_no_phrase_of_the_list(name):
    path = ROOT / name
    paths = [file for file in files() if file == path or path in file.parents]
    assert paths
    lines = [
        f"{file.relative_to(ROOT)}:{line}: {phrase!r}; write {instead}"
        for file in paths
        for line, phrase, instead in marks(file.read_text(), file.suffix, MARKS)
    ]
    assert not lines, "\n".join(lines)


def test_phrases_are_found_in_docstrings_comments_and_messages():
    text = (
        '"""A title.\n\nIt is no\nfile."""\n'
        "x = 1  # computed anew\n"
        "# beside it, and it goes\n# on\n"
        'raise ValueError(f"{x} wants " "an array" f", say {x}")\n'
    )
    found = [(line, phrase) for line, phrase, _ in marks(text, ".py", MARKS)]
    assert sorted(found) == [
        (3, "is no"),
        (5, "anew"),
        (6, "beside"),
        (6, "goes on"),
        (8, ", say"),
        (8, "wants an"),
    ]
    assert list(marks("# Title\n\nIt is no file.", ".md", MARKS)) == [(3, "is no", "is not a")]
    assert not list(marks('"""If there is no mask, it is no longer used."""', ".py", MARKS))


def documented(item: Any) -> set[str]:
    """The names under `Args:`, and fields with a docstring below them."""
    doc = inspect.cleandoc(item.__doc__ or "") + "\n"
    section = re.search(r"^Args:\n((?:(?: +.*)?\n)*)", doc, re.MULTILINE)
    names = set(re.findall(r"^    \*{0,2}(\w+):", section[1], re.MULTILINE)) if section else set()
    if inspect.isclass(item):
        body = ast.parse(inspect.getsource(item)).body[0].body  # type: ignore[attr-defined]
        names |= {
            field.target.id
            for field, below in itertools.pairwise(body)
            if isinstance(field, ast.AnnAssign)
            and not ast.unparse(field.annotation).startswith("ClassVar")
            and isinstance(below, ast.Expr)
            and isinstance(field.target, ast.Name)
        }
    return names


PACKAGES = (
    nn,
    nn.functional,
    nn.models,
    nn.data,
    nn.train,
    nn.parallel,
    nn.inspect,
    nn.interop,
    nn.experiment,
    nn.sweep,
)


def public() -> list[Any]:
    """Return the public classes and functions of all packages, each once."""
    found: dict[Any, Any] = {}
    for package in PACKAGES:
        for name in getattr(package, "__all__", dir(package)):
            item = getattr(package, name)
            described = inspect.isfunction(item) or inspect.isclass(item)
            others = inspect.isclass(item) and (
                issubclass(item, Exception) or getattr(item, "_is_protocol", False)
            )
            if described and not others and item.__module__.startswith("jaxnn"):
                found.setdefault(item, pytest.param(item, id=f"{package.__name__}.{name}"))
    return list(found.values())


@pytest.mark.parametrize("item", public())
def test_every_argument_is_documented(item):
    assert documented(item) == set(inspect.signature(item).parameters)


def test_stars_in_docstrings_are_code():
    lines = []
    for file in files():
        if file.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = re.sub(r"`[^`]*`", "", ast.get_docstring(node) or "")
            for line in text.split("\n"):
                code = re.match(r"(    |>>>|\.\.\.)", line) and not re.match(
                    r"    +[a-z]\w+: ", line
                )
                if not code and re.search(r"(?<!\\)\*(?=[^\s*])", line):
                    lines.append(f"{file.relative_to(ROOT)}: {line.strip()!r}")
    assert not lines, "write `...` around:\n" + "\n".join(lines)
