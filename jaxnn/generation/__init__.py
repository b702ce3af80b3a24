"""generate: continue prompts with a causal network, token by token.

Two programs are compiled. The first (`prompts`) reads all tokens of the prompts except the last
ones and returns the state of the network's caches. The second is a loop over new tokens, in one
dispatch, that ends when all rows have stopped. It samples tokens; those of `decoding` check the
guesses of a `draft` network, or extend several sequences for each prompt. The temperature, k, p,
and the stop tokens are arguments of the program, so changing them does not recompile.

Tokens are sampled by transforms of logits, which compose:

    jax.random.categorical(key, top_p(top_k(with_temperature(logits, 0.8), 40), 0.95))

Logits have shape (..., vocabulary) and any floating type, which the result keeps. Excluded tokens
get -infinity. The temperature, k, and p may be traced.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core.layer import Layer
from ..fields import is_traced
from ..keys import as_key
from ..tree import check_layer
from ..validation import Accepts, positive
from .decoding import check_draft, for_draft, speculate
from .prompts import (
    Start,
    advance,
    as_stop,
    check_logits,
    check_prompts,
    compiled,
    filled_rows,
    is_stop,
    read_prompts,
)


class Generation(NamedTuple):
    """New tokens, int32 (rows, steps), and the number of them in each row, int32 (rows,).

    The stop token that ends a row is counted, and is repeated to fill the rest of the row.
    """

    tokens: jax.Array
    lengths: jax.Array


def generate(
    net: Layer,
    params: Any,
    prompts: Any,
    *,
    steps: int,
    state: Any = None,
    key: jax.Array | None = None,
    temperature: Any = 1.0,
    top_k: Any = None,
    top_p: Any = None,
    stop: Sequence[int] | np.ndarray | jax.Array = (),
    draft: tuple[Layer, Any] | None = None,
    draft_tokens: int = 4,
    **inputs: Any,
) -> Generation:
    """Continue each prompt by up to `steps` tokens, sampled from a causal network.

    Tokens are drawn from softmax(logits / temperature), restricted to the most probable tokens by
    `top_k` and then by `top_p`. Logits are converted to at least float32. Layers in a `Repeat` are
    unstacked first, because a scan would read each layer's parameters from a stack at each token;
    this copies their parameters once per call. To generate repeatedly, or from a network with
    state, pass the result of `nn.unstack_layers`. For the most probable sequences, see
    `nn.beam_search`.

    A decoder with cross attention takes the output of the encoder as a named input,
    `memory=encoder.apply(...)`. XLA computes what does not change from token to token before the
    loop, such as the keys and values of the memory.

    With `draft`, decoding is speculative: a smaller network guesses `draft_tokens` tokens one by
    one, and the network checks all of them in one call. It keeps those that it would have generated
    itself, and adds one, so the result is the same as without a draft (up to rounding, which
    differs between calls with one token and with several). All rows advance together, so the row
    with the fewest correct guesses determines the speed.

    Args:
        net: Causal network, from tokens (rows, T) to logits (rows, T, vocabulary). It is run in
            inference mode with a cache, by `nn.with_cache`.
        params: Its parameters.
        prompts: Integers (rows, T), or a list of rows of different lengths, which are padded on the
            left and marked by `segment_ids`; or one prompt (T,); the result then has no axis of
            rows.
        steps: Maximum number of new tokens, at least 1.
        state: State of the network, if it keeps any, such as `ts.state`. Default: None.
        key: PRNG key; not needed if `temperature` is 0. Default: None.
        temperature: Number >= 0; 0 takes the most probable token. Default: 1.
        top_k: Keep only the k most probable tokens, an int >= 1. Default: None.
        top_p: Keep only the smallest set of most probable tokens with total probability at least p,
            in (0, 1]. Default: None.
        stop: Tokens that end a row. Default: ().
        draft: Pair of a causal network with the same vocabulary and its parameters, which guesses
            tokens; `temperature` must be 0. Default: None.
        draft_tokens: Number of tokens that the draft guesses at a time, at least 1. Default: 4.
        **inputs: Named inputs, such as `memory` and `memory_segment_ids`: arrays (rows, ...),
            without the axis of rows for one prompt. They are passed to every layer that takes them,
            in each call, and to the draft if it takes them.

    Returns:
        A `Generation` of `tokens` (rows, steps) and `lengths` (rows,).

    Raises:
        ValueError: If a prompt is empty or contains a token outside the vocabulary, if a number is
            out of range, if prompts have different lengths and the network takes no segment_ids, if
            the network has nothing to cache, if the state is missing or does not match, if an input
            has another number of rows, if a `draft` is given and it or the network has a cache that
            cannot be shortened, or if logits are NaN, for example past the last learned position.
        TypeError: If prompts are not integers, `key` is not a key, or no layer takes an input.

    Reference: Leviathan, Kalman, and Matias, Fast inference from transformers via speculative
    decoding, 2023.

    >>> import jax, jaxnn as nn
    >>> from jaxnn.models import GPT
    >>> net = GPT(layers=1, width=8, num_heads=2, length=16).network(outputs=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 4), int))
    >>> new = nn.generate(net, params, [[1, 2, 3], [4]], steps=5, key=jax.random.key(1))
    >>> new.tokens.shape, new.lengths.tolist()
    ((2, 5), [5, 5])
    """
    positive(steps, "steps", hint="write nn.generate(net, params, prompts, steps=100)")
    check_sampling(temperature, top_k, top_p)
    check_layer(net, "nn.generate(net, params, prompts, steps=100)")
    given, single = check_prompts(net, prompts, inputs)
    length = given.tokens.shape[1]
    stop = as_stop(stop)
    if draft is not None:
        room = check_draft(net, draft, draft_tokens, temperature, given, steps)
        net, start = read_prompts(net, params, given, room, state)
        guesser, guess = read_prompts(*draft, for_draft(draft[0], given), room, None)
        run = compiled(speculate, net, guesser, steps, draft_tokens)
        tokens, lengths, broken = run(start, guess, stop)
    else:
        numbers = {"temperature": jnp.asarray(temperature, jnp.float32)}
        if top_k is not None:
            numbers["k"] = jnp.asarray(top_k, jnp.int32)
        if top_p is not None:
            numbers["p"] = jnp.asarray(top_p, jnp.float32)
        key = _key(key, temperature)
        # The last new token is not an input.
        net, start = read_prompts(net, params, given, steps - 1, state)
        tokens, lengths, broken = compiled(_decode, net, steps)(start, key, numbers, stop)
    check_logits(broken, length)
    return Generation(tokens[0], lengths[0]) if single else Generation(tokens, lengths)


class _Loop(NamedTuple):
    """Carry of the loop over tokens."""

    step: jax.Array
    token: jax.Array
    state: Any
    done: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    broken: jax.Array


def _decode(
    net: Layer,
    steps: int,
    start: Start,
    key: jax.Array,
    numbers: dict[str, jax.Array],
    stop: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return new tokens, their number in each row, and the step of each row's first NaN, or -1."""

    def going(loop: _Loop) -> jax.Array:
        return (loop.step < steps) & ~jnp.all(loop.done)

    def step(loop: _Loop) -> _Loop:
        logits, state = advance(net, start, loop.token[:, None], loop.state)
        logits = logits[:, 0]
        drawn = _draw(jax.random.fold_in(key, loop.step), logits, **numbers)
        token = jnp.where(loop.done, loop.token, drawn)
        tokens = lax.dynamic_update_slice_in_dim(loop.tokens, token[:, None], loop.step, 1)
        lengths = loop.lengths + (~loop.done).astype(jnp.int32)
        done = loop.done | is_stop(token, stop)
        wrong = jnp.any(jnp.isnan(logits), -1) & (loop.broken < 0)
        broken = jnp.where(wrong & ~loop.done, loop.step, loop.broken)
        return _Loop(loop.step + 1, token, state, done, tokens, lengths, broken)

    none = jnp.zeros(start.token.shape, jnp.int32)
    tokens = jnp.zeros((*none.shape, steps), jnp.int32)
    state = start.state
    end = lax.while_loop(
        going, step, _Loop(jnp.int32(0), start.token, state, none > 0, tokens, none, none - 1)
    )
    return filled_rows(end.tokens, end.lengths), end.lengths, end.broken


