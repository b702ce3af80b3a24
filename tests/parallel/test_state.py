"""States and batches where they belong: numbers as elsewhere, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxnn as nn
from jaxnn import parallel, train

ONE = parallel.mesh(data=1)
X = jnp.ones((4, 6))
NET = nn.Sequential(nn.Dense(8), nn.BatchNorm(), nn.Repeat(nn.Dense(8), 2), nn.Dense(3))


class Codebook(nn.Primitive):
    """State that starts random."""

    def variables(self, x):
        return {"codes": nn.Variable((5, x.shape[-1]), nn.normal(1.0))}

    def forward(self, params, x, *, state):
        return x + state["codes"].sum(0), state


@pytest.mark.parametrize("net", [NET, nn.Sequential(nn.Inference(NET), Codebook(), nn.Dense(2))])
def test_a_state_as_on_one_device(net):
    optimizer, key = optax.adam(0.1), jax.random.key(3)
    found = parallel.create(net, optimizer, key, X, ONE, parallel.FSDP)
    wanted = train.TrainState.create(net, optimizer, key, X)
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
    task, optimizer = train.Classification(3), Averaging()
    ts = parallel.create(NET, optimizer, jax.random.key(0), X, ONE, parallel.FSDP)
    traces = []

    def loss(outputs, targets):
        traces.append(outputs)
        return task(outputs, targets)

    step = parallel.make_step(NET, loss, optimizer, ONE, parallel.FSDP)
    batch = parallel.shard_batch((X, jnp.zeros(4, int)), ONE)
    first = ts
    for _ in range(3):
        ts, _ = step(ts, batch)
    assert first.step.is_deleted() and len(traces) == 1


def test_options_are_those_of_a_step():
    task, optimizer = train.Classification(3), train.Optimizer(optax.sgd, learning_rate=0.1)
    net = nn.Dense(3)
    arguments = {"accumulate": 2, "norms": "w"}
    ts = train.TrainState.create(net, optimizer, jax.random.key(0), X)
    batch = jnp.arange(24.0).reshape(4, 6), jnp.arange(4) % 3
    _, wanted = train.make_step(net, task, optimizer, **arguments)(ts, batch)
    ts = parallel.create(net, optimizer, jax.random.key(0), X, ONE, parallel.FSDP)
    step = parallel.make_step(net, task, optimizer, ONE, parallel.FSDP, **arguments)
    _, found = step(ts, parallel.shard_batch(batch, ONE))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)
    with pytest.raises(ValueError, match="accumulate is a number of micro-batches"):
        parallel.make_step(net, task, optimizer, ONE, parallel.FSDP, accumulate=0)


def test_rules_that_do_not_fit_are_told_before_anything_is_made():
    from jax.sharding import PartitionSpec as P

    with pytest.raises(ValueError, match="matches none of the 8 parameters"):
        rules = (("head/w", P()), ("**", P()))
        parallel.create(NET, optax.sgd(0.1), jax.random.key(0), X, ONE, rules)


def test_rows_that_the_devices_do_not_divide():
    mesh = parallel.abstract_mesh(data=8)
    with pytest.raises(ValueError) as error:
        parallel.shard_batch((jnp.ones((16, 2)), jnp.ones(12)), mesh)
    assert str(error.value) == (
        "[1] is float32[12], whose rows do not fall into the 8 parts that data=8 of the mesh has "
        "here; make the batch a multiple of 8"
    )
    with pytest.raises(ValueError, match=r"the batch is float32\[\]"):
        parallel.shard_batch(jnp.ones(()), ONE)


def test_other_axes_do_not_split_a_batch():
    layout = parallel.Layout(parallel.abstract_mesh(model=8), ())
    assert layout.batch == layout.whole
    both = parallel.Layout(parallel.abstract_mesh(replica=2, data=2, model=2), ())
    assert tuple(both.batch.spec) == (("replica", "data"),)


@pytest.mark.parametrize(
    "optimizer",
    [optax.contrib.muon(0.1), optax.chain(optax.clip_by_global_norm(0.1), optax.lamb(0.1))],
)
def test_an_optimizer_sees_blocks_on_a_mesh_as_on_one_device(optimizer):
    net, mesh, rules = nn.Repeat(nn.Dense(6), 3), ONE, parallel.FSDP
    key = jax.random.key(0)

    def loss(outputs, targets):
        return jnp.mean((outputs - targets) ** 2)

    there = parallel.create(net, optimizer, key, X, mesh, rules)
    here = train.TrainState.create(net, optimizer, key, X)
    on_mesh = parallel.make_step(net, loss, optimizer, mesh, rules)
    step = train.make_step(net, loss, optimizer)
    for _ in range(2):
        there, _ = on_mesh(there, parallel.shard_batch((X, X), mesh))
        here, _ = step(here, (X, X))
    for a, b in zip(jax.tree.leaves(there.params), jax.tree.leaves(here.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_optimizer_sees_blocks_inside_of_shard_map():
    net, mesh = nn.Repeat(nn.Dense(6), 3), ONE
    params = net.init(jax.random.key(0), X)
    optimizer = train.for_network(optax.lamb(0.1), net, X)

    def update(params, x):
        gradient = jax.tree.map(lambda leaf: leaf + jnp.sum(x), params)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    parts = jax.shard_map(
        lambda *args: jax.tree.map(lambda leaf: leaf[None], update(*args)),
        mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"),
    )  # fmt: skip
    found, wanted = jax.jit(parts)(params, X), update(params, X)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a[0], b, atol=1e-6)
