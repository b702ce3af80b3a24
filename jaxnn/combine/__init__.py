"""Combinators, which contain several layers, and wrappers, which turn a layer into a layer.

The combinators are `Sequential`, `Parallel`, and `Residual`. The first two contain any number of
layers, by position (parameters are a tuple) or by name (a dict).
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.calls import Call, Outcome
from ..core.composite import Composite, Wrapper
from ..core.declarations import Declared, Param
from ..core.layer import Layer, LayerLike, Primitive, as_layers
from ..core.values import copy_with
from ..explain.layer_errors import (
    check_child_names,
    check_kept,
    check_reserved_names,
    layer_like,
)
from ..fields import FrozenDict, code, normalize
from ..initializers import Initializer, Shape
from ..layers import plain_function

_MERGE = None | plain_function.such(hint="to apply a layer, write Sequential(Parallel(...), layer)")


class Branches(Composite):
    """Base of the combinators that contain any number of layers and no other children."""

    layers: tuple[Layer, ...] | dict[str, Layer]

    def __init__(self, *layers: LayerLike, **named: LayerLike) -> None:
        owner = type(self).__name__
        if layers and named:
            raise TypeError(
                f"{owner} takes children by position or by name, not both; got {len(layers)} by "
                f"position and {sorted(named)} by name"
            )
        _check_layers(named or layers, owner)
        children = as_layers(normalize(named or layers, owner), owner)
        object.__setattr__(self, "layers", children)

    def _normalize_fields(self) -> None:
        _check_layers(self.layers, type(self).__name__)
        super()._normalize_fields()

    def _children(self) -> Any:
        return self.layers

    def _with_children(self, children: Any) -> Any:
        return copy_with(self, layers=children)

    def _bound(self) -> list[Callable[..., Any]]:
        return list(self.layers.values() if isinstance(self.layers, dict) else self.layers)

    def _code(self) -> list[str]:
        if isinstance(self.layers, FrozenDict):
            return [f"{name}={code(layer)}" for name, layer in self.layers.items()]
        return list(map(code, self.layers))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._code())})"


def _check_layers(layers: Any, owner: str) -> None:
    """Raise if a name is reserved, or if a child is None or a collection of layers."""
    named = layers if isinstance(layers, dict) else {}
    check_reserved_names(named, owner)
    check_child_names(named, owner)
    for name, child in named.items() or enumerate(layers):
        if child is None or isinstance(child, list | tuple | dict):
            stars = "**" if isinstance(child, dict) else "*"
            hint = "leave it out" if child is None else f"write {owner}({stars}layers)"
            layer_like(child, f"{owner}[{name!r}]", hint)  # raises


class Sequential(Branches):
    """Apply layers in sequence: `y = f_n(... f_2(f_1(x)))`.

    One value is passed from layer to layer; a tuple is one value. Parameters are a tuple, or a dict
    if layers are named. Without layers it is the identity.

    Args:
        *layers: Layers or functions, by position.
        **named: Layers or functions, by name.

    Raises:
        TypeError: If some layers are positional and others are named.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Sequential(Dense(128), jax.nn.relu, Dense(10))
    >>> net
    Sequential(Dense(128), jax.nn.relu, Dense(10))
    >>> params = net.init(jax.random.key(0), jnp.zeros((32, 784)))
    >>> jax.tree.map(jnp.shape, params)
    ({'b': (128,), 'w': (784, 128)}, {}, {'b': (10,), 'w': (128, 10)})
    >>> net.apply(params, jnp.zeros((32, 784))).shape
    (32, 10)
    """

    def __init__(self, *layers: LayerLike, **named: LayerLike) -> None:
        super().__init__(*layers, **named)

    def forward(self, x: Any) -> Any:
        """Return the last layer's output."""
        for layer in self._bound():
            x = layer(x)
        return x


