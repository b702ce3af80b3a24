"""Plans: which way lanes go is measured, and what a sweep will take is told before it runs."""

import dataclasses
import math
import re
from concurrent.futures import BrokenExecutor

import hypothesis
import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnn.command.sweep import plan_text
from jaxnn.models import MLP
from jaxnn.sweep import Choice, LogUniform, Space
from jaxnn.sweep import plan as probes
from jaxnn.sweep.cohort import Work
from jaxnn.sweep.compiled import Way, compiled_cohort
from jaxnn.sweep.plan import AIM, MAPPED, SHARE, Planner, Probe, Timing, prepare, probe
from jaxnn.sweep.settings import Bracket, Settings
from jaxnn.sweep.structure import TRACED, Structure
from tests.sweep import driven, quick

RATE = "optimizer.learning_rate"
FOUND = dict.fromkeys(quick.SPACE.dimensions, TRACED) | {"model.width": "it gives a shape"}
STRUCTURE = Structure(
    quick.experiment(Space(quick.Config, {RATE: LogUniform(1e-3, 0.3)})),
    quick.Config(model=MLP(depth=0)),
    (),
    (RATE,),
)
WORK = Work(STRUCTURE, ({RATE: 0.1}, {RATE: 0.2}), (0, 0), Way("loop", 1), (0, 1))


@pytest.fixture(scope="module", autouse=True)
def planned_once():
    with pytest.MonkeyPatch.context() as patch:
        driven.planned_once(patch)
        yield


# The probe


class Device:
    """A made-up device, on which every way takes its own time."""

    def __init__(self, monkeypatch, seconds, *, compiling=1.0, lane=1, memory=1e9, devices=1):
        self.seconds, self.compiling, self.lane = seconds, compiling, lane
        self.tried, self.again = [], []
        monkeypatch.setattr(probes, "_timed", self.timed)
        monkeypatch.setattr(probes, "_seconds", self.timed_again)
        monkeypatch.setattr(probes, "memory", lambda: memory)
        monkeypatch.setattr(probes.jax, "local_devices", lambda: [None] * devices)

    def timed(self, work, way):
        self.tried.append(way)
        return Timing(way, self.seconds(way), self.compiling, self.lane * way.width)

    def timed_again(self, work, way, times):
        self.again.append(way)
        return self.seconds(way)


def wider_is_faster(way):
    return {"loop": 1.0, "map": 0.9, "vmap": 1.0 / way.width}[way.by]


def test_the_fastest_way_comes_first(monkeypatch):
    device = Device(monkeypatch, wider_is_faster)
    timings = probe(Probe(WORK, lanes=64, epochs=10**6))
    assert timings[0].way == Way("vmap", 64)
    assert [t.seconds for t in timings] == sorted(t.seconds for t in timings)
    assert device.tried == [
        Way("loop", 1),
        *(Way("vmap", width) for width in (8, 32, 64)),  # no more lanes than there are
        Way("map", MAPPED),
    ]


def test_exact_lanes_never_go_together(monkeypatch):
    device = Device(monkeypatch, wider_is_faster)
    ways = Settings(exact=True).ways
    timings = probe(Probe(WORK, lanes=64, epochs=10**6, by=ways))
    assert {way.by for way in device.tried} == {"loop", "map"}
    assert timings[0].way == Way("map", MAPPED)


def test_a_wider_call_is_tried_while_it_gains(monkeypatch):
    def best_at_32(way):
        return 1.0 if way.by != "vmap" else 0.1 + 0.01 * abs(way.width - 32)

    device = Device(monkeypatch, best_at_32)
    timings = probe(Probe(WORK, lanes=10**4, epochs=10**6, by=("loop", "vmap")))
    assert device.tried[1:] == [Way("vmap", 8), Way("vmap", 32), Way("vmap", 128)]
    assert timings[0].way == Way("vmap", 32)


def test_a_wider_call_is_tried_where_it_fits(monkeypatch):
    device = Device(monkeypatch, wider_is_faster, lane=1000, memory=100_000 / SHARE)
    probe(Probe(WORK, lanes=10**4, epochs=10**6, by=("loop", "vmap")))
    assert device.tried == [Way("loop", 1), Way("vmap", 8), Way("vmap", 32)]


