"""Cohorts: a lane is the run of its configuration, and no lane touches another."""

import contextlib
import dataclasses
import functools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxnn import Dense, constant, data, train
from jaxnn.combine.precision import Precision
from jaxnn.experiment import AdamW
from jaxnn.experiment.experiment import configured
from jaxnn.experiment.functional_training import dependent
from jaxnn.fields import is_traced
from jaxnn.models import MLP
from jaxnn.sweep import LogUniform, Space, Uniform
from jaxnn.sweep.cohort import (
    Compiled,
    Way,
    Work,
    compiled_cohort,
    out_of_memory,
    pack,
    regrouped,
    unpack,
    work,
)
from jaxnn.sweep.structure import Structure
from jaxnn.train.program import without_keys
from tests.sweep import quick

NUMBERS = ("optimizer.learning_rate", "optimizer.momentum", "model.dropout")
WHOLE = Structure(quick.EXPERIMENT, quick.Config(), (("model.width", 32),), NUMBERS)
# A single layer, which compiles fast, for what does not depend on the network.
SMALL = Structure(
    quick.EXPERIMENT, quick.Config(model=MLP(depth=0)), (("model.width", 32),), NUMBERS[:2]
)
LOOP, MAP, VMAP = Way("loop", 1), Way("map", 8), Way("vmap", 8)
EPOCHS = 4  # of 25 steps each
# What a record has besides metrics.
MARKS = ("epoch", "step")
# The epochs of a cohort, as JAX calls them when it compiles.
PROGRAMS = ("jit(alone)", "jit(mapped)", "jit(_lane_epoch)")


def drawn(structure, count, seed=0):
    """Traced values of so many lanes."""
    random = np.random.default_rng(seed)
    space = structure.experiment.space
    each = [space.sample(random) for _ in range(count)]
    return tuple({name: values[name] for name in structure.traced} for values in each)


def trained(structure, way, values, seeds=None, epochs=(0, EPOCHS), state=None):
    seeds = tuple(seeds or (0,) * len(values))
    outcome = work(Work(structure, tuple(values), seeds, way, epochs, state, keep=True))
    assert outcome.error is None, outcome.error
    assert all(table.dtype == np.float64 for table in outcome.metrics.values())
    assert {t.shape for t in outcome.metrics.values()} == {(len(values), epochs[1] - epochs[0])}
    return outcome


def states(outcome, structure, values):
    """The state of each lane."""
    shapes = compiled_cohort(structure, LOOP, True).lane(values[0])
    whole = unpack(outcome.state, shapes)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], whole) for i in range(len(values))]


def solo(structure, values, seed=0):
    """The state at the end of a solo run, and its metrics after each epoch."""
    return _solo(structure, tuple(values.items()), seed)


@functools.lru_cache(maxsize=256)
def _solo(structure, items, seed):
    config = dataclasses.replace(structure.configured(dict(items)), seed=seed)
    state, history = configured(structure.experiment, config).fit(progress=False)
    metrics = {
        name: np.array([record[name] for record in history])
        for name in history[0]
        if name not in MARKS
    }
    return jax.device_get(without_keys(state)), metrics


