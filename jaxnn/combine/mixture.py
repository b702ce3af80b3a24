"""MixtureOfExperts: many copies of a layer, a few of which process each token.

In the routing, each of G groups has T tokens. A token goes to k of E experts, and an expert takes
at most C tokens of a group. Each group has E * C slots, C for each expert; the value E * C marks an
assignment without a slot.
"""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..arrays import without_padding
from ..core.calls import Call, Outcome
from ..core.composite import Composite
from ..core.declarations import split_arrays
from ..core.layer import Layer, LayerLike
from ..functional.linear import floating_type, wider_type
from ..functional.segments import check_segments
from ..initializers import lecun_normal
from ..layers import check_not_empty, check_sequence, positive_size
from ..layers.linear import Dense
from ..validation import above, check_shape, integer, positive
from .transforms import Ensemble, Tap

# It sets a shape, so it may not be traced.
_CAPACITY = above(0).such(traced=False)


class MixtureOfExperts(Composite):
    """Mixture of experts: `y = sum_i gate_i * expert_i(x)` over `top_k` experts for each token.

    x has shape (..., T, n) and y (..., T, m), with m the output features of `expert`. The experts'
    parameters are stacked along a leading axis; copy i is initialized with `fold_in(key, i)`. The
    router computes in at least float32. The gate is the softmax probability if top_k = 1;
    otherwise the probabilities of the chosen experts are divided by their sum.

    Each expert takes at most ceil(capacity * top_k * T / experts) tokens of a sequence; first
    choices precede second choices, and early tokens precede late ones. Assignments over the
    capacity are dropped: they add nothing to y, so the layer needs a residual connection around it.
    Sequences of a batch do not compete. Nothing is dropped if capacity >= experts / top_k, and only
    then is the layer causal and independent of the chunks of `nn.with_cache`. Tokens for which the
    named input `segment_ids` (..., T) is 0 are padding: they take no capacity, and y is 0.

    The load-balancing loss is experts * sum_i f_i P_i, with f_i the fraction of assignments to
    expert i and P_i its mean probability. It is 1 at perfect balance. The layer passes it to
    `balance`, so that training can add a small multiple of it:

        net = nn.capture(net, "**/balance")
        y, taps = net.apply(params, x, key=key, train=True)
        loss = task(y, targets) + 0.01 * sum(jnp.mean(b) for b in taps.values())

    Args:
        expert: Layer to copy, from n to m features.
        experts: Number of experts.
        top_k: Number of experts for each token. Default: 2.
        capacity: Capacity of an expert relative to an even distribution, a number > 0. Default:
            1.25.
        router: Layer from n features to `experts` logits. Default: `Dense(experts, bias=False)`.
        balance: Layer that receives the load-balancing loss. Default: `Tap()`.

    Raises:
        ValueError: If top_k > experts, if capacity <= 0, or if the input has fewer than two axes.

    References: Shazeer et al., Outrageously large neural networks: the sparsely-gated
    mixture-of-experts layer, 2017; Fedus et al., Switch transformers, 2021.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import GatedFeedForward
    >>> net, x = MixtureOfExperts(GatedFeedForward(16), experts=8), jnp.ones((2, 5, 4))
    >>> params = net.init(jax.random.key(0), x)
    >>> params["router"]["w"].shape, params["expert"]["up"]["w"].shape
    ((4, 8), (8, 4, 16))
    >>> jax.jit(net.apply)(params, x).shape
    (2, 5, 4)
    """

    expert: LayerLike
    experts: Annotated[int, positive_size]
    top_k: Annotated[int, positive] = 2
    capacity: Annotated[float, _CAPACITY] = 1.25
    router: LayerLike | None = None
    balance: Layer = Tap()

    def __post_init__(self) -> None:
        """Check the number of choices, and copy the expert."""
        integer(1, self.experts)(self.top_k, "MixtureOfExperts.top_k")
        expert = self.expert.inner if isinstance(self.expert, Each) else self.expert
        object.__setattr__(self, "expert", Each(expert, self.experts))
        if self.router == self._default_router():  # as nn.replace returns it
            object.__setattr__(self, "router", None)

    def forward(self, x: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """Return the weighted outputs of each token's experts."""
        check_sequence(x)
        check_not_empty(x, range(x.ndim), "at least one token")
        tokens = x.shape[-2]
        if segment_ids is not None:
            check_segments(segment_ids, x.shape[:-1])
            x = without_padding(x, segment_ids)
        sequences = x.astype(floating_type(x)).reshape(-1, *x.shape[-2:])
        marks = None if segment_ids is None else segment_ids.reshape(-1, tokens)
        wide = wider_type(sequences.dtype, jnp.float32)
        router, expert = self.router, self.expert
        logits = router(sequences.astype(wide), **_marks(router, marks)).astype(wide)  # type: ignore[misc]
        shape = (*sequences.shape[:-1], self.experts)
        check_shape(logits, shape, "the output of the router", "it has a logit for each expert")
        real = None if marks is None else marks != 0
        share = self.capacity * self.top_k * tokens / self.experts
        places = min(tokens, math.ceil(share))
        slots, gates, balance = route(logits, self.top_k, places, real)
        self.balance(balance)
        there = gather_tokens(sequences, slots, self.experts * places)
        split = there.reshape(-1, self.experts, places, x.shape[-1])
        found = expert(jnp.swapaxes(split, 0, 1), **_marks(expert, None))  # not a sequence
        back = jnp.swapaxes(found, 0, 1).reshape(-1, self.experts * places, found.shape[-1])
        y = collect(back, slots, gates).astype(sequences.dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _children(self) -> Any:
        return {"router": self._default_router(), **super()._children()}

    def _default_router(self) -> Layer:
        return Dense(self.experts, bias=False, w_init=lecun_normal())


def _marks(layer: Any, segment_ids: Any) -> dict[str, Any]:
    """Return the segment_ids to pass to a child that takes them, instead of the network's."""
    return {"segment_ids": segment_ids} if "segment_ids" in layer.layer._takes("forward") else {}


class Each(Ensemble):
    """An Ensemble whose member i receives element i of each input. Its repr is the member's."""

    def _evaluate(self, call: Call) -> Outcome:
        mapped, join = split_arrays((call.inputs, call.named))

        def given(call: Call, each: Any) -> Call:
            inputs, named = join(each)
            return call.replace(inputs=inputs, named=named)

        return self._members(call, mapped, given)

    def __repr__(self) -> str:
        return repr(self.inner)


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


def gather_tokens(x: jax.Array, slots: jax.Array, places: int) -> jax.Array:
    """Gather tokens into slots; empty slots are zeros.

    Args:
        x: Tokens of shape (G, T, n).
        slots: Integers of shape (G, T, k), the slots of each token.
        places: Number of slots, E * C.

    Returns:
        Array of shape (G, places, n).

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[1.0], [2.0], [3.0]]])
    >>> gather_tokens(x, jnp.array([[[2], [3], [0]]]), places=3)[0, :, 0].tolist()
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
