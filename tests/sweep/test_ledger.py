"""A ledger loses nothing: not by kill -9, not on a full disk, and not to a second driver."""

import contextlib
import errno
import hashlib
import io
import math
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from jaxnn import files as writing
from jaxnn.installation import upgrade
from jaxnn.sweep.ledger import Change, Cohort, EpochResult, Group, Ledger, LedgerError
from jaxnn.sweep.storage import SCHEMA
from tests.sweep import toy

META = {"experiment": "experiments.toy", "epochs": 5, "maximize": False}
PLACE = r"python -m experiments\.toy resume "


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "sweep", META) as ledger:
        ledger.add_group(Group("wide", {"width": 128}, "vmap", lanes=64, probe={"loop": 0.1}))
        yield ledger


def two_lanes(ledger, **statuses):
    """Trials 0 and 1, the first epoch of which is committed with states."""
    ledger.ask(0, 0, [({"rate": 0.1}, "wide"), ({"rate": 0.2}, "wide")])
    cohort = Cohort("wide", 0, 0, 1, ((0, 7), (1, 7)))
    results = [EpochResult(0, 7, 1, "loss", 0.5), EpochResult(1, 7, 1, "loss", 0.25)]
    return ledger.commit(cohort, results, {0: "running", 1: "running"}, lanes=b"states")


def start(folder, rounds, *limits):
    command = [sys.executable, toy.__file__, folder, rounds, *limits]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(folder, rounds, *limits):
    """Run the toy sweep to its end, or to where it is killed: its exit status and its error."""
    with start(folder, rounds, *limits) as process:
        _, error = process.communicate()
    return process.returncode, error


@contextlib.contextmanager
def raw(folder):
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        yield connection


def toy_digest(folder, rounds):
    """The digest of an uninterrupted sweep of that many rounds."""
    with Ledger.create(folder, {"experiment": "experiments.toy"}) as ledger:
        toy.sweep(ledger, rounds)
        return toy.digest(ledger)


def check_whole(folder):
    """Every transaction is there as a whole, or not at all; each named checkpoint can be read."""
    with Ledger.open(folder) as ledger, ledger.snapshot():
        results = {}
        for result in ledger.results():
            results.setdefault((result.trial, result.seed), []).append(result.epoch)
        ran = {}
        for cohort in ledger.cohorts():
            epochs = range(cohort.epoch_from + 1, cohort.epoch_to + 1)
            for lane in cohort.lanes:
                ran.setdefault(lane, []).extend(epoch for epoch in epochs for _ in range(2))
            if cohort.id in {key for key, _ in ledger.states().values()}:
                assert len(ledger.lanes(cohort.id)) == 5000 + 8 * len(cohort.lanes)
        assert results == ran
        assert ledger.trained_epochs() == {lane: epochs[-1] for lane, epochs in ran.items()}
        rounds = [trial.round for trial in ledger.trials()]
        assert all(rounds.count(round) == toy.BATCH for round in rounds)
        asked = {trial.number for trial in ledger.trials() if trial.status == "asked"}
        assert asked.isdisjoint(trial for trial, _ in ran)
    with raw(folder) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def kill_at_random(tmp_path, kills, rng, rounds):
    wanted, place, killed, sweeps = toy_digest(tmp_path / "whole", rounds), None, 0, 0
    while killed < kills:
        if place is None:
            place, sweeps = tmp_path / f"killed-{sweeps}", sweeps + 1
        with start(place, rounds) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        check_whole(place)
        if process.returncode == 0:  # it was faster
            with Ledger.open(place) as ledger:
                assert toy.digest(ledger) == wanted
            place = None
    if place:
        assert finish(place, rounds) == (0, "")
        with Ledger.open(place) as ledger:
            assert toy.digest(ledger) == wanted


def kill_at(place, boundary, wanted, rounds):
    """Kill at a boundary, look, and go on to the end; False where there is no such boundary."""
    code, error = finish(place, rounds, boundary)
    assert (code, error) in ((-signal.SIGKILL, ""), (0, ""))
    check_whole(place)
    assert finish(place, rounds) == (0, "")
    with Ledger.open(place) as ledger:
        assert toy.digest(ledger) == wanted
    assert list((place / "lanes").iterdir()) == []
    return code != 0


