"""Interception: one function sees every call of a layer, in every wrapper and transform."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from tests.cases import KEY, every, floats

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def same(path: Any, layer: Any, call: Any, next: Any) -> Any:
    return next(call)


def doubled(path: Any, layer: Any, call: Any, next: Any) -> Any:
    """Twice the output of each Dense."""
    outcome = next(call)
    if not isinstance(layer, nn.Dense):
        return outcome
    return outcome._replace(output=2 * outcome.output)


class Recorder:
    """Which layers are called: their paths and kinds."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, path: Any, layer: Any, call: Any, next: Any) -> Any:
        self.seen.append(("/".join(path), type(layer).__name__))
        return next(call)


@every
def test_each_layer_is_seen_once_and_computes_the_same(case):
    """What is traced is the network's own program, to each equation."""
    params = jax.eval_shape(case.layer.init, KEY, *case.inputs)
    recorder = Recorder()

    def run(net: nn.Layer) -> Any:
        return jax.make_jaxpr(
            lambda params, state, inputs: net.apply(params, *inputs, state=state, key=KEY)
        )(params, case.state, case.inputs)

    assert str(run(nn.intercept(case.layer, recorder))) == str(run(case.layer))
    found = [("/".join(path), type(layer).__name__) for path, layer in nn.layers(case.layer)]
    again = {("dropout", "Dropout"): 2} if case.name == "DecoderLayer" else {}  # called three times
    assert Counter(recorder.seen) == Counter(found) + Counter(again)


def test_it_declares_what_the_network_declares():
    net = nn.Sequential(nn.Repeat(nn.Residual(nn.Dense(4)), 2), nn.Precision(nn.Dense(3)))
    assert nn.intercept(net, same).spec(X) == net.spec(X)


class DoubledDense(nn.Dense):
    """The reference: the interceptor's change, written into the layer."""

    def forward(self, params: Any, x: Any) -> Any:
        return 2 * super().forward(params, x)


class Cell(nn.Composite):
    """A cell of one layer, whose carry is the output."""

    dense: nn.Layer

    def carries(self, x: Any) -> Any:
        return nn.Variable((*x.shape[:-1], 4))

    def forward(self, carry: Any, x: Any) -> Any:
        h = jnp.tanh(self.dense(carry + x))
        return h, h


class ByMethod(nn.Composite):
    """A composite that calls a method of a child, which is a composite."""

    inner: nn.Layer

    def forward(self, x: Any) -> Any:
        return self.inner(x) + self.inner.other(x)


class WithMethod(nn.Composite):
    dense: nn.Layer

    def forward(self, x: Any) -> Any:
        return self.dense(x)

    def other(self, x: Any) -> Any:
        return self.dense(x) ** 2


class OwnTransforms(nn.Composite):
    """Forwards that apply children by themselves, in transforms of the user's."""

    inner: nn.Layer

    def forward(self, x: Any) -> Any:
        layer, params = self.inner.layer, self.inner.params
        row = jax.vmap(lambda x: layer.apply(params, x))(x)
        _, y = jax.lax.scan(lambda c, x: (c, layer.apply(params, x)), None, x)
        return row + y + jax.jit(layer.apply)(params, x)


WRAPPED = {
    "Sequential": lambda dense: nn.Sequential(dense, jnp.sin),
    "Residual": nn.Residual,
    "Repeat": lambda dense: nn.Repeat(dense, 3),
    "Remat": nn.Remat,
    "Ensemble": lambda dense: nn.Ensemble(dense, 2),
    "Inference": nn.Inference,
    "Precision": lambda dense: nn.Precision(dense, "float32"),
    "WeightNorm": nn.WeightNorm,
    "LoRA": lambda dense: nn.LoRA(dense, 2),
    "SpectralNorm": nn.SpectralNorm,
    "Recurrent": lambda dense: nn.Recurrent(Cell(dense)),
    "Bidirectional": lambda dense: nn.Bidirectional(nn.Recurrent(Cell(dense))),
    "MixtureOfExperts": lambda dense: nn.MixtureOfExperts(dense, 2, 1, router=nn.LayerNorm()),
    "a method": lambda dense: ByMethod(WithMethod(dense)),
    "own transforms": OwnTransforms,
    "nested": lambda dense: nn.Remat(nn.Repeat(nn.Residual(nn.Sequential(nn.Remat(dense))), 2)),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.filterwarnings("ignore")
def test_a_change_is_made_in_every_wrapper(name):
    x = X[:, :2] if name == "MixtureOfExperts" else X
    features = x.shape[-1]
    plain, wanted = (WRAPPED[name](kind(features)) for kind in (nn.Dense, DoubledDense))
    net = nn.intercept(plain, doubled)
    params, state = plain.init(KEY, x), plain.init_state(x, key=KEY)

    def loss(net: nn.Layer) -> Any:
        def one(params: Any, x: Any) -> Any:
            y, _ = net.apply(params, x, state=state, key=KEY, train=name != "Inference")
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(y)), y

        return jax.jit(jax.value_and_grad(one, has_aux=True))(params, x)

    got, expected = loss(net), loss(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)
    assert not np.allclose(got[0][0], loss(plain)[0][0])


