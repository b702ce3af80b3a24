"""Drawing: from declared parameters and a key to arrays.

Two ways give the same numbers.

*By groups*, the plain one: parameters of equal initialiser, shape and type are drawn one after the
other by `lax.map`. It works for every initialiser and generator and under every transform.

*By rows*, for a concrete key of the default generator: every array is cut into rows of `ROW`
numbers, and one small program, compiled once a process, draws 64 rows a call, whatever the network.
A row needs only its key's path, its offset, and a few numbers that tell the distribution. This is
possible because threefry is counter-based: number i of an array depends on the key and i alone.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p

from . import paths
from .declarations import Param
from .initialisers import constant, normal, truncated_normal, uniform, variance_scaling
from .values import is_traced

ROW = 4096
ROWS = 64
DEPTH = 16


class Draw(NamedTuple):
    """One draw: a parameter, or a slice of a stacked one, with the hashes on its key's path."""

    param: Param
    folds: tuple[int, ...]


def draw(spec: Any, key: jax.Array) -> Any:
    """The arrays that `spec`, a tree of `Param`, declares, drawn from the root `key`."""
    leaves = list(paths.walk(spec))
    draws = [_draws(path, param) for path, param in leaves]
    arrays: list[Any] = [None] * len(leaves)
    rows: list[int] = []
    groups: dict[Any, list[int]] = {}
    by_rows = _rows_possible(key)
    for i, (_, param) in enumerate(leaves):
        if isinstance(param.init, constant):
            arrays[i] = param.init(None, param.shape, param.dtype)
        elif by_rows and param.dtype == np.float32 and _distribution(param) is not None:
            rows.append(i)
        else:
            groups.setdefault(_group(param), []).append(i)
    for i, array in zip(rows, _draw_rows([draws[i] for i in rows], key), strict=True):
        arrays[i] = jnp.asarray(array.reshape(leaves[i][1].shape))
    for members in groups.values():
        flat = _draw_group([one for i in members for one in draws[i]], key)
        for i in members:
            count = len(draws[i])
            arrays[i] = flat[:count].reshape(leaves[i][1].shape)
            flat = flat[count:]
    found = {path: array for (path, _), array in zip(leaves, arrays, strict=True)}
    return paths.map_with_path(lambda path, _: found[path], spec)


def _draws(path: paths.Path, param: Param) -> list[Draw]:
    """The draws of a parameter: one, or one for each slice along its stacked axes."""
    drawn: list[list[str]] = [[]]
    start = 0
    for levels, n in param.stack:
        stop = len(path) - levels
        drawn = [[*done, *path[start:stop], str(i)] for done in drawn for i in range(n)]
        start = stop
    rest = path[start : len(path) - param.lift]
    return [Draw(param, tuple(map(paths.segment_hash, [*done, *rest]))) for done in drawn]


# ---- by groups ----


def _group(param: Param) -> Any:
    try:
        hash(param.init)
    except TypeError:  # it holds a traced number: a group of its own
        return id(param)
    return param.init, param.slice_shape, param.dtype


def _draw_group(draws: list[Draw], key: jax.Array) -> jax.Array:
    param = draws[0].param
    keys = _fold_all(key, [one.folds for one in draws])
    return lax.map(lambda k: param.init(k, param.slice_shape, param.dtype), keys)


def _fold_all(key: jax.Array, folds: list[tuple[int, ...]]) -> jax.Array:
    """A key for each row of hashes: the root folded by each of them in turn."""
    depth = max(map(len, folds))
    numbers = np.zeros((depth, len(folds)), np.uint32)
    used = np.zeros((depth, len(folds)), bool)
    for i, row in enumerate(folds):
        numbers[: len(row), i] = row
        used[: len(row), i] = True

    def step(keys: jax.Array, level: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        number, use = level
        return jnp.where(use, jax.vmap(jax.random.fold_in)(keys, number), keys), None

    start = jnp.broadcast_to(key, (len(folds),))
    return lax.scan(step, start, (jnp.asarray(numbers), jnp.asarray(used)))[0]


# ---- by rows ----


class Distribution(NamedTuple):
    """A distribution by numbers: uniform on [lower, upper), or, where `gaussian`, a normal cut to
    that interval; then times `scale`."""

    gaussian: bool
    lower: float
    upper: float
    scale: float


def _rows_possible(key: jax.Array) -> bool:
    return (
        not is_traced(key)
        and str(jax.random.key_impl(key)) == "threefry2x32"
        and bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]
    )


def _distribution(param: Param) -> Distribution | None:
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