def test_killed_at_random_moments(tmp_path):
    kill_at_random(tmp_path, 2, random.Random(), rounds=3)


@pytest.mark.slow
def test_killed_at_30_random_moments(tmp_path):
    kill_at_random(tmp_path, 30, random.Random(), rounds=6)


@pytest.mark.parametrize("boundary", [10, 11, 12])
def test_killed_around_a_commit(tmp_path, boundary):
    # The fourth transaction is the first commit, after two groups and a round of asks.
    wanted = toy_digest(tmp_path / "whole", 1)
    assert kill_at(tmp_path / "killed", boundary, wanted, 1)


@pytest.mark.slow
def test_killed_at_every_boundary(tmp_path):
    wanted, boundary = toy_digest(tmp_path / "whole", 2), 1
    while kill_at(tmp_path / str(boundary), boundary, wanted, 2):
        boundary += 1
    with Ledger.open(tmp_path / "whole") as ledger:
        cohorts = len(ledger.cohorts())
    # 2 groups, the cohorts, and in each of 2 rounds an ask, 2 decisions and 2 changes
    assert boundary == 3 * (2 + cohorts + 2 * 5) + 1


def test_a_driver_killed_while_it_made_the_ledger_leaves_a_free_place(tmp_path):
    for name in ("driver.lock", "ledger.sqlite.new", "ledger.sqlite.new-journal"):
        (tmp_path / name).write_bytes(b"")
    with Ledger.create(tmp_path, META) as ledger:
        assert ledger.meta == META
    assert sorted(file.name for file in tmp_path.iterdir()) == ["driver.lock", "ledger.sqlite"]


def test_what_went_in_comes_out(ledger):
    assert ledger.meta == META
    ledger.set_meta({"epochs": 6, "rungs": [1, 6]})
    assert ledger.meta == META | {"epochs": 6, "rungs": [1, 6]}
    ledger.add_group(Group("wide", {"width": 128}, "map", 32, 2, {"map": 0.1}, 1.5))
    assert ledger.groups() == [Group("wide", {"width": 128}, "map", 32, 2, {"map": 0.1}, 1.5)]
    values = {"rate": 1e-3, "width": 3, "name": "ä\N{SNOWMAN}", "nesterov": True, "decay": None}
    assert ledger.ask(4, 2, [(values, "wide"), ({"x": np.float64(0.1)}, None)]) == [0, 1]
    assert ledger.ask(5, 0, []) == []
    assert ledger.ask(6, 0, [({}, "wide")]) == [2]
    first, second, _ = ledger.trials()
    assert (first.round, first.bracket, first.values, first.group) == (4, 2, values, "wide")
    assert list(map(type, first.values.values())) == [float, int, str, bool, type(None)]
    assert (second.values, second.group, second.status) == ({"x": 0.1}, None, "asked")
    before = time.time()
    cohort = Cohort("wide", 0, 0, 2, ((0, 1), (0, 0), (2, 0)), 2.0, 1.0)
    results = [(0, 1, 2, "loss", 0.5), (0, 1, 1, "loss", 1.5), (0, 0, 1, "error", 3)]
    assert ledger.commit(cohort, results, {0: "running", 2: "failed"}, {2: "no"}, b"abc") == 0
    (found,) = ledger.cohorts()
    assert before <= found.finished <= time.time()
    wanted = dict(vars(cohort), id=0)
    assert vars(found) == wanted | {"finished": found.finished}
    assert ledger.results() == sorted(EpochResult(*result) for result in results)
    assert ledger.results("error") == [EpochResult(0, 0, 1, "error", 3.0)]
    assert toy.curves(ledger, 0, "loss") == {1: [(1, 1.5), (2, 0.5)]}
    assert ledger.trained_epochs() == {(0, 0): 2, (0, 1): 2, (2, 0): 2}
    assert ledger.states() == {(0, 1, 2): (0, 0), (0, 0, 2): (0, 1), (2, 0, 2): (0, 2)}
    assert ledger.lanes(0) == b"abc"
    trials = ledger.trials()
    assert [(t.status, t.rung, t.error) for t in trials] == [
        ("running", 0, None),
        ("asked", None, None),
        ("failed", None, "no"),
    ]


