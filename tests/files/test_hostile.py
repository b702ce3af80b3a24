"""Files made to hang a reader, to fill its memory, or to write on a terminal."""

import contextlib
import json
import os
import socket
import sqlite3
import struct
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import jaxnn as nn
from jaxnn import interop, train
from jaxnn.command import tool
from jaxnn.command.parsing import refuse
from jaxnn.experiment.prediction import read_inputs
from jaxnn.experiment.run_folder import load_config
from jaxnn.files import Lock, NoLock
from jaxnn.files.reading import FileError, parse_json, printable, read_bytes, read_json
from jaxnn.sweep.ledger import Ledger, LedgerError
from jaxnn.sweep.storage import read_states, states_file
from jaxnn.train.weights import open_arrays
from tests.command.test_run import EXPERIMENT, load
from tests.sweep.test_report import small_ledger

X = jax.ShapeDtypeStruct((1, 2), jnp.float32)
NET = nn.Dense(3)
HUGE = 40 * 10**9  # bytes of a sparse file, which takes none on the disk


def weights_file(file, dtype: type = np.float32, w=None):
    w = np.ones((2, 3)) if w is None else w
    arrays = {"params/b": np.zeros(3, np.float32), "params/w": np.asarray(w).astype(dtype)}
    file.write_bytes(
        safetensors.numpy.save(arrays, metadata={"format": "jaxnn", "schema": "1", "network": "?"})
    )
    return file


def load_weights(file):
    return train.load_weights(file, NET, X)


READERS = {
    "weights": load_weights,
    "program": interop.load_program,
    "json": read_json,
    "records": lambda file: train.JsonLines(file).records(),
    "resumed records": lambda file: train.JsonLines(file).open(step=3).__enter__(),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "socket", "loop", "missing"])
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path, monkeypatch, reader, kind):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("file")
    elif kind == "loop":
        file.symlink_to(file)
    began = time.monotonic()
    if kind == "missing" and reader is READERS["resumed records"]:
        return  # which begins the file
    with pytest.raises((FileError, OSError)) as caught:
        reader(file)
    assert str(file) in str(caught.value)
    assert str(caught.value).isprintable()
    assert time.monotonic() - began < 5


