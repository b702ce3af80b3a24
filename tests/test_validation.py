"""Fields and arguments accept what their declaration states, and raise the stated error."""
# The mistakes are made on purpose:
# pyright: reportArgumentType=false

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import validation
from jaxnn.validation import Accepts, check_fields, each, fraction, integer, one_of, positive


class Thing(nn.Primitive):
    size: Annotated[int, positive]
    rate: Annotated[float, fraction] = 0.5
    name: Annotated[str | None, one_of("a", "b", None)] = None
    fast: bool = False
    kind: Literal["one", "two"] = "one"
    sizes: Annotated[int | tuple[int, ...], each(positive, "sizes >= 1", (2, 3))] = 1

    def forward(self, params, x):
        return x * self.rate


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Thing(0), ValueError, "Thing.size must be an int >= 1, got 0"),
        (lambda: Thing(True), ValueError, "Thing.size must be an int >= 1, got True"),
        (lambda: Thing(2.0), ValueError, "Thing.size must be an int >= 1, got 2.0"),
        (lambda: Thing(1, 1.5), ValueError, "Thing.rate must be a number from 0 to 1, got 1.5"),
        (lambda: Thing(1, float("nan")), ValueError, "a number from 0 to 1, got nan"),
        (lambda: Thing(1, name="c"), ValueError, "Thing.name must be 'a', 'b', or None, got 'c'"),
        (lambda: Thing(1, fast=1), TypeError, "Thing.fast must be True or False, got 1"),
        (lambda: Thing(1, fast=None), TypeError, "Thing.fast must be True or False, got None"),
        (lambda: Thing(1, kind="six"), ValueError, "Thing.kind must be 'one' or 'two', got 'six'"),
        (lambda: Thing(1, sizes=0), ValueError, "Thing.sizes must be sizes >= 1, got 0"),
        (lambda: Thing(1, sizes=()), ValueError, "Thing.sizes must be sizes >= 1, got ()"),
        (lambda: Thing(1, sizes=(1,) * 4), ValueError, "sizes >= 1, got (1, 1, 1, 1)"),
        (lambda: Thing(1, sizes=(2, 0)), ValueError, "Thing.sizes must be sizes >= 1, got (2, 0)"),
    ],
)
def test_a_field_that_is_not_accepted_raises(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)


def test_accepted_fields_and_numpy_numbers_pass():
    assert Thing(np.int64(3), np.float32(1), "a", np.bool_(True)) == Thing(3, 1.0, "a", True)


def test_a_traced_rate_is_accepted_and_a_traced_size_is_not():
    x = jnp.ones(2)
    y = jax.jit(lambda rate: Thing(1, rate).apply({}, x))(0.25)
    np.testing.assert_array_equal(y, [0.25, 0.25])
    with pytest.raises(TypeError, match=r"Thing.size is the traced number .* static_argnums"):
        jax.jit(lambda n: Thing(n).apply({}, x))(3)
    with pytest.raises(TypeError, match=r"Thing.sizes holds the traced number .* static_argnums"):
        jax.jit(lambda n: Thing(1, sizes=(n, 2)).apply({}, x))(3)


def test_a_subclass_can_restate_what_a_field_accepts():
    class Even(Thing):
        size: Annotated[int, Accepts("an even int", lambda v: v % 2 == 0)]

    assert Even(2).size == 2
    with pytest.raises(ValueError, match=r"Even.size must be an even int, got 3"):
        Even(3)


def test_any_dataclass_can_check_its_fields():
    @dataclasses.dataclass
    class Settings:
        trials: Annotated[int, integer(1, 10).such(hint="write {owner}({name}=5)")]

        def __post_init__(self):
            check_fields(self)

    with pytest.raises(ValueError) as caught:
        Settings(11)
    assert str(caught.value) == (
        "Settings.trials must be an int from 1 to 10, got 11; write Settings(trials=5)"
    )


def test_none_or_something_and_tuples():
    optional, sizes = None | positive, each(positive, "an int >= 1 or a tuple of them")
    assert optional(None, "n") is None and optional(2, "n") == 2 and sizes((1, 2), "n") == (1, 2)
    with pytest.raises(ValueError, match="n must be None or an int >= 1, got 0"):
        optional(0, "n")
    for wrong in ((), (1, 0), 0):
        with pytest.raises(ValueError, match="n must be an int >= 1 or a tuple of them, got"):
            sizes(wrong, "n")


@pytest.mark.parametrize(
    ("accepts", "good", "bad"),
    [
        (validation.natural, (0, 7), (-1, 0.0, True, "1")),
        (validation.number(0), (0, 0.5, float("inf")), (-0.1, True, "0", float("nan"))),
        (validation.above(0), (1e-9, 3), (0, -1, True)),
        (one_of(1, "x"), (1, "x"), (1.0, True, "y")),
        (validation.instance(dict, "a dict"), ({},), ([], None)),
        (validation.function, (len, jax.nn.relu), (3, None)),
    ],
)
def test_what_each_accepts(accepts, good, bad):
    for value in good:
        assert accepts(value, "n") is value
    for value in bad:
        with pytest.raises(accepts.error, match="n must be"):
            accepts(value, "n")
