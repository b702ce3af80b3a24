"""Sweeps of any program: a DQN without data, a GAN with its own state, a supervised fit.

A lane is the run of its configuration by `train.fit`: bitwise where lanes go one after the other,
to rounding where they go together.
"""

import contextlib
import dataclasses
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.executors import create
from jaxnn.experiment import Experiment
from jaxnn.experiment.experiment import configured
from jaxnn.sweep import Choice, LogUniform, Uniform, cohort
from jaxnn.sweep.cohort import Way, Work, compiled_cohort, work
from jaxnn.sweep.driver import Driver
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.meta import meta_of
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.structure import TRACED, Structure, space_of, traced_or_static
from jaxnn.train.program import without_keys
from tests.sweep import driven, toy
from tests.sweep.programs import dqn, gan, supervised

LOOP, MAP, VMAP = Way("loop", 1), Way("map", 2), Way("vmap", 3)
STRUCTURES = {
    "dqn": Structure(dqn.EXPERIMENT, dqn.Config(), (), ("learning_rate", "discount")),
    "gan": Structure(
        gan.EXPERIMENT,
        gan.Config(),
        (("critic_steps", 2),),
        ("generator_rate", "critic_rate", "penalty"),
    ),
    "supervised": Structure(
        supervised.EXPERIMENT, supervised.Config(), (("fold", 1),), ("learning_rate",)
    ),
}
SEEDS = (0, 5, 0)


def drawn(structure, count=3):
    """Traced values of lanes."""
    random, space = np.random.default_rng(0), space_of(structure.experiment)
    samples = [space.sample(random) for _ in range(count)]
    return tuple({name: values[name] for name in structure.traced} for values in samples)


def trained(structure, way, values, seeds=SEEDS, records=(0, 3), state=None):
    outcome = work(Work(structure, values, seeds, way, records, state, keep=True))
    assert outcome.error is None, outcome.error
    return outcome


def states(outcome, structure, values):
    """The state of each lane."""
    whole = cohort.unpack(outcome.state, compiled_cohort(structure, LOOP, False).lane(values[0]))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], whole) for i in range(len(values))]


def solo(structure, values, seed):
    """The final state of a solo run, and its metrics at each record."""
    config = dataclasses.replace(structure.configured(values), seed=seed)
    state, history = configured(structure.experiment, config).fit(progress=False)
    named = {name: [record[name] for record in history] for name in history[0]}
    metrics = {name: numbers for name, numbers in named.items() if name not in ("epoch", "step")}
    return without_keys(state), metrics


def assert_close(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), **tolerance)


@pytest.mark.parametrize("name", ["dqn", "supervised", pytest.param("gan", marks=pytest.mark.slow)])
def test_a_lane_is_the_run_of_its_configuration(name):
    """Bitwise when mapped, state and metrics; to rounding when vmapped; one compilation each."""
    structure = STRUCTURES[name]
    values = drawn(structure)
    mapped = trained(structure, MAP, values)
    assert mapped.traces == 1
    together = trained(structure, VMAP, values)
    assert together.traces == 1
    for i in (1, 2):
        state, metrics = solo(structure, values[i], SEEDS[i])
        assert_close(state, states(mapped, structure, values)[i], rtol=0, atol=0)
        assert list(metrics) == list(mapped.metrics)
        for metric, numbers in metrics.items():
            assert mapped.metrics[metric][i].tolist() == numbers[:3], metric
            # 30 steps, each rounded in another way
            np.testing.assert_allclose(together.metrics[metric][i], numbers[:3], atol=1e-5)
        assert_close(state, states(together, structure, values)[i], rtol=1e-4, atol=1e-5)


RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(16, 6, 6, 1)).astype(np.float32)
ROWS = RANDOM.normal(size=(16, 3)).astype(np.float32)
MANY = RANDOM.normal(size=(2 * 1024 + 70, 3)).astype(np.float32)


