"""A quoted path is one word of a shell command, whatever characters it has."""

import os
import shutil
import subprocess

import pytest

from jaxnn.files.reading import quoted

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


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash reads the words")
@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31m'b\\c", "\u202eabc", "-\x07ab1", "a\udcff", "日本\x1b"]
)
def test_a_quoted_path_is_one_word_of_bash_and_controls_no_terminal(name):
    word = quoted(name)
    assert all(c.isprintable() or c == "\n" for c in word)
    read = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert os.path.normpath(read.stdout) == os.fsencode(name)
