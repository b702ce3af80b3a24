"""Damaged and hostile files: one line that names the file, in bounded time, and no traceback."""

import functools
import json
import random
import shutil
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import interop, train
from jaxnn.command import main
from jaxnn.experiment.configuration import to_plain
from jaxnn.experiment.prediction import read_inputs
from jaxnn.experiment.run_folder import RunOptions, load_config, load_unfinished, unfinished
from jaxnn.files.reading import FileError
from jaxnn.sweep.export import export_sweep
from jaxnn.sweep.ledger import Ledger, LedgerError
from jaxnn.sweep.report import sweep_report
from jaxnn.sweep.results import best_trials
from jaxnn.sweep.snapshot import read
from jaxnn.train import JsonLines
from jaxnn.train.weights import packed
from tests.command.test_run import EXPERIMENT, Config, load
from tests.files import mutation
from tests.sweep.test_report import small_ledger
from tests.sweep.toy import digest

X = jax.ShapeDtypeStruct((1, 5), jnp.float32)
NET = nn.Sequential(nn.Dense(4), nn.BatchNorm(), jax.nn.relu, nn.Repeat(nn.Dense(4), 3))
SECONDS = 20  # more than any of these takes, on a machine that does much else


def refused(call, place) -> str:
    """What `call` raises about the file at `place`; '' if it takes it."""
    began = time.monotonic()
    try:
        call()
    except (FileError, LedgerError, FileNotFoundError) as error:
        message = str(error)
    else:
        message = ""
    assert time.monotonic() - began < SECONDS
    if message:
        assert str(place) in message
        assert message.isprintable(), message
        assert len(message) < 10_000
    return message


def fuzz(kind, place, raw, change, call, many, named=None):
    """Write `many` changed copies of `raw` to `place`; returns how many of them were refused."""
    found = 0
    for seed in range(many):
        rng = random.Random(zlib.crc32(f"{kind} {seed}".encode()))
        place.write_bytes(change(raw, rng))
        found += bool(refused(call, named or place))
    return found


def weights(net: nn.Layer = NET):
    return train.Weights(net.init(jax.random.key(0), X), net.init_state(X))


def many(few, lots):
    """A parametrization with a few changes, and with many that take long."""
    return pytest.mark.parametrize("many", [few, pytest.param(lots, marks=pytest.mark.slow)])


@many(60, 1500)
def test_weights(tmp_path, many):
    file = tmp_path / "weights.safetensors"
    raw = packed(NET, weights())
    call = lambda: train.load_weights(file, NET, X)  # noqa: E731
    assert fuzz("weights", file, raw, mutation.safetensors_changed, call, many) > many // 2


@many(40, 800)
def test_programs(tmp_path, many):
    file = tmp_path / "net.stablehlo"
    net = nn.Dense(3)
    raw = interop.export(net, weights(net), X)
    call = lambda: interop.load_program(file)  # noqa: E731
    assert fuzz("program", file, raw, mutation.bytes_changed, call, many) > many // 8


@many(80, 1500)
def test_configurations(tmp_path, many):
    file = tmp_path / "run" / "config.json"
    file.parent.mkdir()
    about = {
        "schema": 1, "experiment": "toy", "config": to_plain(Config()),
        "options": to_plain(RunOptions()),
    }  # fmt: skip
    raw = json.dumps(about).encode()

    def call():
        load_config(EXPERIMENT, file.parent)
        load_unfinished(EXPERIMENT, file.parent)

    where = file.parent
    assert fuzz("configuration", file, raw, mutation.json_changed, call, many, where) > many // 2

    def begin():
        try:
            unfinished(file.parent, about)
        except FileExistsError as error:  # of another configuration
            raise FileError(str(error)) from None

    assert fuzz("unfinished", file, raw, mutation.json_changed, begin, many, file.parent) > 0


@many(60, 1500)
def test_records(tmp_path, many):
    file = tmp_path / "metrics.jsonl"
    line = json.dumps({"epoch": 1, "step": 9, "loss": 0.5, "gradient_norm/0/w": "nan"}).encode()

    def change(raw, rng):
        lines = [raw] * 3
        lines[rng.randrange(3)] = mutation.json_changed(raw, rng)
        return b"\n".join(lines) + b"\n" * rng.randrange(2)

    def call():
        JsonLines(file).records()
        with JsonLines(file).open(step=9):
            pass

    assert fuzz("records", file, line, change, call, many) > many // 4


