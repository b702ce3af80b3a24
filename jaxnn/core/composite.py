"""Layers made of layers: composites, which have children, and wrappers, which contain one layer.

How `self.attention(x)` inside a composite's forward finds its parameters: while forward runs, the
children are `Bound`: a layer, its path, and the frame of this evaluation. `Frame` passes each child
its inputs, parameters, state, and key in a `Call`, and collects the new state. While only shapes
are known, the parameters are `Unknown`, and each call adds its declaration to `Declaring`.
"""

import dataclasses
import functools
import re
from functools import partial
from typing import Annotated, Any, get_args, get_origin

import jax

from ..arrays import narrowed, visible, widened
from ..explain import layer_errors as explain
from ..explain.text import Mismatch, drawing, located
from . import paths
from .calls import Call, Outcome, Unknown, current_trace, evaluate_layer
from .declarations import Declaring, placeholder
from .layer import Layer, LayerLike, Signature, as_layers, holds_layer
from .values import copy_as, copy_with, fields


class Composite(Layer):
    """A layer made of layers.

    Fields annotated `Layer` are its children (or `LayerLike`, if a plain function is allowed); they
    may be None, or in tuples and dicts. `forward` contains the computation, and calls the children
    as functions; init, state, keys, and paths follow from it.

    A named input reaches every child whose forward names it, even if this forward names it too. A
    value that forward passes to a child explicitly takes precedence. Inputs that forward requires
    by position, such as x, do not reach the children.

    >>> import jax
    >>> class Twice(Composite):
    ...     inner: LayerLike
    ...     def forward(self, x):
    ...         return self.inner(self.inner(x))
    >>> net = Twice(jax.nn.relu)
    >>> net.apply(net.init(jax.random.key(0), jax.numpy.ones(2)), -jax.numpy.ones(2)).tolist()
    [0.0, 0.0]
    """

    _requests = frozenset({"key", "train"})

    def _normalize_fields(self) -> None:
        super()._normalize_fields()
        declared = _layer_fields(type(self))
        for field in fields(self):
            item = getattr(self, field.name)
            if field.name in declared or holds_layer(item):
                where = f"{type(self).__name__}.{field.name}"
                object.__setattr__(self, field.name, as_layers(item, where))

    def _children(self) -> Any:
        return {f.name: item for f in fields(self) if holds_layer(item := getattr(self, f.name))}

    def _with_children(self, children: Any) -> Any:
        return copy_with(self, **children)

    def _takes(self, method: str) -> set[str]:
        taken = super()._takes(method)
        for _, child in paths.walk(self._children()):
            if child is not None:
                taken |= child._takes("forward")
                if method != "forward" and child._has_method(method):
                    taken |= child._takes(method)
        return taken

    def _declared(self, frame: Declaring) -> tuple[Any, Any]:
        found = frame.found
        params = paths.map_with_path(
            lambda path, _: found[path].params if path in found else {}, self._children()
        )
        state: dict[str, Any] = {}
        for path, declaration in found.items():
            if declaration.state:
                state = paths.nested(state, path, declaration.state)
        return params, state

    def _evaluate(self, call: Call) -> Outcome:
        children, params = self._children(), call.params
        if call.abstract:
            explain.check_siblings(children, type(self).__name__)
        else:  # before the inputs, so that net.apply(x) reports missing parameters
            explain.check_reached(children, params)
            explain.check_structure(children, params)
        explain.check_inputs(self._signature(call.method), call.method, call.inputs, call.named)
        explain.check_state_names(children, call.state or {})
        own, passing = self._split(call.method, call.named)
        frame = Frame(call, passing)
        answers = self._answers(call, "forward")  # a reserved name, which no child has
        bound = self._with_children(bind(children, frame))
        with drawing(answers.get("key", ())):
            output = getattr(bound, call.method)(*call.inputs, **own, **answers)
        return Outcome(output, frame.state, frame.collected)

    def _split(self, method: str, named: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the named inputs that forward takes, and those that its children may take."""
        takes = self._signature(method)
        # An input that must be given by position is the composite's own, also if it is named.
        kept = takes.required & set(takes.inputs[: takes.positional])
        return (
            {name: item for name, item in named.items() if name in takes.inputs},
            {name: item for name, item in named.items() if name not in kept},
        )


@functools.cache
def _layer_fields(kind: type) -> frozenset[str]:
    """Return the names of the fields whose annotation names `Layer` or `LayerLike`."""
    found = set()
    for field in dataclasses.fields(kind):
        plain = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
        if re.search(r"\bLayer(Like)?\b", re.sub(r"Literal\[.*?\]", "", str(plain))):
            found.add(field.name)
    return frozenset(found)


# ---- how a child is called ----


class Bound:
    """A child of a composite while its forward runs; it and its pure methods can be called.

    `bound.layer` and `bound.params` are the pure pair, for a hand-written `lax.scan`; other
    attributes are those of the layer. Under an interceptor, `bound.layer` is intercepted too.
    """

    __slots__ = ("__weakref__", "_frame", "_layer", "_path")  # JAX's transforms refer weakly

    def __init__(self, layer: Any, frame: "Frame", path: paths.Path) -> None:
        self._layer = layer
        self._frame = frame
        self._path = path

    @property
    def layer(self) -> Any:
        """The layer of the child."""
        return self._frame.layer_at(self._layer, self._path)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return the output of the child."""
        return self._frame.run(self._layer, self._path, "forward", inputs, named)

    @property
    def params(self) -> Any:
        """The parameters of the child."""
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
    """Return the children, each bound to its path in the frame."""
    if isinstance(children, dict):
        return {name: bind(child, frame, (*path, name)) for name, child in children.items()}
    if isinstance(children, tuple):
        bound = [bind(child, frame, (*path, str(i))) for i, child in enumerate(children)]
        return paths.same_kind(children, bound)
    return children if children is None else Bound(children, frame, path)


def inputs_for(
    layer: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any], passing: dict[str, Any]
) -> dict[str, Any]:
    """Return the named inputs of a child: those passed to it, and those of the network it takes."""
    if not named and not passing:
        return {}
    taken = layer._takes(method)
    explain.check_given(named, taken)
    own = layer._signature(method)
    filled = own.inputs[: len(inputs)]
    return {
        name: item for name, item in passing.items() if name in taken and name not in filled
    } | named


