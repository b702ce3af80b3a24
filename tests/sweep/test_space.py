"""Spaces: every point of the unit cube is a trial and back; what does not fit is refused."""

import dataclasses
import json
import math
import re
from typing import Literal

import jax
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from jaxnn.experiment import SGD, AdamW
from jaxnn.fields import is_traced
from jaxnn.models import MLP
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
)
from tests.sweep import quick


@dataclasses.dataclass(frozen=True)
class Shift:
    pixels: int = 2


@dataclasses.dataclass(frozen=True)
class Bare:
    rate: float


@dataclasses.dataclass(frozen=True)
class Config:
    model: MLP = MLP()  # noqa: RUF009, frozen
    optimizer: AdamW | SGD = SGD(momentum=0.5)  # noqa: RUF009, frozen
    shift: Shift | None = None
    bare: Bare | Shift = Shift()
    activation: Literal["relu", "tanh"] = "relu"
    epochs: int = 10
    balanced: bool = False


OPTIMIZER = Branch(
    AdamW={"learning_rate": LogUniform(1e-4, 1e-1), "weight_decay": Grid(0.0, 1e-4, 1e-2)},
    SGD={"learning_rate": LogUniform(1e-3, 1.0)},
)
SPACE = Space(
    Config,
    {
        "optimizer": OPTIMIZER,
        "model.dropout": Uniform(0.0, 0.5),
        "model.width": Int(8, 128, log=True),
        "shift": Branch(Shift={"pixels": Int(0, 3)}, **{"None": {}}),
        "activation": Choice("relu", "tanh"),
    },
)
NAMES = [
    "optimizer",
    "optimizer:adamw.learning_rate",
    "optimizer:adamw.weight_decay",
    "optimizer:sgd.learning_rate",
    "model.dropout",
    "model.width",
    "shift",
    "shift:shift.pixels",
    "activation",
]

finite = st.floats(-1e300, 1e300)
uniforms = st.tuples(finite, finite).filter(lambda r: r[0] < r[1]).map(lambda r: Uniform(*r))
logs = st.tuples(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
logs = logs.filter(lambda r: r[0] < r[1]).map(lambda r: LogUniform(*r))
ints = st.tuples(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.just(False))
log_ints = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.just(True))
whole = (ints | log_ints).map(lambda r: Int(r[0], r[0] + r[1], r[2]))
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3)
choices = st.lists(scalars, min_size=1, unique_by=lambda o: (type(o), o)).map(lambda o: Choice(*o))
grids = st.lists(st.floats(-9, 9), min_size=1, unique=True).map(lambda o: Grid(*sorted(o)))
units = st.floats(0, 1, exclude_max=True)
small = st.floats(-9, 9)
stepped = st.tuples(small, st.integers(2, 40), st.sampled_from([0.1, 0.25, 0.3, 1.0, 1e-3]))
stepped = stepped.map(lambda r: Uniform(r[0], r[0] + r[1] * r[2], step=r[2]))
strides = st.tuples(st.integers(3, 99), st.integers(9, 99), st.integers(2, 5), st.booleans())
strides = strides.map(lambda r: Int(r[0], r[0] + r[1], r[3], step=r[2]))
tuples = st.lists(st.tuples(st.integers(0, 3), st.text(max_size=1)), min_size=2, unique=True)
weighted = tuples.flatmap(
    lambda options: st.lists(st.floats(0.01, 9), min_size=len(options), max_size=len(options)).map(
        lambda weights: Choice(*options, weights=weights)
    )
)
priors = st.tuples(small, st.floats(0.01, 9), st.sampled_from([Normal, LogNormal]))
priors = priors.map(lambda r: r[2](r[0], r[1]))


@example(Uniform(-0.3979277957174343, -0.3979277957174343 + 2 * 0.25, step=0.25), 0.75)
@given(uniforms | logs | whole | choices | grids | stepped | strides | weighted | priors, units)
def test_every_point_of_the_unit_line_is_a_value(dimension, u):
    assert dimension.has(dimension.at(u))