class Noisy(nn.Composite):
    """An objective with every kind of metric, which draws in evaluation too."""

    net: nn.Layer

    def forward(self, batch, *, key):
        z = self.net(batch)
        z = z + jax.random.normal(jax.random.key(0) if key is None else key, z.shape)
        loss = 0.5 * train.Ratio(jnp.sum(z**2), 1.0 * z.size) + train.Ratio(jnp.sum(z), len(z))
        return loss + 3.0 * jnp.mean(jnp.abs(z)), {
            "median": train.Collected(np.median, (z[:, 0],)),
            "mean": train.Mean(jnp.mean(z), maximize=True),
            "positive": train.Ratio((z > 0).sum(), z.size),
        }


@dataclasses.dataclass(frozen=True)
class Short:
    learning_rate: float = 0.1
    batch_size: int = 8
    epochs: int = 2
    seed: int = 0


def noisy(net, *parts):
    def program(config, data):
        optimizer = train.Optimizer(optax.adam, learning_rate=config.learning_rate)
        return train.Minimize(Noisy(net), optimizer)

    space = {"learning_rate": LogUniform(0.01, 0.1)}
    return Experiment("noisy", Short, data=lambda config: parts, program=program, space=space)


@pytest.mark.parametrize(
    ("made", "config"),
    [
        # An evaluation in three pieces.
        (noisy(nn.Sequential(nn.Dense(16), jnp.tanh, nn.Dense(4)), ROWS, MANY), Short()),
        # One step per record, which is compiled without a loop.
        (noisy(nn.Dense(4), ROWS, MANY[:9]), Short(batch_size=16)),
        # Convolutions, which a run on a CPU does not put into loops.
        (
            noisy(nn.Sequential(nn.Conv(3, (3, 3)), nn.Flatten(), nn.Dense(2)), IMAGES, IMAGES),
            Short(),
        ),
    ],
)
def test_every_metric_of_mapped_lanes_is_that_of_a_run_bitwise(made, config):
    structure = Structure(made, config, (), ("learning_rate",))
    values = drawn(structure)
    outcome = trained(structure, MAP, values, records=(0, 2))
    for i in (1, 2):
        state, metrics = solo(structure, values[i], SEEDS[i])
        assert_close(state, states(outcome, structure, values)[i], rtol=0, atol=0)
        assert list(metrics) == list(outcome.metrics)
        assert {name: table[i].tolist() for name, table in outcome.metrics.items()} == metrics


def test_lanes_with_other_seeds_differ_in_init_and_in_every_draw():
    structure = STRUCTURES["dqn"]
    values = drawn(structure, 1) * 3
    begun = compiled_cohort(structure, MAP, False).train(values[:2], SEEDS[:2], None, (0, 0))[0]
    weights = [leaf for leaf in jax.tree.leaves(begun["params"]) if leaf.ndim == 3]
    assert len(weights) == 2
    assert all((np.asarray(w)[0] != np.asarray(w)[1]).any() for w in weights)
    ends = states(trained(structure, MAP, values), structure, values)
    actions = [np.asarray(end["buffer"]["a"])[:30] for end in ends]
    assert (actions[0] != actions[1]).any()
    assert_close(ends[0], ends[2], rtol=0, atol=0)
    rows = [STRUCTURES["gan"].training({}).order(seed, 0).rows for seed in (0, 5)]
    assert rows[0].shape == (3, 16)
    assert (rows[0] != rows[1]).any()


@pytest.mark.parametrize("way", [MAP, VMAP])
def test_a_segment_continues_bitwise(way):
    structure = STRUCTURES["gan"]
    values = drawn(structure)
    whole = trained(structure, way, values)
    half = trained(structure, way, values, records=(0, 1))
    rest = trained(structure, way, values, records=(1, 3), state=half.state)
    assert rest.state == whole.state
    for name, table in whole.metrics.items():
        np.testing.assert_array_equal(table[:, 1:], rest.metrics[name])


# Traced or static


def reasons(made, base=None, exact=False):
    return traced_or_static(made, base or made.config(), exact)


def with_space(made, space, **changes):
    return dataclasses.replace(made, space=space, **changes)


