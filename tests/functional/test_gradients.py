"""What backward passes compute once, keep, and leave out, told by the programs themselves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.functional.gradients import dear, gradient_once, picked, silu, silu_product
from jaxnn.functional.normalization import moments
from tests.derivatives import check_derivatives
from tests.layers.agreement import KEY, normals

X = normals(0, 3, 4)


def program(f, *args):
    return str(jax.make_jaxpr(f)(*args))


def count(primitive, text):
    return len(re.findall(rf"= {primitive}\b", text))


def test_once_is_the_identity_with_every_derivative():
    check_derivatives(lambda x: jnp.sin(gradient_once(x)), X, order=2)
    assert count("optimization_barrier", program(gradient_once, X)) == 0


def test_silu_and_its_product_have_the_values_and_derivatives_of_jax():
    check_derivatives(silu, X, order=2)
    check_derivatives(lambda x: silu_product(jnp.cos(x), x), X, order=2)
    x = np.array([-1e4, -200.0, -88.5, -60.0, -20.0, -1.0, 0.0, 1.0, 30.0, 1e4], np.float32)
    for order in range(3):
        found, wanted, product = silu, jax.nn.silu, lambda x: silu_product(3 * x, x)
        other = lambda x: 3 * x * jax.nn.silu(x)  # noqa: E731
        for _ in range(order):
            found, wanted, product, other = map(jax.grad, (found, wanted, product, other))
        for one, two in ((found, wanted), (product, other)):
            one, two = (jax.jit(jax.vmap(f))(x) for f in (one, two))
            np.testing.assert_allclose(one, two, 1e-5, 1e-6)


@pytest.mark.parametrize("net", [nn.LayerNorm(), nn.RMSNorm(), nn.BatchNorm()], ids=repr)
def test_a_norms_gradient_is_computed_once(net):
    params, state = net.init(KEY, X), net.init_state(X)

    def total(x):
        y = net.apply(params, x, state=state, train=True)[0] if state else net.apply(params, x)
        return jnp.sum(y * X)

    # Without a gradient, the one of the mean, which keeps the differences to it out of memory.
    of_mean = 0 if isinstance(net, nn.RMSNorm) else 1
    assert count("optimization_barrier", program(total, X)) == of_mean
    assert count("optimization_barrier", program(jax.grad(total), X)) == 1


def test_the_variance_is_derived_without_the_sum_that_is_zero():
    """Two sums over x forward, and none backward, where a gradient spreads over x."""

    def sums(f, *args):
        equations = jax.make_jaxpr(f)(*args).jaxpr.eqns
        return sum(
            e.primitive.name == "reduce_sum" and e.invars[0].aval.shape == X.shape
            for e in equations
        )

    y, pull = jax.vjp(lambda x: moments(x, 0), X)
    assert sums(pull, y) == 0
    # The second derivative of the variance is 2 / n * (1 - 1 / n) and -2 / n**2.
    hessian = jax.jit(jax.hessian(lambda x: moments(x, 0)[1][0]))
    found = hessian(np.array([1.0, 4.0, 2.0], "f"))
    np.testing.assert_allclose(found, 2 / 3 * (np.eye(3) - 1 / 3), atol=1e-6)


def test_what_is_dear_is_computed_once():
    """A product, a convolution and random bits; a product in batches and a tanh are repeated."""
    w, kernel = normals(1, 4, 4), normals(2, 1, 4, 4)

    def f(x):
        x = jnp.tanh(x @ w)
        x = jnp.tanh(
            jax.lax.conv_general_dilated(
                x[None], kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
            )[0]
        )
        x = jnp.where(jax.random.bernoulli(KEY, 0.5, x.shape), x, 0)
        return jnp.sum(jnp.tanh(jnp.einsum("bi,bj->bij", x, x)) ** 2)

    def numbers(policy):
        text = program(jax.grad(jax.checkpoint(f, policy=policy)), X)
        return {name: count(name, text) for name in ("conv_general_dilated", "random_bits", "tanh")}

    kept, nothing = numbers(dear), numbers(None)
    # Forward and one gradient each for the convolution, which is not run a third time.
    assert (kept["conv_general_dilated"], nothing["conv_general_dilated"]) == (2, 3)
    assert (kept["random_bits"], nothing["random_bits"]) == (1, 2)
    assert kept["tanh"] == nothing["tanh"] == 6


def test_remat_refuses_another_word():
    with pytest.raises(
        ValueError, match=r"Remat\.keep must be 'nothing' or 'products', got 'dots'"
    ):
        nn.Remat(nn.Dense(3), keep="dots")  # type: ignore[arg-type]


def test_picked_is_an_index_with_every_derivative_and_without_a_scatter():
    index = np.array([3, 0, 2])
    np.testing.assert_array_equal(jax.jit(picked)(X, index), np.asarray(X)[np.arange(3), index])
    check_derivatives(lambda x: jnp.sin(picked(x, index)), X, order=2)
    text = program(jax.grad(lambda x: jnp.sum(picked(x, index))), X)
    assert "scatter" not in text and "select_n" in text
    rows = jax.jit(jax.vmap(picked, (None, 0)))(X, np.stack([index, index[::-1]]))
    np.testing.assert_array_equal(rows[1], np.asarray(X)[np.arange(3), [2, 0, 3]])


def test_a_large_vocabulary_has_a_gradient_without_a_scatter():
    """It would be written to memory, three times the size of the logits in bfloat16."""
    task, labels = train.NextToken(50), jnp.array([7, 49, -100])
    text = program(jax.grad(lambda x: task(x, labels)), normals(0, 3, 50))
    assert "scatter" not in text