@many(40, 800)
def test_inputs(tmp_path, many):
    toy = load()
    table = np.random.default_rng(0).normal(size=(4, 3))
    file = tmp_path / "inputs.npy"
    np.save(file, table)
    call = lambda: read_inputs(file, toy)  # noqa: E731
    assert fuzz("npy", file, file.read_bytes(), mutation.bytes_changed, call, many) > many // 4
    file = tmp_path / "inputs.csv"
    np.savetxt(file, table, delimiter=",", header="a,b,c", comments="")
    assert fuzz("csv", file, file.read_bytes(), mutation.bytes_changed, call, many) > many // 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with one checkpoint, and the state in it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    program, batch = (
        train.Supervised(nn.Dense(3), train.Regression(3), optax.sgd(0.1)),
        jnp.ones((4, 5)),
    )
    ts, _ = train.fit(
        program, (batch, batch[:, :3]), key=jax.random.key(0), steps=1, batch_size=4,
        hooks=[train.Checkpoints(str(folder))], progress=False,
    )  # fmt: skip
    return folder, ts


@many(12, 400)
def test_checkpoints(tmp_path, checkpoint, many):
    whole, ts = checkpoint
    refusals = 0
    for seed in range(many):
        rng = random.Random(seed)
        folder = shutil.copytree(whole, tmp_path / str(seed))
        files = sorted(one for one in (folder / "1").rglob("*") if one.is_file())
        if seed % 2:  # without a seal: what is in a file is looked at
            (folder / "1" / "seal.json").unlink()
            files = [folder / "1" / "progress" / "metadata"] if seed % 4 == 1 else files
            files = [one for one in files if one.exists()]
        file = rng.choice(files)
        raw = file.read_bytes()
        change = mutation.json_changed if raw[:1] == b"{" else mutation.bytes_changed
        file.write_bytes(change(raw, rng))
        call = functools.partial(train.Checkpoints(str(folder)).restore, ts)
        refusals += bool(refused(call, folder))
        shutil.rmtree(folder)
    assert refusals > many // 3


def looked_at(folder, place):
    """All that `jaxnn sweep show` and `export` do."""
    with Ledger.open(folder) as ledger:
        digest(ledger)
        ledger.trained_epochs()
        ledger.states()
        sweep = read(ledger)
    text = best_trials(sweep)
    assert all(c.isprintable() or c == "\n" for c in text)
    export_sweep(sweep, "csv", place)


@many(120, 2000)
def test_ledgers(tmp_path, many):
    whole = small_ledger(tmp_path / "whole")
    refusals = 0
    for seed in range(many):
        folder = shutil.copytree(whole, tmp_path / str(seed))
        rng = random.Random(seed)
        mutation.ledger_changed(folder / "ledger.sqlite", rng)
        call = functools.partial(looked_at, folder, tmp_path / f"{seed}.csv")
        message = refused(call, folder)
        refusals += bool(message)
        if not message and seed % 40 == 0:  # a report takes a second
            with Ledger.open(folder) as ledger:
                sweep_report(read(ledger)).encode()
        shutil.rmtree(folder)
    assert refusals > many // 2


def test_a_schema_that_is_not_utf_8(tmp_path):
    """Python cannot decode SQLite's message about it."""
    file = small_ledger(tmp_path / "sweep") / "ledger.sqlite"
    file.write_bytes(file.read_bytes().replace(b"CREATE TABLE", b"CREATE TABL\x85"))
    with pytest.raises(LedgerError, match="is damaged, put back a copy"):
        Ledger.open(file.parent)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(EXPERIMENT, ["--folder", str(folder)]) == 0
    return folder


@many(16, 300)
def test_a_command_prints_one_line(tmp_path, run_folder, capsys, many):
    """Of a damaged run, `predict` and `resume` print one line that names the folder."""
    refusals = 0
    capsys.readouterr()
    for seed in range(many):
        folder = shutil.copytree(run_folder, tmp_path / str(seed))
        rng = random.Random(seed)
        command = ("predict", "resume")[seed % 4 == 0]
        name = ("config.json", "weights.safetensors")[seed % 2]
        change = mutation.json_changed if name == "config.json" else mutation.safetensors_changed
        (folder / name).write_bytes(change((folder / name).read_bytes(), rng))
        status = main(EXPERIMENT, [command, str(folder)])
        printed = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in printed.out)
        if status:
            refusals += 1
            assert status == 1
            assert str(folder) in printed.err
            assert printed.err[:-1].isprintable()
            assert printed.err.startswith("error: ")
        shutil.rmtree(folder)
    assert refusals > many // 2
