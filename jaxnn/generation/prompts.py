"""Prompts as one array; prompts of different lengths are padded on the left."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..explain.text import describe
from ..fields import is_traced

MOST = 2**31 - 1  # largest int32


class Prompts(NamedTuple):
    """Tokens (rows, T), and segment_ids (rows, T), which are 1 at tokens and 0 at padding."""

    tokens: Any
    segment_ids: Any


def as_prompts(prompts: Any) -> tuple[Prompts, bool]:
    """Convert prompts to arrays; also return whether there is one prompt without an axis of rows.

    Raises TypeError if prompts are not integers, and ValueError if there are none or one is empty.

    >>> found, single = as_prompts([[5, 6, 7], [8]])
    >>> found.tokens.tolist(), found.segment_ids.tolist(), single
    ([[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]], False)
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be tokens, got the text {prompts!r}; use text.encode(...)")
    if isinstance(prompts, list | tuple):
        if not prompts:
            raise ValueError("expected at least one prompt, such as prompts=[[0], [3, 1]]")
        if np.ndim(prompts[0]) == 0:
            prompts = np.asarray(prompts)
    if not isinstance(prompts, list | tuple):
        rows = prompts[None] if (single := np.ndim(prompts) == 1) else prompts
        if np.ndim(rows) != 2:
            raise ValueError(
                f"prompts must be tokens (T,) or (rows, T), or a list of such rows; got "
                f"{describe(prompts)}"
            )
        _check_row(prompts, rows.shape[-1], "")
        if rows.shape[0] == 0:
            raise ValueError("expected at least one prompt, such as prompts=[[0], [3, 1]]")
        tokens = jnp.asarray(rows, jnp.int32) if is_traced(rows) else np.asarray(rows, np.int32)
        return Prompts(tokens, np.ones(rows.shape, np.int32)), single
    rows = [np.asarray(row) for row in prompts]
    for number, row in enumerate(rows):
        if row.ndim != 1:
            raise ValueError(f"prompt {number} must be tokens (T,), got {describe(row)}")
        _check_row(row, len(row), f" {number}")
    length = max(map(len, rows))
    tokens, segment_ids = np.zeros((2, len(rows), length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, length - len(row) :] = row
        segment_ids[number, length - len(row) :] = 1
    return Prompts(tokens, segment_ids), False


def _check_row(row: Any, length: int, number: str) -> None:
    if length == 0:
        raise ValueError(
            f"prompt{number} is empty: a prompt must have at least one token, such as that of a "
            "line feed"
        )
    if not jnp.issubdtype(row.dtype, jnp.integer):
        raise TypeError(f"prompt{number} must be integer tokens, got {describe(row)}")
    if not is_traced(row) and row.size:  # checked before the conversion to int32 wraps around
        wrong = [token for token in (row.min(), row.max()) if abs(int(token)) > MOST]
        if wrong:
            raise ValueError(
                f"prompt{number} contains token {wrong[0]}, but tokens must fit in int32"
            )


def as_stop(stop: Any) -> jax.Array:
    """Return the stop tokens as int32 (n,). Those outside int32 become -1, which is not a token.

    Raises TypeError if they are not integers.
    """
    traced = any(map(is_traced, jax.tree.leaves(stop)))
    tokens = jnp.asarray(stop) if traced else np.asarray(stop)
    if tokens.size and not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"stop must be integer tokens, got {stop!r}; write for example stop=[0]")
    if isinstance(tokens, np.ndarray):
        tokens = np.where((tokens >= 0) & (tokens <= MOST), tokens.astype(np.int64), -1)
    return jnp.asarray(tokens, jnp.int32).reshape(-1)


def check_tokens(prompts: Prompts, vocabulary: int) -> None:
    """Raise ValueError if a concrete token is outside the vocabulary."""
    if is_traced(prompts.tokens):
        return
    wrong = (prompts.tokens < 0) | (prompts.tokens >= vocabulary)
    if wrong.any():
        row, place = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        before = int((prompts.segment_ids[row, :place] == 0).sum())
        raise ValueError(
            f"prompt {row} contains token {prompts.tokens[row, place]} at {place - before}, "
            f"expected 0 .. {vocabulary - 1}, the vocabulary of the network"
        )