def assert_same_bits(one, other, message=""):
    """Equal to the last bit; a NaN is a NaN."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), message


def assert_exact(structure, way, values, seeds):
    outcome = trained(structure, way, values, seeds)
    ends = states(outcome, structure, values)
    for i, (lane, seed) in enumerate(zip(values, seeds, strict=True)):
        ts, metrics = solo(structure, lane, seed)
        assert list(metrics) == list(outcome.metrics)
        assert_same_bits(ts, ends[i], f"{lane}")
        assert_same_bits(metrics, {name: t[i] for name, t in outcome.metrics.items()}, f"{lane}")


def apart(structure, way, values, seeds):
    """How far each lane is from its solo run after the last step: in losses, and in accuracy."""
    outcome = trained(structure, way, values, seeds)
    alone = [solo(structure, *lane)[1] for lane in zip(values, seeds, strict=True)]
    return distances({name: table[:, -1] for name, table in outcome.metrics.items()}, alone)


def distances(ends, alone):
    far = {name: np.abs(end - [run[name][-1] for run in alone]) for name, end in ends.items()}
    return np.maximum(far["loss"], far["validation_loss"]), far["validation_accuracy"]


def few():
    """Ten lanes of one dropout rate, since each is another program for a solo run.

    All steps are small enough for training to go down: where it does not, it amplifies a rounding
    until no two programs agree.
    """
    small = [values for values in drawn(WHOLE, 20) if step_size(values) < 0.7][:10]
    return [{**values, "model.dropout": 0.35} for values in small]


def step_size(values):
    """Of descent with momentum, in the long run."""
    return values["optimizer.learning_rate"] / (1 - values["optimizer.momentum"])


SEEDS = [0, 1, 2, 3, 4] * 2


def test_lanes_have_the_bits_of_their_solo_runs_or_are_them_to_rounding():
    """Mapped and vmapped; the last call of each is filled up."""
    structure = dataclasses.replace(WHOLE, base=quick.Config(model=MLP(32, depth=1)))
    assert_exact(structure, MAP, few(), SEEDS)
    losses, accuracies = apart(structure, VMAP, few(), SEEDS)
    assert max(losses) <= 1e-4  # asked of 100 steps, each rounded in another way
    assert max(accuracies) == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", [LOOP, MAP])
def test_64_of_64_lanes_have_the_bits_of_their_solo_runs(way):
    values = list(drawn(WHOLE, 64))
    values[0] = {**values[0], "model.dropout": 0.0}  # where a solo run has no dropout
    assert_exact(WHOLE, way, values, seeds=[0] * 64)


@pytest.mark.slow
def test_64_of_64_vmapped_lanes_are_their_solo_runs_to_rounding():
    """But where training is unstable: there a solo run differs as much from itself, at a learning
    rate of one unit in the last place more."""
    values = drawn(WHOLE, 64)
    losses, accuracies = apart(WHOLE, Way("vmap", 32), values, seeds=[0] * 64)
    beside = []
    for lane in values:
        rate = np.nextafter(np.float32(lane["optimizer.learning_rate"]), np.float32(1))
        beside.append(solo(WHOLE, {**lane, "optimizer.learning_rate": float(rate)})[1])
    alone = [solo(WHOLE, lane)[1] for lane in values]
    ends = {name: np.array([run[name][-1] for run in beside]) for name in beside[0]}
    stable = distances(ends, alone)[0] <= 1e-4
    assert sum(stable) >= 58
    assert max(losses[stable]) <= 1e-4  # asked of 100 steps, each rounded in another way
    assert max(accuracies[stable]) == 0


@dataclasses.dataclass(frozen=True)
class ByAdam:
    """Beside Adam, whose schedule is of traced numbers."""

    model: MLP = MLP(width=32, depth=2)  # noqa: RUF009, frozen
    optimizer: AdamW = AdamW()  # noqa: RUF009, frozen
    batch_size: int = 32
    epochs: int = EPOCHS
    seed: int = 0


ADAM_SPACE = Space(
    ByAdam,
    {
        "optimizer.learning_rate": LogUniform(1e-4, 3e-2),
        "optimizer.weight_decay": LogUniform(1e-6, 1e-1),
    },
)
ADAM = Structure(
    quick.experiment(ADAM_SPACE, ByAdam),
    ByAdam(),
    (),
    ("optimizer.learning_rate", "optimizer.weight_decay"),
)


@pytest.mark.slow
def test_100_steps_of_adam_have_the_bits_of_a_solo_run():
    assert_exact(ADAM, LOOP, drawn(ADAM, 16), seeds=[0] * 16)


@pytest.mark.slow
def test_100_vmapped_steps_of_adam_are_a_solo_run_to_rounding():
    values = drawn(ADAM, 16)
    losses, accuracies = apart(ADAM, Way("vmap", 16), values, seeds=[0] * 16)
    assert max(losses) <= 1e-4  # asked of 100 steps, each rounded in another way
    assert max(accuracies) == 0


def diabetes(config):
    """Inputs and targets with the mean 0 and the standard deviation 1."""
    sugar = data.diabetes()
    x, y = (data.Standardizer.fit(part) for part in sugar.train)
    return sugar.map(x=x, y=y)


def regression(config, data):
    return quick.program(config, data, net=Dense(1), task=train.Regression())


def test_metrics_of_a_regression_are_those_of_a_run():
    experiment = dataclasses.replace(quick.EXPERIMENT, data=diabetes, program=regression)
    structure = Structure(experiment, quick.Config(epochs=2), (), NUMBERS[:1])
    values = [{NUMBERS[0]: 0.01}, {NUMBERS[0]: 0.02}]
    outcome = trained(structure, LOOP, values, epochs=(0, 2))
    assert list(outcome.metrics) == structure.training(values[0]).names()
    assert "validation_mae" in outcome.metrics
    for i, lane in enumerate(values):
        assert_same_bits(solo(structure, lane)[1], {n: t[i] for n, t in outcome.metrics.items()})


def in_bfloat16(config, data):
    program = quick.program(config, data)
    return dataclasses.replace(program, precision=Precision(compute="bfloat16"))


@pytest.mark.slow
def test_a_traced_number_widens_nothing():
    """In a network of bfloat16 it is what a Python number is there."""
    experiment = dataclasses.replace(quick.EXPERIMENT, program=in_bfloat16)
    base = quick.Config(model=MLP(16, depth=1), epochs=1)
    structure = Structure(
        experiment, base, (("optimizer.momentum", 0.5),), (NUMBERS[0], NUMBERS[2])
    )
    values = drawn(structure, 2)
    outcome = trained(structure, LOOP, values, epochs=(0, 1))
    for i, lane in enumerate(values):
        assert_same_bits(solo(structure, lane)[0], states(outcome, structure, values)[i])


def skipping(config, data):
    optimizer = train.apply_if_finite(config.optimizer.build(100))
    return quick.program(config, data, optimizer=optimizer)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_skipped_steps_are_in_no_mean():
    """The first step makes parameters infinite; every later gradient is NaN, and is skipped."""
    experiment = dataclasses.replace(quick.EXPERIMENT, program=skipping)
    base = quick.Config(model=MLP(depth=0), epochs=2)
    structure = Structure(experiment, base, (), NUMBERS[:1])
    values = [{NUMBERS[0]: 0.01}, {NUMBERS[0]: math.inf}]
    outcome = trained(structure, MAP, values, epochs=(0, 2))
    first = {name: table[0] for name, table in outcome.metrics.items()}
    assert_same_bits(solo(structure, values[0])[1], first)
    np.testing.assert_allclose(outcome.metrics["skipped"], [[0, 0], [24 / 25, 1]], rtol=1e-7)
    assert np.isnan(outcome.metrics["loss"][1, 1])  # of no step, and never the least


def jittered(config):
    rows, held = quick.load(config)
    return data.Augmented(rows, jitter), held


def jitter(key, x):
    return x + 0.1 * jax.random.normal(key, x.shape)


def test_lanes_of_augmented_data_have_the_bits_of_their_solo_runs():
    """Each seed draws its own noise, and the steps of a segment that of their places in the run."""
    experiment = dataclasses.replace(quick.EXPERIMENT, data=jittered)
    structure = dataclasses.replace(SMALL, experiment=experiment)
    values, seeds = drawn(structure, 3), [0, 5, 0]
    assert_exact(structure, MAP, values, seeds)
    half = trained(structure, MAP, values, seeds, (0, 2))
    rest = trained(structure, MAP, values, seeds, (2, 4), half.state)
    assert rest.state == trained(structure, MAP, values, seeds).state


def noisy(config, data):
    descent = functools.partial(optax.noisy_sgd, key=0)
    optimizer = train.Optimizer(descent, learning_rate=config.optimizer.learning_rate, eta=0.01)
    return quick.program(config, data, optimizer=optimizer)


def test_a_lane_keeps_the_keys_of_its_optimizer():
    """The state of `optax.noisy_sgd` has a key, which is no number."""
    experiment = dataclasses.replace(quick.EXPERIMENT, program=noisy)
    base = quick.Config(model=MLP(depth=0), epochs=2)
    structure = Structure(experiment, base, (), NUMBERS[:1])
    values = [{NUMBERS[0]: 0.01}, {NUMBERS[0]: 0.02}]
    half = trained(structure, MAP, values, epochs=(0, 1))
    rest = trained(structure, MAP, values, epochs=(1, 2), state=half.state)
    for i, lane in enumerate(values):
        losses = [one.metrics["loss"][i, 0] for one in (half, rest)]
        np.testing.assert_array_equal(solo(structure, lane)[1]["loss"], losses)


# Compilations


@contextlib.contextmanager
def compilations():
    """The epochs of cohorts that JAX compiles inside."""
    found = []

    def listen(event, duration_secs, **kwargs):
        if event.endswith("backend_compile_duration") and kwargs.get("fun_name") in PROGRAMS:
            found.append(kwargs["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_program_is_compiled_once_for_each_group_and_width():
    ways = [Way("map", 3), Way("vmap", 5)]
    groups = [dataclasses.replace(SMALL, static=(("model.width", w),)) for w in (10, 11)]
    traces = 0
    with compilations() as compiled:
        for again in range(2):  # other numbers, more and fewer lanes than a call has, segment_ids
            for structure in groups:
                for way in ways:
                    values = drawn(structure, 4 + again, seed=again)
                    half = trained(structure, way, values, epochs=(0, 2))
                    rest = trained(structure, way, values, epochs=(2, 4), state=half.state)
                    outcomes = [half, rest]
                    traces += sum(outcome.traces for outcome in outcomes)
                    assert (half.compile_seconds > 0) is (again == 0)
                    assert rest.compile_seconds == 0
    assert traces == len(groups) * len(ways)
    assert len(compiled) == traces


# Seeds and segment_ids


def test_each_lane_has_its_own_seed():
    """It begins with other weights and sees the data in another order, as a solo run does."""
    values = drawn(SMALL, 1) * 5
    seeds = [7, 0, 7, 2**31 - 1, 1]
    assert_exact(SMALL, MAP, values, seeds)
    losses = trained(SMALL, MAP, values, seeds).metrics["loss"]
    assert len({tuple(row) for row in losses}) == 4
    assert tuple(losses[0]) == tuple(losses[2])


@pytest.mark.parametrize("way", [LOOP, MAP, VMAP])
def test_a_segment_goes_on_to_the_bit(way):
    values, seeds = drawn(SMALL, 11), [0, 1, 2] * 3 + [0, 1]
    whole = trained(SMALL, way, values, seeds)
    state, pieces = None, []
    for epochs in ((0, 1), (1, 3), (3, 4)):
        outcome = trained(SMALL, way, values, seeds, epochs, state)
        state = outcome.state
        pieces.append(outcome.metrics)
    assert state == whole.state
    for name, table in whole.metrics.items():
        assert_same_bits(table, np.concatenate([each[name] for each in pieces], axis=1))


def test_lanes_that_were_regrouped_go_on_to_the_bit():
    """Those that survive a rung come from several cohorts, and may go another way."""
    values, seeds = drawn(SMALL, 6), [3, 4, 3, 4, 3, 4]
    whole = states(trained(SMALL, MAP, values, seeds), SMALL, values)
    first = trained(SMALL, LOOP, values[:4], seeds[:4], (0, 2)).state or b""
    second = trained(SMALL, MAP, values[4:], seeds[4:], (0, 2)).state or b""
    packed = regrouped([(first, [3, 0]), (second, [1])], [2, 0, 1])
    kept = [5, 3, 0]
    picked = [values[i] for i in kept]
    rest = trained(SMALL, MAP, picked, [seeds[i] for i in kept], (2, 4), packed)
    for i, end in zip(kept, states(rest, SMALL, picked), strict=True):
        assert_same_bits(end, whole[i])


def test_a_state_is_packed_only_where_it_is_wanted():
    values = drawn(SMALL, 2)
    assert work(Work(SMALL, values, (0, 0), LOOP, (0, 1))).state is None


# Devices

CHILD = """
import sys
import jax
from jaxnn.sweep.cohort import Way, Work, work
from tests.sweep.test_cohort import NUMBERS, SMALL, WHOLE, assert_same_bits, drawn

