"""How many steps a dispatch takes, by operations counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxnn.train.steps import steps_at_once

A = jnp.ones((100, 100))  # a product of two has 2e6 operations: 0.4 ms at 5e9 a second


def jaxpr(step, count=1):
    def steps(a):
        return lax.scan(lambda a, _: (step(a), None), a, length=count)[0]

    return jax.make_jaxpr(steps)(A).jaxpr


@pytest.mark.parametrize("count", [1, 10])
def test_fewer_steps_if_each_is_long(count):
    found = steps_at_once(jaxpr(lambda a: a @ a, count), count, 100_000, None)
    assert 4800 < found <= 5000  # 2 s / 0.4 ms
    tens = steps_at_once(
        jaxpr(lambda a: lax.fori_loop(0, 10, lambda _, a: a @ a, a)), 1, 10**5, None
    )
    assert 450 < tens <= 500


def test_many_small_equations_count():
    def step(a):
        return lax.fori_loop(0, 1000, lambda _, a: a + 1, a[:1, :1]) + a

    assert steps_at_once(jaxpr(step), 1, 100_000, None) <= 2 / 1000e-6


def test_short_steps_are_not_limited():
    assert steps_at_once(jaxpr(lambda a: a + 1), 1, 1000, None) == 1000


def test_dispatches_divide_an_epoch():
    product = jaxpr(lambda a: a @ a)  # 5,000 steps at most
    assert steps_at_once(product, 1, 10_000, 10_000) == 2500
    assert 4800 < steps_at_once(product, 1, 9973, 9973) <= 5000  # a prime number


def test_convolutions_are_not_looped_over_on_a_cpu():
    kernel = jnp.ones((1, 1, 3, 3))

    def step(a):
        return lax.conv(a[None, None], kernel, (1, 1), "SAME")[0, 0]

    for count in (1, 2):
        assert steps_at_once(jaxpr(step, count), count, 1000, None) == 1
