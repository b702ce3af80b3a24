"""Parameters under nn.Inference: no optimizer receives them, and the others train as alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from tests.cases import host
from tests.near import assert_near

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype(np.float32)
TEACHER = nn.Sequential(nn.Dense(5), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(3))
STUDENT = nn.Sequential(nn.Dense(6), jnp.tanh, nn.Dense(3))


class Distillation(nn.Composite):
    teacher: nn.Layer
    student: nn.Layer

    def forward(self, batch):
        return jnp.mean((self.student(batch) - self.teacher(batch)) ** 2)


NET = Distillation(nn.Inference(TEACHER), STUDENT)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def with_negative_zeros(params):
    """-0 + 0 is 0, so that an update of 0 would change these."""
    return jax.tree.map(lambda a: np.where(a == 0, np.float32(-0.0), a), host(params))


def alone(optimizer, state, steps) -> Any:
    """The student by hand in optax, with the outputs of the teacher as data."""
    targets, _ = jax.jit(TEACHER.apply)(state.params["teacher"], X, state=state.state["teacher"])
    targets = np.asarray(targets)  # before a step takes the memory of the parameters

    def loss(params):
        return jnp.mean((STUDENT.apply(params, X) - targets) ** 2)

    @jax.jit
    def step(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(
            grads, opt_state, params, value=value, grad=grads, value_fn=loss
        )
        return optax.apply_updates(params, updates), opt_state, (value, grads, updates)

    params, found = jax.tree.map(np.array, state.params["student"]), ()
    opt_state = optimizer.init(params)
    for _ in range(steps):
        params, opt_state, found = step(params, opt_state)
    return params, opt_state, found


OPTIMIZERS = {
    "adamw": optax.adamw(1e-2, weight_decay=0.5),
    "clip": optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(0.5)),
    "noise": optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(3)), optax.sgd(0.1)),
    "line search": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
    "schedule_free": optax.contrib.schedule_free_sgd(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_student_trains_as_alone_and_the_teacher_stays(name):
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name])
    teacher = with_negative_zeros(TEACHER.init(jax.random.key(7), X))
    program = train.Minimize(NET, optimizer, initial={"teacher": teacher})
    state = program.init(KEY, X)
    assert len(jax.tree.leaves(state.opt_state)) == len(
        jax.tree.leaves(optimizer.init(state.params["student"]))
    )
    before = bits((state.params["teacher"], state.state))
    assert bits(teacher) == bits(state.params["teacher"])
    params, opt_state, _ = alone(optimizer, state, 3)
    step = train.make_step(program)
    for _ in range(3):
        state, _ = step(state, X)
    assert bits((state.params["teacher"], state.state)) == before
    assert_near(state.params["student"], params)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: a.shape == b.shape,
            jax.tree.leaves(state.opt_state),
            jax.tree.leaves(opt_state),
        )
    )


def test_norms_and_metrics_are_those_of_the_student():
    optimizer = OPTIMIZERS["clip"]
    program = train.Minimize(NET, optimizer, log_norms="**/w")
    state = program.init(KEY, X)
    _, _, (value, grads, updates) = alone(optax.with_extra_args_support(optimizer), state, 1)
    _, metrics = train.make_step(program)(state, X)
    assert_near(metrics["loss"], value)
    assert_near(metrics["gradient_norm"], optax.tree.norm(grads))
    assert_near(metrics["update_norm"], optax.tree.norm(updates))
    names = [name for name in metrics if name.startswith("gradient_norm/")]
    assert names == ["gradient_norm/student/0/w", "gradient_norm/student/2/w"]


# An average, a second gradient, and groups; the others, whose tests are slow, are like these.
SEVERAL = {
    "with_ema": train.with_ema(optax.adam(1e-2), decay=0.5),
    "sam": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01)),
    "partition": train.partition({"student/2/*": None, "**": optax.adam(1e-2)}),
}
MORE = {
    "lookahead": optax.lookahead(optax.sgd(0.1), 2, 0.5),
    "schedule_free": optax.contrib.schedule_free_sgd(0.1),
    "dynamic_loss_scale": train.dynamic_loss_scale(optax.adam(1e-2)),
    "muon": optax.contrib.muon(1e-2),
}


@pytest.mark.parametrize(
    "name", [*SEVERAL, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_stacks_averages_and_micro_batches(name):
    """What an optimizer evaluates with has the parameters of the teacher as they are."""
    optimizer: Any = (SEVERAL | MORE)[name]
    block = nn.Residual(nn.Sequential(nn.Dense(4), nn.Dropout(0.5)))
    net = Distillation(
        nn.Sequential(nn.Repeat(nn.Inference(block), 2), nn.Inference(nn.Repeat(block, 2))),
        nn.Sequential(nn.Repeat(nn.Residual(nn.Dense(4)), 2), jnp.tanh, nn.Dense(4)),
    )
    program = train.Minimize(net, optimizer, accumulate=2)
    state = program.init(KEY, X)
    before = bits(state.params["teacher"])
    student = bits(state.params["student"][0])
    step = train.make_step(program)
    for _ in range(3):
        state, _ = step(state, X)
    assert bits(state.params["teacher"]) == before
    assert bits(state.params["student"][0]) != student
    evaluated = train.evaluation_params(state)
    assert bits(evaluated["teacher"]) == before
    assert jax.tree.structure(evaluated) == jax.tree.structure(state.params)
    assert np.isfinite(float(program.evaluate(state, X, key=KEY)["loss"]))


def test_stacked_blocks_outside_are_separate_blocks():
    """A norm is that of each block of the student, as of two blocks in a row."""
    optimizer = optax.lamb(1e-2)
    student = nn.Residual(nn.Dense(4))
    found = []
    for net in (nn.Repeat(student, 2), nn.Sequential(student, student)):
        program = train.Minimize(Distillation(nn.Inference(nn.Dense(4)), net), optimizer)
        state = program.init(KEY, X)
        for _ in range(2):
            state, _ = train.make_step(program)(state, X)
        found.append(state.params["student"])
    stacked, row = found
    assert_near(stacked, jax.tree.map(lambda *a: jnp.stack(a), *row))


def test_the_average_is_that_of_the_student():
    program = train.Minimize(NET, train.with_ema(optax.sgd(0.1), decay=0.0))
    state = program.init(KEY, X)
    state, _ = train.make_step(program)(state, X)
    found = train.ema_params(state).params
    assert bits(found) == bits(state.params)  # of the newest parameters alone


def test_supervised_leaves_them_as_they_are():
    net = nn.Sequential(features=nn.Inference(TEACHER), head=nn.Dense(2))
    y = jnp.asarray(RNG.integers(0, 2, 8))
    optimizer = optax.adamw(1e-1, weight_decay=0.5)
    program = train.Supervised(net, train.Classification(2), optimizer)
    state = program.init(KEY, (X, y))
    before = bits((state.params["features"], state.state))
    for _ in range(2):
        state, _ = train.make_step(program)(state, (X, y))
    assert bits((state.params["features"], state.state)) == before
    assert len(jax.tree.leaves(state.opt_state)) == 1 + 2 * 2  # a count, and moments of w and b


def test_an_interrupted_run_resumes_with_the_same_results(tmp_path):
    net = nn.Sequential(features=nn.Inference(TEACHER), head=nn.Dense(2))
    y = np.asarray(RNG.integers(0, 2, 8))
    program = train.Supervised(net, train.Classification(2), train.with_ema(optax.adamw(1e-2)))

    def fit(folder, epochs):
        return train.fit(
            program,
            (np.asarray(X), y),
            key=KEY,
            epochs=epochs,
            batch_size=4,
            hooks=[train.Checkpoints(tmp_path / folder)],
            progress=False,
        )[0]

    fit("a", 1)
    assert bits(fit("a", 2)) == bits(fit("b", 2))


def test_adapters_around_frozen_weights_train_alone():
    """As adapters by path patterns, without patterns."""
    net, optimizer = nn.Sequential(nn.Dense(6), jnp.tanh, nn.Dense(1)), optax.adamw(1e-2)
    partition = train.partition({"**/down": optimizer, "**/up": optimizer, "**": None})
    found, start = [], net.init(KEY, X)
    for base, one in ((nn.Inference(net), optimizer), (net, partition)):
        tuned, params = nn.add_lora(base, start, KEY, X, rank=2)
        program = train.Supervised(tuned, train.Regression(), one, initial=params)
        state = program.init(KEY, (X, X[:, 0]))
        for _ in range(3):
            state, _ = train.make_step(program)(state, (X, X[:, 0]))
        found.append(state.params)
        weights = [state.params[i]["w"]["base"] for i in (0, 2)]
        assert bits(weights) == bits([start[i]["w"] for i in (0, 2)])
    assert_near(*found)
    assert np.asarray(found[0][0]["w"]["up"]).any()


def test_int8_weights_may_be_a_part_of_what_is_trained():
    small, params = nn.quantize(TEACHER, TEACHER.init(KEY, X))
    program = train.Minimize(
        Distillation(nn.Inference(small), STUDENT), optax.adam(1e-2), initial={"teacher": params}
    )
    state = program.init(KEY, X)
    before = bits(state.params["teacher"])
    assert state.params["teacher"][0]["w"]["q"].dtype == jnp.int8
    state, _ = train.make_step(program)(state, X)
    assert bits(state.params["teacher"]) == before


def test_a_loop_of_the_user_leaves_them_as_they_are():
    """`for_network` takes whole trees and functions of whole trees, and returns whole updates."""
    params, state = NET.init(KEY, X), NET.init_state(X)
    params["teacher"] = with_negative_zeros(params["teacher"])

    def loss(params):
        return NET.apply(params, X, state=state, train=True)[0]

    once = train.for_network(optax.lbfgs(), NET, X)
    optimizer, plain = train.for_network(once, NET, X), optax.lbfgs()  # twice is as once
    assert optimizer == once

    def step(optimizer, loss, params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(
            grads, opt_state, params, value=value, grad=grads, value_fn=loss
        )
        return optax.apply_updates(params, updates), opt_state

    def of_student(student):
        return loss(params | {"student": student})

    found = (params, optimizer.init(params))
    wanted = (params["student"], plain.init(params["student"]))
    for _ in range(2):
        found = jax.jit(lambda *a: step(optimizer, loss, *a))(*found)
        wanted = jax.jit(lambda *a: step(plain, of_student, *a))(*wanted)
    assert bits(found[0]["teacher"]) == bits(params["teacher"])
    assert_near(found[0]["student"], wanted[0])


def test_errors_show_what_to_write():
    optimizer = train.partition({"teacher/**": None, "**": optax.sgd(0.1)})
    with pytest.raises(
        ValueError, match=r"'teacher/\*\*' matches no trained parameter; nn.Inference freezes"
    ):
        train.Minimize(NET, optimizer).init(KEY, X)
    other = train.for_network(optax.sgd(0.1), NET, X)
    with pytest.raises(
        ValueError, match=r"with the structure .* another network; write program.ini"
    ):
        other.init(STUDENT.init(KEY, X))


def test_weights_are_the_parameters_and_the_state_to_start_from():
    trained = train.Supervised(TEACHER, train.Regression(3), optax.sgd(0.1))
    state = trained.init(KEY, (X, X[:, :3]))
    state, _ = train.make_step(trained)(state, (X, X[:, :3]))
    weights = train.Weights(state.params, state.state)
    program = train.Minimize(NET, optax.adam(1e-2), initial={"teacher": weights})
    started = program.init(jax.random.key(5), X)
    assert bits(started.params["teacher"]) == bits(state.params)
    assert bits(started.state["teacher"]) == bits(state.state)
    drawn = train.Minimize(NET, optax.adam(1e-2)).init(jax.random.key(5), X)
    assert bits(started.params["student"]) == bits(drawn.params["student"])
    assert bits(drawn.state["teacher"]) != bits(state.state)
    again = train.Supervised(TEACHER, train.Regression(3), optax.sgd(0.1), initial=weights)
    whole = again.init(jax.random.key(5), (X, X[:, :3]))
    assert bits((whole.params, whole.state)) == bits((state.params, state.state))
    assert len(jax.tree.leaves(weights)) == len(bits((state.params, state.state)))


def test_weights_without_the_state_of_the_part_are_refused():
    weights = train.Weights(TEACHER.init(KEY, X), {})
    program = train.Minimize(NET, optax.adam(1e-2), initial={"teacher": weights})
    with pytest.raises(
        ValueError,
        match=r"initial has other state than the objective at 'teacher':\s+1/mean is missing",
    ):
        program.init(KEY, X)
