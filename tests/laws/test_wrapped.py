"""Stack: a wrapper keeps the function, the numbers at init, the state and the dropout keys."""

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
from tests.cases import CASES, KEY, STRUCTURAL, Case, floats, host, stacked, structural
from tests.near import assert_near

# The other generator takes longer to compile, and differs in the core alone: one network tells.
some_rbg = pytest.mark.parametrize(
    ("case", "impl"),
    [
        pytest.param(
            case,
            impl,
            id=f"{case}{'' if impl == 'threefry2x32' else f' {impl}'}",
            marks=() if case.name in STRUCTURAL else pytest.mark.slow,
        )
        for case in CASES
        for impl in ("threefry2x32", "rbg")
        if impl == "threefry2x32" or case.name in ("Remat of BatchNorm", "wrappers nested")
    ],
)


@structural
def test_wrappers_that_change_nothing(case: Case):
    """All in one; each alone, and its gradients, on random compositions."""
    net = nn.capture(nn.Remat(nn.Precision(case.layer, "float32"), "products"), "none")
    wrapped = Case(case.name, net, case.inputs)
    params = case.init()
    chex.assert_trees_all_equal(wrapped.init(), params)
    chex.assert_trees_all_equal(wrapped.state, case.state)
    given = (params, case.state, KEY, case.arrays())
    train = case.modes[-1]
    (y, captured), state = wrapped.run(*given, train=train)
    assert captured == {}
    assert_near((y, state), case.run(*given, train=train))


@some_rbg
def test_member_of_an_ensemble_is_the_network_at_its_key(case: Case, impl: str):
    key = jax.random.key(5, impl=impl)
    net = nn.Ensemble(case.layer, 2)
    params, state = net.init(key, *case.inputs), net.init_state(*case.inputs, key=KEY)
    inputs = case.arrays()
    found = Case("", net, case.inputs).run(params, state, key, inputs)
    members = host((params, state, found))
    for i in range(2):
        mine = jax.tree.map(lambda a, i=i: a[i], members)
        below = nn.fold_in(key, i)
        chex.assert_trees_all_equal(mine[0], case.init(below))
        drawn = case.layer.init_state(*case.inputs, key=nn.fold_in(KEY, i))
        chex.assert_trees_all_equal(mine[1], drawn)
        assert_near(mine[2], case.run(mine[0], mine[1], below, inputs))


@some_rbg
def test_repeat_is_a_row(case: Case, impl: str):
    """Where the layer keeps its input's shape, so that it can be repeated."""
    params, state = case.init(), case.state
    if len(case.inputs) != 1 or case.inputs[0] != jax.eval_shape(
        lambda x: case.eager(params, state, KEY, (x,))[0], *case.inputs
    ):
        with pytest.raises(ValueError, match="Repeat"):
            nn.Repeat(case.layer, 2).init(KEY, *case.inputs)
        return
    key, inputs = jax.random.key(9, impl=impl), case.arrays()
    row, repeat = nn.Sequential(*[case.layer] * 2), nn.Repeat(case.layer, 2)
    params, many = row.init(key, *inputs), repeat.init(key, *inputs)
    chex.assert_trees_all_equal(many, stacked(params))
    state = row.init_state(*inputs, key=KEY)

    def both(layer, params, state):
        def loss(params, inputs):
            y, new = layer.apply(params, *inputs, state=state, key=key, train=True)
            return jnp.sum(jnp.square(y)), (y, new)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, inputs)

    (one, dx), (y, new) = both(row, params, state)
    (all_, dx_), (y_, new_) = both(repeat, many, repeat.init_state(*inputs, key=KEY))
    assert_near((y_, dx_), (y, dx))
    assert_near(all_, stacked(one))
    if new:
        assert_near(new_, stacked(new.values()))


def test_wrappers_nest_in_shard_map():
    """Lanes of a mesh run the same pure function; one lane is the whole."""
    net = nn.Remat(nn.Repeat(nn.Residual(nn.Sequential(nn.Dense(4), nn.Dropout(0.5))), 2))
    x = jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)
    params = net.init(KEY, floats(2, 4))
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    run = jax.shard_map(
        lambda params, x: net.apply(params, x, key=KEY, train=True),
        mesh=mesh,
        in_specs=(spec(), spec("data")),
        out_specs=spec("data"),
    )
    assert_near(run(params, x), net.apply(params, x, key=KEY, train=True))
