"""Modules of flax.linen and flax.nnx as layers, and networks as modules of flax.linen."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np

from ..combine import declare_drawn
from ..core import paths
from ..core.calls import State
from ..core.declarations import Param, Variable, placeholder
from ..core.layer import Layer, Primitive
from ..core.paths import at
from ..initializers import constant
from ..tree import a_layer
from ..validation import Accepts, instance

# Names of arguments that modules have for the training mode, and for its opposite.
_TRAIN = ("train", "training", "is_training")
_INFER = ("deterministic", "use_running_average")


def _is_linen_module(value: Any) -> bool:
    from flax import linen

    return isinstance(value, linen.Module)


def _is_nnx_module(value: Any) -> bool:
    from flax import nnx

    return isinstance(value, nnx.Module)


linen_module: Accepts = Accepts(
    "a flax.linen module",
    _is_linen_module,
    TypeError,
    "write interop.from_linen(linen.Dense(4))",
)
nnx_maker: Accepts = Accepts(
    "a function that makes an nnx.Module from rngs",
    lambda value: callable(value) and not _is_nnx_module(value),
    TypeError,
    "write interop.from_nnx(functools.partial(nnx.Linear, 3, 4))",
)


class from_linen(Primitive):
    """A layer that wraps a flax.linen module.

    The parameters of the layer are the module's collection "params", and its state is the other
    collections, such as "batch_stats". `init` of the layer alone returns the same parameters as
    `module.init(key, x)["params"]`. If `__call__` of the module has an argument `train`,
    `training`, or `is_training`, it receives `train`; an argument `deterministic` or
    `use_running_average` receives `not train`. Training requires a key, which all random streams
    use. For a module with many parameters, `module.init` and `jax.jit(net.init)` are faster than
    `net.init`.

    Args:
        module: The flax.linen module.

    Raises:
        TypeError: `module` is not a flax.linen module.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> from flax import linen
    >>> net = nn.Sequential(from_linen(linen.Dense(4)), jax.nn.relu, nn.Dense(2))
    >>> params = net.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> jax.tree.map(jnp.shape, params)
    ({'bias': (4,), 'kernel': (3, 4)}, {}, {'b': (2,), 'w': (4, 2)})
    """

    module: Annotated[Any, linen_module]

    def parameters(self, *inputs: Any) -> Any:
        """Return its collection "params"."""
        return declare_drawn(Param, self._params, inputs)

    def variables(self, *inputs: Any) -> Any:
        """Return its other collections."""
        return _variables_of(self._others, inputs)

    def forward(
        self, params: Any, *inputs: Any, key: Any, state: State | None, train: bool
    ) -> tuple[Any, State]:
        """Return the module's output and its collections after the call."""
        state = state or {}
        rngs = None if key is None else {"params": key}  # linen uses it for other streams too
        found = self.module.apply(
            {"params": params, **state},
            *inputs,
            rngs=rngs,
            mutable=list(state) if train else False,
            **self._mode(train),
        )
        if not train:
            return found, state
        output, new = found
        return output, state | _by_text(new)

    def _mode(self, train: bool) -> dict[str, bool]:
        known = inspect.signature(type(self.module).__call__).parameters
        given = {name: train for name in _TRAIN if name in known}
        return given | {name: not train for name in _INFER if name in known}

    def _variables(self, key: Any, *inputs: Any) -> Any:
        from flax.core import meta

        inputs = placeholder(inputs)  # linen computes with them
        return _by_text(meta.unbox(self.module.init(key, *inputs, **self._mode(False))))

    def _params(self, key: Any, *inputs: Any) -> Any:
        return self._variables(key, *inputs).get("params", {})

    def _others(self, key: Any, *inputs: Any) -> Any:
        found = self._variables(key, *inputs)
        return {name: item for name, item in found.items() if name != "params"}


def to_linen(net: Layer, name: str | None = None) -> Any:
    """Wrap a network as a flax.linen module: `module(*inputs, train=False, **named)`.

    The collection "params" of the module is {"net": parameters}. If the network keeps state, the
    collection "batch_stats" is {"net": state}; training updates it if the collection is mutable.
    Random numbers come from the stream "dropout". `init` of the module calls `net.init` with the
    key that linen passes to the module.

    Args:
        net: The network.
        name: The module's name. Default: None, linen chooses one.

    Raises:
        TypeError: `net` is not a layer.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> from flax import linen
    >>> module = linen.Sequential([linen.Dense(4), to_linen(nn.Dense(2))])
    >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"]["layers_1"])
    {'net': {'b': (2,), 'w': (4, 2)}}
    """
    a_layer(net, "to_linen.net", "write interop.to_linen(net)")
    return _network_module()(net, name=name)


