"""Decoding by other rules than token by token: beam search, and speculative decoding.

`beam_search` finds the most probable sequences, by the same rules as in transformers.

In speculative decoding, a draft network guesses tokens, and the network checks several at once.
After each check, both states are set back to the last token that was accepted. Later keys and
values remain in the caches: their positions are later than that of any query, so the mask excludes
them until they are overwritten.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import paths
from ..core.layer import Layer
from ..fields import is_traced
from ..layers.attention import MultiHeadAttention
from ..layers.positions import LearnedPositions, SinusoidalPositions
from ..surgery.function_preserving import with_cache
from ..tree import check_layer, layers
from ..validation import Accepts, integer, number, one_of, positive
from .prompts import (
    Prompts,
    Start,
    advance,
    as_stop,
    check_logits,
    check_prompts,
    compiled,
    empty_state,
    filled_rows,
    is_stop,
    read_prompts,
)


class Beams(NamedTuple):
    """The most probable sequences of each row, the best one first.

    New tokens, int32 (rows, results, steps), the number of them, int32 (rows, results), and scores
    (rows, results). The stop token that ends a sequence is counted, and is repeated to fill the
    rest.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


def beam_search(
    net: Layer,
    params: Any,
    prompts: Any,
    *,
    steps: int,
    beams: int = 4,
    results: int = 1,
    length_penalty: Any = 1.0,
    stop: Sequence[int] | np.ndarray | jax.Array = (),
    state: Any = None,
    **inputs: Any,
) -> Beams:
    """Find the most probable continuations of each prompt by beam search.

    The score of n new tokens y is

        sum_i log p(y_i | prompt, y_1 .. y_{i-1}) / n**length_penalty

    At each step, every running sequence is extended by every token, and the `beams` most probable
    ones that do not end with a stop token continue. Sequences that end among the `beams` best
    extensions are kept if they are among the `beams` best results so far. A row ends if its most
    probable running sequence, at its current length, does not have a higher score than the worst of
    these results. These rules are those of transformers'
    `generate(num_beams=beams, num_return_sequences=results)`.

    Args:
        net: Causal network, as for `nn.generate`.
        params: Its parameters.
        prompts: Integers (rows, T), a list of rows of different lengths, or one prompt (T,), as for
            `nn.generate`.
        steps: Maximum number of new tokens, at least 1.
        beams: Number of running sequences for each prompt, at least 1. Default: 4.
        results: Number of sequences to return for each prompt, from 1 to `beams`. Default: 1.
        length_penalty: Exponent of the length in the score: 0 for the log probability, 1 for the
            mean per token; larger values prefer longer sequences. Default: 1.
        stop: Tokens that end a sequence. Default: ().
        state: State of the network, if it keeps any. Default: None.
        **inputs: Named inputs, as for `nn.generate`: arrays (rows, ...), such as `memory`.

    Returns:
        `Beams` of `tokens` (rows, results, steps), `lengths` (rows, results), and `scores` (rows,
        results), without the axis of rows for one prompt. If fewer than `results` sequences exist,
        the last scores are -infinity.

    Raises:
        ValueError: If a number is out of range, or as for `nn.generate`.
        TypeError: As for `nn.generate`.

    References: Graves, Sequence transduction with recurrent neural networks, 2012; Wu et al.,
    Google's neural machine translation system, 2016.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> from jaxnn.models import GPT
    >>> net = GPT(layers=1, width=8, num_heads=2, length=16).network(outputs=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 4), int))
    >>> found = beam_search(net, params, [[1, 2, 3], [4]], steps=5, beams=3, results=2)
    >>> found.tokens.shape, found.lengths.tolist()
    ((2, 2, 5), [[5, 5], [5, 5]])
    """
    call = "nn.beam_search(net, params, prompts, steps=100)"
    positive(steps, "steps", hint=f"write {call}")
    positive(beams, "beams", hint=f"write {call[:-1]}, beams=4)")
    integer(1, beams)(results, "results", hint=f"the number of sequences out of beams={beams}")
    number()(length_penalty, "length_penalty")
    check_layer(net, call)
    given, single = check_prompts(net, prompts, inputs)
    net, start = read_prompts(
        net, params, given, steps - 1, state
    )  # the last new token is not an input
    penalty = jnp.asarray(length_penalty, jnp.float32)
    search = compiled(_search, net, steps, beams)
    found, broken = search(start, penalty, as_stop(stop))
    check_logits(broken, given.tokens.shape[1])
    found = Beams(*(a[:, :results] for a in found))
    return Beams(*(a[0] for a in found)) if single else found


class _Sequences(NamedTuple):
    """Carry of the loop over tokens: running sequences (rows, beams, ...), and results."""

    step: jax.Array
    token: jax.Array
    state: Any
    tokens: jax.Array
    scores: jax.Array
    best: Beams
    open: jax.Array
    broken: jax.Array


