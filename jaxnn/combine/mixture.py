"""MixtureOfExperts: many copies of a layer, a few of which process each token."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core.calls import Call, Outcome
from ..core.composite import Composite
from ..core.declarations import split_arrays
from ..core.layer import Layer, LayerLike
from ..explain.text import describe
from ..functional.linear import floating_type, wider_type
from ..functional.routing import collect, dispatch, route
from ..functional.segments import check_segments
from ..initializers import lecun_normal
from ..layers.checks import check_not_empty, check_sequence, positive_size
from ..layers.linear import Dense
from ..masking import without_padding
from ..validation import above, integer, positive
from .capture import Tap
from .transforms import Ensemble

# It sets a shape, so it may not be traced.
_CAPACITY = above(0).such(traced=False)


class MixtureOfExperts(Composite):
    """Mixture of experts: `y = sum_i gate_i * expert_i(x)` over `top_k` experts for each token.

    x has shape (..., T, n) and y (..., T, m), with m the output features of `expert`. The experts'
    parameters are stacked along a leading axis; copy i is initialized with `fold_in(key, i)`. The
    router computes in at least float32. The gate is the softmax probability if top_k = 1;
    otherwise the probabilities of the chosen experts are divided by their sum.

    Each expert takes at most ceil(capacity * top_k * T / experts) tokens of a sequence; first
    choices precede second choices, and early tokens precede late ones. Tokens over the capacity are
    dropped: they add nothing to y, so the layer needs a residual connection around it. Sequences of
    a batch do not compete. No tokens are dropped if capacity >= experts / top_k, and only then is
    the layer causal and independent of the chunks of `nn.with_cache`. If the named input
    `segment_ids` (..., T) is 0, the token is padding: it takes no capacity and its y is 0.

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
        if logits.shape != (*sequences.shape[:-1], self.experts):
            raise ValueError(
                f"the router must return a logit for each of {self.experts} experts, got "
                f"{describe(logits)} for {describe(sequences)}"
            )
        real = None if marks is None else marks != 0
        share = self.capacity * self.top_k * tokens / self.experts
        places = min(tokens, math.ceil(share))
        slots, gates, balance = route(logits, self.top_k, places, real)
        self.balance(balance)
        there = dispatch(sequences, slots, self.experts * places)
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
