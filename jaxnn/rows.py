"""Drawing by rows: one small compiled program draws the parameters of every network.

Every array is cut into rows of `ROW` numbers, and the program draws `ROWS` of them a call. A
row needs only its key's path, its offset in the array, and a few numbers for the distribution. This
is possible because threefry is counter-based: number i of an array depends on the key and i alone.
Compiling a program for each shape would cost more than it saves.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .core import paths
from .core.declarations import Declared
from .fields import is_traced
from .initializers import normal, truncated_normal, uniform, variance_scaling

ROW = 4096
ROWS = 64
DEPTH = 16


class Draw(NamedTuple):
    """One draw: a parameter, or a slice of a stacked one, with the hashes on its key's path."""

    param: Declared
    folds: tuple[int, ...]


class Distribution(NamedTuple):
    """A distribution by numbers: uniform on [lower, upper), or, where `gaussian`, a normal cut to
    that interval; then times `scale`."""

    gaussian: bool
    lower: float
    upper: float
    scale: float


def distribution_of(param: Declared) -> Distribution | None:
    """The distribution of a parameter, or None where the program does not know it."""
    init = param.init
    if isinstance(init, variance_scaling):
        init = init.sized(param.slice_shape)
    if not isinstance(init, normal | truncated_normal | uniform):
        return None
    if any(map(is_traced, vars(init).values())):
        return None
    if isinstance(init, normal):
        return Distribution(True, -math.inf, math.inf, init.stddev)
    if isinstance(init, truncated_normal):
        return Distribution(True, init.lower, init.upper, init.stddev)
    return Distribution(False, init.lower, init.upper, 1.0)


def draw_rows(draws: list[list[Draw]], key: jax.Array) -> list[np.ndarray[Any, Any]]:
    """The array of each parameter, float32, from its draws and the root `key`.

    Every distribution must be one that `distribution_of` knows.
    """
    flat = [one for slices in draws for one in slices]
    counts = [-(-math.prod(one.param.slice_shape) // ROW) for one in flat]
    owner = np.repeat(np.arange(len(flat)), counts)
    offsets = [offset for count in counts for offset in range(0, count * ROW, ROW)]
    ends = np.cumsum(counts)
    words = np.array([divmod(offset, 2**32) for offset in offsets], np.uint32).reshape(-1, 2)
    columns = [column[owner] for column in _columns(flat, key)]
    numbers = _numbers_of_rows([*columns, words])
    parts = [
        numbers[end - count : end].reshape(-1)[: math.prod(one.param.slice_shape)]
        for one, end, count in zip(flat, ends, counts, strict=True)
    ]
    arrays, start = [], 0
    for slices in draws:
        mine = parts[start : start + len(slices)]
        whole = mine[0] if len(mine) == 1 else np.concatenate(mine)
        arrays.append(whole.reshape(slices[0].param.shape))
        start += len(slices)
    return arrays


def _columns(draws: list[Draw], key: jax.Array) -> list[np.ndarray[Any, Any]]:
    """For each draw: a key's words, the hashes to fold it by and their number, the distribution."""
    keys = np.broadcast_to(np.asarray(jax.random.key_data(key)), (len(draws), 2)).copy()
    folds = np.zeros((len(draws), DEPTH), np.uint32)
    counts = np.zeros((len(draws),), np.int32)
    distributions = {id(one.param): distribution_of(one.param) for one in draws}
    shape = np.array([distributions[id(one.param)] for one in draws], np.float32).reshape(-1, 4)
    for i, (_, path) in enumerate(draws):
        if len(path) > DEPTH:  # deeper than the program folds: fold the first part here
            first = paths.PathKey(key, path[:-DEPTH]).value()
            keys[i], path = np.asarray(jax.random.key_data(first)), path[-DEPTH:]
        folds[i, : len(path)] = path
        counts[i] = len(path)
    return [keys, folds, counts, shape]


def _numbers_of_rows(columns: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The numbers of all rows, float32 (rows, ROW), `ROWS` of them a call."""
    rows = len(columns[0])
    padded = [np.pad(c, [(0, -rows % ROWS), *[(0, 0)] * (c.ndim - 1)]) for c in columns]
    starts = range(0, rows, ROWS)
    # All calls are under way before the first result is waited for.
    calls = [_program()(*(column[i : i + ROWS] for column in padded)) for i in starts]
    numbers = np.empty((rows, ROW), np.float32)
    for i, call in zip(starts, calls, strict=True):
        numbers[i : i + ROWS] = np.asarray(call)[: rows - i]
    return numbers


@functools.cache
def _program() -> Any:
    """The compiled program: `ROWS` rows of `ROW` numbers."""
    return jax.jit(_numbers)


def threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The threefry-2x32 hash with 20 rounds of the counter (high, low), by a key of two words.

    It is written out so that it fuses with what follows: as JAX's own primitive, which loops over
    the rounds on the CPU, it takes three times as long.

    Reference: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
    """
    k1, k2 = key[:, 0], key[:, 1]
    schedule = (k1, k2, k1 ^ k2 ^ np.uint32(0x1BD11BDA))
    x, y = high + k1, low + k2
    for i in range(5):
        for bits in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(bits)) | (y >> np.uint32(32 - bits)))
        x = x + schedule[(i + 1) % 3]
        y = y + schedule[(i + 2) % 3] + np.uint32(i + 1)
    return x, y


def _numbers(
    words: jax.Array,
    folds: jax.Array,
    counts: jax.Array,
    shape: jax.Array,
    offsets: jax.Array,
) -> jax.Array:
    """`ROW` numbers of each row's array, from its offset on, float32 (ROWS, ROW).

    The steps are those of `jax.random.uniform`, `normal` and `truncated_normal` in float32, in
    their order.
    """

    def fold(level: Any, key: jax.Array) -> jax.Array:
        # jax.random.fold_in: the hash of the number, by the key
        number = folds[:, level]
        folded = jnp.stack(threefry(key, jnp.zeros_like(number), number), axis=1)
        return jnp.where((level < counts)[:, None], folded, key)

    key = lax.fori_loop(0, DEPTH, fold, words)
    index = offsets[:, 1:] + lax.iota(np.uint32, ROW)[None]  # no row crosses 2**32: ROW divides it
    one, other = threefry(key[..., None], offsets[:, :1], index)
    bits = one ^ other
    unit = lax.bitcast_convert_type((bits >> np.uint32(9)) | np.uint32(0x3F800000), np.float32)
    unit = unit - np.float32(1.0)

    gaussian, lower, upper, scale = (column[:, None] for column in shape.T)
    gaussian = gaussian > 0
    root2 = np.float32(np.sqrt(2))
    whole = (lower == -jnp.inf) & (upper == jnp.inf)
    above = np.nextafter(np.float32(-1.0), np.float32(0.0), dtype=np.float32)
    first = jnp.where(gaussian, jnp.where(whole, above, lax.erf(lower / root2)), lower)
    last = jnp.where(gaussian, jnp.where(whole, np.float32(1.0), lax.erf(upper / root2)), upper)
    least = jnp.where(whole, -np.inf, lax.nextafter(lower, jnp.full_like(lower, np.inf)))
    most = jnp.where(whole, np.inf, lax.nextafter(upper, jnp.full_like(upper, -np.inf)))
    # A barrier: what is one number a row is computed once, not for every number of the row.
    first, last, least, most = lax.optimization_barrier((first, last, least, most))

    between = lax.max(jnp.broadcast_to(first, (ROWS, ROW)), unit * (last - first) + first)
    drawn = jnp.clip(root2 * lax.erf_inv(between), least, most) * scale
    return jnp.where(gaussian, drawn, between)