@given(whole | choices | grids | stepped | strides | weighted, units, st.floats(0.001, 0.999))
def test_a_discrete_value_comes_back_from_anywhere_in_its_share(dimension, u, within):
    value = dimension.at(u)
    back = dimension.at(dimension.unit(value, within))
    assert (type(back), back) == (type(value), value)


@given(st.floats(-9, 9), st.floats(1, 9), units)
def test_a_float_comes_back_from_the_unit_line(low, width, u):
    for dimension in (Uniform(low, low + width), LogUniform(math.exp(low), math.exp(low + width))):
        # u may be lost to a few roundings of numbers of the size of the ends
        assert dimension.unit(dimension.at(u)) == pytest.approx(u, abs=1e-13)


@given(uniforms | logs | whole | choices | grids, st.integers(1, 9))
def test_a_grid_is_of_values_each_once_with_both_ends(dimension, points):
    grid = dimension.grid(points)
    assert all(dimension.has(value) for value in grid)
    assert len({(type(value), value) for value in grid}) == len(grid) or points > 2
    if isinstance(dimension, Choice | Grid):
        assert tuple(grid) == dimension.options
    elif points > 1:
        assert (grid[0], grid[-1]) == (dimension.low, dimension.high)


def test_the_laws_of_chance():
    u = (np.arange(6000) + 0.5) / 6000
    thirds = [Int(1, 3).at(one) for one in u]
    assert [thirds.count(n) for n in (1, 2, 3)] == [2000, 2000, 2000]
    decades = np.array([LogUniform(1e-3, 1.0).at(one) for one in u])
    assert [int(np.sum(decades < edge)) for edge in (1e-2, 1e-1)] == [2000, 4000]
    # each number is as likely as its stretch is long: [1/2, 3/2] is log 3 of log 7
    ones = [Int(1, 3, log=True).at(one) for one in u].count(1)
    assert ones / 6000 == pytest.approx(math.log(3) / math.log(7), abs=1 / 6000)


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (
            Uniform(0.0, 1.0, step=0.3),
            [0.0, 0.3, 0.6, 0.9],
        ),  # as range: what lies beyond is left out
        (Uniform(0.1, 0.5, step=0.1), [0.1, 0.2, 0.3, 0.4, 0.5]),  # not 0.30000000000000004
        (Int(32, 100, step=32), [32, 64, 96]),
    ],
)
def test_steps_are_equally_likely_and_exact_decimals(dimension, expected):
    found = [dimension.at((i + 0.5) / (12 * len(expected))) for i in range(12 * len(expected))]
    assert found == [value for value in expected for _ in range(12)]
    assert dimension.grid(99) == expected
    assert not dimension.has(expected[1] + (expected[1] - expected[0]) / 2)
    assert dimension.nearest(-9) == expected[0]
    assert dimension.nearest(999) == expected[-1]


