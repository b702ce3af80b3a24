"""Traversal: walking through the layers of a network, and building it again."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
from jaxnn.core import paths
from jaxnn.core.values import copy_with
from tests.cases import KEY, every, floats


class Nested(nn.Composite):
    """Children in tuples, dicts, and None."""

    rows: tuple[Any, ...]
    named: dict[str, Any]
    missing: nn.Layer | None = None

    def forward(self, x: Any) -> Any:
        for layer in (*self.rows[0], self.rows[1], *self.named.values()):
            x = layer(x)
        return x


NESTED = Nested(
    ((nn.Dense(2), jnp.sin), nn.Remat(nn.Residual(nn.Dense(3)))), {"a": nn.Sequential(nn.Dense(4))}
)


def test_a_layer_comes_before_those_below_it_and_a_wrapper_adds_no_path():
    found = [("/".join(path), type(layer).__name__) for path, layer in nn.layers(NESTED)]
    assert found == [
        ("", "Nested"),
        ("rows/0/0", "Dense"),
        ("rows/0/1", "Function"),
        ("rows/1", "Remat"),
        ("rows/1", "Residual"),
        ("rows/1", "Dense"),
        ("named/a", "Sequential"),
        ("named/a/0", "Dense"),
    ]


@every
def test_every_parameter_belongs_to_a_primitive_that_is_found(case):
    primitives = {path for path, layer in nn.layers(case.layer) if isinstance(layer, nn.Primitive)}
    for path, _ in paths.walk(case.layer.spec(*case.inputs)):
        assert any(path[:n] in primitives for n in range(len(path) + 1)), path


@every
def test_a_network_built_again_of_copies_is_equal(case):
    seen = []

    def copied(path: Any, layer: Any) -> Any:
        seen.append(path)
        return copy_with(layer)

    assert nn.map_layers(copied, case.layer) == case.layer
    assert sorted(seen) == sorted(path for path, _ in nn.layers(case.layer))


@every
def test_a_network_in_which_nothing_changes_is_the_same_object(case):
    assert nn.map_layers(lambda path, layer: layer, case.layer) is case.layer


def test_layers_are_replaced_from_below_by_path_and_kind():
    def wider(path: Any, layer: Any) -> Any:
        if isinstance(layer, nn.Dense):
            return dataclasses.replace(layer, features=10 * layer.features)
        return nn.Repeat(layer, 2) if path == ("named", "a") else layer

    new = nn.map_layers(wider, NESTED)
    assert new.rows == ((nn.Dense(20), NESTED.rows[0][1]), nn.Remat(nn.Residual(nn.Dense(30))))
    assert new.named["a"] == nn.Repeat(nn.Sequential(nn.Dense(40)), 2)
    assert new.missing is None
    assert NESTED.rows[0][0] == nn.Dense(2)


def test_both_directions_of_a_bidirectional_stay_one_layer():
    net = nn.Bidirectional(nn.Recurrent(nn.GRUCell(2)))
    wider = nn.map_layers(
        lambda path, layer: nn.GRUCell(3) if isinstance(layer, nn.GRUCell) else layer, net
    )
    assert wider == nn.Bidirectional(nn.Recurrent(nn.GRUCell(3)))


def test_functions_may_take_the_place_of_layers():
    net = nn.map_layers(
        lambda path, layer: jax.nn.gelu if path == ("1",) else layer,
        nn.Sequential(nn.Dense(2), jax.nn.relu),
    )
    assert net == nn.Sequential(nn.Dense(2), jax.nn.gelu)
    assert net.init(KEY, floats(1, 2))[0]["w"].shape == (2, 2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.layers(jnp.sin), "layers.net must be a layer, got .*write nn.layers(net)"),  # type: ignore[arg-type]
        (
            lambda: nn.map_layers(lambda path, layer: layer, 3),  # type: ignore[type-var]
            "map_layers.net must be a layer, got 3; write nn.map_layers(function, net)",
        ),
        (
            lambda: nn.map_layers(lambda path, layer: 3 if path else layer, NESTED),
            "Residual.inner must be a layer or a function, got 3",
        ),
    ],
)
def test_the_error_says_what_is_wrong(make, text):
    with pytest.raises(TypeError, match=re.escape(text).replace(r"\.\*", ".*")):
        make()
