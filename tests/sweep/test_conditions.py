"""Conditions and constraints: which trials have a dimension, and which are allowed."""

import dataclasses
import itertools
import json
import re

import jax
import numpy as np
import pytest

from jaxnn.experiment import SGD, AdamW
from jaxnn.sweep import (
    Branch,
    Choice,
    Grid,
    Int,
    LogNormal,
    LogUniform,
    Normal,
    Space,
    Uniform,
    When,
)
from jaxnn.sweep.external import searcher
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.search import Observation, perturbed
from jaxnn.sweep.structure import traced_or_static
from tests.sweep import quick


@dataclasses.dataclass(frozen=True)
class Config:
    kind: str = "dense"
    depth: int = 1
    width: int = 16
    dropout: float = 0.0
    sizes: tuple[int, ...] = (8,)
    optimizer: AdamW | SGD = SGD(momentum=0.5)  # noqa: RUF009, frozen


def fits(config):
    """At most 64 units in all."""
    return config.depth * config.width <= 64


SPACE = Space(
    Config,
    {
        "dropout": When("depth", Int(2, 4), Uniform(0.0, 0.5, step=0.1)),  # before what it names
        "depth": Int(1, 4),
        "width": Int(16, 48, step=16),
        "sizes": When("kind", "conv", Choice((8,), (8, 16), weights=(1, 3))),
        "kind": Choice("dense", "conv"),
        "optimizer": When("width", Grid(16, 32), Branch(
            AdamW={"learning_rate": LogNormal(-7.0, 1.0),
                   "weight_decay": When("learning_rate", LogUniform(1e-3, 1e-1), Normal(1.0, 0.1))},
            SGD={},
        )),
    },
    where=fits,
)  # fmt: skip
SAMPLES = [SPACE.sample(np.random.default_rng(seed)) for seed in range(300)]


def test_a_trial_has_what_its_conditions_say():
    for values in SAMPLES:
        quick.check(SPACE, values)
        assert ("dropout" in values) == (values["depth"] >= 2)
        assert ("sizes" in values) == (values["kind"] == "conv")
        assert ("optimizer" in values) == (values["width"] <= 32)
        rate = values.get("optimizer:adamw.learning_rate")
        assert (rate is not None) == (values.get("optimizer") == "AdamW")
        decays = "optimizer:adamw.weight_decay" in values
        assert decays == (rate is not None and 1e-3 <= rate <= 1e-1)
    assert {len(values) for values in SAMPLES} >= {3, 4, 5, 6}


def test_a_trial_without_a_dimension_keeps_what_the_configuration_has():
    base = Config(dropout=0.25)
    assert SPACE.configured(base, {"kind": "dense", "depth": 1, "width": 16}).dropout == 0.25
    with pytest.raises(ValueError, match=re.escape(
        "dropout is swept only if depth is 2 .. 4, whole numbers; got {'depth': 1, 'dropout': 0.1}"
    )):  # fmt: skip
        SPACE.configured(base, {"depth": 1, "dropout": 0.1})


def test_only_what_is_allowed_is_drawn_with_the_same_odds():
    pairs = [(values["depth"], values["width"]) for values in SAMPLES]
    allowed = [(d, w) for d in range(1, 5) for w in (16, 32, 48) if d * w <= 64]
    assert set(pairs) == set(allowed)
    # by rejection each of the 7 is as likely: 300 / 7 = 43 with a standard deviation of 6
    assert all(25 <= pairs.count(one) <= 61 for one in allowed)


def test_where_sees_the_configuration_that_the_sweep_changes():
    narrow = Space(Config, {"depth": Int(1, 4)}, where=fits)
    rng = np.random.default_rng(0)
    around = narrow.around(Config(width=32))
    assert {around.sample(rng)["depth"] for _ in range(50)} == {1, 2}
    assert [values["depth"] for values in around.grid(9)] == [1, 2]
    assert {narrow.sample(rng)["depth"] for _ in range(50)} == {1, 2, 3, 4}
    assert narrow.around(Config()) == narrow


@pytest.mark.parametrize("name", ["random", "grid", "sobol", "tpe", "cmaes"])
def test_every_search_obeys(name):
    search, history = searcher(name, SPACE, seed=1, points=3), []
    for round in range(3):
        asked = search.ask(8, round, history)
        assert len(asked) == 8
        for values in asked:
            quick.check(SPACE, values)
            assert SPACE.allows(values)
        assert asked == search.ask(8, round, history)
        history += [Observation(values, float(len(str(values))), round) for values in asked]
    if name in ("random", "grid", "sobol"):
        whole = searcher(name, SPACE, seed=1, points=3).ask(24, 0, [])
        assert whole == [one.values for one in history]


