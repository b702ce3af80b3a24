"""Binding: how `self.attention(x)` inside a composite's forward finds its parameters.

While a composite's forward runs, its children are `Bound`: a layer, its place, and the frame of
this one evaluation. `Frame` hands each child its parameters, state and key, and collects the new
state. While only shapes are known, the parameters are `Unknown`, and a call of a child leaves in
`Declaring` what the child declares, and returns a placeholder.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from . import paths
from .calls import (
    Call,
    Mismatch,
    Outcome,
    Unknown,
    current_trace,
    evaluate,
    located,
    placeholder_key,
    read_early,
)
from .declarations import Declaration, describe, is_array, mismatches, placeholder
from .floating import narrowed, widened
from .signatures import RESERVED_INPUTS, suggestion


class Bound:
    """A child of a composite while its forward runs: call it, or any other pure method of it.

    `bound.layer` and `bound.params` are the pure pair, for a hand-written `lax.scan`; other
    attributes are the layer's own. Under an interceptor, `bound.layer` is intercepted too.
    """

    __slots__ = ("__weakref__", "_frame", "_layer", "_path")  # JAX's transforms refer weakly

    def __init__(self, layer: Any, frame: "Frame", path: paths.Path) -> None:
        self._layer = layer
        self._frame = frame
        self._path = path

    @property
    def layer(self) -> Any:
        """The child itself."""
        return self._frame.layer_at(self._layer, self._path)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The child's output."""
        return self._frame.run(self._layer, self._path, "forward", inputs, named)

    @property
    def params(self) -> Any:
        """The child's parameters."""
        return self._frame.params_at(self._path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if not self._layer._has_method(name):
            return getattr(self._layer, name)

        def method(*inputs: Any, **named: Any) -> Any:
            return self._frame.run(self._layer, self._path, name, inputs, named)

        return method

    def __repr__(self) -> str:
        return f"<{self._layer!r} bound at {paths.text(self._path)!r}>"


def bind(children: Any, frame: "Frame", path: paths.Path = ()) -> Any:
    """The children, nested as they are, each bound to its place in the frame."""
    if isinstance(children, dict):
        return {name: bind(child, frame, (*path, name)) for name, child in children.items()}
    if isinstance(children, tuple):
        bound = [bind(child, frame, (*path, str(i))) for i, child in enumerate(children)]
        return paths.like(children, bound)
    return children if children is None else Bound(children, frame, path)


def at(tree: Any, path: paths.Path) -> Any:
    """The subtree of nested dicts and tuples at `path`; KeyError where there is none."""
    for segment in path:
        if isinstance(tree, tuple) and int(segment) < len(tree):
            tree = tree[int(segment)]
        elif isinstance(tree, Mapping) and segment in tree:
            tree = tree[segment]
        else:
            raise KeyError(segment)
    return tree


def inputs_for(
    layer: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any], passing: dict[str, Any]
) -> dict[str, Any]:
    """The named inputs of a child: those it is given, and those passing by that it takes."""
    if not named and not passing:
        return {}
    taken = layer._takes(method)
    for name in named:
        if name in RESERVED_INPUTS:
            raise TypeError(
                f"a child is given {name!r} by the call of the network, not by forward; to run it "
                "in another way, write child.layer.apply(child.params, x), without state or key"
            )
        if name not in taken:
            raise TypeError(
                f"the input {name!r} is taken by no layer here; {suggestion(name, taken)}"
            )
    own = layer._signature(method)
    filled = own.inputs[: len(inputs)]
    return {
        name: item for name, item in passing.items() if name in taken and name not in filled
    } | named


