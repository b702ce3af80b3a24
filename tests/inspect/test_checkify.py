"""checkify: what compiled programs answer with NaN is an error with the path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import parallel, train
from jaxnn.models import GPT
from jaxnn.train.step import placed_step
from tests.cases import KEY

NET = GPT(layers=2, width=8, num_heads=2, length=4).network(outputs=10)
TOKENS = jnp.array([[1, 2, 3]])


@pytest.fixture(scope="module")
def params():
    return NET.init(KEY, TOKENS)


def raises(text):
    return pytest.raises(ValueError, match=text)


def test_right_values_change_nothing(params):
    y = nn.checkify(NET.apply)(params, TOKENS)
    np.testing.assert_allclose(y, NET.apply(params, TOKENS), atol=1e-5)


def test_a_token_out_of_range(params):
    wrong = TOKENS.at[0, 1].set(10)
    assert jnp.isnan(jax.jit(NET.apply)(params, wrong)).any()
    with raises("^at 'embedding': token 10 is outside a vocabulary of 10$"):
        nn.checkify(NET.apply)(params, wrong)
    with raises("^at 'embedding': token -1 is outside"):
        nn.checkify(NET.apply)(params, TOKENS.at[0, 0].set(-1))
    bag = nn.EmbeddingBag(4, 2)
    with raises("^token 4 is outside a vocabulary of 4$"):
        nn.checkify(bag.apply)(bag.init(KEY, TOKENS), TOKENS + 1)


def test_within_transforms(params):
    """In a gradient, a scan, lanes, and in a step that was compiled without checks before."""
    program = train.Supervised(NET, train.NextToken(10), optax.sgd(0.1))
    ts, step = program.init(KEY, (TOKENS, TOKENS)), train.make_step(program)
    ts, _ = step(ts, (TOKENS, TOKENS))
    with raises("token 99"):
        nn.checkify(lambda ts, x: step(ts, (x, x)))(ts, TOKENS.at[0, 2].set(99))
    ts, _ = step(ts, (TOKENS, TOKENS))
    table = nn.Sequential(nn.Embedding(4, 2), nn.Repeat(nn.Residual(nn.Dense(2)), 2))
    weights = table.init(KEY, jnp.array(0))

    def total(weights, ids):
        return jax.vmap(functools.partial(table.apply, weights))(ids).sum()

    with raises("^at '0': token 5"):
        nn.checkify(jax.grad(total))(weights, jnp.array([1, 5]))


def test_a_position_past_the_table_and_past_the_cache(params):
    net = nn.with_cache(NET, length=8)
    state = nn.checkify(lambda p, x, s: net.apply(p, x, state=s)[1])(
        params, TOKENS, net.init_state(TOKENS)
    )
    with raises("^at 'positions': position 4 is past a table of 4$"):
        nn.checkify(lambda p, x, s: net.apply(p, x, state=s))(params, TOKENS, state)
    short = nn.with_cache(nn.Sequential(a=nn.MultiHeadAttention(2, causal=True)), length=4)
    x = jnp.ones((3, 4))
    weights, state = short.init(KEY, x), short.init_state(x)
    run = nn.checkify(lambda p, x, s: short.apply(p, x, state=s))
    _, state = run(weights, x, state)
    with raises("^at 'a': position 5 is past a cache of 4$"):
        run(weights, x, state)


def test_costs_nothing_elsewhere(params):
    nn.checkify(NET.apply)(params, TOKENS)
    assert not jax.make_jaxpr(NET.apply)(params, TOKENS).effects


def test_refused():
    with pytest.raises(
        TypeError, match=r"must be a function that is not jitted, .* write nn.checkify"
    ):
        nn.checkify(jax.jit(NET.apply))


def test_a_step_on_a_mesh_names_the_layer():
    """The layers gather their weights by an interceptor, inside of the one that names them."""
    program = train.Supervised(NET, train.NextToken(10), optax.sgd(0.1))
    placement = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
    state = placement.init(program, KEY, (TOKENS, TOKENS))
    step = functools.partial(
        placed_step, program, placement=placement, layout=placement.layout(state)
    )
    with pytest.raises(ValueError, match=r"at 'embedding': token 99 is outside a vocabulary"):
        nn.checkify(lambda state, x: step(state, (x, TOKENS)))(state, TOKENS.at[0, 2].set(99))
