"""Wrappers turn a layer into a layer and add no level to paths."""

import sys
from typing import Any

from . import paths
from .binding import Declaring
from .calls import Call, Interceptor, Outcome, evaluate
from .layer import Layer, LayerLike
from .primitive import Function
from .signatures import Signature
from .values import FrozenDict, copy_with, fields, is_traced


class Wrapper(Layer):
    """A layer around another one, with its parameters, state, methods and paths.

    A subclass that computes in another way overrides `_evaluate`, and calls the inner layer by
    `self._inside(call)`, any number of times and in any transform. One that rearranges parameters
    overrides

    - `lift(params, state)`: from what the inner layer declares, nested dicts and tuples of
      `nn.Param` and `nn.Variable`, to what the wrapper declares;
    - `lower(call)`: from a call of the wrapper to the call of the inner layer, whose parameters
      are those that it declares.

    While only shapes are known (`call.abstract`), `lower` is not called.
    """

    inner: LayerLike

    def _normalize_fields(self) -> None:
        super()._normalize_fields()
        inner = as_layers(self.inner, f"{type(self).__name__}.inner")
        if not isinstance(inner, Layer):
            raise TypeError(f"{type(self).__name__} wraps a layer, got {inner!r}")
        object.__setattr__(self, "inner", inner)

    @property
    def wrapped(self) -> Layer:
        """The inner layer."""
        return self.inner  # type: ignore[return-value]

    def lift(self, params: Any, state: Any) -> tuple[Any, Any]:
        """What the wrapper declares, from what the inner layer declares."""
        return params, state

    def lower(self, call: Call) -> Call:
        """The call of the inner layer, from a call of the wrapper."""
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
        return evaluate(self.wrapped, call.replace(inner=True))

    def _evaluate(self, call: Call) -> Outcome:
        return self._inside(call if call.abstract else self.lower(call))


class intercept(Wrapper):
    """The same network, in which every call of a layer goes through a function.

    The function is called as `function(path, layer, call, next)`, and returns an outcome:

    - `path` is the path of the layer, a tuple of segments, `()` for the network itself;
    - `layer` is the layer that is called. A wrapper and the layer inside it are two layers at one
      path; `call.inner` is True for the latter;
    - `call` is what it is called with: `call.inputs`, `call.named`, `call.params`, `call.state`,
      `call.train`, and `call.method`. `call.replace(inputs=...)` is another call;
    - `next(call)` calls the layer and returns the outcome: `outcome.output` and `outcome.state`.
      `outcome._replace(output=...)` is another outcome.

    Each layer is seen once for each time that it is called while the network is traced: the layer
    of a `Repeat` once, as its `n` copies are one `lax.scan`, and a cell of this library inside a
    `Recurrent` once, with the whole sequence. Layers are seen in every wrapper and transform, and
    while `init` finds out which parameters there are; `call.params` is then a placeholder without
    leaves. Of several functions, the one of the outer `intercept` is called first.

    The parameters are those of `inner`. The network is not equal to `inner`, and two intercepted
    networks are equal if their functions are.

    Args:
        inner: the network.
        function: the function; it prints and pickles if it can be imported.

    Raises:
        TypeError: `function` is not a plain function.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> def clipped(path, layer, call, next):
    ...     outcome = next(call)
    ...     if not isinstance(layer, nn.Dense):
    ...         return outcome
    ...     return outcome._replace(output=jnp.clip(outcome.output, -1, 1))
    >>> net, x = nn.Sequential(nn.Dense(2, w_init=nn.ones()), nn.Dense(3)), jnp.ones((1, 4))
    >>> params = net.init(jax.random.key(0), x)
    >>> nn.capture(intercept(net, clipped), "0").apply(params, x)[1]["0"].tolist()
    [[1.0, 1.0]]
    """

    inner: LayerLike
    function: Interceptor

    def __post_init__(self) -> None:
        """Check that the function is one."""
        if isinstance(self.function, Layer) or not callable(self.function):
            raise TypeError(
                "intercept wants a function of (path, layer, call, next), got "
                f"{self.function!r}; write nn.intercept(net, function)"
            )

    def _evaluate(self, call: Call) -> Outcome:
        return self._inside(call.intercepted(self.function))


class Seen(intercept):
    """A child that `bound.layer` returns under an interceptor; its attributes are the child's."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


def as_layers(item: Any, where: str) -> Any:
    """`item` with plain functions as layers, in tuples and dicts too; TypeError for the rest."""
    if isinstance(item, Layer):
        _check_nesting(item, where)
    if item is None or isinstance(item, Layer) or is_traced(item):
        return item
    if isinstance(item, FrozenDict):
        return FrozenDict(
            {name: as_layers(one, f"{where}[{name!r}]") for name, one in item.items()}
        )
    if isinstance(item, tuple):
        return paths.like(item, [as_layers(one, f"{where}[{i}]") for i, one in enumerate(item)])
    if callable(item) and not isinstance(item, type):
        return Function(item)
    raise TypeError(f"{where} wants a layer or a function, got {item!r}")


# Calls of Python that a level of nesting may take, in tracing and in differentiating it.
FRAMES_PER_LEVEL = 24


def _check_nesting(layer: Layer, where: str) -> None:
    """Raise ValueError for layers nested deeper than Python can call them."""
    depth, limit = _nesting(layer) + 1, sys.getrecursionlimit()
    if depth > limit // FRAMES_PER_LEVEL:
        raise ValueError(
            f"{where} nests layers {depth} deep, and Python's recursion limit of {limit:,} is "
            f"enough for {limit // FRAMES_PER_LEVEL}: write nn.Sequential(a, b, c) or "
            f"nn.Repeat(layer, n); or call sys.setrecursionlimit({2 * FRAMES_PER_LEVEL * depth:,}) "
            "before"
        )


def _nesting(layer: Layer) -> int:
    """The number of levels of a layer: 1 without layers inside."""
    known = layer.__dict__.get("_nesting")
    if known is None:
        held = tuple(getattr(layer, field.name, None) for field in fields(layer))
        leaves = (leaf for _, leaf in paths.walk(held))
        known = 1 + max((_nesting(leaf) for leaf in leaves if isinstance(leaf, Layer)), default=0)
        object.__setattr__(layer, "_nesting", known)
    return known


def holds_layer(item: Any) -> bool:
    """Whether a field holds a layer, itself or in tuples and dicts."""
    return any(isinstance(leaf, Layer) for _, leaf in paths.walk(item))