def test_a_fifo_is_not_written_to(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with (
        pytest.raises(OSError, match=r"cannot write metrics to .*metrics\.jsonl: No such device"),
        train.JsonLines(tmp_path / "metrics.jsonl").open(),
    ):
        pass


@pytest.mark.parametrize("name", ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-journal"])
def test_a_ledger_of_fifos_is_refused_at_once(tmp_path, name):
    folder = small_ledger(tmp_path / "sweep")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(LedgerError, match=r"is a fifo, wanted a regular|holds no sweep"):
        Ledger.open(folder)


def test_a_lock_that_is_a_fifo_or_another_file_is_no_lock(tmp_path):
    file = tmp_path / "driver.lock"
    os.mkfifo(file)
    assert not Lock.held(file)
    with pytest.raises(NoLock, match=r"driver\.lock is not a lock file: remove it"):
        Lock(file, "busy")
    file.unlink()
    file.write_bytes(b"no database at all" * 100)
    assert not Lock.held(file)


# Memory: what a file claims to hold is compared before it is read. Each of these would take 40 GB.


def sparse(file, start=b""):
    file.write_bytes(start)
    os.truncate(file, HUGE)
    return file


def header(**entries):
    text = json.dumps({"__metadata__": {"format": "jaxnn", "schema": "1"}, **entries}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (b"", "its header is not|is not valid|Expecting"),
        (
            struct.pack("<Q", 2 * 10**10),
            "length of its header must be an int from 0 to [0-9]+, got 2",
        ),
        (header(w={"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}), "end at byte"),
    ],
)
def test_sparse_weights_are_refused_by_their_header(tmp_path, start, text):
    with pytest.raises(FileError, match=rf"\(40,000,000,000 bytes\) is truncated.*({text})"):
        load_weights(sparse(tmp_path / "weights.safetensors", start))


def test_weights_of_another_shape_are_refused_before_they_are_read(tmp_path):
    begin = header(w={"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]})
    file = tmp_path / "weights.safetensors"
    file.write_bytes(begin)
    os.truncate(file, len(begin) + 4 * 10**10)
    with pytest.raises(FileError, match=r"expected nothing, got float32\[10000000000\]"):
        load_weights(file)
    with open_arrays(file) as opened:
        assert opened.entries["w"].shape == (10**10,)


def test_other_sparse_files_are_refused(tmp_path):
    for reader in (interop.load_program, read_json):
        with pytest.raises(FileError, match=r"file.*40,000,000,000 bytes"):
            reader(sparse(tmp_path / "file"))
    folder = tmp_path / "run"
    folder.mkdir()
    sparse(folder / "config.json")
    with pytest.raises(FileError, match=r"config\.json: has 40,000,000,000 bytes"):
        load_config(EXPERIMENT, folder)
    start = tmp_path / "start.npy"
    np.save(start, np.zeros((1, 3), np.float32))
    file = sparse(tmp_path / "inputs.npy", start.read_bytes())
    with pytest.raises(FileError, match=r"inputs\.npy: has .* at most 1,073,741,824; predict"):
        read_inputs(file, load())
    raw = start.read_bytes().replace(b"(1, 3), }", b"(9999999999, 3), }")
    (tmp_path / "long.npy").write_bytes(raw)
    with pytest.raises(FileError, match=r"long\.npy is not a table of numbers"):
        read_inputs(tmp_path / "long.npy", load())
    lines = sparse(tmp_path / "metrics.jsonl")
    with pytest.raises(FileError, match="has 40,000,000,000 bytes"):
        train.JsonLines(lines).records()
    (tmp_path / "lanes").mkdir()
    small = tmp_path / states_file(0)
    os.mkfifo(small)
    with pytest.raises(LedgerError, match="is a fifo, wanted a regular file"):
        read_states(tmp_path, 0, "0" * 64)


def test_json_is_bounded():
    deep = "[" * 60 + "]" * 60
    assert parse_json(deep) != []
    for text, cause in (
        ("[" * 65 + "]" * 65, "more than 64 levels"),
        ("[" * 10**6, "more than 64 levels"),
        ("[" + "[]," * 1_500_000, "more than 2,000,000 values"),
        ('{"a": 1, "a": 2}', "a name twice"),
        ("NaN", "'?NaN'? is not a finite number"),
        ("1e999", "is not a finite number"),
        ("1" * 10_000, "has more than 64 bits"),
        (str(2**63), "has more than 64 bits"),
        ("{", "Expecting"),
    ):
        with pytest.raises(ValueError, match=cause):
            parse_json(text)
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}]") == [2**63 - 1, -(2**63)]
    with pytest.raises(ValueError, match="can't decode byte 0xff"):
        parse_json(b"\xff")


def test_a_file_may_grow_while_it_is_read():
    """The size of what is in /proc is 0."""
    with pytest.raises(FileError, match=r"/proc/self/status: has 11 bytes.*at most 10"):
        read_bytes("/proc/self/status", 10)


# Types: nothing is rounded in silence.


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float16, np.int64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
def test_another_number_type_is_refused_or_converted_on_request(tmp_path, dtype):
    values = np.array([[1, 2, 3], [4, 5, 6]])  # which each of the types holds
    file = weights_file(tmp_path / "weights.safetensors", dtype, values)
    text = (
        r"to convert number types, write load_weights\(\.\.\., cast=True\); params/w: expected "
        rf"float32\[2,3\], got {np.dtype(dtype)}\[2,3\]"
    )
    with pytest.raises(FileError, match=text):
        load_weights(file)
    loaded = train.load_weights(file, NET, X, cast=True)
    assert loaded.params["w"].dtype == jnp.float32
    np.testing.assert_array_equal(loaded.params["w"], values)


def test_a_conversion_that_loses_a_number_is_refused(tmp_path):
    file = weights_file(tmp_path / "weights.safetensors", np.float64, [[1e300] * 3] * 2)
    with pytest.raises(FileError, match="params/w is float64, and has numbers that float32 does"):
        train.load_weights(file, NET, X, cast=True)
    file = weights_file(file, np.bool_)
    with pytest.raises(FileError, match=r"expected float32\[2,3\], got bool\[2,3\]"):
        train.load_weights(file, NET, X, cast=True)


# A ledger that computes.

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@pytest.mark.parametrize("command", [["top"], ["show"], ["report"], ["export", "csv"], ["retry"]])
@pytest.mark.parametrize(
    "change",
    [
        f"DROP TABLE meta; CREATE VIEW meta AS {ENDLESS} SELECT x AS key, x AS value FROM c",
        f"DROP TABLE changes; CREATE VIEW changes AS {ENDLESS} SELECT x, x, x, x FROM c",
        "DROP TABLE meta; "
        "CREATE VIEW meta AS SELECT 'experiment' AS key, zeroblob(900000000) AS value",
        "CREATE TRIGGER t AFTER UPDATE ON trials BEGIN DELETE FROM meta; END",
        "DROP TABLE results",
    ],
    ids=["endless", "endless changes", "huge", "trigger", "missing"],
)
def test_a_ledger_with_another_schema_is_refused(tmp_path, capsys, command, change):
    folder = small_ledger(tmp_path / "sweep")
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.executescript(change)
    connection.close()
    name, *rest = command
    target = [str(tmp_path / "out.csv")] if rest else []
    assert tool.main(["sweep", name, str(folder), *rest, *target]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: the ledger in {folder} is damaged, put back a copy of")
    assert error.count("\n") == 1


def test_a_table_whose_pages_go_in_a_circle_is_refused(tmp_path):
    """A page of a b-tree that is its own child has no last row."""
    folder = small_ledger(tmp_path / "sweep")
    file = folder / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        rows = [(2, 0, epoch, "x" * 40, 1.0) for epoch in range(5000)]
        connection.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?)", rows)
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'results'"
        (root,) = connection.execute(query).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    raw = bytearray(file.read_bytes())
    page = (root - 1) * size
    assert raw[page] == 2  # an interior page of a table without rowid
    raw[page + 8 : page + 12] = struct.pack(">I", root)  # its right-most child
    file.write_bytes(raw)
    with pytest.raises(LedgerError, match=r"is damaged.*2nd reference to page"):
        Ledger.open(folder)


def test_a_ledger_of_many_values_is_refused(tmp_path):
    folder = small_ledger(tmp_path / "sweep")
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        many = "[" + "[]," * 300_000 + "[]]"
        connection.execute("UPDATE meta SET value = ? WHERE key = 'seeds'", (many,))
    connection.close()
    with pytest.raises(LedgerError, match="it has more than 500,000 values"):
        Ledger.open(folder)


def test_a_ledger_in_a_folder_of_any_name_is_read(tmp_path):
    for place in ("a?mode=rwc", "b#c", "%41 d", "[e]*", "f'g\"h", "ü"):
        with Ledger.open(small_ledger(tmp_path / place)) as ledger:
            assert len(ledger.trials()) == 3


# A terminal.


def test_no_text_reaches_the_terminal_as_an_escape_sequence(tmp_path, capsys):
    folder = small_ledger(tmp_path / "sweep")
    evil = "\x1b]0;title\x07\x1b[31m\u202e\x9b2J"
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE trials SET error = ?", (f"Traceback\n{evil}",))
        connection.execute("UPDATE results SET name = ?", (evil,))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'metric'", (json.dumps(evil),))
    connection.close()
    for command in ("show", "top"):
        assert tool.main(["sweep", command, str(folder)]) == int(command == "top")
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert all(c.isprintable() or c == "\n" for c in text)
    assert r"\x1b]0;title\x07" in printed.out
    refuse(f"a\n{evil}\ud800", 1)
    assert capsys.readouterr().err == "error: a\n" + printable(evil) + "\\ud800\n"


def test_a_name_in_a_printed_command_is_a_module(tmp_path):
    folder = small_ledger(tmp_path / "sweep")
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = '\"x; rm -r ~\"' WHERE key = 'experiment'")
    connection.close()
    with Ledger.open(folder) as ledger, pytest.raises(LedgerError, match="'experiment' is 'x; rm"):
        tool.read(ledger)
