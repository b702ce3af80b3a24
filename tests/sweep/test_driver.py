"""A sweep continues from anywhere, and what breaks in it breaks alone."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import io
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnn import files as writing
from jaxnn.executors import create
from jaxnn.experiment import SGD, AdamW
from jaxnn.sweep import Choice, Grid, Space, cohort
from jaxnn.sweep.driver import Driver
from jaxnn.sweep.ledger import Ledger, LedgerError
from jaxnn.sweep.settings import Settings
from tests.sweep import driven, quick, toy

ROOT = Path(__file__).parents[2]
RATES = Space(quick.Config, {"optimizer.learning_rate": Grid(0.01, 0.03, 0.1, 0.3)})
INFINITE = Space(quick.Config, {"optimizer.learning_rate": Choice(0.01, 0.1, math.inf, 0.3)})
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
            ledger.trials(), ledger.results(), ledger.cohorts(), ledger.groups(), toy.digest(ledger)
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
            found[kind] = swept(folder, driven.experiment(kind), driven.KINDS[kind][1]).digest
        return found[kind]

    return whole


# Those that take long are for another day; halving has all that they have.
SOME = [
    "successive",
    "population",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("none", "hyperband", "stopping")),
]


# Nothing is lost


class Died(BaseException):
    """What ends a driver here, in the place of a signal."""


def die():
    raise Died


@pytest.mark.parametrize("kind", SOME)
def test_a_driver_that_ends_at_any_boundary_is_followed_by_one_that_goes_on(
    tmp_path, kind, wholes, monkeypatch
):
    """Each driver ends at the first, second or third boundary that it comes to: so each boundary
    of each transaction is met, and each but the third makes the next driver do it again."""
    driven.planned_once(monkeypatch)
    made, (_, settings) = driven.experiment(kind), driven.KINDS[kind]
    folder, drivers = tmp_path / "sweep", 0
    driven.begun(made, settings, folder).close()
    while True:
        with (
            contextlib.suppress(Died),
            driven.ended_at(Ledger, 1 + drivers % 3, die).open(folder, write=True) as ledger,
        ):
            driven.drive(ledger, made)
            break
        drivers += 1
    seen = reading(folder)
    assert drivers > 3 * len(seen.cohorts)
    assert seen.digest == wholes(kind)
    assert not list((folder / "lanes").glob("*"))


def start(*arguments):
    command = [sys.executable, driven.__file__, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(process.communicate()[1])
    return process


def kill_at_random(folder, kind, kills, longest):
    """Kill drivers one after the other, each after up to so many seconds; then let one end.

    The digest of each sweep that came to its end.
    """
    random_times, killed, sweeps = random.Random(), 0, 0
    while True:
        with start(folder / str(sweeps), kind) as process:
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


def test_killed_at_random_moments(tmp_path, wholes):
    digests = list(kill_at_random(tmp_path, "successive", 1, longest=3.0))
    assert set(digests) == {wholes("successive")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", driven.KINDS)
def test_killed_at_30_random_moments(tmp_path, kind, wholes):
    digests = list(kill_at_random(tmp_path, kind, 30, longest=1.0))
    assert set(digests) == {wholes(kind)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", driven.KINDS)
def test_killed_at_every_boundary(tmp_path, kind, wholes):
    drivers = 0
    driven.begun(driven.experiment(kind), driven.KINDS[kind][1], tmp_path / "sweep").close()
    while True:
        with start(tmp_path / "sweep", kind, 1 + drivers % 3) as process:
            _, error = process.communicate()
        assert (process.returncode, error) in ((-signal.SIGKILL, ""), (0, ""))
        if process.returncode == 0:
            break
        drivers += 1
    seen = reading(tmp_path / "sweep")
    assert drivers > 3 * len(seen.cohorts)
    assert seen.digest == wholes(kind)


def test_a_second_driver_is_refused_until_the_first_is_dead(tmp_path):
    with start(tmp_path / "sweep", "none") as first:
        try:
            with pytest.raises(LedgerError, match=r"another driver is at work in .*sweep, and "):
                Ledger.open(tmp_path / "sweep", write=True)
            reading(tmp_path / "sweep")  # to look is allowed
        finally:
            first.kill()
    Ledger.open(tmp_path / "sweep", write=True).close()


@pytest.mark.parametrize("kind", SOME[:2])
def test_a_full_disk_stops_cleanly_and_goes_on_to_the_same_end(tmp_path, kind, monkeypatch, wholes):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    made, (_, settings) = driven.experiment(kind), driven.KINDS[kind]
    folder, left = tmp_path / "sweep", iter([open] * 2)
    with monkeypatch.context() as patch, driven.begun(made, settings, folder) as ledger:
        patch.setattr(writing, "open", lambda *a: next(left, lambda *_: Full())(*a), raising=False)
        with pytest.raises(LedgerError, match=r"the disk is full.*Nothing was lost.*write python"):
            driven.drive(ledger, made)
    with driven.begun(made, settings, folder) as ledger:
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError, match=r"the disk is full, the ledger in .* cannot grow"):
            driven.drive(ledger, made)
    assert 0 < len(reading(folder).cohorts) < len(swept(folder, made, settings).cohorts)
    assert reading(folder).digest == wholes(kind)


# What breaks, breaks alone


@pytest.mark.parametrize("by", ["vmap", "loop", pytest.param("map", marks=pytest.mark.slow)])
def test_a_lane_at_an_infinite_learning_rate_diverges_alone(tmp_path, by):
    settings = dataclasses.replace(FEW, by=by)
    seen = swept(tmp_path / "sweep", quick.experiment(INFINITE), settings)
    assert seen.statuses == ["done", "done", "diverged", "done"]
    assert seen.trials[2].error == "loss is nan after epoch 1 with seed 0"
    assert [trial.error for trial in seen.trials if trial.number != 2] == [None] * 3
    # The others are as they are beside one that does not diverge, to the bit.
    beside = swept(tmp_path / "beside", quick.experiment(RATES), settings)
    assert [trial.values["optimizer.learning_rate"] for trial in beside.trials] == [
        0.01, 0.03, 0.1, 0.3
    ]  # fmt: skip
    for number, other in ((0, 0), (1, 2), (3, 3)):
        for name in ("loss", "validation_loss", "validation_accuracy"):
            assert len(seen.curve(number, name)) == 4
            assert seen.curve(number, name) == beside.curve(other, name)


@pytest.mark.parametrize("optimizer", [AdamW(math.inf), SGD(math.inf)])
def test_the_optimizers_take_infinity_and_refuse_what_is_no_size(optimizer):
    assert optimizer.build(10).numbers["learning_rate"].peak == math.inf
    for rate in (math.nan, -1.0):
        with pytest.raises(ValueError, match=rf"\.learning_rate must be a number >= 0, got {rate}"):
            type(optimizer)(learning_rate=rate)


def test_a_configuration_that_raises_fails_alone(tmp_path):
    space = Space(quick.Config, {"model.dropout": Choice(0.0, 0.1, 1.0, 0.2)})
    seen = swept(tmp_path / "sweep", quick.experiment(space))
    assert seen.statuses == ["done", "done", "failed", "done"]
    error = seen.trials[2].error
    assert error.startswith("Traceback (most recent call last):\n")
    assert "in network" in error or "in __post_init__" in error
    assert error.endswith("MLP(dropout=0.1); rates are rounded to float32\n")


def fragile(config, data):
    """A program that cannot be traced at a width of 8: it has too few outputs."""
    outputs = 3 if config.model.width == 8 else 10
    return quick.program(config, data, net=config.model.network(outputs))


@pytest.mark.parametrize("lanes", [4, "auto"])
def test_a_program_that_raises_fails_alone(tmp_path, lanes):
    space = Space(
        quick.Config,
        {"model.width": Choice(4, 8), "optimizer.learning_rate": Grid(0.01, 0.1)},
    )
    made = quick.experiment(space, program=fragile)
    settings = dataclasses.replace(FEW, lanes=lanes, by="auto" if lanes == "auto" else "vmap")
    seen = swept(tmp_path / "sweep", made, settings)
    widths = [trial.values["model.width"] for trial in seen.trials]
    assert sorted(widths) == [4, 4, 8, 8]
    for trial, width in zip(seen.trials, widths, strict=True):
        assert trial.status == ("failed" if width == 8 else "done")
        if width == 8:
            assert trial.error.startswith("Traceback (most recent call last):\n")
            assert "end the network with nn.Dense(10)" in trial.error


def test_where_memory_runs_out_the_lanes_are_halved_and_the_sweep_goes_on(tmp_path, monkeypatch):
    train, widths = cohort.Compiled.train, []

    def limited(self, *arguments):
        widths.append(self.way.width)
        if self.way.width > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory, 9 GB asked for")
        return train(self, *arguments)

    settings = dataclasses.replace(FEW, lanes=8, halving="successive", eta=2)
    made = quick.experiment(INFINITE)
    with monkeypatch.context() as patch:
        patch.setattr(cohort.Compiled, "train", limited)
        seen = swept(tmp_path / "sweep", made, settings)
    # Found out once, and known in the cohorts that follow.
    assert widths[:3] == [8, 4, 2]
    assert set(widths[3:]) == {2}
    assert [(group.way, group.lanes) for group in seen.groups] == [("vmap", 2)]
    assert (
        seen.digest
        == swept(tmp_path / "narrow", made, dataclasses.replace(settings, lanes=2)).digest
    )


# Who goes on


def at(seen, epoch):
    """The validation accuracy of all trials that have one after so many epochs."""
    name = "validation_accuracy"
    found = [r for r in seen.results if r.epoch == epoch and r.name == name]
    return {result.trial: result.value for result in found}


def check_halved(seen, numbers, counts, rungs):
    """Exactly so many of these trials trained to each rung, and they are the best there."""
    for count, rung, following in zip(counts, rungs, [*rungs[1:], None], strict=True):
        scores = {number: score for number, score in at(seen, rung).items() if number in numbers}
        assert len(scores) == count
        if following is not None:
            gone_on = set(at(seen, following)) & set(numbers)
            # Those that diverged come last: an accuracy that was reported beside a loss of NaN
            # does not count.
            order = sorted(scores, key=lambda number: (-scores[number], number))
            assert gone_on == set(order[: len(gone_on)])


def test_successive_halving_keeps_exactly_a_quarter_at_each_rung(tmp_path):
    settings = Settings(trials=64, halving="successive", eta=4, **driven.FIXED)
    seen = swept(tmp_path / "sweep", quick.experiment(driven.TRACED), settings)
    check_halved(seen, range(64), [64, 16], [1, 4])
    statuses = {(trial.status, trial.rung) for trial in seen.trials}
    assert statuses == {("stopped", 0), ("done", 1)}
    assert seen.statuses.count("done") == 16


def test_hyperband_halves_each_of_its_brackets(tmp_path):
    settings = Settings(trials=14, halving="hyperband", eta=2, **driven.FIXED)
    seen = swept(tmp_path / "sweep", quick.experiment(driven.TRACED), settings)
    brackets = settings.rounds(4)
    assert [bracket.count for bracket in brackets] == [4, 3, 3, 4]
    for round, bracket in enumerate(brackets):
        numbers = [trial.number for trial in seen.trials if trial.round == round]
        check_halved(seen, numbers, bracket.counts, list(bracket.rungs))


def test_population_based_training_goes_on_from_the_better(tmp_path):
    settings = Settings(trials=8, halving="population", **driven.FIXED)
    space = Space(quick.Config, {"optimizer.learning_rate": Choice(0.0, 0.003, 0.1, math.inf)})
    folder = tmp_path / "sweep"
    seen = swept(folder, quick.experiment(space), settings)
    with Ledger.open(folder) as ledger:
        changes = ledger.changes()
    assert changes
    for change in changes:
        before = at(seen, change.epoch)
        assert before[change.source] >= max(before[change.trial], np.median([*before.values()]))
    infinite = [t.number for t in seen.trials if t.values["optimizer.learning_rate"] == math.inf]
    assert set(infinite) <= {change.trial for change in changes if change.epoch == 1}


# Seeds


def test_a_driver_reads_what_may_have_changed_and_has_the_whole_history(tmp_path):
    settings = dataclasses.replace(FEW, batch=2, halving="successive", eta=2)
    made, read = quick.experiment(RATES), []

    class Counted(Ledger):
        def trials(self, first=0):
            read.append(first)
            return super().trials(first)

    begun = driven.begun(made, settings, tmp_path / "sweep", Counted)
    with begun as ledger, create("local") as executor:
        driver = Driver(made, ledger, executor)
        driver.run()
        read.clear()
        known = driver.history()
        assert read == [4]  # all four had ended
        fresh = Driver(made, ledger, executor).history()
    assert (known.trials, known.curves, known.trained) == (
        fresh.trials,
        fresh.curves,
        fresh.trained,
    )
    assert len(known.trials) == 4 and known.curves["validation_loss"]
    rounds = {trial.number: trial.round for trial in known.trials}
    assert rounds == {0: 0, 1: 0, 2: 1, 3: 1}


def test_each_seed_is_a_lane_and_a_trial_is_judged_by_their_mean(tmp_path):
    settings = dataclasses.replace(FEW, seeds=3, halving="successive", eta=2)
    folder, told = tmp_path / "sweep", []
    made = quick.experiment(RATES)
    with driven.begun(made, settings, folder) as ledger:
        driven.drive(ledger, made, watch=told.append)
        means = {}
        for trial in ledger.trials():
            curves = toy.curves(ledger, trial.number, "validation_accuracy")
            assert list(curves) == [0, 1, 2]
            assert len({tuple(curve) for curve in curves.values()}) > 1
            means[trial.number] = {
                epoch: np.mean([dict(curve)[epoch] for curve in curves.values()])
                for epoch, _ in curves[0]
            }
        cohorts = ledger.cohorts()
        statuses = [trial.status for trial in ledger.trials()]
    for epoch, count in ((1, 2), (2, 1)):
        order = sorted((n for n in means if epoch in means[n]), key=lambda n: -means[n][epoch])
        following = [number for number in order if any(e > epoch for e in means[number])]
        assert following == order[:count]
    (best,) = [number for number, status in enumerate(statuses) if status == "done"]
    assert told[-1].top[0].number == best
    assert [*told[-1].top[0].metrics.values()] == [pytest.approx(means[best][4], rel=1e-15)]
    assert (
        told[-1].statuses["done"] + told[-1].statuses["stopped"],
        told[-1].trials,
        told[-1].lanes,
    ) == (4, 4, 3 * (4 + 2 + 1))
    assert all(len(one.lanes) % 3 == 0 for one in cohorts)  # a trial's seeds go together


# Trials again


def test_a_diverged_trial_retried_comes_to_the_same_end(tmp_path):
    folder, made = tmp_path / "sweep", quick.experiment(INFINITE)
    before = swept(folder, made)
    with Ledger.open(folder, write=True) as ledger:
        ledger.retry([2])
    assert reading(folder).digest != before.digest
    after = swept(folder, made)
    assert after.digest == before.digest
    assert after.cohorts[-1].lanes == ((2, 0),)


def test_trials_that_failed_are_retried_with_code_put_right(tmp_path):
    """One whose program raises, and one whose configuration does."""
    raising = True

    def program(config, data):
        if raising and config.optimizer.momentum == 0.5:
            return quick.program(config, data, net=config.model.network(3))
        if raising and config.optimizer.momentum == 0.7:
            raise OSError("the disk with the data is not there")
        return quick.program(config, data)

    space = Space(quick.Config, {"optimizer.momentum": Choice(0.5, 0.7)})
    folder, made = tmp_path / "sweep", quick.experiment(space, program=program)
    seen = swept(folder, made)
    assert seen.statuses == ["failed", "failed"]
    assert [trial.group for trial in seen.trials] == ["optimizer.momentum=0.5", None]
    assert "Classification(10) needs outputs" in seen.trials[0].error
    assert seen.trials[1].error.endswith("\nOSError: the disk with the data is not there\n")
    raising = False
    with Ledger.open(folder, write=True) as ledger:
        ledger.retry([0, 1])
    put_right = swept(folder, made)
    assert put_right.statuses == ["done", "done"]
    assert [trial.error for trial in put_right.trials] == [None, None]
    assert put_right.trials[1].group == "optimizer.momentum=0.7"
    # Now that momentum is looked at no more it could be traced, but what was found stays.
    with Ledger.open(folder) as ledger:
        assert ledger.meta["traced"]["optimizer.momentum"] != "traced"


# Elsewhere


class Losing(concurrent.futures.Executor):
    """Runs each call here, but loses some: a worker died, as the standard library says it."""

    def __init__(self, *lost):
        self.lost, self.count = lost, 0

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        self.count += 1
        try:
            if self.count in self.lost:
                raise concurrent.futures.BrokenExecutor("a worker died")
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def test_a_cohort_whose_worker_died_is_run_again(tmp_path):
    made = quick.experiment(INFINITE)
    wanted = swept(tmp_path / "whole", made)
    losing = Losing(1, 2, 3)
    assert swept(tmp_path / "sweep", made, executor=losing).digest == wanted.digest
    assert losing.count == 4
    with pytest.raises(concurrent.futures.BrokenExecutor, match="a worker died"):
        swept(tmp_path / "again", made, executor=Losing(1, 2, 3, 4))
    assert reading(tmp_path / "again").statuses == ["asked"] * 4
    assert swept(tmp_path / "again", made).digest == wanted.digest


def test_a_probe_whose_worker_died_is_run_again(tmp_path):
    """So is a trial that is tried alone, because its cohort's program raised."""
    settings = dataclasses.replace(FEW, by="auto", exact=True)  # the same bits whatever is measured
    space = Space(
        quick.Config,
        {"model.width": Choice(4, 8), "optimizer.learning_rate": Grid(0.01, 0.1)},
    )
    made = quick.experiment(space, program=fragile)
    wanted = swept(tmp_path / "whole", made, settings)
    assert wanted.statuses.count("failed") == 2
    # Two probes, two cohorts and two trials alone: each is lost as often as it may be.
    losing = Losing(*(n for n in range(1, 25) if n % 4))
    assert swept(tmp_path / "sweep", made, settings, executor=losing).digest == wanted.digest
    assert losing.count == 24
    with pytest.raises(concurrent.futures.BrokenExecutor, match="a worker died"):
        swept(tmp_path / "again", made, settings, executor=Losing(1, 2, 3, 4))


