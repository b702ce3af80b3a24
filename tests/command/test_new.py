"""`jaxnn new`: the copies are the examples that the other tests run, under another name."""

import ast
import difflib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jaxnn.command.tool import main

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    file.stem: file
    for folder in ("experiments", "experiments/gallery")
    for file in sorted((ROOT / folder).glob("[a-z]*.py"))
}


def test_the_list_has_every_example_with_its_title(capsys):
    assert main(["new", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = {name: (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
              for name, file in EXAMPLES.items()}  # fmt: skip
    assert dict(line.split(maxsplit=1) for line in lines) == titles
    assert len(lines) >= 27 and max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_copy_differs_from_its_example_in_its_name_and_extras_only(name, tmp_path):
    assert main(["new", str(tmp_path / "mine.py"), "--from", name]) == 0
    copy, source = (tmp_path / "mine.py").read_text(), EXAMPLES[name].read_text()
    ast.parse(copy)
    changed = [line for line in difflib.ndiff(source.split("\n"), copy.split("\n"))
               if line[0] in "-+"]  # fmt: skip
    removed = [line for line in changed if line[0] == "-"]
    assert all(f"experiments.{name}" in line or f"experiments.gallery.{name}" in line
               or f'"{name}"' in line for line in removed)  # fmt: skip
    added = "\n".join(line for line in changed if line[0] == "+")
    assert "jaxnn-functional[experiments]" in added and "experiments." not in added
    assert ("jaxnn-functional[sweep]" in added) == ("jaxnn.sweep" in source)
    for line in removed:  # the same line, with the new name
        new = line.replace(f"python -m experiments.gallery.{name}", "python mine.py")
        new = new.replace(f"python -m experiments.{name}", "python mine.py")
        assert "+" + new.replace(f'"{name}"', '"mine"')[1:] in added


def test_the_file_of_a_newcomer_is_the_seed_network_and_explains_its_parts(tmp_path, capsys):
    assert main(["new", str(tmp_path / "digits.py")]) == 0
    text = (tmp_path / "digits.py").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == f"Run it: python {tmp_path / 'digits.py'}"
    assert "784-128-10" in text and 'Experiment(\n    "digits"' in text
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(comments) >= 15  # before each part


def test_data_of_an_example_is_copied_too(tmp_path):
    assert main(["new", str(tmp_path / "lora.py")]) == 0  # the example with the name of the file
    assert "LoRA" in (tmp_path / "lora.py").read_text()
    weights = (ROOT / "experiments" / "gallery" / "gpt2.npz").read_bytes()
    assert (tmp_path / "gpt2.npz").read_bytes() == weights


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            [],
            "the file must be a file NAME.py, with a name of letters, digits, and underscores, "
            "got ''; write jaxnn new digits.py, or jaxnn new --list",
        ),
        (["digits"], "the file must be a file NAME.py, with a name of letters, digits, and "),
        (["my-net.py"], "the file must be a file NAME.py, with a name of letters, digits, and "),
        (["a.py", "--from", "vea"], "no example is called 'vea'; did you mean 'vae'?"),
        (["random.py"], "random.py would hide the installed module random: write jaxnn new my_"),
        (["optax.py"], "optax.py would hide the installed module optax: write jaxnn new my_op"),
    ],
)
def test_errors_name_what_to_write(arguments, error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"error: {error}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["lora.py", "gpt2.npz"])
def test_nothing_is_overwritten_and_nothing_is_written_in_part(taken, tmp_path, capsys):
    (tmp_path / taken).write_text("mine")
    assert main(["new", str(tmp_path / "lora.py")]) == 1
    assert f"{tmp_path / taken} exists already, and is never overwritten" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.slow
def test_the_wheel_alone_writes_the_examples_and_trains_the_first_one(tmp_path):
    """A wheel that is built from the source distribution, outside the checkout."""
    pytest.importorskip("build")
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in names:
        target = tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    dist, site, work = (tmp_path / name for name in ("dist", "site", "work"))
    build = [sys.executable, "-m", "build", "--outdir", str(dist), str(tmp_path / "source")]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    held = {file.relative_to(site / "jaxnn" / "examples").as_posix()
            for file in (site / "jaxnn" / "examples").rglob("*") if file.is_file()}  # fmt: skip
    assert {f"{name}.py" for name in EXAMPLES} <= {Path(name).name for name in held}
    assert not (site / "experiments").exists() and "gallery/gpt2.npz" in held
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}

    def run(*arguments):
        call = [sys.executable, *arguments]
        done = subprocess.run(call, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"{site}/jaxnn" in run("-c", "import jaxnn; print(jaxnn.__file__)")
    assert len(run("-m", "jaxnn", "new", "--list").splitlines()) == len(EXAMPLES)
    run("-m", "jaxnn", "new", "digits.py")
    assert "test: accuracy 0." in run("digits.py", "--epochs", "2", "--folder", "run")
    assert (work / "run" / "report.html").exists()
    run("-m", "jaxnn", "new", "lora.py")
