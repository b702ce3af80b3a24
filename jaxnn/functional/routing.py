"""Routing of tokens to experts: assignment, dispatch, collection, and the load-balancing loss.

Each of G groups has T tokens. A token goes to k of E experts, and an expert takes at most C tokens
of a group. Each group has E * C slots, C for each expert; the value E * C marks an assignment
without a slot.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Routes(NamedTuple):
    """Assignment of tokens to slots.

    Args:
        slots: Integers (G, T, k), the slot of each assignment; E * C if it has none.
        gates: Floating array (G, T, k), the weights of the experts' outputs; 0 without a slot.
        balance: Scalar, the load-balancing loss.
    """

    slots: jax.Array
    gates: jax.Array
    balance: jax.Array


def route(logits: jax.Array, k: int, capacity: int, real: jax.Array | None = None) -> Routes:
    """Assign each token to the k experts of highest probability.

    First choices get slots before second choices, and earlier tokens before later ones. An
    assignment gets no slot if its expert is full or its gate is 0. The load-balancing loss is
    E * sum_i f_i P_i, with f_i the fraction of assignments that choose expert i (before any is
    dropped) and P_i its mean probability: 1 if all are equal, E if one expert takes all tokens.

    Args:
        logits: Router logits (G, T, E).
        k: Number of experts for each token. If k = 1, the gate is the expert's probability;
            otherwise the k probabilities are divided by their sum.
        capacity: C, the number of tokens that an expert takes of each group.
        real: Booleans (G, T). Tokens marked False get no slot and are not counted. Default: all
            True.
    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[[9.0, 0.0], [8.0, 0.0], [0.0, 9.0]]])
    >>> route(logits, k=1, capacity=1).slots[..., 0].tolist()  # the second token gets no slot
    [[0, 2, 1]]
    """
    groups, tokens, experts = logits.shape
    probabilities = jax.nn.softmax(logits)
    gates, chosen = lax.top_k(probabilities, k)
    if k > 1:
        gates = gates / jnp.sum(gates, -1, keepdims=True)
    # One row for each assignment: all first choices precede all second choices.
    goes = jax.nn.one_hot(jnp.swapaxes(chosen, 1, 2), experts, dtype=jnp.int32)
    if real is not None:
        goes = jnp.where(real[:, None, :, None], goes, 0)
    # An assignment with a gate of 0 gets no slot: 0 * inf would be NaN for an infinite output.
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
    """Gather tokens into slots; empty slots are zeros.

    Args:
        x: Tokens of shape (G, T, n).
        slots: Integers of shape (G, T, k), the slots of each token.
        places: Number of slots, E * C.

    Returns:
        Array of shape (G, places, n).

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[1.0], [2.0], [3.0]]])
    >>> dispatch(x, jnp.array([[[2], [3], [0]]]), places=3)[0, :, 0].tolist()
    [3.0, 0.0, 1.0]
    """
    tokens, k = slots.shape[1:]

    def one(x: jax.Array, slots: jax.Array) -> jax.Array:
        # Invert `slots` to find the token of each slot. A gather of rows costs less than scattering
        # them, and less than a product with a one-hot matrix.
        who = jnp.repeat(jnp.arange(tokens), k)
        at = jnp.full(places, tokens, who.dtype).at[slots.reshape(-1)].set(who, mode="drop")
        return x.at[at].get(mode="fill", fill_value=0)

    return jax.vmap(one)(x, slots)


def collect(y: jax.Array, slots: jax.Array, gates: jax.Array) -> jax.Array:
    """Sum the slots of each token, weighted by its gates; tokens without a slot get zeros.

    Args:
        y: Outputs of experts, of shape (G, places, n).
        slots: Integers of shape (G, T, k), the slots of each token.
        gates: Weights of shape (G, T, k).

    Returns:
        Array of shape (G, T, n), in the type of the gates.

    >>> import jax.numpy as jnp
    >>> y, slots = jnp.array([[[3.0], [0.0], [1.0]]]), jnp.array([[[2], [3], [0]]])
    >>> collect(y, slots, jnp.full(slots.shape, 0.5))[0, :, 0].tolist()
    [0.5, 0.0, 1.5]
    """

    def one(y: jax.Array, slots: jax.Array, gates: jax.Array) -> jax.Array:
        rows = y.at[slots].get(mode="fill", fill_value=0).astype(gates.dtype)
        return jnp.sum(rows * gates[..., None], -2)

    return jax.vmap(one)(y, slots, gates)
