"""generate: a causal network writes on from prompts, one token after the other.

Two programs are compiled. The first reads all of the prompts but their last tokens and gives the
state of the network's caches; the second is a loop over new tokens, in one dispatch, that ends as
soon as all rows have stopped. Temperature, k, p and the stop tokens are data: other numbers compile
nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core.calls import placeholder_key
from ..core.declarations import abstract
from ..core.layer import Layer, declared
from ..explain.text import describe, mismatches
from ..fields import is_traced
from ..functional import sampling
from ..keys import as_key
from ..surgery.caching import uncached, with_cache
from ..train.evaluation import check_count
from ..train.step import remembered
from .prompts import Prompts, as_prompts, as_stop, check_tokens


class Generation(NamedTuple):
    """New tokens int32 (rows, steps), and how many of them each row has, int32 (rows,).

    The stop token that ends a row counts; it fills the rest of the row, too.
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
    """Up to `steps` tokens that go on from each prompt, each drawn given all before it.

    A token is drawn from softmax(logits / temperature), of which `top_k` and then `top_p` leave
    only the most probable ones; the logits are taken in at least float32. On a CPU, a
    network with a `Repeat` is several times faster as a row: see `nn.unstack_layers`.

    Args:
        net: a causal network that `nn.with_cache` takes, from tokens (rows, T) to logits
            (rows, T, vocabulary). It is run in inference, with its cache.
        params: its parameters.
        prompts: integers (rows, T), or a list of rows of different lengths, which are filled up on
            the left and told apart by `segment_ids`; or one prompt (T,), whose result has no axis
            of rows.
        steps: the most tokens to add to each.
        state: its state, where it keeps any, such as running statistics: `ts.state`.
        key: a random key; not needed at temperature 0.
        temperature: a number >= 0; 0 takes the most probable token.
        top_k: leave the k most probable tokens, an int >= 1.
        top_p: leave the fewest most probable tokens that have the share p together, in (0, 1].
        stop: tokens that end a row.

    Raises:
        ValueError: an empty prompt, a token outside the vocabulary, a number out of range, prompts
            of different lengths for a network that takes no segment_ids, a network without anything
            to cache, a state that is missing or not the network's; and logits that are NaN, as past
            the last learned position.
        TypeError: prompts or a key of another type.

    >>> import jax, jaxnn as nn
    >>> from jaxnn.models import GPT
    >>> net = GPT(layers=1, width=8, num_heads=2, length=16).network(outputs=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 4), int))
    >>> new = nn.generate(net, params, [[1, 2, 3], [4]], steps=5, key=jax.random.key(1))
    >>> new.tokens.shape, new.lengths.tolist()
    ((2, 5), [5, 5])
    """
    check_count(steps, "steps")
    sampling.check_sampling(temperature, top_k, top_p)
    rows, single = as_prompts(prompts)
    vocabulary = _vocabulary(net, rows)
    check_tokens(rows, vocabulary)
    marks = _named(net, rows.segment_ids)
    stop = as_stop(stop)
    numbers = {"temperature": jnp.asarray(temperature, jnp.float32)}
    if top_k is not None:
        numbers["top_k"] = jnp.asarray(top_k, jnp.int32)
    if top_p is not None:
        numbers["top_p"] = jnp.asarray(top_p, jnp.float32)
    length = rows.tokens.shape[1] + steps - 1  # the last new token is never read
    prefill, decode = _compiled(with_cache(net, length), steps)
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
    """What a step of the loop changes."""

    step: jax.Array
    token: jax.Array
    state: Any
    done: jax.Array
    new: Generation
    broken: jax.Array


