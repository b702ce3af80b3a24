"""Binding: how `self.attention(x)` inside a composite's forward finds its parameters.

While a composite's forward runs, its children are `Bound`: a layer, its place, and the frame of
this one evaluation. A frame runs a child in one of two ways. `Evaluation` computes with numbers:
it hands the child its parameters, state and key, and collects the new state. `Declaring` works
from shapes alone: it asks the child for its declaration and gives back a placeholder.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from . import paths
from .calls import Call, Mismatch, Outcome, current_trace, located, placeholder_key
from .checking import below
from .declarations import Declaration, abstract, describe, is_array, mismatches, placeholder
from .floating import narrowed, widened
from .signatures import RESERVED_INPUTS, suggestion


class Bound:
    """A child of a composite while its forward runs: call it, or any other pure method of it.

    `bound.layer` and `bound.params` are the pure pair, for a hand-written `lax.scan`; other
    attributes are the layer's own.
    """

    __slots__ = ("__weakref__", "_frame", "_path", "layer")  # JAX's transforms refer weakly

    def __init__(self, layer: Any, frame: "Evaluation | Declaring", path: paths.Path) -> None:
        self.layer = layer
        self._frame = frame
        self._path = path

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The child's output."""
        return self._frame.run(self.layer, self._path, "forward", inputs, named)

    @property
    def params(self) -> Any:
        """The child's parameters."""
        return self._frame.params_at(self._path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if not self.layer._has_method(name):
            return getattr(self.layer, name)

        def method(*inputs: Any, **named: Any) -> Any:
            return self._frame.run(self.layer, self._path, name, inputs, named)

        return method

    def __repr__(self) -> str:
        return f"<{self.layer!r} bound at {paths.text(self._path)!r}>"


def bind(children: Any, frame: "Evaluation | Declaring", path: paths.Path = ()) -> Any:
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


class Evaluation:
    """The frame of one evaluation with numbers."""

    def __init__(self, call: Call, passing: dict[str, Any]) -> None:
        self.call = call
        self.passing = passing
        self.state = {} if call.state is None else dict(call.state)
        self.captured: dict[str, Any] = {}
        self.counts: dict[tuple[paths.Path, str], int] = {}
        self.keys: dict[paths.Path, int] = {}
        self.wide: dict[paths.Path, Any] = {}
        self.trace = current_trace()

    def params_at(self, path: paths.Path) -> Any:
        """The parameters of the child at `path`, in the types that they are used in."""
        params = self._params_at(path)
        casting = self.call.casting
        return params if casting is None else casting.child(path).cast(params)

    def _params_at(self, path: paths.Path) -> Any:
        """The parameters of the child at `path`; Mismatch if there are none."""
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
            call = Call(
                params=self._params_at(path) if count == 0 else self._shared_at(path),
                state=None if self.call.state is None else self._state_at(path),
                key=None if self.call.key is None else self.call.key.child(path, count),
                train=self.call.train,
                capture=None if self.call.capture is None else self.call.capture.child(path),
                foreign=self.call.foreign or current_trace() != self.trace,
                casting=None if self.call.casting is None else self.call.casting.child(path),
                stopped=self.call.stopped,
            )
            with jax.named_scope(paths.text(path)), below(path):
                outcome = layer._evaluate(call, method, inputs, named)
        if outcome.state:
            self.state = _with_state(self.state, path, outcome.state)
        self._keep(call, path, method, outcome)
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

    def _keep(self, call: Call, path: paths.Path, method: str, outcome: Outcome) -> None:
        if self.call.capture is None:
            return
        number = self.counts.get((path, method), 0)
        self.counts[path, method] = number + 1
        place = captured_path(path, method, number)
        found = {f"{place}/{below}": item for below, item in outcome.captured.items()}
        if self.call.capture.wants(path):
            found[place] = outcome.output
        if found and call.foreign:
            raise ValueError(
                f"{place!r} would be captured inside a transform of your own, from which its value "
                "cannot come out; use Repeat, Remat or Ensemble in its place"
            )
        self.captured |= found


def captured_path(path: paths.Path, method: str, number: int) -> str:
    """Where a value is captured: its path, with the method if it is another one, and `@1`, `@2`
    for a second and third call."""
    place = paths.text(path)
    place += "" if method == "forward" else f".{method}"
    return place + (f"@{number}" if number else "")


def _with_state(state: dict[str, Any], path: paths.Path, new: Any) -> dict[str, Any]:
    head, *rest = path
    below = _with_state(state.get(head, {}), tuple(rest), new) if rest else new
    return {**state, head: below}


@jax.tree_util.register_static
class Unknown:
    """Parameters of a child that has not been called yet, while only shapes are known.

    They may be handed to `child.layer.apply` and through any transform, not looked into.
    """

    def __init__(self, frame: "Declaring", path: paths.Path) -> None:
        self.frame = frame
        self.path = path

    def __getitem__(self, name: str) -> Any:
        raise ValueError(_read_early(self.path))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_read_early(self.path))


def _read_early(path: paths.Path) -> str:
    return (
        f"the parameters of {paths.text(path)!r} are read before it is called, so init cannot know "
        "their shapes: call the child first, or hand child.params to child.layer.apply"
    )


class Declaring:
    """The frame of one evaluation from shapes alone: it collects what the children declare."""

    def __init__(
        self,
        declare: Callable[..., Declaration],
        passing: dict[str, Any],
    ) -> None:
        self.declare = declare
        self.passing = passing
        self.found: dict[paths.Path, Declaration] = {}
        self.read: set[paths.Path] = set()

    def params_at(self, path: paths.Path) -> Any:
        """Placeholders for the parameters at `path`, or `Unknown` before its first call."""
        if path in self.found:
            return placeholder(self.found[path].params)
        self.read.add(path)
        return Unknown(self, path)

    def check_read(self) -> None:
        """Raise ValueError where a child's parameters were read, but it was never called."""
        for path in self.read - self.found.keys():
            raise ValueError(_read_early(path))

    def run(
        self,
        layer: Any,
        path: paths.Path,
        method: str,
        inputs: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        """Ask a child for its declaration, and give back a placeholder for its output."""
        with located(path, layer):
            named = inputs_for(layer, method, inputs, named, self.passing)
            before = self.found.get(path)
            if before is not None and method != "forward":
                # forward has declared what another method uses, whose inputs may be others.
                params, state = placeholder(before.params), placeholder(before.state)
                with contextlib.suppress(ValueError):  # it may reach what forward did not
                    key = paths.PathKey(placeholder_key())  # as forward has it
                    call = Call(params, state, key, False)
                    return layer._evaluate(call, method, inputs, named).output
            declaration = self.declare(layer, method, abstract(inputs), abstract(named))
            self.found[path] = _joined(before, declaration) if before else declaration
        return placeholder(declaration.output)


def _joined(before: Declaration, after: Declaration) -> Declaration:
    """What two calls of one layer declare; either may reach children that the other does not."""
    params = _filled(before.params, after.params)
    lines = mismatches(params, _filled(after.params, before.params))
    if lines:
        raise ValueError(
            "called twice with inputs that need different parameters:\n  " + "\n  ".join(lines)
        )
    return Declaration(params, _union(before.state, after.state), after.output)


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
