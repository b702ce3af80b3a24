"""The time that is left and the time that was used, in closed form."""

import pytest

from jaxnn.sweep.reporter import PlannedRung, Segment, remaining, steps_left, time_used
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.tables import Cohort, Group, Trial


def cohort(group, lanes, seconds, finished=None, compiling=0.0, begin=0, end=2):
    pairs = tuple((n, 0) for n in range(lanes))
    return Cohort(group, 0, begin, end, pairs, seconds, compiling, finished=finished)


def group(name, width=1, each=0.0, **probe):
    if each:
        probe["timings"] = [{"seconds": each}]
    return Group(name, {}, "vmap", width, probe=probe)


def test_compiling_and_the_first_cohort_do_not_count_as_the_rate():
    left = [PlannedRung([Segment("a", 8, 2)])]
    first = cohort("a", 4, 13.0, 13.0, compiling=10.0)
    assert remaining([first], [], left, []) == 6.0  # 3 s for 8 epochs of lanes
    second = cohort("a", 4, 1.0, 14.0)
    assert remaining([first, second], [], left, []) == 2.0


def test_workers_wait_for_each_other_at_a_rung():
    both = [cohort("a", 4, 2.0, 14.0), cohort("a", 4, 2.0, 14.0)]  # of 4 lanes each
    three = [PlannedRung([Segment("a", 12, 2)]), PlannedRung([Segment("a", 4, 2)])]
    assert remaining(both, [group("a", cohort=4)], three, [], workers=2) == 4.0 + 2.0
    assert remaining(both, [group("a", cohort=4)], three, []) == 6.0 + 2.0


def test_pauses_are_counted_for_each_cohort_without_the_probes_in_them():
    first, second = cohort("a", 4, 1.0, 1.0), cohort("a", 4, 1.0, 4.0)  # two seconds between
    assert (
        remaining([first, second], [group("a", cohort=4)], [PlannedRung([Segment("a", 12, 2)])], [])
        == 3 + 3 * 2
    )
    new = group("b", 1, 1.0, seconds=1.5, finished=3.0)  # probed in the pause
    both = [group("a", cohort=4), new]
    assert remaining([first, second], both, [PlannedRung([Segment("a", 12, 2)])], []) == 3 + 3 * 0.5


