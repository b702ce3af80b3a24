"""for_network: an optimizer of the parameters that a network trains, each block separately.

Which parameters are stacked, and which are frozen by `nn.Inference`, follows from what the network
declares. The optimizer, the gradients, and the averages are trees of the trained part: they have
None in place of frozen parameters. A step joins the two parts again.

`Repeat`, `Ensemble`, and `MixtureOfExperts` keep the parameters of n equal layers as one array with
a leading axis of n. optax does not know this, so a norm, a rank, or a factorization would be that
of the stack. `Stacked` passes an optimizer a tree in which `Blocks` replace each stacked array, and
stacks the results:

- If the optimizer applies the same computation to each block (`lifting`), it is evaluated once for
  a whole stack, and compiles in the time of one block.
- Otherwise it receives separate arrays.

The state is the same in both cases: arrays that belong to a block are stacked like the parameter,
at the same path.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core.declarations import split_arrays
from ..core.layer import Layer
from .lifting import Blocks, Expressions, Form
from .optimizer import Optimizer, as_pytree, updated


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


class Stacked:
    """An optimizer of separate arrays as one of stacked arrays.

    Args:
        optimizer: The optimizer.
        params: The parameters, or a tree like them.
        depths: The number of stacked axes of each parameter.
    """

    def __init__(self, optimizer: Any, params: Any, depths: Sequence[int]) -> None:
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(params)
        self._inner = optimizer
        self._keys = [path[-1] if path else jax.tree_util.SequenceKey(0) for path, _ in leaves]
        shapes = [jnp.shape(leaf) for _, leaf in leaves]
        self._stacks = [shape[:depth] for shape, depth in zip(shapes, depths, strict=True)]
        self._counts = [math.prod(stack) for stack in self._stacks]

    def init(self, params: Any) -> Any:
        """Return the state of all blocks."""
        return self._evaluate(self._inner.init, lambda counts: (self._of(params, counts),), params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """Return the updates and the state of all blocks."""
        functions = {name: item for name, item in extra.items() if callable(item)}
        rest = {name: item for name, item in extra.items() if name not in functions}
        trees = {name: item for name, item in rest.items() if self._is_like_params(item)}
        arrays, join = split_arrays({name: rest[name] for name in rest if name not in trees})

        def arguments(counts: Sequence[int] | None) -> Any:
            like = self._of(updates if params is None else params, counts)
            return (
                self._of(updates, counts),
                jax.eval_shape(self._inner.init, like),
                None if params is None else like,
                {name: self._of(tree, counts) for name, tree in trees.items()},
                arrays,
            )

        def update_with(functions: dict[str, Any]) -> Callable[..., Any]:
            def update(updates: Any, state: Any, params: Any, trees: Any, arrays: Any) -> Any:
                more = {**trees, **join(arrays), **functions}
                return updated(self._inner, updates, state, params, **more)

            return update

        given = updates, state, params, trees, arrays
        try:
            refused = {name: around(item, _refuse, _refuse) for name, item in functions.items()}
            return self._evaluate(update_with(refused), arguments, *given)
        except _FunctionCalled:  # such as a loss, which takes whole parameters
            whole = {name: around(f, self._join, self._split) for name, f in functions.items()}
            return self._one_by_one(update_with(whole), arguments, *given)

    def _evaluate(self, function: Callable[..., Any], arguments: Any, *given: Any) -> Any:
        """Return what a function of blocks gives for stacks: lifted, or else block by block.

        Args:
            function: A function of trees with `Blocks`.
            arguments: Maps a number of blocks for each parameter to the shapes of the arguments;
                None to shapes without `Blocks`.
            *given: The arguments, stacked.
        """
        ones, twos = [1] * len(self._stacks), [2 if stack else 1 for stack in self._stacks]
        form = Form(arguments(twos))
        arrays = self._leaves(form, given)
        leaves = [leaf for leaf, _ in form.entries]
        avals = [_block(array, self._depth(n)) for array, n in zip(arrays, leaves, strict=True)]
        alike = [aval.shape for aval in avals] == form.shapes()
        expressions = Expressions()
        numbers = [expressions.argument(index, leaf) for index, leaf in enumerate(leaves)]

        def results_of(counts: Sequence[int] | None) -> tuple[Any, list[Any]]:
            """Return the shapes of the results, and their values."""
            tree = Form(arguments(counts))
            inputs: Any = tree.leaves
            values: list[Any] = [None] * len(inputs)
            several = [(i,) for i in range(len(leaves))] if counts is None else tree.positions()
            for number, leaf, aval, positions in zip(numbers, leaves, avals, several, strict=True):
                for block, position in enumerate(positions):
                    values[position] = number, None if leaf is None else block
                    if alike:  # of the types that are given
                        inputs[position] = aval
            filled = jax.tree.unflatten(tree.structure, inputs)
            closed, shapes = jax.make_jaxpr(function, return_shape=True)(*filled)
            return shapes, expressions.results(closed, values, counts or ones)

        shapes, values = results_of(None)  # raises the errors of the optimizer
        plain = jax.tree.structure(shapes)

        def same_results(counts: Sequence[int]) -> Form | None:
            """Return the form of the results if single blocks have the same ones."""
            shapes, found = results_of(counts)
            made = Form(shapes)
            if made.plain != plain:
                return None
            several = [
                expressions.stacked(leaf, [found[position] for position in positions])
                for leaf, positions in made.entries
            ]
            return made if several == stacked(made) else None

        def stacked(made: Form) -> list[int]:
            pairs = zip(made.entries, values, strict=True)
            return [expressions.stacked(leaf, [value]) for (leaf, _), value in pairs]

        made: Form | None = None
        cause: Exception | None = None
        for counts in (twos, ones) if alike else (ones,):
            try:
                made = same_results(counts)
            except Exception as error:  # of a user's mask, or of an optimizer of single blocks
                cause = error
            if made is not None and counts is twos:
                given_arrays = dict(zip(numbers, arrays, strict=True))
                results = expressions.evaluate(stacked(made), given_arrays, self._stacks)
                return jax.tree.unflatten(plain, list(map(jnp.asarray, results)))
        if made is None:
            raise ValueError(
                "the optimizer depends on the whole path of a parameter, or on the structure of "
                "the parameters, in a way that separate blocks of a stack do not keep; choose "
                "parameters by the last key of a path or by train.partition({pattern: optimizer}), "
                "or train nn.unstack_layers(net, params)"
            ) from cause
        return self._one_by_one(function, arguments, *given)

    def _one_by_one(self, function: Callable[..., Any], arguments: Any, *given: Any) -> Any:
        """Return what a function gives for separate arrays, stacked."""
        form = Form(arguments(self._counts))
        stacks = [() if leaf is None else self._stacks[leaf] for leaf, _ in form.entries]
        shapes = [(*stack, *shape) for stack, shape in zip(stacks, form.shapes(), strict=True)]
        arrays = self._leaves(form, given, shapes)
        leaves = form.leaves
        for array, (leaf, positions) in zip(arrays, form.entries, strict=True):
            for position, block in zip(positions, self._unstack(leaf, array), strict=True):
                leaves[position] = block
        return self._join(function(*jax.tree.unflatten(form.structure, leaves)))

    def _of(self, tree: Any, counts: Sequence[int] | None) -> Any:
        """Return the shapes of the given numbers of blocks; of single arrays for None."""
        leaves = zip(self._structure.flatten_up_to(tree), self._stacks, strict=True)
        nodes: list[Any] = [_block(leaf, len(stack)) for leaf, stack in leaves]
        if counts is not None:
            several = enumerate(zip(nodes, counts, self._keys, strict=True))
            nodes = [Blocks([node] * count, leaf, key) for leaf, (node, count, key) in several]
        return jax.tree.unflatten(self._structure, nodes)

    def _is_like_params(self, tree: Any) -> bool:
        """Return whether a tree has an array for each parameter, stacked as it is."""
        return jax.tree.structure(tree) == self._structure and all(
            jnp.shape(leaf)[: len(stack)] == stack
            for leaf, stack in zip(jax.tree.leaves(tree), self._stacks, strict=True)
        )

    def _split(self, tree: Any) -> Any:
        """Return `Blocks` in place of the arrays of a tree like the parameters."""
        if not self._is_like_params(tree):
            return tree
        leaves = enumerate(zip(jax.tree.leaves(tree), self._keys, strict=True))
        blocks = [Blocks(self._unstack(leaf, array), leaf, key) for leaf, (array, key) in leaves]
        return jax.tree.unflatten(self._structure, blocks)

    def _join(self, tree: Any) -> Any:
        """Return stacked arrays in place of `Blocks`."""
        form = Form(tree)
        arrays = []
        for leaf, positions in form.entries:
            blocks = [form.leaves[position] for position in positions]
            arrays.append(blocks[0])
            if leaf is not None and self._stacks[leaf]:
                shape = *self._stacks[leaf], *jnp.shape(blocks[0])
                arrays[-1] = jnp.reshape(jnp.stack(blocks), shape)
        return jax.tree.unflatten(form.plain, arrays)

    def _unstack(self, leaf: int | None, array: Any) -> list[Any]:
        """Return the blocks of an array."""
        if not self._depth(leaf):
            return [array]
        flat = jnp.reshape(array, (-1, *jnp.shape(array)[self._depth(leaf) :]))
        return [flat[i] for i in range(len(flat))]

    def _leaves(self, form: Form, trees: Any, shapes: list[Any] | None = None) -> list[Any]:
        """Return the leaves of trees; ValueError for another structure or other shapes."""
        leaves, structure = jax.tree.flatten(trees)
        if structure != form.plain or shapes not in (None, list(map(jnp.shape, leaves))):
            raise ValueError(
                "the optimizer's state is not that of separate blocks; make it by "
                "program.init(key, batch), or by the init of train.for_network(optimizer, net, x)"
            )
        return leaves

    def _depth(self, leaf: int | None) -> int:
        return 0 if leaf is None else len(self._stacks[leaf])


def around(
    function: Callable[..., Any], before: Callable[..., Any], after: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function with other arguments and results.

    Args:
        function: The function.
        before: Maps each of the arguments to one of `function`.
        after: Maps what `function` returns.
    """

    @functools.wraps(function)  # optax looks at the names of its parameters
    def changed(*args: Any, **named: Any) -> Any:
        named = {name: before(item) for name, item in named.items()}
        return after(function(*map(before, args), **named))

    return changed


class _FunctionCalled(Exception):
    """An optimizer called a function argument."""


def _refuse(argument: Any) -> Any:
    raise _FunctionCalled


def _block(array: Any, depth: int) -> jax.ShapeDtypeStruct:
    """Return the shape and type of a block of an array with `depth` stacked axes."""
    aval: Any = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
    if not isinstance(array, jax.ShapeDtypeStruct) and not aval.sharding.mesh.empty:
        # In `jax.shard_map`, and on a mesh with explicit axes, types also contain the mesh axes.
        first = (slice(0, 1),) * depth
        return jax.eval_shape(lambda a: lax.squeeze(a[first], range(depth)), array)
    weak = bool(getattr(aval, "weak_type", False))
    return jax.ShapeDtypeStruct(aval.shape[depth:], aval.dtype, weak_type=weak)