@functools.cache
def _network_module() -> Any:
    """Return the module class of `to_linen`, made here because flax takes long to import."""
    from flax import linen

    class Network(linen.Module):
        """A network as a module; see `to_linen`."""

        net: Layer

        @linen.compact
        def __call__(self, *inputs: Any, train: bool = False, **named: Any) -> Any:
            """Return the network's output; in training, update the state in the collection."""
            net = self.net
            params = self.param("net", lambda key: net.init(key, *inputs, **named))
            key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
            begun: Any = {}
            if not self.has_variable("batch_stats", "net"):
                drawn = self.make_rng("params") if self.has_rng("params") else None
                begun = net.init_state(*inputs, key=drawn, **named)
                if not begun:
                    return net.apply(params, *inputs, key=key, train=train, **named)
            kept = self.variable("batch_stats", "net", lambda: begun)
            output, state = net.apply(
                params, *inputs, state=kept.value, key=key, train=train, **named
            )
            if train and not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                kept.value = state
            return output

        def __reduce__(self) -> tuple[Any, ...]:
            return to_linen, (self.net, self.name)

    return Network


class from_nnx(Primitive):
    """A layer that wraps a flax.nnx module: `from_nnx(functools.partial(nnx.Linear, 3, 4))`.

    The layer holds a function that creates the module, because a module itself holds arrays. Its
    parameters are the `nnx.Param` variables of the module, with the names of `nnx.to_pure_dict` and
    list indices as strings. Its state is the other variables, such as `nnx.BatchStat`. Training
    calls `module.train()`, and inference calls `module.eval()`. Training requires a key, from which
    the random streams are created.

    Args:
        make: A function; `make(rngs=...)` returns the module.

    Raises:
        TypeError: `make` is not a function that takes `rngs`.

    >>> import functools, jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> net = from_nnx(functools.partial(nnx.Linear, 3, 4))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), jnp.ones((1, 3))))
    {'bias': (4,), 'kernel': (3, 4)}
    """

    make: Annotated[Callable[..., Any], nnx_maker]

    def parameters(self) -> Any:
        """Return its `nnx.Param`."""
        return declare_drawn(Param, self._params, ())

    def variables(self) -> Any:
        """Return its other variables, without random streams."""
        return _variables_of(self._others, ())

    def forward(
        self, params: Any, *inputs: Any, key: Any, state: State | None, train: bool
    ) -> tuple[Any, State]:
        """Return the module's output, and its variables after the call."""
        from flax import nnx

        key = jax.random.key(0) if key is None else key  # in inference, which draws none
        module = self.make(rngs=nnx.Rngs(key))
        _, own, _, others = nnx.split(module, nnx.Param, nnx.RngState, ...)
        nnx.update(module, _filled(nnx, own, params), _filled(nnx, others, state or {}))
        if train:
            module.train()
        else:
            module.eval()
        output = module(*inputs)
        if not train:
            return output, state or {}
        return output, self._split(module)[1]

    def _split(self, module: Any) -> tuple[Any, Any]:
        """Return parameters, and variables that are neither these nor random streams."""
        from flax import nnx

        instance(nnx.Module, "an nnx.Module")(module, "the result of from_nnx.make(rngs=...)")
        _, params, _, others = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return _by_text(nnx.to_pure_dict(params)), _by_text(nnx.to_pure_dict(others))

    def _made(self, key: Any) -> Any:
        from flax import nnx

        return self._split(self.make(rngs=nnx.Rngs(key)))

    def _params(self, key: Any) -> Any:
        return self._made(key)[0]

    def _others(self, key: Any) -> Any:
        return self._made(key)[1]


def _filled(nnx: Any, state: Any, ours: Any) -> Any:
    """Return a state of nnx with our arrays."""

    def take(tree: Any, path: paths.Path) -> Any:
        if hasattr(tree, "items"):
            return {name: take(item, (*path, str(name))) for name, item in tree.items()}
        return at(ours, path)

    nnx.replace_by_pure_dict(state, take(nnx.to_pure_dict(state), ()))
    return state


def _variables_of(make: Callable[..., Any], inputs: Any) -> Any:
    """Return a `Variable` for each array of `make(key, *inputs)`.

    It starts constant if its numbers are equal, and the same for two keys; otherwise it is drawn
    with the layer's key.
    """
    declared = declare_drawn(Variable, make, inputs)
    if not declared:
        return {}
    with jax.ensure_compile_time_eval():
        made = jax.jit(lambda key: make(key, *inputs))
        draws = [dict(paths.walk(made(jax.random.key(i)))) for i in range(2)]

    def start(path: paths.Path, drawn: Variable) -> Variable:
        numbers, again = (np.asarray(arrays[path]) for arrays in draws)
        first = numbers.flat[0].item() if numbers.size else 0
        if (numbers == first).all() and (again == first).all():
            return Variable(drawn.shape, constant(first), drawn.dtype)
        return drawn

    return paths.map_with_path(start, declared)


def _by_text(tree: Any) -> Any:
    """Return nested mappings as dicts whose names are text."""
    if hasattr(tree, "items"):
        return {str(name): _by_text(item) for name, item in tree.items()}
    return tree
