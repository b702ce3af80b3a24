"""from_linen and to_linen: modules of flax.linen as layers, and networks as modules."""

import inspect
from typing import Any

import jax

from ..core.calls import State
from ..core.layer import Layer, Primitive
from .declared import by_text, params_of, slots_of

# How modules call what says that they are trained, and its opposite.
_TRAIN = ("train", "training", "is_training")
_INFER = ("deterministic", "use_running_average")


class from_linen(Primitive):
    """A flax.linen module as a layer.

    Parameters are its collection "params", so `module.init(key, x)["params"]` are parameters of
    the layer, and what `init` gives where the layer stands alone; state is its other collections,
    such as "batch_stats", which have to start constant. Where `__call__` has an argument `train`,
    `training` or `is_training`, it gets `train`; `deterministic` and `use_running_average` get the
    opposite. Training wants a key, from which it draws whatever the stream's name. A module of many
    parameters is initialized fastest by its own `init`, or by `jax.jit(net.init)`.

    Raises TypeError for what is no module.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> from flax import linen
    >>> net = nn.Sequential(from_linen(linen.Dense(4)), jax.nn.relu, nn.Dense(2))
    >>> params = net.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> jax.tree.map(jnp.shape, params)
    ({'bias': (4,), 'kernel': (3, 4)}, {}, {'b': (2,), 'w': (4, 2)})
    """

    module: Any

    def __post_init__(self) -> None:
        """Check that it is a module."""
        from flax import linen

        if not isinstance(self.module, linen.Module):
            raise TypeError(
                f"from_linen wants a flax.linen module, got {self.module!r}; write "
                "interop.from_linen(linen.Dense(4))"
            )

    def parameters(self, *inputs: Any) -> Any:
        """Its collection "params"."""
        return params_of(self._params, inputs)

    def variables(self, *inputs: Any) -> Any:
        """Its other collections."""
        if not jax.eval_shape(self._others, jax.random.key(0), *inputs):
            return {}
        return slots_of(self._others, inputs)

    def forward(
        self, params: Any, *inputs: Any, key: Any, state: State | None, train: bool
    ) -> tuple[Any, State]:
        """The module's output and its collections after the call."""
        state = state or {}
        rngs = None if key is None else {"params": key}  # where linen looks for other streams too
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
        return output, state | by_text(new)

    def _mode(self, train: bool) -> dict[str, bool]:
        known = inspect.signature(type(self.module).__call__).parameters
        given = {name: train for name in _TRAIN if name in known}
        return given | {name: not train for name in _INFER if name in known}

    def _variables(self, key: Any, *inputs: Any) -> Any:
        from flax.core import meta

        return by_text(meta.unbox(self.module.init(key, *inputs, **self._mode(False))))

    def _params(self, key: Any, *inputs: Any) -> Any:
        return self._variables(key, *inputs).get("params", {})

    def _others(self, key: Any, *inputs: Any) -> Any:
        found = self._variables(key, *inputs)
        return {name: item for name, item in found.items() if name != "params"}


def to_linen(net: Layer, name: str | None = None) -> Any:
    """A network as a flax.linen module: `module(*inputs, train=False, **named)`.

    Its collection "params" holds {"net": the network's parameters}, and "batch_stats", where the
    network keeps state, {"net": that}, which training changes where the collection is mutable.
    Random numbers are of the stream "dropout". `init` draws what `net.init` draws with the key that
    linen gives the module.

    Raises TypeError for what is no layer.

    >>> import jax, jax.numpy as jnp, jaxnn as nn
    >>> from flax import linen
    >>> module = linen.Sequential([linen.Dense(4), to_linen(nn.Dense(2))])
    >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"]["layers_1"])
    {'net': {'b': (2,), 'w': (4, 2)}}
    """
    if not isinstance(net, Layer):
        raise TypeError(f"to_linen wants a layer, got {net!r}; write interop.to_linen(net)")
    from .linen_module import Network  # here: flax takes long to import

    return Network(net, name=name)
