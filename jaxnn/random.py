"""Drawing: from declared parameters or state and a key to arrays.

Two methods give the same numbers, to rounding.

By groups: parameters of equal initializer, shape, and type are drawn one after the other by
`lax.map`. This works for every initializer and generator, and under every transform. Outside of
transforms, the programs of an initializer that is a value are compiled once for each shape.

By rows, outside of transforms and for the common distributions: one small program, compiled once
in a process, draws the parameters of every network. Every array is cut into rows of `ROW` numbers,
of which the program draws `ROWS` in each call. A row needs only the path of its key, its offset in
the array, and a few numbers for the distribution. This is possible because threefry is
counter-based: number i of an array depends only on the key and i. Compiling a program for each
shape would take longer than it saves.

A `Watch` records or places the parameters that layers draw inside any function, such as the `init`
of a program. `jax.jit` inside the function traces again for each watch.
"""

import functools
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .core import paths
from .core.calls import current_trace
from .core.declarations import Declared
from .core.values import is_lasting
from .explain.text import located
from .fields import is_traced
from .initializers import (
    InitFn,
    Initializer,
    Shape,
    constant,
    normal,
    truncated_normal,
    uniform,
    variance_scaling,
)
from .validation import check_shape

Spec = Mapping[paths.Path, Declared]


class Watch:
    """Base of the watches, hashable values whose methods are called inside `watching`."""

    def places(self, spec: Spec) -> Mapping[paths.Path, Any]:
        """Return the sharding of each array that is drawn, or {}.

        Args:
            spec: Declared parameters or state by path.
        """
        return {}

    def drawn(self, spec: Spec, arrays: Mapping[paths.Path, Any]) -> None:
        """Record the arrays.

        Args:
            spec: Declared parameters or state by path.
            arrays: Array of each path.
        """


# Part of the key of every `jax.jit` cache, so that a trace of one watch is not used under another.
_WATCH = jax.make_user_context(default_value=None)


def current_watch() -> Watch | None:
    """Return the watch of the innermost `watching`, if any."""
    return _WATCH.value


def watching(watch: Watch | None) -> Any:
    """Return a context in which the methods of a watch are called; None for no watch."""
    return _WATCH(watch)


ROW = 4096
ROWS = 64
DEPTH = 16


class Draw(NamedTuple):
    """One draw: a parameter, or a slice of a stacked one, with the hashes on its key's path."""

    param: Declared
    folds: tuple[int, ...]


def draw(spec: Any, key: jax.Array) -> Any:
    """Return the arrays that `spec` declares.

    Args:
        spec: Tree of `Param` or `Variable`.
        key: Root key.
    """
    leaves = list(paths.walk(spec))
    watch = current_watch()
    places = {} if watch is None else watch.places(dict(leaves))
    draws = [_draws(path, param) for path, param in leaves]
    arrays: list[Any] = [None] * len(leaves)
    rows: list[int] = []
    host: dict[int, np.ndarray[Any, Any]] = {}
    groups: dict[Any, list[int]] = {}
    outside = is_outside() and not is_traced(key)
    by_rows = outside and _counter_based(key)
    for i, (path, param) in enumerate(leaves):
        with located(path, param.init):
            if isinstance(param.init, constant):
                if outside and not is_traced(param.init.value):  # without a program for each shape
                    host[i] = np.full(param.shape, param.init.value, param.dtype)
                else:
                    arrays[i] = param.init(None, param.shape, param.dtype)
            elif by_rows and param.dtype == np.float32 and distribution_of(param) is not None:
                rows.append(i)
            else:
                groups.setdefault(
                    (_group(param), _slice_sharding(places.get(path), param)), []
                ).append(i)
    if rows:
        host |= zip(rows, draw_rows([draws[i] for i in rows], key), strict=True)
    for members in groups.values():
        path, param = leaves[members[0]]
        with located(path, param.init):
            flat: Any = _draw_group([one for i in members for one in draws[i]], key, outside)
        if compiled := outside and not is_traced(flat):
            flat = np.asarray(flat)  # slicing there does not compile
        for i in members:
            count = len(draws[i])
            (host if compiled else arrays)[i] = flat[:count].reshape(leaves[i][1].shape)
            flat = flat[count:]
    # Copies, because the arrays may be views of one buffer, which must not be donated.
    placed = jax.device_put(list(host.values()), may_alias=False)
    for i, array in zip(host, placed, strict=True):
        arrays[i] = array
    found = {path: array for (path, _), array in zip(leaves, arrays, strict=True)}
    found |= {path: lax.with_sharding_constraint(found[path], at) for path, at in places.items()}
    if watch is not None:
        watch.drawn(dict(leaves), found)
    return paths.map_with_path(lambda path, _: found[path], spec)


