"""Halving is exact: the papers' tables, and the same trials whatever order scores come in."""

import dataclasses
import math

import numpy as np
import pytest

from jaxnn.experiment import SGD, AdamW
from jaxnn.sweep import Branch, Choice, Grid, Int, LogUniform, Space, Uniform
from jaxnn.sweep.score import keep, population
from jaxnn.sweep.search import FACTORS, perturbed
from jaxnn.sweep.settings import Bracket, Settings, hyperband, kept, rungs
from tests.sweep import quick


@dataclasses.dataclass(frozen=True)
class Configuration:
    optimizer: AdamW | SGD = AdamW(learning_rate=1e-3)  # noqa: RUF009
    width: int = 64
    depth: int = 2
    dropout: float = 0.0
    activation: str = "relu"


SPACE = Space(
    Configuration,
    {
        "optimizer": Branch(
            AdamW={"learning_rate": LogUniform(1e-4, 1e-1)}, SGD={"momentum": Uniform(0.0, 0.9)}
        ),
        "width": Grid(16, 64, 256),
        "depth": Int(1, 8),
        "dropout": Uniform(0.0, 0.5),
        "activation": Choice("relu", "tanh"),
    },
)
VALUES = {
    "optimizer": "AdamW",
    "optimizer:adamw.learning_rate": 0.01,
    "width": 64,
    "depth": 2,
    "dropout": 0.4,
    "activation": "tanh",
}


def test_rungs():
    assert rungs(81, 3) == [1, 3, 9, 27, 81]
    assert rungs(10, 3) == [1, 3, 10]
    assert rungs(100, 4, least=2) == [6, 25, 100]
    assert rungs(3, 4) == [3]


@pytest.mark.parametrize("eta", [2, 3, 4, 7])
def test_rungs_are_floors_of_the_whole(eta):
    for epochs in range(1, 300):
        wanted = [epochs // eta**k for k in range(20) if epochs // eta**k >= 1]
        assert rungs(epochs, eta) == wanted[::-1]


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((0, 3), r"epochs must be an int >= 1, got 0"),
        ((9, 1), r"eta must be an int >= 2, got 1"),
        ((9, 2.5), r"eta must be an int >= 2, got 2\.5"),
        ((9, 3, 10), r"least must be an int from 1 to 9, got 10; a run has 9 epochs"),
        ((9, 3, 0), r"least must be an int from 1 to 9, got 0"),
    ],
)
def test_bad_rungs(arguments, text):
    with pytest.raises(ValueError, match=text):
        rungs(*arguments)


def test_keep_takes_the_best_first():
    assert keep([3.0, 1.0, 2.0], 2).tolist() == [1, 2]
    assert keep(np.array([3.0, 1.0, 2.0]), 3).tolist() == [1, 2, 0]
    assert keep([], 0).tolist() == []


def test_ties_go_to_the_earlier_trial_and_failures_come_last():
    scores = [None, 1.0, math.inf, 1.0, math.nan, 0.5, -math.inf]
    assert keep(scores, 7).tolist() == [5, 1, 3, 0, 2, 4, 6]
    assert keep([None, 2.0, None], 2).tolist() == [1, 0]  # exactly as many as asked for


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="count must be an int from 0 to 2, got 3"):
        keep([1.0, 2.0], 3)


