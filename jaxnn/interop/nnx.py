"""from_nnx: a module of flax.nnx as a layer."""

from collections.abc import Callable
from typing import Any

import jax

from ..core import paths
from ..core.calls import State
from ..core.layer import Primitive
from ..core.paths import at
from .declared import by_text, params_of, slots_of


class from_nnx(Primitive):
    """A flax.nnx module as a layer: `from_nnx(functools.partial(nnx.Linear, 3, 4))`.

    `make(rngs=...)` makes the module; it is kept, since a module itself holds arrays. Parameters
    are its `nnx.Param`, by the names that `nnx.to_pure_dict` gives them, a list's numbers as text;
    state is its other variables, such as `nnx.BatchStat`, which have to start constant. Training
    calls `module.train()`, inference `module.eval()`. Random streams are made from the key, which
    training wants.

    Raises TypeError where `make` makes no module.

    >>> import functools, jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> net = from_nnx(functools.partial(nnx.Linear, 3, 4))
    >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0), jnp.ones((1, 3))))
    {'bias': (4,), 'kernel': (3, 4)}
    """

    make: Callable[..., Any]

    def __post_init__(self) -> None:
        """Check that it is a function."""
        from flax import nnx

        if isinstance(self.make, nnx.Module) or not callable(self.make):
            raise TypeError(
                f"from_nnx wants a function that makes a module from rngs, got {self.make!r:.80}; "
                "write interop.from_nnx(functools.partial(nnx.Linear, 3, 4))"
            )

    def parameters(self) -> Any:
        """Its `nnx.Param`."""
        return params_of(self._params, ())

    def variables(self) -> Any:
        """Its other variables, random streams aside."""
        if not jax.eval_shape(self._others, jax.random.key(0)):
            return {}
        return slots_of(self._others, ())

    def forward(
        self, params: Any, *inputs: Any, key: Any, state: State | None, train: bool
    ) -> tuple[Any, State]:
        """The module's output, and its variables after the call."""
        from flax import nnx

        key = jax.random.key(0) if key is None else key  # in inference, where none is drawn
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
        """Parameters, and variables that are neither these nor random streams."""
        from flax import nnx

        if not isinstance(module, nnx.Module):
            raise TypeError(f"make(rngs=...) is to make an nnx.Module, got {module!r:.80}")
        _, params, _, others = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return by_text(nnx.to_pure_dict(params)), by_text(nnx.to_pure_dict(others))

    def _made(self, key: Any) -> Any:
        from flax import nnx

        return self._split(self.make(rngs=nnx.Rngs(key)))

    def _params(self, key: Any) -> Any:
        return self._made(key)[0]

    def _others(self, key: Any) -> Any:
        return self._made(key)[1]


def _filled(nnx: Any, state: Any, ours: Any) -> Any:
    """A state of nnx with our arrays."""

    def take(tree: Any, path: paths.Path) -> Any:
        if hasattr(tree, "items"):
            return {name: take(item, (*path, str(name))) for name, item in tree.items()}
        return at(ours, path)

    nnx.replace_by_pure_dict(state, take(nnx.to_pure_dict(state), ()))
    return state
