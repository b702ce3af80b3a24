"""Compiled programs are kept while they are used, so a process that fits many does not grow."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train
from jaxnn.train.step import KEPT, remembered

pytestmark = pytest.mark.usefixtures("programs_not_kept")

PROGRAM = """
import gc, json, os, sys
import jax, jax.numpy as jnp
from jaxnn import train

class Power(train.Program):
    n: int
    def init(self, key, batch):
        return jnp.float32(1)
    def step(self, state, batch):
        return state * self.n / 2, {"loss": state}

def fit(n):
    train.fit(Power(n), key=jax.random.key(0), steps=4, progress=False)

def by_hand(n):
    step = lambda state, _: (state * n / 2, state)
    jax.block_until_ready(jax.jit(lambda s: jax.lax.scan(step, s, length=4))(jnp.float32(1)))

found = []
for n in range(1, 301):
    {"fit": fit, "by_hand": by_hand}[sys.argv[1]](n)
    if n in (50, 300):
        gc.collect()
        pages = int(open("/proc/self/statm").read().split()[1])
        kept = len(jax.devices()[0].client.live_executables())
        found.append((kept, pages * os.sysconf("SC_PAGESIZE")))
print(json.dumps(found))
"""


class Scaled(train.Program):
    """A program for each number."""

    n: int

    def init(self, key, batch):
        return jnp.zeros(3)

    def step(self, state, batch):
        return state + self.n, {"loss": state.sum()}

    def evaluate(self, state, batch, *, key):
        return {"loss": state.sum()}


def use(n):
    """The executables that a fit and an evaluation of a program add."""
    before = executables()
    state, _ = train.fit(Scaled(n), key=jax.random.key(0), steps=4, progress=False)
    train.evaluate(Scaled(n), state)
    np.testing.assert_array_equal(state, jnp.full(3, 4.0 * n))
    gc.collect()
    return executables() - before


def executables():
    return len(jax.devices()[0].client.live_executables())


@pytest.fixture(autouse=True)
def old_objects_are_not_collected():
    """The objects of all tests before, which take seconds to look through."""
    gc.collect()
    gc.freeze()


def test_the_last_programs_are_kept_by_value():
    """One cache for compiled functions of all kinds: an older one gives way to a new one."""
    assert KEPT <= 128
    fill(KEPT)
    use(1)  # with what JAX keeps of its own
    assert use(2) == 2  # the steps and the evaluation
    assert use(2) == 0
    assert use(1) == 0
    before = executables()
    fill(KEPT - 2)
    assert executables() == before - 2
    assert use(1) == 0
    assert use(2) == 2


def test_a_compiled_step_in_use_is_shared():
    step = train.make_step(Scaled(3))
    state, _ = step(jnp.zeros(3), None)
    fill(KEPT)
    before = executables()
    state, _ = train.make_step(Scaled(3))(state, None)
    assert executables() == before
    np.testing.assert_array_equal(state, jnp.full(3, 6.0))


def fill(count):
    for i in range(count):
        remembered(lambda _: lambda: None)(i)
    gc.collect()


def grown(loop: str) -> tuple[int, float]:
    """The executables of 300 programs, and the bytes that the last 250 added."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, loop],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    (kept, before), (more, after) = json.loads(run.stdout)
    assert more <= kept
    return more, after - before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_three_hundred_programs_in_one_process():
    """`KEPT` programs are kept, with a few of JAX's own; from there on, nothing is. A loop of
    jitted functions written by hand grows by some 0.5 MB in 250 programs."""
    kept, memory = grown("fit")
    assert kept < KEPT + 16
    assert memory - grown("by_hand")[1] < 5e6
