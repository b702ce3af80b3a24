"""generate: continue prompts by a causal network, token by token.

Two programs are compiled. The first reads all tokens of the prompts except the last ones and
returns the state of the network's caches. The second is a loop over new tokens, in one dispatch,
that ends when all rows have stopped. The temperature, k, p, and the stop tokens are arguments of
the program, so changing them does not recompile.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .core.calls import placeholder_key
from .core.declarations import abstract
from .core.layer import Layer, declared
from .explain.text import check_matches
from .fields import is_traced
from .functional import sampling
from .keys import as_key
from .surgery.caching import with_cache, without_cache
from .train.step import remembered
from .tree import check_layer
from .validation import Accepts, positive, require

MOST = 2**31 - 1  # the largest int32


class Prompts(NamedTuple):
    """Tokens (rows, T), and segment_ids (rows, T), which are 1 at tokens and 0 at padding."""

    tokens: Any
    segment_ids: Any


class Generation(NamedTuple):
    """New tokens, int32 (rows, steps), and the number of them in each row, int32 (rows,).

    The stop token that ends a row is counted, and also fills the rest of the row.
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
) -> Generation:
    """Continue each prompt by up to `steps` tokens, sampled from a causal network.

    Tokens are drawn from softmax(logits / temperature), restricted to the most probable tokens by
    `top_k` and then `top_p`. Logits are converted to at least float32. On a CPU, a network with a
    `Repeat` runs several times faster when unstacked; see `nn.unstack_layers`.

    Args:
        net: Causal network, from tokens (rows, T) to logits (rows, T, vocabulary). It is run in
            inference mode with a cache, by `nn.with_cache`.
        params: Its parameters.
        prompts: Integers (rows, T), or a list of rows of different lengths, which are padded on the
            left and marked by `segment_ids`; or one prompt (T,), whose result has no axis of rows.
        steps: Maximum number of new tokens, at least 1.
        state: State of the network, if it keeps any, such as `ts.state`. Default: None.
        key: PRNG key; not needed if `temperature` is 0. Default: None.
        temperature: Number >= 0; 0 takes the most probable token. Default: 1.
        top_k: Keep only the k most probable tokens, an int >= 1. Default: None.
        top_p: Keep only the smallest set of most probable tokens with total probability at least p,
            in (0, 1]. Default: None.
        stop: Tokens that end a row. Default: ().

    Returns:
        A `Generation` of `tokens` (rows, steps) and `lengths` (rows,).

    Raises:
        ValueError: If a prompt is empty or contains a token outside the vocabulary, if a number is
            out of range, if prompts have different lengths and the network takes no segment_ids, if
            the network has nothing to cache, if the state is missing or does not match, or if
            logits are NaN, as they are past the last learned position.
        TypeError: If prompts are not integers, or `key` is not a key.

    >>> import jax, jaxnn as nn
    >>> from jaxnn.models import GPT
    >>> net = GPT(layers=1, width=8, num_heads=2, length=16).network(outputs=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 4), int))
    >>> new = nn.generate(net, params, [[1, 2, 3], [4]], steps=5, key=jax.random.key(1))
    >>> new.tokens.shape, new.lengths.tolist()
    ((2, 5), [5, 5])
    """
    positive(steps, "steps", hint="write nn.generate(net, params, prompts, steps=100)")
    sampling.check_sampling(temperature, top_k, top_p)
    check_layer(net, "nn.generate(net, params, prompts, steps=100)")
    rows, single = as_prompts(prompts)
    vocabulary = _vocabulary(net, rows)
    rows = _as_tokens(rows, vocabulary)
    marks = _named(net, rows.segment_ids)
    stop = as_stop(stop)
    numbers = {"temperature": jnp.asarray(temperature, jnp.float32)}
    if top_k is not None:
        numbers["top_k"] = jnp.asarray(top_k, jnp.int32)
    if top_p is not None:
        numbers["top_p"] = jnp.asarray(top_p, jnp.float32)
    length = rows.tokens.shape[1] + steps - 1  # the last new token is not an input
    cached = with_cache(net, length)
    prefill, decode = _compiled(_prefill, cached), _compiled(_decode, cached, steps)
    kept = _state(net, rows.tokens, state, marks)
    before = {name: a[:, :-1] for name, a in marks.items()}
    state = prefill(params, rows.tokens[:, :-1], before, kept)
    last = {name: np.ones_like(a[:, -1:]) for name, a in marks.items()}
    new, broken = decode(
        params, state, rows.tokens[:, -1], last, _key(key, temperature), numbers, stop
    )
    if not is_traced(broken):
        _check_finite(np.asarray(broken), length - steps + 1)
    return Generation(new.tokens[0], new.lengths[0]) if single else new