def test_infinities_and_nan_come_back(ledger):
    rates = [math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]
    ledger.ask(0, 0, [({"rate": rate}, "wide") for rate in rates])
    results = [EpochResult(i, 0, 1, "loss", rate) for i, rate in enumerate(rates)]
    lanes = tuple((i, 0) for i in range(len(rates)))
    narrow = [result._replace(value=np.float32(result.value)) for result in results[:3]]
    narrow = [result._replace(name="float32") for result in narrow]
    ledger.commit(Cohort("wide", 0, 0, 1, lanes), results + narrow, {})
    # repr tells all floats apart that differ, and NaN is itself
    assert [repr(trial.values["rate"]) for trial in ledger.trials()] == list(map(repr, rates))
    assert [repr(row.value) for row in ledger.results("loss")] == list(map(repr, rates))
    assert [repr(row.value) for row in ledger.results("float32")] == list(map(repr, rates[:3]))
    assert repr(toy.curves(ledger, 2, "loss")) == "{0: [(1, nan)]}"
    with raw(ledger.folder) as connection:
        nulls = connection.execute("SELECT count(*) FROM results WHERE value IS NULL")
        assert nulls.fetchone() == (2,)


def test_the_digest_is_over_what_was_asked_and_came_and_no_times(tmp_path):
    def digest(name, rate=0.1, loss=0.5, status="done", seconds=1.0, source=0):
        with Ledger.create(tmp_path / name, {"name": name}) as ledger:
            ledger.add_group(Group("wide", {}, name, 1))
            ledger.ask(0, 0, [({"rate": rate, "width": 3}, "wide"), ({}, None)])
            cohort = Cohort("wide", 0, 0, 1, ((0, 0),), seconds, seconds)
            ledger.commit(cohort, [(0, 0, 1, "loss", loss)], {0: status})
            ledger.decide({}, changes=[Change(0, 1, {"rate": 2.0}, source)])
            return toy.digest(ledger)

    wanted = digest("first")
    assert digest("second", seconds=2.0) == wanted
    others = [
        digest("rate", rate=0.1 + 2**-56),
        digest("loss", loss=math.nan),
        digest("inf", loss=math.inf),
        digest("status", status="stopped"),
        digest("source", source=1),
    ]
    assert len({wanted, *others}) == 6


def test_the_order_of_arrival_does_not_change_the_digest(tmp_path):
    found = set()
    for order in ([0, 1], [1, 0]):
        with Ledger.create(tmp_path / str(order), META) as ledger:
            ledger.add_group(Group("wide", {}, "vmap", 1))
            ledger.ask(0, 0, [({"a": 1, "b": 2}, "wide"), ({"b": 2, "a": 1}, "wide")])
            for number in order:
                cohort = Cohort("wide", 0, 0, 1, ((number, 0),))
                ledger.commit(cohort, [(number, 0, 1, "loss", 0.5)], {number: "done"})
            found.add(toy.digest(ledger))
    assert len(found) == 1


def test_a_checkpoint_stays_exactly_while_a_lane_goes_on_from_it(ledger):
    two_lanes(ledger)
    file = ledger.folder / "lanes/000000.safetensors"
    assert file.read_bytes() == b"states"
    ledger.decide({0: "stopped"}, 0)
    assert file.exists()
    ledger.commit(Cohort("wide", 1, 1, 2, ((1, 7),)), [], {1: "running"}, lanes=b"later")
    assert not file.exists()
    assert ledger.states() == {(1, 7, 2): (1, 0)}
    with pytest.raises(
        ValueError, match="cohort 0 of the ledger has no states: none of its lanes continues"
    ):
        ledger.lanes(0)
    ledger.decide({1: "stopped"}, 1)
    assert list((ledger.folder / "lanes").iterdir()) == []
    assert ledger.states() == {}


