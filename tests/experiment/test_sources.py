"""The code behind an experiment: what counts as a change, in which module, and what is refused."""

import importlib
import json
import sys

import pytest

from jaxnn import train
from jaxnn.command import main
from jaxnn.experiment import sources
from jaxnn.sweep.ledger import Ledger

pytestmark = pytest.mark.usefixtures("figures_not_drawn")

PROJECT = {
    "__init__.py": "",
    "network.py": '''
"""A network."""

import jax.numpy as jnp

from jaxnn import Composite, Dense, Layer

GAIN = 2.0


class Net(Composite):
    """What it is."""

    inner: Layer = Dense(2)

    def forward(self, x):
        """Double it."""
        return self.inner(x) * GAIN  # twice


def helper(x):
    def inner(x):
        """Unused."""
        return x

    return inner(x)


if __name__ == "__main__":
    print("by hand")
''',
    "examples.py": """
import numpy as np

from jaxnn import data


def dataset():
    rng = np.random.default_rng(0)

    def part(rows):
        y = np.arange(rows) % 2
        x = rng.normal(y[:, None], 0.5, (rows, 3))
        return data.Examples(x.astype(np.float32), y.astype(np.int32))

    return data.Dataset("toy", part(40), part(10), part(20))
""",
    "later.py": "RATE = 0.1\n",
    "unrelated.py": "NUMBER = 1\n",
    "experiment.py": """
import dataclasses

import optax

from jaxnn import train
from jaxnn.experiment import Experiment
from jaxnn.sweep import Choice, Space

from .examples import dataset
from .network import Net


@dataclasses.dataclass(frozen=True)
class Config:
    scale: float = 1.0
    batch_size: int = 10
    epochs: int = 2
    seed: int = 0


def load(config):
    return dataset()


def build(config, data):
    from .later import RATE

    optimizer = train.Optimizer(optax.sgd, learning_rate=RATE * config.scale)
    return train.Supervised(Net(), train.Classification(2), optimizer)


SPACE = Space(Config, {"scale": Choice(0.5, 1.0)})
EXPERIMENT = Experiment("experiment", Config, data=load, program=build, space=SPACE)
""",
}
NAME = "a_project_of_a_user"

