"""Values compare by type and bits, refuse what can change, and print as code."""

import copy
import functools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


class Scale(nn.Primitive):
    by: object

    def forward(self, params, x):
        return x * self.by


class Stages(nn.Composite):
    stages: dict[str, nn.Layer]
    head: nn.Layer | None = None

    def forward(self, x):
        for stage in self.stages.values():
            x = stage(x)
        return x if self.head is None else self.head(x)


def double(x):
    return 2 * x


def test_type_and_bits_decide():
    assert Scale(2) != Scale(2.0)
    assert Scale(True) != Scale(1)
    assert Scale(0.0) != Scale(-0.0)
    assert Scale(math.nan) == Scale(float("nan"))
    assert hash(Scale(math.nan)) == hash(Scale(float("nan")))
    assert Scale((1, 2.0)) != Scale((1, 2))
    assert nn.Dense(3) != nn.Dense(3, bias=False)
    assert nn.Sequential(jax.nn.relu) != nn.Parallel(jax.nn.relu)


def test_initializers_are_values():
    assert nn.he_normal() == nn.he_normal()
    assert nn.Dense(3, w_init=nn.normal(0.1)) == nn.Dense(3, w_init=nn.normal(0.1))
    assert nn.normal(0.1) != nn.normal(0.2)
    assert nn.zeros() == nn.constant(0.0)
    every = [nn.he_normal(), nn.orthogonal(), nn.identity(), nn.uniform(), nn.delta_orthogonal()]
    assert len(set(every)) == len(every)
    for initializer in every:
        assert eval(repr(initializer), dict(vars(nn))) == initializer
        assert pickle.loads(pickle.dumps(initializer)) == initializer


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(3), np.bool_(True)])
def test_numpy_scalars_become_python_numbers(number):
    assert type(Scale(number).by) is type(number.item())
    assert Scale(number) == Scale(number.item())


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (np.ones(2), "an array of shape"),
        (jnp.ones(()), "an array of shape"),
        ([1, 2], "write a tuple"),
        ({1, 2}, "write a tuple"),
        ({"a": 1}, "only a dict of layers by name"),
        (nn.Dense, "write an instance"),
        (bytearray(b"a"), "which has no hash"),
        ((1, [2]), r"Scale\.by\[1\]"),
    ],
    ids=str,
)
def test_what_can_change_is_refused(field, message):
    with pytest.raises(TypeError, match=message):
        Scale(field)


def test_layers_cannot_change():
    with pytest.raises(AttributeError):
        nn.Dense(3).features = 4  # pyright: ignore[reportAttributeAccessIssue]
    net = Stages({"a": nn.Dense(3)})
    with pytest.raises(TypeError, match="cannot change"):
        net.stages["a"] = nn.Dense(4)
    with pytest.raises(TypeError, match="cannot change"):
        net.stages |= {"b": nn.Dense(4)}  # pyright: ignore[reportAttributeAccessIssue]


def test_a_dict_of_layers_is_a_value():
    net = Stages({"a": nn.Dense(3), "b": jax.nn.relu})  # pyright: ignore[reportArgumentType]
    same = Stages({"a": nn.Dense(3), "b": jax.nn.relu})  # pyright: ignore[reportArgumentType]
    turned = Stages({"b": jax.nn.relu, "a": nn.Dense(3)})  # pyright: ignore[reportArgumentType]
    assert net == same
    assert hash(net) == hash(same)
    assert net != turned  # they run in another order
    assert pickle.loads(pickle.dumps(net)) == net
    assert copy.deepcopy(net) == net
    assert repr(net) == "Stages({'a': Dense(3), 'b': jax.nn.relu})"
    assert eval(repr(net), {**vars(nn), "Stages": Stages, "jax": jax}) == net


def test_partials_are_values_by_their_parts():
    def made(slope):
        return nn.Sequential(functools.partial(jax.nn.leaky_relu, negative_slope=slope))

    assert made(0.1) == made(0.1)
    assert made(0.1) != made(0.2)
    shown = "Sequential(functools.partial(jax.nn.leaky_relu, negative_slope=0.1))"
    assert repr(made(0.1)) == shown
    assert pickle.loads(pickle.dumps(made(0.1))) == made(0.1)
    with pytest.raises(TypeError, match="an array of shape"):
        nn.Sequential(functools.partial(jnp.add, jnp.ones(2)))


def test_own_functions_are_known_by_where_they_are():
    net = nn.Sequential(double)
    assert repr(net) == f"Sequential({__name__}.double)"
    assert pickle.loads(pickle.dumps(net)) == net


def test_lambdas_work_but_do_not_pickle():
    def local(x):
        return x + 1

    for function in (lambda x: x + 1, local):
        net = nn.Sequential(function)
        assert net == nn.Sequential(function)
        assert net != nn.Sequential(lambda x: x + 1)
        assert net.apply(net.init(jax.random.key(0), 1.0), 1.0) == 2.0
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(net)


def activations():
    for name, function in sorted(vars(jax.nn).items()):
        if name.startswith("_") or not callable(function) or isinstance(function, type):
            continue
        try:
            shape = jax.eval_shape(function, jax.ShapeDtypeStruct((2, 4), np.float32))
        except (TypeError, ValueError):  # it takes more than one array, or none
            continue
        if getattr(shape, "shape", None) is not None:
            yield name


@pytest.mark.parametrize("name", list(activations()))
def test_every_activation_of_jax_is_a_layer(name):
    function = getattr(jax.nn, name)
    net = nn.Sequential(function)
    x = jnp.linspace(-0.9, 0.9, 8).reshape(2, 4)
    np.testing.assert_array_equal(net.apply(net.init(jax.random.key(0), x), x), function(x))
    assert eval(repr(net), {**vars(nn), "jax": jax}) == net
    assert pickle.loads(pickle.dumps(net)) == net
    assert repr(net).startswith("Sequential(jax.nn.")


def test_the_activations_are_found():
    assert {"relu", "gelu", "silu", "sigmoid", "softmax", "tanh", "log_softmax"} <= set(
        activations()
    )


def test_a_word_in_a_literal_is_no_child():
    from typing import Literal

    class Norm(nn.Composite):
        inner: nn.Layer
        kind: Literal["Layer", "RMS"] = "Layer"

        def forward(self, x):
            return self.inner(x)

    assert Norm(nn.Dense(3)).kind == "Layer"


def test_what_a_layer_keeps_of_its_declaration_depends_on_the_types_of_jax():
    layer, dense, key = nn.LearnedArray((2,)), nn.Dense(3), jax.random.key(0)
    x = jnp.ones((1, 2), jnp.float32)
    dense.apply(dense.init(key, x), x)
    assert layer.init(key)["w"].dtype == jnp.float32
    with jax.enable_x64(True):
        assert layer.init(key)["w"].dtype == jnp.float64
        dense.apply(dense.init(key, x), x)