def _draw_rows(draws: list[list[Draw]], key: jax.Array) -> list[np.ndarray[Any, Any]]:
    """The numbers of each parameter, flat, drawn `ROWS` rows a call of one compiled program."""
    flat = [np.empty(math.prod(slices[0].param.shape), np.float32) for slices in draws]
    targets: list[np.ndarray[Any, Any]] = []
    table: list[tuple[Any, ...]] = []
    for array, slices in zip(flat, draws, strict=True):
        distribution = _distribution(slices[0].param)
        assert distribution is not None
        size = math.prod(slices[0].param.slice_shape)
        for i, one in enumerate(slices):
            for offset in range(0, size, ROW):
                start = i * size + offset
                targets.append(array[start : (i + 1) * size][:ROW])
                table.append((one.folds, offset, distribution))
    for start in range(0, len(table), ROWS):
        numbers = _rows_of(table[start : start + ROWS], key)
        for target, row in zip(targets[start : start + ROWS], numbers, strict=False):
            target[:] = row[: len(target)]
    return flat


def _rows_of(table: list[tuple[Any, ...]], key: jax.Array) -> np.ndarray[Any, Any]:
    folds = np.zeros((ROWS, DEPTH), np.uint32)
    counts = np.zeros((ROWS,), np.int32)
    offsets = np.zeros((ROWS, 2), np.uint32)
    gaussian = np.zeros((ROWS,), bool)
    shape = np.zeros((ROWS, 3), np.float32)
    keys = np.broadcast_to(np.asarray(jax.random.key_data(key)), (ROWS, 2)).copy()
    for i, (path, offset, distribution) in enumerate(table):
        if len(path) > DEPTH:  # deeper than the program folds: fold the first part here
            first = paths.PathKey(key, path[:-DEPTH]).value()
            keys[i], path = np.asarray(jax.random.key_data(first)), path[-DEPTH:]
        folds[i, : len(path)] = path
        counts[i] = len(path)
        offsets[i] = offset >> 32, offset & 0xFFFFFFFF
        gaussian[i] = distribution.gaussian
        shape[i] = distribution[1:]
    return np.asarray(_program()(len(table), keys, folds, counts, offsets, gaussian, shape))


@functools.cache
def _program() -> Any:
    """The compiled program: it fills the first `used` of `ROWS` rows."""

    def fill(used: Any, *table: Any) -> jax.Array:
        def one(i: Any, rows: jax.Array) -> jax.Array:
            return rows.at[i].set(_row(*(column[i] for column in table)))

        return lax.fori_loop(0, used, one, jnp.zeros((ROWS, ROW), jnp.float32))

    return jax.jit(fill)


def _row(words: Any, folds: Any, count: Any, offset: Any, gaussian: Any, shape: Any) -> jax.Array:
    """`ROW` numbers of an array, from `offset` on.

    The steps are those of `jax.random.uniform`, `normal` and `truncated_normal` in float32, in
    their order, so that the bits agree.
    """
    key = lax.fori_loop(
        0,
        count,
        lambda i, key: jax.random.fold_in(key, folds[i]),
        jax.random.wrap_key_data(words, impl="threefry2x32"),
    )
    k1, k2 = jax.random.key_data(key)
    high, low = offset
    index = low + lax.iota(np.uint32, ROW)  # a row never crosses 2**32: ROW divides it
    one, other = threefry2x32_p.bind(k1, k2, jnp.broadcast_to(high, (ROW,)), index)
    bits = one ^ other
    unit = lax.bitcast_convert_type((bits >> np.uint32(9)) | np.uint32(0x3F800000), np.float32)
    unit = unit - np.float32(1.0)
    lower, upper, scale = shape
    root2 = np.float32(np.sqrt(2))
    plain = lower == -jnp.inf
    low_normal = np.nextafter(np.float32(-1.0), np.float32(0.0), dtype=np.float32)
    first = jnp.where(gaussian, jnp.where(plain, low_normal, lax.erf(lower / root2)), lower)
    last = jnp.where(gaussian, jnp.where(plain, np.float32(1.0), lax.erf(upper / root2)), upper)
    between = lax.max(first, unit * (last - first) + first)
    drawn = root2 * lax.erf_inv(between)
    drawn = jnp.where(
        plain,
        drawn,
        jnp.clip(
            drawn,
            lax.nextafter(lax.stop_gradient(lower), np.float32(np.inf)),
            lax.nextafter(lax.stop_gradient(upper), np.float32(-np.inf)),
        ),
    )
    return jnp.where(gaussian, drawn * scale, between)
