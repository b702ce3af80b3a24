"""What a backward pass computes once, and what it keeps."""

from typing import Any

import jax
from jax import lax


@jax.custom_jvp
def gradient_once(x: jax.Array) -> jax.Array:
    """x itself; its gradient is computed before anything takes it.

    A CPU's compiler otherwise computes a long elementwise chain, such as the gradient of a
    normalisation, anew inside each product that takes it, element by element.

    >>> import jax, jax.numpy as jnp
    >>> float(jax.grad(lambda x: jnp.sin(gradient_once(x)))(0.0))
    1.0
    """
    return x


@gradient_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    # A barrier on the tangent becomes, transposed, one on the gradient.
    return primals[0], lax.optimization_barrier(tangents[0])


def dear(primitive: Any, *_: Any, **params: Any) -> bool:
    """A policy of `jax.checkpoint`: keep matrix products, convolutions and random bits.

    Products in batches, as of queries and keys, are few operations for the memory they take: they
    are computed again.

    >>> import jax, jax.numpy as jnp
    >>> f = jax.checkpoint(lambda x, w: jnp.sum(jnp.sin(x @ w)), policy=dear)
    >>> jax.make_jaxpr(jax.grad(f))(jnp.ones(2), jnp.ones((2, 3))).pretty_print().count("= dot_gen")
    2
    """
    if primitive.name == "dot_general":
        (_, _), (batch, _) = params["dimension_numbers"]
        return not batch
    return primitive.name in ("conv_general_dilated", "random_bits")
