"""first_nonfinite: names the place at which a value was made infinite or NaN, wherever that is."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.inspect import first_nonfinite
from tests.cases import CASES, KEY

X = jnp.ones((2, 3))
HUGE = 3e38  # twice this is infinite in float32


class Scale(nn.Primitive):
    """y = x * scale: infinite for a large scale, which is itself finite."""

    def parameters(self, x):
        return {"scale": nn.Param((), nn.ones())}

    def forward(self, params, x):
        return x * params["scale"]


class Bias(nn.Primitive):
    """y = x + b."""

    def parameters(self, x):
        return {"b": nn.Param((), nn.zeros())}

    def forward(self, params, x):
        return x + params["b"]


class Block(nn.Composite):
    first: nn.Layer
    second: nn.Layer

    def forward(self, x):
        return self.second(self.first(x + 1.0))


BLOCK = Block(Scale(), nn.Sequential(Scale(), jnp.tanh))


def found(net, edit=lambda params: params, *inputs, **named):
    inputs = inputs or (X,)
    return first_nonfinite(net, edit(net.init(KEY, *inputs)), *inputs, **named)


def scaled(*path, at=()):
    """An edit that makes the scale at `path` huge, for the copy `at`."""

    def edit(tree, rest=path):
        if not rest:
            return {"scale": tree["scale"].at[at].set(HUGE)}
        if isinstance(tree, tuple):
            return tuple(edit(a, rest[1:]) if i == rest[0] else a for i, a in enumerate(tree))
        return {**tree, rest[0]: edit(tree[rest[0]], rest[1:])}

    return edit


def test_a_layer_in_the_order_of_evaluation():
    """The names sort the other way round; both b and a are wrong."""
    net = nn.Sequential(b=nn.Sequential(jnp.tanh, Scale()), a=jnp.log)
    assert found(net) is None
    assert found(net, scaled("b", 1)) is None  # tanh(1) times it is finite
    assert found(net, scaled("b", 1), 3 * X, key=KEY) is None
    assert found(nn.Sequential(b=jnp.exp, a=jnp.log), lambda p: p, 100 * X) == "b"
    assert found(nn.Sequential(b=jnp.negative, a=jnp.log)) == "a"


@pytest.mark.parametrize(
    ("net", "edit", "path"),
    [
        (nn.Repeat(BLOCK, 3), scaled("first", at=1), "[1]/first"),
        (nn.Sequential(x=nn.Repeat(BLOCK, 3)), scaled("x", "second", 0, at=2), "x[2]/second/0"),
        (nn.Remat(nn.Repeat(nn.Remat(BLOCK), 2)), scaled("second", 0, at=0), "[0]/second/0"),
        (nn.Repeat(nn.Repeat(BLOCK, 2), 2), scaled("first", at=(1, 0)), "[1][0]/first"),
        (nn.Ensemble(nn.Repeat(BLOCK, 2), 3), scaled("first", at=(2, 1)), "[2][1]/first"),
        (nn.capture(nn.Repeat(BLOCK, 2), "**"), scaled("first", at=1), "[1]/first"),
        (nn.Repeat(nn.Sequential(Scale()), 2), scaled(0, at=1), None),
        (Scale(), scaled(), None),
    ],
)
def test_which_copy(net, edit, path):
    """X is ones; a block adds one before its first scale, and the rest is behind that."""
    assert found(net, edit) == path
    assert found(net) is None


class Spoilt(nn.Composite):
    """What a network computes outside of its layers is its own."""

    layer: nn.LayerLike

    def forward(self, x):
        return self.layer(x) / 0.0


class Twice(nn.Composite):
    a: nn.LayerLike
    b: nn.LayerLike

    def forward(self, x):
        return self.a(self.b(self.a(x)))


class Mapped(nn.Composite):
    """A layer under a transform of the user's: no value comes out of there."""

    layer: nn.LayerLike

    def forward(self, x):
        return jax.vmap(self.layer)(x)