class Frame:
    """One evaluation of a composite: its call, and what its children return."""

    def __init__(self, call: Call, passing: dict[str, Any]) -> None:
        self.call = call
        self.passing = passing
        self.state: dict[str, Any] = {} if call.state is None else dict(call.state)
        self.collected: dict[str, dict[str, Any]] = {}
        self.counts: dict[tuple[paths.Path, str], int] = {}
        self.keys: dict[paths.Path, int] = {}
        self.wide: dict[paths.Path, Any] = {}
        self.trace: Any = None if call.abstract else current_trace()

    def layer_at(self, layer: Any, path: paths.Path) -> Any:
        """Return the child at `path`, intercepted also if `apply` is called on it."""
        function = self.call.interceptor
        if function is None:
            return layer
        function = partial(_from, self.call.path + path, function)
        return copy_as(_seen(type(layer)), layer, _function=function)

    def params_at(self, path: paths.Path) -> Any:
        """Return the parameters of the child at `path`, in the types in which they are used."""
        params = self._params_at(path)
        if isinstance(params, Unknown):
            found = params.declared
            params.frame.read.add(params.path)
            return params if found is None else placeholder(found.params)
        casting = self.call.casting
        return params if casting is None else casting.cast(params, self.call.path + path)

    def _params_at(self, path: paths.Path) -> Any:
        """Return the parameters of the child at `path`; raise Mismatch if they lack the path."""
        if isinstance(self.call.params, Unknown):
            return self.call.params.at(path)
        try:
            return paths.at(self.call.params, path)
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
        """Call a child with its parameters, state, and key, and keep its new state."""
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
                foreign=self.call.foreign or self._left(),
            )
            with jax.named_scope(paths.text(path)):
                outcome = evaluate_layer(layer, call)
        if outcome.state:
            self.state = paths.nested(self.state, path, outcome.state)
        if self.call.interceptor is not None:
            self._collect(path, method, outcome.collected)
        return outcome.output

    def _shared_at(self, path: paths.Path) -> Any:
        """Return the parameters for another call of a child.

        Narrow types are rounded from one float32 copy, so that the gradients of all these calls are
        added in float32.
        """
        params = self._params_at(path)
        if self._left():  # the copy must not leave a transform
            return params
        if path not in self.wide:
            self.wide[path] = widened(params)
        return narrowed(self.wide[path], params)

    def _state_at(self, path: paths.Path) -> Any:
        return functools.reduce(lambda state, name: state.get(name, {}), path, self.state)

    def _left(self) -> bool:
        """Return whether a user's own transform is around the call, but not around the frame."""
        return self.trace is not None and current_trace() != self.trace

    def _collect(self, path: paths.Path, method: str, collected: dict[str, Any]) -> None:
        """Keep the values from below, with the path of the child in front of theirs."""
        number = self.counts.get((path, method), 0)
        self.counts[path, method] = number + 1
        place = collected_path(path, method, number)
        for kind, values in collected.items():
            found = {f"{place}/{name}" if name else place: one for name, one in values.items()}
            self.collected[kind] = self.collected.get(kind, {}) | found