def _draw(
    key: jax.Array, logits: jax.Array, temperature: Any, k: Any = None, p: Any = None
) -> jax.Array:
    """Draw a token (rows,) int32 from logits (rows, vocabulary)."""
    logits = with_temperature(logits, temperature)
    logits = logits if k is None else top_k(logits, k)
    logits = logits if p is None else top_p(logits, p)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _key(key: Any, temperature: Any) -> jax.Array:
    if key is not None:
        return as_key(key)
    if is_traced(temperature) or temperature != 0:
        raise ValueError(
            "sampling requires a key: write key=jax.random.key(0), or temperature=0 for the most "
            "probable tokens"
        )
    return jax.random.key(0)


# ---- sampling ----

_TEMPERATURE = Accepts(
    "a number >= 0",
    lambda v: bool(0 <= v < math.inf),
    hint="0 takes the most probable token",
    traced=True,
)
_TOP_K = None | Accepts(
    "an int >= 1, the number of tokens to keep",
    lambda v: isinstance(v, int | np.integer) and v is not True and int(v) >= 1,
    traced=True,
)
_TOP_P = None | Accepts("a probability in (0, 1]", lambda v: bool(0 < v <= 1), traced=True)


def with_temperature(logits: jax.Array, temperature: Any) -> jax.Array:
    """Divide logits by a temperature.

    The result is logits / temperature: sharper below 1, flatter above 1. At 0 only the largest
    logit is kept (the first one if several are equal), so a draw from the result is `argmax`.

    Args:
        logits: Floating array of shape (..., vocabulary).
        temperature: Scalar >= 0.

    Returns:
        Logits of the shape and type of `logits`.

    Reference: Ackley, Hinton, and Sejnowski, A learning algorithm for Boltzmann machines, 1985.

    >>> logits = jnp.array([1.0, 3.0, 3.0])
    >>> with_temperature(logits, 2.0).tolist(), with_temperature(logits, 0.0).tolist()
    ([0.5, 1.5, 1.5], [-inf, 3.0, -inf])
    """
    temperature = jnp.asarray(temperature, logits.dtype)
    greatest = jnp.argmax(logits, -1, keepdims=True)
    tokens = jax.lax.broadcasted_iota(greatest.dtype, logits.shape, logits.ndim - 1)
    greedy = jnp.where(tokens == greatest, logits, jnp.asarray(-jnp.inf, logits.dtype))
    warm = logits / jnp.where(temperature > 0, temperature, jnp.ones_like(temperature))
    return jnp.where(temperature > 0, warm, greedy)


