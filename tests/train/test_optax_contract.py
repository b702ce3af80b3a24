"""Optimizers that need more than (updates, state, params): each as its documentation writes it.

The expected parameters come from optax alone, called by hand with full gradients of the same loss.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxnn as nn
from jaxnn import train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3).astype(np.float32)
NET, TASK, KEY = nn.Dense(1), train.Regression(), jax.random.key(0)


def loss(params: Any) -> jax.Array:
    return jnp.mean((NET.apply(params, X)[:, 0] - Y) ** 2)


def by_hand(optimizer: Any, params: Any, steps: int, *, names: Any) -> Any:
    """(parameters, optimizer state) after some steps of optax's own loop."""
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        given = {"value": value, "grad": grads, "value_fn": loss, "obj_fn": loss}
        given["grad_fn"] = lambda params, _: jax.grad(loss)(params)
        given = {name: given[name] for name in names}
        updates, state = optimizer.update(grads, state, params, **given)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def program_of(optimizer: Any, **options: Any) -> Any:
    return train.Supervised(NET, TASK, optimizer, **options)


def fit(program: Any, **options: Any) -> Any:
    options = {"batch_size": 4, "epochs": 1, "key": KEY, "progress": False, **options}
    return train.fit(program, (X, Y), **options)


def by_steps(optimizer: Any, steps: int, **options: Any) -> Any:
    program = program_of(optimizer, **options)
    ts, step = program.init(KEY, (X, Y)), train.make_step(program)
    for _ in range(steps):
        ts, _ = step(ts, (X, Y))
    return ts


def assert_near(found, expected):
    # float32, some steps of the same arithmetic in another program
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), found, expected
    )


ADVERSARIAL = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
TAKEN = {
    "lbfgs": (optax.lbfgs(), ("value", "grad", "value_fn")),
    "backtracking": (
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
        ("value", "grad", "value_fn"),
    ),
    "sam": (optax.contrib.sam(optax.sgd(0.1), ADVERSARIAL), ()),
    "sam, opaque": (
        optax.contrib.sam(optax.sgd(0.1), ADVERSARIAL, opaque_mode=True),
        ("grad_fn",),
    ),
    "sam in a chain": (optax.chain(optax.contrib.sam(optax.sgd(0.1), ADVERSARIAL)), ()),
    "polyak_sgd": (optax.polyak_sgd(1.0), ("value",)),
    "momo": (optax.contrib.momo(0.1), ("value",)),
    "reduce_on_plateau": (
        optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau(patience=1, cooldown=0)),
        ("value",),
    ),
    "sophia": (optax.contrib.sophia(0.1), ("obj_fn",)),
    "prodigy": (optax.contrib.prodigy(), ()),
    "cocob": (optax.contrib.cocob(), ()),
    "dog": (optax.contrib.dog(), ()),
    "schedule-free": (optax.contrib.schedule_free_sgd(0.1), ()),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_step_is_that_of_optax(name):
    optimizer, names = TAKEN[name]
    params = NET.init(KEY, X)
    expected, _ = by_hand(optimizer, params, 4, names=names)
    assert_near(by_steps(optimizer, 4).params, expected)


def test_a_line_search_sees_the_whole_batch_under_accumulation():
    optimizer, _ = TAKEN["backtracking"]
    expected = by_steps(optimizer, 3).params
    assert_near(by_steps(optimizer, 3, accumulate=2).params, expected)


def test_lookahead_evaluates_its_slow_parameters():
    """optax's loop on pairs of parameters, which jaxnn keeps in the optimizer's state."""
    plain: Any = optax.lookahead(optax.sgd(0.1), sync_period=3, slow_step_size=0.5)
    both: Any = optax.LookaheadParams.init_synced(NET.init(KEY, X))
    state = plain.init(both)
    for _ in range(4):  # one synchronization, and one fast step after it
        updates, state = plain.update(jax.grad(loss)(both.fast), state, both)
        both = optax.apply_updates(both, updates)
    fixed = functools.partial(optax.lookahead, sync_period=3)  # optax refuses a traced period
    inside = train.Optimizer(fixed, optax.sgd(0.1), slow_step_size=0.5)
    for optimizer in (plain, inside, train.partition({"**": plain})):
        ts = by_steps(optimizer, 4)
        assert_near(ts.params, both.fast)
        assert_near(train.evaluation_params(ts), both.slow)
        metrics = train.evaluate(program_of(optimizer), ts, (X, Y))
        np.testing.assert_allclose(metrics["loss"], loss(both.slow), rtol=1e-4)