@remembered
def _compiled(net: Layer, steps: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The jitted `prefill` and `decode` of a network with a cache."""
    return jax.jit(functools.partial(_prefill, net)), jax.jit(
        functools.partial(_decode, net, steps)
    )


def _prefill(net: Layer, params: Any, tokens: jax.Array, marks: Any, kept: Any) -> Any:
    """The state after tokens (rows, T): of the logits nothing is computed, as nobody asks."""
    one = jax.ShapeDtypeStruct((tokens.shape[0], 1), tokens.dtype)
    begun = net.init_state(one, key=placeholder_key(), **{name: one for name in marks})
    state = _merged(begun, kept)  # what is drawn is replaced
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
    """The tokens after `token` (rows,), and the step at which a row's logits were NaN, or -1."""

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
    # Where all rows stopped early, the columns that were never written.
    written = lax.broadcasted_iota(jnp.int32, (rows, steps), 1) < end.step
    tokens = jnp.where(written, end.new.tokens, end.token[:, None])
    return Generation(tokens, end.new.lengths), end.broken


def _draw(
    key: jax.Array, logits: jax.Array, temperature: Any, top_k: Any = None, top_p: Any = None
) -> jax.Array:
    """A token (rows,) int32 from logits (rows, vocabulary)."""
    logits = sampling.with_temperature(logits, temperature)
    if top_k is not None:
        logits = sampling.top_k(logits, top_k)
    if top_p is not None:
        logits = sampling.top_p(logits, top_p)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _state(net: Any, tokens: np.ndarray, state: Any, marks: Any) -> Any:
    """The state that the network keeps besides its caches; ValueError where it is another."""
    wanted = declared(uncached(net), "forward", abstract((tokens,)), abstract(marks)).state
    if not wanted and not state:
        return {}
    if state is None:
        raise ValueError(
            f"the network keeps state ({', '.join(sorted(wanted))}), but none was given: "
            "write nn.generate(..., state=ts.state)"
        )
    if found := mismatches(wanted, state):
        raise ValueError(f"the state is not that of the network: {'; '.join(found)}")
    return state


def _merged(begun: Any, kept: Any) -> Any:
    """`begun` with what is in `kept` in its place, by path."""
    if not isinstance(begun, dict):
        return kept
    return {**begun, **{name: _merged(begun.get(name, {}), one) for name, one in kept.items()}}


def _key(key: Any, temperature: Any) -> jax.Array:
    if key is not None:
        return as_key(key)
    if is_traced(temperature) or temperature != 0:
        raise ValueError(
            "tokens are drawn at random, but no key was given: write key=jax.random.key(0), or "
            "temperature=0 for the most probable tokens"
        )
    return jax.random.key(0)


def _named(net: Layer, segment_ids: np.ndarray) -> dict[str, np.ndarray]:
    """The segment_ids by name, where the network takes any."""
    if "segment_ids" in net._takes("forward"):
        return {"segment_ids": segment_ids}
    if (segment_ids == 0).any():
        raise ValueError(
            "prompts of different lengths are told apart by segment_ids, which no layer of the "
            "network takes: generate from prompts of one length at a time"
        )
    return {}


def _vocabulary(net: Any, prompts: Prompts) -> int:
    """The number of tokens that the network gives logits for."""
    if not isinstance(net, Layer):
        raise TypeError(f"generate wants a layer, got {net!r}; write nn.generate(net, params, ...)")
    tokens = abstract((prompts.tokens,))
    logits = declared(net, "forward", tokens, {}).output
    shape = getattr(logits, "shape", ())
    if len(shape) != 3 or shape[:2] != prompts.tokens.shape:
        raise ValueError(
            f"generate wants a network from tokens {prompts.tokens.shape} to logits "
            f"({prompts.tokens.shape[0]}, {prompts.tokens.shape[1]}, vocabulary); this one gives "
            f"{describe(logits)}"
        )
    return shape[2]


def _check_finite(broken: np.ndarray, length: int) -> None:
    if (broken < 0).all():
        return
    row = int(np.argmax(broken >= 0))
    raise ValueError(
        f"the logits of row {row} are NaN at new token {broken[row]}, which is token "
        f"{length + broken[row]} of the sequence: either the parameters hold NaN, or the network "
        "has no position as far as that, and wants fewer steps or a shorter prompt"
    )