class Parallel(Branches):
    """Apply layers in parallel to the same inputs.

    The output is the tuple of their outputs, or a dict if layers are named.

    Args:
        *layers: Layers or functions, by position.
        merge: Function from that tuple or dict to the output. Default: None.
        **named: Layers or functions, by name.

    Raises:
        TypeError: If some layers are positional and others are named, or if `merge` is a layer.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Parallel(Dense(4), Dense(4), merge=sum)
    >>> net
    Parallel(Dense(4), Dense(4), merge=sum)
    >>> x = jnp.ones((2, 3))
    >>> net.apply(net.init(jax.random.key(0), x), x).shape
    (2, 4)
    """

    merge: Annotated[Callable[..., Any] | None, _MERGE] = None

    def __init__(
        self, *layers: LayerLike, merge: Callable[..., Any] | None = None, **named: LayerLike
    ) -> None:
        super().__init__(*layers, **named)
        object.__setattr__(self, "merge", merge)
        self.__post_init__()

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs of all layers, merged."""
        outputs = tuple(layer(*inputs) for layer in self._bound())
        if isinstance(self.layers, dict):
            named = dict(zip(self.layers, outputs, strict=True))
            return named if self.merge is None else self.merge(named)
        return outputs if self.merge is None else self.merge(outputs)

    def _code(self) -> list[str]:
        return super()._code() + ([] if self.merge is None else [f"merge={code(self.merge)}"])


class Residual(Wrapper):
    """Residual connection: `y = x + f(x)`.

    Args:
        inner: Layer or function f with one input, whose shape it keeps.

    Raises:
        ValueError: If f changes the shape.

    Reference: He et al., Deep residual learning for image recognition, 2016.

    >>> import jax.numpy as jnp
    >>> Residual(jnp.sin).apply({}, jnp.zeros(3)).tolist()
    [0.0, 0.0, 0.0]
    """

    def _evaluate(self, call: Call) -> Outcome:
        outcome = self._inside(call)
        if call.method != "forward":
            return outcome
        check_kept(call.inputs, (outcome.output,), _ADDS, outcome.output, types=False)
        return outcome._replace(output=jax.tree.map(_add, call.inputs[0], outcome.output))


def _add(x: jax.Array, y: jax.Array) -> jax.Array:
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else y.dtype
    return x.astype(dtype) + y.astype(dtype)


_ADDS = (
    "Residual adds the output to its one input: make the shapes equal, or add them in the forward "
    "of a Composite"
)


class layer(Primitive):
    """A layer made of two functions.

    The parameters are those that `init_fun` returns for the key of the layer. A pair
    `(init, apply)` of `jax.example_libraries.stax`, whose init takes a shape and returns
    `(output_shape, params)`, becomes `layer(lambda key, x: init(key, x.shape)[1], apply)`.

    Args:
        init_fun: Function of `(key, *inputs)` that returns parameters, a pytree of dicts, tuples,
            and lists. Inputs are `jax.ShapeDtypeStruct`.
        apply_fun: Function of `(params, *inputs)` that returns the output.

    >>> import jax, jax.numpy as jnp
    >>> scale = layer(lambda key, x: {"s": jnp.ones(x.shape)}, lambda params, x: x * params["s"])
    >>> params = scale.init(jax.random.key(0), jnp.ones(3))
    >>> scale.apply(params, 2 * jnp.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    """

    init_fun: Callable[..., Any]
    apply_fun: Callable[..., Any]

    def parameters(self, *inputs: Any) -> Any:
        """Return the shapes of the parameters that `init_fun` returns."""
        return declare_drawn(Param, self.init_fun, inputs)

    def forward(self, params: Any, *inputs: Any) -> Any:
        """Return `apply_fun` of the parameters and inputs."""
        return self.apply_fun(params, *inputs)


class DrawnArray(Initializer):
    """The array at `path` of what `make(key, *inputs)` returns."""

    make: Callable[..., Any]
    given: tuple[Any, ...]
    structure: Any
    path: tuple[str, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = None) -> jax.Array:
        """Return the array."""
        inputs = jax.tree.unflatten(self.structure, self.given)
        found = dict(paths.walk(self.make(key, *inputs)))
        return jnp.asarray(found[self.path], dtype)


def declare_drawn(kind: type[Declared], make: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """Return the declaration of each array that a function draws, all from the key of the layer.

    Args:
        kind: `Param` or `Variable`.
        make: Function of `(key, *inputs)` that returns arrays in dicts, tuples, and lists.
        inputs: Inputs with a shape and a type.
    """
    given, structure = jax.tree.flatten(inputs)

    def declare(path: paths.Path, leaf: Any) -> Declared:
        init = DrawnArray(make, tuple(given), structure, path)
        return kind(tuple(leaf.shape), init, leaf.dtype, lift=len(path))

    shapes = jax.eval_shape(lambda key: make(key, *inputs), jax.random.key(0))
    return paths.map_with_path(declare, shapes)
