"""Shared by all ways to continue prompts: inputs, the state after the prompts, and ends of rows.

`check_prompts` converts the prompts and the named inputs, `read_prompts` runs the network on all
tokens of the prompts except the last ones, and `filled_rows` fills the rows of the result after
their ends.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..combine.transforms import Repeat
from ..core.calls import placeholder_key
from ..core.declarations import abstract, declared
from ..core.layer import Layer
from ..explain.text import check_matches
from ..fields import is_traced
from ..random import is_outside
from ..surgery.function_preserving import unstack_layers, with_cache, without_cache
from ..surgery.replacement import check_belong
from ..train.step import remembered
from ..tree import layers
from ..validation import Accepts

MOST = 2**31 - 1  # the largest int32


class Prompts(NamedTuple):
    """Tokens (rows, T); segment_ids (rows, T), which are 1 at tokens and 0 at padding; the named
    inputs, arrays (rows, ...); and the number of tokens in the vocabulary of the network."""

    tokens: Any
    segment_ids: Any
    inputs: Any = None
    vocabulary: int = 0


class Start(NamedTuple):
    """The start of generation by a network with a cache: its parameters, its state after all tokens
    of the prompts except the last ones, those tokens (rows,), and its named inputs. `marks` are
    segment_ids (rows, 1), if the network takes any."""

    params: Any
    state: Any
    token: Any
    marks: dict[str, Any]
    inputs: dict[str, Any]


def advance(net: Layer, start: Start, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    """Return logits (rows, T, vocabulary) in at least float32, and the state after tokens."""
    marks = {name: jnp.broadcast_to(a, tokens.shape) for name, a in start.marks.items()}
    logits, state = net.apply(start.params, tokens, state=state, **marks, **start.inputs)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), state


@remembered
def compiled(function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    """Return a jitted function of a network with a cache, given its static arguments."""
    return jax.jit(partial(function, *static))


def read_prompts(
    net: Layer, params: Any, prompts: Prompts, room: int, state: Any
) -> tuple[Layer, Start]:
    """Return the network with a cache, and its state after the prompts except their last tokens.

    Args:
        net: Causal network.
        params: Its parameters.
        prompts: Checked prompts.
        room: Number of positions in the caches besides those of the prompts.
        state: State of the network besides its caches, or None.
    """
    tokens, segment_ids, inputs, _ = prompts
    marks = _marks(net, segment_ids)
    kept = _kept(net, tokens, state, marks | inputs)
    if not kept and any(isinstance(layer, Repeat) for _, layer in layers(net)):
        # A scan would read the parameters and the caches of each layer from a stack at each token.
        check_belong(net, params, (tokens,), marks | inputs)
        # Within a transform, a layer may hold traced numbers, and is not the result of a function.
        outside = is_outside()
        unstack = compiled(unstack_layers, net) if outside else partial(unstack_layers, net)
        net, params = unstack(params)
    cached = with_cache(net, tokens.shape[1] + room)
    before = {name: a[:, :-1] for name, a in marks.items()}
    state = compiled(prefill, cached)(params, tokens[:, :-1], before, inputs, kept)
    last = {name: np.ones_like(a[:, -1:]) for name, a in marks.items()}
    return cached, Start(params, state, tokens[:, -1], last, inputs)


def prefill(net: Layer, params: Any, tokens: jax.Array, marks: Any, inputs: Any, kept: Any) -> Any:
    """Return the state after tokens (rows, T). Unused logits are not computed."""
    state = _merged(empty_state(net, tokens.shape[0], marks, inputs), kept)
    if not tokens.shape[1]:
        return state
    return net.apply(params, tokens, state=state, **marks, **inputs)[1]


def empty_state(net: Layer, rows: int, marks: Any, inputs: Any) -> Any:
    """Return the state before the first token; random initial values are to be replaced."""
    one = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    return net.init_state(one, key=placeholder_key(), **dict.fromkeys(marks, one), **inputs)


def _kept(net: Any, tokens: np.ndarray, state: Any, named: Any) -> Any:
    """Return the state of the network besides its caches; raise ValueError if it does not match."""
    wanted = declared(without_cache(net), "forward", abstract((tokens,)), abstract(named)).state
    state = {} if state is None else state
    what = "the state does not match the network"
    check_matches(wanted, state, what, "write nn.generate(..., state=ts.state)")
    return state


def _merged(begun: Any, kept: Any) -> Any:
    """Return `begun` with the leaves of `kept` in their place, by path."""
    if not isinstance(begun, dict):
        return kept
    return {**begun, **{name: _merged(begun.get(name, {}), one) for name, one in kept.items()}}


def _marks(net: Layer, segment_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return segment_ids by name, if the network takes any."""
    if "segment_ids" in net._takes("forward"):
        return {"segment_ids": segment_ids}
    if (segment_ids == 0).any():
        raise ValueError(
            "prompts of different lengths require segment_ids, which no layer of the network "
            "takes: generate from prompts of one length at a time"
        )
    return {}


