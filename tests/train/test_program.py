"""Programs: pytrees whose numbers change without a trace, and the two that jaxnn has."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.validation import fraction
from tests.near import assert_near

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 8).astype(np.int32)
NET = nn.Sequential(nn.Dense(5), jnp.tanh, nn.Dense(3))
TASK = train.Classification(3)


class Critic(train.Program):
    """Two networks, two optimizers, several steps of one of them, and a clipped weight."""

    static = ("bound",)
    networks: dict[str, nn.Layer]
    rates: dict[str, Any]
    bound: float = 0.5
    steps: int = 2

    def init(self, key, batch):
        return {n: net.init(nn.fold_in(key, n), batch) for n, net in self.networks.items()}

    def step(self, state, batch):
        def loss(params):
            found = [self.networks[n].apply(params[n], batch) for n in ("f", "g")]
            return jnp.mean((found[0] - found[1]) ** 2)

        value = jnp.float32(0)
        for _ in range(self.steps):
            value, grads = jax.value_and_grad(loss)(state)
            state = {
                n: jax.tree.map(lambda p, g, n=n: jnp.clip(p - self.rates[n] * g, -self.bound,
                                self.bound), state[n], grads[n])
                for n in state
            }  # fmt: skip
        return state, {"loss": value}


def critic(f: Any = 0.1, **given: Any) -> Critic:
    return Critic({"f": nn.Dense(2), "g": nn.Dense(2)}, {"f": f, "g": np.float32(0.2)}, **given)


def test_numbers_are_leaves_and_the_rest_is_structure():
    program = critic()
    assert jax.tree.leaves(program) == [0.1, np.float32(0.2)]
    structure = jax.tree.structure(program)
    assert jax.tree.structure(critic(0.3)) == structure
    assert hash(jax.tree.structure(critic(0.3))) == hash(structure)
    for other in (critic(steps=3), critic(bound=0.25), critic(steps=2.0), critic(steps=True)):
        assert jax.tree.structure(other) != structure
    axes = jax.tree.map(lambda _: 0, program)
    assert jax.tree.structure(axes) == structure  # although 0 is an int, which would be static
    assert axes.rates == {"f": 0, "g": 0}
    assert axes.steps == 2
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(program)]
    assert paths == ["['rates']['f']", "['rates']['g']"]
    with pytest.raises(AttributeError):
        program.steps = 3  # type: ignore[misc]


def test_a_changed_number_traces_nothing():
    traces = []

    @jax.jit
    def step(program, state, batch):
        traces.append(1)
        return program.step(state, batch)

    program = critic()
    state = program.init(KEY, X)
    results = [step(critic(rate), state, X)[1]["loss"] for rate in (0.1, 0.1, 0.3)]
    assert len(traces) == 1
    assert results[0] == results[1] != results[2]
    step(critic(0.1, steps=1), state, X)
    assert len(traces) == 2


def test_lanes_are_solo_runs():
    state = critic().init(KEY, X)
    axes = jax.tree.map(lambda _: None, critic())
    axes.rates["f"] = 0
    lanes = jax.jit(jax.vmap(lambda p: p.step(state, X), in_axes=(axes,)))
    after, _ = jax.tree.map(np.asarray, lanes(critic(np.array([0.1, 0.3], np.float32))))
    alone = jax.jit(lambda p: p.step(state, X))
    for lane, rate in enumerate((0.1, 0.3)):
        solo, _ = alone(critic(rate))
        # float32, batched products round in another way
        jax.tree.map(lambda a, b, i=lane: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
                     after, solo)  # fmt: skip


def test_fields_that_cannot_be_compared_are_refused():
    with pytest.raises(
        TypeError, match=r"Critic.networks must hold .* got \{1\}, a set; write a tuple"
    ):
        jax.tree.leaves(Critic({"f": {1}}, {}))  # type: ignore[dict-item]
    with pytest.raises(
        TypeError, match=r"static must be a tuple of names of fields, which are rate, got \('x',\)"
    ):
        type("Wrong", (train.Program,), {"static": ("x",), "__annotations__": {"rate": float}})


class Half(train.Program):
    rate: float = 0.5

    def init(self, key, batch):
        return jnp.float32(1)


NOT_PROGRAMS: dict[str, Any] = {
    "make_step": train.make_step,
    "fit": lambda net: train.fit(net, (X, Y), key=KEY, epochs=1),
    "run": lambda net: train.run(net, (X, Y), key=KEY, epochs=1),
    "evaluate": lambda net: train.evaluate(net, {}, (X, Y)),
    "predict": lambda net: train.predict(net, {}, X),
}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: Half().step(1.0, None), NotImplementedError, "Half has no step; write def step"),
        (lambda: Half().predict(1.0, X), TypeError, "Half has no predictions; write def predict"),
        *(
            (
                lambda call=call: call(nn.Dense(3)),
                TypeError,
                rf"^train.{name}.program must be a train.Program, got Dense\(3\); write "
                rf"train.{name}\("
                r"program, ...\) with program = train.Supervised\(net, task, optimizer\) or ",
            )
            for name, call in NOT_PROGRAMS.items()
        ),
        (
            lambda: train.Minimize(lambda batch: 0.0, optax.sgd(0.1)),  # type: ignore[arg-type]
            TypeError,
            r"Minimize.objective must be a layer that maps a batch to a loss, .* write a nn",
        ),
        (
            lambda: supervised().step({"w": X}, (X, Y)),  # type: ignore[arg-type]
            TypeError,
            r"Minimize.state must be a train.TrainState, got \{.*\}; write state = ",
        ),
        (
            lambda: supervised().init(KEY, X),
            TypeError,
            r"be \(inputs, targets\) or \(inputs, targets, weights\), got float32\[8,4\]",
        ),
        (
            lambda: supervised().init(KEY, ({"x": X, "mask": X}, Y)),
            TypeError,
            r"no layer of the network takes an input 'mask'; known are 'x'",
        ),
        (
            lambda: train.Minimize(Penalized(NET), optax.sgd(0.1), inputs=[0.1]),  # type: ignore[arg-type]
            TypeError,
            r"Minimize.inputs must be None or a dict of inputs by name, got \[0.1\]; write inputs=",
        ),
        (
            lambda: train.Minimize(Penalized(NET), optax.sgd(0.1), initial={"nets": {}}).init(
                KEY, (X, Y)
            ),
            ValueError,
            r"parameters that the objective does not have: 'nets'; did you mean 'net'\?",
        ),
    ],
)
def test_the_error_says_what_to_write(call, error, text):
    with pytest.raises(error, match=text):
        call()


def supervised(net: nn.Layer = NET, **options: Any) -> train.Minimize:
    optimizer = train.Optimizer(optax.adam, learning_rate=1e-2)
    return train.Supervised(net, TASK, optimizer, **options)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"log_norms": "**/w"}])
def test_supervised_steps_are_those_of_optax(options):
    program, optimizer = supervised(**options), optax.adam(1e-2)
    state = program.init(KEY, (X, Y))
    params = NET.init(KEY, X)
    opt_state = optimizer.init(params)

    def loss_of(params):
        logits = NET.apply(params, X)
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    @jax.jit
    def by_optax(params, opt_state):
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    step, metrics, expected = train.make_step(program), {}, 0.0
    for _ in range(3):
        state, metrics = step(state, (X, Y))
        params, opt_state, expected = by_optax(params, opt_state)
    assert_near((state.params, float(metrics["loss"])), (params, float(expected)))
    evaluated, predicted = jax.jit(
        lambda state: (program.evaluate(state, (X, Y), key=KEY), program.predict(state, X))
    )(state)
    np.testing.assert_allclose(  # in double precision, from the definition
        float(evaluated["loss"]),
        -np.log(np.asarray(predicted, np.float64)[np.arange(8), Y]).mean(),
        rtol=1e-5,
    )


def test_weights_of_rows_hide_what_they_exclude():
    weights = np.array([1, 0, 2, 0, 1, 1, 0, 3], np.float32)
    spoilt = np.where(weights[:, None] == 0, np.nan, X)
    program = train.Supervised(nn.Dense(3), TASK, optax.sgd(0.1))
    state = program.init(KEY, (X, Y, weights))
    logits = np.asarray(nn.Dense(3).apply(state.params, X), np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = np.average(-logs[np.arange(8), Y], weights=weights)
    metrics = program.evaluate(state, (spoilt, Y, weights), key=KEY)
    np.testing.assert_allclose(metrics["loss"].value, expected, rtol=1e-5)
    right = np.average(logits.argmax(1) == Y, weights=weights)
    np.testing.assert_allclose(metrics["accuracy"].value, right, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"weights for Classification.* per row, \(8,\), got float32\[8,4\]; write"
    ):
        program.step(state, (X, Y, X))


def test_inputs_by_position_and_by_name():
    net, x = nn.MultiHeadAttention(2, causal=True), RNG.normal(size=(2, 5, 4)).astype(np.float32)
    segment_ids = np.array([[1, 1, 1, 0, 0], [1, 1, 2, 2, 2]])
    loss: Any = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)  # noqa: E731
    program = train.Supervised(net, loss, optax.sgd(0.1))
    batch = {"x": x, "segment_ids": segment_ids}, x
    state = program.init(KEY, batch)
    outputs = jax.jit(net.apply)(state.params, x, segment_ids=segment_ids)
    expected = np.mean((np.asarray(outputs) - x) ** 2)
    evaluate = jax.jit(lambda program, state, batch: program.evaluate(state, batch, key=KEY))
    np.testing.assert_allclose(evaluate(program, state, batch)["loss"], expected, rtol=1e-6)
    pair = nn.Bilinear(3)
    program = train.Supervised(pair, TASK, optax.sgd(0.1))
    state = program.init(KEY, ((X, X), Y))
    expected = jax.jit(lambda params: TASK(pair.apply(params, X, X), Y))(state.params)
    found = evaluate(program, state, ((X, X), Y))
    np.testing.assert_allclose(float(found["loss"]), expected, rtol=1e-6)


class Penalized(nn.Composite):
    """Cross entropy and a penalty on the logits, with noise that needs a key."""

    net: nn.Layer

    def forward(self, batch, *, beta=0.0, key=None):
        x, y = batch
        logits = self.net(x)
        noise = 0.0 if key is None else jax.random.normal(key)
        return TASK(logits, y) + beta * jnp.mean(logits**2), {"noise": noise, "beta": beta}

    def predict(self, x):
        return self.net(x).argmax(-1)


def test_inputs_are_numbers_and_schedules():
    rate = train.Linear(0.0, 1.0, steps=4)
    program = train.Minimize(Penalized(NET), optax.sgd(0.1), inputs={"beta": rate})
    state = program.init(KEY, (X, Y))
    step = train.make_step(program)
    betas = []
    for _ in range(3):
        state, metrics = step(state, (X, Y))
        betas.append(float(metrics["beta"]))
    assert betas == [0.0, 0.25, 0.5]
    assert jax.tree.structure(program) == jax.tree.structure(
        train.Minimize(
            Penalized(NET), program.optimizer, inputs={"beta": train.Linear(0.5, 0.1, 4)}
        )
    )
    np.testing.assert_array_equal(program.predict(state, X), np.argmax(
        np.asarray(NET.apply(state.params["net"], X)), -1))  # fmt: skip


def test_evaluation_draws_from_the_key_that_it_is_given():
    program = train.Minimize(Penalized(NET), optax.sgd(0.1))
    state = program.init(KEY, (X, Y))
    noise = [
        float(program.evaluate(state, (X, Y), key=jax.random.key(i))["noise"]) for i in (1, 1, 2)
    ]
    assert noise[0] == noise[1] != noise[2]


def test_initial_parameters_of_some_children():
    given = NET.init(jax.random.key(9), X)
    program = train.Minimize(Penalized(NET), optax.sgd(0.1), initial={"net": given})
    state = program.init(KEY, (X, Y))
    jax.tree.map(np.testing.assert_array_equal, state.params["net"], given)
    train.make_step(program)(state, (X, Y))  # donates its state, and not `given`
    assert np.isfinite(given[0]["w"]).all()
    halves = jax.tree.map(lambda a: a.astype(jnp.float16), given)
    program = train.Minimize(Penalized(NET), optax.sgd(0.1), initial={"net": halves})
    assert program.init(KEY, (X, Y)).params["net"][0]["w"].dtype == jnp.float32
    wrong = train.Minimize(
        Penalized(NET), optax.sgd(0.1), initial={"net": nn.Dense(3).init(KEY, X)}
    )
    with pytest.raises(ValueError, match=r"initial has other parameters .* at 'net'"):
        wrong.init(KEY, (X, Y))


class Types(nn.Composite):
    """Reports the types that the network and the objective's own forward see."""

    net: nn.Layer

    def forward(self, batch):
        x, y = batch
        seen.append((x.dtype, self.net(x).dtype))
        return jnp.mean((self.net(x)[:, 0] - y) ** 2)


