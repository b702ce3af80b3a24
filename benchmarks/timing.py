"""Medians of interleaved runs: the sides take turns, each turn is timed, compilation comes before.

samples = interleaved({"a": run_a, "b": run_b}, rounds=15, per=100)
samples["a"].over(samples["b"])
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A median and the quartiles around it, in seconds or bytes."""

    median: float
    low: float
    high: float

    def over(self, other: "Sample") -> float:
        """Ratio of the medians."""
        return self.median / other.median


def fastest(samples: Mapping[str, Sample], names: Iterable[str]) -> tuple[str, Sample]:
    """The name and the sample of the side with the least median."""
    return min(((name, samples[name]) for name in names), key=lambda side: side[1].median)


def sample(seconds: Sequence[float]) -> Sample:
    """Median and quartiles of repeated measurements; a single measurement is used for all three."""
    if len(seconds) == 1:
        return Sample(seconds[0], seconds[0], seconds[0])
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Sample(median, low, high)


def interleaved(
    sides: Mapping[str, Callable[[], object]], *, rounds: int, per: int = 1, warm_up: int = 2
) -> dict[str, Sample]:
    """Time every side once a round and return seconds for each of the `per` units of one run.

    A side returns only when its work is done (`jax.block_until_ready`). One that returns a float
    has timed itself, as a loop must whose steady state comes after a start. Many short rounds beat
    few long ones: other work on the machine comes and goes. `warm_up` untimed runs of each side
    come first and compile. Each round starts with another side, so that none always follows the
    same neighbor.
    """
    for _ in range(warm_up):
        for run in sides.values():
            run()
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(seconds_of(sides[name]) / per)
    return {name: sample(values) for name, values in seconds.items()}


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one run, or what it says of itself."""
    start = time.perf_counter()
    own = run()
    return own if isinstance(own, float) else time.perf_counter() - start