def test_a_source_is_kept_until_the_changed_trial_has_gone_on(ledger):
    two_lanes(ledger)
    ledger.decide({}, changes=[Change(1, 1, {"rate": 0.3}, source=0)])
    assert ledger.changes() == [Change(1, 1, {"rate": 0.3}, 0)]
    ledger.commit(Cohort("wide", 1, 1, 2, ((0, 7),)), [], {0: "running"}, lanes=b"later")
    ledger.decide({0: "stopped"}, 1)
    assert ledger.states() == {(0, 7, 1): (0, 0), (1, 7, 1): (0, 1)}
    ledger.commit(Cohort("wide", 1, 1, 2, ((1, 7),)), [], {1: "done"})
    assert ledger.states() == {}
    assert list((ledger.folder / "lanes").iterdir()) == []


def test_a_trial_that_failed_is_asked_again(ledger):
    two_lanes(ledger)
    with pytest.raises(
        ValueError, match="trial 0 is running: retry accepts those that are diverged"
    ):
        ledger.retry([0])
    ledger.decide({0: "failed"}, 0, {0: "Traceback \udcff"})
    assert ledger.trials()[0].error == r"Traceback \udcff"
    ledger.retry([0])
    trial = ledger.trials()[0]
    assert (trial.status, trial.rung, trial.error) == ("asked", None, None)
    assert ledger.results() == [EpochResult(1, 7, 1, "loss", 0.25)]
    assert ledger.states() == {(1, 7, 1): (0, 1)}
    ledger.commit(Cohort("wide", 0, 0, 1, ((0, 7),)), [(0, 7, 1, "loss", 0.1)], {0: "done"})
    assert toy.curves(ledger, 0, "loss") == {7: [(1, 0.1)]}


def test_an_outcome_is_noted_once(ledger):
    two_lanes(ledger)
    digest = toy.digest(ledger)
    cohort = Cohort("wide", 0, 0, 1, ((0, 7), (1, 7)))
    with pytest.raises(
        ValueError,
        match="seed 7 of trial 0 has trained 1 epochs, and this cohort begins after 0",
    ):
        ledger.commit(cohort, [], {0: "done"}, lanes=b"again")
    assert toy.digest(ledger) == digest
    assert ledger.lanes(0) == b"states"
    assert len(ledger.cohorts()) == 1


def test_mistakes_are_told_and_change_nothing(ledger):
    two_lanes(ledger)
    digest = toy.digest(ledger)
    cohort = Cohort("wide", 1, 1, 3, ((0, 7),))
    for mistake, text in (
        (lambda: ledger.ask(1, 0, [({}, "wild")]), "FOREIGN KEY"),
        (lambda: ledger.ask(1, 0, [({"x": np.float32(1)}, "wide")]), "float32 is not JSON serial"),
        (lambda: ledger.decide({2: "done"}), "no trial 2 in the ledger: ask for it first"),
        (lambda: ledger.decide({1: "stoped"}), "CHECK constraint failed: status IN"),
        (lambda: ledger.decide({}, changes=[Change(0, 1, {}, 9)]), "FOREIGN KEY"),
        (lambda: ledger.retry([-1]), "trial -1 is not in the ledger: retry accepts"),
        (lambda: ledger.lanes(5), "cohort 5 of the ledger is not there"),
        (lambda: ledger.lanes("../ledger"), "cohort '../ledger' of the ledger is not there"),
        (lambda: ledger.commit(cohort, [(0, 7, 2, "x", 0.0)] * 2, {}), "UNIQUE constraint"),
        (lambda: ledger.commit(cohort, [(9, 7, 2, "x", 0.0)], {}), "FOREIGN KEY"),
        (lambda: ledger.commit(Cohort("wide", 1, 1, 1, ((0, 7),)), [], {}), "CHECK constraint"),
        (lambda: ledger.commit(Cohort("x", 1, 1, 3, ((0, 7),)), [], {}), "FOREIGN KEY"),
    ):
        with pytest.raises((ValueError, TypeError, sqlite3.IntegrityError), match=text):
            mistake()
    assert toy.digest(ledger) == digest