def test_what_is_left_of_the_work_is_worth_the_search(monkeypatch):
    """A compilation takes a second here: another way may save no more than is left."""
    device = Device(monkeypatch, lambda way: 0.001)
    assert [t.way for t in probe(Probe(WORK, lanes=64, epochs=1000))] == [Way("loop", 1)]
    assert device.again == []
    probe(Probe(WORK, lanes=64, epochs=10_000))
    assert len(device.tried) > 2


def test_all_devices_are_tried_before_one(monkeypatch):
    device = Device(monkeypatch, lambda way: 1.0 / way.lanes, devices=4)
    timings = probe(Probe(WORK, lanes=64, epochs=10**6, by=("vmap",)))
    assert device.tried[:2] == [Way("vmap", 8, 4), Way("vmap", 16, 4)]
    assert timings[0].way == Way("vmap", 16, 4)
    assert {way.devices for way in device.tried} == {4, 1}


def test_a_width_that_is_given_is_the_one(monkeypatch):
    device = Device(monkeypatch, wider_is_faster)
    probe(Probe(WORK, lanes=64, epochs=10**6, width=20))
    assert device.tried == [Way("loop", 1), Way("vmap", 20), Way("map", 20)]


def test_ways_that_are_close_are_timed_again(monkeypatch):
    """The first time of the loop was disturbed."""
    seconds = {"loop": iter([1.05, *[0.5] * 9]), "map": iter([1.0] * 9), "vmap": iter([3.0])}
    device = Device(monkeypatch, lambda way: next(seconds[way.by]))
    timings = probe(Probe(WORK, lanes=8, epochs=10**6))
    assert [(t.way.by, t.seconds) for t in timings] == [("loop", 0.5), ("map", 1.0), ("vmap", 3.0)]
    assert {way.by for way in device.again} == {"loop", "map"}


def test_memory_that_ran_out_is_no_way(monkeypatch):
    whole = probes._seconds

    def exhausted(work, way, times=0):
        if way.by == "vmap":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return whole(work, way, times)

    monkeypatch.setattr(probes, "_seconds", exhausted)
    timings = probe(Probe(WORK, lanes=8, epochs=10**9, by=("loop", "vmap")))
    assert [t.way for t in timings] == [Way("loop", 1), Way("vmap", 8)]
    assert timings[1].seconds == math.inf


def test_a_real_probe(monkeypatch):
    monkeypatch.setattr(probes, "SAMPLE", 0.02)  # seconds of each run that is repeated
    fresh = dataclasses.replace(STRUCTURE, base=quick.Config(model=MLP(5, depth=0)))
    asked = Probe(dataclasses.replace(WORK, structure=fresh), lanes=4, epochs=10**9)
    timings = probe(asked)
    devices = len(jax.local_devices())
    assert Way("loop", 1) in {t.way for t in timings}
    if devices == 1:
        assert {t.way for t in timings} == {Way("loop", 1), Way("map", 4), Way("vmap", 4)}
    assert [t.seconds for t in timings] == sorted(t.seconds for t in timings)
    for timing in timings:
        assert 0 < timing.seconds < 1
        assert timing.bytes > timing.way.width * 64 * 10 * 4  # the weights of each lane at least
        assert timing.compile_seconds > 0
    assert all(timing.compile_seconds == 0 for timing in probe(asked))


def test_what_was_prepared_is_not_compiled_again():
    bases = [quick.Config(model=MLP(width, depth=1)) for width in (6, 7)]
    works = [
        dataclasses.replace(WORK, structure=dataclasses.replace(STRUCTURE, base=base))
        for base in bases
    ]
    asked = [Probe(work, lanes=4, epochs=1, by=("loop",)) for work in works]
    for one, seconds in zip(asked, list(prepare(asked)), strict=True):
        compiled = compiled_cohort(one.work.structure, Way("loop", 1), True)
        spent = compiled.compile_seconds
        assert (compiled.traces, seconds) == (1, spent)
        (timing,) = probe(dataclasses.replace(one, prepared=seconds))
        assert (compiled.traces, compiled.compile_seconds) == (1, spent)
        assert timing.compile_seconds == seconds > 0


def test_an_error_of_preparing_is_left_to_the_probe():
    def broken(config, data):
        raise RuntimeError("no program")

    structure = dataclasses.replace(
        STRUCTURE, experiment=quick.experiment(quick.SPACE, program=broken)
    )
    assert list(prepare([Probe(dataclasses.replace(WORK, structure=structure), 4, 1)])) == [0.0]


# Cohorts


def planner(space=quick.SPACE, found=FOUND, base=None, **settings):
    experiment = quick.experiment(space)
    return Planner(experiment, base or quick.Config(), Settings(**settings), found)


