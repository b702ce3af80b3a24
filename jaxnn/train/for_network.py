"""for_network: an optimizer of the parameters that a network trains, each block separately.

Which parameters are stacked, and which are frozen by `nn.Inference`, follows from what the network
declares. The optimizer, the gradients, and the averages are trees of the trained part: they have
None in place of frozen parameters. A step joins the two parts again.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..core.layer import Layer
from .optimizer import Optimizer, as_pytree, updated
from .stacked_blocks import Stacked, around


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which parameters are stacked or frozen, in the order of the leaves, as a hashable value.

    Args:
        structure: The structure of the parameters.
        depths: The number of stacked axes of each parameter.
        frozen: Whether each parameter is frozen.
    """

    structure: Any
    depths: tuple[int, ...]
    frozen: tuple[bool, ...]

    @classmethod
    def of(cls, net: Layer, *inputs: Any, **named: Any) -> "Layout":
        """Return the layout of a network's parameters, from `net.spec(*inputs, **named)`."""
        leaves, structure = jax.tree.flatten(net.spec(*inputs, **named))
        depths = tuple(len(param.stack) for param in leaves)
        return cls(structure, depths, tuple(param.frozen for param in leaves))

    def split(self, tree: Any) -> tuple[Any, Any]:
        """Return (trained, frozen): the tree twice, with None for the leaves of the other part.

        A tree that lacks the frozen parameters is returned as the trained part.
        """
        leaves, structure = jax.tree.flatten(tree)
        without = self._chosen([0] * len(self.frozen), frozen=False)
        if structure == jax.tree.structure(without):
            return tree, jax.tree.map(lambda _: None, without)
        if structure != self.structure:
            raise ValueError(
                f"the optimizer was made for parameters with the structure {self.structure}, got "
                f"{structure}: these are the parameters of another network; write "
                "program.init(key, batch), or, in a loop written by hand, "
                "train.for_network(optimizer, net, x)"
            )
        return self._chosen(leaves, frozen=False), self._chosen(leaves, frozen=True)

    def _chosen(self, leaves: Sequence[Any], frozen: bool) -> Any:
        """Return a tree with the leaves that are frozen or not, and None for the others."""
        pairs = zip(leaves, self.frozen, strict=True)
        return self.structure.unflatten([leaf if f == frozen else None for leaf, f in pairs])

    def join(self, trained: Any, frozen: Any) -> Any:
        """Return the tree that `split` was given."""
        parts = zip(*map(self.structure.flatten_up_to, (trained, frozen)), strict=True)
        return self.structure.unflatten([b if a is None else a for a, b in parts])


class ForNetwork:
    """The optimizer that `for_network` makes."""

    inner: Any
    layout: Layout

    def __init__(self, optimizer: Any, layout: Layout) -> None:
        self.inner, self.layout = as_pytree(optimizer), layout

    def init(self, params: Any) -> Any:
        """Return the state of the trained parameters."""
        trained = self.layout.split(params)[0]
        return self._stacked(trained).init(trained)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        """Return the updates, which leave frozen parameters as they are, and the state."""
        given, still = self.layout.split(updates)
        if params is not None:
            params, still = self.layout.split(params)
        trained = jax.tree.structure(given)

        def whole(tree: Any) -> Any:
            is_part = jax.tree.structure(tree) == trained
            return self.layout.join(tree, still) if is_part else tree

        def part(tree: Any) -> Any:
            is_whole = jax.tree.structure(tree) == self.layout.structure
            return self.layout.split(tree)[0] if is_whole else tree

        more = {
            name: around(item, whole, part) if callable(item) else part(item)
            for name, item in extra.items()
        }
        inner = self._stacked(given if params is None else params)
        found, state = updated(inner, given, state, params, **more)
        return self.layout.join(found, jax.tree.map(_no_update, still)), state

    def _stacked(self, trained: Any) -> Any:
        """Return the optimizer, which is given separate blocks if there are stacks."""
        pairs = zip(self.layout.depths, self.layout.frozen, strict=True)
        depths = [depth for depth, still in pairs if not still]
        return Stacked(self.inner, trained, depths) if any(depths) else self.inner


def for_network(optimizer: Any, net: Layer, *inputs: Any, **named: Any) -> Any:
    """Return the optimizer, adapted to treat the blocks of stacked parameters as separate arrays.

    The optimizer never receives parameters under `nn.Inference`: its state has no leaves for them,
    and its updates do not change them.

    With every optimizer, the parameters of `Repeat(block, n)` are updated like those of a
    sequence of n blocks: norms, trust ratios, and matrix factorizations are computed per block, and
    masks of weight decay depend on the rank of a block's parameter. The same holds for `Ensemble`,
    `MixtureOfExperts`, and nested wrappers. `train.Minimize` applies this function to its
    optimizer. Apply it in your own training loop that calls `init` and `update`. The state of the
    optimizer for a block is stacked like the parameter, at the same path.

    Masks and labels may depend on the shape, the rank, and the path of a parameter. `update`
    forwards additional arguments; functions among them are called with stacked parameters.

    Args:
        optimizer: An optax optimizer or a `train.Optimizer`.
        net: The network whose parameters are optimized.
        *inputs: Arrays or `jax.ShapeDtypeStruct`, as for `net.init`.
        **named: Named inputs, as for `net.init`.

    Returns:
        A `train.Optimizer`; `optimizer` itself if no parameter is stacked or under `nn.Inference`.

    Raises:
        ValueError: In `init` or `update`: parameters or state have another structure, or the
            optimizer depends on the number of keys in a path.

    >>> import optax, jaxnn as nn
    >>> net, x = nn.Repeat(nn.Dense(2, bias=False), 2), jnp.ones((1, 2))
    >>> optimizer = for_network(optax.clip_by_block_rms(2.0), net, x)
    >>> gradient = {"w": jnp.array([1.0, 4.0])[:, None, None] * jnp.ones((2, 2, 2))}
    >>> updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    >>> updates["w"][:, 0, 0].tolist()
    [1.0, 2.0]
    """
    layout = Layout.of(net, *inputs, **named)
    if not any(layout.frozen) and not any(layout.depths):
        return optimizer
    return Optimizer(ForNetwork, _bare(optimizer), layout)


def _bare(optimizer: Any) -> Any:
    """Return the optimizer without the layouts of earlier calls, which the new one replaces."""
    if not isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer.factory is ForNetwork:
        return _bare(optimizer.parts[0])
    parts, arguments = jax.tree.map(
        _bare, (optimizer.parts, optimizer.arguments), is_leaf=lambda x: isinstance(x, Optimizer)
    )
    return Optimizer(optimizer.factory, *parts, **arguments)


def layout_of(optimizer: Any) -> Layout | None:
    """Return the layout of an optimizer that `for_network` made; None for other ones."""
    if isinstance(optimizer, Optimizer) and optimizer.factory is ForNetwork:
        return optimizer.parts[1]
    return None


def _no_update(leaf: Any) -> jax.Array:
    """Return what can be added to an array without a change: -0 + -0 is -0, but -0 + 0 is 0."""
    zero = jnp.zeros_like(leaf)
    return -zero if jnp.issubdtype(zero.dtype, jnp.inexact) else zero
