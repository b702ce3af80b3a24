"""A quoted path is one word of a shell command, whatever characters it has."""

import subprocess

import pytest

from jaxnn.files.plain import quoted

NAMES = [
    "-r",
    "--force",
    "a b",
    "$HOME",
    "`ls`",
    "a'b",
    'a"b',
    "*",
    "a\nb",
    "~",
    "#a",
    "a;b",
    "{a,b}",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_passes_a_quoted_path_on(tmp_path, name):
    (tmp_path / name).mkdir()
    found = subprocess.run(
        ["sh", "-c", f"cd {quoted(name)} && pwd"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (found.stdout, found.stderr) == (f"{tmp_path / name}\n", "")