@pytest.mark.parametrize(
    ("dimension", "law"),
    [
        (Uniform(-1.0, 3.0), stats.uniform(-1, 4)),
        (LogUniform(1e-4, 1e-1), stats.loguniform(1e-4, 1e-1)),
        (Normal(2.0, 0.5), stats.norm(2, 0.5)),
        (LogNormal(math.log(1e-3), 1.5), stats.lognorm(1.5, scale=1e-3)),
    ],
)
def test_a_distribution_is_that_of_scipy(dimension, law):
    u = (np.arange(999) + 0.5) / 999
    values = np.array([dimension.at(one) for one in u])
    np.testing.assert_allclose(values, law.ppf(u), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose([dimension.unit(x) for x in values], law.cdf(values), rtol=1e-9)


def test_options_are_as_likely_as_their_weights():
    choice = Choice("a", (1, 2), None, weights=(3, 1, 0.5))
    found = [choice.at((i + 0.5) / 4500) for i in range(4500)]
    assert [found.count(one) for one in choice.options] == [3000, 1000, 500]
    # with steps on a log scale a number is as likely as its stretch is long: [48, 80] of [16, 144]
    numbers = Int(32, 128, log=True, step=32)
    found = [numbers.at((i + 0.5) / 6000) for i in range(6000)]
    share = math.log(80 / 48) / math.log(144 / 16)
    assert found.count(64) / 6000 == pytest.approx(share, abs=1 / 6000)


def test_names_are_as_the_command_line_says_them():
    assert list(SPACE.dimensions) == NAMES


@given(st.integers(0, 2**32))
def test_a_sample_has_the_names_of_its_branches_and_passes_the_check(seed):
    values = SPACE.sample(np.random.default_rng(seed))
    quick.check(SPACE, values)
    assert list(values) == [n for n in SPACE.dimensions if SPACE.active(n, values)]
    adamw = values["optimizer"] == "AdamW"
    assert SPACE.active("optimizer:adamw.weight_decay", values) == adamw
    assert ("optimizer:sgd.learning_rate" in values) == (not adamw)
    assert values == SPACE.sample(np.random.default_rng(seed))
    assert json.loads(json.dumps(values)) == values


@given(st.integers(0, 2**32))
def test_a_trial_comes_back_from_the_unit_cube(seed):
    rng = np.random.default_rng(seed)
    values = SPACE.sample(rng)
    back = SPACE.from_unit(SPACE.to_unit(values, rng))
    assert back.keys() == values.keys()
    for name, value in values.items():
        # logarithm and power of a float lose a few roundings
        assert back[name] == (pytest.approx(value, rel=1e-13) if type(value) is float else value)


@given(st.integers(0, 2**32))
def test_what_is_configured_is_read_back(seed):
    values = SPACE.sample(np.random.default_rng(seed))
    config = SPACE.configured(Config(), values)
    assert type(config.optimizer).__name__ == values["optimizer"]
    rate = values[f"optimizer:{values['optimizer'].lower()}.learning_rate"]
    assert config.optimizer.learning_rate == rate
    assert (config.model.dropout, config.model.width) == (
        values["model.dropout"],
        values["model.width"],
    )
    assert config.activation == values["activation"]
    pixels = None if config.shift is None else config.shift.pixels
    assert pixels == values.get("shift:shift.pixels")
    assert dataclasses.replace(config, model=MLP(), optimizer=SGD(), shift=None) == (
        dataclasses.replace(Config(), optimizer=SGD(), activation=values["activation"])
    )


def test_a_class_that_the_configuration_has_keeps_its_other_fields():
    values = {"optimizer": "SGD", "optimizer:sgd.learning_rate": 0.25}
    assert SPACE.configured(Config(), values).optimizer == SGD(0.25, momentum=0.5)
    values = {"optimizer": "AdamW", "optimizer:adamw.learning_rate": 0.25}
    assert SPACE.configured(Config(), values).optimizer == AdamW(0.25)


def test_values_may_be_tracers():
    def rate(value):
        config = SPACE.configured(Config(), {"model.dropout": value})
        assert is_traced(config.model.dropout)
        return config.model.dropout * 2

    assert jax.jit(rate)(0.25) == 0.5


def test_branches_nest_and_a_shared_field_of_a_union_needs_none():
    @dataclasses.dataclass(frozen=True)
    class Outer:
        inner: Config | SGD = Config()

    space = Space(Outer, {"inner": Branch(Config={"optimizer": OPTIMIZER}, SGD={})})
    name = "inner:config.optimizer:adamw.learning_rate"
    values = {"inner": "Config", "inner:config.optimizer": "AdamW", name: 0.01}
    assert space.active(name, values)
    assert not space.active(name, {**values, "inner": "SGD"})
    assert space.configured(Outer(SGD()), values).inner.optimizer == AdamW(0.01)
    assert len(list(space.grid(2))) == 2 * 3 + 2 + 1
    shared = Space(Config, {"optimizer.learning_rate": LogUniform(0.1, 1.0)})
    assert shared.configured(Config(), {"optimizer.learning_rate": 0.2}).optimizer.momentum == 0.5


@given(st.integers(1, 4))
def test_a_grid_is_the_product_of_its_branches(points):
    trials = list(SPACE.grid(points))
    p = points
    pixels = min(points, 4)
    assert len(trials) == (p * 3 + p) * p * p * (pixels + 1) * 2
    assert len({json.dumps(values) for values in trials}) == len(trials)
    assert [values["activation"] for values in trials[:3]] == ["relu", "tanh", "relu"]


def test_rows_and_lines():
    rows = {row["name"]: row for row in json.loads(json.dumps(SPACE.to_plain()))}
    assert list(rows) == NAMES
    assert rows["model.width"] == {
        "name": "model.width", "kind": "int", "low": 8, "high": 128, "log": True, "when": {},
    }  # fmt: skip
    assert rows["optimizer:adamw.weight_decay"]["options"] == [0.0, 1e-4, 1e-2]
    assert rows["optimizer:adamw.weight_decay"]["when"] == {"optimizer": "AdamW"}
    assert [SPACE.dimensions[n].log for n in ("model.width", "model.dropout")] == [True, False]
    lines = dict(re.split(r" {2,}", line) for line in str(SPACE).splitlines())
    assert lines["optimizer:sgd.learning_rate"] == "0.001 .. 1, log"
    assert lines["activation"] == "relu, tanh"


def test_a_space_is_a_value():
    again = Space(Config, dict(SPACE.paths))
    assert again == SPACE
    assert hash(again) == hash(SPACE)
    assert Space(Config, {"epochs": Int(1, 3)}) != Space(Config, {"epochs": Int(1, 4)})
    for dimension in (*SPACE.dimensions.values(), OPTIMIZER):
        assert repr(eval(repr(dimension))) == repr(dimension)
    assert Choice(*np.array([1, 2])) == Choice(1, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Uniform(0.5, 0.0),
            "Uniform(low=0.5, high=0.0): low must be less than high; write Uniform(0.0, 0.5)",
        ),
        (
            lambda: Int(3, 1),
            "Int(low=3, high=1, log=False): low must be less than high; write Int(1, 3)",
        ),
        (
            lambda: LogUniform(0.1, 0.1),
            "LogUniform(low=0.1, high=0.1): there is only one value; write Choice(0.1)",
        ),
        (
            lambda: LogUniform(0, 1),
            "LogUniform(low=0.0, high=1.0): the low end on a log scale must be > 0; write "
            "LogUniform from a number > 0, or Uniform(0.0, 1.0)",
        ),
        (
            lambda: Int(0, 9, log=True),
            "Int(low=0, high=9, log=True): the low end on a log scale must be > 0; write Int from "
            "a number > 0, or Int(0, 9)",
        ),
        (
            lambda: Int(0.5, 9),  # type: ignore[arg-type]
            "Int(low=0.5, high=9, log=False): the ends of Int must be ints, got 0.5",
        ),
        (
            lambda: Uniform(0, math.inf),
            "Uniform(low=0.0, high=inf): the ends of Uniform must be finite numbers, got inf",
        ),
        (
            lambda: Uniform("0", 1),  # type: ignore[arg-type]
            "Uniform(low='0', high=1.0): the ends of Uniform must be finite numbers, got '0'",
        ),
        (lambda: Choice(), "Choice(): it needs an option; write Choice(64, 128)"),
        (lambda: Choice(1, 2, 1), "Choice(1, 2, 1): the option 1 is there twice"),
        (
            lambda: Choice("a", "\ud800"),
            r"Choice('a', '\ud800'): the option '\ud800' has a lone surrogate, which no file "
            "can hold",
        ),
        (
            lambda: Choice((1, [2])),
            "Choice((1, [2])): an option must be a number, a text, True, False, None, or a tuple "
            "of these, got [2]",
        ),
        (
            lambda: Choice((1, 2), (1, 2)),
            "Choice((1, 2), (1, 2)): the option (1, 2) is there twice",
        ),
        (
            lambda: Choice("a", "b", weights=(1, 0)),
            "Choice('a', 'b', weights=(1, 0)): weights must be 2 finite numbers > 0, one for each "
            "option, got (1, 0)",
        ),
        (
            lambda: Choice("a", weights=3),
            "Choice('a', weights=3): weights must be 1 finite numbers > 0, one for each option, "
            "got 3",
        ),
        (
            lambda: Uniform(0, 1, step=0),
            "Uniform(low=0.0, high=1.0, step=0.0): the step must be a number > 0, got 0.0",
        ),
        (
            lambda: Int(1, 9, step=0.5),  # type: ignore[arg-type]
            "Int(low=1, high=9, log=False, step=0.5): the step must be an int > 0, got 0.5",
        ),
        (
            lambda: Uniform(0, 1, step=2),
            "Uniform(low=0.0, high=1.0, step=2.0): the step leaves only one value; write a step of "
            "at most 1.0",
        ),
        (
            lambda: Int(2, 9, log=True, step=4),
            "Int(low=2, high=9, log=True, step=4): on a log scale the step must be less than 2 * "
            "low = 4; write a smaller step, or Int(2, 9, step=4)",
        ),
        (
            lambda: Normal(0, 0),
            "Normal(mean=0.0, std=0.0): std must be > 0; write Choice(0.0) for one value",
        ),
        (
            lambda: Normal("0", 1),  # type: ignore[arg-type]
            "Normal(mean='0', std=1.0): mean and std must be finite numbers, got '0'",
        ),
        (
            lambda: LogNormal(1000, 1),
            "LogNormal(mean=1000.0, std=1.0): some values overflow: mean and std are those of the "
            "natural logarithm; write LogNormal(math.log(1e-3), 1.0)",
        ),
        (lambda: Grid(), "Grid(): it needs an option; write Grid(0.1, 0.3, 1.0)"),
        (lambda: Grid(3, 1, 1), "Grid(3, 1, 1): the numbers must increase; write Grid(1, 3)"),
        (
            lambda: Grid("a"),  # type: ignore[arg-type]
            "Grid('a'): the numbers must be finite, got 'a'; write Choice for other options",
        ),
        (lambda: Branch(), "Branch(): it needs a class; write Branch(AdamW={...}, SGD={...})"),
    ],
)
def test_a_dimension_that_says_nothing_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            {},
            "Space.paths must be a dimension for each path, at least one, got {}; write "
            "Space(Config, "
            '{"optimizer.learning_rate": LogUniform(1e-4, 1e-1)})',
        ),
        (
            {"optimiser.learning_rate": LogUniform(0.1, 1)},
            "Config has no field 'optimiser', which the space sweeps as "
            "'optimiser.learning_rate'; did you mean 'optimizer'?",
        ),
        (
            {"model.x": Int(1, 2)},
            "model (MLP) has no field 'x', which the space sweeps as 'model.x'; known "
            "are 'depth', 'dropout', 'width'",
        ),
        (
            {"epochs.x": Int(1, 2)},
            "epochs (int) has no field 'x', which the space sweeps as 'epochs.x'; there are none",
        ),
        (
            {"optimizer.momentum": Uniform(0, 1)},
            "optimizer is AdamW | SGD, and AdamW has no 'momentum'; write \"optimizer\": "
            'Branch(SGD={"momentum": ...}, AdamW={})',
        ),
        (
            {"shift.pixels": Int(0, 2)},
            "shift is Shift | None, and None has no 'pixels'; write \"shift\": "
            'Branch(Shift={"pixels": ...}, **{"None": {}})',
        ),
        (
            {"optimizer": Branch(AdamV={})},
            "optimizer is AdamW | SGD, but Branch names 'AdamV'; did you mean 'AdamW'?",
        ),
        (
            {"optimizer": Branch(SGD={"momentun": Uniform(0, 1)})},
            "SGD has no field 'momentun', which the space sweeps as "
            "'optimizer:sgd.momentun'; did you mean 'momentum'?",
        ),
        ({"epochs": Branch(A={})}, "epochs is int, but Branch names 'A'; there are none"),
        (
            {"bare": Branch(Bare={})},
            "Branch cannot choose between the classes of bare: Bare starts from its defaults, and "
            "'rate' has none: write one",
        ),
        (
            {"optimizer": OPTIMIZER, "optimizer.learning_rate": LogUniform(0.1, 1)},
            "'optimizer' is swept whole and inside, as 'optimizer.learning_rate'; write "
            "'optimizer': Branch(...) with all that is swept inside",
        ),
        (
            {"model.width": Uniform(8, 64)},
            "Uniform(low=8.0, high=64.0) does not fit: model.width is 8.0, expected int; "
            "write Int(8, 64)",
        ),
        (
            {"model.dropout": Choice("a")},
            "Choice('a') does not fit: model.dropout is 'a', expected float",
        ),
        (
            {"activation": Choice("relu", "gelu")},
            "Choice('relu', 'gelu') does not fit: activation is 'gelu', expected 'relu' or 'tanh'",
        ),
        (
            {"model": Choice(1, 2)},
            "Choice(1, 2) does not fit: model is 1, expected MLP; write Branch(...) "
            "for a choice of classes",
        ),
        (
            {"epochs": [1, 2]},
            "epochs must be Uniform, LogUniform, Int, Normal, LogNormal, Choice, Grid, Branch, or "
            "When, got [1, 2]",
        ),
    ],
)
def test_a_space_that_does_not_fit_is_refused(paths, message):
    with pytest.raises(ValueError) as error:
        Space(Config, paths)
    assert str(error.value) == message


