"""MixtureOfExperts: against every expert on every token, by hand, and what it keeps apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

X = normals(0, 2, 6, 4)


def by_hand(net: nn.MixtureOfExperts, params: Any, x: Any, real: Any = None) -> tuple[Any, Any]:
    """Output and balance in numpy: each token in turn, first choices of all before second ones."""
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    logits = x @ np.asarray(params["router"]["w"], np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    order = np.argsort(-p, -1, kind="stable")[..., : net.top_k]
    limit = int(np.ceil(net.capacity * net.top_k * x.shape[1] / net.experts))
    real = np.ones(x.shape[:2], bool) if real is None else real
    assigned = np.zeros(net.experts)
    member: Any = net.expert.inner  # type: ignore[union-attr]
    own = [jax.tree.map(lambda a, i=i: a[i], params["expert"]) for i in range(net.experts)]
    for row in range(x.shape[0]):
        taken = np.zeros(net.experts, int)
        for choice in range(net.top_k):
            for t in np.flatnonzero(real[row]):
                expert = order[row, t, choice]
                assigned[expert] += 1
                taken[expert] += 1
                if taken[expert] > limit:
                    continue
                chosen = p[row, t, order[row, t]]
                gate = chosen[choice] / (1 if net.top_k == 1 else chosen.sum())
                token = jnp.asarray(x[row, t], jnp.float32)
                y[row, t] += gate * np.asarray(member.apply(own[expert], token))
    balance = net.experts * np.sum(assigned / assigned.sum() * p[real].mean(0))
    return y, balance


@pytest.mark.parametrize(
    ("experts", "top_k", "capacity"), [(4, 2, 2.0), (3, 1, 0.7), (4, 2, 0.5), (2, 2, 1.0)]
)
def test_by_hand(experts, top_k, capacity):
    net = nn.MixtureOfExperts(nn.GatedFeedForward(5), experts, top_k, capacity)
    params = net.init(KEY, X)
    run = jax.jit(nn.capture(net, "balance").apply)
    for real in (None, np.arange(6) < np.array([[4], [6]])):
        named = {} if real is None else {"segment_ids": jnp.asarray(real, jnp.int32)}
        y, taps = run(params, X, **named)
        expected, balance = by_hand(net, params, X, real)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(taps["balance"], balance, rtol=1e-5)


def test_all_experts_are_a_weighted_sum():
    """With all experts chosen nothing is routed: outputs and all gradients of a plain formula."""
    net = nn.MixtureOfExperts(nn.GatedFeedForward(5), 3, top_k=3, capacity=1.0)

    def plain(params, x):
        gates = jax.nn.softmax(x @ params["router"]["w"])
        each = jax.vmap(lambda p: nn.GatedFeedForward(5).apply(p, x))(params["expert"])
        return jnp.einsum("ebtn,bte->btn", each, gates)

    params = net.init(KEY, X)
    params = {**params, "router": {"w": normals(1, 4, 3)}}
    assert_agree(net.apply, plain, params, X)


def test_members_start_as_an_ensemble_does():
    net = nn.MixtureOfExperts(nn.Dense(4), 3)
    params = net.init(KEY, X)
    np.testing.assert_array_equal(
        params["expert"]["w"], nn.Ensemble(nn.Dense(4), 3).init(nn.fold_in(KEY, "expert"), X)["w"]
    )


def test_balance_is_1_where_all_are_equal_and_the_number_of_experts_at_worst():
    net = nn.capture(nn.MixtureOfExperts(nn.Dense(4), 4, top_k=1), "**/balance")
    params, run = net.init(KEY, X), jax.jit(net.apply)
    even = {**params, "router": {"w": np.zeros((4, 4), np.float32)}}
    assert float(run(even, X)[1]["balance"]) == pytest.approx(1)
    one = np.zeros((4, 4), np.float32)
    one[:, 2] = 100
    worst = run({**params, "router": {"w": one}}, np.abs(X) + 1)[1]["balance"]
    assert float(worst) == pytest.approx(4)


def test_what_is_dropped_passes_a_residual_alone():
    """All tokens want expert 0, which takes 2 of 6: the first two of each sequence."""
    net = nn.Residual(nn.MixtureOfExperts(nn.Dense(4), 3, top_k=1, capacity=1.0))
    params = net.init(KEY, X)
    params = {**params, "router": {"w": jnp.zeros((4, 3))}}
    y = np.asarray(jax.jit(net.apply)(params, X))
    np.testing.assert_array_equal(y[:, 2:], X[:, 2:])
    first = nn.Dense(4).apply(jax.tree.map(lambda a: a[0], params["expert"]), X[:, :2])
    assert_near(y[:, :2], X[:, :2] + first / 3)


def test_sequences_do_not_compete_and_padding_changes_nothing():
    net = nn.MixtureOfExperts(nn.Dense(4), 3, capacity=0.6)
    params = net.init(KEY, X)
    whole = jax.jit(net.apply)(params, X)
    assert_near(jax.jit(net.apply)(params, X[1]), whole[1])
    # Six tokens and two of padding among them, with the capacity of six.
    padded = np.insert(X, [0, 3], 7.0, axis=1)
    segment_ids = np.insert(np.ones((2, 6), np.int32), [0, 3], 0, axis=1)
    same = nn.replace(net, "capacity", 0.6 * 6 / 8)
    run = jax.jit(lambda x: same.apply(params, x, segment_ids=segment_ids))
    y, grads = np.asarray(run(padded)), jax.jit(jax.grad(lambda x: run(x).sum()))(padded)
    assert_near(y[segment_ids == 1].reshape(X.shape), whole)
    assert not np.any(y[segment_ids == 0])
    assert not np.any(np.asarray(grads)[segment_ids == 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_router_works_in_float32(dtype):
    """Numbers of 1e4 in half precision: no NaN, and the balance is the float32 one's."""
    x = (1e4 * X).astype(dtype)
    net = nn.capture(nn.MixtureOfExperts(nn.Dense(4, w_init=nn.zeros()), 3), "balance")
    params, apply = net.init(KEY, x), jax.jit(net.apply)
    y, taps = apply(params, x)
    assert y.dtype == dtype and np.isfinite(np.asarray(y, np.float32)).all()
    exact = apply(params, x.astype(np.float32))[1]
    np.testing.assert_array_equal(taps["balance"], exact["balance"])


