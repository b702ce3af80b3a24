"""MixtureOfExperts: many copies of a layer, of which each token visits a few."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import Call, Outcome
from ..core.composite import Composite
from ..core.declarations import split_arrays
from ..core.layer import Layer, LayerLike
from ..explain.text import describe
from ..fields import is_traced
from ..functional.linear import floating_type, wider_type
from ..functional.routing import collect, dispatch, route
from ..functional.segments import check_segments
from ..initializers import lecun_normal
from ..layers.checks import check_positive, check_rank
from ..layers.dense import Dense
from ..masking import without_padding
from .capture import Tap
from .ensemble import Ensemble


class MixtureOfExperts(Composite):
    """y = sum of gate_i * expert_i(x) over the `top_k` experts that the router prefers.

    x is (..., T, n) and y (..., T, m), as `expert` makes of it; its parameters are stacked, with a
    leading axis of `experts`, copy i having the key `fold_in(key, i)`. The router, Dense(experts)
    by default, computes in at least float32; the gate is the softmax probability for top_k = 1, and
    for more those of the chosen, divided by their sum.

    Each expert takes ceil(capacity * top_k * T / experts) tokens of a sequence, first choices
    before second ones and early tokens before late ones; what comes later is dropped: it adds
    nothing to y, and a residual connection around passes it on. With
    capacity >= experts / top_k none is, and only then is the layer causal, and the same in pieces
    under `nn.with_cache`: else later first choices displace earlier second ones, and a shorter
    piece has fewer places. Sequences of a batch do not compete. Where the named input
    `segment_ids` (..., T) is 0, padding, a token takes no place and y is 0.

    The load-balancing loss, experts * sum_i f_i P_i, passes through the Tap `balance`: f_i is the
    share of assignments that go to expert i, P_i its mean probability. It is 1 at balance; train
    with a small multiple of it:

        net = nn.capture(net, "**/balance")
        y, taps = net.apply(params, x, key=key, train=True)
        loss = task(y, targets) + 0.01 * sum(jnp.mean(b) for b in taps.values())

    Raises ValueError for top_k > experts, capacity <= 0 and an input of fewer than two axes.

    Reference: Shazeer et al., Outrageously large neural networks: the sparsely-gated
    mixture-of-experts layer, 2017; Fedus et al., Switch transformers, 2021.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import GatedFeedForward
    >>> net, x = MixtureOfExperts(GatedFeedForward(16), experts=8), jnp.ones((2, 5, 4))
    >>> params = net.init(jax.random.key(0), x)
    >>> params["router"]["w"].shape, params["expert"]["up"]["w"].shape
    ((4, 8), (8, 4, 16))
    >>> net.apply(params, x).shape
    (2, 5, 4)
    """

    expert: LayerLike
    experts: int
    top_k: int = 2
    capacity: float = 1.25
    router: LayerLike | None = None
    balance: Layer = Tap()

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_positive(self, "experts", "top_k")
        if self.top_k > self.experts:
            raise ValueError(
                f"MixtureOfExperts.top_k is at most the number of experts, {self.experts}; got "
                f"{self.top_k}"
            )
        if is_traced(self.capacity):
            raise TypeError(
                f"MixtureOfExperts.capacity is the traced number {self.capacity}, but gives a "
                "shape: pass a Python number"
            )
        number = isinstance(self.capacity, int | float) and not isinstance(self.capacity, bool)
        if not number or not self.capacity > 0:
            raise ValueError(
                "MixtureOfExperts.capacity is how many times its even share an expert takes, a "
                f"number > 0; got {self.capacity!r}"
            )
        expert = self.expert.inner if isinstance(self.expert, Each) else self.expert
        object.__setattr__(self, "expert", Each(expert, self.experts))
        if self.router == self._default_router():  # as it comes back from nn.replace
            object.__setattr__(self, "router", None)

    def forward(self, x: jax.Array, segment_ids: jax.Array | None = None) -> jax.Array:
        """Each token's experts, weighted."""
        check_rank(self, x, 2, "(..., T, features)")
        tokens = x.shape[-2]
        if segment_ids is not None:
            check_segments(segment_ids, x.shape[:-1])
            x = without_padding(x, segment_ids)
        if x.size == 0:
            raise ValueError(f"wants at least one token, got {describe(x)}")
        sequences = x.astype(floating_type(x)).reshape(-1, *x.shape[-2:])
        marks = None if segment_ids is None else segment_ids.reshape(-1, tokens)
        wide = wider_type(sequences.dtype, jnp.float32)
        router, expert = self.router, self.expert
        logits = router(sequences.astype(wide), **_marks(router, marks)).astype(wide)  # type: ignore[misc]
        if logits.shape != (*sequences.shape[:-1], self.experts):
            raise ValueError(
                f"the router gives a number for each of {self.experts} experts, got "
                f"{describe(logits)} for {describe(sequences)}"
            )
        real = None if marks is None else marks != 0
        share = self.capacity * self.top_k * tokens / self.experts
        places = min(tokens, math.ceil(share))
        slots, gates, balance = route(logits, self.top_k, places, real)
        self.balance(balance)
        there = dispatch(sequences, slots, self.experts * places)
        split = there.reshape(-1, self.experts, places, x.shape[-1])
        found = expert(jnp.swapaxes(split, 0, 1), **_marks(expert, None))  # of no sequence
        back = jnp.swapaxes(found, 0, 1).reshape(-1, self.experts * places, found.shape[-1])
        y = collect(back, slots, gates).astype(sequences.dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _children(self) -> Any:
        return {"router": self._default_router(), **super()._children()}

    def _default_router(self) -> Layer:
        return Dense(self.experts, bias=False, w_init=lecun_normal())


def _marks(layer: Any, segment_ids: Any) -> dict[str, Any]:
    """The segment_ids of what a child gets, if it takes any, in place of those given by name."""
    return {"segment_ids": segment_ids} if "segment_ids" in layer.layer._takes("forward") else {}


class Each(Ensemble):
    """An Ensemble in which member i gets element i of each input; it prints as the member."""

    def _evaluate(self, call: Call) -> Outcome:
        mapped, join = split_arrays((call.inputs, call.named))

        def given(call: Call, each: Any) -> Call:
            inputs, named = join(each)
            return call.replace(inputs=inputs, named=named)

        return self._members(call, mapped, given)

    def __repr__(self) -> str:
        return repr(self.inner)