def test_numbers_of_programs_are_traced_and_a_python_if_makes_one_static():
    space = dqn.SPACE | {"clip": Uniform(0.5, 1.0), "width": Choice(4, 8)}
    found = reasons(with_space(dqn.EXPERIMENT, space))
    assert [name for name, why in found.items() if why == TRACED] == list(dqn.SPACE)
    assert re.fullmatch(
        r"programs/dqn\.py:\d+, 'return \(optax\.huber_loss.*if self\.clip > 0 else .*': "
        "Python has to know it there",
        found["clip"],
    )
    assert "Dense.features" in found["width"]


def test_a_shape_of_jax_is_a_number_that_python_has_to_know():
    found = reasons(gan.EXPERIMENT)
    assert found.pop("critic_steps").endswith("Python has to know it there")
    assert set(found.values()) == {TRACED}


def test_data_that_depend_on_a_number_make_it_static():
    def scaled(config):
        return jnp.ones((32, 2)) * config.penalty

    found = reasons(with_space(gan.EXPERIMENT, {"penalty": LogUniform(1.0, 2.0)}, data=scaled))
    assert found == {
        "penalty": "the data depend on it, and all lanes of a program share their data"
    }
    assert "programs/supervised.py:" in reasons(supervised.EXPERIMENT)["fold"]


@pytest.mark.parametrize("reads", [False, True])
def test_data_are_read_once_unless_they_depend_on_a_number(reads):
    read = []

    def load(config):
        read.append(config)
        rows = np.ones((16, 3), np.float32)
        return (rows * config.scale if reads else rows), None

    made = dataclasses.replace(SCALED, data=load)
    found = traced_or_static(made, Config())
    assert found["learning_rate"] == TRACED
    assert (found["scale"] == TRACED) is not reads
    traced = [config for config in read if not isinstance(config.scale, float)]
    assert len(traced) == (3 if reads else 1)  # all numbers, each alone


def test_groups_with_other_data_train_on_their_own():
    values = drawn(STRUCTURES["supervised"], 1)
    found = []
    for fold in (0, 1):
        structure = dataclasses.replace(STRUCTURES["supervised"], static=(("fold", fold),))
        outcome = trained(structure, MAP, values, (0,), (0, 1))
        found.append(outcome.metrics["validation_loss"].item())
        assert found[-1] == solo(structure, values[0], 0)[1]["validation_loss"][0]
    assert found[0] != found[1]


class Scaled(nn.Composite):
    """A layer that holds a number, which is no leaf of a program."""

    net: nn.Layer
    scale: float

    def forward(self, batch):
        return jnp.mean((self.net(batch) * self.scale) ** 2 / self.scale)


@dataclasses.dataclass(frozen=True)
class Config:
    scale: float = 1.0
    learning_rate: float = 0.1
    batch_size: int = 8
    epochs: int = 2
    seed: int = 0


def scaled(config, data):
    objective = Scaled(nn.Dense(2), config.scale)
    optimizer = train.Optimizer(optax.sgd, learning_rate=config.learning_rate)
    return train.Minimize(objective, optimizer)


SCALED = Experiment(
    "scaled",
    Config,
    data=lambda config: np.ones((16, 3), np.float32),
    program=scaled,
    space={"scale": LogUniform(0.5, 2.0), "learning_rate": LogUniform(0.01, 0.1)},
)


def test_a_number_inside_a_layer_is_traced_because_the_program_is_built_inside():
    structure = Structure(SCALED, Config(), (), ("scale", "learning_rate"))
    values = drawn(structure)
    outcome = trained(structure, VMAP, values, records=(0, 2))
    assert outcome.traces == 1
    for i in range(2):  # to rounding, since a solo run compiles the number as a constant
        _, metrics = solo(structure, values[i], SEEDS[i])
        np.testing.assert_allclose(outcome.metrics["loss"][i], metrics["loss"], rtol=1e-5)


def test_exact_keeps_a_number_inside_a_layer_static():
    assert reasons(SCALED) == {"scale": TRACED, "learning_rate": TRACED}
    assert reasons(SCALED, exact=True) == {
        "scale": "it is not a leaf of the program: a solo run compiles it as a constant, and "
        "--exact lanes are bitwise equal to solo runs",
        "learning_rate": TRACED,
    }


