"""A sweep goes on from anywhere, and what breaks in it breaks alone."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import io
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnn.combine import Serial
from jaxnn.core import Layer
from jaxnn.experiment import SGD, AdamW
from jaxnn.sweep import Choice, Grid, Space, checkpoints, cohort
from jaxnn.sweep.engine import engine
from jaxnn.sweep.halve import hyperband
from jaxnn.sweep.ledger import Ledger, LedgerError
from jaxnn.sweep.settings import Settings
from tests.sweep import driven, quick

ROOT = Path(__file__).parents[2]
RATES = Space(quick.Experiment, {"optimizer.learning_rate": Grid(0.01, 0.03, 0.1, 0.3)})
INFINITE = Space(quick.Experiment, {"optimizer.learning_rate": Choice(0.01, 0.1, math.inf, 0.3)})
# A grid of few points is asked in order; the lanes are fixed, so that nothing has to be measured.
FEW = Settings(trials=4, search="grid", **driven.FIXED)


def swept(folder, made, settings=FEW, executor=None, workers=1, opened=Ledger):
    """The ledger of a whole sweep, to read."""
    with driven.begun(made, settings, folder, opened) as ledger:
        driven.drive(ledger, made, executor, workers)
    return reading(folder)


def reading(folder):
    with Ledger.open(folder) as ledger, ledger.snapshot():
        return Seen(
            ledger.trials(), ledger.results(), ledger.cohorts(), ledger.groups(), ledger.digest()
        )


@dataclasses.dataclass(frozen=True)
class Seen:
    trials: list
    results: list
    cohorts: list
    groups: list
    digest: str

    @property
    def statuses(self):
        return [trial.status for trial in self.trials]

    def curve(self, number, name="validation_accuracy"):
        return [r.value for r in self.results if r.trial == number and r.name == name]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """The digest of each kind of sweep that nobody stopped, by its name."""
    found = {}

    def whole(kind):
        if kind not in found:
            folder = tmp_path_factory.mktemp("whole") / kind
            found[kind] = swept(folder, driven.recipe(kind), driven.KINDS[kind][1]).digest
        return found[kind]

    return whole


# Nothing is lost


class Died(BaseException):
    """What ends a driver here, in the place of a signal."""


def die():
    raise Died


@pytest.mark.parametrize("kind", driven.KINDS)
def test_a_driver_that_ends_at_any_boundary_is_followed_by_one_that_goes_on(tmp_path, kind, wholes):
    """Each driver ends at the first, second or third boundary that it comes to: so each boundary
    of each transaction is met, and each but the third makes the next driver do it again."""
    made, (_, settings) = driven.recipe(kind), driven.KINDS[kind]
    folder, drivers = tmp_path / "sweep", 0
    driven.begun(made, settings, folder).close()
    while True:
        with (
            contextlib.suppress(Died),
            Ledger_ended(1 + drivers % 3).open(folder, write=True) as ledger,
        ):
            driven.drive(ledger, made)
            break
        drivers += 1
    seen = reading(folder)
    assert drivers > 3 * len(seen.cohorts)
    assert seen.digest == wholes(kind)
    assert not list((folder / "lanes").glob("*"))


def Ledger_ended(boundary):
    return driven.ended_at(Ledger, boundary, die)


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Of child processes, which keep what they compiled for each other."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return os.environ | kept


def start(environment, *arguments):
    command = [sys.executable, driven.__file__, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(process.communicate()[1])
    return process


def kill_at_random(folder, kind, kills, environment, longest):
    """Kill drivers one after the other, each after up to so many seconds; then let one end.

    The digest of each sweep that came to its end.
    """
    random_times, killed, sweeps = random.Random(), 0, 0
    while True:
        with start(environment, folder / str(sweeps), kind) as process:
            if killed < kills:
                time.sleep(random_times.uniform(0, longest))
                process.send_signal(signal.SIGKILL)
            _, error = process.communicate()
        if process.returncode == 0:
            yield reading(folder / str(sweeps)).digest
            sweeps += 1
            if killed >= kills:
                return
        else:
            assert (process.returncode, error) == (-signal.SIGKILL, "")
            killed += 1


@pytest.mark.parametrize("kind", ["successive", "population"])
def test_killed_at_random_moments(tmp_path, kind, environment, wholes):
    digests = list(kill_at_random(tmp_path, kind, 1, environment, longest=2.0))
    assert set(digests) == {wholes(kind)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", driven.KINDS)
def test_killed_at_30_random_moments(tmp_path, kind, environment, wholes):
    digests = list(kill_at_random(tmp_path, kind, 30, environment, longest=1.0))
    assert set(digests) == {wholes(kind)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", driven.KINDS)
def test_killed_at_every_boundary(tmp_path, kind, environment, wholes):
    drivers = 0
    driven.begun(driven.recipe(kind), driven.KINDS[kind][1], tmp_path / "sweep").close()
    while True:
        with start(environment, tmp_path / "sweep", kind, 1 + drivers % 3) as process:
            _, error = process.communicate()
        assert (process.returncode, error) in ((-signal.SIGKILL, ""), (0, ""))
        if process.returncode == 0:
            break
        drivers += 1
    seen = reading(tmp_path / "sweep")
    assert drivers > 3 * len(seen.cohorts)
    assert seen.digest == wholes(kind)


def test_a_second_driver_is_refused_until_the_first_is_dead(tmp_path, environment):
    with start(environment, tmp_path / "sweep", "none") as first:
        try:
            with pytest.raises(LedgerError, match=r"another driver is at work in .*sweep, and one"):
                Ledger.open(tmp_path / "sweep", write=True)
            reading(tmp_path / "sweep")  # to look is allowed
        finally:
            first.kill()
    Ledger.open(tmp_path / "sweep", write=True).close()


@pytest.mark.parametrize("kind", ["successive", "population"])
def test_a_full_disk_stops_cleanly_and_goes_on_to_the_same_end(tmp_path, kind, monkeypatch, wholes):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made, (_, settings) = driven.recipe(kind), driven.KINDS[kind]
    folder, left = tmp_path / "sweep", iter([open] * 2)
    with monkeypatch.context() as patch, driven.begun(made, settings, folder) as ledger:
        patch.setattr(
            checkpoints, "open", lambda *a: next(left, lambda *_: Full())(*a), raising=False
        )
        with pytest.raises(LedgerError, match=r"the disk is full.*Nothing was lost.*write python"):
            driven.drive(ledger, made)
    pages = len((folder / "ledger.sqlite").read_bytes()) // 4096
    with driven.begun(made, settings, folder) as ledger:
        ledger._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(LedgerError, match=r"the disk is full, the ledger in .* cannot grow"):
            driven.drive(ledger, made)
    assert 0 < len(reading(folder).cohorts) < len(swept(folder, made, settings).cohorts)
    assert reading(folder).digest == wholes(kind)


# What breaks, breaks alone


@pytest.mark.parametrize("by", ["vmap", "map", "loop"])
def test_a_lane_at_an_infinite_learning_rate_diverges_alone(tmp_path, by):
    settings = dataclasses.replace(FEW, by=by)
    seen = swept(tmp_path / "sweep", quick.recipe(INFINITE), settings)
    assert seen.statuses == ["done", "done", "diverged", "done"]
    assert seen.trials[2].error == "loss is nan after epoch 1 with seed 0"
    assert [trial.error for trial in seen.trials if trial.number != 2] == [None] * 3
    # The others are as they are beside one that does not diverge, to the bit.
    beside = swept(tmp_path / "beside", quick.recipe(RATES), settings)
    assert [trial.values["optimizer.learning_rate"] for trial in beside.trials] == [
        0.01, 0.03, 0.1, 0.3
    ]  # fmt: skip
    for number, other in ((0, 0), (1, 2), (3, 3)):
        for name in ("loss", "validation_loss", "validation_accuracy"):
            assert len(seen.curve(number, name)) == 4
            assert seen.curve(number, name) == beside.curve(other, name)


@pytest.mark.parametrize("optimizer", [AdamW(math.inf), SGD(math.inf)])
def test_the_optimizers_take_infinity_and_refuse_what_is_no_size(optimizer):
    assert optimizer.build(10).numbers["learning_rate"] == math.inf
    for rate in (math.nan, -1.0):
        with pytest.raises(ValueError, match=rf"\.learning_rate is a number >= 0, got {rate}"):
            type(optimizer)(learning_rate=rate)


def test_a_configuration_that_raises_fails_alone(tmp_path):
    space = Space(quick.Experiment, {"model.dropout": Choice(0.0, 0.1, 1.0, 0.2)})
    seen = swept(tmp_path / "sweep", quick.recipe(space))
    assert seen.statuses == ["done", "done", "failed", "done"]
    error = seen.trials[2].error
    assert error.startswith("Traceback (most recent call last):\n")
    assert "in network" in error or "in __post_init__" in error
    assert error.endswith(
        "ValueError: Dropout.rate is the share dropped, in [0, 1); got 1.0\n"
    )


def fragile(config, problem):
    """A program that cannot be traced at a width of 8."""

    def apply(params, state, x, *, training=False, key=None):
        raise FloatingPointError("the units do not fit")

    program = quick.build(config, problem)
    if config.model.width != 8:
        return program
    broken = dataclasses.replace(program.task, classes=10)
    return dataclasses.replace(program, task=Unfit(broken.classes))


class Unfit(type(quick.problem().task)):
    def loss(self, *_):
        raise FloatingPointError("the units do not fit")


@pytest.mark.parametrize("lanes", [4, "auto"])
def test_a_program_that_raises_fails_alone(tmp_path, lanes):
    space = Space(
        quick.Experiment,
        {"model.width": Choice(4, 8), "optimizer.learning_rate": Grid(0.01, 0.1)},
    )
    made = quick.recipe(space, build=fragile)
    settings = dataclasses.replace(FEW, lanes=lanes, by="auto" if lanes == "auto" else "vmap")
    seen = swept(tmp_path / "sweep", made, settings)
    widths = [trial.values["model.width"] for trial in seen.trials]
    assert sorted(widths) == [4, 4, 8, 8]
    for trial, width in zip(seen.trials, widths, strict=True):
        assert trial.status == ("failed" if width == 8 else "done")
        if width == 8:
            assert trial.error.startswith("Traceback (most recent call last):\n")
            assert "FloatingPointError: the units do not fit" in trial.error