def is_outside() -> bool:
    """Return whether no JAX transform is active."""
    return current_trace() == _outside()


@functools.cache
def _outside() -> Any:
    """Return the token of no transform, from a thread that has not entered any."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(current_trace).result()


def _counter_based(key: jax.Array) -> bool:
    """Return whether number i of an array depends only on the key and i."""
    threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    return threefry and bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]


def _draws(path: paths.Path, param: Declared) -> list[Draw]:
    """Return the draws of a parameter: one, or one for each slice along its stacked axes."""
    drawn: list[list[str]] = [[]]
    start = 0
    for levels, n in param.stack:
        stop = len(path) - levels
        drawn = [[*done, *path[start:stop], str(i)] for done in drawn for i in range(n)]
        start = stop
    rest = path[start : len(path) - param.lift]
    return [Draw(param, tuple(map(paths.segment_hash, [*done, *rest]))) for done in drawn]


def _group(param: Declared) -> Any:
    try:
        hash(param.init)
    except TypeError:  # it contains a traced number: a separate group
        return id(param)
    return param.init, param.slice_shape, param.dtype


def _slice_sharding(place: Any, param: Declared) -> Any:
    """Return the sharding of a slice of a parameter; different ones are drawn separately."""
    return None if place is None else tuple(place.spec)[len(param.stack) :]


def _draw_group(draws: list[Draw], key: jax.Array, outside: bool) -> jax.Array:
    init, shape, dtype = draws[0].param.init, draws[0].param.slice_shape, draws[0].param.dtype
    numbers, used = _table([one.folds for one in draws])
    value = isinstance(init, Initializer) and is_lasting(init)
    if outside and value and isinstance(_group(draws[0].param), tuple):
        return _compiled_draws(init, shape, dtype, _compiled_folds(key, numbers, used))
    return _draw_all(init, shape, dtype, _fold_all(key, numbers, used))


def _draw_all(init: InitFn, shape: Shape, dtype: Any, keys: jax.Array) -> jax.Array:
    """Draw an array for each key, one after the other."""

    def one(k: jax.Array) -> jax.Array:
        drawn = jnp.asarray(init(k, shape, dtype), dtype)
        check_shape(drawn, tuple(shape), "the array of an initializer")
        return drawn

    return lax.map(one, keys)


def _table(folds: list[tuple[int, ...]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return an array with the hashes of each row as a column, and a mask of those that exist."""
    depth = max(map(len, folds))
    numbers = np.zeros((depth, len(folds)), np.uint32)
    used = np.zeros((depth, len(folds)), bool)
    for i, row in enumerate(folds):
        numbers[: len(row), i] = row
        used[: len(row), i] = True
    return numbers, used