# A change of meaning: the file, the old and the new text, and what is said of it.
CHANGED = {
    "forward": ("network.py", "* GAIN", "* GAIN * 1.5", "network.py: Net.forward changed"),
    "constant": ("network.py", "GAIN = 2.0", "GAIN = 3.0", "network.py: GAIN changed"),
    "field": ("network.py", "Dense(2)", "Dense(2, bias=False)", "network.py: Net.inner changed"),
    "inside": (
        "network.py",
        "        return x\n",
        "        return -x\n",
        "network.py: helper chan",
    ),
    "base": ("network.py", "class Net(Composite)", "class Net(Composite, object)", "Net changed"),
    "import": ("network.py", "jnp\n", "jnp, math\n", "network.py: its imports changed"),
    "new": ("network.py", "GAIN =", "MORE = 1\nGAIN =", "network.py: MORE added"),
    "gone": ("network.py", "def helper", "def helpers", "helper removed; helpers added"),
    "data": ("examples.py", "default_rng(0)", "default_rng(1)", "examples.py: dataset changed"),
    "later": ("later.py", "0.1", "0.2", "later.py: RATE changed"),
}
SAME = {
    "comment": ("network.py", "# twice", "# two times"),
    "docstring": ("network.py", '"""Double it."""', '"""Multiply by GAIN."""'),
    "class docstring": ("network.py", '"""What it is."""', ""),
    "inner docstring": ("network.py", '        """Unused."""\n', ""),
    "module docstring": ("network.py", '"""A network."""', "# A network."),
    "blank lines": ("network.py", "\n\n\n", "\n\n\n\n\n"),
    "spaces": ("network.py", "self.inner(x) * GAIN", "(self.inner(x)*GAIN)"),
    "number": ("network.py", "GAIN = 2.0", "GAIN = 2.00"),
    "main": ("network.py", "by hand", "by foot"),
    "imports": ("network.py", "import Composite, Dense, Layer", "import Layer, Dense, Composite"),
    "lines": ("network.py", "Dense, Layer\n", "Dense\nfrom jaxnn import Layer\n"),
    "unrelated": ("unrelated.py", "1", "2"),
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package of a user, and its experiment."""
    folder = tmp_path / NAME
    folder.mkdir()
    for name, text in PROJECT.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


@pytest.fixture
def experiment(project):
    return importlib.import_module(f"{NAME}.experiment").EXPERIMENT


def edit(project, name, old, new):
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new))


def test_every_module_of_the_project_is_recorded(experiment):
    found = sources.modules(experiment)
    assert list(found) == [
        NAME, *(f"{NAME}.{one}" for one in ("examples", "experiment", "later", "network"))
    ]  # fmt: skip
    assert sources.changed(json.loads(json.dumps(found))) == []


def test_what_is_imported_by_a_computed_name_is_recorded_too(project, experiment):
    edit(project, "network.py", "GAIN = 2.0", "import importlib\nimportlib.import_module(str())")
    importlib.import_module(f"{NAME}.unrelated")
    assert f"{NAME}.unrelated" in sources.modules(experiment)


@pytest.mark.parametrize("name", CHANGED)
def test_a_change_of_meaning_is_named(project, experiment, name):
    before = sources.modules(experiment)
    file, old, new, said = CHANGED[name]
    edit(project, file, old, new)
    (line,) = sources.changed(before)
    assert line.startswith(str(project / file)) and said in line


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_no_change(project, experiment, name):
    before = sources.modules(experiment)
    edit(project, *SAME[name])
    assert sources.changed(before) == []


def test_a_module_that_is_gone(project, experiment):
    before = sources.modules(experiment)
    (project / "later.py").unlink()
    sources._found.cache_clear()
    assert sources.changed(before) == [f"the module {NAME}.later cannot be found"]


def said(capsys, experiment, *arguments):
    capsys.readouterr()
    return main(experiment, list(map(str, arguments))), capsys.readouterr().err


def test_a_sweep_is_resumed_after_a_comment_and_refused_after_a_change(
    project, experiment, tmp_path, capsys
):
    folder = tmp_path / "sweep"
    small = ("--trials", "2", "--search", "grid", "--by", "loop")
    assert said(capsys, experiment, "sweep", *small, "--folder", folder) == (0, "")
    edit(project, *SAME["comment"])
    assert said(capsys, experiment, "resume", folder) == (0, "")
    edit(project, *CHANGED["forward"][:3])
    status, error = said(capsys, experiment, "resume", folder)
    assert status == 1
    assert f"{project / 'network.py'}: Net.forward changed; begin another sweep" in error
    assert said(capsys, experiment, "resume", folder, "--force") == (0, "")
    with Ledger.open(folder) as ledger:
        (forced,) = ledger.meta["forced"]
    assert forced["changes"] == [f"{project / 'network.py'}: Net.forward changed"]
    shown = "Resumed with --force after 2 trials, although this changed: "
    assert shown in (folder / "report.html").read_text()
    assert said(capsys, experiment, "resume", folder) == (0, "")
    main(experiment, ["resume", str(folder)])
    assert shown in capsys.readouterr().out
    with Ledger.open(folder, write=True) as ledger:
        ledger.set_meta({"forced": [{"after trials": 2}]})
    assert "('forced' is [{'after trials': 2}])" in said(capsys, experiment, "resume", folder)[1]
    with Ledger.open(folder, write=True) as ledger:
        ledger.set_meta({"forced": [], "sources": {}})
    status, error = said(capsys, experiment, "resume", folder)
    assert status == 1
    assert error.startswith(f"error: the ledger in {folder} does not record the code and the data")


def test_a_run_is_refused_after_a_change_and_records_that_it_was_forced(
    project, experiment, tmp_path, capsys, monkeypatch
):
    folder, epochs = tmp_path / "run", ("--epochs", "4", "--checkpoint.epochs", "1")
    with monkeypatch.context() as patch:
        patch.setattr(train.Evaluate, "see", interrupted_after(2))
        status, _ = said(capsys, experiment, *epochs, "--folder", folder)
    assert status == 130
    edit(project, *SAME["docstring"])
    edit(project, *CHANGED["data"][:3])
    status, error = said(capsys, experiment, "resume", folder)
    assert status == 1
    assert error.startswith(f"error: the experiment changed since the run in {folder} began: ")
    assert f"{project / 'examples.py'}: dataset changed" in error
    assert f"write resume {folder} --force" in error
    assert not (folder / "result.json").exists()
    file = folder / "config.json"
    text = file.read_text()
    file.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "sources"}))
    status, error = said(capsys, experiment, "resume", folder)
    assert status == 1 and error.startswith(f"error: {file} does not record the code and the data")
    file.write_text(text)
    assert said(capsys, experiment, "resume", folder, "--force")[0] == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["forced"] == [[f"{project / 'examples.py'}: dataset changed"]]
    shown = "It resumed with --force, although this changed: "
    assert shown in (folder / "report.html").read_text()


def interrupted_after(count):
    """An evaluation that is interrupted, as by Ctrl-C, after this number of records."""
    see = train.Evaluate.see

    def interrupted(self, memory, event):
        if event.epoch > count:
            raise KeyboardInterrupt
        return see(self, memory, event)

    return interrupted