class _Loop(NamedTuple):
    """Carry of the loop over tokens."""

    step: jax.Array
    token: jax.Array
    state: Any
    done: jax.Array
    new: Generation
    broken: jax.Array


@remembered
def _compiled(function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    """Return a jitted function of a network with a cache, given its static arguments."""
    return jax.jit(functools.partial(function, *static))


def _prefill(net: Layer, params: Any, tokens: jax.Array, marks: Any, kept: Any) -> Any:
    """Return the state after tokens (rows, T). Unused logits are not computed."""
    one = jax.ShapeDtypeStruct((tokens.shape[0], 1), tokens.dtype)
    begun = net.init_state(one, key=placeholder_key(), **{name: one for name in marks})
    state = _merged(begun, kept)  # replaces state that starts random
    return net.apply(params, tokens, state=state, **marks)[1] if tokens.shape[1] else state


def _decode(
    net: Layer,
    steps: int,
    params: Any,
    state: Any,
    token: jax.Array,
    marks: Any,
    key: jax.Array,
    numbers: dict[str, jax.Array],
    stop: jax.Array,
) -> tuple[Generation, jax.Array]:
    """Return the tokens after `token` (rows,), and the step of each row's first NaN, or -1."""

    def going(loop: _Loop) -> jax.Array:
        return (loop.step < steps) & ~jnp.all(loop.done)

    def step(loop: _Loop) -> _Loop:
        logits, state = net.apply(params, loop.token[:, None], state=loop.state, **marks)
        logits = logits[:, 0].astype(jnp.promote_types(logits.dtype, jnp.float32))
        drawn = _draw(jax.random.fold_in(key, loop.step), logits, **numbers)
        token = jnp.where(loop.done, loop.token, drawn)
        tokens = lax.dynamic_update_slice_in_dim(loop.new.tokens, token[:, None], loop.step, 1)
        lengths = loop.new.lengths + (~loop.done).astype(jnp.int32)
        done = loop.done | jnp.any(token[:, None] == stop[None], -1)
        wrong = jnp.any(jnp.isnan(logits), -1) & (loop.broken < 0)
        broken = jnp.where(wrong & ~loop.done, loop.step, loop.broken)
        return _Loop(loop.step + 1, token, state, done, Generation(tokens, lengths), broken)

    rows = token.shape[0]
    none = jnp.zeros((rows,), jnp.int32)
    new = Generation(jnp.zeros((rows, steps), jnp.int32), none)
    begin = _Loop(jnp.int32(0), token, state, none > 0, new, none - 1)
    end = lax.while_loop(going, step, begin)
    # If all rows stopped early, fill the columns that were not written.
    written = lax.broadcasted_iota(jnp.int32, (rows, steps), 1) < end.step
    tokens = jnp.where(written, end.new.tokens, end.token[:, None])
    return Generation(tokens, end.new.lengths), end.broken


def _draw(
    key: jax.Array, logits: jax.Array, temperature: Any, top_k: Any = None, top_p: Any = None
) -> jax.Array:
    """Draw a token (rows,) int32 from logits (rows, vocabulary)."""
    logits = sampling.with_temperature(logits, temperature)
    if top_k is not None:
        logits = sampling.top_k(logits, top_k)
    if top_p is not None:
        logits = sampling.top_p(logits, top_p)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _state(net: Any, tokens: np.ndarray, state: Any, marks: Any) -> Any:
    """Return the state of the network besides its caches; raise ValueError if it does not match."""
    wanted = declared(without_cache(net), "forward", abstract((tokens,)), abstract(marks)).state
    state = {} if state is None else state
    what = "the state does not match the network"
    check_matches(wanted, state, what, "write nn.generate(..., state=ts.state)")
    return state


def _merged(begun: Any, kept: Any) -> Any:
    """Return `begun` with the leaves of `kept` in their place, by path."""
    if not isinstance(begun, dict):
        return kept
    return {**begun, **{name: _merged(begun.get(name, {}), one) for name, one in kept.items()}}


def _key(key: Any, temperature: Any) -> jax.Array:
    if key is not None:
        return as_key(key)
    if is_traced(temperature) or temperature != 0:
        raise ValueError(
            "sampling requires a key: write key=jax.random.key(0), or temperature=0 for the most "
            "probable tokens"
        )
    return jax.random.key(0)


def _named(net: Layer, segment_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return segment_ids by name, if the network takes any."""
    if "segment_ids" in net._takes("forward"):
        return {"segment_ids": segment_ids}
    if (segment_ids == 0).any():
        raise ValueError(
            "prompts of different lengths require segment_ids, which no layer of the network "
            "takes: generate from prompts of one length at a time"
        )
    return {}


def _vocabulary(net: Any, prompts: Prompts) -> int:
    """Return the number of tokens for which the network returns logits."""
    tokens = abstract((prompts.tokens,))
    logits = declared(net, "forward", tokens, {}).output
    shape: Any = getattr(logits, "shape", ())
    rows, length = prompts.tokens.shape
    require(
        len(shape) == 3 and shape[:2] == (rows, length),
        f"the output of a network that generates, for tokens {prompts.tokens.shape},",
        f"logits ({rows}, {length}, vocabulary)",
        logits,
    )
    return shape[2]


def _check_finite(broken: np.ndarray, length: int) -> None:
    if (broken < 0).all():
        return
    row = int(np.argmax(broken >= 0))
    raise ValueError(
        f"the logits of row {row} are NaN at new token {broken[row]}, which is token "
        f"{length + broken[row]} of the sequence: either the parameters contain NaN, or the "
        "network has no such position and needs fewer steps or a shorter prompt"
    )


# ---- prompts and stop tokens ----

_row = Accepts(
    "integer tokens (T,) or (rows, T), or a list of rows, with at least one token in each row",
    lambda row: row.ndim == 1 and bool(row.size) and jnp.issubdtype(row.dtype, jnp.integer),
    hint="write for example [[0], [3, 1]]",
    abstract=True,
)
_integers = Accepts(
    "integer tokens",
    lambda tokens: not tokens.size or jnp.issubdtype(tokens.dtype, jnp.integer),
    TypeError,
    hint="write for example stop=[0]",
    abstract=True,
)


def as_prompts(prompts: Any) -> tuple[Prompts, bool]:
    """Convert prompts to arrays; also return whether there is one prompt without an axis of rows.

    Rows of different lengths are padded on the left. Raises ValueError unless there is a row, and
    every row has at least one token.

    >>> found, single = as_prompts([[5, 6, 7], [8]])
    >>> found.tokens.tolist(), found.segment_ids.tolist(), single
    ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]], False)
    """
    listed = isinstance(prompts, list | tuple) and np.ndim(prompts[:1]) > 1
    given: Any = prompts if listed or hasattr(prompts, "ndim") else np.asarray(prompts)
    single = not listed and given.ndim == 1
    array: Any = given[None] if single else given
    if not listed and array.ndim != 2:
        array = [given]  # raises below
    rows = list(array[:1]) if is_traced(array) else [np.asarray(row) for row in array]
    for row in rows or [np.zeros(0, int)]:
        _row(row, "prompts")
    if is_traced(array):
        return Prompts(array, np.ones(array.shape, np.int32)), single
    length = max(map(len, rows))
    tokens = np.stack([np.pad(row, (length - len(row), 0)) for row in rows])
    real = np.arange(length) >= length - np.array([[len(row)] for row in rows])
    return Prompts(tokens, real.astype(np.int32)), single


def as_stop(stop: Any) -> jax.Array:
    """Return the stop tokens as int32 (n,). Those outside int32 become -1, which is not a token.

    Raises TypeError if they are not integers.
    """
    traced = any(map(is_traced, jax.tree.leaves(stop)))
    tokens = jnp.asarray(stop) if traced else np.asarray(stop)
    _integers(tokens, "stop")
    if isinstance(tokens, np.ndarray):
        tokens = np.where((tokens >= 0) & (tokens <= MOST), tokens.astype(np.int64), -1)
    return jnp.asarray(tokens, jnp.int32).reshape(-1)


def _as_tokens(prompts: Prompts, vocabulary: int) -> Prompts:
    """Return prompts as int32; raise ValueError if a concrete token is not in the vocabulary."""
    tokens = prompts.tokens
    if is_traced(tokens):
        return prompts._replace(tokens=jnp.asarray(tokens, jnp.int32))
    wrong = (tokens < 0) | (tokens >= vocabulary)
    if wrong.any():
        row, place = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        before = int((prompts.segment_ids[row, :place] == 0).sum())
        raise ValueError(
            f"prompt {row} contains token {tokens[row, place]} at {place - before}, expected "
            f"0 .. {vocabulary - 1}, the vocabulary of the network"
        )
    return prompts._replace(tokens=tokens.astype(np.int32))
