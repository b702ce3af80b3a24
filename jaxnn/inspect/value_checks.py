"""Checks of values while a network runs: first_nonfinite and checkify.

For `first_nonfinite`, the network runs once, compiled, with every call intercepted. With each
output, the interceptor collects a number that identifies the first place in the layer, in the order
of evaluation, whose output is not finite. A wrapper that scans or maps its layer stacks these
numbers, so the index of the copy is known too. `_Place` represents the place of a number.

`checkify` returns a function that checks values such as token ids while it runs.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify as jax_checkify

from ..arrays import checking, checking_at
from ..core import paths
from ..core.calls import Call, Next, Outcome, evaluate_layer, intercepting
from ..core.composite import Wrapper, collected_path
from ..core.declarations import split_arrays
from ..core.layer import Layer, LayerLike
from ..core.paths import at
from ..fields import is_traced
from ..tree import a_layer
from ..validation import Accepts


def first_nonfinite(
    net: Layer,
    params: Any,
    *inputs: Any,
    state: Any = None,
    key: jax.Array | None = None,
    train: bool = False,
    **named: Any,
) -> str | None:
    """Return the path of the first NaN or infinite value in a call of `net`, or None.

    One compiled program checks, in this order,

    1. the inputs, such as `"inputs/0"` or, for a named input, `"inputs/mask"`;
    2. the parameters, such as `"blocks/mlp/w"`, and the state, such as `"norm/mean"`;
    3. the output of each layer in the order of evaluation, such as `"blocks/mlp"`. The inputs of
       the reported layer are finite. A second call of a layer is `"blocks/mlp@1"`. The result is
       `"output"` if only the output of the network itself is not finite.

    `[3]` after a segment is the index of a copy in a `Repeat`, of a member in an `Ensemble`, or of
    a step in a `Recurrent`: `"blocks[3]/mlp/w"`. For layers that are called inside a transform such
    as `jax.vmap`, the layer that calls them is reported. If the result is None, the forward pass is
    finite; in that case, check the loss, and the gradients with `statistics`.

    Args:
        net: The network.
        params: The parameters of the network.
        *inputs: The inputs of the network.
        state: The state of the network. Default: None.
        key: A JAX key. Default: None.
        train: Whether the network runs in training. Default: False.
        **named: The named inputs of the network.

    Raises:
        TypeError: `net` is not a layer, or an argument is traced.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> net, x = nn.Sequential(nn.Dense(4), jnp.zeros_like, jnp.log, nn.Dense(2)), jnp.ones((1, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> first_nonfinite(net, params, x), first_nonfinite(net, params, x * jnp.inf)
    ('2', 'inputs/0')
    """
    a_layer(net, "first_nonfinite.net", "write inspect.first_nonfinite(net, params, x)")
    check_concrete("first_nonfinite", (params, inputs, state, key, named))
    arrays, join = split_arrays((params, inputs, state, named))
    watcher = _Watcher()
    watched = _Found(net, watcher)
    looked: list[str] = []

    def run(arrays: Any, key: Any) -> Any:
        params, inputs, state, named = join(arrays)
        found = watched.apply(params, *inputs, state=state, key=key, train=train, **named)
        spec = net.spec(*inputs, **named)
        leaves = [*_given(inputs, named), *_kept(spec, params, state or {})]
        looked[:] = [path for path, _ in leaves]
        return [flags for _, flags in leaves], found if state is None else found[0]

    wrong, found = jax.device_get(jax.jit(run)(arrays, key))
    for path, flags in zip(looked, wrong, strict=True):
        if flags.any():
            return path.format(*np.argwhere(flags)[0])
    ((mark, number),) = found.items()
    places = watcher.places
    if number == places[mark].size:
        return None
    return _joined(_path(places[mark], int(number), places)) or "output"


def check_concrete(name: str, tree: Any) -> None:
    """Raise TypeError if an array is traced.

    Args:
        name: The function that reads the arrays.
        tree: A pytree of its arguments.
    """
    if any(map(is_traced, jax.tree.leaves(tree))):
        raise TypeError(
            f"{name} reads numbers, which are not known while jax.jit or another transform traces; "
            "call it outside of that, with the arrays themselves"
        )


def _given(inputs: Any, named: Any) -> Iterator[tuple[str, jax.Array]]:
    """Yield the paths of the inputs, and whether they are not finite."""
    for name, tree in [*enumerate(inputs), *named.items()]:
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            below = jax.tree_util.keystr(keys, simple=True, separator="/")
            path = "/".join(filter(None, ("inputs", str(name), below)))
            yield _escaped(path), _nonfinite(leaf)


def _kept(spec: Any, params: Any, state: Any) -> Iterator[tuple[str, jax.Array]]:
    """Yield the paths of parameters and state, with a flag for each copy that is not finite; `{}`
    in a path stands for each stacked axis."""
    for path, param in paths.walk(spec):
        segments = [_escaped(segment) for segment in ("", *path)]
        for levels, _ in param.stack:
            segments[-1 - levels] += "[{}]"
        head, *rest = segments
        yield (
            "/".join([head, *rest] if head else rest),
            _nonfinite(at(params, path), len(param.stack)),
        )
    for path, leaf in paths.walk(state):
        yield _escaped(paths.text(path)), _nonfinite(leaf)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _nonfinite(tree: Any, axes: int = 0) -> jax.Array:
    """Return whether a number in `tree` is not finite, for each index of the leading axes."""
    flags: Any = jnp.zeros((), bool)
    for leaf in jax.tree.leaves(tree):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact):
            flags |= ~jnp.isfinite(leaf).all(tuple(range(axes, jnp.ndim(leaf))))
    return flags


# ---- the numbers that go up ----

KIND = "nonfinite"
_MARK = "\0"  # no child has it in its name


class _Entry(NamedTuple):
    """A call in a place: the path from there, and the mark and the size of the place called."""

    path: str
    mark: str
    size: int


class _Place(NamedTuple):
    """The places in one call of a layer, numbered: those of each group, for each of its copies in
    turn, and last the layer's output. The number `size` means that all are finite."""

    groups: tuple[tuple[tuple[int, ...], tuple[_Entry, ...]], ...]

    @property
    def size(self) -> int:
        return 1 + sum(math.prod(copies) * _size(entries) for copies, entries in self.groups)


def _size(entries: tuple[_Entry, ...]) -> int:
    return sum(entry.size for entry in entries)


def _path(place: _Place, number: int, places: dict[str, _Place]) -> Iterator[str]:
    """Yield the segments and indices from the layer that has `place` to that of the number."""
    for copies, entries in place.groups:
        size = _size(entries)
        if number >= math.prod(copies) * size:
            number -= math.prod(copies) * size
            continue
        yield from (f"[{i}]" for i in np.unravel_index(number // size, copies))
        number %= size
        for entry in entries:
            if number < entry.size:
                yield from filter(None, [entry.path])
                yield from _path(places[entry.mark], number, places)
                return
            number -= entry.size


def _joined(segments: Iterable[str]) -> str:
    return "".join(s if s.startswith("[") else f"/{s}" for s in segments).removeprefix("/")


class _Found(Wrapper):
    """The intercepted network, whose output is its number, by the mark of its place."""

    inner: LayerLike
    watcher: "_Watcher"

    def _evaluate(self, call: Call) -> Outcome:
        outcome = evaluate_layer(self.wrapped, call.intercepted(self.watcher).replace(inner=False))
        return Outcome(outcome.collected[KIND], outcome.state)

    def __repr__(self) -> str:
        return repr(self.inner)


class _Watcher:
    """The interceptor that numbers the layers of one network, for one trace."""

    def __init__(self) -> None:
        self.places: dict[str, _Place] = {}
        self._marks: dict[_Place, str] = {}  # equal places have one mark, however often traced
        # Layers as they are called: JAX sorts the collected values by name.
        self.calls: list[tuple[paths.Path, str]] = []

    def __call__(self, path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
        if call.foreign:  # no value comes out of a transform of the user
            return next(call)
        if not call.inner:
            self.calls.append((path, call.method))
        begin = len(self.calls)
        outcome = next(call)
        ordered = self._ordered(outcome.collected.get(KIND, {}), path, begin)
        mark, number = self._number(ordered, outcome.output)
        return outcome._replace(collected={**outcome.collected, KIND: {mark: number}})

    def _ordered(
        self, numbers: dict[str, Any], path: paths.Path, begin: int
    ) -> list[tuple[_Entry, Any]]:
        """Return the numbers from below, with their paths and marks, in the order of the calls."""
        found = {}
        for name, number in numbers.items():
            where, _, mark = name.rpartition("/")
            found[where] = _Entry(where, mark, self.places[mark].size), number
        counts: Counter[tuple[paths.Path, str]] = Counter()
        order = []
        for called, method in self.calls[begin:]:
            if called[: len(path)] == path:
                where = collected_path(called[len(path) :], method, counts[called, method])
                order.append(where)
                counts[called, method] += 1
        rank = {where: i for i, where in reversed([*enumerate(order)])}
        return [found[where] for where in sorted(found, key=lambda w: rank.get(w, len(order)))]

    def _number(self, entries: list[tuple[_Entry, Any]], output: Any) -> tuple[str, jax.Array]:
        """Return the mark of a place with these entries, and the number of the first wrong one."""
        grouped = itertools.groupby(entries, lambda pair: jnp.shape(pair[1]))
        groups = [(copies, [*pairs]) for copies, pairs in grouped]
        place = _Place(tuple((c, tuple(entry for entry, _ in pairs)) for c, pairs in groups))
        begin = place.size - 1
        number = jnp.where(_nonfinite(output), begin, begin + 1).astype(jnp.int32)
        for copies, pairs in reversed(groups):
            size = end = sum(entry.size for entry, _ in pairs)
            begin -= math.prod(copies) * size
            first = jnp.full(copies, size, jnp.int32)
            for entry, numbers in reversed(pairs):
                end -= entry.size
                first = jnp.where(numbers < entry.size, end + numbers, first)
            first = first.ravel()
            copy = jnp.argmax(first < size)
            number = jnp.where((first < size).any(), begin + copy * size + first[copy], number)
        mark = self._marks.setdefault(place, f"{_MARK}{len(self._marks)}")
        self.places[mark] = place
        return mark, number.astype(jnp.int32)


_plain = Accepts(
    "a function that is not jitted",
    lambda value: callable(value) and not hasattr(value, "lower"),
    TypeError,
    "write nn.checkify(net.apply), which compiles it",
)


def checkify(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function that raises errors for invalid values found during its execution.

    In a compiled program, a token outside the vocabulary and a position past a table or a cache
    give NaN. In the returned function they raise ValueError with the path of the layer and the
    value. Use it for debugging only: the checks take time, and each call waits for its result.

    Args:
        function: A function of arrays or pytrees of arrays. Bind all other arguments with
            `functools.partial`. It must not be jitted, because `checkify` compiles it.

    Raises:
        TypeError: `function` is not a function, or is jitted.

    Reference: `jax.experimental.checkify`.

    >>> import jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Embedding(5, 2), nn.Dense(3))
    >>> params = net.init(jax.random.key(0), jnp.array([1]))
    >>> checkify(net.apply)(params, jnp.array([1, 7]))
    Traceback (most recent call last):
    ValueError: at '0': token 7 is outside a vocabulary of 5
    """
    _plain(function, "checkify.function")

    def run(*args: Any, **named: Any) -> Any:
        with checking(), intercepting(_at):
            return function(*args, **named)

    compiled = jax.jit(jax_checkify.checkify(run))

    @functools.wraps(function)
    def wrapped(*args: Any, **named: Any) -> Any:
        error, output = compiled(*args, **named)
        message = error.get()
        if message is not None:
            raise ValueError(message.removesuffix(" (`check` failed)"))
        return output

    return wrapped


def _at(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
    """Run a layer so that errors name its path."""
    with checking_at(path):
        return next(call)