def test_the_grid_of_conditions_is_counted():
    # by hand: dropout has 3 of 6 points if the depth is 2 or more
    space = Space(Config, {"depth": Int(1, 4), "dropout": SPACE.paths["dropout"]})
    assert space.grid_size(3) == len(list(space.grid(3))) == 2 * 3 + 1
    # of the conditions on what does not count, both cases do
    assert space.grid_size(3, ["dropout"]) == 3 + 1
    whole = dataclasses.replace(SPACE, where=())
    assert whole.grid_size(2) == len(list(whole.grid(2)))


def test_a_population_stays_in_what_is_allowed():
    rng = np.random.default_rng(0)
    for values in SAMPLES[:50]:
        near = perturbed(SPACE, values, rng)
        quick.check(SPACE, near)
        assert SPACE.allows(near)


def test_a_condition_may_be_traced():
    def traced(depth, dropout):
        config = SPACE.configured(Config(), {"depth": depth, "dropout": dropout})
        return config.depth * config.dropout

    assert jax.jit(traced)(2, 0.25) == 0.5


def test_constraints_and_conditions_keep_numbers_traced():
    def slow(config):
        return config.optimizer.learning_rate * config.optimizer.momentum < 0.1

    space = Space(quick.Config, {
        "optimizer.learning_rate": LogNormal(-3.0, 1.0),
        "optimizer.momentum": When("optimizer.learning_rate", LogUniform(1e-3, 0.2),
                                   Uniform(0.5, 0.9, step=0.1)),
    }, where=slow)  # fmt: skip
    found = traced_or_static(quick.experiment(space), quick.Config())
    assert found == dict.fromkeys(space.dimensions, "traced")


def test_a_space_comes_back_from_its_rows_and_its_trials_from_a_ledger(tmp_path):
    rows = json.loads(json.dumps(SPACE.to_plain()))
    again = Space.from_plain(Config, rows, where=fits)
    assert again.to_plain() == SPACE.to_plain()
    assert set(again.dimensions.items()) == set(SPACE.dimensions.items())
    with Ledger.create(tmp_path, {}) as ledger:
        ledger.ask(0, 0, [(values, None) for values in SAMPLES[:50]])
        assert [trial.values for trial in ledger.trials()] == SAMPLES[:50]
    nested = Space(Config, {"optimizer": Branch(AdamW={}, SGD={"momentum": Grid(0.5, 0.9)})})
    assert Space.from_plain(Config, nested.to_plain()) == nested


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Space(Config, {"dropout": When("dept", 2, Uniform(0, 1)), "depth": Int(1, 4)}),
            "the conditions in the space of Config cannot hold: "
            "dropout is swept when 'dept' has some value, but the space has no 'dept'; did you "
            "mean 'depth'?",
        ),
        (
            lambda: Space(Config, {"dropout": When("depth", 7, Uniform(0, 1)), "depth": Int(1, 4)}),
            "the conditions in the space of Config cannot hold: "
            "dropout is swept when depth is 7, which is not a value of it: it is 1 .. 4, whole "
            "numbers",
        ),
        (
            lambda: Space(Config, {"dropout": When("depth", Int(5, 9), Uniform(0, 1)),
                                   "depth": Int(1, 4)}),
            "the conditions in the space of Config cannot hold: "
            "dropout is swept when depth is 5 .. 9, whole numbers, which it never is: it is 1 .. "
            "4, whole numbers",
        ),
        (
            lambda: Space(Config, {"depth": When("width", 16, Int(1, 2)),
                                   "width": When("depth", 1, Choice(16, 32))}),
            "the conditions in the space of Config cannot hold: "
            "those of depth, width depend on each other",
        ),
        (
            lambda: Space(Config, {"depth": Int(1, 4), "width": When("depth", Int(1, 2), When(
                "depth", Int(2, 3), Int(1, 2)))}),
            "the conditions in the space of Config cannot hold: "
            "width has two conditions on depth; write one: it is 1 .. 4, whole numbers",
        ),
        (
            lambda: When("depth", 1, 0.5),  # type: ignore[arg-type]
            "When('depth', Choice(1), 0.5): the last argument must be a dimension or a Branch; "
            'write When("model.depth", Int(2, 4), Uniform(0.0, 0.5))',
        ),
        (
            lambda: next(Space(Config, {"depth": Int(1, 4)}, where=lambda c: c.depth > 9).allowed(
                itertools.repeat({"depth": 1}))),
            "where=<lambda> allows none of 10000 configurations drawn from the space; allow more, "
            "or sweep narrower ranges",
        ),
        (
            lambda: Space(Config, {"depth": Int(1, 4)}, where="depth < 3"),
            "Space.where must be a function of the configuration, or a tuple of them, got 'depth "
            "< 3'; write Space(Config, {...}, where=lambda config: config.model.width < 512)",
        ),
        (
            lambda: Space(Config, {"depth": Int(1, 4)}, where=lambda c: 1).allows({"depth": 1}),
            "the result of where=<lambda> must be True or False, got 1",
        ),
    ],
)  # fmt: skip
def test_what_cannot_hold_is_refused(make, message):
    with pytest.raises((ValueError, TypeError)) as error:
        make()
    assert str(error.value) == message