def test_swept_floats_are_weakly_typed_as_python_floats_are():
    """A step in bfloat16 stays in bfloat16, as it does with a Python float."""

    class Half(train.Program):
        rate: float

        def init(self, key, batch):
            return jnp.ones(2, jnp.bfloat16)

        def step(self, state, batch):
            return state - self.rate * state, {"loss": state.sum()}

    @dataclasses.dataclass(frozen=True)
    class Short:
        rate: float = 0.5
        steps: int = 3

    half = Experiment(
        "half", Short, program=lambda c, data: Half(c.rate), space={"rate": Uniform(0.0, 1.0)}
    )
    assert reasons(half) == {"rate": TRACED}
    structure = Structure(half, Short(), (), ("rate",))
    outcome = trained(structure, MAP, ({"rate": 0.3}, {"rate": 0.7}), (0, 0), (0, 1))
    ends = states(outcome, structure, [{"rate": 0.3}, {"rate": 0.7}])
    # bfloat16 rounds 0.7 to 0.69921875 and the product by 0.3, so these are exact
    assert [end.dtype for end in ends] == [jnp.bfloat16] * 2
    rate = jnp.float32(0.3).astype(jnp.bfloat16)
    by_hand = jnp.ones((), jnp.bfloat16)
    for _ in range(3):
        by_hand = by_hand - rate * by_hand
    assert float(ends[0][0]) == float(by_hand)


# Whole sweeps

FEW = Settings(trials=6, lanes=2, by="map", halving="successive", eta=3)
CLIPPED = with_space(
    dqn.EXPERIMENT, {"learning_rate": LogUniform(1e-3, 1e-2), "clip": Choice(0.0, 1.0)}
)


def begin(folder, made):
    Ledger.create(folder, meta_of(made, Planner(made, made.config(), FEW))).close()
    return folder


def drive(folder, made, opened=Ledger):
    """Drive a sweep to its end, and return what is in its ledger."""
    with opened.open(folder, write=True) as ledger, create("local") as executor:
        Driver(made, ledger, executor).run()
        return toy.digest(ledger), ledger.trials(), ledger.groups(), ledger.cohorts()


class Died(BaseException):
    """Ends a driver in place of a signal."""


def die():
    raise Died


def test_a_sweep_that_dies_at_every_boundary_resumes_bitwise(tmp_path, monkeypatch):
    """Two groups, since a Python `if` reads the number; halving; one compilation per group."""
    driven.planned_once(monkeypatch)
    before = traces(CLIPPED)
    whole, trials, groups, cohorts = drive(begin(tmp_path / "whole", CLIPPED), CLIPPED)
    assert {group.name for group in groups} == {"clip=0.0", "clip=1.0"}
    assert traces(CLIPPED) - before == 2
    assert sorted(trial.status for trial in trials) == ["done"] * 2 + ["stopped"] * 4
    folder, drivers = begin(tmp_path / "cut", CLIPPED), 0
    while True:
        with contextlib.suppress(Died):
            cut = drive(folder, CLIPPED, driven.ended_at(Ledger, 1 + drivers % 3, die))
            break
        drivers += 1
    assert drivers > 3 * len(cohorts)
    assert cut[0] == whole


def traces(made):
    """How often the steps of an experiment's groups were traced."""
    return sum(
        compiled_cohort(Structure(made, made.config(), (("clip", clip),), names), MAP, True).traces
        for clip in (0.0, 1.0)
        for names in [("learning_rate",)]
    )


def test_a_population_copies_states_between_trials_with_seeds_of_their_own(tmp_path):
    """Seed k of a trial takes over the state of seed k of another, whatever they are."""
    made = with_space(
        dqn.EXPERIMENT, {"learning_rate": LogUniform(1e-3, 1e-2), "seed": Choice(0, 3, 6, 9)}
    )
    settings = Settings(trials=4, lanes=2, by="map", halving="population", seeds=2)
    folder = tmp_path / "sweep"
    meta = meta_of(made, Planner(made, made.config(), settings))
    Ledger.create(folder, meta).close()
    _, trials, _, _ = drive(folder, made)
    assert [trial.status for trial in trials] == ["done"] * 4
    with Ledger.open(folder) as ledger:
        assert any(change.source != change.trial for change in ledger.changes())


