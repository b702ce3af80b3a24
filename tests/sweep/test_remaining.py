"""The time that is left and the time that was used, in closed form."""

from jaxnn.sweep.remaining import epochs_left, remaining, time_used
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.tables import Cohort, Group, Trial


def cohort(group, lanes, seconds, finished=None, compiling=0.0, begin=0, end=2):
    pairs = tuple((n, 0) for n in range(lanes))
    return Cohort(group, 0, begin, end, pairs, seconds, compiling, finished=finished)


def test_compiling_and_the_first_cohort_do_not_count_as_the_rate():
    first = cohort("a", 4, 13.0, 13.0, compiling=10.0)
    assert remaining([first], [], {"a": 16.0}, {}) == 6.0  # 3 s for 8 epochs of lanes
    second = cohort("a", 4, 1.0, 14.0)
    assert remaining([first, second], [], {"a": 16.0}, {}) == 2.0
    # Half of the time passes between cohorts.
    assert remaining([first, cohort("a", 4, 1.0, 15.0)], [], {"a": 16.0}, {}) == 4.0
    # Two workers: each second of wall time has two of training.
    both = [first, cohort("a", 4, 1.0, 14.0), cohort("a", 4, 1.0, 14.0)]
    assert remaining(both, [], {"a": 16.0}, {}) == 1.0


def test_a_group_that_has_not_run_compiles_and_has_the_rate_of_its_probe():
    groups = [
        Group(name, {}, "loop", 1, probe={"timings": [{"seconds": seconds}]})
        for name, seconds in (("a", 1.0), ("b", 3.0))
    ]
    ran = [cohort("a", 4, 26.0, 26.0, compiling=10.0), cohort("a", 4, 16.0, 42.0)]  # 2 s a lane
    assert remaining(ran, groups, {"b": 5.0}, {}) == 5 * 6.0 + 10.0
    # Trials of unknown groups are distributed as those that were asked.
    assert remaining(ran, groups, {"": 6.0}, {"a": 2, "b": 1}) == 6 * (2 * 2.0 + 6.0) / 3
    assert remaining([], groups, {"a": 5.0}, {}) is None


def test_the_epochs_that_are_left():
    trials = [Trial(n, 0, 0, {}, "ab"[n % 2], "done" if n < 2 else "asked") for n in range(4)]
    trained = {(0, 0): 8, (1, 0): 4}  # one stopped early: six epochs are usual
    left = epochs_left(trials, trained, Settings(trials=10, batch=4), 8)
    assert left == {"a": 6.0, "b": 6.0, "": 36.0}
    halved = Settings(trials=8, batch=4, halving="successive", eta=2, seeds=2)
    # A bracket of 4 trials: 4 lanes to epoch 1, 2 to epoch 2, 1 to 4, 1 to 8.
    assert epochs_left([], {}, halved, 8) == {"": 2 * 2 * (4 + 2 + 2 + 4)}
    begun = {(n, seed): 1 for n in range(4) for seed in (0, 1)}
    four = [Trial(n, 0, 0, {}, "a", "running") for n in range(4)]
    assert epochs_left(four, begun, halved, 8) == {"": 2 * 2 * 12 - 8}


def test_pauses_between_sessions_do_not_count():
    ran = [cohort("a", 1, 4.0, 14.0), cohort("a", 1, 4.0, 16.0), cohort("a", 1, 1.0, 99.0)]
    probed = Group("a", {}, "loop", 1, probe={"seconds": 2.5})
    assert time_used(ran, [probed]) == 6.0 + 1.0 + 2.5
