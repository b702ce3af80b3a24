"""Speculative decoding: a draft network guesses tokens, and the network checks several at once.

After each check, both states are set back to the last token that was accepted. Later keys and
values remain in the caches: their positions are later than that of any query, so the mask excludes
them until they are overwritten.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..core import paths
from ..core.layer import Layer
from ..fields import is_traced
from ..layers.attention import MultiHeadAttention
from ..layers.positions import LearnedPositions, SinusoidalPositions
from ..surgery.function_preserving import with_cache
from ..tree import layers
from ..validation import Accepts, one_of, positive
from .prompts import Prompts, Start, advance, check_prompts, filled_rows, is_stop

_CALL = "write nn.generate(..., temperature=0, draft=(small, small_params), draft_tokens=4)"
_pair = Accepts(
    "None, or a pair of a network and its parameters",
    lambda v: isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], Layer),
    TypeError,
    _CALL,
    abstract=True,
)
_greedy = Accepts("0", lambda v: not is_traced(v) and v == 0, hint=_CALL, abstract=True)
_shortened = Accepts(
    "nn.MultiHeadAttention without a window shorter than the sequence, or an encoding of "
    "positions, so that rejected tokens can be removed",
    lambda layer: (
        isinstance(layer, MultiHeadAttention) and (layer.window or layer.cache) >= layer.cache
    ),
    hint="generate without a draft",
)


class _Loop(NamedTuple):
    """Carry of the loop over checks."""

    step: jax.Array
    token: jax.Array
    state: Any
    draft_state: Any
    done: jax.Array
    tokens: jax.Array
    broken: jax.Array


def check_draft(
    net: Layer, draft: Any, draft_tokens: Any, temperature: Any, prompts: Prompts, steps: int
) -> int:
    """Raise ValueError or TypeError unless a draft can guess tokens for a network.

    Returns:
        The number of positions in the caches besides those of the prompts: the last check may read
        all guesses after the last new token.
    """
    positive(draft_tokens, "draft_tokens", hint=_CALL)
    _pair(draft, "draft")
    _greedy(temperature, "temperature with a draft")
    inputs = for_draft(draft[0], prompts).inputs
    vocabulary = check_prompts(draft[0], prompts.tokens, inputs)[0].vocabulary
    what = f"the vocabulary of the network, {prompts.vocabulary} tokens"
    one_of(prompts.vocabulary).such(what=what)(vocabulary, "the vocabulary of the draft")
    room = steps - 1 + draft_tokens
    for one in (net, draft[0]):
        _counters(with_cache(one, prompts.tokens.shape[1] + room))
    return room


def for_draft(net: Layer, prompts: Prompts) -> Prompts:
    """Return prompts with the named inputs that a draft takes."""
    taken = net._takes("forward")
    inputs = {name: item for name, item in prompts.inputs.items() if name in taken}
    return prompts._replace(inputs=inputs)


def speculate(
    net: Layer, draft: Layer, steps: int, n: int, start: Start, guess: Start, stop: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return new tokens, their number in each row, and the step of each row's first NaN, or -1.

    Args:
        net: Network with a cache.
        draft: Draft network with a cache.
        steps: Maximum number of new tokens.
        n: Number of tokens that the draft guesses at a time.
        start: What the network continues from.
        guess: What the draft continues from.
        stop: Tokens that end a row.
    """
    counters, draft_counters = _counters(net), _counters(draft)
    place = jnp.arange(n + 1)

    def going(loop: _Loop) -> jax.Array:
        return (loop.step < steps) & ~jnp.all(loop.done)

    def guessed(carry: Any, _: None) -> Any:
        token, state = carry
        logits, state = advance(draft, guess, token[:, None], state)
        token = jnp.argmax(logits[:, 0], -1).astype(jnp.int32)
        return (token, state), token

    def check(loop: _Loop) -> _Loop:
        # The draft reads its last guess, too, which the network may accept.
        before = loop.token, loop.draft_state
        (_, draft_state), guesses = lax.scan(guessed, before, length=n + 1)
        guesses = guesses[:n].T
        chunk = jnp.concatenate([loop.token[:, None], guesses], 1)
        logits, state = advance(net, start, chunk, loop.state)
        found = jnp.argmax(logits, -1).astype(jnp.int32)
        right = jnp.cumprod((guesses == found[:, :n]).astype(jnp.int32), 1).sum(1)
        right = jnp.min(jnp.where(loop.done, n, right))
        new = (place <= right) & (loop.step + place < steps)
        stops = is_stop(found, stop) & new
        before_stop = jnp.cumsum(stops.astype(jnp.int32), 1) - stops == 0
        wrong = jnp.any(jnp.isnan(logits), -1) & new & before_stop & ~loop.done[:, None]
        first = jnp.where(jnp.any(wrong, 1), loop.step + jnp.argmax(wrong, 1), -1)
        return _Loop(
            loop.step + right + 1,
            jnp.take(found, right, 1),
            _set_back(state, counters, n - right),
            _set_back(draft_state, draft_counters, n - right),
            loop.done | jnp.any(stops, 1),
            lax.dynamic_update_slice_in_dim(loop.tokens, found, loop.step, 1),
            jnp.where(loop.broken < 0, first, loop.broken).astype(jnp.int32),
        )

    none = jnp.zeros(start.token.shape, jnp.int32)
    tokens = jnp.zeros((*none.shape, steps + n), jnp.int32)
    begun = jnp.int32(0), start.token, start.state, guess.state, none > 0, tokens, none - 1
    end = lax.while_loop(going, check, _Loop(*begun))
    tokens = end.tokens[:, :steps]
    stops = is_stop(tokens, stop)
    lengths = jnp.where(jnp.any(stops, 1), jnp.argmax(stops, 1) + 1, steps).astype(jnp.int32)
    return filled_rows(tokens, lengths), lengths, end.broken


def _counters(net: Layer) -> set[paths.Path]:
    """Return the paths of the numbers of positions in the state of a network with a cache.

    Raises ValueError if a cache cannot be set back, because later tokens replace earlier ones.
    """
    found: set[paths.Path] = set()
    for path, layer in layers(net):
        if not getattr(layer, "cache", 0):
            continue
        if isinstance(layer, LearnedPositions | SinusoidalPositions):
            found |= {(*path, "position")}
            continue
        _shortened(layer, f"with a draft, the layer with a cache at {paths.text(path)!r}")
        found |= {(*path, "written"), (*path, "count", "position")}
    return found


def _set_back(state: Any, counters: set[paths.Path], n: jax.Array) -> Any:
    """Return the state before the last n positions."""
    return paths.map_with_path(lambda path, a: a - n if path in counters else a, state)
