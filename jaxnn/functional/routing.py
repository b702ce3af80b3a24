"""Routing of tokens to experts: who goes where, the way there and back, and the balance loss.

G groups of T tokens each go to k of E experts, of which each takes C tokens a group. An assignment
is one token's place at one expert: `slots` numbers the E * C places of a group, E * C standing for
none.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Routes(NamedTuple):
    """Where tokens go.

    slots (G, T, k) are places, gates (G, T, k) the weights of what comes back, 0 where a token has
    no place, and balance the load-balancing loss.
    """

    slots: jax.Array
    gates: jax.Array
    balance: jax.Array


def route(logits: jax.Array, k: int, capacity: int, real: jax.Array | None = None) -> Routes:
    """Routes for router logits (G, T, E), each token to the k experts of highest probability.

    Places go to first choices before second ones, and to earlier tokens before later ones; a token
    that comes too late has none, nor does one whose gate is 0. With k = 1 the gate is the expert's
    probability, with more the probabilities are divided by their sum. Tokens that are not `real`
    (G, T) take no place and do not count. `balance` is E * sum_i f_i P_i, f_i the share of
    assignments (before any is dropped) that go to expert i and P_i its mean probability: 1 where
    all are equal, E where one takes all.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[[9.0, 0.0], [8.0, 0.0], [0.0, 9.0]]])
    >>> route(logits, k=1, capacity=1).slots[..., 0].tolist()  # the second comes too late
    [[0, 2, 1]]
    """
    groups, tokens, experts = logits.shape
    probabilities = jax.nn.softmax(logits)
    gates, chosen = lax.top_k(probabilities, k)
    if k > 1:
        gates = gates / jnp.sum(gates, -1, keepdims=True)
    # One row for each assignment, all first choices before all second ones.
    goes = jax.nn.one_hot(jnp.swapaxes(chosen, 1, 2), experts, dtype=jnp.int32)
    if real is not None:
        goes = jnp.where(real[:, None, :, None], goes, 0)
    # A gate of 0 sends nothing: 0 * inf would come back from an expert that gives inf.
    sent = jnp.where(jnp.swapaxes(gates == 0, 1, 2)[..., None], 0, goes)
    rows = sent.reshape(groups, k * tokens, experts)
    before = (jnp.cumsum(rows, 1, dtype=jnp.int32) - rows).reshape(sent.shape)
    place = jnp.swapaxes(jnp.sum(before * sent, -1, dtype=jnp.int32), 1, 2)
    there = (jnp.swapaxes(jnp.sum(sent, -1, dtype=jnp.int32), 1, 2) == 1) & (place < capacity)
    slots = jnp.where(there, chosen * capacity + place, experts * capacity)
    gates = jnp.where(there, gates, jnp.zeros_like(gates))
    return Routes(slots, gates, _balance(probabilities, goes, real))


def _balance(probabilities: jax.Array, goes: jax.Array, real: jax.Array | None) -> jax.Array:
    if real is not None:
        probabilities = jnp.where(real[..., None], probabilities, jnp.zeros_like(probabilities))
    taken = jnp.sum(goes, (0, 1, 2)).astype(probabilities.dtype)
    total = jnp.maximum(jnp.sum(taken), 1)
    share, mean = taken / total, jnp.sum(probabilities, (0, 1)) * goes.shape[1] / total
    return probabilities.shape[-1] * jnp.sum(share * mean)


def dispatch(x: jax.Array, slots: jax.Array, places: int) -> jax.Array:
    """x (G, T, n) as (G, places, n): each token at its slots, zeros where a place is empty.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[1.0], [2.0], [3.0]]])
    >>> dispatch(x, jnp.array([[[2], [3], [0]]]), places=3)[0, :, 0].tolist()
    [3.0, 0.0, 1.0]
    """
    tokens, k = slots.shape[1:]

    def one(x: jax.Array, slots: jax.Array) -> jax.Array:
        # The inverse of `slots`: which token stands at a place; a gather of rows costs less than
        # scattering them, and less than the product with a one-hot matrix.
        who = jnp.repeat(jnp.arange(tokens), k)
        at = jnp.full(places, tokens, who.dtype).at[slots.reshape(-1)].set(who, mode="drop")
        return x.at[at].get(mode="fill", fill_value=0)

    return jax.vmap(one)(x, slots)


def collect(y: jax.Array, slots: jax.Array, gates: jax.Array) -> jax.Array:
    """y (G, places, n) as (G, T, n): each token the sum of what stands at its slots, by its gates.

    The sum is taken in the type of the gates. A token without a place gets zeros.

    >>> import jax.numpy as jnp
    >>> y, slots = jnp.array([[[3.0], [0.0], [1.0]]]), jnp.array([[[2], [3], [0]]])
    >>> collect(y, slots, jnp.full(slots.shape, 0.5))[0, :, 0].tolist()
    [0.5, 0.0, 1.5]
    """

    def one(y: jax.Array, slots: jax.Array, gates: jax.Array) -> jax.Array:
        rows = y.at[slots].get(mode="fill", fill_value=0).astype(gates.dtype)
        return jnp.sum(rows * gates[..., None], -2)

    return jax.vmap(one)(y, slots, gates)