def test_a_change_is_made_under_vmap():
    net, x = nn.Sequential(nn.Dense(4), jnp.sin), X
    params = jax.vmap(net.init, (0, None))(jax.random.split(KEY, 2), x)
    got = jax.vmap(nn.intercept(net, doubled).apply, (0, None))(params, x)
    w, b = params[0]["w"], params[0]["b"]
    np.testing.assert_allclose(
        got, np.sin(2 * (np.einsum("ij,njk->nik", x, w) + b[:, None])), rtol=1e-5, atol=1e-6
    )


def test_several_functions_nest_and_the_outer_one_is_called_first():
    def plus_one(path: Any, layer: Any, call: Any, next: Any) -> Any:
        outcome = next(call)
        seen.append(("inner", path, type(layer).__name__))
        return outcome._replace(output=outcome.output + 1)

    def ten_times(path: Any, layer: Any, call: Any, next: Any) -> Any:
        if not isinstance(layer, nn.Dense):
            return next(call)
        seen.append(("outer", path, type(layer).__name__))
        outcome = next(call)
        return outcome._replace(output=10 * outcome.output)

    seen: list[Any] = []
    dense = nn.Dense(2, w_init=nn.ones())
    net = nn.intercept(nn.Sequential(a=jnp.sin, b=nn.intercept(dense, plus_one)), ten_times)
    params = {"a": {}, "b": {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)}}
    y = net.apply(params, jnp.zeros((1, 4)))
    assert y.tolist() == [[10.0, 10.0]]  # 10 * (0 + 1)
    assert seen == [("outer", ("b",), "Dense"), ("inner", (), "Dense")]


def test_a_function_changes_what_layers_are_given():
    def without_mean(path: Any, layer: Any, call: Any, next: Any) -> Any:
        if path != ("1",):
            return next(call)
        (x,) = call.inputs
        return next(call.replace(inputs=(x - jnp.mean(x, -1, keepdims=True),)))

    net = nn.Sequential(nn.Dense(4), jnp.cumsum)
    params = net.init(KEY, X)
    y = X @ params[0]["w"] + params[0]["b"]
    np.testing.assert_allclose(
        nn.intercept(net, without_mean).apply(params, X),
        np.cumsum(y - np.mean(y, -1, keepdims=True)),
        rtol=1e-5,
        atol=1e-5,
    )


def test_init_follows_shapes_that_a_function_changes():
    def twice_as_wide(path: Any, layer: Any, call: Any, next: Any) -> Any:
        outcome = next(call)
        if path != ("0",):
            return outcome
        return outcome._replace(output=jnp.concatenate([outcome.output] * 2, -1))

    net = nn.intercept(nn.Sequential(nn.Dense(5), nn.Dense(3)), twice_as_wide)
    params = net.init(KEY, X)
    assert params[1]["w"].shape == (10, 3)
    assert net.apply(params, X).shape == (3, 3)


def test_a_function_sees_what_a_call_is_made_with():
    calls = {}

    def look(path: Any, layer: Any, call: Any, next: Any) -> Any:
        calls["/".join(path)] = call
        return next(call)

    net = nn.Sequential(norm=nn.BatchNorm(), drop=nn.Dropout(0.5), act=jnp.sin)
    params, state = net.init(KEY, X), net.init_state(X, key=KEY)
    nn.intercept(net, look).apply(params, X, state=state, key=KEY, train=True)
    assert calls["norm"].params["scale"] is params["norm"]["scale"]
    assert calls["norm"].state.keys() == state["norm"].keys()
    assert calls["drop"].train is True
    assert calls["drop"].method == "forward"
    assert [*calls] == ["", "norm", "drop", "act"]


def test_an_intercepted_network_is_another_value():
    net = nn.Sequential(nn.Dense(4), nn.Dense(4))
    assert nn.intercept(net, doubled) != net
    assert nn.intercept(net, doubled) != nn.intercept(net, same)
    assert nn.intercept(net, doubled) == nn.intercept(nn.Sequential(*[nn.Dense(4)] * 2), doubled)
    assert hash(nn.intercept(net, doubled)) == hash(nn.intercept(net, doubled))