def _from(prefix: paths.Path, function: Any, path: paths.Path, *call: Any) -> Outcome:
    """Call an interceptor with a longer path."""
    return function(prefix + path, *call)


def collected_path(path: paths.Path, method: str, number: int) -> str:
    """Return the name of what is collected in a call: path, method unless forward, and `@1` or `@2`
    for a second or third call."""
    place = paths.text(path)
    place += "" if method == "forward" else f".{method}"
    return place + (f"@{number}" if number else "")


# ---- layers around a layer ----


class Wrapper(Layer):
    """A layer around another layer, with its parameters, state, methods, and paths.

    A subclass that changes the computation overrides `_evaluate`, and calls the inner layer by
    `self._inside(call)`, any number of times and in any transform. A subclass that rearranges
    parameters overrides

    - `lift(params, state)`, which maps the declarations of the inner layer, nested dicts and tuples
      of `nn.Param` and `nn.Variable`, to the declarations of the wrapper;
    - `lower(call)`, which maps a call of the wrapper to a call of the inner layer, with the
      parameters that the inner layer declares.

    While only shapes are known (`call.abstract`), `lower` is not called.

    Args:
        inner: Layer or function.

    >>> import jax.numpy as jnp, jaxnn as nn
    >>> class Doubled(nn.Wrapper):
    ...     def _evaluate(self, call):
    ...         outcome = self._inside(call)
    ...         return outcome._replace(output=2 * outcome.output)
    >>> net, x = Doubled(nn.Dense(3, w_init=nn.ones())), jnp.ones((1, 4))
    >>> net.apply(net.init(jax.random.key(0), x), x).tolist()
    [[8.0, 8.0, 8.0]]
    """

    inner: LayerLike

    def _normalize_fields(self) -> None:
        super()._normalize_fields()
        inner = as_layers(self.inner, f"{type(self).__name__}.inner", several=False)
        object.__setattr__(self, "inner", inner)

    @property
    def wrapped(self) -> Layer:
        """The inner layer."""
        return self.inner  # type: ignore[return-value]

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """Return the declarations of the wrapper, given those of the inner layer.

        Args:
            params: Declared parameters of the inner layer.
            state: Declared state of the inner layer.
        """
        return params, state

    def lower(self, call: Call) -> Call:
        """Return the call of the inner layer, from a call of the wrapper."""
        return call

    def _children(self) -> Any:
        return self.wrapped

    def _with_children(self, children: Any) -> Any:
        return copy_with(self, inner=children)

    def _has_method(self, name: str) -> bool:
        return self.wrapped._has_method(name)

    def _methods(self) -> list[str]:
        return self.wrapped._methods()

    def _signature(self, method: str) -> Signature:
        return self.wrapped._signature(method)

    def _takes(self, method: str) -> set[str]:
        return self.wrapped._takes(method)

    def _declared(self, frame: Declaring) -> tuple[Any, Any]:
        found = frame.found.get(())
        params, state = self.lift(*(({}, {}) if found is None else found[:2]))
        return params, frame.state | state

    def _inside(self, call: Call) -> Outcome:
        """Call the inner layer."""
        return evaluate_layer(self.wrapped, call.replace(inner=True))

    def _evaluate(self, call: Call) -> Outcome:
        return self._inside(call if call.abstract else self.lower(call))


@functools.cache
def _seen(kind: Any) -> Any:
    """Return a subclass of `kind` whose layers call `_function` as their interceptor.

    `bound.layer` returns such a layer under an interceptor, so that layers are intercepted in a
    user's own transforms too. It is not equal to the plain layer, so functions are traced again.
    """

    class Seen(kind):
        _function: Any = None

        def _evaluate(self, call: Call) -> Outcome:
            call = call.intercepted(self._function).replace(inner=False)
            return evaluate_layer(self, call, partial(kind._evaluate, self))

        def __repr__(self) -> str:
            return repr(copy_as(kind, self))

    Seen.__name__, Seen.__qualname__ = kind.__name__, kind.__qualname__
    return Seen
