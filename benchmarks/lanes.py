"""The way that a sweep chooses for its lanes, against every way, on three small networks."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from benchmarks.report import Bar, Result, Table
from benchmarks.sweeping import digits
from benchmarks.sweeping.sizes import BATCH, EPOCHS, STEPS
from benchmarks.timing import Sample, fastest, interleaved
from jaxnn.sweep.cohort import Way, compiled_cohort
from jaxnn.sweep.plan import LANES, Grouped, Planner
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.space import Values

NETWORKS = {
    "narrow": "64-32-32-10",
    "wide": "64-512-512-10",
    "convolutional": "8 x 8 images, convolutions to 8 and 16 channels, a dense layer to 10",
}
# The sweep that a way is chosen for.
TRIALS = 1024
WAYS = (Way("loop", 1), Way("map", 16), Way("vmap", 8), Way("vmap", 32), Way("vmap", 128))
ROUNDS = 5
# Lanes of a run at least.
LEAST = 8
# A way that is slower than the fastest by this factor ends after two runs, and its wider calls are
# skipped: each would take longer than all the others together.
SLOW = 1.5


def run(trials: int = TRIALS, rounds: int = ROUNDS) -> Result:
    """Measure every network."""
    return Result(
        f"{BATCH * STEPS} small digits, Adam at batch {BATCH}, validated after each epoch, as "
        "lanes of compiled programs. `auto` is what the probe of `--lanes auto` chooses, once, for "
        f"a sweep of {trials:,} trials of {EPOCHS} epochs; then every way is timed, in turns and "
        f"in full calls, compilation excluded. A way that takes over {SLOW:g} times as long as the "
        "fastest is out after two runs; where that is vmap, wider calls of it are not tried.",
        [_table(name, trials, rounds) for name in NETWORKS],
    )


def _table(name: str, trials: int, rounds: int) -> Table:
    planner = Planner(
        digits.EXPERIMENT,
        dataclasses.replace(digits.Config(), network=name),
        Settings(trials=trials),
    )
    random = np.random.default_rng(0)
    values = [planner.space.sample(random) for _ in range(LANES)]
    grouped = planner.grouped(planner.member(values[0]), values, 1.0, lambda f, asked: f(asked))
    chosen = str(grouped.way)
    runs: dict[str, Callable[[], float]] = {}
    first: dict[str, Sample] = {}
    slow = False
    for way in dict.fromkeys((*WAYS, grouped.way)):
        if slow and way != grouped.way:
            continue
        runs[str(way)] = _epoch(grouped, way, values)
        first |= interleaved({str(way): runs[str(way)]}, rounds=2, warm_up=1)
        slow = way.by == "vmap" and not _close(first, str(way))
    close = {way: run for way, run in runs.items() if way == chosen or _close(first, way)}
    samples = first | interleaved(close, rounds=rounds, warm_up=0)
    best, time_of_best = fastest(samples, close)
    bar = Bar(f"auto ({chosen}) over the best ({best})", samples[chosen].over(time_of_best), 1.1)
    a_second = ", ".join(f"{way} {1 / s.median:,.0f}" for way, s in samples.items())
    return Table(
        f"{name.capitalize()}: {NETWORKS[name]}; lane-epochs a second: {a_second}",
        "ms a lane and epoch",
        samples | {f"auto: {chosen}": samples[chosen]},
        best,
        [bar],
    )


def _close(samples: Mapping[str, Sample], way: str) -> bool:
    """Return whether a way may be the fastest, by its faster runs."""
    return samples[way].low <= SLOW * min(sample.low for sample in samples.values())


def _epoch(grouped: Grouped, way: Way, values: Sequence[Values]) -> Callable[[], float]:
    """A function that trains lanes for an epoch one way, and returns the seconds of each."""
    compiled = compiled_cohort(grouped.structure, way, True)
    calls = max(1, LEAST // way.lanes)
    lanes = [values[index % len(values)] for index in range(way.lanes)]
    seeds = [0] * way.lanes
    state = jax.device_get(compiled.train(lanes, seeds, None, (0, 0))[0])

    def run() -> float:
        began = time.perf_counter()
        found = [compiled.train(lanes, seeds, state, (0, 1))[1] for _ in range(calls)]
        jax.block_until_ready(found)
        return (time.perf_counter() - began) / (calls * way.lanes)

    return run