def test_places_that_are_no_layer_of_their_own():
    assert found(Spoilt(nn.Dense(2))) == "output"
    assert found(nn.Sequential(nn.Dense(2), Spoilt(jnp.tanh), jnp.tanh)) == "1"
    assert found(nn.Sequential(Mapped(jnp.log), jnp.tanh), lambda p: p, X - 1) == "0"
    assert found(Scale(), scaled(), 2 * X) == "output"
    assert found(nn.Repeat(Spoilt(jnp.tanh), 2)) == "[0]"


def test_a_second_call():
    """exp overflows above 88, so exp(exp(exp(x))) does between 1.5 and 4.5 in its last step."""
    net = Twice(jnp.exp, jnp.exp)
    assert found(net, lambda p: p, 1.2 * X) is None
    assert found(net, lambda p: p, 1.8 * X) == "a@1"
    assert found(net, lambda p: p, 6 * X) == "b"


def test_another_method():
    class Tied(nn.Composite):
        embed: Any

        def forward(self, ids):
            return self.embed.attend(1e30 * self.embed(ids))

    def large(params):
        return jax.tree.map(lambda a: jnp.full_like(a, 1e8), params)

    assert found(Tied(nn.Embedding(3, 2)), large, jnp.array([1])) == "embed.attend"


def test_both_directions():
    """One layer value stands at two paths."""

    def edit(params):
        dense, cell = params["backward"]
        return {**params, "backward": ({**dense, "b": dense["b"] + HUGE}, cell)}

    net = nn.Bidirectional(nn.Sequential(Bias(), nn.Recurrent(nn.RNNCell(1))))
    inputs = jnp.full((1, 2, 3), 1e38)
    assert found(net, edit, inputs) == "backward/0"


def test_inputs_parameters_and_state():
    net = nn.Sequential(nn.Dense(2), nn.BatchNorm())
    params, state = net.init(KEY, X), net.init_state(X)
    nan = jnp.nan

    def at(params, x, state):
        return first_nonfinite(net, params, x, state=state, train=True)

    assert at(params, X, state) is None
    assert at(params, X.at[1, 2].set(nan), state) == "inputs/0"
    wrong = (params[0], {**params[1], "scale": params[1]["scale"].at[0].set(nan)})
    assert at(wrong, X, state) == "1/scale"
    assert at(params, X, {"1": {**state["1"], "mean": state["1"]["mean"] + nan}}) == "1/mean"
    stack = nn.Sequential(blocks=nn.Repeat(nn.Sequential(nn.Dense(3)), 4))
    weights = stack.init(KEY, X)
    bad = jax.tree.map(lambda a: a.at[2].set(-jnp.inf), weights)
    assert first_nonfinite(stack, bad, X) == "blocks[2]/0/w"
    named = nn.MultiHeadAttention(1)
    x = jnp.ones((2, 4))
    bias = jnp.full((1, 2, 2), nan)
    assert first_nonfinite(named, named.init(KEY, x), x, bias=bias) == "inputs/bias"


def test_random_numbers_are_those_of_the_call():
    """Dropout divides by 1 - rate: a value near the largest float becomes infinite where kept."""
    net = nn.Sequential(nn.Dropout(0.5))
    x = jnp.full((8,), HUGE)
    assert first_nonfinite(net, ({},), x) is None
    assert first_nonfinite(net, ({},), x, key=KEY, train=True) == "0"


@pytest.mark.parametrize("name", ["MixtureOfExperts", "wrappers nested", "capture"])
def test_finite_networks(name):
    (case,) = (case for case in CASES if case.name == name)
    inputs = case.arrays()
    state = case.state or None
    assert first_nonfinite(case.layer, case.init(), *inputs, state=state) is None


def test_refused():
    with pytest.raises(
        TypeError, match=r"first_nonfinite.net must be a layer, got 3; write inspect"
    ):
        first_nonfinite(cast(Any, 3), {}, X)
    net = nn.Dense(2)
    params = net.init(KEY, X)
    with pytest.raises(TypeError, match=r"not known while jax.jit .* call it outside"):
        jax.jit(lambda x: first_nonfinite(net, params, x))(X)
    with pytest.raises(ValueError, match=r"b: declared \(2,\), got \(3,\)"):
        first_nonfinite(net, {**params, "b": np.ones(3)}, X)
