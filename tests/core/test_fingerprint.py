"""Fingerprints: equal in another process, and different wherever the numbers may be."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.fingerprint import checksum, fingerprint, fingerprint_differences

GAIN = 2.0
NAMES = frozenset({"a", "b", "c"})


def helper(x):
    return x * GAIN


class Scaled(nn.Composite):
    inner: nn.Layer
    shift = 1.0

    def forward(self, x):
        return helper(self.inner(x)) + self.shift


def closed(by):
    def scaled(x):
        return x * by if "a" in NAMES else x

    return scaled


def values():
    """What a run may be given."""
    net = nn.Sequential(Scaled(nn.Dense(2)), lambda x: x * GAIN, jax.nn.relu)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    traced = train.Optimizer(optax.sgd, learning_rate=train.Cosine(0.1, 10), momentum=0.9)
    functions = closed(3), functools.partial(helper, x=2.0), jax.jit(helper)
    return net, clipped, traced, functions, optax.contrib.muon(0.1), {3, 1, 2}, np.arange(3)


def prints():
    return [fingerprint(value) for value in values()]


def test_they_are_equal_in_another_process():
    code = f"import json; from {__name__} import prints; print(json.dumps(prints()))"
    again = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(again.stdout) == prints()


def changed(patch, name, item):
    patch.setattr(sys.modules[__name__], name, item)


CHANGES = {
    "a constant": lambda patch: changed(patch, "GAIN", 3.0),
    "a function": lambda patch: changed(patch, "helper", lambda x: x),
    "a class attribute": lambda patch: patch.setattr(Scaled, "shift", 2.0),
    "a method": lambda patch: patch.setattr(Scaled, "forward", lambda self, x: x),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_layer_refers_to_counts(monkeypatch, what):
    net = Scaled(nn.Dense(2))
    before = fingerprint(net)
    CHANGES[what](monkeypatch)
    assert fingerprint(net) != before


def test_a_closure_a_default_and_an_argument_count():
    assert fingerprint(closed(2.0)) != fingerprint(closed(3.0))
    assert fingerprint(lambda x, by=2.0: x * by) != fingerprint(lambda x, by=3.0: x * by)
    part = functools.partial
    assert fingerprint(part(helper, x=1.0)) != fingerprint(part(helper, x=2.0))
    assert fingerprint(closed(np.ones(3))) != fingerprint(closed(np.zeros(3)))


def test_a_closure_of_a_library_in_a_layer_counts():
    normal = jax.nn.initializers.normal
    nets = [nn.Dense(3, w_init=normal(by)) for by in (0.02, 0.02, 0.05)]
    prints = [fingerprint(net) for net in nets]
    assert prints[0] == prints[1] != prints[2]


def test_documentation_and_position_do_not_count():
    def one(x):
        """Double."""

        def inner(x):
            """And again."""
            return x * GAIN

        return inner(x)  # here

    def two(x):
        def inner(x):
            return x * GAIN

        return inner(x)

    for function in (one, two):
        function.__qualname__ = "f"
    told = {name: text for name, text in fingerprint(one).items() if name}
    assert told == {name: text for name, text in fingerprint(two).items() if name}


@pytest.mark.parametrize(
    "make",
    [lambda: optax.sgd(0.1), lambda: optax.adamw(1e-3), lambda: optax.lamb(1e-3)],
)
def test_an_optimizer_made_again_is_the_same(make):
    assert fingerprint(make()) == fingerprint(make())


def test_the_line_names_the_hyperparameter():
    (line,) = fingerprint_differences(
        fingerprint(optax.sgd(0.1)), fingerprint(optax.sgd(0.2)), "optimizer"
    )
    assert line.startswith("optimizer/update/") and line.endswith(": recorded -0.1, now -0.2")


def test_a_difference_far_into_a_text_is_shown():
    (line,) = fingerprint_differences({"net": "x" * 1000 + "old"}, {"net": "x" * 1000 + "new"})
    assert line.startswith("net: recorded ...x") and "xold, now ...x" in line
    assert line.endswith("xnew") and len(line) < 400


def test_a_checksum_is_of_what_lies_on_the_device():
    wanted = "float32[2,3] "  # and SHA-256 of the bytes, as hashlib has it
    for array in (np.ones((2, 3)), jnp.ones((2, 3)), np.ones((2, 6), np.float32)[:, ::2]):
        assert checksum(array) == checksum(np.ones((2, 3), np.float32))
        assert checksum(array).startswith(wanted)
    assert checksum(np.ones((3, 2))) != checksum(np.ones((2, 3)))
    assert checksum(np.ones(3, np.int32)) != checksum(np.ones(3, np.int16))
    assert checksum(np.float32(-0.0)) != checksum(np.float32(0.0))
    assert checksum(np.zeros((0, 3))).startswith("float32[0,3] e3b0c44298fc1c14")  # of no bytes
    assert checksum(np.frombuffer(b"abc", np.uint8)) == "uint8[3] ba7816bf8f01cfea"  # FIPS 180


def test_what_refers_to_itself_ends():
    around: list = [1]
    around.append(around)
    assert fingerprint(around)["1"] == "builtins.list"