def measured(way, seconds, asked=None):
    """Stands for a worker: this way was the fastest."""

    def ask(function, argument):
        assert function is probe
        if asked is not None:
            asked.append(argument)
        return (
            Timing(way, seconds, 1.5, 2_000_000),
            Timing(Way("loop", 1), 2 * seconds, 0.5, 1_000_000),
        )

    return ask


def grouped(planned, ask, trials=4, share=1.0):
    values = [{**v, "model.width": 32} for v in quick.sampled(trials)]
    return planned.grouped(planned.member(values[0]), values, share, ask)


ways = st.one_of(
    st.just(Way("loop", 1)),
    st.builds(Way, st.sampled_from(["map", "vmap"]), st.integers(1, 600), st.integers(1, 8)),
)


@hypothesis.settings(max_examples=50, deadline=None)
@given(ways, st.integers(1, 12), st.floats(1e-6, 1e3) | st.just(math.inf))
def test_a_cohort_is_of_whole_calls_and_whole_trials(way, seeds, seconds):
    """So that no call but the last is filled up, and no trial waits for its other seeds."""
    group = grouped(planner(seeds=seeds), measured(way, seconds))
    unit = math.lcm(way.lanes, seeds)
    assert group.cohort % way.lanes == 0
    assert group.cohort % seeds == 0
    assert (group.way, group.epochs, group.timings[0].seconds) == (way, 4, seconds)
    # About as much work as is sent at a time, to half a unit; one unit at least.
    if math.isfinite(seconds):
        assert abs(group.cohort * seconds * 4 - AIM) <= unit * seconds * 2 + 1e-9 or (
            group.cohort == unit
        )


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        ({"by": "loop"}, Way("loop", 1)),
        ({"by": "loop", "lanes": 7}, Way("loop", 1)),
        ({"by": "map", "lanes": 7}, Way("map", 7)),
        ({"by": "vmap", "lanes": 7, "seeds": 3}, Way("vmap", 7)),
    ],
)
def test_a_way_that_is_given_is_not_measured(settings, way):
    def never(function, argument):
        raise AssertionError(function)

    devices = 1 if way.by == "loop" else len(jax.local_devices())
    group = grouped(planner(**settings), never)
    assert (group.way, group.timings) == (way._replace(devices=devices), ())
    assert group.cohort % math.lcm(way.lanes, settings.get("seeds", 1)) == 0


def test_what_a_probe_is_asked():
    asked = []
    ask = measured(Way("vmap", 8), 0.01, asked)
    grouped(planner(trials=60, seeds=2), ask, share=0.5)
    grouped(planner(trials=60, exact=True), ask)
    grouped(planner(trials=60, by="map"), ask)
    grouped(planner(trials=60, lanes=5), ask)
    first, exact, mapped, wide = asked
    assert (first.lanes, first.epochs, first.width) == (60, 60 * 4, 0)
    assert first.work.seeds == (0, 1, 0, 1)
    assert first.work.way.by == "loop"
    assert exact.by == ("loop", "map")
    assert (mapped.by, wide.width) == (("map",), 5)
    assert exact.work.seeds == (0,) * 4


def test_a_trial_of_several_seeds_is_measured_with_several():
    """With one seed the lanes would share an order, which is another program."""
    asked = []
    grouped(planner(seeds=3), measured(Way("loop", 1), 0.01, asked), trials=1)
    assert len(set(asked[0].work.seeds)) > 1
    assert len(asked[0].work.values) == len(asked[0].work.seeds)


# Metrics, members and rounds


def test_the_metric_and_its_direction():
    assert (planner().metric, planner().maximize) == ("validation_accuracy", True)
    loss = planner(metric="validation_loss")
    assert (loss.metric, loss.maximize) == ("validation_loss", False)
    assert (planner(metric="accuracy").maximize, planner(metric="loss").maximize) == (True, False)


def test_a_member():
    planned = planner(base=quick.Config(seed=5), seeds=3)
    values = quick.sampled(1)[0]
    member = planned.member(values)
    assert (member.epochs, member.seed) == (4, 5)
    assert member.structure.static == (("model.width", values["model.width"]),)
    assert member.structure.traced == tuple(quick.SPACE.dimensions)[:3]