def _fold_all(
    key: jax.Array, numbers: np.ndarray[Any, Any], used: np.ndarray[Any, Any]
) -> jax.Array:
    """Return a key for each column of hashes: the root folded by each of them in turn."""

    def step(keys: jax.Array, level: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        number, use = level
        # Under vmap, other generators would fold the first key only.
        folded = (
            jax.vmap(jax.random.fold_in)(keys, number)
            if str(jax.random.key_impl(key)) == "threefry2x32"
            else lax.map(lambda pair: jax.random.fold_in(*pair), (keys, number))
        )
        return jnp.where(use, folded, keys), None

    start = jnp.broadcast_to(key, numbers.shape[1:])
    return lax.scan(step, start, (jnp.asarray(numbers), jnp.asarray(used)))[0]


# Two programs, so that a draw is compiled separately, which gives bitwise the same numbers.
_compiled_folds = jax.jit(_fold_all)
_compiled_draws = jax.jit(_draw_all, static_argnums=(0, 1, 2))


# ---- drawing by rows ----


class Distribution(NamedTuple):
    """A uniform distribution on [lower, upper), or, if `gaussian`, a normal one truncated to that
    interval; the numbers are then multiplied by `scale`."""

    gaussian: bool
    lower: float
    upper: float
    scale: float


def distribution_of(param: Declared) -> Distribution | None:
    """Return the distribution of a parameter, or None if the program cannot draw it."""
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
    """Return the float32 array of each parameter, from its draws and the root `key`.

    Every distribution must be one that `distribution_of` returns.
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
    """Return for each draw: words of a key, hashes to fold it by, their number, distribution."""
    keys = np.broadcast_to(np.asarray(jax.random.key_data(key)), (len(draws), 2)).copy()
    folds = np.zeros((len(draws), DEPTH), np.uint32)
    counts = np.zeros((len(draws),), np.int32)
    distributions = {id(one.param): distribution_of(one.param) for one in draws}
    shape = np.array([distributions[id(one.param)] for one in draws], np.float32).reshape(-1, 4)
    for i, (_, path) in enumerate(draws):
        if len(path) > DEPTH:  # deeper than the program: fold the first part here
            first = paths.PathKey(key, path[:-DEPTH]).value()
            keys[i], path = np.asarray(jax.random.key_data(first)), path[-DEPTH:]
        folds[i, : len(path)] = path
        counts[i] = len(path)
    return [keys, folds, counts, shape]


def _numbers_of_rows(columns: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return the numbers of all rows, float32 (rows, ROW), `ROWS` of them in each call."""
    rows = len(columns[0])
    padded = [np.pad(c, [(0, -rows % ROWS), *[(0, 0)] * (c.ndim - 1)]) for c in columns]
    starts = range(0, rows, ROWS)
    # All calls are dispatched before the first result is read.
    calls = [_program()(*(column[i : i + ROWS] for column in padded)) for i in starts]
    numbers = np.empty((rows, ROW), np.float32)
    for i, call in zip(starts, calls, strict=True):
        numbers[i : i + ROWS] = np.asarray(call)[: rows - i]
    return numbers


@functools.cache
def _program() -> Any:
    """Return the compiled program, which draws `ROWS` rows of `ROW` numbers."""
    return jax.jit(_numbers)


def threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the threefry-2x32 hash with 20 rounds of the counter (high, low).

    It is written out so that it is fused with the operations after it. JAX's own primitive, which
    loops over the rounds on the CPU, takes three times as long.

    Args:
        key: Words of the keys, (rows, 2, ...).
        high: High words of the counters.
        low: Low words of the counters.

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
    """Return `ROW` numbers of each row's array, from its offset on, float32 (ROWS, ROW).

    The operations are those of `jax.random.uniform`, `normal`, and `truncated_normal` in float32,
    in the same order.
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
    # A barrier, so that the numbers of a row are computed once, not for each of its elements.
    first, last, least, most = lax.optimization_barrier((first, last, least, most))

    between = lax.max(jnp.broadcast_to(first, (ROWS, ROW)), unit * (last - first) + first)
    drawn = jnp.clip(root2 * lax.erf_inv(between), least, most) * scale
    return jnp.where(gaussian, drawn, between)
