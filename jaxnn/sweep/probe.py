"""The fastest way to run lanes on the current device, measured by short runs of the program.

The candidates are the loop, `lax.map`, and `vmap` at several widths, on one device and on all. Each
costs a compilation and a run, so another one is tried only if much more work is left: the search
for the fastest way never takes longer than it can save.
"""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax

from .cohort import Work, out_of_memory, taken
from .compiled import By, Way, compiled_cohort

WIDTHS = (8, 32, 128, 512, 2048)
# More lanes per call of `map` gain nothing.
MAPPED = 16
# The fraction of a device's memory to use: programs do not report all that they need.
SHARE = 0.5
# A wider call is tried if the last one took at most this fraction of the time of the one before.
GAIN = 0.95
# A way within this factor of the best is timed again before it is rejected.
CLOSE = 1.4
ROUNDS = 5
# The least seconds of a run that is timed again.
SAMPLE = 0.5
# The fractions of the work left that trying one more way may cost, and timing again.
TRYING = 0.2
AGAIN = 0.025
# The least lanes that are timed; seconds of a call that is not repeated.
FEW = 4
LONG = 2.0


class Timing(NamedTuple):
    """One way that was tried.

    Args:
        way: The way.
        seconds: Seconds per lane and epoch; infinite if memory ran out.
        compile_seconds: Seconds of its compilation.
        bytes: Memory of a call on a device.
    """

    way: Way
    seconds: float
    compile_seconds: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Probe:
    """A request to a worker to measure which way is fastest for lanes of a structure.

    Args:
        work: One or more of the lanes, as examples.
        lanes: Number of lanes that will run at a time.
        epochs: Number of epochs left, over all lanes.
        width: Lanes per call if that is fixed; otherwise 0. Default: 0.
        by: The ways to try. Default: all.
    """

    work: Work
    lanes: int
    epochs: int
    width: int = 0
    by: tuple[By, ...] = ("loop", "map", "vmap")


def probe(asked: Probe) -> tuple[Timing, ...]:
    """Time the ways that are worth trying, and return the timings, fastest first.

    Args:
        asked: The request.
    """
    found: list[Timing] = []
    for ladder in _ladders(asked):
        before = math.inf
        for way in ladder:
            if not _worth(way, found, asked.epochs):
                break
            found.append(_timed(asked.work, way))
            if found[-1].seconds > GAIN * before:
                break
            before = found[-1].seconds
    return tuple(sorted(_settled(asked, found), key=lambda timing: timing.seconds))


def _settled(asked: Probe, found: list[Timing]) -> list[Timing]:
    """Return the timings; those close to the best are repeated in turns, by longer runs."""
    best = min(timing.seconds for timing in found)
    close = [timing for timing in found if timing.seconds < CLOSE * best]
    times = {t.way: max(1, round(SAMPLE / (t.seconds * t.way.lanes))) for t in close}
    round_takes = sum(times[t.way] * t.way.lanes * t.seconds for t in close)
    rounds = min(ROUNDS, int(AGAIN * best * asked.epochs / round_takes))
    if len(close) < 2 or not rounds:
        return found
    again: dict[Way, list[float]] = {timing.way: [] for timing in close}
    for _ in range(rounds):
        for way, seconds in again.items():
            seconds.append(_seconds(asked.work, way, times[way]))
    return [
        t._replace(seconds=statistics.median(again[t.way])) if t.way in again else t for t in found
    ]


def _worth(way: Way, found: list[Timing], epochs: int) -> bool:
    """Return whether to try a way: the first one, then those that fit and may save their cost."""
    if not found:
        return True
    best = min(timing.seconds for timing in found)
    costs = max(timing.compile_seconds for timing in found) + 2 * way.lanes * best
    if costs > TRYING * best * epochs:
        return False
    a_lane = min(timing.bytes / timing.way.width for timing in found)
    return way.width * a_lane < SHARE * memory()


def memory() -> float:
    """Return the bytes of memory that a device has, as the system reports them."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:
        limit = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(limit)


def _ladders(asked: Probe) -> Iterator[list[Way]]:
    """Yield lists of ways: a wider way of a list is tried if the one before it gained."""
    if "loop" in asked.by:
        yield [Way("loop", 1)]
    usual: dict[By, tuple[int, ...]] = {"vmap": WIDTHS, "map": (MAPPED,)}
    for by, usually in usual.items():
        widths = (asked.width,) if asked.width else usually
        for devices in sorted({len(jax.local_devices()), 1}, reverse=True):
            most = -(-asked.lanes // devices)  # a wider call would only be filled up
            if by in asked.by:
                ways = [Way(by, w, devices) for w in dict.fromkeys(min(w, most) for w in widths)]
                structure, values = asked.work.structure, asked.work.values[0]
                yield [w for w in ways if len(asked.by) == 1 or taken(structure, values, w) == w]


def _timed(work: Work, way: Way) -> Timing:
    compiled = compiled_cohort(work.structure, way, _shared(work))
    before = compiled.compile_seconds
    try:
        seconds = _seconds(work, way)
        if seconds * way.lanes < LONG:  # the first run is slower
            seconds = _seconds(work, way)
    except Exception as error:
        if not out_of_memory(error):
            raise
        seconds = math.inf
    return Timing(way, seconds, compiled.compile_seconds - before, compiled.bytes)


def _seconds(work: Work, way: Way, times: int = 0) -> float:
    """Return the wall time per lane and epoch, over a number of full calls; by default a few."""
    compiled = compiled_cohort(work.structure, way, _shared(work))
    times = times or max(1, FEW // way.lanes)
    picked = [index % len(work.seeds) for index in range(way.lanes)]
    values, seeds = [work.values[i] for i in picked], [work.seeds[i] for i in picked]
    state, _ = compiled.train(values, seeds, None, (0, 0))
    state = jax.device_get(state)
    began, compiling = time.perf_counter(), compiled.compile_seconds
    calls = [compiled.train(values, seeds, state, (0, 1))[1] for _ in range(times)]
    jax.block_until_ready(calls)
    spent = time.perf_counter() - began - (compiled.compile_seconds - compiling)
    return spent / (times * way.lanes)


def _shared(work: Work) -> bool:
    return len(set(work.seeds)) == 1