def _search(
    net: Layer, steps: int, beams: int, start: Start, penalty: jax.Array, stop: jax.Array
) -> tuple[Beams, jax.Array]:
    """Return the best sequences, and the step of each row's first NaN, or -1."""
    rows = start.token.shape[0]
    axes = _row_axes(net, start)

    def take(state: Any, index: jax.Array) -> Any:
        def leaf(a: jax.Array, axis: int) -> jax.Array:
            return a if axis < 0 else jnp.take(a, index, axis)

        return jax.tree.map(leaf, state, axes)

    first = jnp.arange(rows)[:, None] * beams  # index of each row's first running sequence
    copies = jnp.repeat(jnp.arange(rows), beams)
    wide = start._replace(
        marks={name: jnp.take(a, copies, 0) for name, a in start.marks.items()},
        inputs={name: jnp.take(a, copies, 0) for name, a in start.inputs.items()},
    )

    def going(loop: _Sequences) -> jax.Array:
        return (loop.step < steps) & jnp.any(loop.open)

    def step(loop: _Sequences) -> _Sequences:
        logits, state = advance(net, wide, loop.token.reshape(-1, 1), loop.state)
        logits = logits.reshape(rows, beams, -1)
        vocabulary = logits.shape[-1]
        total = (loop.scores[..., None] + jax.nn.log_softmax(logits)).reshape(rows, -1)
        # Enough candidates to continue with all beams, whichever candidates stop.
        several = min(max(2, 1 + stop.size) * beams, beams * vocabulary)
        scores, place = lax.top_k(total, several)
        parent, token = jnp.divmod(place.astype(jnp.int32), vocabulary)
        tokens = _pick(loop.tokens, parent)
        tokens = lax.dynamic_update_slice_in_dim(tokens, token[..., None], loop.step, 2)
        ends = is_stop(token, stop) | (loop.step == steps - 1)

        length = loop.step + 1
        per_length = length.astype(jnp.float32) ** penalty
        counted = ends & (jnp.arange(several) < beams) & loop.open[:, None]
        added = jnp.where(counted, scores / per_length, -jnp.inf)
        lengths = jnp.broadcast_to(length, added.shape)
        both = (
            jnp.concatenate([old, new], 1)
            for old, new in zip(loop.best, (tokens, lengths, added), strict=True)
        )
        best = _best(Beams(*both), beams)

        scores, kept = lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
        parent, token, tokens = (_pick(a, kept) for a in (parent, token, tokens))
        improves = scores[:, 0] / per_length > jnp.min(best.scores, 1)
        wrong = jnp.any(jnp.isnan(logits), (1, 2)) & loop.open & (loop.broken < 0)
        return _Sequences(
            length,
            token,
            take(state, (first + parent).reshape(-1)),
            tokens,
            scores,
            best,
            loop.open & improves,
            jnp.where(wrong, loop.step, loop.broken),
        )

    none = jnp.zeros((rows, beams), jnp.int32)
    tokens = jnp.zeros((rows, beams, steps), jnp.int32)
    worst = jnp.full((rows, beams), -jnp.inf)
    one = worst.at[:, 0].set(0.0)  # all others begin as copies, which must not count
    token = jnp.broadcast_to(start.token[:, None], none.shape)
    empty = Beams(tokens, none + 1, worst)
    state, row = take(start.state, copies), none[:, 0]
    begun = _Sequences(jnp.int32(0), token, state, tokens, one, empty, row == 0, row - 1)
    end = lax.while_loop(going, step, begun)
    return end.best._replace(tokens=filled_rows(end.best.tokens, end.best.lengths)), end.broken


def _best(found: Beams, beams: int) -> Beams:
    """Return the sequences with the highest scores."""
    scores, kept = lax.top_k(found.scores, beams)
    return Beams(_pick(found.tokens, kept), _pick(found.lengths, kept), scores)


def _pick(a: jax.Array, index: jax.Array) -> jax.Array:
    """Return the elements of each row of `a` (rows, n, ...) at `index` (rows, m)."""
    return jax.vmap(lambda a, i: a[i])(a, index)


def _row_axes(net: Layer, start: Start) -> Any:
    """Return the axis of each array of the state that grows with the number of rows, or -1."""
    rows = start.token.shape[0]

    def begun(rows: int) -> Any:
        shapes = {
            name: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype)
            for name, a in start.inputs.items()
        }
        return jax.eval_shape(lambda: empty_state(net, rows, start.marks, shapes))

    def axis(a: Any, b: Any) -> int:
        grows = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
        return grows[0] if grows else -1

    return jax.tree.map(axis, begun(rows), begun(rows + 1))


# ---- speculative decoding ----

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


class _Checks(NamedTuple):
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

    def going(loop: _Checks) -> jax.Array:
        return (loop.step < steps) & ~jnp.all(loop.done)

    def guessed(carry: Any, _: None) -> Any:
        token, state = carry
        logits, state = advance(draft, guess, token[:, None], state)
        token = jnp.argmax(logits[:, 0], -1).astype(jnp.int32)
        return (token, state), token

    def check(loop: _Checks) -> _Checks:
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
        return _Checks(
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
    end = lax.while_loop(going, check, _Checks(*begun))
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