def test_readers_look_while_the_driver_writes_and_write_nothing(ledger):
    two_lanes(ledger)
    with Ledger.open(ledger.folder) as reader:
        with reader.snapshot():
            assert len(reader.trials()) == 2
            ledger.ask(1, 0, [({}, "wide")])
            assert len(reader.trials()) == 2
            assert toy.digest(reader) != toy.digest(ledger)
        assert len(reader.trials()) == 3
        assert toy.digest(reader) == toy.digest(ledger)
        for write in (
            lambda: reader.ask(0, 0, []),
            lambda: reader.commit(Cohort("wide", 1, 1, 2, ((0, 7),)), [], {}, lanes=b"x"),
        ):
            with pytest.raises(
                ValueError, match=r"is open for reading: write Ledger\.open\(folder, wr"
            ):
                write()
    assert os.listdir(ledger.folder / "lanes") == ["000000.safetensors"]


def test_a_second_driver_is_refused(tmp_path):
    place = tmp_path / "sweep"
    text = f"another driver is at work in {place}, and there may be one at a time.*`jaxnn sweep top"
    with Ledger.create(place, META) as ledger:
        ledger.add_group(Group("wide", {}, "vmap", 1))
        with pytest.raises(LedgerError, match=text):
            Ledger.open(place, write=True)
        code, error = finish(place, 1)
        assert code == 1
        assert "another driver is at work in" in error
        assert error.count("\n") == 1
        two_lanes(ledger)
    with Ledger.open(place, write=True) as ledger:
        assert len(ledger.trials()) == 2


def test_a_killed_driver_holds_no_lock(tmp_path):
    with start(tmp_path / "sweep", 50) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(LedgerError, match="another driver is at work"):
            Ledger.open(tmp_path / "sweep", write=True)
        process.send_signal(signal.SIGKILL)
    Ledger.open(tmp_path / "sweep", write=True).close()