@pytest.mark.parametrize("count", [64, 256, 1024])
def test_eta_4_keeps_exactly_a_quarter_whatever_the_order(count):
    rng = np.random.default_rng(count)
    scores = np.round(rng.normal(size=count), 1)  # full of ties
    best = sorted(range(count), key=lambda i: (scores[i], i))
    while count >= 4:
        alive = sorted(best[:count])
        for _ in range(5):
            arrived: dict[int, float] = {}
            for i in rng.permutation(alive):
                arrived[int(i)] = scores[i]
            numbers = sorted(arrived)
            chosen = keep([arrived[i] for i in numbers], kept(count, 4))
            assert len(chosen) == count // 4
            assert [numbers[i] for i in chosen] == best[: count // 4]
        count //= 4


def test_a_rung_keeps_the_floor_and_at_least_one():
    assert [kept(n, 4) for n in range(10)] == [0, 1, 1, 1, 1, 1, 1, 1, 2, 2]


def test_the_table_of_hyperband():
    # Table 1 of Li et al. 2018: R = 81, eta = 3.
    found = [(list(b.counts), list(b.rungs)) for b in hyperband(81, 3)]
    assert found == [
        ([81, 27, 9, 3, 1], [1, 3, 9, 27, 81]),
        ([34, 11, 3, 1], [3, 9, 27, 81]),
        ([15, 5, 1], [9, 27, 81]),
        ([8, 2], [27, 81]),
        ([5], [81]),
    ]


def test_the_table_of_mlr3hyperband():
    # Its documentation: r_min = 1, r_max = 8, eta = 2.
    found = [dict(zip(b.rungs, b.counts, strict=True)) for b in hyperband(8, 2)]
    assert found == [{1: 8, 2: 4, 4: 2, 8: 1}, {2: 6, 4: 3, 8: 1}, {4: 4, 8: 2}, {8: 4}]


@pytest.mark.parametrize("epochs, eta", [(81, 3), (64, 4), (50, 3), (10, 2), (1, 2)])
def test_no_bracket_trains_longer_than_its_share(epochs, eta):
    # Each bracket has n * epochs to spend if every segment started from scratch; lanes continue
    # from the rung before, so it is less. The ceiling of the count adds at most a trial a rung.
    brackets = hyperband(epochs, eta)
    n = len(brackets)
    for bracket in brackets:
        scratch = sum(c * r for c, r in zip(bracket.counts, bracket.rungs, strict=True))
        assert bracket.epochs <= scratch <= n * epochs + sum(bracket.rungs)


def test_epochs_by_hand():
    assert Bracket(64, (1, 4, 16), 4).epochs == 64 * 1 + 16 * 3 + 4 * 12
    assert Bracket(5, (81,), 3).epochs == 405


def test_brackets_come_again_until_the_trials_are_used_up():
    settings = Settings(trials=1000, halving="hyperband", eta=3)
    assert [b.count for b in settings.rounds(81)] == [
        *(81, 34, 15, 8, 5) * 6, 81, 34, 15, 8, 4,
    ]  # fmt: skip
    few = dataclasses.replace(settings, trials=3).rounds(81)
    assert few == [Bracket(3, (1, 3, 9, 27, 81), 3)]
    assert few[0].counts == [3, 1, 1, 1, 1]


def test_the_worst_fifth_takes_over_from_the_best_fifth():
    rng = np.random.default_rng(0)
    scores = rng.permutation(50).astype(float)
    taken = set()
    for _ in range(200):
        source = population(scores.tolist(), rng)
        changed = source != np.arange(50)
        assert changed.tolist() == (scores >= 40).tolist()
        assert np.all(scores[source[changed]] < 10)
        taken |= set(scores[source[changed]])
    assert taken == set(range(10))  # uniformly: 2000 draws miss one of ten with chance 1e-90


def test_every_failure_is_replaced_and_none_is_a_source():
    scores = [None, 0.1, math.nan, 0.3, None, 0.2, 0.4, None, None, None]
    source = population(scores, np.random.default_rng(1))
    changed = source != np.arange(len(scores))
    assert changed.tolist() == [s is None or s != s for s in scores]
    assert set(source[changed]) <= {1, 5}
    source = population([None, None, 3.0], np.random.default_rng(1))
    assert source.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "scores, source",
    [([], []), ([1.0], [0]), ([None], [0]), ([None, None], [0, 1]), ([2.0, 1.0], [1, 1])],
)
def test_small_populations(scores, source):
    assert population(scores, np.random.default_rng(0)).tolist() == source


def test_population_is_a_function_of_the_generator():
    scores = list(range(20))
    states = []
    for each in (scores, [None] * 20):
        rng = np.random.default_rng(7)
        found = population(each, rng)
        again = population(each, np.random.default_rng(7))
        assert found.tolist() == again.tolist()
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]  # as many draws, whatever the scores


@pytest.mark.parametrize("n, count", [(4, 1), (9, 1), (10, 2), (29, 5), (100, 20)])
def test_a_fifth_is_rounded_down(n, count):
    found = population(list(range(n)), np.random.default_rng(0))
    assert (found != np.arange(n)).sum() == count


def perturbations(values, **options):
    rng = np.random.default_rng(0)
    return [perturbed(SPACE, values, rng, **options) for _ in range(200)]


def test_numbers_move_by_a_fifth_and_stay_in_their_range():
    found = perturbations(VALUES, resample=0.0)
    rates = {values["optimizer:adamw.learning_rate"] for values in found}
    assert rates == {0.01 * 0.8, 0.01 * 1.2}
    assert {values["dropout"] for values in found} == {0.4 * 0.8, 0.4 * 1.2}
    assert {values["width"] for values in found} == {16, 256}  # neighbors
    assert {values["depth"] for values in found} == {1, 3}  # at least by one
    assert {values["activation"] for values in found} == {"tanh"}
    assert {values["optimizer"] for values in found} == {"AdamW"}

    edge = {**VALUES, "optimizer:adamw.learning_rate": 0.1, "width": 16, "depth": 8, "dropout": 0.5}
    found = perturbations(edge, resample=0.0)
    assert {values["optimizer:adamw.learning_rate"] for values in found} == {0.1 * 0.8, 0.1}
    assert {values["width"] for values in found} == {16, 64}
    assert {values["depth"] for values in found} == {6, 8}
    assert {values["dropout"] for values in found} == {0.4, 0.5}


def test_all_is_drawn_anew_at_times_and_fits_the_space():
    found = perturbations(VALUES, resample=1.0)
    for values in found:
        quick.check(SPACE, values)
    assert {values["optimizer"] for values in found} == {"AdamW", "SGD"}
    assert {values["depth"] for values in found} == set(range(1, 9))
    drawn = np.mean([float(values["dropout"] or 0) < 0.25 for values in found])
    assert 0.35 < drawn < 0.65  # half, four standard deviations of 200 draws wide
    kept = np.mean([values["depth"] in (1, 3) for values in perturbations(VALUES)])
    # 3/4 stay near, and of 1/4 drawn again 2/8 are 1 or 3 too; four standard deviations wide.
    assert abs(kept - (0.75 + 0.25 * 2 / 8)) < 0.12


def test_perturbed_draws_as_many_numbers_whatever_comes_out():
    states = []
    for values, resample in [(VALUES, 0.0), (VALUES, 1.0), ({**VALUES, "depth": 8}, 0.5)]:
        rng = np.random.default_rng(3)
        perturbed(SPACE, values, rng, resample=resample)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1] == states[2]


def test_factors_are_those_of_the_paper():
    assert FACTORS == (0.8, 1.2)
