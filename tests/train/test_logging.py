"""Loggers: the lines of a run to the byte, what other tools read back, and what fails."""

import importlib.machinery
import json
import os
import struct
import sys
import threading
import time
import types
import warnings
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train
from jaxnn.installation import install
from jaxnn.train import logging as loggers
from jaxnn.train.logging import JsonLines, MLflow, TensorBoard, WandB

RECORDS = [{"epoch": n, "step": 10 * n, "loss": 1 / n} for n in range(1, 5)]
CONFIG = {"model": {"type": "MLP", "width": 8}, "seed": 0}


def write(logger, records=RECORDS, step=None, config=None, history=()):
    with logger.open(step, config, history) as log:
        for record in records:
            log(record)


class Recorded(train.Program):
    """The losses of RECORDS, one a step."""

    def init(self, key, batch):
        return jnp.float32(0)

    def step(self, state, batch):
        return state + 1, {"loss": 1 / (state + 1)}


def run_with(*loggers):
    """A run that logs four records, and the texts of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        key = jax.random.key(0)
        list(train.run(Recorded(), key=key, steps=4, every=1, hooks=[train.Log(*loggers)]))
    return [str(one.message) for one in caught]


def test_a_line_a_record_at_once(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    with lines.open() as log:
        for count, record in enumerate(RECORDS, 1):
            log(record)
            text = (tmp_path / "metrics.jsonl").read_text()
            assert [json.loads(line) for line in text.splitlines()] == RECORDS[:count]
    assert lines.records() == RECORDS
    assert hash(lines) == hash(JsonLines(tmp_path / "metrics.jsonl"))


def test_numbers_that_json_has_not(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    inf = float("inf")
    write(lines, [{"step": 1, "loss": inf, "low": -inf, "none": None, "event": "rolled back"}])
    raw = '{"step": 1, "loss": "inf", "low": "-inf", "none": null, "event": "rolled back"}\n'
    assert (tmp_path / "m.jsonl").read_text() == raw
    (record,) = lines.records()
    assert record["loss"] == inf and record["low"] == -inf and record["event"] == "rolled back"


@pytest.mark.parametrize("torn", [b"", b'{"epoch": 4, "st'])
@pytest.mark.parametrize("step", [0, 10, 25, 100])
def test_a_run_that_goes_on_has_the_lines_of_one_that_never_stopped(tmp_path, torn, step):
    whole, cut = JsonLines(tmp_path / "whole.jsonl"), JsonLines(tmp_path / "cut.jsonl")
    write(whole)
    write(cut, RECORDS[:3])
    with open(tmp_path / "cut.jsonl", "ab") as file:
        file.write(torn)
    write(cut, [record for record in RECORDS if record["step"] > min(step, 30)], step)
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_lines_are_never_mixed_or_lost(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    write(lines)
    with pytest.raises(FileExistsError) as error:
        write(lines)
    assert str(error.value) == (
        f"cannot write metrics to {tmp_path / 'm.jsonl'}: it has the lines of another run, which "
        "are never mixed. The lines before are complete: make room there, or write to another file"
    )
    with pytest.raises(OSError, match=r"cannot write metrics to .*: No such file or directory\."):
        write(JsonLines(tmp_path / "none" / "m.jsonl"))
    (tmp_path / "m.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match=r"a line that is not a record of a run: b'hello'; expec"):
        write(lines, step=10)
    assert (tmp_path / "m.jsonl").read_text() == "hello\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk():
    with pytest.raises(OSError, match=r"metrics to /dev/full: No space left on device\. The lines"):
        write(JsonLines("/dev/full"))


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    """A disk that fills up within a line, as a file that takes the first bytes alone."""
    import builtins
    import io

    class Filling(io.FileIO):
        def write(self, line, /):
            return super().write(line if self.tell() < 20 else line[:5])

    file = tmp_path / "m.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", lambda name, mode, **_: Filling(name, mode))
        with pytest.raises(OSError, match=r"cannot write metrics to .*: the disk is full"):
            write(JsonLines(file))
    assert JsonLines(file).records() == RECORDS[:1]
    assert file.read_bytes().endswith(b"\n")


def events(folder):
    """The scalars in TensorBoard's files, (tag, step, value), and where each file was begun."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

    scalars, starts = [], []
    for file in sorted(folder.iterdir()):
        raw = file.read_bytes()
        while raw:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", raw[:8])
            event = Event.FromString(raw[12 : 12 + length])
            raw = raw[16 + length :]
            if event.HasField("session_log"):
                starts.append(event.step)
            scalars += [
                (value.tag, event.step, value.simple_value)
                for value in event.summary.value
                if value.HasField("simple_value")
            ]
    return scalars, starts