def test_a_task_with_the_balance_loss_learns_to_balance():
    """As the docstring says, in a block that is repeated: the taps are stacked."""
    block = nn.Residual(nn.MixtureOfExperts(nn.Dense(4), 4, top_k=1))
    net = nn.capture(nn.Repeat(block, 2), "**/balance")
    params = net.init(KEY, X)
    params["router"]["w"] = params["router"]["w"].at[..., 0].add(5.0)
    x = jnp.abs(normals(0, 2, 32, 4))

    def loss(params):
        y, taps = net.apply(params, x)
        assert taps["balance"].shape == (2,)
        return 1e-3 * jnp.mean(y**2) + sum(jnp.mean(b) for b in taps.values())

    @jax.jit
    def step(params, opt):
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = optax.adam(0.1).update(grads, opt)
        return optax.apply_updates(params, updates), opt, value

    opt, values = optax.adam(0.1).init(params), []
    for _ in range(30):
        params, opt, value = step(params, opt)
        values.append(float(value))
    assert values[0] > 3.5 and values[-1] < 2.5  # two taps, at best 1 each


def test_one_compiled_program_whatever_the_routes():
    """No shape depends on where tokens go."""
    net, traces = nn.MixtureOfExperts(nn.Dense(4), 3), []

    @jax.jit
    def run(params, x):
        traces.append(1)
        return net.apply(params, x)

    for seed in range(3):
        run(net.init(jax.random.key(seed), X), normals(seed, *X.shape))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"experts": 0}, ValueError, "MixtureOfExperts.experts must be an int >= 1"),
        (
            {"experts": 2, "top_k": 3},
            ValueError,
            "top_k must be an int from 1 to 2, got 3",
        ),
        ({"experts": 2, "capacity": 0.0}, ValueError, "MixtureOfExperts.capacity .* got 0.0"),
    ],
)
def test_fields_that_do_not_fit(options, kind, text):
    with pytest.raises(kind, match=text):
        nn.MixtureOfExperts(nn.Dense(4), **options)


def test_inputs_that_do_not_fit():
    net = nn.MixtureOfExperts(nn.Dense(4), 3)
    params = net.init(KEY, X)
    with pytest.raises(ValueError, match=r"expected an input of shape \(..., T, features\), got"):
        net.init(KEY, jnp.ones(4))
    with pytest.raises(
        ValueError,
        match=r"segment_ids must be of the shape .* of the sequence, \(2, 6\), got int32\[6\]",
    ):
        net.apply(params, X, segment_ids=jnp.ones(6, jnp.int32))
    with pytest.raises(
        ValueError, match=r"expected a sequence of at least one step, got float32\[2,0,4\]"
    ):
        net.apply(params, X[:, :0])
    with pytest.raises(
        ValueError, match=r"router must be of shape \(2, 6, 3\), got float32\[2,6,5"
    ):
        nn.MixtureOfExperts(nn.Dense(4), 3, router=nn.Dense(5)).init(KEY, X)
    with pytest.raises(TypeError, match=r"capacity is the traced number .* known before tracing"):
        jax.jit(lambda c: nn.MixtureOfExperts(nn.Dense(4), 3, capacity=c))(1.0)


def test_what_it_is_made_of_can_be_replaced():
    net = nn.MixtureOfExperts(nn.GatedFeedForward(8), 4)
    smaller = nn.replace(nn.replace(net, "expert/hidden", 5), "experts", 3)
    assert smaller == nn.MixtureOfExperts(nn.GatedFeedForward(5), 3)
    other = nn.replace(net, "router", nn.Dense(4))
    assert other.init(KEY, X)["router"]["b"].shape == (4,)
    rows = nn.summary(net, X).rows
    assert rows["expert"].parameters == 4 * 3 * 4 * 8 and rows["expert"].flops > 0


def test_an_expert_without_weight_has_no_effect():
    """Router logits so far apart that the second gate is exactly 0; its expert gives inf."""

    class Steep(nn.Primitive):
        def parameters(self, x):
            return {"w": nn.Param((1,))}

        def forward(self, params, x):
            return x * params["w"]

    net, x = nn.MixtureOfExperts(Steep(), 2, capacity=2.0), jnp.array([[[1.0], [3.0]]])
    params = {
        "router": {"w": jnp.array([[200.0, -200.0]])},
        "expert": {"w": jnp.array([[2.0], [jnp.inf]])},
        "balance": {},
    }

    def run(params):
        y = net.apply(params, x)
        return y.sum(), y

    (_, y), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    assert y.tolist() == [[[2.0], [6.0]]]
    assert gradient["expert"]["w"].tolist() == [[4.0], [0.0]]
    assert gradient["router"]["w"].tolist() == [[0.0, 0.0]]
