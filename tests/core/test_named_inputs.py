"""A named input goes to every child whose forward names it, through any nesting."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn

KEY = jax.random.key(0)
X = jnp.ones((2, 4))


class Masked(nn.Primitive):
    def forward(self, params, x, mask=None):
        return x if mask is None else x * mask


class Shifted(nn.Primitive):
    def forward(self, params, x, *, shift):
        return x + shift


@pytest.mark.parametrize(
    "wrap",
    [lambda n: n, nn.Remat, lambda n: nn.Repeat(n, 2), lambda n: nn.Ensemble(n, 2), nn.Precision],
)
def test_inputs_reach_those_that_name_them(wrap):
    net = nn.Serial(a=nn.Dense(4), b=wrap(nn.Serial(Masked(), nn.Residual(Masked()))), c=Shifted())
    params = net.init(KEY, X, mask=jnp.zeros(4), shift=2.0)
    y = net.apply(params, X, mask=jnp.zeros(4), shift=2.0)
    assert (y == 2.0).all()
    run = jax.jit(lambda params, mask: net.apply(params, X, mask=mask, shift=2.0))
    assert (run(params, jnp.zeros(4)) == 2.0).all()


def test_a_misspelt_input_is_an_error():
    net = nn.Serial(nn.Dense(4), Masked())
    params = net.init(KEY, X)
    for call in (
        lambda: net.apply(params, X, maks=X),
        lambda: net.init(KEY, X, maks=X),
        lambda: net.spec(X, maks=X),
        lambda: net.init_state(X, maks=X),
    ):
        with pytest.raises(TypeError, match="'maks'; did you mean 'mask'"):
            call()


def test_inputs_that_are_no_arrays_stay_python_values():
    class Power(nn.Primitive):
        def forward(self, params, x, *, exponent, name):
            assert isinstance(exponent, int)
            assert isinstance(name, str)
            return x**exponent

    net = nn.Remat(nn.Serial(nn.Repeat(Power(), 2)))
    params = net.init(KEY, X, exponent=2, name="square")
    assert (net.apply(params, 2 * X, exponent=2, name="square") == 16).all()
