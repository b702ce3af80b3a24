"""What a class or a combinator may not be, said when it is made."""

import jax.numpy as jnp
import pytest

import jaxnn as nn

NAMES = ["init", "apply", "spec", "init_state", "forward", "parameters", "variables"]


@pytest.mark.parametrize("name", NAMES)
def test_reserved_fields_and_children(name):
    for base in (nn.Primitive, nn.Composite, nn.Wrapper):
        with pytest.raises(TypeError, match=f"of a reserved name: {name!r}; rename it"):
            type("Bad", (base,), {"__annotations__": {name: int}, "__module__": __name__})
    for combinator in (nn.Sequential, nn.Parallel):
        with pytest.raises(TypeError, match=f"of a reserved name: {name!r}; rename it"):
            combinator(**{name: nn.Dense(3)})


@pytest.mark.parametrize("name", ["params", "state", "key", "train", "method"])
def test_reserved_inputs(name):
    scope = {}
    exec(f"def primitive(self, weights, x, {name}): ...\ndef composite(self, {name}): ...", scope)
    with pytest.raises(TypeError, match=f"{name!r}, which is reserved"):
        type("Bad", (nn.Primitive,), {"forward": scope["primitive"]})
    with pytest.raises(TypeError, match=f"{name!r}, which is reserved"):
        type("Bad", (nn.Composite,), {"forward": scope["composite"]})


def test_inputs_that_would_swallow_misspellings():
    with pytest.raises(TypeError, match=r"\*\*options"):

        class _Bad(nn.Primitive):
            def forward(self, params, x, **options):
                return x


def test_a_composite_keeps_no_state():
    with pytest.raises(TypeError, match="requests 'state'"):

        class _Bad(nn.Composite):
            def forward(self, x, *, state):
                return x


def test_a_primitive_has_no_children():
    class Holds(nn.Primitive):
        inner: object

        def forward(self, params, x):
            return x

    with pytest.raises(TypeError, match="write a Composite"):
        Holds(nn.Dense(3))


def test_children_by_position_or_by_name():
    with pytest.raises(TypeError, match="not both"):
        nn.Sequential(nn.Dense(3), out=nn.Dense(3))


def test_an_unbound_layer_is_not_called():
    with pytest.raises(TypeError, match=r"net\.apply"):
        nn.Dense(3)(jnp.ones(2))