def test_tensorboard_reads_them_back(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path / "tb")
    write(board, [{"step": 10, "loss": 0.5, "event": "begun", "flag": True}], config=CONFIG)
    scalars, starts = events(tmp_path / "tb")
    assert scalars == [("loss", 10, 0.5)] and starts == []
    assert not [one for one in threading.enumerate() if one.name.startswith("jaxnn-log")]
    write(board, [{"step": 11, "loss": 0.25}], 10, history=[{"step": 10, "loss": 0.5}])
    scalars, starts = events(tmp_path / "tb")
    assert sorted(scalars) == [("loss", 10, 0.5), ("loss", 11, 0.25)]
    assert starts == [0]  # what has this step or a later one is forgotten


def test_tensorboard_has_no_step_twice_after_a_run_is_resumed(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path / "tb[1]")
    write(board, RECORDS)
    (file,) = (tmp_path / "tb[1]").iterdir()
    file.write_bytes(file.read_bytes() + b"\x20\0\0")  # torn by a kill
    (tmp_path / "tb[1]" / "events.out.tfevents.1.of-the-user").write_bytes(b"")  # is kept
    write(board, RECORDS[2:], step=20, history=RECORDS[:2])
    assert len([*(tmp_path / "tb[1]").iterdir()]) == 2
    scalars, _ = events(tmp_path / "tb[1]")
    wanted = [(name, r["step"], r[name]) for r in RECORDS for name in ("epoch", "loss")]
    assert sorted(scalars) == sorted(
        (name, step, pytest.approx(value, rel=1e-6)) for name, step, value in wanted
    )


class Client:
    """As much of MLflow's client as a logger uses, over runs in memory."""

    runs: ClassVar[list] = []

    def __init__(self, tracking_uri):
        self.uri = tracking_uri

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id="0")

    def create_run(self, place, run_name):
        self.runs.append({"name": run_name, "metrics": []})
        return self._run(len(self.runs) - 1)

    def _run(self, number):
        names = {one.key for one in self.runs[number]["metrics"]}
        return types.SimpleNamespace(
            info=types.SimpleNamespace(run_id=number),
            data=types.SimpleNamespace(metrics=dict.fromkeys(names, 0.0)),
        )

    def search_runs(self, places, asked, max_results):
        found = [i for i, run in enumerate(self.runs) if f"'{run['name']}'" in asked]
        return [self._run(i) for i in found[::-1][:max_results]]

    def get_run(self, number):
        return self._run(number)

    def get_metric_history(self, number, key):
        return [one for one in self.runs[number]["metrics"] if one.key == key]

    def log_batch(self, number, metrics=(), params=()):
        self.runs[number]["metrics"] += metrics

    def set_terminated(self, number):
        pass


@pytest.fixture
def client(monkeypatch):
    """A module `mlflow` with that client; a real one is slow to import."""
    mlflow: Any = types.ModuleType("mlflow")
    entities: Any = types.ModuleType("mlflow.entities")
    mlflow.__spec__ = importlib.machinery.ModuleSpec("mlflow", None)
    mlflow.MlflowClient = Client
    entities.Metric = lambda key, value, timestamp, step: types.SimpleNamespace(
        key=key, value=value, step=step
    )
    entities.Param = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(Client, "runs", [])
    return Client


def test_mlflow_has_no_step_twice_after_a_run_is_resumed(client):
    logger = MLflow("memory", "trial", run="one")
    write(logger, RECORDS[:3])
    write(logger, RECORDS[1:], step=10)  # its checkpoint was after step 10
    (run,) = client.runs
    held = [(one.key, one.step, one.value) for one in run["metrics"]]
    assert held == [(name, r["step"], r[name]) for r in RECORDS for name in ("epoch", "loss")]


def resumed(logger, lost):
    """The run is resumed after the third record, and the logger lacks some before that."""
    write(logger, [one for i, one in enumerate(RECORDS) if i not in lost and i < 3])
    with logger.open(RECORDS[2]["step"], history=RECORDS[:3]) as log:
        for record in RECORDS[3:]:
            log(record)


@pytest.mark.parametrize("lost", [(), (2,), (1,), (0, 1, 2)])
def test_mlflow_gets_what_it_lacks_once(client, lost):
    resumed(MLflow("memory", "trial", run="one"), lost)
    held = [(one.key, one.step, one.value) for one in client.runs[-1]["metrics"]]
    expected = [(name, r["step"], r[name]) for r in RECORDS for name in ("epoch", "loss")]
    assert sorted(held) == sorted(expected)


@pytest.mark.parametrize("lost", [(), (2,), (1,), (0, 1, 2)])
def test_tensorboard_gets_what_it_lacks_once(tmp_path, lost):
    pytest.importorskip("tensorboardX")
    resumed(TensorBoard(tmp_path), lost)
    scalars, _ = events(tmp_path)
    expected = [
        (name, r["step"], np.float32(r[name])) for r in RECORDS for name in ("epoch", "loss")
    ]
    assert sorted(map(repr, scalars)) == sorted(repr((n, s, float(v))) for n, s, v in expected)


