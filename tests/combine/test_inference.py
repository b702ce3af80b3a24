"""Inference: a part of a network that is not trained, inside and outside of every other wrapper."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.core import paths
from tests.near import assert_near

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
XS = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4)), jnp.float32)
NET = nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dropout(0.5))
BLOCK = nn.Residual(nn.Sequential(nn.Dense(4), jnp.tanh, nn.Dropout(0.5)))
CELL = nn.GRUCell(4)


def mean_square(net, params, x, **options):
    y = net.apply(params, x, **options)
    return jnp.mean(jnp.square(y[0] if isinstance(y, tuple) else y))


def test_it_is_the_layer_in_inference():
    net = nn.Inference(NET)
    params, state = NET.init(KEY, X), NET.init_state(X)
    state["1"]["mean"] = state["1"]["mean"] + 0.5
    chex.assert_trees_all_equal(net.init(KEY, X), params)
    chex.assert_trees_all_equal(net.init_state(X), NET.init_state(X))
    expected, _ = NET.apply(params, X, state=state)
    y, after = net.apply(params, X, state=state, train=True)  # without a key
    np.testing.assert_array_equal(y, expected)
    chex.assert_trees_all_equal(after, state)
    # Gradients pass to the inputs alone.
    wanted = jax.grad(lambda x: mean_square(NET, params, x, state=state))(X)
    grads = jax.grad(lambda p, x: mean_square(net, p, x, state=state, train=True), (0, 1))(
        params, X
    )
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads[0]))
    assert_near(grads[1], wanted)


@pytest.mark.parametrize(
    ("outer", "plain", "x"),
    [
        (nn.Repeat(nn.Inference(BLOCK), 2), nn.Repeat(BLOCK, 2), X),
        (nn.Inference(nn.Repeat(BLOCK, 2)), nn.Repeat(BLOCK, 2), X),
        (nn.Remat(nn.Inference(NET)), NET, X),
        (nn.Inference(nn.Remat(NET)), NET, X),
        (nn.Ensemble(nn.Inference(NET), 2), nn.Ensemble(NET, 2), X),
        (nn.Inference(nn.Ensemble(NET, 2)), nn.Ensemble(NET, 2), X),
        (nn.Precision(nn.Inference(NET), "float32"), NET, X),
        (nn.Inference(nn.Precision(NET, "bfloat16")), nn.Precision(NET, "bfloat16"), X),
        (nn.Residual(nn.Inference(NET)), nn.Residual(NET), X),
        (nn.Inference(nn.Inference(NET)), NET, X),
        (nn.Recurrent(nn.Inference(CELL)), nn.Recurrent(CELL), XS),
        (nn.Inference(nn.Recurrent(CELL)), nn.Recurrent(CELL), XS),
        (
            nn.Bidirectional(nn.Inference(nn.Recurrent(CELL))),
            nn.Bidirectional(nn.Recurrent(CELL)),
            XS,
        ),
        (nn.Inference(nn.LoRA(NET, 2)), nn.LoRA(NET, 2), X),
        (nn.WeightNorm(nn.Inference(NET)), nn.WeightNorm(NET), X),
        (nn.SpectralNorm(nn.Inference(NET)), nn.SpectralNorm(NET), X),
        (nn.Inference(nn.SpectralNorm(NET)), nn.SpectralNorm(NET), X),
        (nn.Inference(nn.MixtureOfExperts(BLOCK, 2)), nn.MixtureOfExperts(BLOCK, 2), X),
    ],
    ids=lambda item: repr(item) if isinstance(item, nn.Layer) else "x",
)
def test_it_nests(outer, plain, x):
    """In training, the network is `plain` in inference, and all of its parameters are frozen."""
    params, state = plain.init(KEY, x), plain.init_state(x)
    chex.assert_trees_all_equal(outer.init(KEY, x), params)
    assert all(param.frozen for param in jax.tree.leaves(outer.spec(x)))
    assert not any(param.frozen for param in jax.tree.leaves(plain.spec(x)))

    def loss(net, train, params, state):
        y, state = net.apply(params, x, state=state, train=train)
        return jnp.mean(jnp.square(y)), (y, state)

    grads, (y, after) = jax.jit(jax.grad(lambda *a: loss(outer, True, *a), has_aux=True))(
        params, state
    )
    _, (expected, before) = jax.jit(lambda *a: loss(plain, False, *a))(params, state)
    assert_near(y, expected)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))
    if not isinstance(outer, nn.SpectralNorm):  # its own vectors move on in training
        chex.assert_trees_all_equal(after, before)


def test_experts_inside_keep_a_router_that_trains():
    net = nn.MixtureOfExperts(nn.Inference(nn.Dense(4)), 2)
    frozen = jax.tree.map(lambda param: param.frozen, net.spec(X))
    assert frozen == {"router": {"w": False}, "expert": {"b": True, "w": True}, "balance": {}}


def test_it_runs_in_a_transform_of_the_user():
    """A teacher that keeps state and would drop in training: it reads the one and does not draw."""

    class Perceptual(nn.Composite):
        teacher: nn.Layer
        student: nn.Layer

        def forward(self, x):
            return jax.vmap(self.teacher)(x[:, None])[:, 0] - self.student(x)

    net = Perceptual(nn.Inference(NET), nn.Dense(4))
    params, state = net.init(KEY, X), net.init_state(X)
    y, after = net.apply(params, X, state=state, key=KEY, train=True)
    teacher, _ = NET.apply(params["teacher"], X, state=state["teacher"])
    assert_near(y, teacher - net.student.apply(params["student"], X))
    chex.assert_trees_all_equal(after, state)


def test_it_runs_in_scan_and_shard_map():
    net = nn.Inference(nn.Sequential(nn.Dense(4), nn.Dropout(0.5)))
    params = net.init(KEY, X)
    expected = net.apply(params, net.apply(params, X))
    found, _ = jax.lax.scan(lambda x, _: (net.apply(params, x, train=True), None), X, length=2)
    assert_near(found, expected)
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    run = jax.shard_map(
        lambda params, x: net.apply(params, x, train=True),
        mesh=mesh,
        in_specs=(spec(), spec("data")),
        out_specs=spec("data"),
    )
    assert_near(run(params, X), net.apply(params, X))


def test_a_cache_inside_moves_on_and_is_not_for_training():
    decoder = nn.Sequential(nn.BatchNorm(axis=-1), nn.MultiHeadAttention(2, causal=True))
    net = nn.Inference(nn.with_cache(decoder, 3))
    params, x = net.init(KEY, XS), np.asarray(XS)
    whole, _ = jax.jit(decoder.apply)(params, x, state=decoder.init_state(x))
    state, found = net.init_state(x[:, :1]), []
    step = jax.jit(net.apply)
    for t in range(3):
        y, state = step(params, x[:, t : t + 1], state=state)
        found.append(np.asarray(y))
    assert_near(np.concatenate(found, 1), whole)
    assert nn.with_cache(nn.Inference(decoder), 3) == net
    with pytest.raises(ValueError, match=r"at the root, Inference.* keeps a cache of 3 positions"):
        net.apply(params, XS[:, :1], state=state, train=True)


def test_another_state_inside_does_not_change():
    class Counter(nn.Primitive):
        def variables(self, x):
            return {"n": nn.Variable(())}

        def forward(self, params, x, *, state):
            return x + state["n"], {"n": state["n"] + 1}

    cached = nn.with_cache(
        nn.Sequential(count=Counter(), attend=nn.MultiHeadAttention(2, causal=True)), 3
    )
    for net in (nn.Inference(nn.Sequential(count=Counter())), nn.Inference(cached)):
        params, state = net.init(KEY, XS[:, :1]), net.init_state(XS[:, :1])
        _, after = jax.jit(net.apply)(params, XS[:, :1], state=state)
        assert after["count"]["n"] == 0
    assert after["attend"]["written"] == 1


def test_quantized_weights_inside_may_be_part_of_a_training():
    plain = nn.Sequential(nn.Dense(8), jax.nn.relu, nn.Dense(4))
    small, params = nn.quantize(plain, plain.init(KEY, X))
    net = nn.Sequential(teacher=nn.Inference(small), head=nn.Dense(2))
    params = net.init(KEY, X) | {"teacher": params}
    y = jax.jit(lambda params: net.apply(params, X, train=True))(params)
    hidden = jax.jit(small.apply)(params["teacher"], X)
    assert_near(y, nn.Dense(2).apply(params["head"], hidden))
    outside, _ = nn.quantize(nn.Inference(plain), plain.init(KEY, X))
    assert outside == nn.Inference(small)


@pytest.mark.parametrize(
    ("inside", "plain", "trained"),
    [
        (nn.Inference(NET), NET, set()),
        (nn.Repeat(nn.Remat(nn.Inference(BLOCK)), 2), nn.Repeat(BLOCK, 2), set()),
        (
            nn.Sequential(nn.Inference(nn.Dense(4)), nn.Dense(4)),
            nn.Sequential(nn.Dense(4), nn.Dense(4)),
            {"1/b", "1/w/base"},
        ),
    ],
    ids=["all", "stacked", "a part"],
)
def test_adapters_outside_are_trained(inside, plain, trained):
    """Their gradients are those of adapters of the layer itself; the weights have none."""
    net, state = nn.LoRA(inside, 2), plain.init_state(X)
    params = jax.tree.map(lambda a: a + 0.1, net.init(KEY, X))  # `up` starts at 0

    def gradients(net, train):
        loss = lambda params: mean_square(net, params, X, state=state, train=train)  # noqa: E731
        return dict(paths.walk(jax.jit(jax.grad(loss))(params)))

    found, wanted = gradients(net, True), gradients(nn.LoRA(plain, 2), False)
    for path, param in paths.walk(net.spec(X)):
        assert param.frozen == (path[-1] not in ("down", "up") and paths.text(path) not in trained)
        if param.frozen:
            assert not np.asarray(found[path]).any()
        else:
            assert np.asarray(wanted[path]).any()
            np.testing.assert_allclose(found[path], wanted[path], rtol=1e-5, atol=1e-6)


def test_surgery_and_inspection_see_through_it():
    net = nn.Sequential(a=nn.Inference(nn.Repeat(nn.Dense(4), 2)), b=nn.Dense(3))
    params = net.init(KEY, X)
    row, row_params = nn.unstack_layers(net, params)
    assert row == nn.Sequential(a=nn.Inference(nn.Sequential(*[nn.Dense(4)] * 2)), b=nn.Dense(3))
    assert_near(row.apply(row_params, X), net.apply(params, X))
    assert nn.stack_layers(row, row_params)[0] == net
    plain = nn.Sequential(a=nn.Repeat(nn.Dense(4), 2), b=nn.Dense(3))
    rows, wanted = nn.summary(net, X), nn.summary(plain, X)
    assert rows.rows["a"].layer == "Inference(Repeat(Dense(4), n=2))"
    assert rows.total == wanted.total
    assert nn.replace(net, "a", nn.Dense(4)) == nn.Sequential(a=nn.Dense(4), b=nn.Dense(3))
    tuned, _ = nn.add_lora(net, params, KEY, X, rank=2, match="b/w")
    frozen = jax.tree.map(lambda param: param.frozen, tuned.spec(X))
    assert frozen["a"] == {"b": True, "w": True}
    assert not any(jax.tree.leaves(frozen["b"]))


def test_methods_and_errors_are_those_of_the_layer():
    net = nn.Sequential(embed=nn.Inference(nn.Embedding(5, 3)))
    tokens = jnp.array([1, 2])
    params = net.init(KEY, tokens)
    x = jnp.ones((2, 3))
    embedding = nn.Embedding(5, 3).apply(params["embed"], x, method="attend")
    found = nn.Inference(nn.Embedding(5, 3)).apply(params["embed"], x, method="attend")
    np.testing.assert_array_equal(found, embedding)
    with pytest.raises(ValueError, match=r"at '0', BatchNorm.* none was given"):
        nn.Inference(nn.Sequential(nn.BatchNorm())).apply(({"scale": X[0], "b": X[0]},), X)
    with pytest.raises(TypeError, match=r"Inference.inner must be a layer or a function, got None"):
        nn.Inference(None)  # type: ignore[arg-type]
