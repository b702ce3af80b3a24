"""Configurations come back equal, or not at all."""

import dataclasses
import json
import math
import re
from typing import Any, Literal

import pytest

from jaxnn.experiment.configuration import from_plain, to_plain, to_record


@dataclasses.dataclass(frozen=True)
class Slow:
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Fast:
    rate: float = 1.0
    momentum: float | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    optimizer: Slow | Fast = Slow()
    sizes: tuple[int, ...] = (3, 4)
    pair: tuple[int, str] = (1, "a")
    activation: Literal["relu", "tanh"] = "relu"
    epochs: int = 10
    verbose: bool = False


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(optimizer=Fast(momentum=0.9), sizes=(), activation="tanh", verbose=True),
        Config(optimizer=Fast(1e-30)),
        Config(optimizer=Fast(math.inf, -math.inf)),
    ],
)
def test_a_configuration_comes_back_equal(config):
    text = json.dumps(to_plain(config), allow_nan=False)
    assert from_plain(Config, json.loads(text)) == config


def test_a_whole_number_is_a_float_where_a_float_is_wanted():
    plain = to_plain(Config()) | {"optimizer": {"type": "Slow", "rate": 1}}
    rate = from_plain(Config, plain).optimizer.rate
    assert type(rate) is float
    assert rate == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epohcs": 3}, "config (Config) has no field 'epohcs'; did you mean 'epochs'?"),
        ({"epochs": "3"}, "config.epochs is '3', expected int"),
        ({"epochs": True}, "config.epochs is True, expected int"),
        ({"epochs": 3.5}, "config.epochs is 3.5, expected int"),
        ({"activation": "relo"}, "config.activation is 'relo', expected 'relu' or 'tanh'"),
        ({"sizes": [1, None]}, "config.sizes[1] is None, expected int"),
        ({"pair": [1]}, "config.pair is [1], expected tuple[int, str]"),
        ({"optimizer": {"type": "Fats"}}, "config.optimizer has type 'Fats'; did you mean 'Fast'?"),
        ({"optimizer": {"type": "Fast", "rate": 1}}, "config.optimizer (Fast) lacks 'momentum'"),
        (
            {"optimizer": {"type": "Fast", "rate": 1, "momentum": "x"}},
            "config.optimizer.momentum is 'x', expected float or null",
        ),
        ({"optimizer": 3}, "config.optimizer is 3, expected Slow or Fast"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(change, message):
    with pytest.raises(ValueError) as caught:
        from_plain(Config, to_plain(Config()) | change)
    assert str(caught.value) == message


def test_a_number_that_is_not_one_comes_back():
    text = json.dumps(to_plain(Slow(math.nan)), allow_nan=False)
    assert math.isnan(from_plain(Slow, json.loads(text)).rate)
    with pytest.raises(
        ValueError, match=r"config.rate is {'type': 'float', 'value': 'x'}, expected"
    ):
        from_plain(Slow, {"type": "Slow", "rate": {"type": "float", "value": "x"}})


def test_what_json_cannot_hold_is_refused_when_written():
    with pytest.raises(TypeError, match="a configuration holds numbers, strings, tuples"):
        to_plain(Config(sizes={1: 2}))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Loose:
    sizes: tuple = (8, (4, 2))
    anything: Any = "text"


@pytest.mark.parametrize("anything", ["text", 3, None, True, (1, (2, "a"))])
def test_a_tuple_without_types_is_read_again(anything):
    config = Loose(anything=anything)
    assert from_plain(Loose, json.loads(json.dumps(to_record(config)))) == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Slow(rate="fast"), "config.rate is 'fast', expected float: what is recorded here could n"),  # type: ignore[arg-type]
        (Loose(anything=Slow()), "config.anything is {'type': 'Slow', 'rate': 0.1}, expected "),
    ],
)
def test_what_could_not_be_read_again_is_not_recorded(config, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        to_record(config)