def test_a_new_run_of_an_earlier_name_is_a_new_run_of_mlflow(client):
    for step in (None, 0):  # 0: there was no checkpoint to resume
        write(MLflow("memory", "trial", run="one"), RECORDS, step)
    assert [len(run["metrics"]) for run in client.runs] == [8, 8]


def kept_by_wandb(folder, words):
    """Whether the one offline run there holds the words: a process of wandb's writes it, soon."""
    for _ in range(200):
        files = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
        if files and words in files[0].read_bytes():
            return len(files) == 1
        time.sleep(0.05)
    return False


@pytest.mark.slow  # wandb takes seconds to start
def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    write(WandB("trial", run="one", folder=tmp_path, mode="offline"), config=CONFIG)
    assert kept_by_wandb(tmp_path, b"loss") and kept_by_wandb(tmp_path, b"MLP")


@pytest.mark.slow
def test_wandb_continues_offline_without_a_server(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(loggers, "PATIENCE", 6.0)
    with pytest.warns(UserWarning, match="Biases of trial continues offline, since its server"):
        logger = WandB("trial", run="one", folder=tmp_path)
        with logger.open() as log:
            monkeypatch.setattr(loggers, "PATIENCE", 60.0)
            for record in RECORDS:
                log(record)
    assert kept_by_wandb(tmp_path, b"loss")


@pytest.mark.slow  # so does MLflow
@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy, about MLflow
def test_mlflow_reads_them_back(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with warnings.catch_warnings(record=True) as told:
        write(MLflow(uri, "trial", run="one"), RECORDS[:3], config=CONFIG)
        write(MLflow(uri, "trial", run="one"), RECORDS[2:], step=20)
    assert not [str(one.message) for one in told if "failed" in str(one.message)]
    client = mlflow.MlflowClient(tracking_uri=uri)
    place = client.get_experiment_by_name("trial").experiment_id
    (run,) = client.search_runs([place])
    assert run.data.params == {"model.type": "MLP", "model.width": "8", "seed": "0"}
    assert run.info.status == "FINISHED"
    found = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in found] == [(r["step"], r["loss"]) for r in RECORDS]


@pytest.mark.slow
def test_a_dead_mlflow_server(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    lines = JsonLines(tmp_path / "m.jsonl")
    texts = run_with(lines, MLflow("http://127.0.0.1:9", "trial"))
    (one,) = [text for text in texts if "MlflowException" in text]
    assert one.startswith("the logger MLflow(uri='http://127.0.0.1:9', experiment='trial', run=No")
    assert len(lines.records()) == 4


class Server:
    """What a logger's thread is connected to; it dies after some records, or hangs."""

    def __init__(self, dies=99, hangs=False):
        self.dies, self.hangs, self.got, self.gone = dies, hangs, [], threading.Event()

    def connect(self):
        def log(record):
            if self.hangs:
                self.gone.wait(20)
            if len(self.got) == self.dies:
                raise ConnectionError("the server is gone")
            self.got.append(record)

        return log, lambda: self.got.append("closed")

    def __repr__(self):
        return "Server()"

    def open(self, step=None, config=None, history=()):
        return loggers.in_thread(self.connect, history)


def test_a_server_that_dies_is_reported_once(tmp_path):
    lines, server = JsonLines(tmp_path / "m.jsonl"), Server(dies=2)
    texts = run_with(lines, server)
    (one,) = [text for text in texts if "ConnectionError" in text]
    assert one.startswith("the logger Server() failed (ConnectionError: the server is gone); ")
    assert [record["step"] for record in server.got] == [1, 2]
    assert [record["step"] for record in lines.records()] == [1, 2, 3, 4]


def test_a_server_that_hangs_holds_nothing_up(monkeypatch):
    monkeypatch.setattr(loggers, "PATIENCE", 0.05)
    server = Server(hangs=True)
    (one,) = run_with(server)
    assert "failed (TimeoutError: it did not take the last records in 0.05 s); its last" in one
    server.gone.set()


def test_a_server_that_lives_gets_all_and_is_closed():
    server = Server()
    write(server)
    assert server.got == [*RECORDS, "closed"]


def test_an_error_of_the_run_closes_the_logger():
    server = Server()
    with pytest.raises(KeyError), server.open() as log:
        log(RECORDS[0])
        raise KeyError
    assert server.got == [RECORDS[0], "closed"]


@pytest.mark.parametrize(
    ("module", "logger", "said"),
    [
        ("tensorboardX", TensorBoard("tb"), "TensorBoard's files are written by tensorboardX"),
        ("wandb", WandB("trial"), "Weights & Biases' files are written by wandb"),
        (
            "mlflow",
            MLflow("http://127.0.0.1:9", "trial"),
            "MLflow's runs are written by mlflow-skinny",
        ),
    ],
)
def test_a_library_that_is_not_there(monkeypatch, module, logger, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as error:
        write(logger)
    assert str(error.value) == (f"{said}, which is not installed: write {install('logging')}")