@pytest.mark.parametrize("grouped", [False, True])
def test_schedule_free_evaluates_the_parameters_that_optax_defines(grouped):
    plain: Any = optax.contrib.schedule_free_sgd(0.1)
    params = NET.init(KEY, X)
    given, state = by_hand(plain, params, 5, names=())
    optimizer = plain
    if grouped:  # the other group has parameters that the state of the first one masks
        optimizer = train.partition({"w": plain, "b": optax.sgd(0.1)})
        split: Any = optax.partition({"w": plain, "b": optax.sgd(0.1)}, {"w": "w", "b": "b"})
        given, state = by_hand(split, params, 5, names=())
        inner = state.inner_states["w"].inner_state
        y, z = {"w": given["w"]}, {"w": inner.z["w"]}
        expected = optax.contrib.schedule_free_eval_params(inner._replace(z=z), y)
        expected = {"w": expected["w"], "b": given["b"]}
    else:
        expected = optax.contrib.schedule_free_eval_params(state, given)
    ts = by_steps(optimizer, 5)
    assert_near(train.evaluation_params(ts), expected)
    assert not np.allclose(ts.params["w"], expected["w"], rtol=1e-3)
    prediction = train.predict(program_of(optimizer), ts, X)
    np.testing.assert_allclose(prediction, NET.apply(expected, X)[:, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("steps", [3, 4])
def test_sam_evaluates_unperturbed_parameters(steps):
    """After an odd number of steps the parameters are perturbed: two steps make one update."""
    optimizer = optax.contrib.sam(optax.sgd(0.1), ADVERSARIAL)
    expected, _ = by_hand(optimizer, NET.init(KEY, X), steps - steps % 2, names=())
    assert_near(train.evaluation_params(by_steps(optimizer, steps)), expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.schedule_free_sgd(0.1),
        optax.lookahead(optax.sgd(0.1), 3, 0.5),
        pytest.param(optax.contrib.prodigy(), marks=pytest.mark.slow),
        pytest.param(optax.contrib.cocob(), marks=pytest.mark.slow),
    ],
    ids=["schedule-free", "lookahead", "prodigy", "cocob"],
)
def test_fit_validates_with_the_evaluation_parameters(optimizer):
    ts, history = fit(program_of(optimizer), validation=(X, Y), batch_size=8, epochs=4)
    expected = loss(train.evaluation_params(ts))
    np.testing.assert_allclose(history[-1]["validation_loss"], expected, rtol=1e-4)


REFUSED = {
    "a line search on a part of the parameters": (
        train.partition({"w": optax.lbfgs(), "b": optax.sgd(0.1)}),
        "zoom_linesearch",
    ),
    "gradients per example": (
        optax.contrib.differentially_private_aggregate(1.0, 0.1, key=jax.random.key(0)),
        "differentially_private_aggregate",
    ),
    "lookahead in a chain": (
        optax.chain(optax.clip(1.0), optax.lookahead(optax.sgd(0.1), 3, 0.5)),
        "lookahead",
    ),
}


@pytest.mark.filterwarnings("ignore")  # optax warns of lookahead without pairs
@pytest.mark.parametrize("name", REFUSED)
def test_others_are_rejected_by_name_before_the_first_step(name):
    optimizer, part = REFUSED[name]
    program = program_of(optimizer)
    ts = program.init(KEY, (X, Y))
    text = (
        rf"(?s)the optimizer {part} cannot be used in a training step: .* write another optimizer"
    )
    with pytest.raises(TypeError, match=text):
        train.make_step(program)(ts, (X, Y))
    assert ts.params["w"].shape == (3, 1)  # not donated
    with pytest.raises(TypeError, match=text):
        fit(program)


def test_a_step_leaves_the_arrays_of_its_optimizer():
    """The state of `optax.noisy_sgd` begins with the key that the optimizer was made with."""
    key = jax.random.key(7)
    optimizer = optax.noisy_sgd(0.01, key=key)
    first, second = by_steps(optimizer, 2), by_steps(optimizer, 2)
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert jax.random.key_data(key).tolist() == [0, 7]


UNTRACEABLE = {
    "lookahead": (optax.sgd(0.1), {"sync_period": 3, "slow_step_size": 0.5}),
    "MultiSteps": (optax.sgd(0.1), {"every_k_schedule": 2}),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_a_number_that_optax_cannot_trace_is_named(name):
    inner, arguments = UNTRACEABLE[name]
    factory = getattr(optax, name)
    text = rf"optimizer {name} needs Python numbers .*functools\.partial\(optax\.{name},"
    traced = jax.tree.map(np.asarray, arguments)  # Python integers are static in a program
    with pytest.raises(TypeError, match=text):
        by_steps(train.Optimizer(factory, inner, **traced), 1)
    bound = train.Optimizer(functools.partial(factory, **arguments), inner)  # as it says
    expected = by_steps(factory(inner, **arguments), 4).params
    assert_near(by_steps(bound, 4).params, expected)
    assert_near(by_steps(train.Optimizer(factory, inner, **arguments), 4).params, expected)


def test_a_state_has_no_memory_twice():
    """XLA refuses to donate one buffer twice; prodigy begins with the parameters themselves."""
    ts = program_of(optax.contrib.prodigy()).init(KEY, (X, Y))
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(ts)]
    assert len(set(places)) == len(places)


STACKED = nn.Sequential(nn.Dense(3), nn.Repeat(nn.Residual(nn.Dense(3)), 3), nn.Dense(1))


@pytest.mark.parametrize(
    "name",
    [
        "sam, opaque",
        "momo",
        "backtracking",
        "schedule-free",
        # The same functions as "backtracking" and "sam, opaque", in larger programs.
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("lbfgs", "sam")),
    ],
)
def test_stacked_blocks_are_separate_arrays(name):
    """The function arguments of an update take the parameters of the network, not of blocks."""
    optimizer, _ = TAKEN[name]
    stacked = train.Supervised(STACKED, TASK, optimizer)
    ts = stacked.init(KEY, (X, Y))
    row, params = nn.unstack_layers(STACKED, ts.params)
    params = jax.tree.map(jnp.copy, params)  # a step takes the memory of the others
    of_row = train.Supervised(row, TASK, optimizer)
    begun = of_row.init(KEY, (X, Y))._replace(params=params)
    opt_state = jax.tree.map(jnp.copy, optimizer.init(params))
    begun = begun._replace(opt_state=opt_state)
    states = []
    for program, state in ((stacked, ts), (of_row, begun)):
        step = train.make_step(program)
        for _ in range(3):
            state, _ = step(state, (X, Y))
        states.append(state)
    assert_near(nn.unstack_layers(STACKED, states[0].params)[1], states[1].params)
    evaluated = [train.evaluation_params(state) for state in states]
    assert_near(nn.unstack_layers(STACKED, evaluated[0])[1], evaluated[1])


