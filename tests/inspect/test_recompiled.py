"""why_recompiled: a reason for each compilation after the first, and none without one."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.inspect import why_recompiled
from tests.cases import KEY


def reasons(function, *calls):
    """What is said of each call's arguments, the numbers of the calls cut off."""
    explained = why_recompiled(function)
    for args in calls:
        explained(*args)
    return [reason.partition("\n  ")[2] for reason in explained.reasons]


def doubled():
    """Another function each time: JAX shares the programs of one."""
    return jax.jit(lambda x: jax.tree.map(lambda a: a * 2, x))


def test_nothing_is_said_where_nothing_is_compiled():
    """numpy arrays, and the values of Python numbers, share one program."""
    assert reasons(doubled(), (jnp.ones(3),), (jnp.zeros(3),), (np.ones(3, "f4"),)) == []
    assert reasons(doubled(), (1.0,), (2.0,)) == []
    assert reasons(lambda x: x, ([],), ((),)) == []


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (jnp.ones(3), jnp.ones(4), "x: was float32[3], is float32[4]"),
        (jnp.ones(3), jnp.ones(3, int), "x: was float32[3], is int32[3]"),
        (jnp.ones(()), jnp.asarray(1.0), "x: was float32[], is float32[], weakly typed"),
        (1, 2.0, "x: was a Python int, is a Python float"),
        ({"a": 1.0}, {"b": 1.0}, "x: was a dict of ['a'], is a dict of ['b']"),
        ((1.0, 2.0), (1.0,), "x: was a tuple of 2, is a tuple of 1"),
        (([1.0],), ((1.0,),), "x[0]: was a list of 1, is a tuple of 1"),
        ({"a": (jnp.ones(2),)}, {"a": (jnp.ones(5),)}, "x['a'][0]: was float32[2], is float32[5]"),
        ((1.0, {"a": 1.0}), (1.0, None), "x[1]: was a dict of ['a'], is None"),
    ],
)
def test_an_argument(one, other, reason):
    assert reasons(doubled(), (one,), (other,)) == [reason]


def test_static_values_and_layers():
    @functools.partial(jax.jit, static_argnums=1)
    def power(x, n):
        return x**n

    assert reasons(power, (1.0, 2), (1.0, 3)) == ["n: was 2, is 3, if that is static"]

    def apply(net, x):
        return net.apply(net.init(KEY, x), x)

    x = jnp.ones((1, 2))
    nets = [nn.Sequential(nn.Dense(n), jax.nn.relu) for n in (3, 3, 4)]
    assert reasons(jax.jit(apply), *[(net, x) for net in nets]) == [
        "net.layers[0].features: was 3, is 4"
    ]
    mixed = [nn.Sequential(nn.Dense(3), act) for act in (jnp.tanh, jnp.sin)]
    (line,) = reasons(jax.jit(apply), *[(net, x) for net in mixed])
    assert line.startswith("net.layers[1].function: was <") and "tanh" in line and "sin" in line


def test_the_most_similar_call_is_shown():
    small, large = jnp.ones(3), jnp.ones((4, 4))
    explained = why_recompiled(jax.jit(lambda x, y: (x, y)))
    for args in [(small, small), (large, large), (small, large)]:
        explained(*args)
    assert explained.reasons[-1] == (
        "call 3 was compiled again; what differs from call 2:\n  x: was float32[4,4], is float32[3]"
    )


def test_a_training_step():
    """Its memory is donated, and its last batch is smaller: the classic."""
    optimizer, x = train.Optimizer(optax.sgd, learning_rate=0.1), jnp.ones((8, 2))
    program = train.Supervised(nn.Dense(1), lambda outputs, targets: jnp.mean(outputs), optimizer)
    ts, step = program.init(KEY, (x, x[:, 0])), why_recompiled(train.make_step(program))
    for rows in (8, 8, 5):
        ts, _ = step(ts, (x[:rows], x[:rows, 0]))
    assert step.reasons[-1].splitlines()[-2:] == [
        "  batch[0]: was float32[8,2], is float32[5,2]",
        "  batch[1]: was float32[8], is float32[5]",
    ]


def test_another_jitted_function_in_each_call():
    explained = why_recompiled(lambda x: jax.jit(lambda y: y + 1)(x))
    explained(jnp.ones(3))
    explained(jnp.ones(3))
    assert (
        "makes another jitted function in each call; write jax.jit outside"
        in (explained.reasons[0])
    )


def test_errors_pass_and_refused():
    explained = why_recompiled(doubled())
    with pytest.raises(TypeError, match=r"missing|required"):
        explained()
    with pytest.raises(TypeError, match=r"why_recompiled.function must be a function, got 3"):
        why_recompiled(cast(Any, 3))