by, structure = sys.argv[1], {"small": SMALL, "whole": WHOLE}[sys.argv[2]]
assert len(jax.local_devices()) == 8
values, seeds = drawn(structure, 30), tuple(range(30))
found = []
for devices in map(int, sys.argv[3:]):
    outcome = work(Work(structure, values, seeds, Way(by, 4, devices), (0, 2), keep=True))
    assert outcome.error is None, outcome.error
    assert (outcome.traces, outcome.way.lanes) == (1, 4 * devices)
    found.append((outcome.state, outcome.metrics))
for state, metrics in found[1:]:
    assert state == found[0][0]
    assert_same_bits(metrics, found[0][1])
print("equal", len(set(found[0][1]["loss"][:, -1])))
"""


@pytest.mark.parametrize(
    ("by", "structure", "devices"),
    [
        ("map", "small", "18"),
        *(
            pytest.param(by, structure, "128", marks=pytest.mark.slow)
            for by in ("map", "vmap")
            for structure in ("small", "whole")
        ),
    ],
)
def test_more_devices_give_the_same_bits(by, structure, devices):
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    child = subprocess.run(
        [sys.executable, "-c", CHILD, by, structure, *devices],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert child.stdout == "equal 30\n", child.stdout + child.stderr


# What goes wrong


@pytest.mark.parametrize("way", [LOOP, MAP, VMAP])
def test_a_lane_that_diverges_does_so_alone(way):
    values, seeds = list(drawn(SMALL, 8)), [0, 1] * 4
    healthy = trained(SMALL, way, values, seeds)
    before = states(healthy, SMALL, values)
    bad = {3: math.inf, 5: 3e38, 6: math.nan}
    for i, rate in bad.items():
        values[i] = {**values[i], "optimizer.learning_rate": rate}
    broken = trained(SMALL, way, values, seeds)
    after = states(broken, SMALL, values)
    for i in range(8):
        row, was = broken.metrics["loss"][i], healthy.metrics["loss"][i]
        if i in bad:
            assert not np.isfinite(row[-1])
        else:
            assert_same_bits(row, was)
            assert_same_bits(after[i], before[i])
    # It continues from there, as it is.
    half = trained(SMALL, way, values, seeds, (0, 2))
    rest = trained(SMALL, way, values, seeds, (2, 4), half.state)
    assert rest.state == broken.state


def exhausted(monkeypatch, most, said="RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."):
    """A device that has room for so many lanes; returns the widths that were tried."""
    widths = []
    whole = Compiled.train

    @functools.wraps(whole)
    def train_(self, *arguments):
        widths.append(self.way.lanes)
        if self.way.lanes > most:
            raise jax.errors.JaxRuntimeError(said)
        return whole(self, *arguments)

    monkeypatch.setattr(Compiled, "train", train_)
    return widths


def test_out_of_memory_halves_the_lanes(monkeypatch):
    values = drawn(SMALL, 11)
    whole = trained(SMALL, MAP, values)
    tried = exhausted(monkeypatch, most=8)
    outcome = trained(SMALL, Way("map", 33), values)
    assert tried == [33, 16, 8, 8]
    assert outcome.way == MAP
    assert outcome.state == whole.state
    assert_same_bits(outcome.metrics, whole.metrics)


def test_out_of_memory_with_one_lane_is_an_error(monkeypatch):
    tried = exhausted(monkeypatch, most=0)
    outcome = work(Work(SMALL, drawn(SMALL, 3), (0,) * 3, Way("vmap", 3), (0, 1)))
    assert tried == [3, 1]
    assert "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes." in (outcome.error or "")


def test_another_fault_of_the_device_halves_nothing(monkeypatch):
    tried = exhausted(monkeypatch, most=0, said="INTERNAL: the device was lost")
    outcome = work(Work(SMALL, drawn(SMALL, 3), (0,) * 3, Way("vmap", 3), (0, 1)))
    assert tried == [3]
    assert "INTERNAL: the device was lost" in (outcome.error or "")
    assert not out_of_memory(RuntimeError("RESOURCE_EXHAUSTED, says a user's code"))


def unlucky(config, data):
    rate = config.optimizer.learning_rate
    if not is_traced(rate) and rate == 13.0:
        raise RuntimeError("no program at 13")
    return quick.program(config, data)


def test_a_program_that_raises_gives_its_traceback():
    """It comes back as data, since it would come again; without that lane the others run."""
    structure = dataclasses.replace(
        SMALL, experiment=dataclasses.replace(quick.EXPERIMENT, program=unlucky), traced=NUMBERS[:1]
    )
    values = ({NUMBERS[0]: 0.1}, {NUMBERS[0]: 13.0})
    outcome = work(Work(structure, values, (0, 0), LOOP, (0, 1), keep=True))
    assert (outcome.metrics, outcome.state) == ({}, None)
    lines = (outcome.error or "").strip().split("\n")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: no program at 13"
    assert any("test_cohort.py" in line and "in unlucky" in line for line in lines)
    trained(structure, LOOP, values[:1], epochs=(0, 1))


def test_an_error_inside_of_jax_ends_with_what_it_says():
    """JAX adds a note on its own frames, which would be the last line of every such error."""

    def broken(config, data):
        return quick.program(config, data, task=misshapen)

    experiment = dataclasses.replace(quick.EXPERIMENT, program=broken)
    structure = dataclasses.replace(SMALL, experiment=experiment)
    outcome = work(Work(structure, drawn(SMALL, 1), (0,), LOOP, (0, 1)))
    lines = (outcome.error or "").strip().split("\n")
    assert any("test_cohort.py" in line and "in misshapen" in line for line in lines)
    assert lines[-1].startswith("ValueError: ")
    assert lines[-1].endswith(": no such batch")


def misshapen(outputs, targets):
    raise ValueError("no such batch")


def test_a_state_that_is_damaged_or_of_another_program():
    values = drawn(SMALL, 2)
    packed = trained(SMALL, LOOP, values, epochs=(0, 1)).state or b""
    shapes = compiled_cohort(SMALL, LOOP, True).lane(values[0])
    for damaged in (b"", packed[:9], packed[:-1], b"\xff" * 9 + packed[9:]):
        with pytest.raises(ValueError, match=r"^the states of the lanes are damaged: "):
            unpack(damaged, shapes)
    deeper = dataclasses.replace(SMALL, base=quick.Config(model=MLP(depth=1)))
    other = compiled_cohort(deeper, LOOP, True).lane(values[0])
    with pytest.raises(ValueError) as found:
        unpack(packed, other)
    said = str(found.value)
    assert said.startswith("the states of the lanes must be float32[2,")
    assert "float32[2,64,32]" in said.split(", got ")[0]
    assert "float32[2,64,10]" in said.split(", got ")[1]
    with pytest.raises(ValueError, match=r"states of the lanes must be .*, got ; they belong"):
        unpack(pack({}), shapes)
    outcome = work(Work(SMALL, values, (0, 0), LOOP, (1, 2), packed[:-1]))
    assert "ValueError: the states of the lanes are damaged: " in (outcome.error or "")


def test_ways_say_what_they_are():
    assert [str(way) for way in (LOOP, MAP, Way("vmap", 8, 2))] == [
        "loop",
        "map of 8",
        "vmap of 8 on 2 devices",
    ]
    assert Way("vmap", 8, 2).lanes == 16


@dataclasses.dataclass(frozen=True)
class Biased(quick.Config):
    bias: float = 0.0


def biased(config, data):
    return quick.program(config, data, net=Dense(10, b_init=constant(config.bias)))


def test_lanes_start_alike_only_where_nothing_swept_says_otherwise():
    experiment = quick.experiment(
        Space(Biased, {"bias": Uniform(-1.0, 1.0)}), Biased, program=biased
    )
    structure = Structure(experiment, Biased(), (), ("bias",))
    values = ({"bias": -0.5}, {"bias": 0.25})
    outcome = trained(structure, LOOP, values, epochs=(0, 1))
    for lane, one in enumerate(values):
        program: Any = structure.training(one).run.program
        assert program.objective.inner.b_init == constant(one["bias"])
        assert outcome.metrics["loss"][lane, 0] == solo(structure, one)[1]["loss"][0]


def test_what_depends_on_a_number_is_seen_in_the_program():
    def traced(function):
        return jax.make_jaxpr(function)(1.0).jaxpr

    assert not any(dependent(traced(lambda number: jax.numpy.ones(3))))
    assert not any(dependent(traced(lambda number: (number * 2, jax.numpy.ones(3))[1])))
    assert any(dependent(traced(lambda number: jax.numpy.ones(3) * number)))
    assert any(dependent(traced(lambda number: jax.jit(lambda x: x + 1)(number))))
    assert any(dependent(traced(lambda number: number)))
