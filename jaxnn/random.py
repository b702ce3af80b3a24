"""Drawing: from declared parameters or state and a key to arrays.

Two ways give the same numbers, to rounding.

*By groups*, the plain one: parameters of equal initializer, shape and type are drawn one after the
other by `lax.map`. It works for every initializer and generator and under every transform. Outside
of transforms the programs of an initializer that is a value are compiled once a shape.

*By rows* (`rows`), outside of transforms and for the common distributions: one small program,
compiled once a process, whatever the network.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .core import paths
from .core.calls import current_trace
from .core.declarations import Declared
from .core.values import is_lasting
from .explain.location import located
from .fields import is_traced
from .initializers import InitFn, Initializer, Shape, constant
from .rows import Draw, distribution_of, draw_rows
from .watching import current_watch


def draw(spec: Any, key: jax.Array) -> Any:
    """The arrays that `spec`, a tree of `Param` or `Variable`, declares, drawn from a root key."""
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
                if outside and not is_traced(param.init.value):  # nothing to compile for a shape
                    host[i] = np.full(param.shape, param.init.value, param.dtype)
                else:
                    arrays[i] = param.init(None, param.shape, param.dtype)
            elif by_rows and param.dtype == np.float32 and distribution_of(param) is not None:
                rows.append(i)
            else:
                groups.setdefault((_group(param), _own(places.get(path), param)), []).append(i)
    if rows:
        host |= zip(rows, draw_rows([draws[i] for i in rows], key), strict=True)
    for members in groups.values():
        path, param = leaves[members[0]]
        with located(path, param.init):
            flat: Any = _draw_group([one for i in members for one in draws[i]], key, outside)
        if compiled := outside and not is_traced(flat):
            flat = np.asarray(flat)  # to cut it there compiles nothing
        for i in members:
            count = len(draws[i])
            (host if compiled else arrays)[i] = flat[:count].reshape(leaves[i][1].shape)
            flat = flat[count:]
    # Copies: the arrays may be views of one buffer, whose memory no step must take.
    placed = jax.device_put(list(host.values()), may_alias=False)
    for i, array in zip(host, placed, strict=True):
        arrays[i] = array
    found = {path: array for (path, _), array in zip(leaves, arrays, strict=True)}
    found |= {path: lax.with_sharding_constraint(found[path], at) for path, at in places.items()}
    if watch is not None:
        watch.drawn(dict(leaves), found)
    return paths.map_with_path(lambda path, _: found[path], spec)


def is_outside() -> bool:
    """Whether no JAX transform is under way."""
    return current_trace() == _outside()


@functools.cache
def _outside() -> Any:
    """The token of no transform: that of a thread which has entered none."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(current_trace).result()


def _counter_based(key: jax.Array) -> bool:
    """Whether number i of an array depends on the key and i alone."""
    threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    return threefry and bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]


def _draws(path: paths.Path, param: Declared) -> list[Draw]:
    """The draws of a parameter: one, or one for each slice along its stacked axes."""
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
    except TypeError:  # it holds a traced number: a group of its own
        return id(param)
    return param.init, param.slice_shape, param.dtype


def _own(place: Any, param: Declared) -> Any:
    """How a slice of a parameter lies: slices that lie differently are drawn apart."""
    return None if place is None else tuple(place.spec)[len(param.stack) :]


def _draw_group(draws: list[Draw], key: jax.Array, outside: bool) -> jax.Array:
    init, shape, dtype = draws[0].param.init, draws[0].param.slice_shape, draws[0].param.dtype
    numbers, used = _table([one.folds for one in draws])
    value = isinstance(init, Initializer) and is_lasting(init)
    if outside and value and isinstance(_group(draws[0].param), tuple):
        return _compiled_draws(init, shape, dtype, _compiled_folds(key, numbers, used))
    return _draw_all(init, shape, dtype, _fold_all(key, numbers, used))


def _draw_all(init: InitFn, shape: Shape, dtype: Any, keys: jax.Array) -> jax.Array:
    """A draw for each key, one after the other."""

    def one(k: jax.Array) -> jax.Array:
        drawn = jnp.asarray(init(k, shape, dtype), dtype)
        if drawn.shape != shape:
            raise ValueError(f"the initializer was asked for shape {shape} and gave {drawn.shape}")
        return drawn

    return lax.map(one, keys)


def _table(folds: list[tuple[int, ...]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The hashes of each row along a column, and which of them there are."""
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
    """A key for each column of hashes: the root folded by each of them in turn."""

    def step(keys: jax.Array, level: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        number, use = level
        # lax.map where other generators would, under vmap, fold the first key only.
        folded = (
            jax.vmap(jax.random.fold_in)(keys, number)
            if str(jax.random.key_impl(key)) == "threefry2x32"
            else lax.map(lambda pair: jax.random.fold_in(*pair), (keys, number))
        )
        return jnp.where(use, folded, keys), None

    start = jnp.broadcast_to(key, numbers.shape[1:])
    return lax.scan(step, start, (jnp.asarray(numbers), jnp.asarray(used)))[0]


# Two programs, so that a draw is compiled alone, as it is without them: to the same bits.
_compiled_folds = jax.jit(_fold_all)
_compiled_draws = jax.jit(_draw_all, static_argnums=(0, 1, 2))