def test_classes_whose_names_are_one_in_a_dimension_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Sgd:
        rate: float = 0.1

    @dataclasses.dataclass(frozen=True)
    class Two:
        optimizer: SGD | Sgd = Sgd()

    with pytest.raises(ValueError) as error:
        Space(Two, {"optimizer": Branch(SGD={}, Sgd={"rate": Uniform(0, 1)})})
    assert str(error.value) == (
        "Branch cannot choose between the classes of optimizer: two of SGD | Sgd are optimizer:sgd "
        "in the names of dimensions: rename one"
    )


def test_a_space_is_of_a_dataclass():
    with pytest.raises(ValueError, match=r"Space\.config must be a dataclass, got 3; write Space"):
        Space(3, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epohcs": 3}, "the space of Config has no 'epohcs'; did you mean 'epochs'?"),
        ({"optimizer": "Adam", "epochs": 2}, "optimizer must be 'AdamW' or 'SGD', got 'Adam'"),
        (
            {"optimizer": "SGD", "optimizer:adamw.weight_decay": 0.1},
            "optimizer:adamw.weight_decay is swept only if optimizer is AdamW; got "
            "{'optimizer': 'SGD', 'optimizer:adamw.weight_decay': 0.1}",
        ),
    ],
)
def test_values_that_the_space_does_not_have_are_rejected(values, message):
    branch = Branch(AdamW={"weight_decay": Uniform(0, 1)}, SGD={})
    space = Space(Config, {"optimizer": branch, "epochs": Int(1, 3)})
    with pytest.raises(ValueError) as error:
        space.configured(Config(), values)
    assert str(error.value) == message


def test_a_point_of_another_cube_and_an_empty_grid_are_refused():
    with pytest.raises(ValueError, match=r"numbers, one for each dimension, got \[0.1, 0.2\]"):
        SPACE.from_unit([0.1, 0.2])
    with pytest.raises(ValueError, match="points must be an int >= 1, got 0"):
        SPACE.grid(0)
