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
from experiments import mnist_mlp
from jaxnn.data.order import epoch_order
from jaxnn.experiment import Problem, Recipe
from jaxnn.experiment.configuration import to_plain
from jaxnn.sweep import LogUniform, Space, Uniform
from jaxnn.sweep.cohort import Way, problem_of
from jaxnn.sweep.driver import Driver, Progress
from jaxnn.sweep.engine import engine
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.space import Values
from jaxnn.sweep.structure import start
from jaxnn.train.evaluation import pure_evaluation
from jaxnn.train.feed import pure_steps

TRIALS = 1000
EPOCHS = 10
BATCH = 128
# Of the sweep's trials, the share that the bare loop trains too.
SHARE = 0.05
SPACE = Space(
    mnist_mlp.Experiment,
    {"optimizer.learning_rate": LogUniform(1e-2, 0.5), "model.dropout": Uniform(0.0, 0.6)},
)
RECIPE = Recipe("thousand", None, mnist_mlp.Experiment, mnist_mlp.problem, mnist_mlp.build, SPACE)
OURS, BARE = "jaxnn sweep", "bare loop"


def run(trials: int = TRIALS, epochs: int = EPOCHS) -> Result:
    """Measure the sweep, and the loop in turns with it."""
    config = dataclasses.replace(mnist_mlp.Experiment(), batch_size=BATCH, epochs=epochs)
    problem = problem_of(RECIPE)
    rows = len(problem.data.train.x)
    beside = _Beside(config, problem)
    began = time.perf_counter()
    planner = Planner(RECIPE, config, Settings(trials=trials))
    meta = {
        "config": to_plain(config),
        "settings": to_plain(planner.settings),
        "traced": planner.found,
    }
    with (
        tempfile.TemporaryDirectory() as place,
        Ledger.create(Path(place, "sweep"), meta) as ledger,
        engine("local") as executor,
    ):
        Driver(RECIPE, ledger, executor, watch=lambda seen: beside.keep_up(ledger, seen)).run()
        seconds = time.perf_counter() - began - beside.paused
        ends = Counter(trial.status for trial in ledger.trials())
    each = {OURS: seconds / trials, BARE: beside.seconds / beside.trials}
    bar = Bar(
        "trials a second, the sweep over the bare loop",
        each[BARE] / each[OURS],
        0.9,
        at_least=True,
    )
    return Result(
        f"{trials:,} trials of 784-128-10 with dropout on {rows:,} digits, {epochs} epochs at "
        f"batch {BATCH}, validated after each; learning rate and dropout searched at random. The "
        "sweep runs in process, from the plan to the last commit: probe, compilation and ledger "
        "included. The bare loop is one warm compiled program of the way that the sweep chose, "
        f"called epoch after epoch and nothing else. It trained {beside.trials:,} trials, in turns "
        "with the sweep, whose clock stood still meanwhile. Both times are totals over trials.",
        [Table("Trials", "ms a trial", {s: sample([t]) for s, t in each.items()}, BARE, [bar])],
        [
            f"{trials:,} trials in {seconds / 60:.1f} minutes, {1 / each[OURS]:.2f} trials a "
            f"second, by {beside.way}; {', '.join(f'{many:,} {how}' for how, many in ends.items())}"
        ],
    )


class _Beside:
    """The bare loop, which trains a few trials whenever the sweep has trained some more."""

    def __init__(self, config: mnist_mlp.Experiment, problem: Problem) -> None:
        self._config, self._problem = config, problem
        self._loop: Callable[[], None] | None = None
        self.way = Way("loop", 1)
        self.trials = 0
        self.seconds = 0.0  # of the loop
        self.paused = 0.0  # of the sweep

    def keep_up(self, ledger: Ledger, seen: Progress) -> None:
        """Train until `SHARE` of the sweep's trials are reached."""
        began = time.perf_counter()
        if self._loop is None:
            group = ledger.groups()[0]
            self.way = Way(group.way, group.lanes, group.devices)  # type: ignore[arg-type]
            self._loop = bare(self._config, self._problem, self.way)
            self._loop()
        while self.trials < SHARE * seen.lanes:
            turn = time.perf_counter()
            self._loop()
            self.seconds += time.perf_counter() - turn
            self.trials += self.way.width
        self.paused += time.perf_counter() - began


def bare(config: mnist_mlp.Experiment, problem: Problem, way: Way) -> Callable[[], None]:
    """A function that trains as many trials as a call has lanes, by one jitted epoch."""
    program = mnist_mlp.build(config, problem)
    random = np.random.default_rng(0)
    asked = [SPACE.sample(random) for _ in range(way.width)]
    values = {name: np.array([one[name] for one in asked], np.float32) for name in asked[0]}
    data = jax.device_put((tuple(problem.scaled.train), tuple(problem.scaled.validation)))
    first = jax.device_get(start(program, problem, program.seed))
    lanes = jax.tree.map(lambda leaf: np.stack([leaf] * way.width), first)
    rows, size = len(problem.scaled.train.x), program.batch_size
    steps = rows // size
    orders = [
        epoch_order(jax.random.key(program.seed), epoch, rows)[: steps * size].reshape(steps, size)
        for epoch in range(program.epochs)
    ]

    def epoch(values: Values, ts: Any, order: Any, data: Any) -> Any:
        (x, y), (held_x, held_y) = data
        p = mnist_mlp.build(SPACE.configured(config, values), problem)
        ts, sums = pure_steps(p.net, p.task, p.optimizer, p.augment, ts, x, y, order)
        size = len(held_x)
        found = pure_evaluation(p.net, p.task, ts.params, ts.state, held_x, held_y, size)
        return ts, (sums, found)

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
