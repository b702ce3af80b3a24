"""Layout: where everything of a training run lies, on a mesh, by rules."""

import dataclasses
from typing import Any, cast

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..core import paths
from ..core.calls import placeholder_key
from ..core.layer import Layer
from ..train import TrainState, for_network
from ..train.optimizer import as_pytree
from .mesh import batch_axes
from .rules import Rules, placed, shardings


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and rules: the shardings of a `TrainState` and of batches, as one hashable value.

    Parameters lie by the rules, and what an optimizer keeps for a parameter, an array of its shape
    at its path, lies as it does. Everything else of a state is whole on every device. The rows of a
    batch are split by the axes `replica` and `data` of the mesh.
    """

    mesh: Mesh
    rules: Rules

    @property
    def whole(self) -> NamedSharding:
        """The sharding of what every device holds."""
        return NamedSharding(self.mesh, P())

    @property
    def batch(self) -> NamedSharding:
        """The sharding of arrays with one row an example."""
        return placed(self.mesh, P(batch_axes(self.mesh)))

    def state_shardings(self, net: Layer, optimizer: Any, *inputs: Any, **named: Any) -> TrainState:
        """A sharding for each array of `TrainState.create(net, optimizer, key, *inputs)`.

        Raises ValueError as `parallel.shardings` where the rules do not fit the parameters.
        """
        spec, whole = net.spec(*inputs, **named), cast(Any, self.whole)
        params = shardings(spec, self.mesh, self.rules)
        arrays = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), spec)
        state = jax.eval_shape(lambda: net.init_state(*inputs, key=placeholder_key(), **named))
        optimizer = for_network(as_pytree(optimizer), net, *inputs, **named)
        return TrainState(
            params=params,
            state=jax.tree.map(lambda _: whole, state),
            opt_state=self._following(jax.eval_shape(optimizer.init, arrays), arrays, params),
            step=whole,
            key=whole,
        )

    def _following(self, tree: Any, arrays: Any, params: Any) -> Any:
        """The parameters' shardings, wherever `tree` has an array of their shape at their path."""
        found = dict(paths.walk(params))
        shapes = {path: array.shape for path, array in paths.walk(arrays)}

        def sharding(keys: Any, leaf: Any) -> NamedSharding:
            path = tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)
            ends = (path[start:] for start in range(len(path)))
            fitting = (end for end in ends if shapes.get(end) == leaf.shape)
            return found.get(next(fitting, ()), self.whole)

        return jax.tree_util.tree_map_with_path(sharding, tree)
