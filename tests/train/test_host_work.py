"""How much Python runs for each step and for each record: calls are counted, since times vary.

A short step takes 40 us and a short epoch 1 ms; a hundred calls take about 10 us.
"""

import sys

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from jaxnn import train

KEY = jax.random.key(0)
X, Y = jnp.ones((8, 3)), jnp.ones(8)
PROGRAM = train.Supervised(nn.Dense(1), train.Regression(), optax.adam(1e-3))


def calls(function):
    """The calls of Python and C functions, also of those that these call."""
    count = 0

    def noted(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(noted)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_a_step_adds_few_calls_to_a_jitted_function():
    step, state = train.make_step(PROGRAM), PROGRAM.init(KEY, (X, Y))
    state, _ = step(state, (X, Y))
    plain = jax.jit(lambda a, b: a)
    plain(X, Y)
    assert calls(lambda: step(state, (X, Y))) - calls(lambda: plain(X, Y)) <= 20


def test_a_record_takes_few_calls():
    def run(records, hooks=()):
        train.fit(
            PROGRAM, (X, Y), key=KEY, epochs=records, batch_size=4, progress=False, hooks=hooks
        )

    run(3)
    bare = (calls(lambda: run(60)) - calls(lambda: run(20))) / 40
    assert bare <= 270
    hooks = [train.EarlyStopping("loss", patience=100), lambda event: None]
    watched = (calls(lambda: run(60, hooks)) - calls(lambda: run(20, hooks))) / 40
    assert watched - bare <= 75