seen: list[Any] = []


class Inner(nn.Primitive):
    def parameters(self, x):
        return {"w": nn.Param((x.shape[-1], 1), nn.normal(1.0))}

    def forward(self, params, x):
        seen.append(("inner", x.dtype, params["w"].dtype))
        return x @ params["w"]


def test_precision_is_that_of_the_networks():
    y = RNG.normal(size=8).astype(np.float32)
    program = train.Minimize(
        Types(Inner()), optax.sgd(0.1), precision=nn.Precision(compute="bfloat16")
    )
    state = program.init(KEY, (X, y))
    seen.clear()
    state, _ = jax.jit(program.step)(state, (X, y))
    assert ("inner", jnp.bfloat16, jnp.bfloat16) in seen
    assert (jnp.float32, jnp.float32) in seen
    assert state.params["net"]["w"].dtype == jnp.float32


class Momentum(train.Minimize):
    """A teacher whose parameters follow the student's: one overridden method."""

    def step(self, state, batch):
        after, metrics = super().step(state, batch)
        follow = jax.tree.map(
            lambda t, s: 0.9 * t + 0.1 * s, state.params["teacher"], after.params["student"]
        )
        return after._replace(params={**after.params, "teacher": follow}), metrics


class Agree(nn.Composite):
    student: nn.Layer
    teacher: nn.Layer

    def forward(self, x):
        return jnp.mean((self.student(x) - jax.lax.stop_gradient(self.teacher(x))) ** 2)