def test_compiled_functions_do_not_take_one_for_the_other():
    """A patched layer would be equal to the plain one, and run the program compiled for it."""
    run = jax.jit(lambda net, params, x: net.apply(params, x))
    net = nn.Dense(4)
    params = net.init(KEY, X)
    plain, twice = run(net, params, X), run(nn.intercept(net, doubled), params, X)
    np.testing.assert_allclose(twice, 2 * plain, rtol=1e-6)
    np.testing.assert_array_equal(run(net, params, X), plain)


class Jitted(nn.Composite):
    """A composite that runs its child in a compiled function of the user's."""

    inner: nn.Layer

    def forward(self, x: Any) -> Any:
        return run_layer(self.inner.layer, self.inner.params, x)


@jax.jit
def run_layer(layer: nn.Layer, params: Any, x: Any) -> Any:
    return layer.apply(params, x)


def test_layers_in_compiled_functions_of_the_user_are_seen_with_their_whole_path():
    net = nn.Sequential(Jitted(nn.Sequential(nn.Dense(4), nn.Dense(4))))
    params = net.init(KEY, X)
    net.apply(params, X)  # compiled before
    recorder = Recorder()
    nn.intercept(net, recorder).apply(params, X)
    paths = {path for path, kind in recorder.seen if kind == "Dense"}
    assert paths == {"0/inner/0", "0/inner/1"}
    rows = nn.summary(net, X).rows
    assert rows["0/inner/1"].flops == rows["0/inner/0"].flops == 2 * 3 * 4 * 4 + 3 * 4


def test_a_child_that_is_intercepted_has_the_attributes_of_its_layer():
    class Wide(nn.Composite):
        inner: nn.Layer

        def forward(self, x: Any) -> Any:
            return self.inner(x)[..., : self.inner.layer.features // 2]

    net = Wide(nn.Dense(4))
    assert nn.intercept(net, same).apply(net.init(KEY, X), X).shape == (3, 2)


def test_what_is_captured_is_what_the_layer_gave_to_the_next_function():
    net = nn.Sequential(nn.Dense(4, w_init=nn.ones()), jnp.sin)
    params, x = net.init(KEY, X), jnp.ones((1, 4))
    _, outside = nn.capture(nn.intercept(net, doubled), "0").apply(params, x)
    (_, inside) = nn.intercept(nn.capture(net, "0"), doubled).apply(params, x)
    assert outside["0"].tolist() == [[8.0] * 4]
    assert inside["0"].tolist() == [[4.0] * 4]


def test_the_precision_of_a_program_is_that_of_the_networks_in_an_intercepted_objective():
    """Not of the objective's own forward, whose targets would be rounded."""

    class Distance(nn.Composite):
        net: nn.Layer

        def forward(self, batch: Any) -> Any:
            return jnp.mean((self.net(batch) - batch) ** 2)

    types = {}

    def look(path: Any, layer: Any, call: Any, next: Any) -> Any:
        types[path, type(layer).__name__] = call.inputs[0].dtype.name
        return next(call)

    objective = nn.intercept(Distance(nn.Dense(4)), look)
    program = train.Minimize(objective, optax.sgd(0.1), precision=nn.Precision(compute="bfloat16"))
    layer = program.layer()
    layer.apply(layer.init(KEY, X), X)
    assert types[(), "Distance"] == "float32"
    assert types[("net",), "Dense"] == "bfloat16"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: nn.intercept(nn.Dense(3), nn.Dense(3)),
            r"function of \(path, layer, call, next\)",
        ),
        (lambda: nn.intercept(nn.Dense(3), "f"), r"write nn.intercept\(net, function\)"),  # type: ignore[arg-type]
        (lambda: nn.intercept(3, same), "intercept.inner must be a layer or a function, got 3"),  # type: ignore[arg-type]
    ],
)
def test_the_error_says_what_is_wrong(make, text):
    with pytest.raises(TypeError, match=text):
        make()


def test_an_error_has_the_path_of_the_layer():
    net = nn.intercept(nn.Sequential(nn.Dense(4), nn.Dense(3)), same)
    params = net.init(KEY, X)
    with pytest.raises(ValueError, match=r"1/w: declared \(4, 3\), got \(4, 4\)"):
        net.apply((params[0], {**params[1], "w": params[0]["w"]}), X)
    with pytest.raises(ValueError, match="at '0', "):
        nn.Sequential(nn.intercept(nn.Conv(3, 3), same)).init(KEY, floats(3))
