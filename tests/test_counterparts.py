"""docs/counterparts.csv: names of other libraries, and what to write here instead.

flax, optax, equinox, and haiku are always imported. torch and keras take seconds, so their names
are looked up by the slow tests, if they are installed.
"""

import csv
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import jax.flatten_util
import optax.contrib
import pytest

import jaxnn as nn
from jaxnn import parallel

TABLE = Path(__file__).parent.parent / "docs" / "counterparts.csv"
ROWS = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
PACKAGES = {name: getattr(nn, name) for name in ("data", "interop", "models", "parallel", "train")}
SPACE = {"nn": nn, "jax": jax, "jnp": jax.numpy, "optax": optax, **PACKAGES}


def found(path):
    """Return what a dotted path names, and raise if a part of it is private or missing."""
    head, *rest = path.split(".")
    assert not any(name.startswith("_") for name in rest)
    item = SPACE[head]
    for name in rest:
        if inspect.ismodule(item) and item.__name__.startswith("jaxnn"):
            public = dir(item) if item is nn else getattr(item, "__all__", dir(item))
            assert name in public, f"{path} is not public"
        item = getattr(item, name)
    return item


LATER = {"flax.nnx.RoPE"}  # not in every version that pyproject.toml allows


def names_of(library):
    return [row["name"] for row in ROWS if row["name"].partition(".")[0] == library]


def test_the_table_is_large_and_has_each_name_once():
    names = [row["name"] for row in ROWS]
    assert len(names) >= 200 and sorted(set(names)) == sorted(names)
    for library in ("torch", "keras", "flax", "optax", "equinox", "haiku"):
        assert len(names_of(library)) >= 14, library
    assert all(set(row) == {"name", "counterpart", "note"} for row in ROWS)


def test_every_counterpart_and_every_name_in_a_note_is_public():
    for row in ROWS:
        if row["counterpart"] == "none":
            assert row["note"], f"{row['name']} has neither a counterpart nor a reason"
        else:
            assert found(row["counterpart"]) is not None, row["name"]
        pattern = r"\b(?:nn|train|data|interop|models|parallel|jax|jnp|optax)(?:\.\w+)+"
        for path in re.findall(pattern, row["note"]):
            assert found(path) is not None, row["name"]


def test_the_code_of_every_note_runs():
    arrays = {"x": jax.numpy.ones((2, 4, 4, 1)), "y": jax.numpy.ones(2), "target": 1, "features": 3}
    values = {"layer": nn.Dense(3), "first": optax.clip(1.0), "second": optax.sgd(0.1)}
    names = {**SPACE, **arrays, **values, "mesh": parallel.mesh(data=-1), "functools": functools}
    count = 0
    for row in ROWS:
        for code in re.findall(r"`(\w[^`]*[\])])`", row["note"]):
            if keyword := re.match(r"(\w+)=", code):
                assert keyword[1] in inspect.signature(found(row["counterpart"])).parameters
            elif "..." not in code and "=)" not in code:
                eval(code, dict(names))
            count += 1
    assert count >= 20


def test_a_name_that_does_not_exist_is_found_out():
    assert exists("flax.linen.Dense") and not exists("flax.linen.Dense_")
    with pytest.raises(AttributeError):
        found("nn.Layer.no_method")
    with pytest.raises(AssertionError, match=r"nn\.importlib is not public"):
        found("nn.importlib")
    with pytest.raises(AssertionError, match=r"nn\.functional\.linear is not public"):
        found("nn.functional.linear")


@pytest.mark.parametrize("library", ["flax", "optax", "equinox", "haiku"])
def test_every_name_exists_in_libraries_of_jax(library):
    assert [one for one in names_of(library) if not exists(one) and one not in LATER] == []


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("flax.linen", "Module"),
        ("flax.nnx", "Module"),
        ("equinox.nn", "equinox.Module"),
        ("haiku", "Module"),
    ],
)
def test_every_layer_of_these_libraries_is_in_the_table(path, base):
    module = importlib.import_module(path)
    kind = pkgutil.resolve_name(base.replace(".", ":")) if "." in base else getattr(module, base)
    layers = {f"{path}.{name}" for name, item in vars(module).items()
              if inspect.isclass(item) and issubclass(item, kind) and name[0] != "_"}  # fmt: skip
    assert len(layers) > 25 and sorted(layers - set(names_of(path.split(".")[0]))) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["torch", "keras", "transformers", "torchvision", "torchaudio"])
def test_every_name_exists_in_torch_and_keras(library, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip(library)
    assert [name for name in names_of(library) if not exists(name)] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "base", "at_least"), [("torch.nn", "Module", 150), ("keras.layers", "Layer", 150)]
)
def test_every_layer_of_torch_and_keras_is_in_the_table(path, base, at_least, monkeypatch):
    """All classes that they export: aliases and bases, too."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    module = pytest.importorskip(path)
    kind = getattr(module, base)
    layers = {
        f"{path}.{name}"
        for name, item in vars(module).items()
        if inspect.isclass(item) and issubclass(item, kind)
    }
    assert len(layers) >= at_least
    assert sorted(layers - set(names_of(path.partition(".")[0]))) == []


def exists(path):
    """Return whether a dotted path names something in an installed library."""
    module = path
    while "." in module and not is_module(module):
        module = module.rpartition(".")[0]
    item = importlib.import_module(module)
    for name in path[len(module) + 1 :].split("."):
        item = getattr(item, name, None) if name else item
    return item is not None


def is_module(path):
    try:
        return pkgutil.resolve_name(f"{path}:__spec__") is not None
    except (ImportError, AttributeError):
        return False