def visible(
    layer: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs, with zeros at the positions that segment_ids given by name mark as padding.

    `segment_ids` mark the first input and `memory_segment_ids` the input `memory`. An input without
    the axes of its segment_ids stays as it is. Zeros at the entrance keep NaN and invalid tokens
    out of every layer: the gradient of a weight sums over padding too, and 0 * NaN is NaN.
    """
    names = layer._signature(method).inputs
    marked = {"segment_ids": 0}
    if "memory" in names:
        marked["memory_segment_ids"] = names.index("memory")
    for marks, place in marked.items():
        segment_ids: Any = named.get(marks)
        if not jnp.issubdtype(getattr(segment_ids, "dtype", bool), jnp.integer):
            continue
        if place < len(inputs):
            real = without_padding(inputs[place], segment_ids)
            inputs = (*inputs[:place], real, *inputs[place + 1 :])
        elif place < len(names) and names[place] in named and names[place] != marks:
            real = without_padding(named[names[place]], segment_ids)
            named = named | {names[place]: real}
    return inputs, named


def without_padding(item: Any, segment_ids: jax.Array) -> Any:
    """An input with zeros where segment_ids are 0; arrays without the axes of segment_ids stay."""

    def leaf(x: Any) -> Any:
        shape = tuple(getattr(x, "shape", ()))
        if shape[: segment_ids.ndim] != segment_ids.shape or not jnp.issubdtype(
            x.dtype, jnp.number
        ):
            return x
        real = jnp.reshape(
            segment_ids != 0, (*segment_ids.shape, *(1,) * (len(shape) - segment_ids.ndim))
        )
        return jnp.where(real, x, jnp.zeros_like(x))

    return jax.tree.map(leaf, item)


class Frame:
    """The frame of one evaluation of a composite."""

    def __init__(
        self, call: Call, passing: dict[str, Any], intercepted: Callable[..., Any]
    ) -> None:
        self.call = call
        self.passing = passing
        self.intercepted = intercepted
        self.state = {} if call.state is None else dict(call.state)
        self.collected: dict[str, dict[str, Any]] = {}
        self.counts: dict[tuple[paths.Path, str], int] = {}
        self.keys: dict[paths.Path, int] = {}
        self.wide: dict[paths.Path, Any] = {}
        self.trace = current_trace()

    def layer_at(self, layer: Any, path: paths.Path) -> Any:
        """The child at `path`, seen by the interceptor when `apply` is called on it."""
        function = self.call.interceptor
        if function is None:
            return layer
        return self.intercepted(layer, partial(_from, self.call.path + path, function))

    def params_at(self, path: paths.Path) -> Any:
        """The parameters of the child at `path`, in the types that they are used in."""
        params = self._params_at(path)
        if isinstance(params, Unknown):
            found = params.declared
            params.frame.read.add(params.path)
            return params if found is None else placeholder(found.params)
        casting = self.call.casting
        return params if casting is None else casting.cast(params, self.call.path + path)

    def _params_at(self, path: paths.Path) -> Any:
        """The parameters of the child at `path`; Mismatch if there are none."""
        if isinstance(self.call.params, Unknown):
            return self.call.params.at(path)
        try:
            return at(self.call.params, path)
        except KeyError:
            raise Mismatch(
                f"no parameters for {paths.text(path)!r}: write params = net.init(key, x) with "
                "this network"
            ) from None

    def run(
        self,
        layer: Any,
        path: paths.Path,
        method: str,
        inputs: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        """Call a child with its parameters, state and key, and keep its new state."""
        with located(path, layer):
            inputs, named = visible(layer, method, inputs, named)
            named = inputs_for(layer, method, inputs, named, self.passing)
            count = self.keys.get(path, 0)
            self.keys[path] = count + 1
            call = self.call.replace(
                params=self._params_at(path) if count == 0 else self._shared_at(path),
                inputs=inputs,
                named=named,
                state=None if self.call.state is None else self._state_at(path),
                key=None if self.call.key is None else self.call.key.child(path, count),
                method=method,
                path=self.call.path + path,
                inner=False,
                foreign=self.call.foreign or current_trace() != self.trace,
            )
            with jax.named_scope(paths.text(path)):
                outcome = evaluate(layer, call)
        if outcome.state:
            self.state = _with_state(self.state, path, outcome.state)
        if self.call.interceptor is not None:
            self._collect(path, method, outcome.collected)
        return outcome.output

    def _shared_at(self, path: paths.Path) -> Any:
        """The parameters for another call of a child.

        Narrow ones are rounded from one copy in float32, so that the gradients of all these calls
        are added in float32.
        """
        params = self._params_at(path)
        if current_trace() != self.trace:  # the copy must not leave a transform
            return params
        if path not in self.wide:
            self.wide[path] = widened(params)
        return narrowed(self.wide[path], params)

    def _state_at(self, path: paths.Path) -> Any:
        state: Any = self.state
        for segment in path:
            state = state.get(segment, {})
        return state

    def _collect(self, path: paths.Path, method: str, collected: dict[str, Any]) -> None:
        """Keep the values from below, with the path of the child before theirs."""
        number = self.counts.get((path, method), 0)
        self.counts[path, method] = number + 1
        place = collected_path(path, method, number)
        for kind, values in collected.items():
            found = {f"{place}/{name}" if name else place: one for name, one in values.items()}
            self.collected[kind] = self.collected.get(kind, {}) | found


def _from(prefix: paths.Path, function: Any, path: paths.Path, *call: Any) -> Outcome:
    """An interceptor that sees longer paths."""
    return function(prefix + path, *call)


def collected_path(path: paths.Path, method: str, number: int) -> str:
    """The name of what is collected in a call: the path, with the method if it is not forward, and
    `@1`, `@2` for a second and third call."""
    place = paths.text(path)
    place += "" if method == "forward" else f".{method}"
    return place + (f"@{number}" if number else "")


def _with_state(state: dict[str, Any], path: paths.Path, new: Any) -> dict[str, Any]:
    head, *rest = path
    below = _with_state(state.get(head, {}), tuple(rest), new) if rest else new
    return {**state, head: below}


class Declaring:
    """What the calls of one evaluation from shapes alone have declared, by path.

    Children leave their declarations at their paths. A primitive leaves its own at the path of the
    layer itself, `()`, and so does the layer inside a wrapper.
    """

    def __init__(self, declare: Callable[[Any, Call], Declaration]) -> None:
        self.declare = declare
        self.found: dict[paths.Path, Declaration] = {}
        self.state: dict[str, Any] = {}  # that a wrapper itself keeps
        self.read: set[paths.Path] = set()

    def check_read(self) -> None:
        """Raise ValueError where a child's parameters were read, but it was never called."""
        for path in self.read - self.found.keys():
            raise ValueError(read_early(path))

    def run(self, layer: Any, call: Call) -> Outcome:
        """Keep what a layer declares, and return a placeholder for its outcome."""
        path = call.params.path
        before = self.found.get(path)
        if before is not None and call.method != "forward":
            # forward has declared what another method uses, whose inputs may be others.
            with contextlib.suppress(ValueError):  # it may reach what forward did not
                return layer._evaluate(on_placeholders(call, before.params, before.state))
        found = self.declare(layer, call)
        self.found[path] = _joined(before, found) if before else found
        return Outcome(placeholder(found.output), {}, placeholder(found.collected))


def on_placeholders(call: Call, params: Any, state: Any) -> Call:
    """The call on arrays like those that are declared."""
    params, state = placeholder((params, state))
    key = paths.PathKey(placeholder_key())
    return call.replace(params=params, state=state, key=key, foreign=False)


def _joined(before: Declaration, after: Declaration) -> Declaration:
    """What two calls of one layer declare; either may reach children that the other does not."""
    params = _filled(before.params, after.params)
    lines = mismatches(params, _filled(after.params, before.params))
    if lines:
        raise ValueError(
            "called twice with inputs that need different parameters:\n  " + "\n  ".join(lines)
        )
    return after._replace(params=params, state=_union(before.state, after.state))


def _filled(one: Any, other: Any) -> Any:
    """The parameters `one`, with those of `other` where `one` has none."""
    if isinstance(one, dict) and not one:
        return other
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {name: _filled(item, other[name]) for name, item in one.items()}
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return paths.like(one, [_filled(a, b) for a, b in zip(one, other, strict=True)])
    return one


def _union(one: Any, other: Any) -> Any:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    both = {name: _union(item, other[name]) for name, item in one.items() if name in other}
    return one | other | both


def concrete_inputs(tree: Any) -> Any:
    """Inputs with numpy arrays as JAX arrays; everything else as it is."""

    def leaf(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            raise TypeError(
                f"apply wants arrays, got only the shape {describe(x)}; for the shape of the "
                "output write jax.eval_shape(net.apply, params, x)"
            )
        return x if isinstance(x, jax.Array) or not is_array(x) else jnp.asarray(x)

    return jax.tree.map(leaf, tree)