@pytest.mark.slow
def test_a_killed_sweep_resumes_bitwise_in_a_new_process(tmp_path):
    """kill -9 while cohorts run, then `resume`; the digest is that of a sweep left alone."""
    root = Path(__file__).parents[2]
    module = [sys.executable, "-m", "tests.sweep.programs.gan"]
    options = ["--trials", "8", "--lanes", "2", "--by", "vmap", "--halving", "successive"]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    for name in ("whole", "killed"):
        command = [*module, "sweep", *options, "--folder", str(tmp_path / name)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert process.stdout is not None
        for line in process.stdout:
            if name == "killed" and "training group" in line:
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()
        assert process.returncode == (0 if name == "whole" else -signal.SIGKILL)
    resumed = [*module, "resume", str(tmp_path / "killed")]
    subprocess.run(resumed, check=True, env=environment, capture_output=True)
    digests = set()
    for name in ("whole", "killed"):
        with Ledger.open(tmp_path / name) as ledger:
            digests.add(toy.digest(ledger))
    assert len(digests) == 1


def test_work_travels_to_other_processes():
    structure = STRUCTURES["gan"]
    sent = Work(structure, drawn(structure, 1), (0,), LOOP, (0, 1))
    assert pickle.loads(pickle.dumps(sent)) == sent


# Plans


def planned(made, **settings):
    return Planner(made, made.config(), Settings(**settings))


@pytest.mark.parametrize(
    ("made", "options", "metric", "larger"),
    [
        (dqn.EXPERIMENT, {}, "validation_return", True),
        (gan.EXPERIMENT, {}, "validation_median", False),
        (supervised.EXPERIMENT, {}, "validation_accuracy", True),
        (SCALED, {}, "loss", False),
        (gan.EXPERIMENT, {"minimize": "validation_distance"}, "validation_distance", False),
        (dataclasses.replace(dqn.EXPERIMENT, maximize="reward"), {}, "reward", True),
        (dataclasses.replace(dqn.EXPERIMENT, maximize="reward"), {"metric": "loss"}, "loss", False),
    ],
)
def test_trials_are_compared_by_what_the_metrics_declare(made, options, metric, larger):
    planner = Planner(
        made, made.config(), Settings(**options), dict.fromkeys(space_of(made).dimensions, TRACED)
    )
    assert (planner.metric, planner.maximize) == (metric, larger)


def test_a_metric_without_a_direction():
    with pytest.raises(ValueError) as said:
        planned(gan.EXPERIMENT, metric="validation_distance")
    assert str(said.value) == (
        "the direction of 'validation_distance' is unknown: write --maximize validation_distance "
        "or --minimize validation_distance, or declare it in the metric by train.Mean(value, "
        "maximize=True) or train.Ratio(sum, count, maximize=True)"
    )


def test_seeds_of_an_experiment_that_reads_its_seed():
    def noisy(config):
        return np.random.default_rng(config.seed).normal(size=(16, 3)).astype(np.float32)

    made = with_space(SCALED, {"learning_rate": LogUniform(0.01, 0.1)}, data=noisy)
    planned(SCALED, seeds=2)
    with pytest.raises(ValueError) as said:
        planned(made, seeds=2)
    text = str(said.value)
    assert text.startswith(
        "--seeds 2 gives the lanes of a trial other keys, but the experiment reads the "
        "configuration's seed (sweep/test_programs.py:"
    )
    assert text.endswith('draw from the key that init gets, or sweep "seed": Choice(0, 1, 2)')


def test_a_swept_length_under_halving():
    made = with_space(dqn.EXPERIMENT, dqn.SPACE | {"steps": Choice(10, 20)})
    with pytest.raises(ValueError) as said:
        planned(made, halving="successive")
    assert str(said.value) == (
        "--halving successive compares trials after the same number of epochs, but steps is "
        "swept: sweep without --halving, or take steps out of the space"
    )
