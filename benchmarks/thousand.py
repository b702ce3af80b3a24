"""A thousand trials of 784-128-10 on digits, by a sweep in this process, against a bare loop."""

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks.report import Bar, Result, Table
from benchmarks.timing import sample
from jaxnn import data, train
from jaxnn.executors import create
from jaxnn.experiment import SGD, Experiment
from jaxnn.experiment.functional_training import Training, training_of
from jaxnn.models import MLP
from jaxnn.sweep import LogUniform, Space, Uniform
from jaxnn.sweep.cohort import Way
from jaxnn.sweep.driver import Driver
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.meta import meta_of
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.reporter import SweepProgress
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.space import Values

TRIALS = 1000
EPOCHS = 10
BATCH = 128
# Of the sweep's trials, the share that the bare loop trains too.
SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class Config:
    """784-128-10 with dropout, by descent with momentum."""

    model: MLP = MLP(width=128, depth=1, dropout=0.5)  # noqa: RUF009, frozen
    optimizer: SGD = SGD(learning_rate=0.1)  # noqa: RUF009, frozen
    batch_size: int = BATCH
    epochs: int = EPOCHS
    seed: int = 0


def load(config: Config) -> Any:
    """3,500 digits, gray levels in [0, 1], a class of ten for each; and those for validation."""
    return data.mnist_5k()


def program(config: Config, data: Any) -> train.Program:
    """The training program of a configuration."""
    steps = len(data.train.x) // config.batch_size * config.epochs
    return train.Supervised(
        config.model.network(10), train.Classification(10), config.optimizer.build(steps)
    )


SPACE = Space(
    Config, {"optimizer.learning_rate": LogUniform(1e-2, 0.5), "model.dropout": Uniform(0.0, 0.6)}
)
EXPERIMENT = Experiment("thousand", Config, data=load, program=program, space=SPACE)
OURS, BARE = "jaxnn sweep", "bare loop"


def run(trials: int = TRIALS, epochs: int = EPOCHS) -> Result:
    """Measure the sweep, and the loop in turns with it."""
    config = Config(epochs=epochs)
    training = training_of(EXPERIMENT, config, config)
    bare = _Bare(config, training)
    began = time.perf_counter()
    planner = Planner(EXPERIMENT, config, Settings(trials=trials))
    with (
        tempfile.TemporaryDirectory() as place,
        Ledger.create(Path(place, "sweep"), meta_of(EXPERIMENT, planner)) as ledger,
        create("local") as executor,
    ):
        Driver(EXPERIMENT, ledger, executor, watch=lambda seen: bare.keep_up(ledger, seen)).run()
        seconds = time.perf_counter() - began - bare.paused
        ends = Counter(trial.status for trial in ledger.trials())
    each = {OURS: seconds / trials, BARE: bare.seconds / bare.trials}
    bar = Bar(
        "trials a second, the sweep over the bare loop",
        each[BARE] / each[OURS],
        0.9,
        at_least=True,
    )
    return Result(
        f"{trials:,} trials of 784-128-10 with dropout on {training.source.rows:,} digits, "
        f"{epochs} epochs at batch {BATCH}, validated after each; learning rate and dropout "
        "searched at random. The sweep runs in process, from the plan to the last commit: probe, "
        "compilation and ledger included. The bare loop is one warm compiled program of the way "
        "that the sweep chose, called epoch after epoch and nothing else. It trained "
        f"{bare.trials:,} trials, in turns with the sweep, whose clock was stopped during them. "
        "Both times are totals over trials.",
        [Table("Trials", "ms a trial", {s: sample([t]) for s, t in each.items()}, BARE, [bar])],
        [
            f"{trials:,} trials in {seconds / 60:.1f} minutes, {1 / each[OURS]:.2f} trials a "
            f"second, by {bare.way}; {', '.join(f'{many:,} {how}' for how, many in ends.items())}"
        ],
    )


class _Bare:
    """The bare loop, which trains a few trials whenever the sweep has trained some more."""

    def __init__(self, config: Config, training: Training) -> None:
        self._config, self._training = config, training
        self._loop: Callable[[], None] | None = None
        self.way = Way("loop", 1)
        self.trials = 0
        self.seconds = 0.0  # of the loop
        self.paused = 0.0  # of the sweep

    def keep_up(self, ledger: Ledger, seen: SweepProgress) -> None:
        """Train until `SHARE` of the sweep's trials are reached."""
        began = time.perf_counter()
        if self._loop is None:
            group = ledger.groups()[0]
            self.way = Way(group.way, group.lanes, group.devices)  # type: ignore[arg-type]
            self._loop = bare(self._config, self._training, self.way)
            self._loop()
        while self.trials < SHARE * seen.lanes:
            turn = time.perf_counter()
            self._loop()
            self.seconds += time.perf_counter() - turn
            self.trials += self.way.width
        self.paused += time.perf_counter() - began


def bare(config: Config, training: Training, way: Way) -> Callable[[], None]:
    """A function that trains as many trials as a call has lanes, by one jitted epoch."""
    random = np.random.default_rng(0)
    asked = [SPACE.sample(random) for _ in range(way.width)]
    values = {name: np.array([one[name] for one in asked], np.float32) for name in asked[0]}
    data = jax.device_put(training.arrays)
    first = jax.device_get(training.begin(config.seed))
    lanes = jax.tree.map(lambda leaf: np.stack([leaf] * way.width), first)
    orders = [training.order(config.seed, epoch).rows for epoch in range(config.epochs)]

    def epoch(values: Values, ts: Any, order: Any, data: Any) -> Any:
        rows, held = data
        made = program(SPACE.configured(config, values), training.source.data)

        def step(ts: Any, chosen: Any) -> Any:
            return made.step(ts, jax.tree.map(lambda leaf: leaf[chosen], rows))

        ts, metrics = lax.scan(step, ts, order)
        return ts, (metrics, made.evaluate(ts, held, key=jax.random.key(0)))

    def one_by_one(values: Any, ts: Any, order: Any, data: Any) -> Any:
        return lax.map(lambda lane: epoch(lane[0], lane[1], order, data), (values, ts))

    if way.by == "loop":
        values, lanes = jax.tree.map(lambda leaf: leaf[0], (values, lanes))
    together = jax.vmap(epoch, (0, 0, None, None))
    several = {"loop": epoch, "map": one_by_one, "vmap": together}[way.by]
    compiled = jax.jit(several, donate_argnums=1)

    def loop() -> None:
        ts, found = jax.device_put(lanes), []
        for order in orders:
            ts, metrics = compiled(values, ts, order, data)
            found.append(metrics)
        jax.device_get(found)

    return loop