def test_the_search_takes_as_long_as_in_the_last_rounds():
    trials = [Trial(n, n // 4, 0, {}, "a", "done") for n in range(20)]
    ran, at = [], 0.0
    for n, asking in enumerate((0.0, 9.0, 1.0, 2.0, 3.0)):  # of 4 trials and 1 s each
        at += asking + 1.0
        lanes = tuple((4 * n + k, 0) for k in range(4))
        ran.append(Cohort("a", 0, 0, 1, lanes, 1.0, finished=at))
    rounds = [PlannedRung([Segment("", 4, 1)], asks=True)] * 2
    assert remaining(ran, [group("a", cohort=4)], rounds, trials) == 2 * (1.0 + 2.0)


def test_a_call_that_is_not_full_takes_as_long():
    ran = [cohort("a", 16, 8.0, 8.0), cohort("a", 16, 8.0, 16.0)]  # 16 * 2 epochs in 8 s
    wide = [group("a", 16)]
    assert remaining(ran, wide, [PlannedRung([Segment("a", 1, 4)])], []) == 16.0
    assert (
        remaining(
            ran, wide, [PlannedRung([Segment("a", 17, 1)]), PlannedRung([Segment("a", 15, 1)])], []
        )
        == 8 + 4
    )
    assert remaining(ran, [group("a", 4)], [PlannedRung([Segment("a", 5, 2)])], []) == 4.0


def test_a_group_that_has_not_run_compiles_and_has_the_rate_of_its_probe():
    groups = [group("a", 1, 1.0), group("b", 1, 3.0)]
    ran = [cohort("a", 4, 26.0, 26.0, compiling=10.0), cohort("a", 4, 16.0, 42.0)]  # 2 s a lane
    assert remaining(ran, groups, [PlannedRung([Segment("b", 5, 1)])], []) == 5 * 6.0 + 10.0
    # Trials of unknown groups are distributed as those that were asked; b compiles once.
    asked = [Trial(n, 0, 0, {}, "aab"[n]) for n in range(3)]
    unknown = [PlannedRung([Segment("", 6, 1)]), PlannedRung([Segment("", 6, 1)])]
    assert remaining(ran, groups, unknown, asked) == 2 * (4 * 2.0 + 2 * 6.0) + 10.0
    assert remaining([], groups, [PlannedRung([Segment("a", 5, 1)])], []) is None


def test_the_steps_that_are_left():
    trials = [Trial(n, 0, 0, {}, "ab"[n % 2], "done" if n < 2 else "asked") for n in range(4)]
    trained = {(0, 0): 8, (1, 0): 4}  # one stopped early: six epochs are usual
    left = steps_left(trials, trained, Settings(trials=10, batch=4), 8)
    now, *rounds = left
    assert now == ([("a", 1, 6.0), ("b", 1, 6.0)], False)
    assert rounds == [([("", 4, 6.0)], True), ([("", 2, 6.0)], True)]
    two = Settings(trials=4, seeds=2)
    seeds = {(n, seed): 8 - n for n in (0, 1) for seed in (0, 1)} | {(2, 0): 3, (2, 1): 3}
    assert steps_left(trials, seeds, two, 8) == [([("a", 2, 4.5), ("b", 2, 7.5)], False)]


def test_the_steps_of_halving():
    halved = Settings(trials=8, batch=4, halving="successive", eta=2, seeds=2)
    # A bracket of 4 trials: 4 lanes to epoch 1, 2 to epoch 2, 1 to 4, 1 to 8, with two seeds.
    rungs = [("", 8, 1), ("", 4, 1), ("", 2, 2), ("", 2, 4)]
    bracket = [([rung], rung == rungs[0]) for rung in rungs]
    assert steps_left([], {}, halved, 8) == 2 * bracket
    begun = {(n, seed): 1 for n in range(4) for seed in (0, 1)}
    four = [Trial(n, 0, 0, {}, "aab"[n % 3], "running") for n in range(4)]
    assert steps_left(four, begun, halved, 8) == bracket[1:] + bracket
    half = {lane: 1 for lane in begun if lane[1] == 0}
    first = [("a", 3.0, 1), ("b", 1.0, 1)]
    assert steps_left(four, half, halved, 8) == [(first, False), *bracket[1:], *bracket]
    population = Settings(trials=4, halving="population", least=3)
    spans = [([("", 4, 3)], True), ([("", 4, 3)], False), ([("", 4, 2)], False)]
    assert steps_left([], {}, population, 8) == spans


@pytest.mark.parametrize("halving", ["none", "successive", "population"])
@pytest.mark.parametrize("workers", [1, 2])
def test_of_a_machine_with_constant_times_a_tenth_foretells_the_rest(halving, workers):
    """A call takes 0.5 s for an epoch, a program 7 s to compile, and a cohort waits for 0.2 s."""
    settings = Settings(trials=256, batch=64, halving=halving, least=1, eta=2)
    epochs, width, size = 8, 16, 32
    groups = [group(name, width, 0.5 / width * cost, cohort=size) for name, cost in COSTS.items()]
    ran, ends = machine(settings, epochs, groups, workers)
    total, longest = max(ends), max(one.seconds for one in ran)
    for at in sorted(ends):
        done = [one for one in ran if one.finished <= at]
        share = sum(len(one.lanes) * (one.epoch_to - one.epoch_from) for one in done)
        if (
            share < 0.1 * sum(len(c.lanes) * (c.epoch_to - c.epoch_from) for c in ran)
            or at == total
        ):
            continue
        trials, trained = state(done, ran, settings, epochs)
        left = steps_left(trials, trained, settings, epochs)
        found = remaining(done, groups, left, trials, workers)
        running = longest if workers > 1 else 0.0  # another cohort may be about to end
        assert found == pytest.approx(total - at, rel=0.12, abs=running), (at, total)


COSTS = {"cheap": 1.0, "dear": 3.0}


def machine(settings, epochs, groups, workers):
    """The cohorts of a sweep, on a machine with workers that take turns."""
    free, ran, seen = [0.0] * workers, [], set()
    for index, bracket in enumerate(settings.rounds(epochs)):
        begun = max(free)
        free = [begun + 0.2] * workers
        for count, begin, end in zip(
            bracket.counts, (0, *bracket.rungs), bracket.rungs, strict=False
        ):
            free = [max(free)] * workers
            for one in groups:
                lanes = [10_000 * index + 10 * n for n in range(count)]
                mine = [n for n in lanes if (n // 10) % 2 == (one.name == "dear")]
                size = one.probe["cohort"]
                for part in (mine[at : at + size] for at in range(0, len(mine), size)):
                    worker = free.index(min(free))
                    calls = -(-len(part) // one.lanes)
                    compiling = 0.0 if one.name in seen else 7.0
                    seen.add(one.name)
                    seconds = calls * (end - begin) * 0.5 * COSTS[one.name] + compiling
                    free[worker] += 0.2 + seconds
                    pairs = tuple((n, 0) for n in part)
                    ran.append(
                        Cohort(one.name, 0, begin, end, pairs, seconds, compiling,
                               finished=free[worker])
                    )  # fmt: skip
    return ran, [one.finished for one in ran]


def state(done, ran, settings, epochs):
    """The trials and what they have trained, as the ledger has them after some cohorts."""
    trained = {}
    for one in done:
        trained |= dict.fromkeys(one.lanes, one.epoch_to)
    asked = max(pair[0] // 10_000 for one in done for pair in one.lanes)
    brackets = settings.rounds(epochs)[: asked + 1]
    trials = []
    for index, bracket in enumerate(brackets):
        numbers = [10_000 * index + 10 * n for n in range(bracket.count)]
        reached = [trained.get((number, 0), 0) for number in numbers]
        going = bracket.count  # after the last rung that all who were to reach it have reached
        for count, following, rung in zip(
            bracket.counts, [*bracket.counts[1:], 0], bracket.rungs, strict=True
        ):
            going = following if sum(at >= rung for at in reached) == count else going
        for n, number in enumerate(numbers):
            ended = n >= going or reached[n] == epochs
            name = "dear" if n % 2 else "cheap"
            trials.append(Trial(number, index, 0, {}, name, "done" if ended else "running"))
    return trials, trained


def test_pauses_between_sessions_do_not_count():
    ran = [cohort("a", 1, 4.0, 14.0), cohort("a", 1, 4.0, 16.0), cohort("a", 1, 1.0, 99.0)]
    probed = Group("a", {}, "loop", 1, probe={"seconds": 2.5})
    assert time_used(ran, [probed]) == 6.0 + 1.0 + 2.5