def test_a_teacher_is_one_overridden_method():
    program = Momentum(Agree(nn.Dense(2), nn.Dense(2)), optax.sgd(0.1))
    state = program.init(KEY, X)
    before = jax.tree.map(jnp.copy, state.params)
    after, _ = train.make_step(program)(state, X)
    expected = 0.9 * before["teacher"]["w"] + 0.1 * after.params["student"]["w"]
    np.testing.assert_allclose(after.params["teacher"]["w"], expected, rtol=1e-6)


def helper(x):
    return 2 * x


class UsesHelper(train.Program):
    rate: float = 1.0

    def init(self, key, batch):
        return jnp.float32(1)

    def step(self, state, batch):
        return helper(state) * self.rate, {}


def test_a_changed_helper_takes_effect(monkeypatch):
    assert train.make_step(UsesHelper())(jnp.float32(1), None)[0] == 2
    monkeypatch.setitem(globals(), "helper", lambda x: 3 * x)
    assert train.make_step(UsesHelper())(jnp.float32(1), None)[0] == 3


class Checked(train.Program):
    rate: Annotated[float, fraction]
    clip: bool = False


def test_fields_are_checked_by_what_they_accept():
    assert Checked(0.5).rate == 0.5
    assert Checked(jnp.float32(0.5)).rate == 0.5
    assert float(jax.jit(lambda rate: Checked(rate).rate)(2.0)) == 2.0  # traced: without a test
    stacked = jax.tree.map(lambda rate: jnp.full(3, rate), Checked(0.5))
    assert stacked.rate.shape == (3,)
    with pytest.raises(ValueError, match=r"Checked.rate must be a number from 0 to 1, got 2"):
        Checked(2)
    with pytest.raises(TypeError, match=r"Checked.clip must be True or False, got 1"):
        Checked(0.5, clip=1)  # type: ignore[arg-type]
