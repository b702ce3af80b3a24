"""States and batches on a mesh: the numbers of one device, and what is rejected."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn import parallel, train
from jaxnn.parallel.mesh import row_sharding

ONE = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
X = jnp.ones((4, 6))
BATCH, TASK = (X, jnp.zeros(4, int)), train.Classification(3)
NET = nn.Sequential(nn.Dense(8), nn.BatchNorm(), nn.Repeat(nn.Dense(8), 2), nn.Dense(3))


class Codebook(nn.Primitive):
    """State that starts random."""

    def variables(self, x):
        return {"codes": nn.Variable((5, x.shape[-1]), nn.normal(1.0))}

    def forward(self, params, x, *, state):
        return x + state["codes"].sum(0), state


@pytest.mark.parametrize("net", [NET, nn.Sequential(nn.Inference(NET), Codebook(), nn.Dense(3))])
def test_a_state_as_on_one_device(net):
    program, key = train.Supervised(net, TASK, optax.adam(0.1)), jax.random.key(3)
    found = parallel.init(program, key, BATCH, ONE)
    wanted = program.init(key, BATCH)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH)
    again = parallel.init(program, jax.random.key_data(key), shapes, ONE)
    jax.tree.map(np.testing.assert_array_equal, found, again)
    # Drawn in a compiled program, there and here: to rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, wanted)


class Averaging:
    """An optimizer that keeps the parameters themselves."""

    def init(self, params):
        return params

    def update(self, updates, state, params=None):
        return updates, state


def test_no_memory_is_given_twice():
    traces = []

    def loss(outputs, targets):
        traces.append(outputs)
        return TASK(outputs, targets)

    program = train.Supervised(NET, loss, Averaging())
    first = state = parallel.init(program, jax.random.key(0), BATCH, ONE)
    step = train.make_step(program, placement=ONE)
    batch = parallel.shard_batch(BATCH, ONE.mesh)
    for _ in range(3):
        state, _ = step(state, batch)
    assert first.step.is_deleted() and len(traces) == 1


def test_options_are_those_of_the_program():
    optimizer = train.Optimizer(optax.sgd, learning_rate=0.1)
    program = train.Supervised(nn.Dense(3), TASK, optimizer, accumulate=2, log_norms="w")
    batch = jnp.arange(24.0).reshape(4, 6), jnp.arange(4) % 3
    key = jax.random.key(0)
    _, wanted = train.make_step(program)(program.init(key, batch), batch)
    step = train.make_step(program, placement=ONE)
    _, found = step(parallel.init(program, key, batch, ONE), parallel.shard_batch(batch, ONE.mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)
    assert "gradient_norm/w" in found


def test_rules_that_do_not_fit_are_reported_before_anything_is_drawn():
    program = train.Supervised(NET, TASK, optax.sgd(0.1))
    placement = parallel.Placement(ONE.mesh, (("head/w", P()), ("**", P())))
    with pytest.raises(ValueError, match=r"matches none of the \d+ paths"):
        parallel.init(program, jax.random.key(0), BATCH, placement)


def test_rows_that_the_devices_do_not_divide():
    mesh = parallel.abstract_mesh(data=8)
    with pytest.raises(ValueError) as error:
        parallel.shard_batch((jnp.ones((16, 2)), jnp.ones(12)), mesh)
    assert str(error.value) == (
        "batch/1 must be an array whose rows can be split into 8 equal parts, got float32[12]; "
        "data=8 of the mesh needs them: write a batch_size that is a multiple of 8"
    )
    with pytest.raises(ValueError, match=r"batch must be an array whose rows .*, got float32\[\]"):
        parallel.shard_batch(jnp.ones(()), ONE.mesh)


def test_other_axes_do_not_split_a_batch():
    assert tuple(row_sharding(parallel.abstract_mesh(model=8)).spec) == ()
    both = row_sharding(parallel.abstract_mesh(replica=2, data=2, model=2))
    assert tuple(both.spec) == (("replica", "data"),)


@pytest.mark.parametrize(
    "optimizer",
    [optax.contrib.muon(0.1), optax.chain(optax.clip_by_global_norm(0.1), optax.lamb(0.1))],
)
def test_an_optimizer_sees_blocks_on_a_mesh_as_on_one_device(optimizer):
    def loss(outputs, targets):
        return jnp.mean((outputs - targets) ** 2)

    program = train.Supervised(nn.Repeat(nn.Dense(6), 3), loss, optimizer)
    key, batch = jax.random.key(0), (X, X)
    there, here = parallel.init(program, key, batch, ONE), program.init(key, batch)
    on_mesh, step = train.make_step(program, placement=ONE), train.make_step(program)
    for _ in range(2):
        there, _ = on_mesh(there, parallel.shard_batch(batch, ONE.mesh))
        here, _ = step(here, batch)
    for a, b in zip(jax.tree.leaves(there.params), jax.tree.leaves(here.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_optimizer_sees_blocks_inside_of_shard_map():
    net, mesh = nn.Repeat(nn.Dense(6), 3), ONE.mesh
    params = net.init(jax.random.key(0), X)
    optimizer = train.for_network(optax.lamb(0.1), net, X)

    def update(params, x):
        gradient = jax.tree.map(lambda leaf: leaf + jnp.sum(x), params)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    parts = jax.shard_map(
        lambda *args: jax.tree.map(lambda leaf: leaf[None], update(*args)),
        mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"),
    )  # fmt: skip
    found, wanted = jax.jit(parts)(params, X), jax.jit(update)(params, X)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a)[0], b, atol=1e-6)