def test_the_arguments_of_a_step_unroll_no_blocks():
    """Adam calls none of the functions that it is offered, so the blocks stay one program."""

    def equations(copies: int) -> int:
        net = nn.Repeat(nn.Residual(nn.Dense(3)), copies)
        program = train.Supervised(net, lambda outputs, targets: outputs.mean(), optax.adam(0.1))
        ts = program.init(KEY, (X, Y))
        return str(jax.make_jaxpr(program.step)(ts, (X, Y))).count("\n")

    assert equations(3) == equations(30)


def test_a_state_that_changes_its_structure_is_rejected():
    """That of `optax.monitor` begins without the measurements that an update adds."""
    program = program_of(optax.chain(optax.monitor({"norm": optax.tree.norm}), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"state like .*opt_state/0/.* instead of nothing"):
        fit(program)
    with pytest.raises(ValueError, match=r"state like .*opt_state/0/.* instead of nothing"):
        train.make_step(program)(program.init(KEY, (X, Y)), (X, Y))


def test_arrays_that_an_optimizer_or_a_layer_holds_survive_training():
    """The steps donate the memory of their state, which the caller's arrays are no part of."""
    key, weight = jax.random.key(0), jnp.ones((3, 1))
    anchored = optax.GradientTransformation(  # its state is an array that it holds
        lambda params: weight, lambda updates, state, params=None: (updates, state)
    )
    optimizer = optax.chain(optax.add_noise(0.1, 0.5, key=key), anchored, optax.sgd(0.1))
    net = nn.layer(lambda key, x: {"w": weight}, lambda params, x: x @ params["w"])
    x = jnp.ones((8, 3))
    program = train.Supervised(net, train.Regression(), optimizer)
    for _ in range(2):
        train.fit(program, (x, x[:, 0]), key=key, batch_size=4, epochs=1, progress=False)
    assert (weight == 1).all() and jax.random.key_data(key).shape


@pytest.mark.parametrize(
    "read", [np.asarray, lambda leaf: [0.0][leaf.size * int(leaf.sum() > 1e9)]]
)
def test_an_optimizer_may_read_the_parameters_when_it_begins(read):
    plain = optax.sgd(0.1)

    def init(params):
        jax.tree.map(read, params)
        return plain.init(params)

    found = by_steps(optax.GradientTransformation(init, plain.update), 2)
    assert_near(found.params, by_steps(plain, 2).params)
