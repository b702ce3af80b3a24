"""A named input goes to every child whose forward names it, through any nesting."""

from typing import Any

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
    net = nn.Sequential(
        a=nn.Dense(4), b=wrap(nn.Sequential(Masked(), nn.Residual(Masked()))), c=Shifted()
    )
    params = net.init(KEY, X, mask=jnp.zeros(4), shift=2.0)
    y = net.apply(params, X, mask=jnp.zeros(4), shift=2.0)
    assert (y == 2.0).all()
    run = jax.jit(lambda params, mask: net.apply(params, X, mask=mask, shift=2.0))
    assert (run(params, jnp.zeros(4)) == 2.0).all()


def test_a_misspelled_input_is_an_error():
    net = nn.Sequential(nn.Dense(4), Masked())
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

    net = nn.Remat(nn.Sequential(nn.Repeat(Power(), 2)))
    params = net.init(KEY, X, exponent=2, name="square")
    assert (net.apply(params, 2 * X, exponent=2, name="square") == 16).all()


class Weighted(nn.Composite):
    """A composite that takes a name itself, which its child takes too."""

    child: nn.Layer
    explicit: bool = False

    def forward(self, x, *, mask: Any = None):
        return mask + (self.child(x, mask=2 * mask) if self.explicit else self.child(x))


def test_an_input_reaches_children_of_a_composite_that_takes_it_too():
    mask = jnp.full(4, 3.0)
    net = nn.Sequential(Weighted(nn.Residual(Weighted(Masked()))))
    y = net.apply(net.init(KEY, X, mask=mask), X, mask=mask)
    assert (y == 3 + (1 + (3 + 3))).all()


def test_what_a_composite_passes_explicitly_takes_precedence():
    mask = jnp.full(4, 3.0)
    net = Weighted(Weighted(Masked()), explicit=True)
    assert (net.apply(net.init(KEY, X, mask=mask), X, mask=mask) == 3 + (6 + 6)).all()


def test_what_a_composite_requires_by_position_is_its_own_also_by_name():
    class Across(nn.Primitive):
        def forward(self, params, x, memory=None):
            return x if memory is None else x + memory

    class Decoder(nn.Composite):
        own: nn.Layer = Across()
        across: nn.Layer = Across()

        def forward(self, x, memory):
            return self.across(self.own(x), memory)

    net = Decoder()
    params = net.init(KEY, X, X)
    assert (net.apply(params, X, memory=X) == net.apply(params, X, X)).all()
    assert (net.apply(params, X, X) == 2).all()
    with pytest.raises(TypeError, match="no layer of the network takes an input 'memoyr'"):
        net.apply(params, X, X, memoyr=X)


class Marked(nn.Primitive):
    """It takes segment_ids, and does nothing with them."""

    def forward(self, params, x, memory=None, *, segment_ids=None, memory_segment_ids=None):
        return x if memory is None else (x, memory)


@pytest.mark.parametrize("by_name", [False, True])
def test_padding_is_zeros_at_the_entrance(by_name):
    x, memory = jnp.full((1, 3, 2), jnp.nan).at[:, :2].set(1), jnp.array([[7, -1]])
    named: Any = {"segment_ids": jnp.array([[1, 1, 0]]), "memory_segment_ids": jnp.array([[1, 0]])}
    if by_name:
        y, z = Marked().apply({}, x=x, memory=memory, **named)
    else:
        y, z = Marked().apply({}, x, memory, **named)
    assert y.tolist() == [[[1, 1], [1, 1], [0, 0]]]
    assert z.tolist() == [[7, 0]]
    image = jnp.full((4, 4), jnp.nan)  # segment_ids are of another array: it stays as it is
    assert jnp.isnan(Marked().apply({}, image, segment_ids=jnp.array([[1, 0]]))).all()


def test_padding_is_zeros_where_a_composite_passes_segments():
    class Marking(nn.Composite):
        inner: nn.Layer

        def forward(self, x):
            return self.inner(x, segment_ids=jnp.isfinite(x[..., 0]).astype(jnp.int32))

    net = Marking(nn.Sequential(nn.Dense(2), Marked()))
    params = net.init(KEY, X)
    x = X.at[1].set(jnp.nan)
    gradient = jax.grad(lambda p: net.apply(p, x)[0].sum())(params)
    alone = jax.grad(lambda p: net.apply(p, X[:1]).sum())(params)
    assert all(map(jnp.array_equal, jax.tree.leaves(gradient), jax.tree.leaves(alone)))