MANY = Settings(trials=16, halving="successive", eta=2, **driven.FIXED)


@pytest.fixture
def paths(monkeypatch):
    """Worker processes can import what the tests can."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def check_many(tmp_path, executor, killed=lambda: None):
    """A sweep elsewhere, in the middle of which something happens, is as one here."""
    made, happened = quick.experiment(driven.TRACED), []

    class Watched(Ledger):
        def commit(self, *arguments, **named):
            key = super().commit(*arguments, **named)
            if key == 1:
                happened.append(killed())
            return key

    seen = swept(tmp_path / "sweep", made, MANY, executor, workers=2, opened=Watched)
    assert len(happened) == 1
    here = swept(tmp_path / "here", made, MANY)
    assert seen.digest == here.digest
    ran = [(lane, one.epoch_from) for one in seen.cohorts for lane in one.lanes]
    assert len(set(ran)) == len(ran) == 16 + 8 + 4
    assert [trial.number for trial in seen.trials] == list(range(16))


class Elsewhere(concurrent.futures.ThreadPoolExecutor):
    """Runs calls in another thread, which they reach as bytes, and loses the next one if asked."""

    lost = False

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(self.called, pickle.dumps((fn, args, kwargs)))

    def called(self, contents):
        if self.lost:
            self.lost = False
            raise concurrent.futures.BrokenExecutor("a worker died")
        function, args, kwargs = pickle.loads(contents)
        return pickle.loads(pickle.dumps(function(*args, **kwargs)))


def test_cohorts_elsewhere_one_of_them_lost(tmp_path):
    with Elsewhere(1) as executor:
        check_many(tmp_path, executor, lambda: setattr(executor, "lost", True))
        assert not executor.lost


@pytest.mark.slow
def test_two_dask_workers_one_of_them_killed(tmp_path, paths):
    pytest.importorskip("distributed")
    with create("dask", 2) as executor:
        run = executor._client.run  # type: ignore[attr-defined]
        pids = list(run(os.getpid).values())
        check_many(tmp_path, executor, lambda: os.kill(pids[0], signal.SIGKILL))
        assert pids[0] not in run(os.getpid).values()


@pytest.mark.slow
def test_two_worker_processes_one_of_them_killed(tmp_path, paths):
    with create("processes", 2) as executor:
        pids = [executor.submit(os.getpid).result(60) for _ in range(2)]
        check_many(tmp_path, executor, lambda: os.kill(pids[0], signal.SIGKILL))
        assert pids[0] not in [executor.submit(os.getpid).result(60) for _ in range(2)]


@pytest.mark.slow
def test_two_ray_workers_one_of_them_killed(tmp_path, paths):
    pytest.importorskip("ray")
    jax.devices()  # from here on JAX warns of forks
    with create("ray", 2) as executor:
        pids = {executor.submit(os.getpid).result(60) for _ in range(8)}
        check_many(tmp_path, executor, lambda: os.kill(pids.pop(), signal.SIGKILL))


@pytest.mark.slow
def test_submitit_jobs(tmp_path, paths):
    pytest.importorskip("submitit")
    with create("submitit:local", 2, tmp_path / "jobs") as executor:
        check_many(tmp_path, executor)
