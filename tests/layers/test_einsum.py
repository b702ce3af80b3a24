"""Einsum: against flax on the same weights, and Dense."""

import re

import flax.linen
import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

X = normals(0, 2, 3, 4)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("...n,nhd->...hd", (4, 2, 3)),
        ("btn,nh->hbt", (4, 5)),
        ("b t n, t n m -> b t m", (3, 4, 5)),
        ("bhd,hdn->bn", (3, 4, 6)),
        ("...d,kd->...dk", (2, 4)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_as_flax(equation: str, shape: tuple[int, ...], bias: bool):
    net, peer = nn.Einsum(equation, shape, bias), flax.linen.Einsum(shape, equation, bias)
    params = jax.tree.map(lambda p: normals(1, *p.shape), net.spec(X))

    def theirs(params, x):
        names = {"w": "kernel", "b": "bias"}
        given = {names[k]: p for k, p in params.items()}
        made = jax.eval_shape(peer.init, KEY, x)["params"]
        given = {k: p.reshape(made[k].shape) for k, p in given.items()}  # flax keeps axes of 1
        return peer.apply({"params": given}, x)

    assert_agree(net.apply, theirs, params, X)


def test_as_dense():
    net, dense = nn.Einsum("...n,nm->...m", (4, 5)), nn.Dense(5)
    params = dense.init(KEY, X)
    assert_near(net.init(KEY, X), params)
    assert_near(net.apply(params, X), dense.apply(params, X))


def test_the_fan_is_that_of_the_letters_summed():
    init = nn.Einsum("...gn,gnhd->...ghd", (3, 5, 7, 2)).spec(jnp.ones((4, 3, 5)))["w"].init
    wanted = dict(in_axis=(1,), out_axis=(2, 3), batch_axis=(0,))
    assert init == nn.variance_scaling(2.0, "fan_in", "truncated_normal", **wanted)


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("ab,bc", (2, 3)),
        ("ab->a", (2,)),
        ("ab,bb->a", (2, 2)),
        ("ab,bc->ad", (2, 3)),
        ("...b,bc->bc", (2, 3)),
        ("ab,bcd->ac", (2, 3, 4)),
        ("ab,b...->a...", (2, 3)),
        (3, (2,)),
    ],
)
def test_an_equation_that_cannot_be(equation, shape):
    text = (
        f"Einsum.equation must be 'x,w->y' with a letter for each axis, .*, got {equation!r}; write"
    )
    with pytest.raises(ValueError, match=text):
        nn.Einsum(equation, shape)


@pytest.mark.parametrize("shape", [(2,), (2, 0), (2, 3, 4), 6])
def test_a_shape_that_is_not_of_w(shape):
    text = f"must be a tuple of an int >= 1 for each letter of w, 'bc', got {shape!r}"
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.Einsum("ab,bc->ac", shape)


@pytest.mark.parametrize(
    ("equation", "x", "text"),
    [
        ("ab,bc->ac", jnp.ones((4, 3)), "axes 'ab', of sizes {'b': 2}, got float32[4,3]"),
        ("ab,bc->ac", jnp.ones((5, 4, 2)), "axes 'ab', of sizes {'b': 2}, got float32[5,4,2]"),
        ("...ab,bc->...ac", jnp.ones(2), "expected an input of shape (..., a, b), got float32[2]"),
    ],
)
def test_an_input_that_does_not_fit(equation, x, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.Einsum(equation, (2, 3)).init(KEY, x)