def test_rounds_and_rungs():
    assert Settings(trials=10).rounds(8) == [Bracket(10, (8,), 1)]
    assert Settings(trials=70, search="cmaes").rounds(8) == [
        Bracket(count, (8,), 1) for count in (32, 32, 6)
    ]
    # an eighth of the trials before it, from 8 to 32
    first = [16, *[8] * 7, 72 // 8, 81 // 8, 91 // 8, 102 // 8, 114 // 8]
    assert sum(first) == 128
    tpe = Settings(trials=1000, search="tpe")
    counts = [bracket.count for bracket in tpe.rounds(8)]
    assert counts[: len(first)] == first
    assert counts[-5:-1] == [32] * 4
    assert sum(counts) == 1000
    assert [b.count for b in tpe.rounds(8, [3])[:3]] == [3, 8, 8]
    for fixed in (
        dataclasses.replace(tpe, batch=5),
        dataclasses.replace(tpe, halving="successive"),
    ):
        assert {b.count for b in fixed.rounds(8)} <= {fixed.batch or 32, 1000 % 32}
    assert Settings(trials=10, batch=4).rounds(8) == [
        Bracket(count, (8,), 1) for count in (4, 4, 2)
    ]
    assert Settings(halving="successive").rungs(16) == [1, 4, 16]
    assert Settings(halving="population", least=3).rungs(8) == [3, 6, 8]
    assert Settings(halving="population", batch=4, trials=9).rounds(4) == [
        Bracket(9, (1, 2, 3, 4), 1)
    ]


# The text


def test_a_plan_reads():
    planned = planner(trials=20, seeds=2)
    trials = quick.sampled(20)
    text = plan_text(planned, trials, measured(Way("vmap", 8), 0.01))
    wide = sum(trial["model.width"] == 32 for trial in trials)
    lanes = 8 * round(AIM / (4 * 0.01 * 8))
    told = text.split("\n")
    assert told[0] == "What is swept:"
    assert told[1] == (
        "  optimizer.learning_rate  0.001 .. 0.3, log  traced: one program for all values"
    )
    assert told[4] == "  model.width              16, 32  static: it gives a shape"
    for width, count in ((32, wide), (16, 20 - wide)):
        assert f"  model.width={width}: {count} trials, vmap of 8, {lanes} lanes at a time" in told
    assert "    vmap of 8: 10 ms a lane and epoch, 1.5 s to compile, 2 MB" in told
    assert "    loop: 20 ms a lane and epoch, 0.5 s to compile, 1 MB" in told
    assert told[-2:] == [
        "20 trials of 2 lanes by random search, compared by validation_accuracy (more is better); "
        "rungs at epochs 4.",
        # 20 trials of 2 lanes, 4 epochs of 10 ms each
        "2 programs to compile in about 3.0 s, then about 1.6 s of training on one worker.",
    ]


def test_a_plan_under_halving_counts_the_epochs_that_are_trained():
    found = dict.fromkeys(quick.SPACE.dimensions, TRACED)
    planned = planner(trials=16, found=found, halving="successive")
    text = plan_text(planned, quick.sampled(16), measured(Way("map", 4), 0.1))
    assert "rungs at epochs 1, 4." in text
    # 16 lanes of an epoch, and 4 of three more, of 0.1 s each
    assert text.endswith("then about 2.8 s of training on one worker.")


def test_trials_that_have_no_program_are_counted():
    space = Space(quick.Config, {RATE: LogUniform(1e-3, 0.3), "model.width": Choice(0, 16)})
    found = {RATE: TRACED, "model.width": "it gives a shape"}
    trials = [{RATE: 0.1, "model.width": width} for width in (16, 0, 0)]
    plan = plan_text(planner(space, found, trials=3), trials, measured(Way("loop", 1), 0.01))
    lines = plan.split("\n")
    assert "  no program for 2 trials: ValueError: MLP.width must be an int >= 1, got 0" in lines
    assert sum("lanes at a time" in line for line in lines) == 1


def test_a_group_whose_program_raises_says_so():
    """Its trials will fail one by one; a worker that died is another thing."""

    def raising(error):
        def ask(function, argument):
            raise error

        return ask

    trial = [{**quick.sampled(1)[0], "model.width": 32}]
    plan = plan_text(planner(), trial, raising(ValueError("no such batch\nand more")))
    assert re.search(r"model.width=32: 1 trial, loop, \d+ lanes at a time", plan)
    assert "    cannot run: ValueError: no such batch" in plan.split("\n")
    with pytest.raises(BrokenExecutor):
        plan_text(planner(), trial, raising(BrokenExecutor()))