def test_a_folder_that_holds_another_sweep_is_refused_with_what_to_write(ledger):
    two_lanes(ledger)
    place = ledger.folder
    text = (
        rf"{place} holds a sweep already \(of experiments\.toy, 2 trials\): continue it with "
        rf"{PLACE}{place}, or write --folder with another path"
    )
    with pytest.raises(LedgerError, match=text):
        Ledger.create(place, META)
    assert len(ledger.trials()) == 2


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(
        LedgerError, match=r"holds something else already \(thesis\.tex\): write --f"
    ):
        Ledger.create(tmp_path, META)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_folder_without_a_sweep_is_told(tmp_path):
    for write in (False, True):
        with pytest.raises(LedgerError, match=r"holds no sweep, there is no ledger\.sqlite in it"):
            Ledger.open(tmp_path, write)
        with pytest.raises(LedgerError, match="holds no sweep"):
            Ledger.open(tmp_path / "nowhere", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("contents", [b"", b"PNG, or what it was" * 100, None])
def test_what_is_no_ledger_is_told_and_left_alone(tmp_path, contents):
    file = tmp_path / "ledger.sqlite"
    if contents is None:
        with raw(tmp_path) as connection:
            connection.execute("CREATE TABLE trials (trial_id)")
    else:
        file.write_bytes(contents)
    before = file.read_bytes()
    for use in (
        lambda: Ledger.open(tmp_path),
        lambda: Ledger.open(tmp_path, write=True),
        lambda: Ledger.create(tmp_path, META),
    ):
        with pytest.raises(LedgerError, match=rf"{file} is not the ledger of a sweep"):
            use()
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["ledger.sqlite"]


@pytest.mark.parametrize(
    "schema, text",
    [
        (99, f"a newer jaxnn (its schema is 99, this one reads {SCHEMA}): write {upgrade()}"),
        (0, f"an older jaxnn (its schema is 0, this one reads {SCHEMA}): begin another sweep, or "),
    ],
)
def test_a_ledger_of_another_version_is_rejected_and_left_alone(tmp_path, schema, text):
    Ledger.create(tmp_path / "sweep", META).close()
    with raw(tmp_path / "sweep") as connection:
        connection.execute(f"PRAGMA user_version = {schema}")
    for write in (False, True):
        with pytest.raises(LedgerError, match=re.escape(text)):
            Ledger.open(tmp_path / "sweep", write)


def test_a_damaged_ledger_is_told(tmp_path):
    with Ledger.create(tmp_path / "sweep", META) as ledger:
        toy.sweep(ledger, 1)
    file = tmp_path / "sweep" / "ledger.sqlite"
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(
        LedgerError, match=r"is damaged, put back a copy of ledger\.sqlite \(.*Page 12"
    ):
        Ledger.open(tmp_path / "sweep", write=True)
    file.write_bytes(whole)
    with raw(tmp_path / "sweep") as connection:
        connection.execute("""UPDATE trials SET "values" = '{"rate": 0.' WHERE number = 3""")
    with (
        Ledger.open(tmp_path / "sweep") as ledger,
        pytest.raises(LedgerError, match=r"damaged, put back a copy of ledger\.sqlite \(Expecting"),
    ):
        ledger.trials()


def test_a_lock_that_is_none_is_told(tmp_path):
    Ledger.create(tmp_path, META).close()
    (tmp_path / "driver.lock").write_bytes(b"mine" * 1000)
    with pytest.raises(LedgerError, match=r"driver\.lock is not a driver's lock: remove it"):
        Ledger.open(tmp_path, write=True)


def test_a_damaged_checkpoint_is_told(ledger):
    two_lanes(ledger)
    file = ledger.folder / "lanes/000000.safetensors"
    file.write_bytes(b"statez")
    wanted, found = (hashlib.sha256(c).hexdigest()[:12] for c in (b"states", b"statez"))
    text = (
        f"{file} is damaged: its SHA-256 is {found}..., expected {wanted}...; the lanes of cohort "
        "0 continue from it: put back a copy of it"
    )
    with pytest.raises(LedgerError) as raised:
        ledger.lanes(0)
    assert str(raised.value) == text
    file.unlink()
    with pytest.raises(LedgerError, match=rf"{file} cannot be read \(No such file"):
        ledger.lanes(0)


def test_no_text_in_a_ledger_leads_out_of_its_folder(tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"mine")
    place = tmp_path / "sweep"
    with Ledger.create(place, META) as ledger:
        ledger.add_group(Group("wide", {}, "vmap", 1))
        two_lanes(ledger)
    with raw(place) as connection:
        connection.execute("UPDATE cohorts SET checkpoint = '../../outside.safetensors'")
        with pytest.raises(sqlite3.IntegrityError, match="datatype mismatch"):
            connection.execute("UPDATE cohorts SET id = '../../outside'")
    with Ledger.open(place, write=True) as ledger:
        with pytest.raises(
            LedgerError, match=r"000000\.safetensors is damaged.*expected \.\./\.\./out"
        ):
            ledger.lanes(0)
        ledger.decide({0: "stopped", 1: "stopped"}, 0)
    assert list((place / "lanes").iterdir()) == []
    assert outside.read_bytes() == b"mine"


def test_opening_removes_what_a_killed_driver_left_and_nothing_else(tmp_path):
    with Ledger.create(tmp_path, META) as ledger:
        ledger.add_group(Group("wide", {}, "vmap", 1))
        two_lanes(ledger)
    for name in (
        "000007.safetensors",
        ".000001.safetensors-0123abcd",
        "notes.txt",
        "x.safetensors",
    ):
        (tmp_path / "lanes" / name).write_text(name)
    Ledger.open(tmp_path).close()
    assert len(os.listdir(tmp_path / "lanes")) == 5
    Ledger.open(tmp_path, write=True).close()
    left = sorted(os.listdir(tmp_path / "lanes"))
    assert left == ["000000.safetensors", "notes.txt", "x.safetensors"]


def test_a_full_disk_in_the_ledger_stops_cleanly_and_goes_on(ledger):
    two_lanes(ledger)
    digest = toy.digest(ledger)
    cohort = Cohort("wide", 1, 1, 501, ((0, 7), (1, 7)))
    results = [(t, 7, e, "loss", 0.5) for t in (0, 1) for e in range(2, 502)]
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(
        LedgerError,
        match=rf"the disk is full, the ledger in {ledger.folder} cannot grow \(database or disk is "
        rf"full\)\. Nothing was lost; committed results are intact: .*{PLACE}{ledger.folder}",
    ) as raised:
        ledger.commit(cohort, results, {0: "done", 1: "done"}, lanes=b"x")
    assert "\n" not in str(raised.value)
    assert toy.digest(ledger) == digest
    assert ledger.lanes(0) == b"states"
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    ledger.commit(cohort, results, {0: "done", 1: "done"})
    assert len(ledger.results()) == 1002


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_in_a_checkpoint_stops_cleanly_and_goes_on(ledger, monkeypatch, number):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(number, os.strerror(number), "lanes/000001.safetensors.new")

    two_lanes(ledger)
    digest = toy.digest(ledger)
    cohort = Cohort("wide", 1, 1, 2, ((0, 7), (1, 7)))
    with monkeypatch.context() as patch:
        patch.setattr(writing, "open", lambda *_: Full(), raising=False)
        with pytest.raises(
            LedgerError,
            match=rf"the disk is full, lanes/000001\.safetensors\.new cannot be written "
            rf"\({os.strerror(number)}\)\. Nothing was lost.*{PLACE}",
        ):
            ledger.commit(cohort, [], {0: "running"}, lanes=b"later")
    assert toy.digest(ledger) == digest
    assert os.listdir(ledger.folder / "lanes") == ["000000.safetensors"]
    assert ledger.commit(cohort, [], {0: "running"}, lanes=b"later") == 1


@pytest.mark.parametrize("size", [3000, 60_000])
def test_a_real_limit_on_file_size(tmp_path, size):
    # The first is met when the ledger is opened, the second when its log grows.
    place = tmp_path / "sweep"
    with Ledger.create(place, {"experiment": "experiments.toy"}) as ledger:
        ledger.add_group(Group("narrow", {}, "vmap", 1))
    code, error = finish(place, 2, f"size={size}")
    assert code == 1
    assert error.count("\n") == 1
    assert "Nothing was" in error
    check_whole(place)
    assert finish(place, 2) == (0, "")
    with Ledger.open(place) as ledger:
        assert toy.digest(ledger) == toy_digest(tmp_path / "whole", 2)


def test_a_place_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("here first")
    for place in (tmp_path / "file", tmp_path / "file" / "sweep"):
        text = rf"{place} cannot be written, .*file.* is not a folder\. Nothing was run; write"
        with pytest.raises(LedgerError, match=text):
            Ledger.create(place, META)
    assert (tmp_path / "file").read_text() == "here first"


@contextlib.contextmanager
def unprivileged():
    """A folder for files, in which no superuser is at work, who would write anywhere."""
    place = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        place.chmod(0o777)
        if root:
            try:
                os.seteuid(65534)
            except OSError:
                pytest.skip("root cannot become another user here")
        try:
            yield place
        finally:
            if root:
                os.seteuid(0)
    finally:
        for folder in [place, *place.rglob("*")]:
            folder.chmod(0o777)
        shutil.rmtree(place)


@pytest.mark.skipif(os.name != "posix", reason="needs the rights of POSIX")
def test_a_read_only_folder_can_be_read_and_is_never_begun_or_resumed_in():
    with unprivileged() as place:
        with Ledger.create(place / "sweep", META) as ledger:
            ledger.add_group(Group("wide", {}, "vmap", 1))
            two_lanes(ledger)
            digest = toy.digest(ledger)
        (place / "empty").mkdir()
        (place / "home").mkdir()
        for name in ("sweep", "empty", "home"):
            (place / name).chmod(0o555)
        with Ledger.open(place / "sweep") as ledger:
            assert toy.digest(ledger) == digest
            assert ledger.lanes(0) == b"states"
        for use, text in (
            (
                lambda: Ledger.create(place / "home/new", META),
                r"cannot be written \(Permission denied\)",
            ),
            (lambda: Ledger.create(place / "empty", META), r"empty cannot be written \(unable to"),
        ):
            with pytest.raises(LedgerError, match=rf"{text}.*\. Nothing was run; write --folder"):
                use()
        (place / "sweep" / "driver.lock").chmod(0o444)
        with pytest.raises(
            LedgerError, match=r"sweep cannot be written \(.*\)\. Nothing was changed"
        ):
            Ledger.open(place / "sweep", write=True)