def top_k(logits: jax.Array, k: Any) -> jax.Array:
    """Keep the k largest logits, and any equal to the smallest of them.

    Args:
        logits: Floating array of shape (..., vocabulary).
        k: Integer >= 1. A value larger than the vocabulary keeps all logits.

    Returns:
        Logits of the shape and type of `logits`; the others are -infinity.

    Reference: Fan, Lewis, and Dauphin, Hierarchical neural story generation, 2018.

    >>> top_k(jnp.array([1.0, 4.0, 2.0, 3.0]), 2).tolist()
    [-inf, 4.0, -inf, 3.0]
    """
    place = jnp.minimum(jnp.asarray(k, jnp.int32), logits.shape[-1]) - 1
    least = jnp.take(jnp.sort(logits, -1, descending=True), place, axis=-1)[..., None]
    return jnp.where(logits >= least, logits, jnp.asarray(-jnp.inf, logits.dtype))


def top_p(logits: jax.Array, p: Any) -> jax.Array:
    """Keep the smallest set of most probable tokens with total probability at least p.

    Tokens as probable as the last one of the set are kept too. The most probable token is always
    kept. Probabilities are summed in at least float32.

    Args:
        logits: Floating array of shape (..., vocabulary).
        p: Scalar in (0, 1].

    Returns:
        Logits of the shape and type of `logits`; the others are -infinity.

    Reference: Holtzman et al., The curious case of neural text degeneration, 2020.

    >>> logits = jnp.log(jnp.array([0.125, 0.5, 0.25, 0.125]))
    >>> jnp.exp(top_p(logits, 0.7)).tolist()
    [0.0, 0.5, 0.25, 0.0]
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    p = jnp.asarray(p, wide.dtype)
    falling = jnp.sort(wide, -1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(falling, -1), -1)[..., :-1]
    # A token is kept if the sum before it is below p. If p = 1, rounding must not drop a token.
    kept = jnp.concatenate([jnp.ones_like(before[..., :1], bool), (before < p) | (p >= 1)], -1)
    least = jnp.min(jnp.where(kept, falling, jnp.inf), -1, keepdims=True)
    return jnp.where(wide >= least, logits, jnp.asarray(-jnp.inf, logits.dtype))


def check_sampling(temperature: Any, k: Any = None, p: Any = None) -> None:
    """Validate the settings of a draw. Traced values are not checked.

    Args:
        temperature: Finite number >= 0.
        k: Integer >= 1, or None.
        p: Number in (0, 1], or None.

    Raises:
        ValueError: If a concrete value is out of range.

    >>> check_sampling(-1.0)
    Traceback (most recent call last):
    ValueError: temperature must be a number >= 0, got -1.0; 0 takes the most probable token
    """
    _TEMPERATURE(temperature, "temperature")
    _TOP_K(k, "top_k")
    _TOP_P(p, "top_p")