# ---- ends of rows ----


def is_stop(tokens: jax.Array, stop: jax.Array) -> jax.Array:
    """Return which tokens (...) are stop tokens (n,)."""
    return jnp.any(tokens[..., None] == stop, -1)


def filled_rows(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Fill the rest of each row (..., T) with the token that ends it.

    >>> filled_rows(jnp.array([[5, 6, 7], [5, 6, 7]]), jnp.array([1, 2])).tolist()
    [[5, 5, 5], [5, 6, 6]]
    """
    place = jnp.minimum(jnp.arange(tokens.shape[-1]), lengths[..., None] - 1)
    return jnp.take_along_axis(tokens, place, -1)


def check_logits(broken: Any, length: int) -> None:
    """Raise ValueError if a row has a step with NaN: `broken` (rows,) is that step, or -1."""
    if is_traced(broken) or (np.asarray(broken) < 0).all():
        return
    row = int(np.argmax(np.asarray(broken) >= 0))
    raise ValueError(
        f"the logits of row {row} are NaN at new token {broken[row]}, which is token "
        f"{length + broken[row]} of the sequence: either the parameters contain NaN, or the "
        "network has no such position and needs fewer steps or a shorter prompt"
    )


# ---- prompts, named inputs, and stop tokens ----

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


_left_out = Accepts(
    "left out, because they follow from the prompts",
    lambda given: given is None,
    hint="pass prompts of different lengths as a list of rows, [[0], [3, 1]]",
    abstract=True,
)


def _begins(sizes: tuple[int, ...], what: str, ndim: int | None = None) -> Accepts:
    """Accept arrays whose first axes have these sizes, with `ndim` axes or any number."""

    def test(item: Any) -> bool:
        own = getattr(item, "shape", ())
        return own[: len(sizes)] == sizes and ndim in (None, len(own))

    return Accepts(what, test, abstract=True)


def check_prompts(net: Layer, prompts: Any, inputs: dict[str, Any]) -> tuple[Prompts, bool]:
    """Convert prompts and named inputs; also return whether there is one prompt without rows.

    Args:
        net: Network from tokens to logits.
        prompts: Prompts of `nn.generate`.
        inputs: Its named inputs.
    """
    found, single = as_prompts(prompts)
    rows, length = found.tokens.shape
    _left_out(inputs.get("segment_ids"), "segment_ids")
    inputs = {name: jnp.asarray(one) for name, one in inputs.items() if name != "segment_ids"}
    if single:
        inputs = {name: item[None] for name, item in inputs.items()}
    for name, item in inputs.items():
        _begins((rows,), f"an array ({rows}, ...), with one entry for each prompt")(item, name)
    logits = net._declaration("forward", abstract((found.tokens,)), abstract(inputs)).output
    has = _begins((rows, length), f"logits ({rows}, {length}, vocabulary)", ndim=3)
    has(logits, f"the output of a network that generates, for tokens {found.tokens.shape},")
    return _as_tokens(found._replace(inputs=inputs, vocabulary=logits.shape[2])), single


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


def _as_tokens(prompts: Prompts) -> Prompts:
    """Return prompts as int32; raise ValueError if a concrete token is not in the vocabulary."""
    tokens, vocabulary = prompts.tokens, prompts.vocabulary
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
